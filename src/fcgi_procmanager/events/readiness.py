"""What systemd is told of the pool, as a part of the manager's loop."""

from __future__ import annotations

from typing import Callable

from ..system import sdnotify
from .loop import Part


class Readiness(Part):
    """complete: whether as many workers are ready as are wanted, and nobody is leaving."""

    def __init__(self, complete: Callable[[], bool]) -> None:
        self._complete = complete
        self._announce = True

    def turn(self, now: float) -> bool:
        if self._announce and self._complete():
            self._announce = False
            sdnotify.ready()
        return False

    def reloading(self) -> None:
        self._announce = True
        sdnotify.reloading()

    def stop(self) -> None:
        self._announce = False
        sdnotify.stopping()
