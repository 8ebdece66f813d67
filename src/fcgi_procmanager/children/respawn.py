"""Decisions of the manager, as plain objects: how many workers to fork now, and when to try again. No system calls."""

from __future__ import annotations

from ..basics.clock import FOREVER

FIRST_DELAY = 0.1  # seconds before the second attempt in a row; doubled each time
MAX_DELAY = 30.0
YOUNG = 1.0  # seconds: a worker that served this long did not fail to start
GIVE_UP = 5  # rounds of failures, when no worker has ever become ready: 0.7 s, and what the workers take to fail


class Respawn:
    """Delays the replacement of workers that die young, doubling to a ceiling, and knows when to give up.

    A *round* is what was forked before the latest failure: eight workers that fail together are one failure, not eight.
    While the last rounds failed, one worker at a time is tried.
    """

    def __init__(self, start_delay: float = 0) -> None:
        self.start_delay = start_delay
        self.failures = 0  # rounds in a row
        self.ever_ready = False
        self._failed_at = -FOREVER
        self._not_before = -FOREVER
        self._probe_out = False  # one worker was forked while failing, and has not been heard of

    def budget(self, missing: int, now: float) -> int:
        """How many of the `missing` workers to fork now."""
        if missing <= 0 or now < self._not_before or (self.failures > 1 and self._probe_out):
            return 0
        return 1 if self.failures > 1 or self.start_delay else missing

    @property
    def next_at(self) -> float:
        """When `budget` may say more (monotonic seconds); FOREVER when only an event will change it."""
        return FOREVER if self.failures > 1 and self._probe_out else self._not_before

    def forked(self, now: float) -> None:
        self._probe_out = True
        if self.start_delay:
            self._not_before = max(self._not_before, now + self.start_delay)

    def fork_failed(self, now: float) -> float:
        """The system has no process to spare: retried like a failed round. Returns the delay in seconds."""
        self.failures += 1
        self._failed_at = now
        return self._put_off(now, max(2, self.failures))

    def became_ready(self) -> None:
        self.ever_ready = True
        self._probe_out = False

    def left(self, ready_at: float, now: float) -> None:
        """A worker is gone, and that is no failure: it had been asked to leave, or it ended well after it had served. If it
        lived for a while, whatever made its predecessors fail is over."""
        self._probe_out = False
        if now - ready_at >= YOUNG:
            self.failures = 0

    def died(self, spawned_at: float, ready_at: float, now: float) -> float:
        """A worker failed: it died, or ended without having served. Returns the seconds until its replacement; 0 for now."""
        self._probe_out = False
        if now - ready_at >= YOUNG:
            self.failures = 0
            return 0.0
        if spawned_at >= self._failed_at:
            self.failures += 1
            self._failed_at = now
        return self._put_off(now, self.failures) if self.failures > 1 else 0.0

    @property
    def hopeless(self) -> bool:
        """No worker has ever become ready, and that was tried often enough."""
        return not self.ever_ready and self.failures >= GIVE_UP

    def _put_off(self, now: float, attempt: int) -> float:
        # A crash loop that lasts a day would otherwise end in an OverflowError.
        delay = min(MAX_DELAY, FIRST_DELAY * 2.0 ** min(attempt - 2, 60))
        self._not_before = max(self._not_before, now + delay)
        return delay
