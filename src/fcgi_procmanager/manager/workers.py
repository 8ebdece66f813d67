"""The workers of the pool, as a part of the manager's loop: forked, retired, heard, and judged when they end.

Runs in the manager. How many there should be and when to try again is decided in children/ (rollout, respawn); this part takes
the steps.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..basics import log
from ..basics.clock import FOREVER, monotonic
from ..basics.exits import Exit
from ..basics.levels import DEBUG
from ..basics.states import ROLLING, ManagerEvent, ManagerState
from ..children import launch
from ..children.registry import WORKER, Child, Children
from ..children.respawn import DEATHS_PER_SECOND, Respawn
from ..children.rollout import Snapshot, Step, plain, rolling, snapshot
from ..events.loop import Part
from ..ipc.channel import READY, REFUSED, SERVED
from ..system.proctitle import set_title
from .standby import KIND as STANDBY

if TYPE_CHECKING:
    from ..ipc.scoreboard import Slot
    from .half import ManagerHalf
    from .handover import Handover
    from .procmanager import ProcManager

_NOTICE_EVERY = 1.0  # seconds between two lines that say that workers die too fast


class Workers(Part):
    """generation: how many reloads have been asked for. refusal: why no worker can serve, if one has said so. reload_failure: why
    the last reload failed, empty if it did not; the manager's title says it too."""

    kind = WORKER
    slot: Slot | None = None  # of the scoreboard, for the one that is forked next
    are_programs = False  # which know nothing of us, and cannot end what they have started once they are killed

    def __init__(self, manager: ProcManager, half: ManagerHalf) -> None:
        self._manager = manager
        self._half = half
        self.children: Children = half.registry.workers
        self.respawn: Respawn = Respawn(manager.start_delay, manager.n_processes)
        self.generation: int = 0
        self.refusal: str | None = None
        self._reloading = False  # some of an older generation have not been asked to leave yet
        self.reload_failure: str = ""
        self._resting = False  # nobody can serve: none is started until a reload is asked for
        self._attempts = 0  # reloads, those that failed before they began as well
        self._late: set[int] = set()  # killed because they were not ready in time
        self._promoted: set[int] = set()  # of those who have stood by, who has not said that it serves
        self._are_adopted = False  # those of the older generation: this manager has executed itself
        self._refusals: dict[int, str] = {}  # by pid: why a new one cannot serve, in a reload
        self._ever_served = False
        self._noticed_at = -FOREVER

    # -- filling the pool ---------------------------------------------------------------------------------------------

    @property
    def wanted(self) -> int:
        """How many workers there should be now."""
        return self._manager.n_processes

    @property
    def missing(self) -> int:
        """Workers to fork. In a plain pool one that is leaving still holds its place: it is replaced when it is gone."""
        if self._resting:
            return 0
        if not self._rolls:
            return self.wanted - len(self.children)
        if self._reloading:
            return self._rolling_step.start
        return self.wanted - len(self.children.staying)

    @property
    def _rolls(self) -> bool:
        # The manager has just been without workers of its own: those that it found stay until there are others.
        return self._manager.reload == ROLLING or self._are_adopted

    @property
    def _rolling_step(self) -> Step:
        return rolling(self._snapshot, self._manager.reload_slice)

    @property
    def fill_at(self) -> float:
        """When `fill` may have something to do without being called (monotonic seconds)."""
        return self.respawn.next_at(self.missing, monotonic())

    @property
    def complete(self) -> bool:
        """As many as are wanted are ready, and nobody is leaving or to be replaced."""
        workers = self.children
        return not workers.leaving and workers.ready >= self.wanted and not self._reloading

    @property
    def reloading(self) -> bool:
        """Some of an older generation have not been asked to leave yet."""
        return self._reloading

    @property
    def replaced(self) -> int:
        """Those who are ready, of the newest generation."""
        staying = self.children.staying.values()
        return sum(child.generation == self.generation and child.ready_at < FOREVER for child in staying)

    @property
    def settled(self) -> bool:
        """Nobody boots whom a standby would hold up. In a rolling reload, once the new code has been seen to start: then it shortens it."""
        if self._resting or self.unproven or self._half.life.state is not ManagerState.RUNNING:
            return False
        return self._reloading or (self.missing <= 0 and self.children.ready == len(self.children.staying))

    @property
    def unproven(self) -> bool:
        """In a reload of which nobody is ready yet: it may fail, and then those of the older generation go on."""
        return self._reloading and not self.replaced

    def reload(self) -> None:
        """Replace everybody who is there."""
        self.forget_failure()
        self._attempts += 1
        self.generation += 1
        self._reloading = True
        self._resting = False
        self.respawn.reload()

    def forget_failure(self) -> None:
        """Of the last reload: there is another one."""
        if self.reload_failure:
            self.reload_failure = ""
            self._manager.change_process_name()

    def refuse_reload(self, reason: str) -> None:
        """New code cannot even be tried with a worker: nobody is replaced."""
        self._attempts += 1
        self._are_adopted = self._are_adopted and self._reloading
        self._tell_failed(reason, len(self.children.staying))

    def rest(self) -> None:
        """Nobody can serve: start none until a reload is asked for. Those who are there would say so as well."""
        self._resting = True
        self._reloading = False
        self.refusal = None
        self.respawn.reload()
        self.retire(list(self.children.staying.values()), self._manager.die_timeout)

    # -- the manager executes itself ----------------------------------------------------------------------------------

    def leave(self, left: Handover) -> None:
        left.generation, left.attempts, left.served = self.generation, self._attempts, self._ever_served

    def adopt(self, left: Handover) -> None:
        self.generation, self._attempts, self._ever_served = left.generation, left.attempts, left.served
        self.respawn.ever_ready = True
        self._are_adopted = True

    # -- filling ------------------------------------------------------------------------------------------------------

    def fill(self) -> None:
        """Retire and fork what the pool needs to become what is wanted. In a new worker the manager's half is gone
        afterwards."""
        if not self._reloading and not self.missing:
            return
        if self._rolls:
            self._take(self._rolling_step)
            self._reloading = self._reloading and self._is_old_one_there
            self._are_adopted = self._are_adopted and self._reloading
        else:
            self._reloading = False
            self._take(plain(self._snapshot))

    @property
    def _is_old_one_there(self) -> bool:
        return any(child.generation < self.generation for child in self.children.staying.values())

    @property
    def _snapshot(self) -> Snapshot:
        return snapshot(self.wanted, self.generation, self.children)

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
            if self._half.inbox.called or not (self._promote(missing) or self._fork(missing)):
                return
            missing -= 1

    def _promote(self, missing: int) -> bool:
        """Whether a standby has taken the place."""
        standby = self._half.standby.promote()
        if standby is None:
            return False
        # Its time begins now: what it did before says nothing of how workers fare.
        self._record(standby.pid)
        self._promoted.add(standby.pid)
        self.respawn.forked(missing, monotonic())
        self._manager.notify(f"{STANDBY} (pid {standby.pid}) serves from now on")
        return True

    def _fork(self, missing: int) -> bool:
        """False in the child, and when the system refused: the next forks would be refused as well, and that is one failure."""
        try:
            pid = self.fork(self._record)
        except OSError as error:
            if not self._half.is_kept:
                raise  # of the application, in the child
            self._fork_refused(error)
            return False
        if pid == 0:
            return False
        self._forked(pid, missing)
        return True

    def fork(self, record: launch.Record) -> int:
        """A child that becomes a worker. Returns the pid, which `record` was called with, and 0 in the child. Raises OSError when the
        system refuses."""
        return launch.fork(record, self._manager._become_worker)

    def _forked(self, pid: int, missing: int) -> None:
        self.respawn.forked(missing, monotonic())
        self._manager.notify(f"{WORKER} (pid {pid}) started")

    def _fork_refused(self, error: OSError) -> None:
        delay = self.respawn.fork_failed(monotonic())
        self._manager.notify(f"fork: {error.strerror}; trying again in {delay:.1f} s")

    def _record(self, pid: int) -> None:
        self.children.add(pid, monotonic(), self.generation)
        self._began(pid)

    def _began(self, pid: int) -> None:
        """It is a worker from now on."""

    def standby_ended(self, pid: int) -> None:
        """One that has never become a worker is gone."""

    # -- those that are not ready in time -----------------------------------------------------------------------------

    @property
    def next_at(self) -> float:  # type: ignore[override]
        """When the boot of a new worker is over. Only where an old one serves in its place: else it is all that there is."""
        if not self._reloading or not self._manager.boot_timeout or not self._can_back_out:
            return FOREVER
        return min((child.spawned_at + self._manager.boot_timeout for child in self._booting), default=FOREVER)

    @property
    def _booting(self) -> list[Child]:
        workers = self.children.staying.values()
        return [child for child in workers if child.ready_at == FOREVER and child.generation == self.generation]

    def turn(self, now: float) -> bool:
        if now >= self.next_at:
            self.give_up(self._booting[0], f"{self._manager.boot_timeout:g} s (boot_timeout)")
        return False

    def give_up(self, child: Child, limit: str) -> None:
        """It was not ready in time. limit: in words."""
        late = f"{WORKER} (pid {child.pid}) was not ready in {limit}"
        self._manager.notify(f"{late}: killing it")
        if self._fails_reload(child):  # judged now: by the time that it is gone another one would have been started
            for other in self._booting:
                self._half.reaper.kill(other)
            self._back_out(late)
        else:
            self._late.add(child.pid)
            self._half.reaper.kill(child)

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
            if self._manager._says_more and log.shows(DEBUG):
                self._manager.notify(f"{WORKER} (pid {pid}) is ready after {monotonic() - child.spawned_at:.2f} s")
            self._promoted.discard(pid)
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
        if self._resting:
            return
        was_ready = child is not None and child.ready_at < FOREVER
        # What an older generation cannot do says nothing of the code that has been reloaded since.
        is_old = child is not None and child.generation < self.generation
        starting = self._half.life.state is ManagerState.STARTING and not is_old
        if starting or (self._half.running and was_ready and not self._ever_served):
            self.refusal = self.refusal or text
        elif child is not None and self._fails_reload(child):
            self._refusals[child.pid] = text  # said once, at its end
        elif text != self.refusal:
            self._manager._notify_error(text)

    @property
    def hopeless(self) -> bool:
        """There is no sense in trying again."""
        return self.refusal is not None or self.respawn.hopeless

    # -- how they end -------------------------------------------------------------------------------------------------

    def ended(self, child: Child, exit: Exit) -> None:
        """How soon it is replaced; see respawn.py."""
        now = monotonic()
        # Who was booted has started, even if it dies before it has heard the word.
        started = child.ready_at < FOREVER or child.pid in self._promoted
        if child.pid in self._late:
            self._late.discard(child.pid)
            self._could_not_start(child, now)
        elif self._fails_reload(child):
            died = f"{WORKER} (pid {child.pid}) exited with status {exit} before it was ready"
            self._back_out(self._refusals.get(child.pid, died))
        elif child.ladder is not None or (child.served and exit.clean):
            self.respawn.left(child.ready_at, now)
        elif started and (child.served or exit.code is None):
            self.respawn.died(child.ready_at, now)
            self._notice_deaths(now)
        else:
            self._could_not_start(child, now)
        self._promoted.discard(child.pid)

    def _fails_reload(self, child: Child) -> bool:
        """It is new, was not ready, has not stood by, and nobody had told it to leave, while an old one serves in its place."""
        is_new = child.generation == self.generation and child.ready_at == FOREVER and child.ladder is None
        return is_new and child.pid not in self._promoted and self._can_back_out

    @property
    def _can_back_out(self) -> bool:
        return self._rolls and self._reloading and self._is_old_one_there

    def _back_out(self, reason: str) -> None:
        """The old ones stay, as those that are wanted. What is new and not ready yet would fail as well."""
        unready = self._booting
        old = [other for other in self.children.staying.values() if other.generation < self.generation]
        for other in old:
            other.generation = self.generation
        self._half.standby.stay(self.generation)
        self._reloading = self._are_adopted = False
        self._refusals.clear()
        self._tell_failed(reason, len(old))
        # They have accepted nothing, and one may hang for ever.
        self.retire(unready, self._manager.die_timeout)

    def _tell_failed(self, reason: str, old: int) -> None:
        self.reload_failure = reason
        # First in the title, where `reload` finds it, and whoever looks there because the log says so.
        set_title(f"{self._manager.manager_process_name} (reload {self._attempts} failed: {reason})")
        self._manager.notify(f"reload failed: {reason}; {old} old servers go on")

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
