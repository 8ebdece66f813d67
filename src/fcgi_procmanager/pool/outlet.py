"""Standard error, written without waiting for whoever reads it.

Runs in the manager, in any thread. A reader who is slow makes us keep what he has not taken; one who takes nothing for a second costs lines, which are
counted: nobody stops serving for want of a reader. What has been begun is ended: a line is whole or not there.
"""

from __future__ import annotations

import _thread
import os
import select
import stat
from collections import deque
from typing import Callable

from ..basics.clock import FOREVER, monotonic

_FULL = 1 << 18  # bytes that are kept, and then no more is asked for
_PATIENCE = 1.0  # seconds without a byte taken
_LOOK = 0.005  # seconds between two attempts
# A pipe that has room at all has so much, and so has a socket; a terminal takes it.
_PIECE = select.PIPE_BUF
_STANDARD_ERROR = 2


class Outlet:
    """left_out: called with the number of lines that were, when there is room again; returns the line that says it."""

    def __init__(self, left_out: Callable[[int], bytes]) -> None:
        self._tell = left_out
        self._lock = _thread.allocate_lock()  # a thread of the application may have something to say
        self._kept: deque[bytes] = deque()
        self._size = 0  # of all that is kept
        self._taken = 0  # bytes of the first one that were written
        self._left_out = 0
        self._moved_at = 0.0  # when something was taken last, or the first was kept

    @property
    def is_full(self) -> bool:
        """More should not be asked for. Not when nobody takes anything: then more is left out."""
        return self._size >= _FULL and not self._is_stalled

    @property
    def next_at(self) -> float:
        """When to try again (monotonic seconds)."""
        return monotonic() + _LOOK if self._kept else FOREVER

    @property
    def _is_stalled(self) -> bool:
        return bool(self._kept) and monotonic() - self._moved_at >= _PATIENCE

    def write(self, line: bytes) -> None:
        with self._lock:
            if self._kept:
                self._flush()
            if self._size >= _FULL and self._is_stalled:
                self._left_out += 1
                return
            if not self._kept:
                self._moved_at = monotonic()
            self._keep(line)
            self._flush()

    def flush(self) -> None:
        """What there is room for."""
        with self._lock:
            self._flush()

    def _keep(self, line: bytes) -> None:
        self._kept.append(line)
        self._size += len(line)

    def _flush(self) -> None:
        while self._kept:
            try:
                if not self._write_first():
                    return
            except BlockingIOError:  # somebody who shares it wants it so
                return
            except OSError:  # a full disk, a reader who is gone
                self._kept.clear()
                self._size = self._taken = 0
            if self._left_out and not self._kept:
                count, self._left_out = self._left_out, 0
                self._keep(self._tell(count))

    def _write_first(self) -> bool:
        """False when there is no room."""
        line = self._kept[0]
        piece = line if not self._taken else line[self._taken :]
        if not stat.S_ISREG(os.fstat(_STANDARD_ERROR).st_mode):
            poller = select.poll()
            poller.register(_STANDARD_ERROR, select.POLLOUT)
            if not poller.poll(0):
                return False
            piece = piece[:_PIECE]
        self._taken += os.write(_STANDARD_ERROR, piece)
        self._moved_at = monotonic()
        if self._taken >= len(line):
            self._kept.popleft()
            self._size -= len(line)
            self._taken = 0
        return True

    def settle(self, seconds: float) -> None:
        """The process ends, or becomes another: write what is kept, in so many seconds."""
        until = monotonic() + seconds
        self.flush()
        while self._kept and (left := until - monotonic()) > 0:
            poller = select.poll()
            poller.register(_STANDARD_ERROR, select.POLLOUT)
            poller.poll(min(left, _LOOK) * 1000)
            self.flush()
