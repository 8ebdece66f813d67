"""The manager's half of `ProcManager`: what exists in the manager only, as one object that a worker drops.

Runs in the manager, from `manage()` to its end. The public object (procmanager.py) has the hooks and calls this one; this one
calls its hooks. A worker must never keep it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..basics.clock import FOREVER, monotonic
from ..basics.exits import Exit
from ..basics.states import ManagerEvent, ManagerState, manager_life
from ..children import launch
from ..children.launch import Program
from ..children.reaper import Reaper
from ..children.registry import WORKER, Child, Registry
from ..children.respawn import DEATHS_PER_SECOND, Respawn
from ..children.rollout import plain, snapshot
from ..ipc.channel import READY, REFUSED, SERVED, Channel
from .inbox import Inbox
from .loop import Loop, Part
from .readiness import Readiness
from .reports import Reports

if TYPE_CHECKING:
    from .procmanager import ProcManager

_GLANCE = 0.1  # seconds; plain `os.wait` hears no report and no timer, so without signals those are looked for
# Seconds: a second TERM or INT that comes sooner is the first one once more. A supervisor may signal its child and then the
# group that it is in, and a terminal's control-C reaches both.
_SAME_REQUEST = 1.0
_LEAST_TIME = 1.0  # seconds that the workers get to leave, however long a part has held the stop
_NOTICE_EVERY = 1.0  # seconds between two lines that say that workers die too fast


class ManagerHalf:
    """generation: how many reloads have been asked for. over: a stop was asked for, and nobody is left."""

    def __init__(self, manager: ProcManager, parts: Iterable[Part]) -> None:
        self._manager = manager
        self.life = manager_life()
        self.life.on(ManagerEvent.START)
        self.registry = Registry()
        self.workers = self.registry.workers
        self.channel = Channel()
        self.reports = Reports(self.channel, self._heard)
        self.reaper = Reaper(self.registry, manager.notify, self._ended, self.reports.hear)
        self.respawn = Respawn(manager.start_delay, manager.n_processes)
        self.inbox = Inbox(manager._signals, self._child_ended)
        self.readiness = Readiness(self._complete)
        self.loop = Loop(manager._signals, (self.inbox, self.reports, self.readiness, *parts))
        self.generation = 0
        self.refusal: str | None = None  # why no worker can serve
        self.over = False
        self._reload_begun = False  # workers of an older generation have not been asked to leave yet
        self._ever_served = False
        self._noticed_at = -FOREVER
        self._stop_began = -FOREVER
        self._killed_before = 0
        self._asked = False  # while stopping: the workers have been asked to leave

    @property
    def running(self) -> bool:
        """No stop has begun."""
        return self.life.state in (ManagerState.STARTING, ManagerState.RUNNING) and not self.over

    @property
    def parts(self) -> tuple[Part, ...]:
        return self.loop.parts

    def keeps_back(self, message: str) -> bool:
        """Whether a part has taken this line of the log, to be written later or never."""
        return any(part.keeps_back(message) for part in self.parts)

    # -- one turn -----------------------------------------------------------------------------------------------------

    def wait(self) -> int | None:
        """Reap the next child of any kind; its pid, or None when something else wants a look at the pool first."""
        while True:
            if self.loop.turn():
                return None
            self.reaper.escalate()
            before = len(self.registry)
            pid = self.reaper.reap()
            if pid is not None or len(self.registry) < before:
                return pid
            until = self._next_at
            if self._hopeless or monotonic() >= until:
                return None
            if self._sleep(until):
                return None

    def hear(self) -> None:
        """Act on the signals that have come, one at a time."""
        self.inbox.turn(monotonic())
        while self.inbox.names:
            name = self.inbox.names.pop(0)
            if self.running:
                self._manager.manager_sig_handler(name)
            else:
                self._insist(name)

    def fill(self) -> None:
        """Retire and fork what the pool needs to become what is wanted. In a new worker this half is gone afterwards."""
        if not self.running:
            self._go_on_stopping()
            return
        wanted = self._manager.n_processes
        if wanted <= 0:
            self._manager.die(f"n_processes is {wanted}")
        if len(self.workers) == wanted and not self._reload_begun:
            return
        self._reload_begun = False
        step = plain(snapshot(wanted, self.generation, self.workers))
        self.reaper.retire(step.retire, self._manager.reload_timeout)
        self._start(step.start)

    def _start(self, missing: int) -> None:
        self.respawn.start_delay = self._manager.start_delay
        for _ in range(self.respawn.allowed(missing, monotonic())):
            # Forking a large pool takes seconds: a stop must not wait for the end of its beginning.
            if self.inbox.called or not self._fork_worker(missing):
                return
            missing -= 1

    def _fork_worker(self, missing: int) -> bool:
        """False in the child, and when the system refused: the next forks would be refused as well, and that is one failure."""
        try:
            pid = launch.fork(self._record_worker, self._manager._become_worker)
        except OSError as error:
            delay = self.respawn.fork_failed(monotonic())
            self._manager.notify(f"fork: {error.strerror}; trying again in {delay:.1f} s")
            return False
        if pid == 0:
            return False
        self.respawn.forked(missing, monotonic())
        self._manager.notify(f"{WORKER} (pid {pid}) started")
        return True

    def _record_worker(self, pid: int) -> None:
        self.workers.add(pid, monotonic(), self.generation)

    def execute(self, program: Program, kind: str) -> Child:
        """For a part: a child of its kind that becomes `program`. Raises OSError."""
        recorded: list[Child] = []
        children = self.registry.of(kind)
        try:
            launch.execute(program, lambda pid: recorded.append(children.add(pid, monotonic(), self.generation)))
        except OSError:
            for child in recorded:
                children.remove(child.pid)
            raise
        return recorded[0]

    def _sleep(self, until: float) -> bool:
        """Wait for a part or a time. True when a child was buried meanwhile."""
        if self._manager.no_signals:
            if len(self.registry) and until == FOREVER and self._missing <= 0:
                try:
                    pid, raw = os.wait()
                except ChildProcessError:
                    return False  # `wait` finds out who is lost
                self.reaper.bury(pid, Exit(raw))
                return True
            until = min(until, monotonic() + _GLANCE)
        self.loop.sleep(until)
        return False

    @property
    def _next_at(self) -> float:
        """When there is something to do without being called (monotonic seconds)."""
        next_at = min(self.loop.next_at, self.reaper.next_at)
        if self.running and self._missing > 0:
            next_at = min(next_at, self.respawn.next_at(self._missing, monotonic()))
        return next_at

    @property
    def _missing(self) -> int:
        """Workers to fork. One that is leaving still holds its place: it is replaced when it is gone."""
        return self._manager.n_processes - len(self.workers)

    def _complete(self) -> bool:
        workers, wanted = self.workers, self._manager.n_processes
        everybody_ready = not workers.leaving and workers.ready >= wanted and not self._reload_begun
        return self.running and (self._manager.no_signals or everybody_ready)

    # -- what it hears ------------------------------------------------------------------------------------------------

    def _child_ended(self) -> None:
        self.reaper.child_ended = True

    def _heard(self, kind: bytes, pid: int, text: str) -> None:
        """A report of a worker."""
        child = self.workers.get(pid)
        if kind == REFUSED:
            self._refused(text, child)
        elif child is None:
            return  # it is gone already
        elif kind == READY:
            self.workers.became_ready(pid, monotonic())
            self.life.on(ManagerEvent.READY)
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
        if self.life.state is ManagerState.STARTING or (self.running and was_ready and not self._ever_served):
            self.refusal = self.refusal or text
        elif text != self.refusal:
            self._manager.notify(text)

    def _ended(self, child: Child, exit: Exit) -> None:
        """A child of ours is gone, and was announced."""
        if child.kind == WORKER:
            self._judge_end(child, exit)
            return
        for part in self.parts:
            if part.kind == child.kind:
                part.ended(child, exit)

    def _judge_end(self, child: Child, exit: Exit) -> None:
        """How soon this worker is replaced; see respawn.py."""
        now = monotonic()
        started = child.ready_at < FOREVER
        if child.ladder is not None or (child.served and exit.clean):
            self.respawn.left(child.ready_at, now)
        elif started and (child.served or exit.code is None):
            self.respawn.died(child.ready_at, now)
            self._notice_deaths(now)
        else:
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

    # -- giving up ----------------------------------------------------------------------------------------------------

    @property
    def _hopeless(self) -> bool:
        return self.running and (self.refusal is not None or self.respawn.hopeless)

    # -- reloading and stopping ---------------------------------------------------------------------------------------

    def reload(self) -> None:
        """Replace every worker that is there."""
        self.generation += 1
        self._reload_begun = True
        self.respawn.reload()
        self.readiness.reloading()

    def begin_stop(self) -> None:
        """Nobody is started any more; the parts hear of it first, then the workers are asked to leave."""
        if self.running:
            self.life.on(ManagerEvent.STOP)
            self._stop_began = monotonic()
            self._killed_before = self.reaper.killed  # in a reload, which says nothing about the stop
            for part in self.parts:
                part.stop()
        self._asked = False
        self._go_on_stopping()

    def _go_on_stopping(self) -> None:
        if not self._asked and not (len(self.workers) and any(part.holds_stop for part in self.parts)):
            self._asked = True
            self.reaper.retire(self.workers.everybody, self._time_to_leave)
        self.over = self._asked and not len(self.workers)

    @property
    def _time_to_leave(self) -> float:
        """What is left of `die_timeout`: it is one limit for the whole stop. 0 for none."""
        whole = self._manager.die_timeout
        return whole and max(min(whole, _LEAST_TIME), whole - (monotonic() - self._stop_began))

    def _insist(self, name: str) -> None:
        """A signal while stopping. HUP and the rest mean nothing any more."""
        again = name in ("TERM", "INT") and monotonic() - self._stop_began >= _SAME_REQUEST
        if name != "QUIT" and not again:
            return
        if self.life.state is not ManagerState.KILLING:
            self._manager.notify(f"received signal {name} while stopping: killing {len(self.workers)} servers")
        self.force()

    @property
    def stopped_by_force(self) -> bool:
        """Somebody had to be killed since the stop began."""
        return self.reaper.killed > self._killed_before

    def force(self) -> None:
        """Everybody is due for KILL."""
        self.life.on(ManagerEvent.FORCE)
        for part in self.parts:
            part.close()
        self._asked = True
        self.reaper.retire(list(self.workers.staying.values()), 0)
        self.reaper.force()

    def kill_everybody(self) -> None:
        """Leave nobody behind."""
        self.over = True
        for part in self.parts:
            part.close()
        self.reaper.kill_everybody()

    def close(self) -> None:
        self.kill_everybody()
        self.channel.close()
        self.life.on(ManagerEvent.END)

    # -- the fork's other side ----------------------------------------------------------------------------------------

    def drop(self) -> Channel:
        """In a new worker, signals held: let go of what is the manager's. Returns the channel to it."""
        for part in self.parts:
            part.forked()
        self.channel.keep_worker_ends()
        return self.channel
