"""The command line of a daemon: one line for a mistake, status 0 for help.

Runs before anything is started. Must never touch the system.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Sequence
from typing import NoReturn

from ..basics import exits

__all__ = ["Options", "Parser", "parse"]

Options = argparse.Namespace


class Parser(argparse.ArgumentParser):
    """Options must be written in full, since a later version may add one that begins alike."""

    def error(self, message: str) -> NoReturn:
        self.exit(exits.USAGE, f"{self.prog}: {' '.join(message.split())}; see '{self.prog} --help'\n")


def make(documentation: str | None) -> Parser:
    parser = Parser(
        description=inspect.cleandoc(documentation or ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--no-fork", action="store_true", help="stay in the foreground")
    add("--pid-file", metavar="FILE", help="PID file (default: in APP_BASE_DAEMON_PIDDIR, or /var/run)")
    add("--no-pid-file", action="store_true", help="no PID file, and no look whether another copy runs")
    add("--no-warn", action="store_true", help="say nothing")
    add("--user", metavar="USER", help="user to run as, by name or number; needs root")
    add("--group", metavar="GROUP", help="group to run as (default: the user's)")
    return parser


def parse(parser: Parser, argv: Sequence[str] | None) -> tuple[Options, list[str]]:
    """The options, and the arguments that are none; or SystemExit."""
    options, rest = parser.parse_known_args(argv)
    arguments, unknown = _split(rest)
    if unknown:
        parser.error(f"Unknown option {unknown}")
    return options, arguments


def _split(rest: list[str]) -> tuple[list[str], str]:
    """Arguments, and the first option that is unknown."""
    arguments: list[str] = []
    for position, word in enumerate(rest):
        if word == "--":
            return [*arguments, *rest[position + 1 :]], ""
        if word.startswith("-") and word != "-":
            return arguments, word.partition("=")[0]
        arguments.append(word)
    return arguments, ""
