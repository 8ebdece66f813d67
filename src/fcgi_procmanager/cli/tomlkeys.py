"""On which line of a TOML text each key stands, which the parser of the standard library does not tell. Pure.

Reads a text that the parser has accepted, and compares what it has found with what the parser has. Must never tell a wrong line: where
the two differ it tells none.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator, Mapping
from typing import Any, Callable, NamedTuple

__all__ = ["Keys", "Spot", "find"]

Path = tuple[str, ...]
Keys = Mapping[Path, "Spot"]

_BLANK = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[^\s=.\"'\[\]{},#]+")
_STRINGS = (
    re.compile(r'"""(?:\\.|[^\\])*?"""(?:"{0,2})', re.DOTALL),
    re.compile(r"'''.*?'''(?:'{0,2})", re.DOTALL),
    re.compile(r'"(?:\\.|[^"\\\n])*"'),
    re.compile(r"'[^'\n]*'"),
)
_BARE_VALUE = re.compile(r"[^,\]}#\n]+")  # a date may have a space in it


class Spot(NamedTuple):
    """line: counted from 1, of the key. bare: its value as it is written, where that is a number, a date or a word; else empty."""

    line: int
    bare: str


class _Lost(Exception):
    """Something is there that was not expected."""


def find(text: str, data: Mapping[str, Any], load: Callable[[str], Mapping[str, Any]]) -> Keys:
    """Each key of `data`, which the parser `load` has made of `text`, but for what is inside of lists. Nothing at all where that is
    not certain."""
    try:
        found = _Scan(text.replace("\r\n", "\n"), load).document()
    except (_Lost, RecursionError):
        return {}
    return found if found.keys() == {*_paths(data)} else {}


def _paths(data: Mapping[str, Any], above: Path = ()) -> Iterator[Path]:
    for key, value in data.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from _paths(value, (*above, key))


class _Scan:
    def __init__(self, text: str, load: Callable[[str], Mapping[str, Any]]) -> None:
        self._text = text
        self._load = load
        self._at = 0
        self._ends = [match.start() for match in re.finditer("\n", text)]
        self._found: dict[Path, Spot] = {}
        self._in_lists: set[Path] = set()  # tables that are written [[so]]

    def document(self) -> dict[Path, Spot]:
        table: Path | None = ()
        while self._skip(_BLANK):
            if self._next() == "[":
                table = self._header()
            else:
                self._pair(table)
        return self._found

    # -- what there is ------------------------------------------------------------------------------------------------

    def _header(self) -> Path | None:
        line, is_list = self._line, self._text.startswith("[[", self._at)
        self._at += 2 if is_list else 1
        path = self._key()
        self._expect("]]" if is_list else "]")
        if any(path[:length] in self._in_lists for length in range(1, len(path) + 1)):
            return None
        self._note(path, line)
        if is_list:
            self._in_lists.add(path)
            return None
        return path

    def _pair(self, table: Path | None) -> None:
        line = self._line
        key = self._key()
        self._expect("=")
        self._skip(_SPACE)
        path = None if table is None else (*table, *key)
        if path is not None:
            self._note(path, line)
        bare = self._value(path)
        if path is not None and bare:
            self._found[path] = Spot(line, bare)

    def _note(self, path: Path, line: int) -> None:
        for length in range(1, len(path) + 1):
            self._found.setdefault(path[:length], Spot(line, ""))

    def _key(self) -> Path:
        parts = []
        while True:
            self._skip(_SPACE)
            parts.append(self._key_part())
            self._skip(_SPACE)
            if self._next() != ".":
                return tuple(parts)
            self._at += 1

    def _key_part(self) -> str:
        if self._next() in ('"', "'"):
            (quoted,) = self._load(f"key = {self._take(*_STRINGS[2:])}").values()
            return str(quoted)
        return self._take(_BARE_KEY)

    def _value(self, path: Path | None) -> str:
        first = self._next()
        if first in ('"', "'"):
            self._take(*_STRINGS)
        elif first == "[":
            self._inside("]", lambda: self._value(None))
        elif first == "{":
            self._inside("}", lambda: self._pair(path))
        else:
            return self._take(_BARE_VALUE).rstrip()
        return ""

    def _inside(self, end: str, one: Callable[[], object]) -> None:
        self._at += 1
        while self._skip(_BLANK) and self._next() != end:
            one()
            self._skip(_BLANK)
            if self._next() == ",":
                self._at += 1
        self._expect(end)

    # -- the text -----------------------------------------------------------------------------------------------------

    @property
    def _line(self) -> int:
        return bisect.bisect_left(self._ends, self._at) + 1

    def _next(self) -> str:
        return self._text[self._at : self._at + 1]

    def _skip(self, pattern: re.Pattern[str]) -> bool:
        """Whether anything is left."""
        match = pattern.match(self._text, self._at)
        assert match is not None
        self._at = match.end()
        return self._at < len(self._text)

    def _take(self, *patterns: re.Pattern[str]) -> str:
        for pattern in patterns:
            match = pattern.match(self._text, self._at)
            if match is not None:
                self._at = match.end()
                return match[0]
        raise _Lost

    def _expect(self, text: str) -> None:
        if not self._text.startswith(text, self._at):
            raise _Lost
        self._at += len(text)
