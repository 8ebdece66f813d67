"""A pool that its parent is to keep: what its manager is started by, and how long a stop of it may take. Pure.

Runs in the parent. Who reads the file makes one for each pool of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..basics.clock import FOREVER

__all__ = ["Wanted", "longer"]


@dataclass(frozen=True)
class Wanted:
    """arguments: of the program that executes this package, without that. environment: the whole of it. patience: seconds that a
    gentle stop of it takes at most; FOREVER for no limit. control: where its manager answers; empty for nowhere. reopens: it has a log
    file. places: addresses and files that no other pool may have meanwhile. fixed: what its manager does not read again at a reload."""

    name: str
    command: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    patience: float = FOREVER
    control: str = ""
    reopens: bool = False
    places: frozenset[str] = frozenset()
    fixed: object = None

    def is_kept_by(self, other: Wanted) -> bool:
        """Whether a manager that was started for that one can go on for this one."""
        return self.command == other.command


def longer(one: float, other: float) -> float:
    """Of two limits, for a manager of which nobody knows which of the two it has read."""
    return max(one, other)
