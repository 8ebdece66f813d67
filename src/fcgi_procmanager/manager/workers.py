"""The workers of the pool, as a part of the manager's loop: forked, retired, heard, and judged when they end.

Runs in the manager. How many there should be and when to try again is decided in children/ (rollout, respawn); this part takes
the steps.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..basics.clock import FOREVER, monotonic
from ..basics.exits import Exit
from ..basics.states import ManagerEvent, ManagerState
from ..children import launch
from ..children.registry import WORKER, Child
from ..children.respawn import DEATHS_PER_SECOND, Respawn
from ..children.rollout import Snapshot, Step, plain, snapshot
from ..events.loop import Part
from ..ipc.channel import READY, REFUSED, SERVED

if TYPE_CHECKING:
    from .half import ManagerHalf
    from .procmanager import ProcManager

_NOTICE_EVERY = 1.0  # seconds between two lines that say that workers die too fast


class Workers(Part):
    """generation: how many reloads have been asked for. refusal: why no worker can serve, if one has said so."""

    kind = WORKER
    are_programs = False  # which know nothing of us, and cannot end what they have started once they are killed

    def __init__(self, manager: ProcManager, half: ManagerHalf) -> None:
        self._manager = manager
        self._half = half
        self.children = half.registry.workers
        self.respawn = Respawn(manager.start_delay, manager.n_processes)
        self.generation = 0
        self.refusal: str | None = None
        self._reload_begun = False  # those of an older generation have not been asked to leave yet
        self._ever_served = False
        self._noticed_at = -FOREVER

    # -- filling the pool ---------------------------------------------------------------------------------------------

    @property
    def missing(self) -> int:
        """Workers to fork. One that is leaving still holds its place: it is replaced when it is gone."""
        return self._manager.n_processes - len(self.children)

    @property
    def fill_at(self) -> float:
        """When `fill` may have something to do without being called (monotonic seconds)."""
        return self.respawn.next_at(self.missing, monotonic())

    @property
    def complete(self) -> bool:
        """As many as are wanted are ready, and nobody is leaving."""
        workers = self.children
        return not workers.leaving and workers.ready >= self._manager.n_processes and not self._reload_begun

    def reload(self) -> None:
        """Replace everybody who is there."""
        self.generation += 1
        self._reload_begun = True
        self.respawn.reload()

    def fill(self) -> None:
        """Retire and fork what the pool needs to become what is wanted. In a new worker the manager's half is gone
        afterwards."""
        if not self.missing and not self._reload_begun:
            return
        self._reload_begun = False
        self._take(plain(self._snapshot()))

    def _snapshot(self) -> Snapshot:
        return snapshot(self._manager.n_processes, self.generation, self.children)

    def _take(self, step: Step) -> None:
        self.retire(step.retire, self._manager.reload_timeout)
        self._start(step.start)

    def retire(self, chosen: Iterable[Child], timeout: float) -> None:
        """Ask these to leave. timeout: seconds until KILL, 0 for no limit."""
        self._half.reaper.retire(chosen, timeout)

    def _start(self, missing: int) -> None:
        self.respawn.start_delay = self._manager.start_delay
        for _ in range(self.respawn.allowed(missing, monotonic())):
            # Forking a large pool takes seconds: a stop must not wait for the end of its beginning.
            if self._half.inbox.called or not self._fork(missing):
                return
            missing -= 1

    def _fork(self, missing: int) -> bool:
        """False in the child, and when the system refused: the next forks would be refused as well, and that is one failure."""
        try:
            pid = launch.fork(self._record, self._manager._become_worker)
        except OSError as error:
            self._fork_refused(error)
            return False
        if pid == 0:
            return False
        self._forked(pid, missing)
        return True

    def _forked(self, pid: int, missing: int) -> None:
        self.respawn.forked(missing, monotonic())
        self._manager.notify(f"{WORKER} (pid {pid}) started")

    def _fork_refused(self, error: OSError) -> None:
        delay = self.respawn.fork_failed(monotonic())
        self._manager.notify(f"fork: {error.strerror}; trying again in {delay:.1f} s")

    def _record(self, pid: int) -> None:
        self.children.add(pid, monotonic(), self.generation)

    # -- what they say ------------------------------------------------------------------------------------------------

    def heard(self, kind: bytes, pid: int, text: str) -> None:
        """A report of a worker, which may be gone already."""
        child = self.children.get(pid)
        if kind == REFUSED:
            self._refused(text, child)
        elif child is None:
            return
        elif kind == READY:
            self.children.became_ready(pid, monotonic())
            self._half.life.on(ManagerEvent.READY)
            self.respawn.became_ready()
        elif kind == SERVED:
            child.served = True
            if child.ready_at < FOREVER:
                self._ever_served = True
                self.respawn.served()

    def _refused(self, text: str, child: Child | None) -> None:
        """A worker says that it cannot serve. Fatal only while nobody has been ready or, of what it finds out when it was
        ready (no listener), while nobody has served: later the pool serves on."""
        was_ready = child is not None and child.ready_at < FOREVER
        starting = self._half.life.state is ManagerState.STARTING
        if starting or (self._half.running and was_ready and not self._ever_served):
            self.refusal = self.refusal or text
        elif text != self.refusal:
            self._manager.notify(text)

    @property
    def hopeless(self) -> bool:
        """There is no sense in trying again."""
        return self.refusal is not None or self.respawn.hopeless

    # -- how they end -------------------------------------------------------------------------------------------------

    def ended(self, child: Child, exit: Exit) -> None:
        """How soon it is replaced; see respawn.py."""
        now = monotonic()
        started = child.ready_at < FOREVER
        if child.ladder is not None or (child.served and exit.clean):
            self.respawn.left(child.ready_at, now)
        elif started and (child.served or exit.code is None):
            self.respawn.died(child.ready_at, now)
            self._notice_deaths(now)
        else:
            self._could_not_start(child, now)

    def _could_not_start(self, child: Child, now: float) -> None:
        rounds = self.respawn.failures
        delay = self.respawn.start_failed(child.spawned_at, child.ready_at, now)
        if delay and self.respawn.failures > rounds and not self.respawn.hopeless:
            self._manager.notify(
                f"{self.respawn.failures} servers in a row failed; the next one starts in {delay:.1f} s"
            )

    def _notice_deaths(self, now: float) -> None:
        if self.respawn.is_short(now) and now >= self._noticed_at + _NOTICE_EVERY:
            self._noticed_at = now
            self._manager.notify(f"servers die too fast: {DEATHS_PER_SECOND:.0f} of them are replaced each second")
