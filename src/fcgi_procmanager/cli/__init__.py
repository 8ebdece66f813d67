"""The command `fcgi-procmanager`: its entry point, and what becomes of an error.

Runs in the process that was typed, which for `serve` and `demo` becomes the manager. A worker passes through here only on
its way out. It must never show a traceback for a mistake that a person can make: that is one line and exit status 2.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Sequence
from typing import Any

from .. import __version__
from ..basics import exits
from ..errors import ProcManagerError
from ..manager import canary
from ..system.stdio import open_missing
from .arguments import Parser, parse
from .check import add as add_check
from .completion import add as add_completion
from .config import add as add_config
from .control import add as add_control
from .demo import add as add_demo
from .exec import add as add_exec
from .messages import PROGRAM, complain
from .run import add as add_run
from .serve import add as add_serve
from .status import add as add_status
from .top import add as add_top

__all__ = ["EXIT_STATUS", "command_parser", "main"]

EXIT_STATUS = """\
exit status:
  0  done
  1  not running, not done in time, or somebody had to be killed
  2  a mistake, which one line explains
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status. In a manager and in its workers it ends by SystemExit."""
    open_missing()
    owner = os.getpid()
    words = sys.argv[1:] if argv is None else argv
    if not words:
        sys.stderr.write(_which(command_parser()))
        return exits.USAGE
    parser = command_parser()
    if (wrong := _no_command(parser, words[0])) is not None:
        parser.error(wrong)
    try:
        options = parse(parser, words)
        return int(options.run(options))
    except (ProcManagerError, KeyboardInterrupt) as error:
        if os.getpid() != owner:
            raise
        complain(str(error) or "interrupted")
        canary.refuse_if_one(str(error))
        return exits.USAGE


def _no_command(parser: Parser, word: str) -> str | None:
    """What is wrong with the first word, where it is neither a command nor an option of ours. Of gunicorn there is one command only."""
    names = list(_commands(parser).choices)
    if word in names or word in parser._option_string_actions:
        return None
    near = "" if word.startswith("-") else "".join(difflib.get_close_matches(word, names, 1))
    if near:
        return f"there is no command {word!r}: did you mean {near!r}?"
    return f"{word!r} is no command: did you mean '{PROGRAM} serve {word} ...'?"


def _commands(parser: Parser) -> argparse._SubParsersAction[Any]:
    (commands,) = (one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
    return commands


def _which(parser: Parser) -> str:
    """The commands, a line each, for who has named none."""
    commands = _commands(parser)
    lines = [f"  {one.dest:12}{one.help}" for one in commands._choices_actions]
    return "\n".join([f"{PROGRAM}: which command?", *lines, f"see '{PROGRAM} COMMAND --help'", ""])


def command_parser() -> Parser:
    parser = Parser(
        prog=PROGRAM,
        description="Serve a WSGI application by FastCGI, in workers that are kept alive, stopped gently and replaced.",
        epilog=EXIT_STATUS,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(title="commands", dest="subcommand", metavar="COMMAND", required=True)
    for add in (add_serve, add_exec, add_run, add_demo, add_control, add_status, add_top, add_check, add_config):
        add(commands)
    add_completion(commands)
    return parser
