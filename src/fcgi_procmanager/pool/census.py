"""A snapshot of the pool for people: from the registry, the scoreboard and the system.

Runs in the manager. Must never wait, nor change anything.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

from ..basics.clock import FOREVER, monotonic
from ..basics.states import ManagerState
from ..children.registry import Child
from ..ipc import scoreboard
from ..ipc.scoreboard import Entry
from ..manager.parts import PoolPart
from ..sockets.backlog import Backlogs
from ..status import snapshot
from ..status.snapshot import Deadly, PoolStatus, Sample, WorkerStatus

if TYPE_CHECKING:
    from ..manager.half import ManagerHalf
    from .poolmanager import PoolManager
    from .workers import PoolWorkers


_VERSION: str = sys.modules[
    __name__.partition(".")[0]
].__version__  # of the package, which is loaded before its modules


class Census(PoolPart):
    """started: of the pool, over all images of its manager (unix seconds). history: earlier moments."""

    kind = "census"  # what it leaves to the manager's next image

    def __init__(self, manager: PoolManager) -> None:
        self._manager = manager
        self._half: ManagerHalf | None = None
        self.started: float = time.time()
        self.history: tuple[Sample, ...] = ()
        self._most_waiting = 0

    def begin(self, half: ManagerHalf) -> None:
        self._half = half
        left = half.left_by(self.kind)
        self.started = left.get("started", self.started)
        self._most_waiting = left.get("most_waiting", 0)
        self.history = tuple(Sample(*one) for one in left.get("history", ()))

    def leave(self) -> dict[str, Any] | None:
        return {"started": self.started, "most_waiting": self._most_waiting, "history": self.history}

    def forked(self) -> None:
        self._half = None
        self.history = ()

    def take(self, full: bool = False) -> PoolStatus:
        """full: the proportional memory of each worker as well, milliseconds for each."""
        assert self._half is not None
        manager, half = self._manager, self._half
        workers: PoolWorkers = half.workers  # type: ignore[assignment]
        now, monotonic_now = time.time(), monotonic()
        backlogs = Backlogs()
        queue = backlogs.total([listener.socket for listener in manager.listeners])
        backlogs.close()
        self._most_waiting = max(self._most_waiting, queue.waiting)
        found = [self._worker(child, now - monotonic_now, monotonic_now, full) for child in workers.children.everybody]
        accepted = workers.requests + sum(worker.requests for worker in found)
        active = max(
            sum(worker.busy for worker in found), int(accepted > 0)
        )  # one may have come and gone between two looks
        manager._sizer.max_active = max(manager._sizer.max_active, active)
        return PoolStatus(
            name=manager.pool_name,
            kind=manager._sizing.pool,
            phase=self._phase,
            started=self.started,
            now=now,
            pid=os.getpid(),
            version=_VERSION,
            listeners=tuple(listener.describe() for listener in manager.listeners),
            accepted=accepted,
            queue=queue.waiting,
            max_queue=self._most_waiting,
            queue_limit=queue.limit or None,
            queue_is_exact=queue.exact,
            max_active=manager._sizer.max_active,
            max_children_reached=manager._sizer.saturated,
            slow=manager._deadlines.slow,
            timeouts=manager._deadlines.timeouts,
            deaths=workers.deaths.count,
            failed_starts=workers.failed_starts,
            failing_starts=workers.respawn.failures,
            respawns=workers.died,
            retired=dict(workers.retired),
            reloads=workers.generation,
            reload_failure=workers.reload_failure,
            limits=manager._limits(),
            deadly=tuple(Deadly(*one) for one in workers.deaths.worst),
            standby=half.standby.children.ready,
            workers=tuple(found),
            history=self.history,
        )

    def sample(self) -> Sample:
        """This moment, for the history; cheaper than the whole."""
        found = self.take()
        return Sample(
            found.now, found.idle, found.active, found.count(snapshot.STARTING), found.queue or 0, found.accepted
        )

    @property
    def _phase(self) -> str:
        half = self._half
        assert half is not None
        if half.drain.under_way:
            return snapshot.DRAINING
        if not half.running:
            return snapshot.STOPPING
        if half.life.state is ManagerState.STARTING:
            return snapshot.BEGINNING
        if half.renewal.in_progress or half.workers.reloading:
            return snapshot.RELOADING
        return snapshot.RUNNING

    def _worker(self, child: Child, offset: float, now: float, full: bool) -> WorkerStatus:
        workers: PoolWorkers = self._half.workers  # type: ignore[assignment, union-attr]
        entry = workers.entry(child.pid)
        memory, pss = _memory(child.pid, full)
        if entry is None:
            entry = _NOTHING
        in_hand = entry.in_request
        return WorkerStatus(
            pid=child.pid,
            generation=child.generation,
            state=_state(child, entry),
            started=child.spawned_at + offset,
            requests=entry.requests,
            request_started=entry.began_at + offset if in_hand else None,
            request_seconds=max(0.0, (now if in_hand else entry.ended_at) - entry.began_at) if entry.requests else 0.0,
            method=entry.method,
            uri=entry.uri,
            cpu=100 * entry.cpu if entry.requests else None,
            memory=memory,
            pss=pss,
            reason=workers.reason(child.pid),
        )


_NOTHING = Entry(0, scoreboard.STARTING, 0, 0, 0.0, 0, 0.0, 0.0, 0.0, "", "")


def _state(child: Child, entry: Entry) -> str:
    if child.ladder is not None:
        return snapshot.LEAVING
    if child.ready_at == FOREVER:
        return snapshot.STARTING
    return scoreboard.STATES.get(entry.state, snapshot.IDLE)


def _memory(pid: int, full: bool) -> tuple[int | None, int | None]:
    import psutil  # not above: workers would have it too

    try:
        process = psutil.Process(pid)
        if not full:
            return int(process.memory_info().rss), None
        found = process.memory_full_info()
    except psutil.Error:
        return None, None
    pss = getattr(found, "pss", None)
    return int(found.rss), None if pss is None else int(pss)
