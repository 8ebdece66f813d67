"""Whether a program that was started is good: it has said so, or it has lived long enough. Pure: no process, no clock.

A program that was not written for us says nothing when it can serve. Without an announcement its age is all there is.
"""

from __future__ import annotations

import enum


class Verdict(enum.Enum):
    WAIT = "wait"
    GOOD = "good"
    LATE = "late"  # it was to announce itself, and has not


class Trial:
    """Of one child. interval: seconds that it has to live. ready_timeout: seconds in which it has to announce itself instead;
    None for no announcement. next_at: when there will be a verdict without one. Times are monotonic seconds."""

    def __init__(self, now: float, interval: float, ready_timeout: float | None) -> None:
        self.announced = False
        self._announces = ready_timeout is not None
        self.next_at: float = now + (interval if ready_timeout is None else ready_timeout)

    def verdict(self, now: float) -> Verdict:
        if self.announced:
            return Verdict.GOOD
        if now < self.next_at:
            return Verdict.WAIT
        return Verdict.LATE if self._announces else Verdict.GOOD
