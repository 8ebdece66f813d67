"""How the pool was in the last minutes, for the picture on its page: a part of the manager's loop.

Runs in the manager, where somebody publishes the page; else an idle pool would wake up for nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..basics.clock import FOREVER, monotonic
from ..manager.parts import PoolPart

if TYPE_CHECKING:
    from ..manager.half import ManagerHalf
    from .census import Census

INTERVAL = 5.0  # seconds
_SAMPLES = 180  # a quarter of an hour


class History(PoolPart):
    next_at: float

    def __init__(self, census: Census) -> None:
        self._census = census

    def begin(self, half: ManagerHalf) -> None:
        self.next_at = monotonic()

    def close(self) -> None:
        self.next_at = FOREVER

    def forked(self) -> None:
        self.close()

    def turn(self, now: float) -> bool:
        if now >= self.next_at:
            self.next_at = now + INTERVAL
            self._census.history = (*self._census.history, self._census.sample())[-_SAMPLES:]
        return False
