"""How many workers there should be now, asked anew as they become busy and as connections wait: a part of the manager's loop.

Runs in the manager. The decision is in children/sizing.py. This part brings it what it needs to know, at the moment when it changes:

- a worker that becomes busy says so, when fewer are idle than are wanted (ipc/scoreboard.py);
- while nobody is idle, the manager watches the listeners itself: a connection that comes then has nobody to take it;
- a worker that is ready, or has ended, and the times that the decision names.

Two looks are never nearer than `PAUSE`: a single worker that serves one request after the other would wake the manager with each.
"""

from __future__ import annotations

import select
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..basics.clock import FOREVER, monotonic
from ..basics.states import ManagerState
from ..children.sizing import STATIC
from ..manager.parts import PoolPart
from ..sockets.backlog import Backlogs

if TYPE_CHECKING:
    from ..manager.half import ManagerHalf
    from .poolmanager import PoolManager
    from .workers import PoolWorkers

PAUSE = 0.01  # seconds
_NOTICE_EVERY = 60.0  # seconds between two lines that say that no more may be started
_EDGE: int = getattr(select, "EPOLLET", 0)


class Sizer(PoolPart):
    """saturated: how often more workers were wanted than there may be. max_active: most workers at once that were in a request."""

    saturated: int
    max_active: int

    kind = "scoreboard"  # what it leaves to the manager's next image

    def __init__(self, manager: PoolManager) -> None:
        self._manager = manager
        self._half: ManagerHalf | None = None
        self._arrivals: select.epoll | None = None  # of connections, each reported once
        self._backlogs: Backlogs | None = None
        self._watched: list[int] = []
        self._looked_at = -FOREVER
        self._due_at = FOREVER
        self._noticed_at = -FOREVER
        self._is_saturated = False
        self._over = False  # a stop has begun
        self.saturated = self.max_active = 0

    # -- the loop -----------------------------------------------------------------------------------------------------

    def begin(self, half: ManagerHalf) -> None:
        self._half = half
        self._backlogs = Backlogs()
        if hasattr(select, "epoll"):
            self._arrivals = select.epoll()

    def leave(self) -> dict[str, Any] | None:
        left = self._workers.left()
        left["saturated"], left["max_active"] = self.saturated, self.max_active
        return left

    @property
    def next_at(self) -> float:  # type: ignore[override]
        return self._due_at

    def descriptors(self) -> Iterable[int]:
        if not self._watched:
            return ()
        return self._watched if self._arrivals is None else (self._arrivals.fileno(),)

    def turn(self, now: float) -> bool:
        if self._watched and self._somebody_came():
            self.called()
        return now >= self._due_at

    def called(self) -> None:
        """Something has changed."""
        if self._over:
            return  # nobody looks any more, and a time that has passed would keep the loop from waiting
        self._due_at = min(self._due_at, max(monotonic(), self._looked_at + PAUSE))

    def stop(self) -> None:
        self._over, self._due_at = True, FOREVER
        self._watch(False)

    def close(self) -> None:
        self._watched = []
        if self._arrivals is not None:
            self._arrivals.close()
            self._arrivals = None
        if self._backlogs is not None:
            self._backlogs.close()
            self._backlogs = None

    def forked(self) -> None:
        self._workers.board.drop()
        self.close()

    # -- the look -----------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Decide, if it is time to."""
        assert self._half is not None
        workers, sizing = self._workers, self._manager._sizing
        resized = sizing.n_processes != self._manager.n_processes
        sizing.n_processes = max(0, self._manager.n_processes)
        if self._half.life.state is ManagerState.STARTING:
            self._due_at = FOREVER  # until one has shown that the code can serve, it is what was asked for
            return
        if not (resized or monotonic() >= self._due_at):
            return
        self._looked_at, self._due_at = monotonic(), FOREVER
        board = workers.board
        # First asked, then read: who becomes busy from now on says so.
        board.want_idle(self._idle_wanted)
        load = workers.load(0)
        if not load.idle:
            load = load._replace(waiting=self.waiting)
        verdict = sizing.decide(load)
        # A reload chooses by itself whom to let go.
        workers.resize(verdict.wanted, () if workers.reloading else verdict.retire)
        self._due_at = verdict.next_at
        may_grow = verdict.wanted < sizing.n_processes
        # A connection that waits has started somebody already, who will say that he is ready.
        self._watch(may_grow and not load.idle)
        self.max_active = max(self.max_active, load.busy)
        told = self._idle_wanted if may_grow and not self._watched else 0
        # And by the one with whom more are busy than ever before.
        board.want_idle(max(told, load.busy + len(load.idle) - self.max_active))
        self._note_saturation(verdict.saturated)

    @property
    def _idle_wanted(self) -> int:
        """With fewer idle workers than these, there is something to decide."""
        sizing = self._manager._sizing
        return 0 if sizing.pool == STATIC else max(1, sizing.spares.min_spare)

    @property
    def waiting(self) -> int:
        """Connections that nobody has accepted."""
        if self._backlogs is None:
            return 0
        return self._backlogs.total([listener.socket for listener in self._manager.listeners]).waiting

    def _note_saturation(self, saturated: bool) -> None:
        self.saturated += saturated and not self._is_saturated
        self._is_saturated = saturated
        if saturated and monotonic() >= self._noticed_at + _NOTICE_EVERY:
            self._noticed_at = monotonic()
            self._manager.notify(
                f"all {self._manager.n_processes} servers are busy and connections wait: no more may be started (n_processes)"
            )

    # -- connections that come ----------------------------------------------------------------------------------------

    def _watch(self, wanted: bool) -> None:
        numbers = [listener.fileno() for listener in self._manager.listeners] if wanted else []
        if numbers == self._watched:
            return
        if self._arrivals is not None:
            for number in self._watched:
                self._arrivals.unregister(number)
            for number in numbers:
                self._arrivals.register(number, select.EPOLLIN | _EDGE)
        self._watched = numbers

    def _somebody_came(self) -> bool:
        if self._arrivals is not None:
            return bool(self._arrivals.poll(0))
        poller = (
            select.poll()
        )  # says so again and again while one waits: the pause between two looks keeps that in bounds
        for number in self._watched:
            poller.register(number, select.POLLIN)
        return bool(poller.poll(0))

    @property
    def _workers(self) -> PoolWorkers:
        assert self._half is not None
        return self._half.workers  # type: ignore[return-value]
