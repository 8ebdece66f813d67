"""`--touch FILE`: new code whenever somebody touches a file, as a part of the manager's loop.

Runs in the manager. Must never take a file that is gone for one that was touched.
"""

from __future__ import annotations

import os

from ..basics.clock import monotonic
from ..manager.half import ManagerHalf
from ..manager.parts import PoolPart

__all__ = ["Touch"]

_INTERVAL = 0.5  # seconds between two looks: nothing portable tells of a change by itself


class Touch(PoolPart):
    """path: absolute. It need not be there at first."""

    next_at: float

    def __init__(self, path: str) -> None:
        self._path = path
        self._half: ManagerHalf | None = None
        self._seen = self._look()

    def begin(self, half: ManagerHalf) -> None:
        self._half = half
        self.next_at = monotonic() + _INTERVAL

    def turn(self, now: float) -> bool:
        if self._half is None or now < self.next_at:
            return False
        self.next_at = now + _INTERVAL
        found = self._look()
        if found is None or found == self._seen:
            return False
        self._seen = found
        self._half.renewal.ask()
        return True

    def forked(self) -> None:
        self._half = None

    def _look(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns
