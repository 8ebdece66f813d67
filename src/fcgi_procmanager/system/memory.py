"""How much memory this process has, asked again and again.

Runs in a worker. Must never fail: what cannot be known is 0.
"""

from __future__ import annotations

import os

_FILE = "/proc/self/statm"


class Resident:
    """Made in the process that asks: the file that is kept open is about this one. Calling it returns bytes (RSS)."""

    def __init__(self) -> None:
        self._page = os.sysconf("SC_PAGE_SIZE")
        try:
            self._file = os.open(_FILE, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._file = -1

    def __call__(self) -> int:
        if self._file < 0:
            return _elsewhere()
        try:
            return int(os.pread(self._file, 100, 0).split(None, 2)[1]) * self._page
        except (OSError, IndexError, ValueError):  # the application has closed it, or put another one in its place
            return 0


def _elsewhere() -> int:
    import psutil

    try:
        return int(psutil.Process().memory_info().rss)
    except psutil.Error:
        return 0
