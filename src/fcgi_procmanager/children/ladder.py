"""The ladder that a stop climbs: TERM, TERM again each second, KILL at the deadline. Pure: no process, no clock.

It only goes up. TERM is repeated because the receiver may be foreign code that lost the first one; ours has not.
"""

from __future__ import annotations

from ..basics.clock import FOREVER

RESEND = 1.0  # seconds; a lost TERM costs at most this, an idle machine one wake-up a second while it stops


class Ladder:
    """When to send what to one worker that has been asked to leave. Times are monotonic seconds."""

    __slots__ = ("deadline", "next_at")

    def __init__(self, now: float, timeout: float | None) -> None:
        """`timeout`: seconds until KILL; 0 or None for never, as in the originals."""
        self.deadline = now + timeout if timeout else FOREVER
        self.next_at = now  # when `due` has something to say

    def due(self, now: float) -> str | None:
        """The signal to send now, if any. A call that returns one has moved the ladder on."""
        if now < self.next_at:
            return None
        if now >= self.deadline:
            self.next_at = now + RESEND  # a process in an uninterruptible sleep dies later: try again
            return "KILL"
        self.next_at = min(now + RESEND, self.deadline)
        return "TERM"

    def force(self) -> None:
        """What is due next is KILL, at once."""
        self.deadline = self.next_at = -FOREVER
