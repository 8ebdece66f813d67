"""The command `fcgi-start-server`: a superdaemon, with the options of Perl's `start_server` 0.35 and ours.

Runs in the process that was typed, which becomes the superdaemon. Must never show a traceback for a mistake that a person can make.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, Callable

from .. import __version__
from ..basics import exits, log
from ..errors import ConfigError, ControlError, ProcManagerError
from ..superdaemon.api import restart_server, start_server, stop_server
from ..superdaemon.options import check
from ..system import signals
from ..system.stdio import open_missing
from .arguments import octal
from .configured import SUPERDAEMON, good, placed_path, table_mistakes
from .getoptions import FLAG, NUMBER, PATH, TEXT, Found, is_number, read
from .sources import FLAG as FLAG_OPTION
from .sources import LIST, ONE, PREFIX, Option, Table, Value, as_it_is, from_table, from_variables, variable
from .tomlfile import TomlFile

__all__ = ["HELP", "in_force", "main", "mistakes_in", "variables"]

_KINDS = {
    "port": TEXT,
    "path": PATH,
    "interval": NUMBER,
    "signal-on-hup": TEXT,
    "signal-on-term": TEXT,
    "backlog": NUMBER,
    "dir": PATH,
    "pid-file": PATH,
    "status-file": PATH,
    "log-file": PATH,
    "daemonize": FLAG,
    "envdir": PATH,
    "enable-auto-restart": FLAG,
    "auto-restart-interval": NUMBER,
    "kill-old-delay": NUMBER,
    "restart": FLAG,
    "stop": FLAG,
    "config": PATH,
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
_PROGRAM = "command"  # as a key: the program and its arguments
_PREFIX = f"{PREFIX}SUPERDAEMON_"  # of its own: the program, which may be a pool, inherits the variables
_WHOLE = ("backlog", "drain-limit")
_ASKED = ("restart", "stop", "config", "help", "version")  # what to do now: nothing for a file
_COMMANDS = (*_ASKED, "restart-timeout")

HELP = """\
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

options from elsewhere, which count less than those that are given here:
  --config FILE             a TOML file with a table [superdaemon]: these names, and the program as 'command', a list
  FCGI_PROCMANAGER_SUPERDAEMON_NAME
                            a variable for each, before the file; such as FCGI_PROCMANAGER_SUPERDAEMON_DIE_TIMEOUT=30

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
    for name, answer in (("help", HELP), ("version", f"{__version__}\n")):
        if name in found.values:
            sys.stdout.write(answer)
            return exits.OK
    settings, program = _settings(found)
    if "restart" in found.values:
        _command(restart_server, settings, "pid_file", "status_file", "restart_timeout")
        return exits.OK
    if "stop" in found.values:
        _command(stop_server, settings, "pid_file")
        return exits.OK
    if "restart-timeout" in found.values:
        raise ConfigError("--restart-timeout is for --restart: give that too, or leave it out")
    if not program:
        raise ConfigError("server program not specified")
    _check_effects(settings)
    for name in _COMMANDS:
        settings.pop(name.replace("-", "_"), None)
    status = start_server(exec=program, **settings)
    signals.ignore_late()
    return status


def _check_effects(settings: dict[str, Any]) -> None:
    given = [name for name in ("socket_mode", "socket_owner") if settings.get(name) is not None]
    if given and not settings.get("path"):
        raise ConfigError("--socket-mode and --socket-owner are for a socket file: name it with --path /path.sock")


def _command(run: Callable[..., None], settings: dict[str, Any], *names: str) -> None:
    run(**{name: settings[name] for name in names if name in settings})


def _settings(found: Found) -> tuple[dict[str, Any], list[str]]:
    """As keywords of the functions, and the program."""
    settings = {name: one.value for name, one in elsewhere(_path(found)).items()} | _typed(found)
    program = found.arguments or settings.get(_PROGRAM, [])
    return {name.replace("-", "_"): value for name, value in settings.items() if name != _PROGRAM}, program


def _typed(found: Found) -> dict[str, Any]:
    """The last one counts of what is given twice."""
    return {name: values if name in _REPEATED else _value(name, values[-1]) for name, values in found.values.items()}


def _path(found: Found) -> str:
    return found.values.get("config", [os.environ.get(variable("config", _PREFIX), "")])[-1]


# -- a file and variables ------------------------------------------------------------------------------------------------


def options() -> list[Option]:
    """Those that may come from elsewhere."""
    return [*(_option(name) for name in _KINDS if name not in _ASKED), Option(_PROGRAM, LIST, str, one_is_enough=False)]


def variables() -> list[str]:
    """All that are looked at."""
    return [variable(name, _PREFIX) for name in ("config", *(option.key for option in options()))]


def elsewhere(path: str) -> dict[str, Value]:
    """What the file, if there is one, and the variables say. Raises ConfigError."""
    values: dict[str, Value] = {}
    if path:
        file = TomlFile(path)
        for mistake in table_mistakes(file):
            raise ConfigError(mistake)
        if SUPERDAEMON not in file.data:
            raise ConfigError(f"{path}: there is no superdaemon in it: write a table [{SUPERDAEMON}]")
        values.update(good(from_table(options(), Table(file, (SUPERDAEMON,)))))
    return {**values, **good(from_variables(options(), os.environ, _PREFIX))}


def in_force(argv: Sequence[str]) -> list[tuple[Option, Value]]:
    """What the superdaemon would have with these words, and where each comes from. Raises ConfigError."""
    found = read(argv, _KINDS)
    if found.mistakes:
        raise ConfigError("\n".join(found.mistakes))
    typed = _typed(found) | ({_PROGRAM: found.arguments} if found.arguments else {})
    values = elsewhere(_path(found)) | {name: Value(value, "command line") for name, value in typed.items()}
    defaults = _defaults()
    return [(one, values.get(one.key, Value(defaults.get(one.key.replace("-", "_")), "default"))) for one in options()]


def _defaults() -> dict[str, Any]:
    import inspect  # not above: a superdaemon has no use for it

    return {one.name: one.default for one in inspect.signature(start_server).parameters.values()}


def mistakes_in(table: Table) -> list[str]:
    """All that is wrong in the table, a line each."""
    found = from_table(options(), table)
    if found.mistakes:
        return found.mistakes
    settings = {name.replace("-", "_"): one.value for name, one in found.values.items() if name not in _COMMANDS}
    program = settings.pop(_PROGRAM, ["program"])
    try:
        check(**{**_defaults(), **settings, "exec": program})
        _check_effects(settings)
    except ConfigError as error:
        return [f"{table.file.where(*table.path)}: [{SUPERDAEMON}] {error}"]
    return []


def _option(name: str) -> Option:
    shape = FLAG_OPTION if _KINDS[name] is FLAG else LIST if name in _REPEATED else ONE
    placed = placed_path if _KINDS[name] is PATH else as_it_is
    read_by = octal if name == "socket-mode" else None
    return Option(name, shape, lambda text: _checked(name, text), placed=placed, read_by=read_by)


def _checked(name: str, text: str) -> Any:
    if _KINDS[name] is NUMBER and not is_number(text):
        raise ValueError(f"{text!r} is not a number")
    return _value(name, text)


# -- values --------------------------------------------------------------------------------------------------------------


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
