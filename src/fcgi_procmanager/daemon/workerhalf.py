"""What a supervised process has of its supervisor: the line on which it asks, and the lifeline.

Runs in the supervised process. Code of the application runs there, which waits for what it likes: the end of the supervisor comes
as a signal.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
from typing import Callable

from ..system.atfork import AtFork
from ..system.poll import any_readable
from .line import Line
from .supervised import Ends


class WorkerHalf:
    """orphaned: called in a handler, when the supervisor is gone."""

    def __init__(self, ends: Ends, orphaned: Callable[[], None]) -> None:
        ends.keep_workers()
        self._ends: Ends | None = ends
        self._line = Line(ends.theirs)
        self._orphaned = orphaned
        _at_fork.add(self)

    @property
    def pipe(self) -> socket.socket | None:
        return self._line.socket if self._ends is not None else None

    def watch(self) -> None:
        """From now on. Rejected: a thread that waits, since an application that forks may have none; PR_SET_PDEATHSIG, which is
        Linux's only, and another thread of the parent sets off. What remains: a signal that comes in the moment in which the process
        enters a wait of its own is acted on after that wait (PEP 475), and nobody is left to repeat it."""
        assert self._ends is not None
        lifeline = self._ends.lifeline
        signal.signal(signal.SIGIO, self._look)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGIO])
        with contextlib.suppress(OSError):
            fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
            fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | fcntl.FASYNC)
        # The supervisor may have died before there was anybody to be told.
        self._look(0, None)

    def _look(self, number: int, frame: object) -> None:
        if self._ends is not None and any_readable(self._ends.lifeline):
            self._orphaned()

    def ask(self, word: str) -> str:
        """Raises OSError, and EOFError when the supervisor is gone or this is a child of the supervised process."""
        if self._ends is None:
            raise EOFError("Supervisor pipe is not defined")
        return self._line.ask(word)

    def close(self) -> None:
        """In a child that the application forks: two that ask on one line get each other's answers."""
        if self._ends is not None:
            self._ends.close()
            self._ends = None


_at_fork = AtFork(WorkerHalf.close)
