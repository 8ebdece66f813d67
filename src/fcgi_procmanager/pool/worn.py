"""Whether a worker has done enough and is to be replaced: after so many requests, above so much memory. No decision about anybody else.

Runs in a worker, between two requests. It only says so: the manager starts another one first, and then asks this one to leave. Only
the number of requests is a limit that is never exceeded.
"""

from __future__ import annotations

import os
import random
from time import monotonic

_JITTER = 0.1  # of a limit: workers that were forked together must not be worn together
_AHEAD = 0.1  # of the requests: so much earlier the replacement is asked for
_LOOK = 0.1  # seconds between two looks at the memory
_LOOK_PSS = 10.0  # the same for PSS: the system walks all pages for it


class Worn:
    """requests, memory (bytes): the limits, 0 for none. measure: "rss" or "pss"."""

    def __init__(self, requests: int = 0, memory: int = 0, measure: str = "rss") -> None:
        self._requests = shortened(requests)
        self._ask_at = self._requests - int(self._requests * _AHEAD)
        self._memory = int(memory * (1 - _JITTER * random.random()))
        self._measure = _pss if measure == "pss" else _rss
        self._interval = _LOOK_PSS if measure == "pss" else _LOOK
        self._look_at = 0.0
        self.asked = False  # the manager knows

    def leaves(self, requests: int) -> str:
        """Why it must not take another request, as the words of its last line; empty if it may."""
        if 0 < self._requests <= requests:
            return f"safe exit after max_requests ({requests})"
        return ""

    def wears(self, requests: int) -> str:
        """Why it should be replaced when there is another one: the limit, and what it has come to; empty if it should not."""
        if self.asked:
            return ""
        if 0 < self._ask_at <= requests:
            return f"max_requests ({requests} requests)"
        return self._too_large()

    def _too_large(self) -> str:
        if not self._memory or monotonic() < self._look_at:
            return ""
        self._look_at = monotonic() + self._interval
        size = self._measure()
        if size <= self._memory:
            return ""
        return f"max_memory ({size >> 20} MB)"


def shortened(limit: int) -> int:
    """A number of requests with its jitter; never less than 1 of a limit, and never more than it."""
    return limit - int(limit * _JITTER * random.random())


def lifetime(seconds: float) -> float:
    """The same of a time."""
    return seconds * (1 - _JITTER * random.random())


def _rss() -> int:
    """Of this process. psutil would take ten times as long, and memory that a fork shares."""
    try:
        with open("/proc/self/statm", "rb", buffering=0) as file:
            return int(file.read(100).split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        import psutil

        return int(psutil.Process().memory_info().rss)


def _pss() -> int:
    import psutil

    found = psutil.Process().memory_full_info()
    return int(getattr(found, "pss", found.rss))
