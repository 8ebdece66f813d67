"""Children of the application in its manager, which are told to end with the pool: a part of the manager's loop.

Runs in the manager. Their end is nobody's news. Source: foreign_child of POE::Component::Daemon 0.1004.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..manager.parts import PoolPart

if TYPE_CHECKING:
    from ..manager.half import ManagerHalf


class Foreign(PoolPart):
    def __init__(self) -> None:
        self._half: ManagerHalf | None = None
        self._pids: set[int] = set()

    def add(self, pid: int) -> None:
        self._pids.add(pid)

    def begin(self, half: ManagerHalf) -> None:
        self._half = half

    def stop(self) -> None:
        while self._pids and self._half is not None:
            self._half.reaper.ask_foreign(self._pids.pop())

    def forked(self) -> None:
        """They are the manager's children, not those of its workers."""
        self._half = None
        self._pids.clear()
