"""What the command says to a person: one line at a time, never a traceback.

Runs in every process of the command. Must never raise for want of a reader.
"""

from __future__ import annotations

import sys

__all__ = ["PROGRAM", "Progress", "complain", "one_line", "point", "say", "story", "tell"]

PROGRAM = "fcgi-procmanager"

_LIMIT = 200  # characters of an exception's own text


def complain(message: str) -> None:
    """Say on standard error what went wrong."""
    _write(sys.stderr, f"{PROGRAM}: {one_line(message)}\n")


def say(message: str) -> None:
    """Say on standard output what was asked for."""
    _write(sys.stdout, one_line(message) + "\n")


def tell(line: str) -> None:
    """Say a line of what was asked for as it is, with its spaces."""
    _write(sys.stdout, line + "\n")


def point(message: str) -> None:
    """Say on standard error what is wrong at a place, which stands first: an editor finds it."""
    _write(sys.stderr, f"{one_line(message)}\n")


class Progress:
    """One line on a terminal that changes, and is gone at the end. Without a terminal, nothing."""

    def __init__(self) -> None:
        self._shown = ""
        try:
            self._terminal = sys.stderr.isatty()
        except (AttributeError, ValueError):
            self._terminal = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.show("")

    def show(self, text: str) -> None:
        if self._terminal and text != self._shown:
            _write(sys.stderr, f"\r{text}\x1b[K")
            self._shown = text


def one_line(text: object) -> str:
    return " ".join(str(text).split())


def story(error: BaseException) -> str:
    """An exception as the last line of a traceback has it."""
    text = one_line(error.msg if isinstance(error, SyntaxError) else error)
    if len(text) > _LIMIT:
        text = text[:_LIMIT] + "..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _write(stream: object, text: str) -> None:
    try:
        stream.write(text)  # type: ignore[attr-defined]
        stream.flush()  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        pass
