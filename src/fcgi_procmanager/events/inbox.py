"""Signals to the manager, as a part of its loop: noted by handlers, kept here in order until they are acted on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Callable

from ..system.signals import Signals
from .loop import Part


class Inbox(Part):
    """child_ended: called when SIGCHLD has come. received: how often each signal came."""

    def __init__(self, signals: Signals, child_ended: Callable[[], None]) -> None:
        self.names: list[str] = []
        self.received: dict[str, int] = {}
        self._signals = signals
        self._child_ended = child_ended

    def descriptors(self) -> Iterable[int]:
        return (self._signals.fileno(),) if self._signals.open else ()

    def turn(self, now: float) -> bool:
        for name in self._signals.take():
            self.received[name] = self.received.get(name, 0) + 1
            if name == "CHLD":
                self._child_ended()
            else:
                self.names.append(name)
        return bool(self.names)

    @property
    def called(self) -> bool:
        """A signal waits to be acted on, and it says more than that a child has ended."""
        return bool(self.names) or any(name != "CHLD" for name in self._signals.noted)
