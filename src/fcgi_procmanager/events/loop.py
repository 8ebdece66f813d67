"""The loop of a process that keeps children: what it waits for, and the parts that attend it.

Runs in a manager, and in the superdaemon. A part is one concern: signals, reports of the workers, systemd, a web server in
front, a log. The loop knows none of them. Must never wait for anything but the descriptors and the times of its parts.
"""

from __future__ import annotations

import select
from collections.abc import Iterable

from ..basics.clock import FOREVER, milliseconds, monotonic
from ..basics.exits import Exit
from ..children.registry import Child
from ..system.signals import Signals


class Part:
    """Something that attends the loop. What a part does not need, it leaves as it is here.

    next_at: monotonic seconds at which it wants a turn. kind: of the children that are its own, in the words of the log.
    holds_stop: it has something to finish before the workers are asked to leave.
    """

    next_at: float = FOREVER
    kind: str = ""
    holds_stop: bool = False

    def descriptors(self) -> Iterable[int]:
        """Those that wake the loop when there is something to read."""
        return ()

    def turn(self, now: float) -> bool:
        """Do what is due. True when whoever runs the loop should look at its children."""
        return False

    def ended(self, child: Child, exit: Exit) -> None:
        """A child of this part's kind is gone; it was announced already."""

    def stop(self) -> None:
        """A gentle stop begins."""

    def close(self) -> None:
        """The process leaves, for whatever reason. May be called more than once."""


class Loop:
    """One wait for all parts. signals: whose wakeup descriptor is in place meanwhile."""

    def __init__(self, signals: Signals, parts: Iterable[Part]) -> None:
        self._signals = signals
        self.parts: tuple[Part, ...] = tuple(parts)

    @property
    def next_at(self) -> float:
        return min((part.next_at for part in self.parts), default=FOREVER)

    def turn(self) -> bool:
        """Let each part do what is due. True when one of them says that the children should be looked at."""
        now = monotonic()
        news = [part.turn(now) for part in self.parts]  # each has its turn
        return any(news)

    def sleep(self, until: float) -> None:
        """Wait until a part is called, or a time (monotonic seconds)."""
        poller = select.poll()
        for part in self.parts:
            for descriptor in part.descriptors():
                poller.register(descriptor, select.POLLIN)
        owner = self._signals.claim()
        poller.poll(milliseconds(until, monotonic()))
        self._signals.give_back(owner)
