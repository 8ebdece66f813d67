"""How long after its end a supervised process is started again. Pure: no process, no clock."""

from __future__ import annotations

from ..children.respawn import FIRST_DELAY, MAX_DELAY, retry_delay

_YOUNG = 1.0  # seconds


class Delays:
    """failures: ends in a row that count as failures."""

    def __init__(self) -> None:
        self.failures: int = 0

    def ended(self, lived: float, clean: bool, delay: float) -> float:
        """Seconds until the next start. lived: seconds. clean: it returned by itself. delay: what is wanted.

        The delay is doubled each time when the process keeps failing young, up to half a minute, or what is wanted if that is
        more. A clean end is no failure; but where no delay is wanted, one that comes soon after another waits a moment."""
        if lived >= max(_YOUNG, delay):
            self.failures = 0
        self.failures += 1
        if clean:
            return max(delay, FIRST_DELAY if self.failures > 1 else 0)
        longer = delay * 2.0 ** min(self.failures - 1, 60)
        return max(delay, min(longer, MAX_DELAY), retry_delay(self.failures))
