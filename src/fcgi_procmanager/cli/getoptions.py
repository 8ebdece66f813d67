"""A command line as Perl's Getopt::Long reads it, for a command that people know from there. Pure.

One dash or two, a name cut short where it is unambiguous, in any case, `--name=value` or `--name value`, options and arguments in any
order, `--` ends the options.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

__all__ = ["FLAG", "NUMBER", "PATH", "TEXT", "Found", "is_number", "read"]

FLAG, TEXT, NUMBER, PATH = "flag", "text", "number", "path"

_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]+)?", re.ASCII)


class Found(NamedTuple):
    """values: of each option that was given, in order; for a flag, empty texts. mistakes: in Getopt::Long's words."""

    values: dict[str, list[str]]
    arguments: list[str]
    mistakes: list[str]


def read(argv: Sequence[str], kinds: Mapping[str, str]) -> Found:
    """kinds: of each option that there is."""
    found = Found({}, [], [])
    todo = list(argv)
    while todo:
        word = todo.pop(0)
        if word == "--":
            found.arguments.extend(todo)
            break
        if word.startswith("-") and word != "-":
            _take_option(word[1:].removeprefix("-"), todo, kinds, found)
        else:
            found.arguments.append(word)
    return found


def _take_option(text: str, todo: list[str], kinds: Mapping[str, str], found: Found) -> None:
    given, equals, value = text.partition("=")
    near = _matches(given, kinds)
    if len(near) != 1:
        found.mistakes.append(
            f"Option {given} is ambiguous ({', '.join(near)})" if near else f"Unknown option: {given}"
        )
        return
    name = near[0]
    if kinds[name] is FLAG:
        if equals:
            found.mistakes.append(f"Option {name} does not take an argument")
        found.values.setdefault(name, []).append("")
        return
    if not equals and todo:
        value = todo.pop(0)
    if not value:
        found.mistakes.append(f"Option {name} requires an argument")
    elif kinds[name] is NUMBER and not is_number(value):
        found.mistakes.append(f'Value "{value}" invalid for option {name} (number expected)')
    else:
        found.values.setdefault(name, []).append(value)


def is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None


def _matches(given: str, names: Mapping[str, str]) -> list[str]:
    given = given.lower()
    if given in names:
        return [given]
    return sorted(name for name in names if given and name.startswith(given))
