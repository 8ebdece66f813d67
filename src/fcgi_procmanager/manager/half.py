"""The manager's half of `ProcManager`: what exists in the manager only, as one object that a worker drops.

Runs in the manager, from `manage()` to its end: it starts the pool, runs the one loop that keeps it and stops it, and leaves
nothing behind. The public object (procmanager.py) has the hooks and calls this one; this one calls its hooks. A worker must
never keep it.
"""

from __future__ import annotations

import atexit
import gc
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..basics import exits
from ..basics.clock import FOREVER, monotonic
from ..basics.exits import Exit
from ..basics.states import ManagerEvent, ManagerState, manager_life
from ..children import launch
from ..children.launch import Program
from ..children.reaper import Reaper
from ..children.registry import Child, Registry
from ..children.stop import Stop
from ..events.inbox import Inbox
from ..events.loop import Loop, Part
from ..events.readiness import Readiness
from ..ipc.channel import Channel
from ..system import fastexit, signals
from .parts import PoolPart
from .reports import Reports

if TYPE_CHECKING:
    from .procmanager import ProcManager

_GLANCE = 0.1  # seconds; plain `os.wait` hears no report and no timer, so without signals those are looked for


class ManagerHalf:
    """over: a stop was asked for, and nobody is left."""

    def __init__(self, manager: ProcManager, parts: Iterable[PoolPart]) -> None:
        self._manager = manager
        self._signals = manager._signals
        self.life = manager_life()
        self.life.on(ManagerEvent.START)
        self.registry = Registry()
        self.channel = Channel()
        self.inbox = Inbox(self._signals, self._child_ended)
        self.workers = manager._make_workers(self)
        self.reports = Reports(self.channel, self.workers.heard)
        self.readiness = Readiness(self._complete)
        self.attending = tuple(parts)  # those that somebody has added
        self.loop = Loop(self._signals, (self.inbox, self.reports, self.workers, self.readiness, *self.attending))
        self.reaper = Reaper(
            self.registry, manager.notify, self._ended, self.reports.hear, whole_trees=self.workers.are_programs
        )
        self.over = False
        self._stop = Stop(-FOREVER)
        self._killed_before_stop = 0
        self._asked = False  # while stopping: the workers have been asked to leave
        self._look_due = False  # the size of the pool was set

    @property
    def running(self) -> bool:
        """No stop has begun."""
        return self.life.state in (ManagerState.STARTING, ManagerState.RUNNING) and not self.over

    @property
    def parts(self) -> tuple[Part, ...]:
        return self.loop.parts

    # -- its life -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """All that comes before the first fork. Raises what hooks and parts raise."""
        manager = self._manager
        if not manager.no_signals:
            self._signals.install(signals.MANAGER_SIGNALS)
        manager.write_pid_file()
        manager.change_process_name()
        manager.manager_init()
        self._signals.rearm()
        if not manager.no_signals:
            # Code that the hook loaded may ignore SIGCHLD: the system would then reap for us, and nobody would be told.
            self._signals.install(("CHLD",))
        for part in self.attending:
            part.begin(self)
        manager.notify("initialized")
        fastexit.remember_open_files()
        gc.freeze()  # what is there now is never collected, so the workers' copies of these pages stay shared

    def hear(self, name: str) -> None:
        """For a part, when it begins: this signal is ours as well."""
        if not self._manager.no_signals:
            self._signals.install((name,))

    def run(self) -> None:
        """The one loop, until a stop is over. In a new worker it ends at once: there the public object has dropped us."""
        while self._is_kept and not self.over:
            self._act_on_signals()
            self._give_up_if_hopeless()
            if self.running:
                self._keep_pool()
            else:
                self._go_on_stopping()
            if self._is_kept and not self.over:
                self._manager.wait()

    @property
    def _is_kept(self) -> bool:
        return self._manager._half is self

    def leave_nothing(self) -> None:
        """Leave no child and no file. The PID file goes last: while it is there, somebody serves."""
        self.over = True
        for part in self.parts:
            part.close()
        self.reaper.kill_everybody()
        self._manager._remove_listeners()
        self._manager.remove_pid_file()

    def close(self, acted: bool) -> None:
        """Undo all of it. acted: what the signals that have come asked for has happened; else they are delivered again."""
        self.leave_nothing()
        self.channel.close()
        self.life.on(ManagerEvent.END)
        if self._signals.open:
            atexit.register(signals.ignore_late)
            if acted:
                self._signals.take()
            self._signals.close()

    def drop(self) -> Channel:
        """In a new worker, signals held: let go of what is the manager's. Returns the channel to it."""
        self.readiness.close()
        for part in self.attending:
            part.forked()
        self.channel.keep_worker_ends()
        return self.channel

    # -- one turn -----------------------------------------------------------------------------------------------------

    def wait(self) -> int | None:
        """Reap the next child of any kind; its pid, or None when something else wants a look at the pool first."""
        while True:
            called = self.loop.turn() or self._look_due
            self._look_due = False
            before = len(self.registry)
            pid = self.reaper.reap()  # whoever called: a part that always has something to say keeps no zombie
            if pid is not None or len(self.registry) < before:
                return pid
            self.reaper.escalate()  # afterwards: who has ended in time was not killed
            if len(self.registry) < before:
                return None
            until = self._next_at
            if called or (self.running and self.workers.hopeless) or monotonic() >= until:
                return None
            if self._sleep(until):
                return None

    @property
    def _next_at(self) -> float:
        """When there is something to do without being called (monotonic seconds)."""
        next_at = min(self.loop.next_at, self.reaper.next_at)
        return min(next_at, self.workers.fill_at) if self.running else next_at

    def look(self) -> None:
        """Look at the pool now, not at the next event. From any thread."""
        self._look_due = True
        self._signals.wake()

    def _sleep(self, until: float) -> bool:
        """Wait for a part or a time. True when a child was reaped meanwhile."""
        if self._manager.no_signals:
            if len(self.registry) and until == FOREVER and self.workers.missing <= 0:
                try:
                    pid, raw = os.wait()
                except ChildProcessError:
                    return False  # `wait` finds out who is lost
                self.reaper.gone(pid, Exit(raw))
                return True
            until = min(until, monotonic() + _GLANCE)
        self.loop.sleep(until)
        return False

    def _act_on_signals(self) -> None:
        """One at a time."""
        self.inbox.turn(monotonic())
        while self.inbox.names:
            name = self.inbox.names.pop(0)
            if self.running:
                self._manager.manager_sig_handler(name)
            else:
                self._insist(name)

    def _give_up_if_hopeless(self) -> None:
        if not self.running:
            return
        if self.workers.refusal is not None:
            self._manager.exit(self.workers.refusal, exits.USAGE)
        if self.workers.respawn.hopeless:
            attempts = self.workers.respawn.failures
            self._manager.die(f"no server ever became ready in {attempts} attempts", exits.FAILED)

    def _keep_pool(self) -> None:
        if self._manager.n_processes <= 0:
            self._manager.die(f"n_processes is {self._manager.n_processes}")
        self.workers.fill()

    def reload(self) -> None:
        """Replace every worker that is there."""
        self.workers.reload()
        self.readiness.reloading()

    def _complete(self) -> bool:
        return self.running and (self._manager.no_signals or self.workers.complete)

    # -- children -----------------------------------------------------------------------------------------------------

    def execute(self, program: Program, kind: str) -> Child:
        """For a part: a child of its kind that becomes `program`. Raises OSError."""
        return launch.start(program, self.registry.of(kind))

    def keeps_back(self, message: str) -> bool:
        """Whether a part has taken this line of the log, to be written later or never."""
        return any(part.keeps_back(message) for part in self.attending)

    def _child_ended(self) -> None:
        self.reaper.child_ended = True

    def _ended(self, child: Child, exit: Exit) -> None:
        for part in self.parts:
            if part.kind == child.kind:
                part.ended(child, exit)

    # -- stopping -----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Ask everybody to leave, and run the loop until they are gone. The parts hear of it first."""
        if self.running:
            self.life.on(ManagerEvent.STOP)
            self._stop = Stop(monotonic())
            self._killed_before_stop = self.reaper.killed  # in a reload, which says nothing about the stop
            for part in self.parts:
                part.stop()
        self._asked = False
        self._go_on_stopping()
        self.run()

    @property
    def killed_somebody(self) -> bool:
        """A worker had to be killed since the stop began."""
        return self.reaper.killed > self._killed_before_stop

    @property
    def timed_out(self) -> bool:
        """Nobody insisted: it was `die_timeout` that killed."""
        return self.life.state is ManagerState.STOPPING

    def _go_on_stopping(self) -> None:
        workers = self.workers.children
        if not self._asked and not (len(workers) and any(part.holds_stop for part in self.parts)):
            self._asked = True
            self.workers.retire(workers.everybody, self._stop.time_left(self._manager.die_timeout, monotonic()))
        self.over = self._asked and not len(workers)

    def _insist(self, name: str) -> None:
        """A signal while stopping."""
        if not self._stop.insists(name, monotonic()):
            return
        if self.life.state is not ManagerState.KILLING:
            count = len(self.workers.children)
            self._manager.notify(f"received signal {name} while stopping: killing {count} servers")
        self._force()

    def _force(self) -> None:
        """Everybody is due for KILL."""
        self.life.on(ManagerEvent.FORCE)
        for part in self.parts:
            part.close()
        self._asked = True
        self.reaper.ask_to_leave(list(self.workers.children.staying.values()), 0)
        self.reaper.force()
