"""The supervised process, as a part of its supervisor's loop: forked, heard, started again after its end.

Runs in the supervisor. Must never start one while another is there, nor wait for what it says.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from typing import Callable

from ..basics.clock import FOREVER, monotonic
from ..basics.exits import Exit
from ..children import launch
from ..children.registry import WORKER, Child, Children, Registry
from ..events.loop import Part
from .delays import Delays
from .line import Line


class Ends:
    """What a supervised process and its supervisor have of each other: the line, and the lifeline, whose end of file says that
    the supervisor is gone."""

    ours: socket.socket
    theirs: socket.socket
    lifeline: int
    held: int

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.lifeline, self.held = os.pipe()

    def keep_supervisors(self) -> None:
        self.theirs.close()
        os.close(self.lifeline)
        self.lifeline = -1

    def keep_workers(self) -> None:
        self.ours.close()
        os.close(self.held)
        self.held = -1

    def close(self) -> None:
        """May be called twice."""
        self.ours.close()
        self.theirs.close()
        for end in (self.lifeline, self.held):
            if end >= 0:
                os.close(end)
        self.lifeline = self.held = -1


class Supervised(Part):
    """notify: for one line of the log. said: called with each word of the process. delay: asked for the seconds before it is
    started again. wanted: whether there is to be one."""

    kind = WORKER

    def __init__(
        self,
        registry: Registry,
        notify: Callable[[str], None],
        said: Callable[[str], None],
        delay: Callable[[], float],
    ) -> None:
        self.children: Children = registry.of(self.kind)
        self.wanted: bool = True
        self.ends: Ends | None = None
        self.line: Line | None = None
        self._start_at = monotonic()
        self._notify = notify
        self._said = said
        self._delay = delay
        self._delays = Delays()

    @property
    def is_there(self) -> bool:
        return bool(len(self.children))

    def is_due(self, now: float) -> bool:
        return now >= self.next_at

    @property
    def next_at(self) -> float:  # type: ignore[override]
        return self._start_at if self.wanted and not self.is_there else FOREVER

    def descriptors(self) -> Iterable[int]:
        return self.line.descriptors() if self.line is not None else ()

    def turn(self, now: float) -> bool:
        for word in self.line.hear() if self.line is not None else ():
            self._said(word)
        return False

    def start(self, become: Callable[[set[int]], object]) -> bool:
        """Fork it. False in the child, where `become` was called with the mask of signals, and which has its ends in `ends`."""
        ends = Ends()
        try:
            pid = launch.fork(lambda pid: self.children.add(pid, monotonic()), become)
        except OSError as error:
            ends.close()
            delay = self._delays.ended(0, False, self._delay())
            self._notify(f"Couldn't fork: {error.strerror}; the next attempt is in {delay:g} s")
            self._start_at = monotonic() + delay
            return True
        self.ends = ends
        if pid == 0:
            return False
        ends.keep_supervisors()
        self.line = Line(ends.ours)
        self._start_at = FOREVER
        return True

    def resume(self) -> None:
        """There is to be one again, now: it was ended for a successor that has not come."""
        self.wanted = True
        self._start_at = monotonic()

    def ended(self, child: Child, exit: Exit) -> None:
        self.turn(monotonic())  # its last words
        self._let_go()
        now = monotonic()
        text = f"Supervised process {child.pid} exited with status {exit}"
        if self.wanted and child.ladder is None:
            delay = self._delays.ended(now - child.spawned_at, exit.clean, self._delay())
            if self._delays.failures > 1:
                text += f"; {self._delays.failures} have ended soon, one after the other: the next one starts in {delay:g} s"
            self._start_at = now + delay
        elif self._start_at == FOREVER:  # it was killed because it has asked for it
            self._start_at = now + self._delay()
        self._notify(text)

    def stop(self) -> None:
        self.wanted = False

    def close(self) -> None:
        self._let_go()

    def _let_go(self) -> None:
        if self.ends is not None:
            self.ends.close()
        self.ends = self.line = None
