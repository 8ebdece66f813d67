"""How all pools of a parent are: those that answer are asked themselves, of the others the parent says what it knows.

Runs in the command `status`. Must never believe what it gets, nor let one pool that does not answer hide the others.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Callable, NamedTuple

from ..errors import ControlError, ProtocolError
from ..parent.managers import READY
from ..parent.overview import Entry, Overview
from ..status import jsonform, table
from ..status.snapshot import PoolStatus
from ..status.verdict import DOWN, OK, verdict
from ..status.visible import visible, without_surrogates

__all__ = ["Seen", "as_json", "as_text", "is_down", "look"]


class Seen(NamedTuple):
    """status: its manager's answer; None where that is nowhere to be had, with the reason in trouble if it should be."""

    entry: Entry
    status: PoolStatus | None
    trouble: str = ""

    @property
    def level(self) -> str:
        if self.status is not None:
            return verdict(self.status).level
        return OK if self.entry.state == READY else DOWN


def look(overview: Overview, ask: Callable[[str], PoolStatus]) -> list[Seen]:
    """ask: one manager, at this path; raises ControlError and ProtocolError."""
    return [_seen(entry, ask) for entry in overview.pools]


def _seen(entry: Entry, ask: Callable[[str], PoolStatus]) -> Seen:
    if not entry.control or not entry.pid:
        return Seen(entry, None)
    try:
        return Seen(entry, ask(entry.control))
    except (ControlError, ProtocolError) as error:
        return Seen(entry, None, str(error))


def is_down(seen: list[Seen]) -> bool:
    """Somewhere nobody serves."""
    return any(one.level == DOWN for one in seen)


def as_json(seen: list[Seen], full: bool) -> str:
    """An object, with one of each pool by its name."""
    return json.dumps({without_surrogates(one.entry.name): _as_dict(one, full) for one in seen}) + "\n"


def _as_dict(one: Seen, full: bool) -> dict[str, Any]:
    entry = one.entry
    asked = jsonform.as_dict(one.status, full) if one.status is not None else {}
    known = {"pool": entry.name, "level": one.level, "manager pid": entry.pid, "verdict": entry.words or entry.state}
    words = {name: without_surrogates(value) if isinstance(value, str) else value for name, value in known.items()}
    return {**words, **asked, "command": without_surrogates(entry.command), "state": without_surrogates(entry.state)}


def as_text(seen: list[Seen], width: int, colour: bool) -> str:
    return "\n".join(_text(one, width, colour) for one in seen)


def _text(one: Seen, width: int, colour: bool) -> str:
    heading = visible(f"[{one.entry.name}]")
    if one.status is not None:
        return f"{heading}\n{table.render(one.status, width, colour)}"
    return f"{heading}\n" + "".join(f"{line}\n" for line in _lines(one))


def _lines(one: Seen) -> Iterator[str]:
    entry = one.entry
    manager = f", manager {entry.pid}" if entry.pid else ""
    words = f": {entry.words}" if entry.words else ""
    yield visible(f"{entry.state}{words} ({entry.command}{manager})")
    if one.trouble:
        yield visible(one.trouble)
