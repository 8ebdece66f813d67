"""The superdaemon as a process: what it makes, its one loop, its signals, its end.

Runs in the process that owns the sockets, until it is told to stop. Must leave no program and no file behind, however it ends by
itself.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial

from ..basics import exits, log
from ..basics.clock import monotonic
from ..basics.exits import Exit
from ..basics.states import ManagerEvent, ManagerState, manager_life
from ..children.launch import Program
from ..children.reaper import Reaper
from ..children.registry import WORKER, Child, Registry
from ..children.stop import Stop
from ..errors import PidFileError
from ..events.inbox import Inbox
from ..events.logfile import LogFile
from ..events.loop import Loop
from ..events.readiness import Readiness, Subject
from ..sockets.listener import Listener
from ..system import signals
from ..system.detach import Detached
from ..system.image import logical_directory
from ..system.pidfile import PidFile, UnusablePidFile
from ..system.signals import Signals
from .environment import Environment
from .generations import Generations
from .options import Options
from .sockets import Sockets
from .statusfile import StatusFile
from .succession import GIVE_UP

_say = partial(log.write, exact=True)


class Superdaemon:
    """handed_over: sockets of systemd, and their names. detached: who waits for the first generation; None when nobody does."""

    def __init__(
        self, options: Options, handed_over: Sequence[tuple[Listener, str]], detached: Detached | None = None
    ) -> None:
        self._options = options
        self._detached = detached
        self._signals = Signals()
        self._life = manager_life()
        self._stop = Stop(0)
        self._asked_to_stop = False
        self._given_up = False  # nothing could be started, and somebody waits
        self._killed_before_stop = 0
        registry = Registry()
        self._workers = registry.of(WORKER)
        self._sockets = Sockets(handed_over, _say)
        self._pid_file = (
            PidFile(options.pid_file, "--pid-file", others_lock=True) if options.pid_file is not None else None
        )
        self._status = StatusFile(options.status_file, _say)
        self._environment = Environment(options, os.environ, _say)
        self._directory = options.directory if options.directory is not None else logical_directory()
        self._log_file = LogFile(options.log_file, registry, _say)
        self._generations = Generations(options, registry, self._environment, self._status, self._program, _say)
        self._inbox = Inbox(self._signals, self._child_ended)
        self._readiness = Readiness(_Condition(self))
        # The generations come before readiness: it tells what has become of them in the same turn.
        self._loop = Loop(self._signals, (self._inbox, self._log_file, self._generations, self._readiness))
        self._reaper = Reaper(registry, _say_nothing, self._ended, _hear_nothing, whole_trees=True)
        self._generations.reaper = self._reaper

    def run(self) -> int:
        """Returns the exit status: 0 after a gentle stop, 1 when somebody had to be killed or, with somebody who waits, nothing
        could be started. Raises ConfigError, ListenError and PidFileError, with everything undone."""
        self._life.on(ManagerEvent.START)
        _say(f"start_server (pid:{os.getpid()}) starting now...")
        try:
            self._open()
            self._generations.ask()
            self._keep()
        finally:
            self._leave_nothing()
        return exits.FAILED if self._killed_somebody or self._given_up else exits.OK

    @property
    def last_failure(self) -> str:
        """Why nothing could be started."""
        return self._generations.last_failure

    def _open(self) -> None:
        self._signals.install(signals.SUPERDAEMON_SIGNALS)
        if self._pid_file is not None:
            # Before the sockets: a second start is told who is there, and has touched nothing.
            try:
                self._pid_file.acquire()
            except UnusablePidFile as error:
                raise PidFileError(f"failed to open file:{self._pid_file.path}: {error.reason}") from None
        self._status.claim()
        self._sockets.open(self._options)
        self._log_file.open(detached=self._detached is not None)

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
            if self._stopping:
                if not len(self._workers):
                    return
                self._say_if_late()
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
        for child in self._workers.everybody:
            self._reaper.kill(child)
        while len(self._workers):
            self._reaper.wait_for(self._workers.everybody[0])
        for part in self._loop.parts:
            if part is not self._log_file:
                part.close()
        self._sockets.remove()
        self._status.remove()
        if self._stopping:
            _say("exiting")
        if self._pid_file is not None:
            self._pid_file.release()
        self._log_file.close()
        self._life.on(ManagerEvent.END)
        if self._signals.open:
            if self._asked_to_stop:
                self._signals.take()  # what has come asked for what has happened; else it is delivered again
            self._signals.close()

    # -- signals ------------------------------------------------------------------------------------------------------

    def _act_on_signals(self) -> None:
        names, self._inbox.names = self._inbox.names, []
        for name in names:
            if self._stopping:
                self._insist(name)
            else:
                _ON_SIGNAL[name](self, name)

    def _on_stop(self, name: str) -> None:
        # The original sends TERM for INT, whatever is configured for TERM.
        first = self._options.signal_on_term if name == "TERM" else "TERM"
        workers = self._begin_stop()
        _say(f"received {name}, sending {first} to all workers:{_listed(workers)}")
        self._reaper.ask_to_leave(workers, self._options.die_timeout, first, repeated=False)

    def _on_quit(self, name: str) -> None:
        workers = self._begin_stop()
        _say(f"received {name}, killing all workers:{_listed(workers)}")
        self._force()

    def _on_hup(self, name: str) -> None:
        self._readiness.reloading()
        self._generations.ask_by_signal()

    def _on_usr1(self, name: str) -> None:
        self._log_file.reopen()

    def _begin_stop(self) -> list[Child]:
        self._asked_to_stop = True
        self._life.on(ManagerEvent.STOP)
        self._stop = Stop(monotonic())
        self._killed_before_stop = self._reaper.killed
        for part in self._loop.parts:
            part.stop()
        return sorted(self._workers.everybody, key=lambda child: child.generation)

    def _insist(self, name: str) -> None:
        if not self._stop.insists(name, monotonic()):
            return
        if self._life.state is not ManagerState.KILLING:
            _say(f"received {name} while stopping, killing all workers:{_listed(self._workers.everybody)}")
        self._force()

    def _force(self) -> None:
        self._life.on(ManagerEvent.FORCE)
        for child in self._workers.everybody:
            self._reaper.kill(child)

    def _say_if_late(self) -> None:
        """The ladders send KILL by themselves."""
        limit = self._options.die_timeout
        if limit and self._life.state is ManagerState.STOPPING and monotonic() >= self._stop.began + limit:
            self._life.on(ManagerEvent.FORCE)
            _say(f"killing workers that are still there after {limit:g} secs:{_listed(self._workers.everybody)}")

    @property
    def _killed_somebody(self) -> bool:
        return self._asked_to_stop and self._reaper.killed > self._killed_before_stop

    # -- what others ask ----------------------------------------------------------------------------------------------

    def _program(self, number: int) -> Program:
        environment = {
            **self._environment.variables,
            **self._sockets.environment,
            "SERVER_STARTER_GENERATION": str(number),
        }
        return Program(
            self._options.program,
            environment,
            {**self._log_file.descriptors_of_program, **self._sockets.descriptors},
            directory=self._directory,
            pid_variable="LISTEN_PID" if "LISTEN_FDS" in environment else "",
        )

    def _child_ended(self) -> None:
        self._reaper.child_ended = True

    def _ended(self, child: Child, exit: Exit) -> None:
        for part in self._loop.parts:
            if part.kind == child.kind:
                part.ended(child, exit)

    def _tell_waiter(self) -> None:
        """The first generation is good, or there will be none."""
        if self._detached is None or self._stopping:
            return
        if self._generations.current is not None:
            self._detached.tell(exits.OK)
            self._detached = None
        elif self._generations.succession.failures >= GIVE_UP:
            _say(f"no worker could be started in {GIVE_UP} attempts")
            self._given_up = True
            self._begin_stop()
            self._force()


class _Condition(Subject):
    """For the one who started us. A generation that fails is tried again; starting us anew would not help."""

    def __init__(self, superdaemon: Superdaemon) -> None:
        self._superdaemon = superdaemon

    @property
    def complete(self) -> bool:
        return self._superdaemon._generations.complete


_ON_SIGNAL = {
    "TERM": Superdaemon._on_stop,
    "INT": Superdaemon._on_stop,
    "QUIT": Superdaemon._on_quit,
    "HUP": Superdaemon._on_hup,
    "USR1": Superdaemon._on_usr1,
}


def _listed(children: list[Child]) -> str:
    return ",".join(str(child.pid) for child in children)


def _say_nothing(line: str) -> None:
    """The generations say it in the words of the original."""


def _hear_nothing() -> None:
    """Programs report nothing at their end."""
