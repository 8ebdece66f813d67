"""The Python stack of a worker, asked for by its manager with a signal and written by the worker from the C handler of faulthandler, so
that it comes even while C code holds the interpreter.

The pipe is made in the manager before its first fork; all workers have its write end, and one is asked at a time. Must never wait for
a worker: one that hangs in the kernel does not answer.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

from ..basics.clock import monotonic

# Of those that nobody uses by custom; systems without them have few left.
SIGNAL = "RTMAX" if hasattr(signal, "SIGRTMAX") else "XCPU"
LOOK = 0.02  # seconds between two looks whether it is whole
_PATIENCE = 1.0  # seconds for it to begin
_LIMIT = 1 << 16  # bytes


class Stacks:
    """left: the `descriptors` of one that this process had before it executed itself."""

    def __init__(self, left: Sequence[int] = ()) -> None:
        self._read, self._write = left or os.pipe()
        os.set_blocking(self._read, False)
        self._unread = b""
        self._asked_at = 0.0

    @property
    def descriptors(self) -> list[int]:
        return [self._read, self._write]

    # -- manager ------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Somebody is asked now."""
        self._take()  # what one who was given up has written since
        self._unread = b""
        self._asked_at = monotonic()

    def answer(self) -> str | None:
        """The stack, one line a frame, the latest first; empty when there is none to be had, None while it may still come."""
        before = len(self._unread)
        self._take()
        if not self._unread:
            return "" if monotonic() >= self._asked_at + _PATIENCE else None
        # It is written piece by piece, without an end: it is whole when nothing has come for a while.
        return None if len(self._unread) > before else self._unread.decode(errors="replace").strip()

    def _take(self) -> None:
        try:
            while piece := os.read(self._read, 65536):
                self._unread = (self._unread + piece)[:_LIMIT]
        except BlockingIOError:
            pass

    def close(self) -> None:
        """May be called twice."""
        for end in (self._read, self._write):
            if end >= 0:
                os.close(end)
        self._read = self._write = -1

    # -- worker -------------------------------------------------------------------------------------------------------

    def answer_from_here(self, threads: bool) -> None:
        """From now on this worker answers. threads: more than one of them serves."""
        import faulthandler  # not above: few pools ask for it

        os.close(self._read)
        self._read = -1
        # A worker must not wait because nobody reads.
        os.set_blocking(self._write, False)
        faulthandler.register(getattr(signal, f"SIG{SIGNAL}"), file=self._write, all_threads=threads, chain=False)
