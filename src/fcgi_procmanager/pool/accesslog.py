"""The log of requests, as a part of the manager's loop: a line for each, in a file that all workers have open.

Runs in the manager, which opens the file before its first fork, and in each worker, which writes to it. A line is one write to a descriptor
that appends: lines never mix, whoever is killed. Must never fail a request, nor make one wait for somebody who does not read.
"""

from __future__ import annotations

import contextlib
import os
import select
from functools import partial
from typing import TYPE_CHECKING, Callable

from ..basics import log
from ..errors import ConfigError
from ..fastcgi.logged import Answered, LoggedRequest, Times, cpu, cpu_parts
from ..manager.parts import PoolPart
from ..system.logs import open_log
from ..system.memory import Resident
from .accessformat import Format, Origin, compile_format, fields

if TYPE_CHECKING:
    from ..manager.half import ManagerHalf
    from .poolmanager import PoolManager

STANDARD_ERROR = "-"
LOGGER = "fcgi_procmanager.access"

_INFO = 20  # of `logging`, which is not loaded for it
_STANDARD_ERROR = 2
_LEVEL = b"<6>"  # for the collector (levels.py), which takes it off
_PATIENCE = 100  # milliseconds that a reader of standard error gets


class AccessLog(PoolPart):
    """target: an absolute path, or "-" for the standard error of each worker. times, resident: see `fastcgi.logged.Log`.

    request: makes the requests of an accept loop."""

    reopens_in_worker: bool

    def __init__(self, manager: PoolManager, target: str, format: str | None) -> None:
        """Raises ConfigError."""
        self._manager = manager
        self.target = target
        self._format: Format = compile_format(format)
        self._is_file = self.reopens_in_worker = target != STANDARD_ERROR
        self._descriptor = -1 if self._is_file else _STANDARD_ERROR
        self._origin = Origin("", 0, 0)
        self._untold = ""  # what went wrong in a handler
        self._loses = False  # lines, just now; it has been said
        self._is_torn = False  # the last line is there in part: the disk was full
        self._stalled = False  # nobody reads standard error
        measures = self._format.measures
        self.times: Callable[[], Times] | None = cpu_parts if "S" in measures else cpu if "C" in measures else None
        self.resident: Callable[[], int] | None = None
        self.request: partial[LoggedRequest] = partial(LoggedRequest, self)

    # -- the file -----------------------------------------------------------------------------------------------------

    def begin(self, half: ManagerHalf) -> None:
        """Raises ConfigError. A manager that has executed itself opens the file once more; workers of before have their own."""
        if self._is_file:
            half.hear("USR1")
            self.open()

    def open(self) -> None:
        """And in a process that has no workers, all that a worker has. Raises ConfigError."""
        if self._is_file:
            self._open()
        self.forked()

    def reopen(self) -> None:
        if self._is_file:
            try:
                self._open()
            except ConfigError as error:
                self._manager.notify(f"{error}; the former one goes on")

    def reopen_in_worker(self) -> None:
        """What goes wrong is said at the next request: nothing can be written in a handler."""
        try:
            self._open()
        except ConfigError as error:
            self._untold = f"{error}; the former one goes on"

    def _open(self) -> None:
        """In place of the former file, in one step: a line that is just being written by a thread goes to one of the two."""
        opened = open_log(self.target, "access_log ", os.O_NONBLOCK)
        if self._descriptor < 0:
            self._descriptor = opened
            return
        try:
            os.dup2(opened, self._descriptor, inheritable=False)
        finally:
            os.close(opened)

    def close(self) -> None:
        if self._is_file and self._descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = -1

    def forked(self) -> None:
        self._origin = Origin(self._manager.pool_name, self._manager.manager_pid, os.getpid())
        if "M" in self._format.measures:
            self.resident = Resident()

    # -- a line -------------------------------------------------------------------------------------------------------

    def write(self, answered: Answered) -> None:
        """Worker, at the end of a request. Raises nothing."""
        try:
            if self._untold:
                untold, self._untold = self._untold, ""
                self._manager.notify(untold)
            logger = log.configured_logger(LOGGER)
            if logger is None:
                self._put(self._format.line(answered, self._origin))
            elif logger.isEnabledFor(_INFO):
                line = self._format.line(answered, self._origin).decode().rstrip("\n")
                logger.info("%s", line, extra=fields(answered, self._origin))
            self._loses = False
        except Exception as error:
            self._lost(error)

    def _put(self, line: bytes) -> None:
        """Raises OSError."""
        if not self._is_file and not self._has_room():
            return
        if not self._is_file and self._manager._collects_output:
            line = _LEVEL + line
        if self._is_torn:
            line = b"\n" + line
        self._is_torn = os.write(self._descriptor, line) < len(line)

    def _has_room(self) -> bool:
        """Whether standard error takes a line without waiting for a reader who may never come; a slow one gets a moment."""
        poller = select.poll()
        poller.register(_STANDARD_ERROR, select.POLLOUT)
        self._stalled = not poller.poll(0 if self._stalled else _PATIENCE)
        return not self._stalled

    def _lost(self, error: Exception) -> None:
        """Said once, until a line can be written again."""
        if self._loses:
            return
        self._loses = True
        why = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        if self._is_file:
            self._manager.notify(f"access_log {self.target}: {why}: lines are lost")
