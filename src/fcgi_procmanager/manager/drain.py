"""A stop that was asked for and has not begun: the pool serves on for a while, so that a balancer can forget it first.

A part of the manager's loop; runs in the manager. It is a wish with a time, not a state of the pool: workers that die are
replaced as ever.
"""

from __future__ import annotations

from ..basics.clock import FOREVER
from ..children.stop import Stop
from ..events.loop import Part

# The request once more; and new workers, for a pool that is about to end.
_IGNORED = frozenset(("TERM", "INT", "HUP", "USR2"))


class Drain(Part):
    """signal: the one that asked, by name; empty while nobody has. asked_at: when. next_at: when the stop begins."""

    def __init__(self) -> None:
        self.signal = ""
        self.asked_at = FOREVER

    @property
    def under_way(self) -> bool:
        return bool(self.signal)

    def begin(self, signal: str, delay: float, now: float) -> None:
        self.signal = signal
        self.asked_at = now
        self.next_at = now + delay

    def is_over(self, now: float) -> bool:
        return now >= self.next_at

    def insists(self, name: str, now: float) -> bool:
        """Whether a further signal asks for an end at once."""
        return Stop(self.asked_at).insists(name, now)

    def ignores(self, name: str) -> bool:
        """Whether it means nothing: it is the first once more, or asks for what makes no sense any more."""
        return name in _IGNORED

    def stop(self) -> None:
        self.next_at = FOREVER
