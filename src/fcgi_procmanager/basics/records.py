"""A line of the log as values, and the forms in which it is written: for people, for the journal, for programs. No system call but the
clock's.

Runs in every process. What a line holds may be anybody's: in a form with one line for each, no part of it can end it early.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from . import levels, localtime

PLAIN, JSON, BARE = "plain", "json", "bare"
FORMATS = (PLAIN, JSON, BARE)
JOURNAL = "journal"  # plain, where systemd's journal reads: it has a time of its own

EXCEPTION = "exception"  # the key of a traceback

_OWN = re.compile(r"FastCGI: (?P<process>.+?) \(pid (?P<pid>[0-9]{1,10})\): (?P<message>.*)", re.DOTALL)
_OTHER = re.compile(r"[^:\n]+: [^\n]+? \(pid \d+\): ")  # the same where a subclass has another word in front
_NUMBERS = {
    levels.DEBUG: 7,
    levels.INFO: 6,
    levels.WARNING: 4,
    levels.ERROR: 3,
    levels.CRITICAL: 2,
}  # as syslog has them


class Line(NamedTuple):
    """at: seconds since the epoch. process: its role, "" for what says no such thing. stream: "log" for our own words, else where the
    process wrote it. more: what else is known of it; of an exception its method, path and traceback."""

    at: float
    level: str
    process: str
    pid: int
    stream: str
    message: str
    more: Mapping[str, str] = {}


def own(at: float, text: str, pid: int, level: str | None = None, more: Mapping[str, str] = {}) -> Line:
    """A line that a process of ours has written, in the form of the log. level: None for what its words say."""
    found = _OWN.fullmatch(text)
    if found is not None:
        level = level or levels.of_own(found["message"])
        return Line(at, level, found["process"], int(found["pid"]), "log", found["message"], more)
    other = _OTHER.match(text)
    return Line(at, level or levels.of_own(text[other.end() :] if other else text), "", pid, "log", text, more)


def is_own(text: str) -> bool:
    return _OWN.fullmatch(text) is not None


def head(line: Line) -> str:
    """The line as the log has it without a time and a level."""
    if not line.process:
        return line.message
    stream = "" if line.stream == "log" else f" {line.stream}"
    return f"FastCGI: {line.process} (pid {line.pid}){stream}: {line.message}"


def words(line: Line) -> str:
    """The same with the traceback that belongs to it."""
    return "\n".join(filter(None, (head(line), line.more.get(EXCEPTION))))


def plain(line: Line) -> bytes:
    # A form feed or the like ends a line for some readers.
    return f"{moment(line.at)} {line.level} {words(line)}\n".encode(errors="backslashreplace")


def bare(line: Line) -> bytes:
    return f"{words(line)}\n".encode(errors="backslashreplace")


def journal(line: Line) -> bytes:
    """Each line of it has its priority, which the journal takes off."""
    prefix = f"<{_NUMBERS[line.level]}>"
    return "".join(f"{prefix}{one}\n" for one in words(line).split("\n")).encode(errors="backslashreplace")


def as_json(line: Line, pool: str) -> bytes:
    import json  # not above: few pools write it, and each of their processes would have it

    found = {"time": moment(line.at), "level": line.level, "pool": pool, **line._asdict(), **line.more}
    del found["at"], found["more"]
    return json.dumps(found, ensure_ascii=True).encode() + b"\n"


def form(line: Line, name: str, pool: str) -> bytes:
    """In one of the forms."""
    if name == JSON:
        return as_json(line, pool)
    return {PLAIN: plain, BARE: bare, JOURNAL: journal}[name](line)


def moment(at: float) -> str:
    """Local time with milliseconds and its distance from UTC, as ISO 8601 has it."""
    second, zone = localtime.written("%Y-%m-%dT%H:%M:%S %z", at).split()
    return f"{second}.{int(at % 1 * 1000):03d}{zone[:3]}:{zone[3:]}"
