"""A program that was started, and whether it is known to be good.

Runs in a manager of programs, and in the superdaemon. Must never take the silence of a program that announces itself for health.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from typing import Callable

from ..basics.clock import monotonic
from ..ipc.announcement import Announcement
from . import launch
from .launch import Program
from .registry import Child, Children
from .trial import Trial, Verdict


class Started:
    """child: what was started. Kept until its end: a program that says once more that it is ready must find somebody who listens."""

    def __init__(self, child: Child, trial: Trial, announcement: Announcement | None) -> None:
        self.child = child
        self._trial = trial
        self._announcement = announcement

    @property
    def next_at(self) -> float:
        return self._trial.next_at

    @property
    def words(self) -> str:
        """What it has said last of how it is, as it came."""
        return self._announcement.words if self._announcement is not None else ""

    def descriptors(self) -> Iterable[int]:
        """Readable when it says something."""
        return self._announcement.descriptors() if self._announcement is not None else ()

    def hear(self) -> None:
        """What it has said since the last call."""
        if self._announcement is not None and self._announcement.is_ready(self.child.pid):
            self._trial.announced = True

    def verdict(self, now: float) -> Verdict:
        self.hear()
        verdict = self._trial.verdict(now)
        # It may have died long ago while we were held up, and what its end means is decided when it is reaped.
        return Verdict.WAIT if verdict is Verdict.GOOD and _has_ended(self.child.pid) else verdict

    def close(self) -> None:
        """May be called twice."""
        if self._announcement is not None:
            self._announcement.close()
            self._announcement = None


def _has_ended(pid: int) -> bool:
    if not hasattr(os, "waitid"):
        return False
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True  # somebody else has reaped it


def start(
    program: Program,
    children: Children,
    generation: int,
    interval: float,
    ready_timeout: float | None,
    forked: Callable[[int], object] = int,
) -> Started:
    """Run `program` as a child of this kind. Raises as `launch.start`."""
    announcement = Announcement() if ready_timeout is not None else None
    try:
        if announcement is not None:
            number = max(2, *program.descriptors) + 1 if program.descriptors else 3
            program = replace(
                program,
                environment={**program.environment, **announcement.environment(number)},
                descriptors={**program.descriptors, number: announcement.tell},
            )
        child = launch.start(program, children, generation, forked)
    except BaseException:
        if announcement is not None:
            announcement.close()
        raise
    if announcement is not None:
        announcement.started()
    return Started(child, Trial(monotonic(), interval, ready_timeout), announcement)
