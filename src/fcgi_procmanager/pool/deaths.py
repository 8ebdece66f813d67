"""Requests that end their worker: what was in hand, and which address does it again and again. No system call.

Runs in the manager. What a client sends is in here: it is never written as it is, and there is room for a limited number of it.
"""

from __future__ import annotations

_REPEATED = 3  # deaths by one address until it is said
_MOST = 100  # addresses that are remembered


class Deaths:
    """count: workers that died with a request in hand."""

    def __init__(self) -> None:
        self.count: int = 0
        self._addresses: dict[tuple[str, str], int] = {}

    def add(self, method: str, uri: str) -> int:
        """One more. Returns how often this address has done it if that is to be said now, and 0 else: it is said once."""
        self.count += 1
        key = (method, uri.partition("?")[0])
        number = self._addresses.pop(key, 0) + 1
        if len(self._addresses) >= _MOST:
            # The one that did it least often, of these the one that did it longest ago: each death moves its address to the end.
            del self._addresses[min(self._addresses, key=self._addresses.__getitem__)]
        self._addresses[key] = number
        return number if number == _REPEATED else 0

    @property
    def worst(self) -> list[tuple[str, str, int]]:
        """(method, path, how often), the most deadly first."""
        found = [(method, path, count) for (method, path), count in self._addresses.items()]
        return sorted(found, key=lambda one: -one[2])


class Crashes:
    """Deaths by SIGSEGV and SIGBUS, for an emergency restart: `threshold` of them within `interval` seconds, 0 for never."""

    def __init__(self, threshold: int, interval: float) -> None:
        self._threshold = threshold
        self._interval = interval
        self._at: list[float] = []

    def add(self, now: float) -> bool:
        """One more (monotonic seconds). True when there were so many that everybody is to be replaced."""
        if not self._threshold:
            return False
        self._at = [at for at in self._at if now - at < self._interval] + [now]
        if len(self._at) < self._threshold:
            return False
        self._at = []
        return True
