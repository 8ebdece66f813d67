"""The command line as argparse sees it: one line for a mistake, and the kinds of values that options take.

Runs before anything is started. Must never touch the system: whether a path or an address is usable is for others to say.
"""

from __future__ import annotations

import argparse
from typing import Callable, NoReturn

from .. import exits

__all__ = ["PROGRAM", "Options", "Parser", "Run", "octal", "seconds", "whole"]

PROGRAM = "fcgi-procmanager"

Options = argparse.Namespace
Run = Callable[[Options], int]  # what a command does; its answer is the exit status


class Parser(argparse.ArgumentParser):
    """Options must be written in full, since a later version may add one that begins alike. A mistake is one line."""

    def __init__(self, **settings: object) -> None:
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **settings)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        self.exit(exits.USAGE, f"{PROGRAM}: {one_line(message)}; see '{self.prog} --help'\n")


def one_line(text: object) -> str:
    return " ".join(str(text).split())


def whole(text: str) -> int:
    """A number of processes."""
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number: give one from 0 up")
    return int(text)


def seconds(text: str) -> float:
    """A time; fractions count. The limits are the business of who uses it."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds: give one from 0 up, such as 30 or 0.5")
    return value


def octal(text: str) -> int:
    """The mode of a file."""
    digits = text[2:] if text.startswith("0o") else text
    if not digits or len(digits) > 4 or set(digits) - set("01234567") or int(digits, 8) > 0o777:
        raise argparse.ArgumentTypeError(f"{text!r} is not a file mode: give three octal digits, such as 660")
    return int(digits, 8)
