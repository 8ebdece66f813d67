"""The parent of several pools as a process: its one loop, its signals, its end.

Runs in the process that was typed, or its daemon, until it is told to stop. Must leave no manager and no file behind, however it ends by
itself, and never load code of an application.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Callable

from ..basics import exits, log
from ..basics.clock import monotonic
from ..basics.exits import Exit
from ..basics.states import ManagerEvent, ManagerState, manager_life
from ..children.launch import Program
from ..children.reaper import Reaper
from ..children.registry import Child, Registry
from ..children.stop import Stop
from ..errors import ConfigError
from ..events.inbox import Inbox
from ..events.logfile import LogFile
from ..events.loop import Loop
from ..events.readiness import Readiness, Subject
from ..system import signals
from ..system.detach import Detached
from ..system.image import IMAGE, logical_directory
from ..system.pidfile import PidFile
from ..system.signals import Signals
from .control import Control
from .managers import Managers
from .overview import Entry, Overview
from .wanted import Wanted

__all__ = ["Parent"]


class Parent:
    """read: the pools of the file, as it is now; raises ConfigError for a file that is not in order. wanted: what it said first.
    starter: the words that execute this package. pidfile, control, log_file: paths. detached: who waits until all are ready."""

    def __init__(
        self,
        read: Callable[[], Mapping[str, Wanted]],
        wanted: Mapping[str, Wanted],
        starter: tuple[str, ...],
        *,
        pidfile: str | None = None,
        control: str | None = None,
        log_file: str | None = None,
        detached: Detached | None = None,
    ) -> None:
        self._read = read
        self._starter = starter
        self._detached = detached
        self._directory = logical_directory()
        self._signals = Signals()
        self._life = manager_life()
        self._stop = Stop(0)
        self._has_stopped = False
        self._failure: tuple[str, int] | None = None
        self._reloads = 0
        self._refusal = ""
        registry = self._registry = Registry()
        self._pid_file = PidFile(pidfile) if pidfile is not None else None
        self._control = Control(control, self._look) if control is not None else None
        self._log_file = LogFile(log_file, registry)
        self._managers = Managers(wanted, registry, self._program, self._notify)
        self._inbox = Inbox(self._signals, self._child_ended)
        self._readiness = Readiness(_Condition(self._managers))
        # The managers come before readiness: it tells what has become of them in the same turn.
        parts = (self._inbox, self._log_file, self._managers, self._readiness)
        self._loop = Loop(self._signals, (*parts, self._control) if self._control is not None else parts)
        # A manager that has to be killed cannot end its workers.
        self._reaper = Reaper(registry, self._notify, self._ended, _hear_nothing, whole_trees=True)
        self._managers.reaper = self._reaper

    def run(self) -> int:
        """Returns the exit status: the worst of those that ended in the stop, or why it could not be started. Raises ConfigError,
        ListenError and PidFileError, with everything undone."""
        self._life.on(ManagerEvent.START)
        try:
            self._open()
            self._keep()
        finally:
            self._leave_nothing()
        return self._failure[1] if self._failure is not None else self._managers.worst

    @property
    def failure(self) -> str:
        """Why it could not be started."""
        return self._failure[0] if self._failure is not None else ""

    def _open(self) -> None:
        self._signals.install(signals.PARENT_SIGNALS)
        if self._pid_file is not None:
            self._pid_file.acquire()
        self._log_file.open(detached=self._detached is not None)
        if self._control is not None:
            self._control.open({})

    def _keep(self) -> None:
        """The one loop, until a stop is over."""
        while True:
            self._loop.turn()
            # After each turn, which empties the pipe of the signals: a child that ends between a look for the dead and a turn would
            # be noticed when something else happens.
            while self._reap():
                self._loop.turn()
            self._act_on_signals()
            self._reaper.escalate()
            self._tell_waiter()
            self._give_up()
            if self._stopping and not len(self._registry):
                return
            self._loop.sleep(min(self._loop.next_at, self._reaper.next_at))

    def _reap(self) -> bool:
        """Whether somebody was dead."""
        found = False
        while self._reaper.reap() is not None:
            found = True
        return found

    @property
    def _stopping(self) -> bool:
        return self._life.state in (ManagerState.STOPPING, ManagerState.KILLING)

    def _leave_nothing(self) -> None:
        """The PID file goes last: while it is there, somebody serves."""
        self._reaper.kill_everybody()
        for part in self._loop.parts:
            if part is not self._log_file:
                part.close()
        if self._pid_file is not None:
            self._pid_file.release()
        self._log_file.close()
        self._life.on(ManagerEvent.END)
        if self._signals.open:
            if self._has_stopped:
                self._signals.take()  # what has come asked for what has happened; else it is delivered again
            self._signals.close()

    # -- signals ------------------------------------------------------------------------------------------------------

    def _act_on_signals(self) -> None:
        names, self._inbox.names = self._inbox.names, []
        for name in names:
            if not self._stopping:
                _ON_SIGNAL[name](self, name)
            elif self._stop.insists(name, monotonic()):
                self._insist(name)

    def _on_stop(self, name: str) -> None:
        self._notify(f"received signal {name}: asking every manager to stop")
        self._begin_stop()

    def _on_quit(self, name: str) -> None:
        self._begin_stop()
        self._insist(name)

    def _insist(self, name: str) -> None:
        if self._life.state is not ManagerState.KILLING:
            self._notify(f"received signal {name}: ending every manager at once")
            self._life.on(ManagerEvent.FORCE)
            self._managers.end_all()

    def _on_reload(self, name: str) -> None:
        self._readiness.reloading()
        try:
            wanted = self._read()
        except ConfigError as error:
            self._refusal = str(error)
            self._notify(f"received signal {name}: refused, everything goes on as it is: {error}")
        else:
            self._refusal = ""
            self._notify(f"received signal {name}: reloading {len(wanted)} pools")
            self._managers.reload(wanted, name)
        self._reloads += 1

    def _on_usr1(self, name: str) -> None:
        self._log_file.reopen()
        self._managers.reopen_logs()

    def _on_number(self, name: str) -> None:
        self._notify(f"received signal {name}: ignored: send it to the manager of one pool")

    def _begin_stop(self) -> None:
        self._has_stopped = True
        self._life.on(ManagerEvent.STOP)
        self._stop = Stop(monotonic())
        for part in self._loop.parts:
            part.stop()
        self._managers.ask_all_to_leave()

    # -- the start ----------------------------------------------------------------------------------------------------

    def _give_up(self) -> None:
        if self._managers.failure is None or self._stopping:
            return
        self._failure = self._managers.failure
        self._notify(f"giving up: {self.failure}; asking the other managers to stop")
        self._begin_stop()

    def _tell_waiter(self) -> None:
        if self._detached is not None and self._managers.settled and not self._stopping:
            self._detached.tell(exits.OK)
            self._detached = None

    # -- what others ask ----------------------------------------------------------------------------------------------

    def _notify(self, line: str) -> None:
        log.write(f"FastCGI: parent (pid {os.getpid()}): {line}")

    def _program(self, wanted: Wanted) -> Program:
        return Program(
            (IMAGE.program, *self._starter[1:], *wanted.arguments),
            wanted.environment,
            directory=self._directory,
            session=True,  # control-C at a terminal reaches the parent alone
            death_signal="TERM",
        )

    def _look(self) -> Overview:
        pools = []
        for kept in self._managers.kept.values():
            child, wanted = kept.child, kept.started_for
            pid = child.pid if child is not None else 0
            pools.append(Entry(kept.name, wanted.command, kept.state, pid, wanted.control, kept.words))
        return Overview(os.getpid(), self._reloads, self._refusal, pools)

    def _child_ended(self) -> None:
        self._reaper.child_ended = True

    def _ended(self, child: Child, exit: Exit) -> None:
        self._managers.ended(child, exit)


class _Condition(Subject):
    """For the one who started us. A pool that fails is tried again; starting us anew would not help."""

    def __init__(self, managers: Managers) -> None:
        self._managers = managers

    @property
    def complete(self) -> bool:
        return self._managers.settled

    def status(self, phase: str) -> str:
        ready = f"{self._managers.ready} of {len(self._managers.kept)} pools ready"
        return f"{phase}: {ready}" if phase else ready


_ON_SIGNAL = {
    "TERM": Parent._on_stop,
    "INT": Parent._on_stop,
    "QUIT": Parent._on_quit,
    "HUP": Parent._on_reload,
    "USR2": Parent._on_reload,
    "USR1": Parent._on_usr1,
    "TTIN": Parent._on_number,
    "TTOU": Parent._on_number,
}


def _hear_nothing() -> None:
    """Managers report by other ways."""
