"""The pool of a running manager, seen from outside.

Runs in a process of its own, beside the pool. Must never touch it.
"""

from __future__ import annotations

import contextlib
import os
import signal

import psutil

from ..basics.clock import monotonic
from ..system.idle import catches
from .hosting import STARTING

__all__ = ["INTERVAL", "Pool"]

INTERVAL = 0.02  # seconds between two looks at the workers
_SETTLED = 0.2  # seconds without a change: what is broken at once shows by then
_SETTLED_WITH_LESS = 1.0  # the same, where there are fewer than there were
_PAUSE = 1.0  # seconds without any worker, after some ended: they have failed several times in a row


class Pool:
    """The workers of a manager, seen from outside: those that were there at first, and those that came.

    A worker runs its manager's program, or is a copy of another one (`exec`). Its title says while it is starting, if its manager
    was started by this command; of any other worker it can only be seen that it does not end at once.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._of_programs = _keeps_programs(pid)
        self._first_title = _title_of(pid)
        self._titles_tell = False  # a worker that has just been forked still has its manager's title, and others do not
        self._starting = self._workers()  # worker -> whether it is starting
        self._old = set(self._starting)
        # In the middle of another reload there may be a quarter more than there is to be.
        self._midway = any(self._starting.values())
        self._gone: set[psutil.Process] = set()  # new ones that have ended
        self._changed_at = monotonic()

    def look(self) -> None:
        """See who is there now."""
        if not self._starting and not self._of_programs:
            self._of_programs = _keeps_programs(self._pid)  # there was nobody who could have told
        before, self._starting = self._starting, self._workers()
        if before.keys() != self._starting.keys():
            self._changed_at = monotonic()
            self._gone |= before.keys() - self._starting.keys() - self._old

    @property
    def can_be_renewed(self) -> bool:
        """Whether the manager executes new code itself at USR2: one that does not catch it would end."""
        return not self._of_programs and catches(self._pid, signal.SIGUSR2)

    @property
    def renewed(self) -> bool:
        missing = max(1, len(self._old)) - self._ready
        midway = self._midway or self._of_programs  # whose titles do not tell
        spare = max(1, len(self._old) // 5) if midway and not self._gone else 0
        settled = monotonic() - self._changed_at >= (_SETTLED if missing <= 0 else _SETTLED_WITH_LESS)
        enough = self._ready and missing <= spare
        return bool(enough and settled and not self._remaining and self._ready == len(self._starting))

    @property
    def failure(self) -> str:
        """Why a rolling reload was given up, as the manager's title says; empty if it does not."""
        title = _title_of(self._pid)
        _, found, reason = title.partition(" failed: ")
        return reason.removesuffix(")") if found and "(reload " in title and title != self._first_title else ""

    @property
    def failing(self) -> bool:
        """None is ready, and more new ones have ended than one round of them, or the manager has begun to hold back."""
        holding_back = bool(self._gone) and not self._starting and monotonic() - self._changed_at >= _PAUSE
        return not self._ready and (holding_back or len(self._gone) >= len(self._old) + 2)

    @property
    def progress(self) -> str:
        return f"{len(self._old) - self._remaining} of {len(self._old)} workers replaced"

    def describe(self) -> str:
        return f"{self._remaining} of {len(self._old)} workers still to be replaced, {self._ready} new ones ready"

    @property
    def _remaining(self) -> int:
        return len(self._old & self._starting.keys())

    @property
    def _ready(self) -> int:
        return sum(not starting for worker, starting in self._starting.items() if worker not in self._old)

    def _workers(self) -> dict[psutil.Process, bool]:
        try:
            manager = psutil.Process(self._pid)
            program, title, children = _program(manager), _title(manager), manager.children()
        except psutil.NoSuchProcess:
            return {}
        titles: dict[psutil.Process, str] = {}
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.status() != psutil.STATUS_ZOMBIE and (self._of_programs or _is_worker(child, program)):
                    titles[child] = _title(child)
        self._titles_tell = self._titles_tell or any(_settled(own, title) for own in titles.values())
        return {child: self._is_starting(own, title) for child, own in titles.items()}

    def _is_starting(self, title: str, managers: str) -> bool:
        """By its title. One that is ending has none, and will not be ready either."""
        return not title or title.endswith(STARTING) or (title == managers and self._titles_tell)


def _keeps_programs(pid: int) -> bool:
    """Whether the manager keeps copies of a program: they have sessions of their own, as Caddy has, and workers have not."""
    with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
        manager = psutil.Process(pid)
        children = manager.children()
        workers = [child for child in children if _is_worker(child, _program(manager))]
        return bool(children) and not workers
    return False


def _is_worker(child: psutil.Process, program: str | None) -> bool:
    """And no program, canary, watcher or web server, which have sessions of their own."""
    with contextlib.suppress(ProcessLookupError):
        return _program(child) == program and os.getsid(child.pid) != child.pid
    return False


def _title_of(pid: int) -> str:
    try:
        return _title(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return ""


def _settled(title: str, managers: str) -> bool:
    """A title that a worker keeps. One that is starting shows another only for now: it may become its manager's."""
    return title not in ("", managers) and not title.endswith(STARTING)


def _title(process: psutil.Process) -> str:
    return " ".join(process.cmdline()).rstrip()


def _program(process: psutil.Process) -> str | None:
    """What it runs, which tells a worker from Caddy and from helpers that the application started; None if secret."""
    try:
        return str(process.exe())
    except psutil.AccessDenied:
        return None
