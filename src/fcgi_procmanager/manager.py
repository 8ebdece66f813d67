"""`ProcManager`: forks workers, keeps them alive, stops and replaces them. Knows nothing of FastCGI.

Two processes run this file. The *manager* stays in `manage()` until it ends by SystemExit; a *worker* (role `server`, the
originals' word) leaves `manage()` with True and goes on as the application. Methods say which of them calls them. A
worker must never run the manager's code: what it inherits is reset in one place, `_become_worker`.

Behaviour after FCGI::Engine::ProcManager 0.22 and FCGI::ProcManager 0.28, without their races (docs/DESIGN.md).
"""

from __future__ import annotations

import atexit
import gc
import os
import select
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Callable, NoReturn

from . import exits, listeners, signals, systemd
from .addresses import parse_address
from .children import Child, Children
from .clock import FOREVER, milliseconds, monotonic
from .errors import BootError, ConfigError
from .exits import Exit
from .gate import Baton, Gate
from .pidfile import PidFile
from .policy import Respawn
from .proctitle import set_title
from .shutdown import Ladder
from .states import ManagerEvent, ManagerState, Role, WorkerEvent, manager_life

if TYPE_CHECKING:
    from .listeners import Listener

_REPORT = struct.Struct("=cIH")  # kind, pid, length of the text that follows
_READY, _REFUSED = b"R", b"F"
_EXCUSED = b"E"  # has served, or was told to leave: if it ends with status 0, its replacement need not wait
_GLANCE = 0.1  # seconds; plain `os.wait` hears no report and no timer, so without signals those are looked for
_TEXT_LIMIT = 400  # bytes; with its header far below PIPE_BUF, so that reports of many workers never mix


