"""`python -m fcgi_procmanager.cli.pages`: write what is told of the options, docs/OPTIONS.md and the manual pages, from the parser.

Runs in the folder of the project, by hand, whenever an option has changed; a test compares. Must never write what it has not made.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from .. import __version__
from . import EXIT_STATUS, command_parser, manpage, optionspage
from .described import Command, Section, commands_of, start_server

__all__ = ["pages"]


def pages() -> dict[str, str]:
    """Each page, by its path in the project."""
    parser = command_parser()
    (choice,) = (one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
    commands, superdaemon = list(_each_option_once(commands_of(choice))), start_server()
    return {
        "docs/OPTIONS.md": optionspage.render([*commands, superdaemon]),
        "docs/man/fcgi-procmanager.1": manpage.render_all(str(parser.description), commands, EXIT_STATUS, __version__),
        "docs/man/fcgi-start-server.1": manpage.render_one(superdaemon, __version__),
    }


def _each_option_once(commands: Sequence[Command]) -> Iterator[Command]:
    """`check` has those of `serve`, and says so."""
    known = {option for command in commands if command.name == "serve" for option in command.options}
    for command in commands:
        if command.name == "check":
            more = [option for option in command.options if option not in known]
            yield command._replace(sections=[Section("and one more", "", more)])
        else:
            yield command


def main() -> None:
    for name, text in pages().items():
        path = Path(name)
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
