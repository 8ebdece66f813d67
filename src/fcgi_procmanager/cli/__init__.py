"""The command `fcgi-procmanager`: its entry point, and what becomes of an error.

Runs in the process that was typed, which for `serve` and `demo` becomes the manager. A worker passes through here only on
its way out. It must never show a traceback for a mistake that a person can make: that is one line and exit status 2.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

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
    try:
        options = parse(command_parser(), words)
        return int(options.run(options))
    except (ProcManagerError, KeyboardInterrupt) as error:
        if os.getpid() != owner:
            raise
        complain(str(error) or "interrupted")
        canary.refuse_if_one(str(error))
        return exits.USAGE


def _which(parser: Parser) -> str:
    """The commands, a line each, for who has named none."""
    (commands,) = (one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
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
