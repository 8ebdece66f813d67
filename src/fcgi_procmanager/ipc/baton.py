"""The baton: a wake-up that one worker owes to another; see worker/gate.py for when it is passed.

Made in the manager before its first fork, shared by all its workers. Must never block.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from ..system.poll import any_readable


class Baton:
    """The pipe that hands an owed wake-up to another worker. Made in the manager, shared by all its workers."""

    read_end: int

    def __init__(self, left: Sequence[int] = ()) -> None:
        """left: the `descriptors` of one that this process had before it executed itself."""
        self.read_end, self._write_end = left or os.pipe()
        os.set_blocking(self.read_end, False)
        os.set_blocking(self._write_end, False)

    @property
    def descriptors(self) -> list[int]:
        return [self.read_end, self._write_end]

    def give(self) -> None:
        try:
            os.write(self._write_end, b"\0")
        except OSError:
            pass  # full: nobody is idle, and whoever becomes idle tries to accept first

    def take(self) -> None:
        try:
            os.read(self.read_end, 1)
        except OSError:
            pass  # another worker was faster

    @property
    def given(self) -> bool:
        """Somebody has given it, and nobody has taken it yet."""
        return any_readable(self.read_end)

    def close(self) -> None:
        """May be called twice. What is closed is neither given nor taken."""
        for end in (self.read_end, self._write_end):
            if end >= 0:
                os.close(end)
        self.read_end = self._write_end = -1
