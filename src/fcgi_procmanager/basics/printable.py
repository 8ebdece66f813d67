"""Text that somebody else has written, as one line that is safe to show: in a log, on a terminal. Pure; runs in any process."""

from __future__ import annotations


def printable(text: str, limit: int = 200) -> str:
    """Without a control character, a line end, or what a terminal would take for a command; cut at `limit` characters."""
    shown = "".join(one if one.isprintable() and one != "\\" else _escaped(one) for one in text[: limit + 1])
    return shown if len(text) <= limit else shown[:limit] + "…"


def _escaped(one: str) -> str:
    return one.encode("unicode_escape", "backslashreplace").decode("ascii")
