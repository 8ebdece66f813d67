"""How the pools of a parent are, as plain values, and how they go over its control socket: JSON of our own. Pure.

Made in the parent, read by the commands. What is there and cannot be true is an error.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import ProtocolError

__all__ = ["Entry", "Overview", "decode", "encode", "is_overview"]

_KEY = "pools"  # by which it is told from the status of one pool


@dataclass(frozen=True)
class Entry:
    """One pool. state: a word of parent/managers.py. pid: of its manager, 0 while there is none. control: where that answers; empty
    for nowhere. words: what the manager says of itself, as it came."""

    name: str
    command: str = ""
    state: str = ""
    pid: int = 0
    control: str = ""
    words: str = ""


@dataclass(frozen=True)
class Overview:
    """reloads: that were asked for, and acted on or refused. refusal: why the last one was refused; empty if it was not."""

    pid: int = 0
    reloads: int = 0
    refusal: str = ""
    pools: list[Entry] = field(default_factory=list)


def encode(overview: Overview) -> bytes:
    return json.dumps(asdict(overview), separators=(",", ":")).encode("ascii")


def is_overview(data: bytes) -> bool:
    """Else it is the status of a pool, or nothing of ours."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and _KEY in value


def decode(data: bytes) -> Overview:
    """Raises ProtocolError."""
    try:
        value = json.loads(data)
        pools = [Entry(**_fields(one, Entry("-"))) for one in value[_KEY]]
        if any(one.pid < 0 for one in pools):
            raise TypeError
        return Overview(**{**_fields(value, Overview()), _KEY: pools})
    except (ValueError, RecursionError, LookupError, TypeError):
        raise ProtocolError("this is not the status of several pools") from None


def _fields(value: Any, like: Any) -> dict[str, Any]:
    """Those that are known, and of the type that they are there. Raises TypeError."""
    found = {name: one for name, one in value.items() if hasattr(like, name)} if isinstance(value, dict) else {}
    if not found or any(type(one) is not type(getattr(like, name)) for name, one in found.items()):
        raise TypeError
    return found