class ProcManager:
    """A pool of `n_processes` workers.

    n_processes: workers to keep; 0 means single-process mode, in which `manage()` changes nothing.
    pidfile: path of a PID file, held and locked while the manager lives; None for none.
    die_timeout: seconds a worker gets to leave before it is killed; 0 for no limit.
    start_delay: seconds between two forks; fractions count.
    no_signals: install no handler and wait with plain `os.wait`.
    process_name, manager_process_name: titles of a worker and of the manager.

    Raises ConfigError, which names the parameter. Every parameter is an attribute, read anew at each use.
    Source: the attributes of FCGI::Engine::ProcManager 0.22.
    """

    log_name = "FastCGI"  # what each log line begins with

    def __init__(
        self,
        n_processes: int = 0,
        *,
        pidfile: str | os.PathLike[str] | None = None,
        die_timeout: float = 60,
        start_delay: float = 0,
        no_signals: bool = False,
        process_name: str = "python-fcgi",
        manager_process_name: str = "python-fcgi-pm",
    ) -> None:
        self.n_processes = _count("n_processes", n_processes)
        self.pidfile = _path("pidfile", pidfile)
        self.die_timeout = _seconds("die_timeout", die_timeout)
        self.start_delay = _seconds("start_delay", start_delay)
        self.no_signals = _flag("no_signals", no_signals)
        self.process_name = _text("process_name", process_name)
        self.manager_process_name = _text("manager_process_name", manager_process_name)

        self.role = Role.MANAGER
        self.manager_pid = os.getpid()
        self.listeners: list[Listener] = []
        self._managed = False  # this process is the manager or a worker of a pool, not a single process
        self._life = manager_life()
        self._children = Children()
        self._signals = signals.Signals()
        self._respawn = Respawn()
        self._received: dict[str, int] = {}
        self._inbox: list[str] = []  # manager: names to act on
        self._pidfiles: dict[str, PidFile] = {}  # held, by path
        self._pipes: _Pipes | None = None
        self._refusal: str | None = None  # why the first worker could not be prepared
        self._announce = False  # tell systemd once the pool is complete
        self._somebody_killed = False
        self._child_ended = False  # manager: SIGCHLD came since the last look at who is lost
        self.in_flight = 0  # worker with threads: other requests in progress
        self._orphaned = False  # worker: after a request, the manager was gone
        self._served = False  # worker: it has begun its first request
        self._leave = False  # worker: TERM or HUP came, or a limit was reached
        self._retirement = ""  # worker: why, if not for a signal
        self._gate: Gate | None = None
        self._duties: list[Callable[[], bool]] = []

    # -- what a script calls ------------------------------------------------------------------------------------------

    def manage(self) -> bool:
        """Fork and keep the workers. Returns True in each worker. With 0 processes returns False at once and changes
        nothing. In the manager it never returns: it ends by SystemExit, status 0 after a gentle stop, 1 when somebody
        had to be killed or nothing could be served, 2 when the workers refused to start (BootError).

        Raises ConfigError, PidFileError and what `manager_init` raises, with everything undone.
        """
        if self.n_processes == 0:
            return False
        if self.n_processes < 0:
            raise ConfigError(f"n_processes must not be negative: {self.n_processes}")
        owner = os.getpid()
        try:
            self._start()
            return self._keep()
        except BaseException:
            if os.getpid() == owner:
                self._end()
            raise

    def listen(
        self,
        address: str | tuple[Any, ...] | None = None,
        *,
        mode: int | None = None,
        owner: str | None = None,
        backlog: int = 1024,
    ) -> Listener:
        """Bind `address` once, for all workers, before `manage()`. Forms: `/path.sock`, `host:port`, `[v6]:port`, `fd:N`;
        None for what systemd or a FastCGI spawner handed over (LISTEN_FDS, else descriptor 0).

        `mode` and `owner` ("user:group") are of a socket file, by default 0660 and ours; it is removed when the manager
        ends. Raises ConfigError and ListenError.
        """
        if address is None:
            found = listeners.systemd_listeners() or [listeners.inherit(0)]
        else:
            found = [listeners.bind(parse_address(address), backlog=backlog, mode=mode, owner=owner)]
        if not self.listeners:
            atexit.register(self._remove_listeners)  # for a process that never comes to manage()
        self.listeners += found
        return found[0]

    def accept(self, listener: Listener | socket.socket) -> tuple[socket.socket, Any] | None:
        """Worker: the next (connection, address), or None once this worker should leave. No signal is lost between the
        look and the wait, and no accepted connection either. `listener` must be non-blocking, as `listen` makes it."""
        sock = listener if isinstance(listener, socket.socket) else listener.socket
        called = False
        while not self.leaving:
            try:
                accepted: tuple[socket.socket, Any] = sock.accept()
            except (BlockingIOError, ConnectionAbortedError):
                self.gate.add_listener(sock.fileno())
                called = bool(self.gate.wait())
            else:
                self._has_served()
                return accepted
        if called:  # the TERM may have come at any moment since the wait
            self.gate.pass_on()
        return None

    def received_signal(self, name: str | None = None) -> Any:
        """How often a signal came to this process: of one name, or a dict of all. Source: FCGI::ProcManager 0.28."""
        return dict(self._received) if name is None else self._received.get(name, 0)

    @property
    def server_pids(self) -> list[int]:
        """Manager: the pids of the workers that are not reaped yet."""
        return self._children.pids

    # -- hooks: override, and call super() ----------------------------------------------------------------------------

    def manager_init(self) -> None:
        """Manager: once, before the first fork; handlers, PID file and process name are in place."""

    def server_init(self) -> None:
        """Worker: once, before `manage()` returns in it. An exception ends the worker; BootError ends the pool, if no
        worker has ever been ready: trying again would not help."""

    def pre_dispatch(self) -> None:
        """Worker: before each request. Puts SA_RESTART back on TERM and HUP, so that the request is not disturbed."""
        if not self._managed:
            return
        if not self._served:
            self._has_served()
        if not self.no_signals:
            signals.restart(True)

    def post_dispatch(self) -> None:
        """Worker: after each request. Leaves (SystemExit 0) if TERM or HUP came or the manager is gone, unless something
        that was accepted is still to be answered; else takes SA_RESTART off again."""
        if not self._managed:
            return
        if os.getppid() != self.manager_pid:
            self._orphaned = True
        if (self._leave or self._orphaned) and not self._kept_by_duty():
            self.exit(self.leave_reason)
        if not self.no_signals and not self.in_flight:
            if "asyncio" in sys.modules:
                self._signals.rearm()
            signals.restart(False)

    def manager_sig_handler(self, name: str) -> None:
        """Manager: act on a signal; called by the loop, not in the handler. `name` is without its SIG."""
        action = self._ON_SIGNAL.get(name)
        if action is None:
            self.notify(f"ignoring signal {name}")
        else:
            action(self, name)

    def server_sig_handler(self, name: str) -> None:
        """Worker: called in the handler, so it must only note. TERM and HUP: leave after the request in hand."""
        self._received[name] = self._received.get(name, 0) + 1
        if name in signals.LEAVE_SIGNALS:
            self._leave = True

    def notify(self, message: str) -> None:
        """One line: to standard error, or through `logging` when the application configured that logger."""
        line = f"{self.log_name}: {self.role.value} (pid {os.getpid()}): {message.rstrip()}"
        logger = _configured_logger()
        if logger is not None:
            logger.info(line)
            return
        try:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
        except (AttributeError, OSError, ValueError):
            pass  # nobody reads it (None, closed, a pipe without a reader): no reason to stop serving

    def change_process_name(self) -> None:
        """Either: show the role in the process title."""
        set_title(self.manager_process_name if self.role is Role.MANAGER else self.process_name)

    def write_pid_file(self) -> None:
        """Manager: put `pidfile` in place and hold it, if there is one. Raises PidFileError."""
        if self.pidfile is not None:
            self._hold(PidFile(self.pidfile))

    def remove_pid_file(self) -> None:
        """Manager: let go of every PID file it holds; each is removed if it is still ours."""
        while self._pidfiles:
            self._pidfiles.popitem()[1].release()

    # -- leaving ------------------------------------------------------------------------------------------------------

    def die(self, message: str, status: int = exits.OK) -> NoReturn:
        """Manager: stop gently: TERM, repeated; KILL at `die_timeout`, then status 1. A second TERM or INT, or QUIT,
        kills at once. Ends by SystemExit. Source: pm_die of FCGI::ProcManager 0.28."""
        if self._running:
            self._life.on(ManagerEvent.STOP)
            systemd.stopping()
        self._retire(self._everybody())
        self._empty_pool()
        if self._somebody_killed:
            timed_out = self._life.state is ManagerState.STOPPING
            self.exit("wait timeout" if timed_out else f"killed while stopping: {message}", exits.FAILED)
        self.exit(f"dying: {message}", status)

    def abort(self, message: str) -> NoReturn:
        """Either: leave at once with status 1."""
        self.exit(message, exits.FAILED)

    def exit(self, message: str, status: int = exits.OK) -> NoReturn:
        """Either: leave now. The manager kills and reaps what is left, and removes its files. Ends by SystemExit."""
        if self.role is Role.MANAGER:
            self._vacate()  # the handlers stay until the last line is out: a TERM now would be a death by signal
        else:
            self._quiet()
            if self._pipes is not None:
                self._pipes.report(_EXCUSED)
        self.notify(message)
        raise SystemExit(status)

    def retire_self(self, message: str) -> None:
        """Worker: leave after the request in hand and what has been accepted already, with this as the last line."""
        self._retirement = self._retirement or message
        self._leave = True

    @property
    def leaving(self) -> bool:
        """Worker: it has been told to leave, or its manager is gone: accept no more."""
        return self._leave or self._orphaned or (self._gate is not None and self._gate.orphaned)

    @property
    def leave_reason(self) -> str:
        """The words of the log line of a worker that leaves."""
        if self._retirement:
            return self._retirement
        for name in signals.LEAVE_SIGNALS:
            if self._received.get(name):
                return f"safe exit after SIG{name}"
        return "safe exit: manager has died"

    def add_duty(self, duty: Callable[[], bool]) -> None:
        """Worker: `duty()` is asked before it leaves: True while something it accepted is still to be answered."""
        if duty not in self._duties:
            self._duties.append(duty)

    @property
    def gate(self) -> Gate:
        """Worker: its wait set, made when first asked for, after the fork."""
        if self._gate is None:
            pipes = self._pipes
            self._gate = Gate(self._signals, pipes.lifeline, pipes.baton) if pipes else Gate(self._signals)
        return self._gate

    @property
    def baton(self) -> Baton | None:
        """Worker: for gates of its threads."""
        return self._pipes.baton if self._pipes else None

    @contextmanager
    def single_process(self) -> Iterator[None]:
        """The only process: TERM, INT and HUP make `leaving` true inside the block. For servers; a script with a loop of its
        own and 0 processes keeps the handlers it has."""
        if self.no_signals:
            yield
            return
        self._leave = False
        self._received.clear()
        self._signals.install(signals.WORKER_SIGNALS, self._on_single_signal)
        try:
            yield
        finally:
            self._drop_gate()
            self._signals.close()

    def _on_single_signal(self, name: str) -> None:
        self.server_sig_handler(name)
        self._leave = True

    def _has_served(self) -> None:
        """A worker that ends before this, even with status 0, has no loop or no listener: replacing it at once would fork
        without end."""
        if not self._served and self.role is Role.SERVER and self._pipes is not None:
            self._served = True
            self._pipes.report(_EXCUSED)

    def _drop_gate(self) -> None:
        if self._gate is not None:
            self._gate.close()
            self._gate = None

    def _kept_by_duty(self) -> bool:
        answers = [duty() for duty in self._duties]  # each is asked: it finishes what it has in hand
        return any(answers)

    def _quiet(self) -> None:
        """A worker on its way out: a repeated TERM must not turn its status into a death by signal."""
        if self._signals.open:
            signals.ignore_late()

    # -- the manager --------------------------------------------------------------------------------------------------

    def wait(self) -> int | None:
        """Manager: reap the next child of any kind; its pid, or None when a signal, a worker's report or a timer came
        first. Announces `server (pid P) exited with status S` for its own. Source: pm_wait of FCGI::ProcManager 0.28."""
        if self._life.state is ManagerState.IDLE:  # no pool here: it can only be a child of the application
            try:
                return os.wait()[0]
            except ChildProcessError:
                return None
        while True:
            self._note_signals()
            if self._read_reports():
                return (
                    None  # asleep again without a turn for the caller, it would never tell systemd that all are ready
                )
            before = len(self._children)
            pid = self._reap()
            if pid is not None or len(self._children) < before:
                return pid
            deadline = self._next_deadline()
            if self._inbox or self._verdict or monotonic() >= deadline:
                return None
            if self._sleep(deadline):
                return None

    def _start(self) -> None:
        self._life.on(ManagerEvent.START)
        self.role = Role.MANAGER
        self.manager_pid = os.getpid()
        self._managed = True
        self._received.clear()
        self._respawn = Respawn(self.start_delay)
        self._refusal, self._somebody_killed, self._announce = None, False, True
        if not self.no_signals:
            self._signals.install(signals.MANAGER_SIGNALS)
        self.write_pid_file()
        self._pipes = _Pipes()
        self.change_process_name()
        self.manager_init()
        self._signals.rearm()
        if not self.no_signals:
            # Code that the hook loaded may ignore SIGCHLD: the system would then reap for us, and nobody would be told.
            self._signals.install(("CHLD",))
        self.notify("initialized")
        gc.freeze()  # what is there now is never collected, so the workers' copies of these pages stay shared

    def _keep(self) -> bool:
        """The manager's loop. Returns only in a worker."""
        while True:
            self._note_signals()
            while self._inbox:
                self.manager_sig_handler(self._inbox.pop(0))
            self._judge()
            self._escalate()
            if self._resize():
                return True
            self._tell_systemd()
            self.wait()

    def _resize(self) -> bool:
        """Fork what is missing, retire what is too much. True in a new worker."""
        surplus = len(self._children.staying) - max(0, self.n_processes)
        if surplus > 0:
            self._retire(list(self._children.staying.values())[:surplus])
        self._respawn.start_delay = self.start_delay
        for _ in range(self._respawn.budget(self._missing, monotonic())):
            pid = self._fork()
            if pid <= 0:
                return pid == 0  # refused: the next ones would be as well, and one refusal is one failure
        return False

    def _fork(self) -> int:
        """The one place that forks. Returns the pid, 0 in the child, -1 when the system refused.

        Signals are held from before the fork until the child has its own handlers and the parent has recorded the pid.
        Otherwise a TERM would run the manager's stop in the child, which would remove the PID file and end its siblings,
        or come to a manager that does not know this child yet, and never end it.
        """
        _flush_standard_streams()  # what is buffered now would be written by every child once more
        mask = signals.block()
        try:
            pid = os.fork()
        except OSError as error:
            signals.unblock(mask)
            delay = self._respawn.fork_failed(monotonic())
            self.notify(f"fork: {error.strerror}; trying again in {delay:.1f} s")
            return -1
        if pid == 0:
            self._become_worker(mask)
            return 0
        self._children.add(pid, monotonic())
        signals.unblock(mask)
        self._respawn.forked(monotonic())
        self.notify(f"server (pid {pid}) started")
        return pid

    def _reap(self) -> int | None:
        """One child that has ended, or None."""
        try:
            pid, raw = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            # No child at all. What the registry still holds was reaped by somebody else.
            for lost in self._children.pids:
                self._bury(lost, Exit(None))
            return None
        if pid == 0:
            self._bury_lost()
            return None
        self._bury(pid, Exit(raw))
        return pid

    def _bury_lost(self) -> None:
        """A child has ended and there is none to reap: if it was one of ours, somebody else reaped it (a thread of the
        application that waits for any child), and nobody will ever tell us which."""
        if not self._child_ended or not hasattr(os, "waitid"):
            return
        self._child_ended = False
        for pid in self._children.pids:
            try:
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                self._bury(pid, Exit(None))

    def _bury(self, pid: int, exit: Exit) -> None:
        self._read_reports()  # its last words come before its death is judged
        child = self._children.remove(pid)
        if child is None:
            return  # not ours: an orphan that came to process 1, or a helper of the application
        self.notify(f"server (pid {pid}) exited with status {exit}")
        if child.ladder is not None or (child.excused and exit.clean):
            self._respawn.left(child.ready_at, monotonic())
        else:
            delay = self._respawn.died(child.spawned_at, child.ready_at, monotonic())
            if delay and not self._respawn.hopeless:
                self.notify(f"{self._respawn.failures} servers in a row failed; the next one starts in {delay:.1f} s")

    def _retire(self, chosen: list[Child]) -> None:
        """Ask these workers to leave, now."""
        if not chosen:
            return
        self.notify("sending TERM to PIDs, " + " ".join(str(child.pid) for child in chosen))
        now = monotonic()
        for child in chosen:
            self._children.retire(child, Ladder(now, self.die_timeout))
        self._escalate()

    def _escalate(self) -> None:
        """Send those who have been asked to leave what is due."""
        now = monotonic()
        for child in list(self._children.leaving.values()):
            due = child.ladder.due(now) if child.ladder else None
            if due is not None:
                self._send(child, due)

    def _send(self, child: Child, name: str) -> None:
        try:
            os.kill(child.pid, signals.KILL if name == "KILL" else signals.number(name))
        except ProcessLookupError:
            self._bury(child.pid, Exit(None))  # not even a zombie is left: somebody else reaped it
            return
        if name == "KILL":
            child.on(WorkerEvent.KILL)
            self._somebody_killed |= not self._running  # in a reload it says nothing about the stop

    def _empty_pool(self) -> None:
        """Wait until every worker is gone, climbing the ladder."""
        while len(self._children):
            self.wait()
            self._note_signals()
            for name in self._inbox:
                if name in ("TERM", "INT", "QUIT"):
                    self._force(name)
            self._inbox.clear()  # HUP and the rest mean nothing any more
            self._escalate()

    def _force(self, name: str) -> None:
        if self._life.state is not ManagerState.KILLING:
            self.notify(f"received signal {name} while stopping: killing {len(self._children)} servers")
        self._life.on(ManagerEvent.FORCE)
        for child in self._children.leaving.values():
            if child.ladder:
                child.ladder.force()

    def _kill_everybody(self) -> None:
        for child in self._everybody():
            self._children.retire(child, Ladder(monotonic(), self.die_timeout))
            self._send(child, "KILL")
        for pid in self._children.pids:  # each by its number: another child of the application may live on
            try:
                self._bury(pid, Exit(os.waitpid(pid, 0)[1]))
            except ChildProcessError:
                self._bury(pid, Exit(None))

    def _vacate(self) -> None:
        """Leave no worker and no file. The PID file goes last: while it is there, somebody serves."""
        if self._life.state is ManagerState.IDLE:
            return
        self._kill_everybody()
        self._remove_listeners()
        self.remove_pid_file()

    def _end(self) -> None:
        """Undo `_start`."""
        if self._life.state is ManagerState.IDLE:
            return
        self._vacate()
        if self._pipes is not None:
            self._pipes.close()
            self._pipes = None
        self._managed = False
        self._inbox.clear()
        self._life.on(ManagerEvent.END)
        if self._signals.open:
            atexit.register(signals.ignore_late)
            self._signals.close()

    def _hold(self, pidfile: PidFile) -> None:
        if pidfile.path not in self._pidfiles:
            pidfile.acquire()
            self._pidfiles[pidfile.path] = pidfile

    def _remove_listeners(self) -> None:
        for listener in self.listeners:
            listener.remove()
        self.listeners.clear()

    def _judge(self) -> None:
        """Give up when no worker ever became ready."""
        if self._refusal is not None:
            self._kill_everybody()
            self.exit(self._refusal, exits.USAGE)
        if self._respawn.hopeless:
            self.die(f"no server ever became ready in {self._respawn.failures} attempts", exits.FAILED)

    @property
    def _verdict(self) -> bool:
        return self._running and (self._refusal is not None or self._respawn.hopeless)

    @property
    def _running(self) -> bool:
        return self._life.state in (ManagerState.STARTING, ManagerState.RUNNING)

    @property
    def _missing(self) -> int:
        """Workers to fork. One that is leaving still holds its place: it is replaced when it is gone."""
        return self.n_processes - len(self._children)

    def _everybody(self) -> list[Child]:
        return [*self._children.staying.values(), *self._children.leaving.values()]

    # -- what the manager hears ---------------------------------------------------------------------------------------

    def _note_signals(self) -> None:
        for name in self._signals.take():
            self._received[name] = self._received.get(name, 0) + 1
            if name == "CHLD":
                self._child_ended = True
            else:
                self._inbox.append(name)

    def _read_reports(self) -> bool:
        """Note what workers have reported; whether there was anything."""
        reports = self._pipes.read_reports() if self._pipes else []
        for kind, pid, text in reports:
            if kind == _READY and self._children.became_ready(pid, monotonic()):
                if self._life.state is not ManagerState.IDLE:
                    self._life.on(ManagerEvent.READY)
                self._respawn.became_ready()
            elif kind == _EXCUSED:
                child = self._children.get(pid)
                if child is not None:
                    child.excused = True
            elif kind == _REFUSED:
                self._refused(text)
        return bool(reports)

    def _refused(self, text: str) -> None:
        """A worker said that it cannot be prepared. Fatal only before anybody was ready: later, the pool serves on."""
        if self._life.state is ManagerState.STARTING:
            self._refusal = self._refusal or text
        elif text != self._refusal:
            self.notify(text)

    def _next_deadline(self) -> float:
        deadline = min(
            (child.ladder.next_at for child in self._children.leaving.values() if child.ladder), default=FOREVER
        )
        if self._running and self._missing > 0:
            deadline = min(deadline, self._respawn.next_at)
        return deadline

    def _sleep(self, deadline: float) -> bool:
        """Wait for a child, a signal, a report or the deadline. True when `wait` should give its caller a turn."""
        assert self._pipes is not None
        if self.no_signals:
            if len(self._children) and deadline == FOREVER and self._missing <= 0:
                try:
                    pid, raw = os.wait()
                except ChildProcessError:
                    return False  # `wait` finds out who is lost
                self._bury(pid, Exit(raw))
                return True
            deadline = min(deadline, monotonic() + _GLANCE)
        owner = self._signals.claim()
        heard = self._pipes.poll(self._signals.fileno(), milliseconds(deadline, monotonic()))
        self._signals.give_back(owner)
        return self._pipes.reports in heard

    def _tell_systemd(self) -> None:
        complete = self.no_signals or (not self._children.leaving and self._children.ready >= self.n_processes)
        if self._announce and complete:
            self._announce = False
            systemd.ready()

    # -- the worker ---------------------------------------------------------------------------------------------------

    def _become_worker(self, mask: set[int]) -> None:
        """In the child, signals held: drop all that is the manager's, then let signals in, then look."""
        assert self._pipes is not None
        self.role = Role.SERVER
        self._children.clear()
        self._inbox.clear()
        self._received.clear()
        self._life = manager_life()
        self._gate = None
        self._duties.clear()
        self._leave, self._retirement = False, ""
        self._orphaned, self._served, self.in_flight = False, False, 0
        while self._pidfiles:
            self._pidfiles.popitem()[1].abandon()
        self._pipes.keep_worker_ends()
        if not self.no_signals:
            self._signals.renew()
            self._signals.restore("QUIT", "TTIN", "TTOU", "CHLD")
            self._signals.install(signals.WORKER_SIGNALS, self._on_worker_signal)
            atexit.register(signals.ignore_late)  # a TERM repeated while Python shuts down would kill, status 143
        signals.unblock(mask)
        self._boot()

    def _boot(self) -> None:
        if self.leaving:
            self.exit(self.leave_reason)
        self.change_process_name()
        try:
            self.server_init()
        except BootError as error:
            self._pipes_of_worker().report(_REFUSED, str(error))
            self._quiet()
            raise SystemExit(exits.USAGE)
        self._signals.rearm()
        self.notify("initialized")
        self._pipes_of_worker().report(_READY)
        if self.leaving:
            self.exit(self.leave_reason)

    def _pipes_of_worker(self) -> _Pipes:
        assert self._pipes is not None
        return self._pipes

    def _on_worker_signal(self, name: str) -> None:
        self.server_sig_handler(name)

    # -- what a signal does in the manager ----------------------------------------------------------------------------

    def _on_stop(self, name: str) -> None:
        self.notify(f"received signal {name}")
        self.die(f"safe exit from signal {name}")

    def _on_quit(self, name: str) -> None:
        self.notify(f"received signal {name}")
        self.abort(f"exit at once from signal {name}")

    def _on_reload(self, name: str) -> None:
        systemd.reloading()
        self._announce = True
        self._retire(list(self._children.staying.values()))

    def _on_more(self, name: str) -> None:
        self.n_processes += 1
        self.notify(f"received signal {name}: {self.n_processes} servers")

    def _on_fewer(self, name: str) -> None:
        self.n_processes = max(1, self.n_processes - 1)
        self.notify(f"received signal {name}: {self.n_processes} servers")

    _ON_SIGNAL = {
        "TERM": _on_stop,
        "INT": _on_stop,
        "QUIT": _on_quit,
        "HUP": _on_reload,
        "TTIN": _on_more,
        "TTOU": _on_fewer,
    }


