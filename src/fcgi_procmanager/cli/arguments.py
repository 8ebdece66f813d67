"""The command line as argparse sees it: one line for a mistake, and the kinds of values that options take.

Runs before anything is started. Must never touch the system: whether a path or an address is usable is for others to say.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Mapping, Sequence
from typing import NoReturn

from ..basics import exits
from ..basics.quantities import time
from ..errors import ConfigError
from .messages import PROGRAM, one_line

__all__ = ["Options", "Parser", "duration", "octal", "parse", "positive", "seconds", "size", "time_limit", "whole"]

Options = argparse.Namespace


class Parser(argparse.ArgumentParser):
    """Options must be written in full, since a later version may add one that begins alike. A mistake is one line."""

    def __init__(self, **settings: object) -> None:
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **settings)  # type: ignore[arg-type]
        self._optionals.title = "options"  # as Python calls it since 3.10
        self.elsewhere: Mapping[str, str] = {}  # options of other servers -> what to do here

    def group(self, title: str, description: str | None = None) -> argparse._ArgumentGroup:
        """The group of that title, which several may add options to."""
        for found in self._action_groups:
            if found.title == title:
                return found
        return self.add_argument_group(title, description)

    def error(self, message: str) -> NoReturn:
        self.exit(exits.USAGE, f"{PROGRAM}: {one_line(message)}; see '{self.prog} --help'\n")

    def unknown(self, argument: str) -> NoReturn:
        option = argument.partition("=")[0]
        if not option.startswith("--") and option[:2] in self.elsewhere:
            option = option[:2]  # with its value behind it
        if option in self.elsewhere:
            self.error(f"{option} {self.elsewhere[option]}")
        near = difflib.get_close_matches(option, self._option_string_actions, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        self.error(f"unknown {'option' if option.startswith('-') else 'argument'} {option!r}{hint}")


def parse(parser: Parser, argv: Sequence[str] | None) -> Options:
    """The options, or SystemExit. What is unknown is judged by the parser of its own command, which has the help for it.
    Raises ConfigError for what a file or a variable says."""
    options, unknown = parser.parse_known_args(argv)
    if unknown:
        getattr(options, "parser", parser).unknown(unknown[0])
    complete = getattr(options, "complete", None)  # of a command whose options may come from a file as well
    if complete is not None:
        complete(options)
    return options


def whole(text: str) -> int:
    """A number of processes."""
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number: give one from 0 up")
    return int(text)


def positive(text: str) -> int:
    """A number of what there must be one of."""
    value = whole(text)
    if not value:
        raise argparse.ArgumentTypeError("0 is too few: give a whole number from 1 up")
    return value


def seconds(text: str) -> float:
    """A time; fractions count. The limits are the business of who uses it."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds: give one from 0 up, such as 30 or 0.5")
    return value


def time_limit(text: str) -> float:
    """A time that something is waited for, so it is not 0."""
    value = seconds(text)
    if not value:
        raise argparse.ArgumentTypeError("0 leaves no time: give a number of seconds such as 30")
    return value


def size(text: str) -> int:
    """Bytes, with K, M or G for powers of 1024."""
    number, unit = text[:-1], "KMG".find(text[-1:].upper()) + 1
    digits = number if unit and text else text
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 12):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size: give a number of bytes, or such as 200M")
    return int(digits) << (10 * unit)


def duration(text: str) -> float:
    """Seconds, or with s, m, h or d."""
    try:
        return time("", text)
    except ConfigError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time: give seconds, or such as 30m or 1h") from None


def octal(text: str) -> int:
    """The mode of a file."""
    digits = text[2:] if text.startswith("0o") else text
    if not digits or len(digits) > 4 or set(digits) - set("01234567") or int(digits, 8) > 0o777:
        raise argparse.ArgumentTypeError(f"{text!r} is not a file mode: give three octal digits, such as 660")
    return int(digits, 8)
