"""The options that every pool of the command has, whether it serves an application or runs a program.

Runs before the manager starts. Must never touch the system, but for `set_umask` and `choose_log`.
"""

from __future__ import annotations

import argparse
import os
import re
from typing import TYPE_CHECKING, Any

from ..basics import log
from ..basics.levels import CHOICES as LEVELS
from ..errors import ConfigError
from ..sockets.addresses import parse_address
from .arguments import Options, Parser, octal, positive, seconds, whole

if TYPE_CHECKING:
    from .hosting import Place

__all__ = [
    "APPLICATION",
    "LISTENING",
    "LOG",
    "PROCESS",
    "STANDARD_ERROR",
    "STOPPING",
    "WORKERS",
    "absolute_address",
    "add_pool_options",
    "an_address",
    "check_place",
    "choose_log",
    "plain_address",
    "pool_settings",
    "set_umask",
    "umask",
    "variables",
]

# Titles of groups.
LISTENING = "listening"
APPLICATION = "the application"
WORKERS = "how many workers"
STOPPING = "stopping and reloading"
LOG = "the log"
PROCESS = "the process"

STANDARD_ERROR = "-"  # as a file


def add_pool_options(parser: Parser, workers: str) -> None:
    """workers: what the pool consists of, in the words of the help."""
    add = parser.group(LISTENING).add_argument
    add(
        "--backlog",
        type=positive,
        metavar="N",
        help="connections that may wait, if the system allows so many (default: 1024)",
    )
    add("--socket-mode", type=octal, metavar="MODE", help="mode of a socket file, in octal (default: 660)")
    add("--socket-owner", metavar="USER[:GROUP]", help="owner of a socket file (default: who starts this, or --user)")
    add("--take-over", action="store_true", help="take the socket file even from a living server, which may then stop")
    add = parser.group(WORKERS).add_argument
    add("--start-delay", type=seconds, metavar="SECONDS", help=f"pause between two starts of {workers} (default: 0)")
    add = parser.group(STOPPING).add_argument
    limit = "time to finish when told to stop; 0 for no limit (default: 60)"
    add("--die-timeout", type=seconds, metavar="SECONDS", help=limit)
    add("--drain-delay", type=seconds, metavar="SECONDS", help="serve on for so long when told to stop (default: 0)")
    limit = "time to finish at a reload; 0 for no limit (default: 0)"
    add("--reload-timeout", type=seconds, metavar="SECONDS", help=limit)
    limit = "time to become ready at a reload; 0 for no limit (default: 60)"
    add("--boot-timeout", type=seconds, metavar="SECONDS", help=limit)
    add(
        "--reload-slice",
        type=whole,
        metavar="N",
        help=f"{workers} that a rolling reload replaces at a time (default: a quarter)",
    )
    add = parser.group(LOG).add_argument
    add(
        "--log-file",
        metavar="FILE",
        help="write there; USR1 to the manager opens it anew (default: -, which is standard error)",
    )
    add("--log-level", choices=LEVELS, help="least of our own lines in the log (default: info)")
    add = parser.group(PROCESS).add_argument
    add("--pidfile", metavar="FILE", help="PID file, for 'stop' and 'reload' (default: none)")
    add("--daemon", action="store_true", help="go on in the background, once the first of them is ready")
    add("--user", metavar="USER", help="user to run as, once all that needs root is open (default: who starts this)")
    add("--group", metavar="GROUP", help="group to run as (default: the user's)")
    add("--umask", type=umask, metavar="MODE", help="of files that are made, in octal (default: as it is)")
    add("--manager-process-name", metavar="TITLE", help="title of the manager in ps (default: python-fcgi-pm)")


def pool_settings(options: Options, **more: Any) -> dict[str, Any]:
    """For the manager's constructor: what was given, so that a subclass may have defaults of its own."""
    given = {
        "pidfile": None if options.pidfile is None else os.path.abspath(options.pidfile),
        "die_timeout": options.die_timeout,
        "boot_timeout": options.boot_timeout,
        "drain_delay": options.drain_delay,
        "reload_slice": options.reload_slice,
        "reload_timeout": options.reload_timeout,
        "start_delay": options.start_delay,
        "manager_process_name": options.manager_process_name,
        **more,
    }
    return {name: value for name, value in given.items() if value is not None}


def check_place(options: Options, place: Place) -> None:
    """That each option of sockets has one to act on. Raises ConfigError."""
    kinds = [parse_address(address).kind for address in place.addresses]
    given = [name for name in ("socket_mode", "socket_owner") if getattr(options, name) is not None]
    if given and "unix" not in kinds:
        raise ConfigError("--socket-mode and --socket-owner are for a socket file: name it with --listen /path.sock")
    if options.take_over and not (kinds and set(kinds) == {"unix"}):
        raise ConfigError("--take-over is for a socket file: name it with --listen /path.sock")
    is_made_here = {"unix", "tcp"} & {*kinds} or (place.web and not kinds)
    if options.backlog is not None and not is_made_here:
        raise ConfigError(
            "--backlog is for a socket that is made here: whoever has made this one has said how many may wait"
        )


def set_umask(options: Options) -> None:
    if options.umask is not None:
        os.umask(options.umask)


def variables(given: list[str]) -> dict[str, str]:
    """What --env says. Raises ConfigError."""
    return dict(map(_variable, given))


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals or "\0" in text:
        shown = f"{name}=..." if equals else name
        raise ConfigError(f"--env {shown!r} is not understood: give NAME=VALUE")
    return name, value


def umask(text: str) -> int:
    """gunicorn takes 22 for a decimal number."""
    if text.isdigit() and len(text) < 3 and not text.startswith("0"):
        raise argparse.ArgumentTypeError(f"{text!r} is not clear: give three octal digits, such as 022")
    return octal(text)


def choose_log(options: Options) -> None:
    """Before the first line of it. Once its file is open: the journal does not read that."""
    log.choose(options.log_format, options.log_level)


def an_address(text: str) -> str:
    """The kind of value: one that is understood."""
    plain = plain_address(text)
    if "://" in plain or re.fullmatch(r"[0-9.]+|localhost", plain):
        raise argparse.ArgumentTypeError(f"{text!r} is not understood: give /path.sock or HOST:PORT")
    try:
        parse_address(plain)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return plain


def plain_address(text: str) -> str:
    """As nginx and gunicorn have it, unix:/path.sock and fd://N, in our form."""
    if text.startswith("fd://"):
        return f"fd:{text[5:]}"
    return text[5:] if text.startswith("unix:") and len(text) > 5 else text


def absolute_address(text: str) -> str:
    """A relative path is meant from here, not from --chdir."""
    address = parse_address(text)
    return os.path.abspath(address.path) if address.kind == "unix" else text
