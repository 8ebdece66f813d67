"""What the commands are and which options they have, as plain values: of the parser itself, so that no page of ours says anything else.

Runs where pages and completions are written. Must never have a list of its own.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from .start_server import HELP

__all__ = ["Command", "Option", "Section", "commands_of", "paragraphs", "start_server"]


class Option(NamedTuple):
    """names: all of them. metavar: of its value; empty for a flag. choices: what it may be, if that is known."""

    names: tuple[str, ...]
    metavar: str
    choices: tuple[str, ...]
    help: str

    @property
    def is_flag(self) -> bool:
        return not self.metavar

    @property
    def shown(self) -> str:
        """As it is typed, its longest name last."""
        return ", ".join(self.names) + (f" {self.metavar}" if self.metavar else "")


class Section(NamedTuple):
    title: str
    description: str
    options: list[Option]


class Command(NamedTuple):
    """arguments: what follows the options. words: what an argument may be, if that is known. end: the text below the options."""

    name: str
    purpose: str
    arguments: str
    words: tuple[str, ...]
    description: str
    sections: list[Section]
    end: str

    @property
    def options(self) -> list[Option]:
        return [option for section in self.sections for option in section.options]


def commands_of(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> list[Command]:
    purposes = {one.dest: str(one.help) for one in commands._choices_actions}
    return [_command(name, purposes[name], commands.choices[name]) for name in purposes]


def _command(name: str, purpose: str, parser: argparse.ArgumentParser) -> Command:
    positional = [one for one in parser._actions if not one.option_strings]
    sections = [
        Section(str(group.title), group.description or "", options)
        for group in parser._action_groups
        if (options := list(_options(group)))
    ]
    arguments = " ".join(str(one.metavar or "|".join(map(str, one.choices or ()))) for one in positional)
    words = tuple(str(word) for one in positional for word in one.choices or ())
    return Command(name, purpose, arguments, words, parser.description or "", sections, parser.epilog or "")


def _options(group: argparse._ArgumentGroup) -> Iterator[Option]:
    for action in group._group_actions:
        if action.option_strings and action.help != argparse.SUPPRESS and action.dest != "help":
            choices = tuple(map(str, action.choices or ()))
            metavar = "" if action.nargs == 0 else str(action.metavar or "|".join(choices))
            yield Option(tuple(action.option_strings), metavar, choices, str(action.help))


def paragraphs(text: str) -> list[str]:
    return [one.strip("\n") for one in re.split(r"\n\s*\n", text.strip("\n")) if one.strip()]


# -- the superdaemon, whose options are Getopt::Long's and whose help is a text -------------------------------------------

_OPTION = re.compile(r"  (--[a-z-]+)(?: ([A-Z]\S*))?(?: +(.*))?$")


def start_server(help: str = HELP) -> Command:
    intro, sections, end = [], [], []
    for part in paragraphs(help):
        title, *lines = part.split("\n")
        if any(_OPTION.match(line) for line in lines):
            sections.append(Section(title.rstrip(":"), "", list(_read(lines))))
        elif title.startswith("  --"):
            sections.append(
                Section("options", "", [Option((name,), "", (), _ALONE[name]) for name in title.strip().split(", ")])
            )
        elif sections:
            end.append(part)
        elif not title.startswith("Usage"):
            intro.append(part)
    return Command(
        "fcgi-start-server",
        "own listening sockets, and run a program over them",
        "-- PROGRAM ARGUMENTS",
        (),
        "\n\n".join(intro),
        sections,
        "\n\n".join(end),
    )


_ALONE: Mapping[str, str] = {"--help": "show the options", "--version": "show the version"}


def _read(lines: list[str]) -> Iterator[Option]:
    """The options of a part. What stands behind one, or below it to the right, is its help."""
    found: list[list[str]] = []
    for line in lines:
        match = _OPTION.match(line)
        if match:
            found.append([match[1], match[2] or "", match[3] or ""])
        elif found and line.startswith(" " * 20):
            found[-1][2] = f"{found[-1][2]} {line.strip()}".strip()
        elif found:
            yield from map(_made, found)
            found = [[line.strip(), "", ""]]
    yield from map(_made, found)


def _made(one: list[str]) -> Option:
    name, metavar, text = one
    return Option((name,), metavar, (), text)
