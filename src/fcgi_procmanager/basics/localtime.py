"""Local time as text."""

from __future__ import annotations

import re
import time

_CODE = re.compile(r"%(.)", re.DOTALL)  # two characters at once, so that the second of %% begins nothing


def written(pattern: str, at: float) -> str:
    """As `time.strftime` writes it, but `%z` is right on PyPy as well: its own is +0000 everywhere."""
    parts = time.localtime(at)
    return time.strftime(_CODE.sub(lambda code: _offset(parts) if code[1] == "z" else code[0], pattern), parts)


def _offset(parts: time.struct_time) -> str:
    """How far from UTC, as +0530."""
    hours, minutes = divmod(abs(parts.tm_gmtoff) // 60, 60)
    return f"{'-' if parts.tm_gmtoff < 0 else '+'}{hours:02d}{minutes:02d}"
