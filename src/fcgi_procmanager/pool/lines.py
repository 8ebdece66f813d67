"""Lines of the log: what comes in pieces made whole, and how a line is written, for people or for programs. No system call but the
clock's.

Runs in the manager. What a line holds may be anybody's: no part of it can end it early.
"""

from __future__ import annotations

import re
import time
from typing import NamedTuple

LONGEST = 1 << 18  # bytes; a longer line is written in pieces of this size, each of them a line

_OWN = re.compile(r"FastCGI: (?P<process>.+?) \(pid (?P<pid>\d+)\): (?P<message>.*)", re.DOTALL)

PLAIN, JSON = "plain", "json"
FORMATS = (PLAIN, JSON)


class Lines:
    """What has been read of a stream, as lines without their ends. rest: the beginning of one that is not whole."""

    def __init__(self, rest: bytes = b"") -> None:
        self.rest: bytes = rest

    def feed(self, data: bytes) -> list[bytes]:
        lines = (self.rest + data).split(b"\n")
        self.rest = lines.pop()
        if len(self.rest) > LONGEST or any(len(line) > LONGEST for line in lines):
            lines = [piece for line in lines for piece in _pieces(line)]
            *more, self.rest = _pieces(self.rest)
            lines += more
        return lines

    def last(self) -> list[bytes]:
        """The stream has ended: a line that lacks its end is one."""
        rest, self.rest = self.rest, b""
        return [rest] if rest else []


def _pieces(line: bytes) -> list[bytes]:
    return [line[at : at + LONGEST] for at in range(0, len(line), LONGEST)] or [line]


class Line(NamedTuple):
    """One line. at: seconds since the epoch. stream: "log" for our own words, else where the process wrote it."""

    at: float
    level: str
    process: str
    pid: int
    stream: str
    message: str


def own(at: float, level: str, text: str, pid: int) -> Line:
    """A line that a process of ours has written, in the form of the log."""
    found = _OWN.fullmatch(text)
    if found is None:
        return Line(at, level, "", pid, "log", text)
    return Line(at, level, found["process"], int(found["pid"]), "log", found["message"])


def is_own(text: str) -> bool:
    return _OWN.fullmatch(text) is not None


def words(line: Line) -> str:
    """The line as the log has it without a time and a level."""
    if not line.process:
        return line.message
    stream = "" if line.stream == "log" else f" {line.stream}"
    return f"FastCGI: {line.process} (pid {line.pid}){stream}: {line.message}"


def plain(line: Line) -> bytes:
    # A form feed or the like ends a line for some readers.
    return f"{moment(line.at)} {line.level} {words(line)}\n".encode(errors="backslashreplace")


def as_json(line: Line, pool: str) -> bytes:
    import json  # not above: few pools write it, and each of their processes would have it

    found = {"time": moment(line.at), "level": line.level, "pool": pool, **line._asdict()}
    del found["at"]
    return json.dumps(found, ensure_ascii=True).encode() + b"\n"


def moment(at: float) -> str:
    """Local time with milliseconds and its distance from UTC, as ISO 8601 has it."""
    parts = time.localtime(at)
    zone = time.strftime("%z", parts)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', parts)}.{int(at % 1 * 1000):03d}{zone[:3]}:{zone[3:]}"
