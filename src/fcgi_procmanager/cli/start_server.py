"""The command `fcgi-start-server`: a superdaemon, with the options of Perl's `start_server` 0.35 and ours.

Runs in the process that was typed, which becomes the superdaemon. Must never show a traceback for a mistake that a person can make.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, Callable

from .. import __version__
from ..basics import exits, log
from ..errors import ConfigError, ControlError, ProcManagerError
from ..superdaemon.api import restart_server, start_server, stop_server
from ..system import signals
from ..system.stdio import open_missing
from .arguments import octal
from .getoptions import FLAG, NUMBER, TEXT, Found, read

__all__ = ["main"]

_KINDS = {
    "port": TEXT,
    "path": TEXT,
    "interval": NUMBER,
    "signal-on-hup": TEXT,
    "signal-on-term": TEXT,
    "backlog": NUMBER,
    "dir": TEXT,
    "pid-file": TEXT,
    "status-file": TEXT,
    "log-file": TEXT,
    "daemonize": FLAG,
    "envdir": TEXT,
    "enable-auto-restart": FLAG,
    "auto-restart-interval": NUMBER,
    "kill-old-delay": NUMBER,
    "restart": FLAG,
    "stop": FLAG,
    "help": FLAG,
    "version": FLAG,
    "die-timeout": NUMBER,
    "ready-timeout": NUMBER,
    "restart-timeout": NUMBER,
    "drain-timeout": NUMBER,
    "drain-limit": NUMBER,
    "socket-mode": TEXT,
    "socket-owner": TEXT,
}
_REPEATED = ("port", "path")
_WHOLE = ("backlog", "drain-limit")
_COMMANDS = ("restart", "stop", "restart-timeout", "help", "version")

_HELP = """\
Usage:
  fcgi-start-server [options] -- PROGRAM ARGUMENTS...

Own listening sockets and run PROGRAM over them. HUP starts it anew beside the old one, and only when the new one is good the
old one is asked to leave: no connection is refused meanwhile. The program finds its sockets by SERVER_STARTER_PORT, or as
systemd has it by LISTEN_FDS.

sockets:
  --port PORT               a TCP port: 8080, host:8080, [::1]:8080; u53 for UDP; 8080=3 to have it on descriptor 3. Repeatable
  --path FILE               a socket file. Repeatable
  --socket-mode MODE        of socket files, in octal (default: 660)
  --socket-owner USER[:GROUP]
  --backlog N               connections that may wait (default: as many as the system allows)

generations:
  --interval SECONDS        a program that has lived so long is good (default: 1)
  --ready-timeout SECONDS   instead, it says that it is ready, within so long: READY=1 to NOTIFY_SOCKET, or a newline on the
                            descriptor in SERVER_STARTER_NOTIFY_FD
  --signal-on-hup NAME      what asks an old generation to leave (default: TERM)
  --signal-on-term NAME     what asks all of them at a stop (default: TERM)
  --kill-old-delay SECONDS  old ones serve so long beside the new one (default: 0; 5 with --enable-auto-restart)
  --drain-timeout SECONDS   until an old one is killed (default: 0, no limit)
  --drain-limit N           how many old ones may go on (default: 0, any number)
  --enable-auto-restart     a new generation by itself
  --auto-restart-interval SECONDS
                            how often (default: 360)

surroundings:
  --dir DIRECTORY           where the program starts
  --envdir DIRECTORY        a file for each variable of the program, read anew for each generation
  --pid-file FILE           held and locked while the superdaemon lives
  --status-file FILE        a line GENERATION:PID for each generation
  --log-file FILE           where everybody writes; "| command" for a logger. USR1 opens it anew
  --daemonize               go on in the background, once the first generation is good

a running superdaemon, by its --pid-file:
  --restart                 HUP, and wait until only new generations serve (needs --status-file)
  --restart-timeout SECONDS how long (default: 60)
  --stop                    TERM, and wait until it is gone
  --die-timeout SECONDS     of the superdaemon: until what is left at a stop is killed (default: 60; 0 for no limit)

  --help, --version

signals: TERM, INT stop gently; QUIT, or one of them more than a second later, stops at once; HUP starts a new generation;
USR1 opens the log file anew.

exit status: 0 done; 1 somebody had to be killed, or what was asked has not come about; 2 a mistake, which one line explains.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    open_missing()
    found = read(sys.argv[1:] if argv is None else argv, _KINDS)
    try:
        return _run(found)
    except ControlError as error:
        log.write(str(error))
        return exits.FAILED
    except (ProcManagerError, KeyboardInterrupt) as error:
        log.write(str(error) or "interrupted")
        return exits.USAGE


def _run(found: Found) -> int:
    if found.mistakes:
        raise ConfigError("\n".join(found.mistakes))
    for name, answer in (("help", _HELP), ("version", f"{__version__}\n")):
        if name in found.values:
            sys.stdout.write(answer)
            return exits.OK
    settings = _settings(found)
    if "restart" in found.values:
        _command(restart_server, settings, "pid_file", "status_file", "restart_timeout")
        return exits.OK
    if "stop" in found.values:
        _command(stop_server, settings, "pid_file")
        return exits.OK
    if not found.arguments:
        raise ConfigError("server program not specified")
    for name in _COMMANDS:
        settings.pop(name.replace("-", "_"), None)
    status = start_server(exec=found.arguments, **settings)
    signals.ignore_late()
    return status


def _command(run: Callable[..., None], settings: dict[str, Any], *names: str) -> None:
    run(**{name: settings[name] for name in names if name in settings})


def _settings(found: Found) -> dict[str, Any]:
    """As keywords of the functions. The last one counts of what is given twice."""
    return {
        name.replace("-", "_"): values if name in _REPEATED else _value(name, values[-1])
        for name, values in found.values.items()
    }


def _value(name: str, text: str) -> Any:
    if _KINDS[name] is FLAG:
        return True
    if _KINDS[name] is NUMBER:
        return _number(name, text)
    if name == "socket-mode":
        return _mode(text)
    return text


def _number(name: str, text: str) -> float:
    if name in _WHOLE:
        try:
            return int(text)
        except ValueError:
            raise ConfigError(f'Value "{text}" invalid for option {name} (number expected)') from None
    return float(text)


def _mode(text: str) -> int:
    try:
        return octal(text)
    except argparse.ArgumentTypeError as error:
        raise ConfigError(f"--socket-mode {error}") from None
