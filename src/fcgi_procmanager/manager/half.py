"""The manager's half of `ProcManager`: what exists in the manager only, as one object that a worker drops.

Runs in the manager, from `manage()` to its end: it starts the pool, runs the one loop that keeps it and stops it, and leaves
nothing behind. The public object (procmanager.py) has the hooks and calls this one; this one calls its hooks. A worker must
never keep it.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Callable

from ..basics import exits, log
from ..basics.clock import FOREVER, monotonic
from ..basics.exits import Exit
from ..basics.states import LifeCycle, ManagerEvent, ManagerState, WorkerState, manager_life
from ..children import launch
from ..children.ladder import Ladder
from ..children.launch import Program
from ..children.reaper import Reaper
from ..children.registry import Child, Registry
from ..children.stop import Stop
from ..errors import BootError, ProcManagerError
from ..events.inbox import Inbox
from ..events.loop import Loop, Part
from ..events.readiness import Readiness
from ..ipc.channel import Channel
from ..system import fastexit, idle, signals
from ..system.oom import MemoryKills
from ..system.pidfile import PidFile
from .condition import Condition
from .drain import Drain
from .handover import Handover
from .parts import PoolPart
from .renewal import Renewal
from .reports import Reports
from .standby import Standby

if TYPE_CHECKING:
    from .procmanager import ProcManager
    from .workers import Workers

_ASK_EVERY = 60.0  # seconds between two questions whether memory has run out
_GLANCE = 0.1  # seconds; plain `os.wait` hears no report and no timer, so without signals those are looked for


class ManagerHalf:
    """over: a stop was asked for, and nobody is left."""

    def __init__(self, manager: ProcManager, parts: Iterable[PoolPart], left: Handover | None = None) -> None:
        """left: by this process, before it executed itself."""
        self._manager = manager
        self._signals = manager._signals
        self.life: LifeCycle[ManagerState, ManagerEvent] = manager_life()
        self.life.on(ManagerEvent.START)
        self.registry: Registry = Registry()
        self.channel: Channel = Channel(left.channel if left is not None else ())
        self.inbox: Inbox = Inbox(self._signals, self._child_ended)
        self.workers: Workers = manager._make_workers(self)
        self.standby: Standby = Standby(manager, self)
        self.reports: Reports = Reports(self.channel, self._heard)
        self.renewal: Renewal = Renewal(manager, self)
        self.readiness: Readiness = Readiness(Condition(manager, self))
        self.drain: Drain = Drain(manager, self)
        self.attending: tuple[PoolPart, ...] = tuple(parts)  # those that somebody has added
        ours = (self.inbox, self.reports, self.workers, self.standby, self.renewal, self.readiness, self.drain)
        self.loop: Loop = Loop(self._signals, (*ours, *self.attending))
        self.reaper: Reaper = Reaper(
            self.registry, manager.notify, self._ended, self._hear_children, whole_trees=self.workers.are_programs
        )
        self.over: bool = False
        self._stop = Stop(-FOREVER)
        self._killed_before_stop = 0
        self._failure = ""  # of the new code, where workers of the old serve on
        self._asked = False  # while stopping: the workers have been asked to leave
        self._look_due = False  # the size of the pool was set
        self._memory_kills = MemoryKills()
        self._memory_asked_at = -FOREVER
        self._left = left
        if left is not None:
            self._adopt(left)

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
        self._prepare(manager.write_pid_file)
        manager.change_process_name()
        self._prepare(manager.manager_init)
        self._signals.rearm()
        if not manager.no_signals:
            # Code that the hook loaded may ignore SIGCHLD: the system would then reap for us, and nobody would be told.
            self._signals.install(("CHLD",))
        for part in self.attending:
            self._prepare(partial(part.begin, self))
        if self._left is not None:  # not before: a part may have asked for a signal that waits
            self._signals.let_in(self._left.mask)
        manager.notify("initialized")
        if self._left is None:
            manager._say_where()
        self._replace_adopted()
        fastexit.freeze()

    def _hear_children(self) -> None:
        self.reports.hear()
        for part in self.attending:
            part.take_in()

    def give_output(self) -> dict[int, int]:
        """A program is about to be started for the pool: where the attending parts want its output. Raises OSError."""
        given: dict[int, int] = {}
        for part in self.attending:
            given.update(part.give_output())
        return given

    def output_given(self, kind: str, pid: int) -> None:
        """It has been started, or with pid 0 it could not be."""
        for part in self.attending:
            part.output_given(kind, pid)

    def _prepare(self, step: Callable[[], object]) -> None:
        """Code of the application, before the first fork. With workers that serve already its failure is that of a reload: they
        have no other manager."""
        try:
            step()
        except Exception as error:
            if self._left is None:
                raise
            self._failure = _told(error)

    def left_by(self, kind: str) -> dict[str, Any]:
        """For a part, when it begins: what it has left to this image of the manager."""
        return self._left.parts.get(kind, {}) if self._left is not None else {}

    def hear(self, name: str) -> None:
        """For a part, when it begins: this signal is ours as well."""
        if not self._manager.no_signals:
            self._signals.install((name,))

    def run(self) -> None:
        """The one loop, until a stop is over. In a new worker it ends at once: there the public object has dropped us."""
        while self.is_kept and not self.over:
            self._act_on_signals()
            self.drain.end_in_time()
            self._give_up_if_hopeless()
            if self.running:
                self._keep_pool()
            else:
                self._go_on_stopping()
            if self.is_kept and not self.over:
                self._manager.wait()

    @property
    def is_kept(self) -> bool:
        """This is the manager; in a new worker it is so no more."""
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
        self.readiness.drop()
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
            # Nobody is missing, and no report is waited for: only then it may wait for a child alone.
            if len(self.registry) and until == FOREVER and self.workers.missing <= 0 and not self.standby.is_short:
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
        if self.inbox.turn(monotonic()):
            self.reports.hear()  # who said that he is ready before the signal came is ready: a stop may drain, a reload may wait
        while self.inbox.names:
            name = self.inbox.names.pop(0)
            if not self.running:
                self._insist(name)
            elif self.drain.under_way:
                self.drain.hear(name)
            else:
                self._manager.manager_sig_handler(name)

    def _give_up_if_hopeless(self) -> None:
        if not self.running or not self.workers.hopeless:
            return
        why = self.workers.refusal or f"no server ever became ready in {self.workers.respawn.failures} attempts"
        if any(part.holds_on(why) for part in self.attending):
            self.workers.rest()
        elif self.workers.refusal is not None:
            self._manager.exit(why, exits.USAGE)
        else:
            self._manager.die(why, exits.FAILED)

    def _keep_pool(self) -> None:
        if self._manager.n_processes <= 0:
            self._manager.die(f"n_processes is {self._manager.n_processes}")
        if self.renewal.due:
            self.renewal.execute()
        self.workers.fill()
        if self.is_kept:
            self.standby.keep()

    def reload(self) -> None:
        """Replace every worker that is there, unless the pool is about to end."""
        if self.drain.under_way:
            return
        # Nobody serves yet at the start: there is nobody who could go on while a canary tries.
        if self.life.state is ManagerState.RUNNING and any(part.needs_new_manager for part in self.attending):
            self.renewal.ask()
            return
        self.workers.reload()
        self.readiness.reloading()

    def reopen(self) -> None:
        """USR1: log files may have been moved. The manager's own descriptors and each worker's, in one turn of the loop, in which nobody
        is forked: so no worker keeps the former file. One that was forked before this is in the registry, and gets the signal; while it
        is too young for it, it holds it until its handler is there. One that is forked afterwards inherits the new file."""
        for part in self.attending:
            part.reopen()
        if not any(part.reopens_in_worker for part in self.attending):
            return
        for child in self._pool:
            # One of an older image, which had no such log, would end.
            if not idle.is_known() or idle.catches(child.pid, signals.number("USR1")):
                self.reaper.send(child, "USR1")

    # -- from one image to the next -----------------------------------------------------------------------------------

    def show(self) -> Handover:
        """What a canary has: the listeners, and where to say how it went."""
        left = Handover(canary=True, reports=self.channel.reports_end)
        for listener in self._manager.listeners:
            left.add_listener(listener)
        for part in self.attending:
            if (data := part.leave()) is not None:
                left.parts[part.kind] = data
        return left

    def leave(self, mask: Iterable[int]) -> Handover:
        """All that the next image is to have. mask: of signals, as it was before they were held."""
        self.reports.hear()
        left = self.show()
        left.canary, left.reports = False, -1
        left.channel, left.mask = self.channel.descriptors, [int(number) for number in mask]
        left.pidfiles = {path: pidfile.descriptor for path, pidfile in self._manager._pidfiles.items()}
        for child in self.registry.everybody:
            left.add_child(child)
        left.more = self._manager._more
        self.workers.leave(left)
        return left

    def _adopt(self, left: Handover) -> None:
        now = monotonic()
        for path, descriptor in left.pidfiles.items():
            self._manager._pidfiles[path] = PidFile.left(path, descriptor)
        for one in left.children:
            ready_at = FOREVER if one["ready_at"] is None else one["ready_at"]
            children = self.registry.of(one["kind"])
            child = children.restore(one["pid"], one["spawned_at"], one["generation"], ready_at, one["served"])
            if (leaves_by := one["leaves_by"]) is not None:
                self.registry.retire(child, Ladder(now, leaves_by and max(0.001, leaves_by - now)))
        self._manager._more = left.more
        self._manager.n_processes = max(1, self._manager.n_processes + left.more)
        self.workers.adopt(left)
        self.standby.adopt()
        self.life.on(ManagerEvent.READY)

    def _replace_adopted(self) -> None:
        if self._left is None:
            return
        left, self._left = self._left, None
        left.remove_listeners()
        self._manager.notify(f"adopted {len(self.workers.children)} servers")
        if self._failure:
            self.workers.refuse_reload(self._failure)
        else:
            self.workers.reload()

    # -- children -----------------------------------------------------------------------------------------------------

    def _heard(self, kind: bytes, pid: int, text: str) -> None:
        if self.registry.of(self.renewal.kind).get(pid) is not None:
            self.renewal.heard(kind, text)
        elif self.standby.children.get(pid) is not None:
            self.standby.heard(kind, pid, text)
        else:
            self.workers.heard(kind, pid, text)

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
        if exit.signal == signals.number("KILL") and child.state is not WorkerState.KILLED and self._manager._says_more:
            self._ask_for_memory(child)

    def _ask_for_memory(self, child: Child) -> None:
        """It was killed, and not by us."""
        who = f"{child.kind} (pid {child.pid})"
        if self._memory_kills.take():
            self._manager.notify(
                f"{who} was killed for want of memory: the kernel has counted it (oom_kill in memory.events)"
            )
        elif monotonic() >= self._memory_asked_at + _ASK_EVERY:
            self._memory_asked_at = monotonic()
            self._manager.notify(
                f"{who} was killed, and not by its manager: was it out of memory? (dmesg, memory.events)"
            )

    # -- stopping -----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Ask everybody to leave, and run the loop until they are gone. The parts hear of it first."""
        if self.running:
            self.life.on(ManagerEvent.STOP)
            self._stop = Stop(monotonic(), self.drain.asked_at)
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

    @property
    def _pool(self) -> list[Child]:
        """The workers, and who stands by."""
        return [*self.workers.children.everybody, *self.standby.children.everybody]

    def _go_on_stopping(self) -> None:
        workers = self.workers.children
        if not self._asked and not (len(workers) and any(part.holds_stop for part in self.parts)):
            self._asked = True
            self.workers.retire(self._pool, self._stop.time_left(self._manager.die_timeout, monotonic()))
        self.over = self._asked and not self._pool

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
        # Not TERM first: who is quick would leave in order, and nobody would have been killed.
        for child in self._pool:
            if child.ladder is None:
                self.reaper.kill(child)
        self.reaper.force()


def _told(error: Exception) -> str:
    """In one line, with the traceback in the log where it is one of the application's."""
    if not isinstance(error, ProcManagerError):
        log.write_traceback(error)
        return f"{type(error).__name__}: {error}"
    if isinstance(error, BootError) and error.__context__ is not None:
        log.write_traceback(error.__context__)
    return str(error)
