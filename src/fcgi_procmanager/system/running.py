"""A running manager or superdaemon, found by its PID file.

Runs in a process of its own, beside it. Must never signal a process that is not known to hold the PID file.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterator

from ..basics.clock import milliseconds, monotonic
from ..errors import ConfigError, PidFileError
from .pidfile import Claim, claim

__all__ = ["Running", "found"]

_INTERVAL = 0.02  # seconds between two looks, where the end of a process cannot be waited for


class Running:
    """A running process. With a process descriptor, where the system has them, it cannot be taken for another process
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
def found(path: str, locked_only: bool = False) -> Iterator[Running | None]:
    """The process that holds the PID file, None if none does. locked_only: who has not locked it does not hold it. Raises ConfigError, and PidFileError when it cannot be
    proven who that is."""
    if os.path.lexists(path) and not os.access(path, os.R_OK):
        raise ConfigError(f"{path} may not be read by this user: run this as the owner of the pool")
    pid = _proven(path, locked_only)
    try:
        running = None if pid is None else Running(pid)
    except ProcessLookupError:
        running = None
    try:
        # Asked again: the process may have ended, and its number been given away, before its descriptor was open.
        yield running if running is not None and _proven(path, locked_only) == pid else None
    finally:
        if running is not None:
            running.close()


def _proven(path: str, locked_only: bool) -> int | None:
    """Who holds the PID file, None for nobody."""
    # The number alone is not enough: it may stand in a file that a power failure or a copy has left, and have been given
    # to anybody since. A manager of ours always has the lock.
    asked = claim(path)
    if asked.proven or asked == Claim():
        return asked.pid
    if not asked.locked and locked_only:
        return None
    if not asked.locked:
        raise PidFileError(
            f"{path} names process {asked.pid}, which has not locked it and may be anybody: see 'ps -p {asked.pid}'; "
            f"if it is the manager, 'kill {asked.pid}' stops it, else remove the file"
        )
    pids = " ".join(map(str, sorted(asked.lockers)))
    who = f"process {pids}, but does not name it: see 'ps -p {pids}'" if pids else "a process that it does not name"
    raise PidFileError(f"{path} is locked by {who}; if it is the manager, 'kill {pids or 'PID'}' stops it")


def _is_alive(pid: int) -> bool:
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
