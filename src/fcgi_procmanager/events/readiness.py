"""What systemd, or the superdaemon that started us, is told of our children, as a part of the loop."""

from __future__ import annotations

import os
from typing import Callable

from ..system import sdnotify
from .loop import Part


class Readiness(Part):
    """complete: whether everything that is wanted is there and ready, and nothing is being replaced."""

    def __init__(self, complete: Callable[[], bool]) -> None:
        self._complete = complete
        self._announce = True
        self._descriptor = sdnotify.take_descriptor()

    def turn(self, now: float) -> bool:
        if self._announce and self._complete():
            self._announce = False
            sdnotify.ready()
            if self._descriptor >= 0:
                sdnotify.write_newline(self._descriptor)
                self.close()
        return False

    def reloading(self) -> None:
        self._announce = True
        sdnotify.reloading()

    def stop(self) -> None:
        self._announce = False
        sdnotify.stopping()

    def close(self) -> None:
        """Also in a new worker: the newline is not its to write."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
