"""A running manager, found by its PID file, and its pool, seen from outside.

Runs in a process of its own, beside the pool. Must never signal a process that is not known to hold the PID file.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterator

import psutil

from ..basics.clock import milliseconds, monotonic
from ..errors import ConfigError, PidFileError
from ..system.pidfile import Claim, claim
from .hosting import STARTING

__all__ = ["INTERVAL", "Manager", "Pool", "found"]

INTERVAL = 0.02  # seconds between two looks at the workers
_SETTLED = 0.2  # seconds without a change: what is broken at once shows by then
_PAUSE = 1.0  # seconds without any worker, after some ended: they have failed several times in a row


class Manager:
    """A running manager. With a process descriptor, where the system has them, it cannot be taken for another process
    that was given its number; else the number is all there is."""

    def __init__(self, pid: int) -> None:
        """Raises ProcessLookupError."""
        self.pid = pid
        has_descriptors = hasattr(os, "pidfd_open") and hasattr(signal, "pidfd_send_signal")
        self._descriptor = _open_descriptor(pid) if has_descriptors else None

    def send(self, number: signal.Signals) -> None:
        """Raises ConfigError when that is not allowed. That it is gone meanwhile is noticed by whoever waits."""
        try:
            if self._descriptor is not None:
                signal.pidfd_send_signal(self._descriptor, number)
            else:
                os.kill(self.pid, number)
        except ProcessLookupError:
            pass
        except PermissionError:
            raise ConfigError(f"process {self.pid} may not be signalled by this user: run this as its owner") from None

    def ends_within(self, timeout: float) -> bool:
        """Wait for its end."""
        deadline = monotonic() + timeout
        if self._descriptor is not None:
            poller = select.poll()
            poller.register(self._descriptor, select.POLLIN)
            return bool(poller.poll(milliseconds(deadline, monotonic())))
        while _is_alive(self.pid) and monotonic() < deadline:
            time.sleep(min(INTERVAL, max(0.0, deadline - monotonic())))
        return not _is_alive(self.pid)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)


def _open_descriptor(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except OSError:
        return None  # an old kernel, or one that forbids it


@contextlib.contextmanager
def found(path: str) -> Iterator[Manager | None]:
    """The manager that holds the PID file, None if none does. Raises ConfigError, and PidFileError when it cannot be
    proven who that is."""
    if os.path.lexists(path) and not os.access(path, os.R_OK):
        raise ConfigError(f"{path} may not be read by this user: run this as the owner of the pool")
    pid = _proven(path)
    try:
        manager = None if pid is None else Manager(pid)
    except ProcessLookupError:
        manager = None
    try:
        # Asked again: the process may have ended, and its number been given away, before its descriptor was open.
        yield manager if manager is not None and _proven(path) == pid else None
    finally:
        if manager is not None:
            manager.close()


def _proven(path: str) -> int | None:
    """Who holds the PID file, None for nobody."""
    # The number alone is not enough: it may stand in a file that a power failure or a copy has left, and have been given
    # to anybody since. A manager of ours always has the lock.
    asked = claim(path)
    if asked.proven or asked == Claim():
        return asked.pid
    if not asked.locked:
        raise PidFileError(
            f"{path} names process {asked.pid}, which has not locked it and may be anybody: see 'ps -p {asked.pid}'; "
            f"if it is the manager, 'kill {asked.pid}' stops it, else remove the file"
        )
    pids = " ".join(map(str, sorted(asked.lockers)))
    who = f"process {pids}, but does not name it: see 'ps -p {pids}'" if pids else "a process that it does not name"
    raise PidFileError(f"{path} is locked by {who}; if it is the manager, 'kill {pids or 'PID'}' stops it")


def _is_alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class Pool:
    """The workers of a manager, seen from outside: those that were there at first, and those that came.

    A worker runs its manager's program. Its title says while it is starting, if its manager was started by this command; of
    another manager's worker it can only be seen that it does not end at once.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._titles_tell = False  # a worker that has just been forked still has its manager's title, and others do not
        self._starting = self._workers()  # worker -> whether it is starting
        self._old = set(self._starting)
        self._gone: set[psutil.Process] = set()  # new ones that have ended
        self._changed_at = monotonic()

    def look(self) -> None:
        """See who is there now."""
        before, self._starting = self._starting, self._workers()
        if before.keys() != self._starting.keys():
            self._changed_at = monotonic()
            self._gone |= before.keys() - self._starting.keys() - self._old

    @property
    def renewed(self) -> bool:
        enough = self._ready >= max(1, len(self._old))
        settled = monotonic() - self._changed_at >= _SETTLED
        return enough and settled and not self._remaining and self._ready == len(self._starting)

    @property
    def failing(self) -> bool:
        """None is ready, and more new ones have ended than one round of them, or the manager has begun to hold back."""
        holding_back = bool(self._gone) and not self._starting and monotonic() - self._changed_at >= _PAUSE
        return not self._ready and (holding_back or len(self._gone) >= len(self._old) + 2)

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
                if child.status() != psutil.STATUS_ZOMBIE and _program(child) == program:
                    titles[child] = _title(child)
        self._titles_tell = self._titles_tell or any(_settled(own, title) for own in titles.values())
        return {child: self._is_starting(own, title) for child, own in titles.items()}

    def _is_starting(self, title: str, managers: str) -> bool:
        """By its title. One that is ending has none, and will not be ready either."""
        return not title or title.endswith(STARTING) or (title == managers and self._titles_tell)


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
