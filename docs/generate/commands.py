"""What is told of commands and options, docs/OPTIONS.md and the manual pages, from the parser."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

import manpage
import optionspage
from fcgi_procmanager import __version__
from fcgi_procmanager.cli import EXIT_STATUS, command_parser
from fcgi_procmanager.cli.described import Command, Section, commands_of, start_server

__all__ = ["pages"]


def pages() -> dict[str, str]:
    """By their names in docs/."""
    parser = command_parser()
    (choice,) = (one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
    commands, superdaemon = list(_each_option_once(commands_of(choice))), start_server()
    return {
        "OPTIONS.md": optionspage.render([*commands, superdaemon]),
        "man/fcgi-procmanager.1": manpage.render_all(str(parser.description), commands, EXIT_STATUS, __version__),
        "man/fcgi-start-server.1": manpage.render_one(superdaemon, __version__),
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
