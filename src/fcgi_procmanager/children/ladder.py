"""The ladder that a stop climbs: TERM, TERM again each second, KILL at the deadline. Pure: no process, no clock.

It only goes up. The first signal is TERM unless the child understands another one. It is repeated because the receiver may be
foreign code that lost it; ours does not. To who takes a second one for "at once", as managers do, it is sent once.
"""

from __future__ import annotations

from ..basics.clock import FOREVER

RESEND = 1.0  # seconds; a lost TERM costs at most this, an idle machine one wake-up a second while it stops


class Ladder:
    """When to send what to one child that has been asked to leave. Times are monotonic seconds."""

    __slots__ = ("deadline", "first", "next_at", "resend")

    def __init__(self, now: float, timeout: float | None, first: str = "TERM", repeated: bool = True) -> None:
        """`timeout`: seconds until KILL; 0 or None for never, as in the originals. `first`: the signal that asks."""
        self.first: str = first
        self.resend: float = RESEND if repeated else FOREVER
        self.deadline: float = now + timeout if timeout else FOREVER
        self.next_at: float = now  # when `due` has something to say

    def due(self, now: float) -> str | None:
        """The signal to send now, if any. A call that returns one has moved the ladder on."""
        if now < self.next_at:
            return None
        if now >= self.deadline:
            self.next_at = now + RESEND  # a process in an uninterruptible sleep dies later: try again
            return "KILL"
        self.next_at = min(now + self.resend, self.deadline)
        return self.first

    def force(self) -> None:
        """What is due next is KILL, at once."""
        self.deadline = self.next_at = -FOREVER
