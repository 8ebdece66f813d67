"""A stop that has begun: how much time is left, and whether a further signal insists on an end now. Pure.

Runs in a manager, and in the superdaemon.
"""

from __future__ import annotations

from ..basics.clock import FOREVER

# Seconds: a second TERM or INT that comes sooner is the first one once more. A supervisor may signal its child and then the
# group that it is in, and a terminal's control-C reaches both.
_SAME_REQUEST = 1.0
_LEAST_TIME = 1.0  # seconds that those who are asked get to leave, however long something else has held the stop


class Stop:
    """began, asked_at: monotonic seconds; a pool may have been asked before, and have served on."""

    def __init__(self, now: float, asked_at: float = FOREVER) -> None:
        self.began = now
        self.asked_at: float = min(now, asked_at)

    def time_left(self, whole: float, now: float) -> float:
        """Seconds, of the limit of the `whole` stop; 0 for none."""
        return whole and max(min(whole, _LEAST_TIME), whole - (now - self.began))

    def insists(self, name: str, now: float) -> bool:
        """Whether this signal asks for an end at once. HUP and the rest mean nothing any more."""
        return name == "QUIT" or (name in ("TERM", "INT") and now - self.asked_at >= _SAME_REQUEST)