class _Pipes:
    """The three pipes between a manager and its workers.

    The lifeline: only the manager has its write end, so its end of file says that the manager is gone. Reports: workers
    write, the manager reads. The baton: see gate.py.
    """

    def __init__(self) -> None:
        self.lifeline, self._lifeline_write = os.pipe()
        self.reports, self._reports_write = os.pipe()
        os.set_blocking(self.reports, False)
        self.baton = Baton()
        self._unread = b""

    def keep_worker_ends(self) -> None:
        os.close(self._lifeline_write)
        os.close(self.reports)
        self._lifeline_write = self.reports = -1

    def report(self, kind: bytes, text: str = "") -> None:
        """Worker: the one thing it has to say."""
        data = text.encode()[:_TEXT_LIMIT]
        try:
            os.write(self._reports_write, _REPORT.pack(kind, os.getpid(), len(data)) + data)
        except OSError:
            pass  # no manager any more: noticed by the lifeline

    def read_reports(self) -> list[tuple[bytes, int, str]]:
        """Manager: what has been reported since the last call."""
        try:
            while chunk := os.read(self.reports, 65536):
                self._unread += chunk
        except BlockingIOError:
            pass
        reports = []
        while len(self._unread) >= _REPORT.size:
            kind, pid, length = _REPORT.unpack_from(self._unread)
            text = self._unread[_REPORT.size : _REPORT.size + length].decode(errors="replace")
            self._unread = self._unread[_REPORT.size + length :]
            reports.append((kind, pid, text))
        return reports

    def poll(self, wake: int, timeout: int | None) -> list[int]:
        poller = select.poll()
        poller.register(self.reports, select.POLLIN)
        if wake >= 0:
            poller.register(wake, select.POLLIN)
        return [fd for fd, _ in poller.poll(timeout)]

    def close(self) -> None:
        for fd in (self.lifeline, self._lifeline_write, self.reports, self._reports_write):
            if fd >= 0:
                os.close(fd)
        self.baton.close()


def _flush_standard_streams() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            pass


def _configured_logger() -> Any:
    """The package's logger, if the application gave it a handler or a level. Nothing is imported to find out."""
    logging = sys.modules.get("logging")
    if logging is None:
        return None
    logger = logging.getLogger("fcgi_procmanager")
    return logger if logger.handlers or logger.level else None


def _count(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigError(f"{name} must be a whole number, not {value!r}")
    if value < 0:
        raise ConfigError(f"{name} must not be negative: {value}")
    return value


def _seconds(name: str, value: object) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise ConfigError(f"{name} must be a number of seconds, not {value!r}")
    if not 0 <= value < FOREVER:
        raise ConfigError(f"{name} must be 0 or more seconds: {value}")
    return value


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be True or False, not {value!r}")
    return value


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ConfigError(f"{name} must be a string without NUL, not {value!r}")
    return value


def _path(name: str, value: object) -> str | os.PathLike[str] | None:
    if value is not None and not isinstance(value, (str, os.PathLike)):
        raise ConfigError(f"{name} must be a path or None, not {value!r}")
    return value
