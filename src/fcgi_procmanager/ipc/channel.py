"""The pipes between a manager and its workers: what keeps them together without a signal.

Made in the manager before its first fork; a worker keeps its ends of them, a child of the application none. Must never wait for
the other side.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Sequence

from ..system.atfork import AtFork
from .baton import Baton

READY = b"R"  # it can serve
REFUSED = b"F"  # it cannot serve, trying again would not help, and why
SERVED = b"S"  # it has begun its first request, or was told to leave: if it ends with status 0, nothing has failed
BUSY = b"B"  # it has become busy, and fewer are idle than the manager wants to see
WORN = b"W"  # it is to be replaced, and why

_REPORT = struct.Struct("=cIH")  # kind, pid, length of the text that follows
_TEXT_LIMIT = 400  # bytes; with its header far below PIPE_BUF, so that reports of many workers never mix


class Channel:
    """The lifeline: only the manager has its write end, so its end of file says that the manager is gone. Reports: workers
    write, the manager reads. The baton: see ipc/baton.py.
    """

    lifeline: int
    reports: int

    def __init__(self, left: Sequence[int] = ()) -> None:
        """left: the `descriptors` of a channel that this process had before it executed itself."""
        if left:
            self.lifeline, self._lifeline_write, self.reports, self._reports_write, *baton = left
            self.baton: Baton = Baton(baton)
        else:
            self.lifeline, self._lifeline_write = os.pipe()
            self.reports, self._reports_write = os.pipe()
            os.set_blocking(self.reports, False)
            self.baton = Baton()
        self._unread = b""
        _at_fork.add(self)

    @property
    def descriptors(self) -> list[int]:
        """Manager: all of them."""
        own = [self.lifeline, self._lifeline_write, self.reports, self._reports_write]
        return own + self.baton.descriptors

    @property
    def reports_end(self) -> int:
        """Where reports are written."""
        return self._reports_write

    def keep_worker_ends(self) -> None:
        """Worker, first thing: with a write end of the lifeline it would keep its siblings from noticing."""
        os.close(self._lifeline_write)
        os.close(self.reports)
        self._lifeline_write = self.reports = -1

    def report(self, kind: bytes, text: str = "") -> None:
        """Worker: the one thing it has to say."""
        report(self._reports_write, kind, text)

    def read_reports(self) -> list[tuple[bytes, int, str]]:
        """Manager: what has been reported since the last call."""
        try:
            while chunk := os.read(self.reports, 65536):
                self._unread += chunk
        except BlockingIOError:
            pass
        reports = []
        while len(self._unread) >= _REPORT.size:
            kind, pid, length = _REPORT.unpack_from(self._unread)
            text = self._unread[_REPORT.size : _REPORT.size + length].decode(errors="replace")
            self._unread = self._unread[_REPORT.size + length :]
            reports.append((kind, pid, text))
        return reports

    def close(self) -> None:
        """May be called twice."""
        for fd in (self.lifeline, self._lifeline_write, self.reports, self._reports_write):
            if fd >= 0:
                os.close(fd)
        self.lifeline = self._lifeline_write = self.reports = self._reports_write = -1
        self.baton.close()


def report(descriptor: int, kind: bytes, text: str = "") -> None:
    """A worker or a canary, to its manager."""
    data = text.encode()[:_TEXT_LIMIT]
    with contextlib.suppress(OSError):  # no manager any more: noticed by the lifeline
        os.write(descriptor, _REPORT.pack(kind, os.getpid(), len(data)) + data)


_at_fork = AtFork(Channel.close)
