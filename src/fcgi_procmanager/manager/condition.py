"""How a pool is: in one line for a person, and for a watchdog that starts us anew when we do not serve.

Runs in the manager. Must never change anything.

What should make systemd start us anew? That the manager hangs: then nobody answers for it. That nobody serves although somebody
should, for longer than it takes to start a worker (twice the slowest start so far): the workers die, or hang while they start,
and trying again has not helped. Not: a start, which TimeoutStartSec limits; a worker that was told to leave and still answers,
which is what `reload_timeout` and `die_timeout` are for; a reload that failed, after which the old workers serve on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..basics.clock import FOREVER
from ..basics.states import ManagerState
from ..events.readiness import RELOADING, Subject

if TYPE_CHECKING:
    from .half import ManagerHalf
    from .procmanager import ProcManager

_STARTS = 2  # so many times the slowest start may go by without anybody who serves


class Condition(Subject):
    def __init__(self, manager: ProcManager, half: ManagerHalf) -> None:
        self._manager = manager
        self._half = half
        self._slowest_start = 0.0
        self._unserved_since = FOREVER

    @property
    def complete(self) -> bool:
        if not self._half.running or self._half.renewal.in_progress:
            return False
        return self._manager.no_signals or self._half.workers.complete

    @property
    def leaving(self) -> bool:
        return bool(self._half.workers.children.leaving)

    def serves(self, now: float) -> bool:
        workers = self._half.workers.children
        started = [child.ready_at - child.spawned_at for child in workers.staying.values() if child.ready_at < FOREVER]
        self._slowest_start = max(self._slowest_start, *started, 0.0)
        if not self._half.workers.wanted:
            return True  # a pool that has nobody at rest
        if started or workers.leaving or self._half.life.state is ManagerState.STARTING:
            self._unserved_since = FOREVER
            return True
        self._unserved_since = min(self._unserved_since, now)
        return now - self._unserved_since <= _STARTS * self._slowest_start

    def status(self, phase: str) -> str:
        workers = self._half.workers
        wanted = workers.wanted
        if not self._half.running:
            left = len(workers.children)
            return f"stopping: {left} {'server' if left == 1 else 'servers'} left"
        if phase == RELOADING and self._half.renewal.in_progress:
            return "reloading: the new code is tried"
        if phase == RELOADING:
            return f"reloading: {workers.replaced} of {wanted} servers replaced"
        ready = f"{workers.children.ready} of {wanted} servers ready"
        if self._half.drain.under_way:
            return f"draining: {ready}"
        if phase:
            return f"{phase}: {ready}"
        return f"reload failed: {workers.reload_failure}; {ready}" if workers.reload_failure else ready
