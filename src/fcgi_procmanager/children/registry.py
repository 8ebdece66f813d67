"""The registry of workers: who was forked, when, in which state. A plain object without a system call.

Runs in the manager. A worker forgets its copy first thing.
"""

from __future__ import annotations

from ..basics.clock import FOREVER
from ..basics.states import WorkerEvent, WorkerState, worker_life
from .ladder import Ladder


class Child:
    """One worker, seen from its manager. Times are monotonic seconds."""

    __slots__ = ("_life", "excused", "ladder", "pid", "ready_at", "spawned_at")

    def __init__(self, pid: int, now: float) -> None:
        self.pid = pid
        self.spawned_at = now
        self.ready_at = FOREVER
        self.ladder: Ladder | None = None  # set when it is asked to leave
        self.excused = False  # it has served, or said that it leaves: a clean end is no failure
        self._life = worker_life()

    @property
    def state(self) -> WorkerState:
        return self._life.state

    def on(self, event: WorkerEvent) -> None:
        self._life.on(event)


class Children:
    """Every worker that has been forked and not yet reaped; each is in one of two drawers, oldest first."""

    def __init__(self) -> None:
        self.staying: dict[int, Child] = {}
        self.leaving: dict[int, Child] = {}  # asked to leave
        self.ready = 0  # of those staying, how many have announced that they can serve

    def __len__(self) -> int:
        return len(self.staying) + len(self.leaving)

    @property
    def pids(self) -> list[int]:
        return [*self.staying, *self.leaving]

    def get(self, pid: int) -> Child | None:
        return self.staying.get(pid) or self.leaving.get(pid)

    def add(self, pid: int, now: float) -> Child:
        child = self.staying[pid] = Child(pid, now)
        return child

    def became_ready(self, pid: int, now: float) -> bool:
        """A worker announced itself. False when nobody of that pid is here any more."""
        child = self.get(pid)
        if child is None:
            return False
        child.on(WorkerEvent.READY)
        if child.ready_at == FOREVER:
            child.ready_at = now
            self.ready += pid in self.staying
        return True

    def retire(self, child: Child, ladder: Ladder) -> None:
        """It is asked to leave. Asked again, the nearer deadline holds: a repeated stop must not last longer."""
        child.on(WorkerEvent.RETIRE)
        if child.ladder is None:
            self._forget_staying(child.pid)
            self.leaving[child.pid] = child
        elif child.ladder.deadline <= ladder.deadline:
            return
        child.ladder = ladder

    def remove(self, pid: int) -> Child | None:
        return self._forget_staying(pid) or self.leaving.pop(pid, None)

    def clear(self) -> None:
        self.__init__()  # type: ignore[misc]

    def _forget_staying(self, pid: int) -> Child | None:
        child = self.staying.pop(pid, None)
        if child is not None and child.ready_at < FOREVER:
            self.ready -= 1
        return child
