"""The options that every pool of the command has, whether it serves an application or runs a program.

Runs before the manager starts. Must never touch the system.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

from ..basics import log
from ..basics.levels import CHOICES as LEVELS
from ..errors import ConfigError
from ..sockets.addresses import parse_address
from .arguments import Options, octal, seconds, whole

__all__ = ["absolute_address", "add_pool_options", "an_address", "choose_log", "pool_settings"]


def add_pool_options(parser: argparse.ArgumentParser, workers: str) -> None:
    """workers: what the pool consists of, in the words of the help."""
    add = parser.add_argument
    add("--socket-mode", type=octal, metavar="MODE", help="mode of a socket file, in octal (default: 660)")
    add("--socket-owner", metavar="USER[:GROUP]", help="owner of a socket file")
    add("--take-over", action="store_true", help="take the socket file even from a living server, which may then stop")
    add("--pidfile", metavar="FILE", help="PID file, for 'stop' and 'reload'")
    add("--die-timeout", type=seconds, metavar="SECONDS", help="time to finish when told to stop; 0 for no limit")
    add("--drain-delay", type=seconds, metavar="SECONDS", help="serve on for so long when told to stop (default: 0)")
    limit = "time to finish at a reload; without it there is no limit"
    add("--reload-timeout", type=seconds, metavar="SECONDS", help=limit)
    limit = "time to become ready at a reload; 0 for no limit (default: 60)"
    add("--boot-timeout", type=seconds, metavar="SECONDS", help=limit)
    add(
        "--reload-slice",
        type=whole,
        metavar="N",
        help=f"{workers} that a rolling reload replaces at a time (default: a quarter)",
    )
    add("--start-delay", type=seconds, metavar="SECONDS", help=f"pause between two starts of {workers}")
    add("--log-file", metavar="FILE", help="write there; USR1 to the manager opens it anew")
    add("--log-level", choices=LEVELS, help="least of our own lines in the log (default: info)")
    add("--daemon", action="store_true", help="go on in the background, once the first of them is ready")
    add("--user", metavar="USER", help="user to run as, once all that needs root is open")
    add("--group", metavar="GROUP", help="group to run as (default: the user's)")
    add("--manager-process-name", metavar="TITLE", help="title of the manager in ps")


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


def choose_log(options: Options) -> None:
    """Before the first line of it. Once its file is open: the journal does not read that."""
    log.choose(options.log_format, options.log_level)


def an_address(text: str) -> str:
    """The kind of value: one that is understood."""
    try:
        parse_address(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def absolute_address(text: str) -> str:
    """A relative path is meant from here, not from --chdir."""
    address = parse_address(text)
    return os.path.abspath(address.path) if address.kind == "unix" else text
