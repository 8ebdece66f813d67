"""`fcgi-procmanager stop` and `reload`: a running manager, found by its PID file and told by signal.

Runs in a process of its own, beside the pool. Must never signal a process that is not known to hold the PID file, nor wait
without a limit.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import time
from collections.abc import Iterator
from typing import Any

import psutil

from ..basics import exits
from ..basics.clock import milliseconds, monotonic
from ..errors import ConfigError
from ..system.pidfile import holder
from .arguments import Options, seconds
from .hosting import STARTING
from .messages import complain

__all__ = ["add"]

_TIMEOUT = 65.0  # seconds: the default die_timeout, and 5 to spare
_INTERVAL = 0.02  # seconds between two looks at the workers
_SETTLED = 0.2  # seconds without a change: what is broken at once shows by then
_PAUSE = 1.0  # seconds without any worker, after some ended: they have failed several times in a row
_STOP = """\
Ask the manager to stop gently and wait until it is gone. Exit status 0 when it is, 1 when none was running or it is still
there after the time limit.
"""
_RELOAD = """\
Ask the manager to replace its workers and wait until that is done: every worker that was there is gone, and as many new
ones are ready. Exit status 0 when that is so, 1 when it did not come so far, or none was running.
"""


def add(commands: argparse._SubParsersAction[Any]) -> None:
    for name, run, purpose, text in (
        ("stop", stop, "stop a running pool gently", _STOP),
        ("reload", reload, "replace the workers of a running pool", _RELOAD),
    ):
        parser = commands.add_parser(name, help=purpose, description=text)
        parser.set_defaults(run=run, parser=parser)
        parser.add_argument("--pidfile", required=True, metavar="FILE", help="PID file of the manager")
        parser.add_argument(
            "--timeout", type=seconds, default=_TIMEOUT, metavar="SECONDS", help="how long to wait (default: 65)"
        )


def stop(options: Options) -> int:
    with _found(options.pidfile) as manager:
        if manager is None:
            return _not_running(options.pidfile)
        manager.send(signal.SIGTERM)
        if manager.ends_within(options.timeout):
            return exits.OK
        complain(
            f"process {manager.pid} is still stopping after {options.timeout:g} s: wait longer with --timeout, "
            f"or end it at once with 'kill -QUIT {manager.pid}'"
        )
        return exits.FAILED


def reload(options: Options) -> int:
    with _found(options.pidfile) as manager:
        if manager is None:
            return _not_running(options.pidfile)
        pool = Pool(manager.pid)
        manager.send(signal.SIGHUP)
        failure = _follow(manager, pool, options.timeout)
        if failure is None:
            return exits.OK
        complain(failure)
        return exits.FAILED


def _follow(manager: Manager, pool: Pool, timeout: float) -> str | None:
    """Watch the pool until it is renewed: None, or what went wrong."""
    deadline = monotonic() + timeout
    while not manager.ends_within(min(_INTERVAL, max(0.0, deadline - monotonic()))):
        pool.look()
        if pool.renewed:
            return None
        if pool.failing:
            return "the new workers end before they are ready: the manager's log says why; it goes on trying"
        if monotonic() >= deadline:
            return f"not reloaded after {timeout:g} s: {pool.describe()}; wait longer with --timeout"
    return f"the manager (process {manager.pid}) ended while it was to reload: its log says why"


def _not_running(path: str) -> int:
    complain(f"not running: no living process holds {path}")
    return exits.FAILED


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
            time.sleep(min(_INTERVAL, max(0.0, deadline - monotonic())))
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
def _found(path: str) -> Iterator[Manager | None]:
    """The manager that holds the PID file, None if none does."""
    if os.path.lexists(path) and not os.access(path, os.R_OK):
        raise ConfigError(f"{path} may not be read by this user: run this as the owner of the pool")
    pid = holder(path)
    try:
        manager = None if pid is None else Manager(pid)
    except ProcessLookupError:
        manager = None
    try:
        # Asked again: the process may have ended, and its number been given away, before its descriptor was open.
        yield manager if manager is not None and holder(path) == pid else None
    finally:
        if manager is not None:
            manager.close()


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
