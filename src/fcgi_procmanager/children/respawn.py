"""How many workers to fork now, and when to try again. No system calls.

Runs in the manager. Starting is one thing, dying later another:

| a worker                                                              | is             | its place is filled           |
| --------------------------------------------------------------------- | -------------- | ----------------------------- |
| leaves when told to, or ends well after it has served                 | `left`         | at once                       |
| dies in a request or later, or is killed once it was ready            | `died`         | at once, within the budget    |
| ends before it is ready, or ends by itself before it has served       | `start_failed` | later each time, one at a time |

The places of those who cannot start are *held back*. They never keep the others from being filled.
"""

from __future__ import annotations

from ..basics.clock import FOREVER

FIRST_DELAY = 0.1  # seconds before the second attempt in a row; doubled each time
MAX_DELAY = 30.0
YOUNG = 1.0  # seconds: whoever has been ready this long has started well
GIVE_UP = 5  # rounds of failures, when no worker has ever become ready: 0.7 s, and what the workers take to fail
# Deaths a second that are replaced at once, and how many more after a quiet time. A fork and the start of its worker cost some
# 2 ms: this keeps a machine from doing nothing else, and a request that kills its worker from taking the pool away.
DEATHS_PER_SECOND = 200.0
DEATHS_AT_ONCE = 100.0


class Respawn:
    """When the missing workers of one pool may be forked. Times are monotonic seconds.

    A *round* is what was forked before the latest failure: eight workers that fail together are one failure, not eight.
    failures: rounds in a row.
    """

    def __init__(self, start_delay: float = 0, size: int = 0) -> None:
        """`size`: of the pool. All of it may die at one stroke."""
        self.start_delay = start_delay
        self.failures: int = 0
        self.ever_ready: bool = False
        self._held_back = 0  # missing workers that wait for `_retry_at`
        self._failed_at = -FOREVER
        self._retry_at = -FOREVER
        self._trying = False  # one of those held back was forked, and has not been heard of
        self._no_fork_before = -FOREVER  # start_delay, or the system refuses to fork
        self._deaths = Budget(DEATHS_PER_SECOND, max(DEATHS_AT_ONCE, size))

    def allowed(self, missing: int, now: float) -> int:
        """How many of the `missing` workers to fork now."""
        if missing <= 0 or now < self._no_fork_before:
            return 0
        self._held_back = min(self._held_back, missing)
        prompt = missing - self._held_back - self._deaths.overdrawn(now)
        tried = self._held_back > 0 and not self._trying and now >= self._retry_at
        count = max(0, prompt) + tried
        return min(1, count) if self.start_delay else count

    def next_at(self, missing: int, now: float) -> float:
        """When `allowed` may say more; FOREVER when only an event will change it."""
        if missing <= 0:
            return FOREVER
        due = []
        if missing > self._held_back:
            due.append(self._deaths.refilled_at(missing - self._held_back, now))
        if self._held_back and not self._trying:
            due.append(self._retry_at)
        return max(self._no_fork_before, min(due, default=FOREVER))

    def forked(self, missing: int, now: float) -> None:
        """One of the `missing` workers was forked: the first ones are those who wait for nothing."""
        if self._held_back and missing - self._held_back <= self._deaths.overdrawn(now):
            self._held_back -= 1
            self._trying = True
        if self.start_delay:
            self._no_fork_before = max(self._no_fork_before, now + self.start_delay)

    def fork_failed(self, now: float) -> float:
        """The system has no process to spare: nobody is forked for a while. Returns the delay in seconds."""
        self.failures += 1
        self._failed_at = now
        delay = retry_delay(max(2, self.failures))
        self._no_fork_before = max(self._no_fork_before, now + delay)
        return delay

    def became_ready(self) -> None:
        self.ever_ready = True
        self._trying = False

    def served(self) -> None:
        """A worker has begun its first request: starting works, whatever failed before."""
        self._end_series()

    def reload(self) -> None:
        """Somebody who asks for new workers does not want to wait for an old failure."""
        self._end_series()

    def left(self, ready_at: float, now: float) -> None:
        """A worker left when it was told to, or ended well after it had served."""
        self._trying = False
        if now - ready_at >= YOUNG:
            self._end_series()

    def died(self, ready_at: float, now: float) -> None:
        """A worker died after it had started."""
        self._trying = False
        self._deaths.take(now)
        if now - ready_at >= YOUNG:
            self._end_series()

    def start_failed(self, spawned_at: float, ready_at: float, now: float) -> float:
        """A worker could not start, or never came to its loop. Returns the seconds until its replacement; 0 for now."""
        self._trying = False
        if now - ready_at >= YOUNG:
            self._end_series()
            return 0.0
        if spawned_at >= self._failed_at:
            self.failures += 1
            self._failed_at = now
        if self.failures < 2:
            return 0.0
        self._held_back += 1
        delay = retry_delay(self.failures)
        self._retry_at = max(self._retry_at, now + delay)
        return delay

    @property
    def hopeless(self) -> bool:
        """No worker has ever become ready, and that was tried often enough."""
        return not self.ever_ready and self.failures >= GIVE_UP

    def is_short(self, now: float) -> bool:
        """More workers die than are replaced at once."""
        return self._deaths.overdrawn(now) > 0

    def _end_series(self) -> None:
        self.failures = 0
        self._held_back = 0
        self._trying = False
        self._retry_at = -FOREVER


class Budget:
    """So many at once, then so many a second (a token bucket). What is taken beyond it is owed."""

    def __init__(self, per_second: float, at_once: float) -> None:
        self._per_second = per_second
        self._at_once = self._left = at_once
        self._looked_at = -FOREVER

    def take(self, now: float) -> None:
        self._refill(now)
        self._left -= 1

    def overdrawn(self, now: float) -> int:
        """How many were taken too many, as of now."""
        self._refill(now)
        return max(0, -int(self._left // 1))

    def refilled_at(self, owed: int, now: float) -> float:
        """When fewer than `owed` will be overdrawn; `now` if they are not."""
        self._refill(now)
        return now + max(0.0, -self._left - owed + 1) / self._per_second

    def _refill(self, now: float) -> None:
        self._left = min(self._at_once, self._left + max(0.0, now - self._looked_at) * self._per_second)
        self._looked_at = max(self._looked_at, now)


def retry_delay(attempt: int) -> float:
    """Seconds before the attempt that follows so many failures in a row; the first is repeated at once."""
    if attempt < 2:
        return 0.0  # accidents happen
    # A crash loop that lasts a day would otherwise end in an OverflowError.
    return min(MAX_DELAY, FIRST_DELAY * 2.0 ** min(attempt - 2, 60))
