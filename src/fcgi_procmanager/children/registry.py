"""The registry of children: who was forked, as what, when, of which generation, in which state. Plain objects without a system
call.

Runs in the manager. A worker drops its copy first thing.
"""

from __future__ import annotations

from ..basics.clock import FOREVER
from ..basics.states import WorkerEvent, WorkerState, worker_life
from .ladder import Ladder

WORKER = "server"  # the kind of a worker, in the words of the log


class Child:
    """One child process, seen from its manager. Times are monotonic seconds.

    kind: what it is, in the words of the log. generation: how many reloads had been asked for when it was forked.
    served: it has begun a request, or was told to leave by somebody else.
    """

    __slots__ = ("_life", "generation", "kind", "ladder", "pid", "ready_at", "served", "spawned_at")

    def __init__(self, pid: int, now: float, kind: str = WORKER, generation: int = 0) -> None:
        self.pid: int = pid
        self.kind: str = kind
        self.generation: int = generation
        self.spawned_at: float = now
        self.ready_at: float = FOREVER
        self.served: bool = False
        self.ladder: Ladder | None = None  # set when it is asked to leave
        self._life = worker_life()

    @property
    def state(self) -> WorkerState:
        return self._life.state

    def on(self, event: WorkerEvent) -> None:
        self._life.on(event)


class Children:
    """The children of one kind that are forked and not yet reaped. Each is staying or leaving; oldest first."""

    def __init__(self, kind: str = WORKER) -> None:
        self.kind = kind
        self.staying: dict[int, Child] = {}
        self.leaving: dict[int, Child] = {}  # asked to leave
        self.ready: int = 0  # of those staying, how many have announced that they can serve

    def __len__(self) -> int:
        return len(self.staying) + len(self.leaving)

    @property
    def pids(self) -> list[int]:
        return [*self.staying, *self.leaving]

    @property
    def everybody(self) -> list[Child]:
        return [*self.staying.values(), *self.leaving.values()]

    def get(self, pid: int) -> Child | None:
        return self.staying.get(pid) or self.leaving.get(pid)

    def add(self, pid: int, now: float, generation: int = 0) -> Child:
        child = self.staying[pid] = Child(pid, now, self.kind, generation)
        return child

    def restore(self, pid: int, spawned_at: float, generation: int, ready_at: float, served: bool) -> Child:
        """One that this process had before it executed itself."""
        child = self.add(pid, spawned_at, generation)
        child.served = served
        if ready_at < FOREVER:
            self.became_ready(pid, ready_at)
        return child

    def became_ready(self, pid: int, now: float) -> bool:
        """A child announced itself. False when nobody of that pid is here any more."""
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
        else:
            ladder.deadline = min(ladder.deadline, child.ladder.deadline)
        child.ladder = ladder

    def remove(self, pid: int) -> Child | None:
        return self._forget_staying(pid) or self.leaving.pop(pid, None)

    def clear(self) -> None:
        self.__init__(self.kind)  # type: ignore[misc]

    def _forget_staying(self, pid: int) -> Child | None:
        child = self.staying.pop(pid, None)
        if child is not None and child.ready_at < FOREVER:
            self.ready -= 1
        return child


class Registry:
    """Every child of a manager, by kind. A child that is in none is the application's own."""

    def __init__(self) -> None:
        self.workers: Children = Children(WORKER)
        self._kinds = {WORKER: self.workers}

    def of(self, kind: str) -> Children:
        """The children of this kind, of which there may be none yet."""
        found = self._kinds.get(kind)
        if found is None:
            found = self._kinds[kind] = Children(kind)
        return found

    def __len__(self) -> int:
        return sum(map(len, self._kinds.values()))

    @property
    def everybody(self) -> list[Child]:
        return [child for children in self._kinds.values() for child in children.everybody]

    @property
    def leaving(self) -> list[Child]:
        return [child for children in self._kinds.values() for child in children.leaving.values()]

    def retire(self, child: Child, ladder: Ladder) -> None:
        self._kinds[child.kind].retire(child, ladder)

    def remove(self, pid: int) -> Child | None:
        for children in self._kinds.values():
            child = children.remove(pid)
            if child is not None:
                return child
        return None
