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
from typing import TYPE_CHECKING, Any, NoReturn

from ..basics import checks, exits, log
from ..basics.clock import FOREVER, milliseconds, monotonic
from ..basics.exits import Exit
from ..basics.states import ManagerEvent, ManagerState, Role, manager_life
from ..children.reaper import Crew
from ..errors import ConfigError
from ..ipc.channel import EXCUSED, READY, REFUSED, Pipes
from ..sockets.addresses import parse_address
from ..sockets.binding import bind
from ..sockets.inherited import inherit, systemd_listeners
from ..system import fastexit, sdnotify, signals
from ..system.pidfile import PidFile
from ..system.proctitle import set_title
from ..worker.worker import Worker

if TYPE_CHECKING:
    from ..sockets.listener import Listener

_GLANCE = 0.1  # seconds; plain `os.wait` hears no report and no timer, so without signals those are looked for


class ProcManager(Worker):
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
        super().__init__()
        self.n_processes = checks.count("n_processes", n_processes)
        self.pidfile = checks.path("pidfile", pidfile)
        self.die_timeout = checks.seconds("die_timeout", die_timeout)
        self.start_delay = checks.seconds("start_delay", start_delay)
        self.no_signals = checks.flag("no_signals", no_signals)
        self.process_name = checks.text("process_name", process_name)
        self.manager_process_name = checks.text("manager_process_name", manager_process_name)

        self.listeners: list[Listener] = []
        self._life = manager_life()
        self._crew = Crew(self.notify, self._read_reports)
        self._inbox: list[str] = []  # names to act on
        self._pidfiles: dict[str, PidFile] = {}  # held, by path
        self._refusal: str | None = None  # why the first worker could not be prepared
        self._announce = False  # tell systemd once the pool is complete

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
            found = systemd_listeners() or [inherit(0)]
        else:
            found = [bind(parse_address(address), backlog=backlog, mode=mode, owner=owner)]
        if not self.listeners:
            atexit.register(self._remove_listeners)  # for a process that never comes to manage()
        self.listeners += found
        return found[0]

    @property
    def server_pids(self) -> list[int]:
        """Manager: the pids of the workers that are not reaped yet."""
        return self._crew.children.pids

    # -- hooks: override, and call super() ----------------------------------------------------------------------------

    def manager_init(self) -> None:
        """Manager: once, before the first fork; handlers, PID file and process name are in place."""

    def manager_sig_handler(self, name: str) -> None:
        """Manager: act on a signal; called by the loop, not in the handler. `name` is without its SIG."""
        action = self._ON_SIGNAL.get(name)
        if action is None:
            self.notify(f"ignoring signal {name}")
        else:
            action(self, name)

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
            sdnotify.stopping()
        killed_before = self._crew.killed  # in a reload, which says nothing about the stop
        self._crew.retire(self._crew.everybody, self.die_timeout)
        self._empty_pool()
        if self._crew.killed > killed_before:
            timed_out = self._life.state is ManagerState.STOPPING
            self.exit("wait timeout" if timed_out else f"killed while stopping: {message}", exits.FAILED)
        self.exit(f"dying: {message}", status)

    def abort(self, message: str) -> NoReturn:
        """Either: leave at once with status 1."""
        self.exit(message, exits.FAILED)

    def exit(self, message: str, status: int = exits.OK) -> NoReturn:
        """Either: leave now. The manager kills and reaps what is left, and removes its files. Ends by SystemExit."""
        if self.role is Role.SERVER:
            super().exit(message, status)
        self._vacate()  # the handlers stay until the last line is out: a TERM now would be a death by signal
        self.notify(message)
        raise SystemExit(status)

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
                return None  # the caller gets a turn: it tells systemd when all are ready
            before = len(self._crew)
            pid = self._crew.reap()
            if pid is not None or len(self._crew) < before:
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
        self._crew = Crew(self.notify, self._read_reports)
        self._refusal, self._announce = None, True
        if not self.no_signals:
            self._signals.install(signals.MANAGER_SIGNALS)
        self.write_pid_file()
        self._pipes = Pipes()
        self.change_process_name()
        self.manager_init()
        self._signals.rearm()
        if not self.no_signals:
            # Code that the hook loaded may ignore SIGCHLD: the system would then reap for us, and nobody would be told.
            self._signals.install(("CHLD",))
        self.notify("initialized")
        fastexit.remember_open_files()
        gc.freeze()  # what is there now is never collected, so the workers' copies of these pages stay shared

    def _keep(self) -> bool:
        """The manager's loop. Returns only in a worker."""
        while True:
            self._note_signals()
            while self._inbox:
                self.manager_sig_handler(self._inbox.pop(0))
            self._judge()
            self._crew.escalate()
            if self._resize():
                return True
            self._tell_systemd()
            self.wait()

    def _resize(self) -> bool:
        """Fork what is missing, retire what is too much. True in a new worker."""
        staying = self._crew.children.staying
        surplus = len(staying) - max(0, self.n_processes)
        if surplus > 0:
            self._crew.retire(list(staying.values())[:surplus], self.die_timeout)
        self._crew.respawn.start_delay = self.start_delay
        for _ in range(self._crew.respawn.budget(self._missing, monotonic())):
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
        log.flush_standard_streams()
        mask = signals.block()
        try:
            pid = os.fork()
        except OSError as error:
            signals.unblock(mask)
            delay = self._crew.respawn.fork_failed(monotonic())
            self.notify(f"fork: {error.strerror}; trying again in {delay:.1f} s")
            return -1
        if pid == 0:
            self._become_worker(mask)
            return 0
        self._crew.forked(pid)
        signals.unblock(mask)
        self._crew.respawn.forked(monotonic())
        self.notify(f"server (pid {pid}) started")
        return pid

    def _empty_pool(self) -> None:
        """Wait until every worker is gone, climbing the ladder."""
        while len(self._crew):
            self.wait()
            self._note_signals()
            for name in self._inbox:
                if name in ("TERM", "INT", "QUIT"):
                    self._force(name)
            self._inbox.clear()  # HUP and the rest mean nothing any more
            self._crew.escalate()

    def _force(self, name: str) -> None:
        if self._life.state is not ManagerState.KILLING:
            self.notify(f"received signal {name} while stopping: killing {len(self._crew)} servers")
        self._life.on(ManagerEvent.FORCE)
        self._crew.force()

    def _vacate(self) -> None:
        """Leave no worker and no file. The PID file goes last: while it is there, somebody serves."""
        if self._life.state is ManagerState.IDLE:
            return
        self._crew.kill_everybody()
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
            self._crew.kill_everybody()
            self.exit(self._refusal, exits.USAGE)
        if self._crew.respawn.hopeless:
            self.die(f"no server ever became ready in {self._crew.respawn.failures} attempts", exits.FAILED)

    @property
    def _verdict(self) -> bool:
        return self._running and (self._refusal is not None or self._crew.respawn.hopeless)

    @property
    def _running(self) -> bool:
        return self._life.state in (ManagerState.STARTING, ManagerState.RUNNING)

    @property
    def _missing(self) -> int:
        """Workers to fork. One that is leaving still holds its place: it is replaced when it is gone."""
        return self.n_processes - len(self._crew)

    # -- what the manager hears ---------------------------------------------------------------------------------------

    def _note_signals(self) -> None:
        for name in self._signals.take():
            self._received[name] = self._received.get(name, 0) + 1
            if name == "CHLD":
                self._crew.child_ended = True
            else:
                self._inbox.append(name)

    def _read_reports(self) -> bool:
        """Note what workers have reported; whether there was anything."""
        reports = self._pipes.read_reports() if self._pipes else []
        for kind, pid, text in reports:
            if kind == READY and self._crew.children.became_ready(pid, monotonic()):
                if self._life.state is not ManagerState.IDLE:
                    self._life.on(ManagerEvent.READY)
                self._crew.respawn.became_ready()
            elif kind == EXCUSED:
                child = self._crew.children.get(pid)
                if child is not None:
                    child.excused = True
            elif kind == REFUSED:
                self._refused(text)
        return bool(reports)

    def _refused(self, text: str) -> None:
        """A worker said that it cannot be prepared. Fatal only before anybody was ready: later, the pool serves on."""
        if self._life.state is ManagerState.STARTING:
            self._refusal = self._refusal or text
        elif text != self._refusal:
            self.notify(text)

    def _next_deadline(self) -> float:
        deadline = self._crew.next_at
        if self._running and self._missing > 0:
            deadline = min(deadline, self._crew.respawn.next_at)
        return deadline

    def _sleep(self, deadline: float) -> bool:
        """Wait for a child, a signal, a report or the deadline. True when `wait` should give its caller a turn."""
        assert self._pipes is not None
        if self.no_signals:
            if len(self._crew) and deadline == FOREVER and self._missing <= 0:
                try:
                    pid, raw = os.wait()
                except ChildProcessError:
                    return False  # `wait` finds out who is lost
                self._crew.bury(pid, Exit(raw))
                return True
            deadline = min(deadline, monotonic() + _GLANCE)
        owner = self._signals.claim()
        heard = self._pipes.poll(self._signals.fileno(), milliseconds(deadline, monotonic()))
        self._signals.give_back(owner)
        return self._pipes.reports in heard

    def _tell_systemd(self) -> None:
        complete = self.no_signals or (
            not self._crew.children.leaving and self._crew.children.ready >= self.n_processes
        )
        if self._announce and complete:
            self._announce = False
            sdnotify.ready()

    # -- the fork's other side ----------------------------------------------------------------------------------------

    def _become_worker(self, mask: set[int]) -> None:
        """In the child, signals held: drop all that is the manager's, then go on as a worker."""
        self._crew.children.clear()
        self._inbox.clear()
        self._life = manager_life()
        while self._pidfiles:
            self._pidfiles.popitem()[1].abandon()
        self._take_role(mask)

    # -- what a signal does in the manager ----------------------------------------------------------------------------

    def _on_stop(self, name: str) -> None:
        self.notify(f"received signal {name}")
        self.die(f"safe exit from signal {name}")

    def _on_quit(self, name: str) -> None:
        self.notify(f"received signal {name}")
        self.abort(f"exit at once from signal {name}")

    def _on_reload(self, name: str) -> None:
        sdnotify.reloading()
        self._announce = True
        self._crew.retire(self._crew.children.staying.values(), self.die_timeout)

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
