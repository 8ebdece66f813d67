"""`ProcManager`: forks workers, keeps them alive, stops and replaces them. Knows nothing of FastCGI.

Two processes run this file. The *manager* stays in `manage()` until it ends by SystemExit; a *worker* (role `server`, the
originals' word) leaves `manage()` with True and goes on as the application. This object has the parameters and the hooks; what
a process knows of itself is in one of two halves: `ManagerHalf`, which a worker drops, and `Worker`, which each worker makes
anew. Methods say which process calls them.

Behaviour after FCGI::Engine::ProcManager 0.22 and FCGI::ProcManager 0.28, without their races (docs/DESIGN.md).
"""

from __future__ import annotations

import atexit
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from sys import modules
from typing import TYPE_CHECKING, Any, Callable, NoReturn

from ..basics import checks, exits, log
from ..basics.levels import ERROR
from ..basics.states import PLAIN, Role
from ..errors import BootError, ConfigError
from ..ipc.baton import Baton
from ..ipc.channel import READY, REFUSED, SERVED
from ..sockets.addresses import parse_address
from ..sockets.binding import bind
from ..sockets.copies import close_copies
from ..sockets.inherited import inherit, superdaemon_listeners, systemd_listeners
from ..sockets.listener import Listener
from ..system import capacity, fastexit, signals
from ..system.atfork import AtFork
from ..system.pidfile import PidFile
from ..system.proctitle import set_title
from ..worker.gate import Gate
from ..worker.worker import Worker, forget_children_of_manager, socket_of
from . import handover, hooks
from .canary import prove
from .half import ManagerHalf
from .parts import PoolPart
from .standby import KIND as STANDBY
from .workers import Workers

if TYPE_CHECKING:
    from ..ipc.scoreboard import Slot


class ProcManager:
    """A pool of `n_processes` workers.

    n_processes: workers to keep; 0 means single-process mode, in which `manage()` changes nothing. Set to 0 or less while
        the pool runs, it ends the pool gently.
    pidfile: path of a PID file, held and locked while the manager lives; None for none.
    die_timeout: seconds a worker gets to leave at a stop before it is killed; 0 for no limit.
    drain_delay: seconds that the pool serves on after a TERM or INT, before the stop begins, while systemd is told already.
    reload: what HUP does. "plain": all workers leave, and each is replaced when it is gone. "rolling": new ones first, and an old one
        leaves when a new one is ready; a new one that fails before ends the reload, and the old ones go on.
    boot_timeout: seconds that a new worker gets to become ready in a rolling reload, and a standby, and a canary; 0 for no limit.
    reload_slice: how many workers a rolling reload replaces at a time; 0 for a quarter of them.
    reload_timeout: the same as die_timeout at a reload, or when there are too many; 0 for no limit: nobody waits for those who leave.
    start_delay: seconds between two forks; fractions count.
    standby: workers that are forked and booted ahead, and wait before their first request until the place of one is to be filled. They
        are not counted in n_processes.
    no_signals: install no handler and wait with plain `os.wait`.
    process_name, manager_process_name: titles of a worker and of the manager.
    log_format: "plain": each line of the log has a time and a level. "json": it is an object. "bare" or None: it is its words only.
    log_level: "debug", "info", "warning" or "error": which of our own lines there are; None for "info", or what `logging` says.

    Raises ConfigError, which names the parameter, at construction and whenever one is set. Every parameter is an attribute, read
    anew at each use. So are `role`, the `Role` of this process; `manager_pid`; `listeners`, a list of the `Listener` objects of the pool; and
    `log_name`, which each line of its log begins with. Source: the attributes of FCGI::Engine::ProcManager 0.22.
    """

    log_name = "FastCGI"  # what each log line begins with
    _says_more = True  # than the original does: False in classes that have its name

    n_processes: checks.Parameter[int] = checks.Parameter(checks.number, changed="_size_changed")
    pidfile: checks.Parameter[str | os.PathLike[str] | None] = checks.Parameter(checks.path)
    die_timeout: checks.Parameter[float] = checks.Parameter(checks.seconds)
    drain_delay: checks.Parameter[float] = checks.Parameter(checks.seconds)
    reload: checks.Parameter[str] = checks.Parameter(checks.reload_mode)
    boot_timeout: checks.Parameter[float] = checks.Parameter(checks.seconds)
    reload_slice: checks.Parameter[int] = checks.Parameter(checks.count)
    reload_timeout: checks.Parameter[float] = checks.Parameter(checks.seconds)
    start_delay: checks.Parameter[float] = checks.Parameter(checks.seconds)
    standby: checks.Parameter[int] = checks.Parameter(checks.count, changed="_size_changed")
    no_signals: checks.Parameter[bool] = checks.Parameter(checks.flag)
    process_name: checks.Parameter[str] = checks.Parameter(checks.text)
    manager_process_name: checks.Parameter[str] = checks.Parameter(checks.text)
    role: checks.Parameter[Role] = checks.Parameter(checks.role)
    log_format: checks.Parameter[str | None] = checks.Parameter(checks.log_format)
    log_level: checks.Parameter[str | None] = checks.Parameter(checks.log_level)

    def __init__(
        self,
        n_processes: int = 0,
        *,
        pidfile: str | os.PathLike[str] | None = None,
        die_timeout: float = 60,
        drain_delay: float = 0,
        reload: str = PLAIN,
        boot_timeout: float = 60,
        reload_slice: int = 0,
        reload_timeout: float = 0,
        start_delay: float = 0,
        standby: int = 0,
        no_signals: bool = False,
        process_name: str = "python-fcgi",
        manager_process_name: str = "python-fcgi-pm",
        log_format: str | None = None,
        log_level: str | None = None,
    ) -> None:
        self._half: ManagerHalf | None = None  # in the manager only
        self.n_processes = checks.count("n_processes", n_processes)
        self.pidfile = pidfile
        self.die_timeout = die_timeout
        self.drain_delay = drain_delay
        self.reload = reload
        self.boot_timeout = boot_timeout
        self.reload_slice = reload_slice
        self.reload_timeout = reload_timeout
        self.start_delay = start_delay
        self.standby = standby
        self.no_signals = no_signals
        self.process_name = process_name
        self.manager_process_name = manager_process_name
        self.log_format = log_format
        self.log_level = log_level
        self.role = Role.MANAGER
        self.manager_pid: int = os.getpid()
        self.listeners: list[Listener] = []

        self._level: str | None = None  # of the line that is just said, where its words do not tell
        self._at: float | None = None  # when that was said, where it was kept back
        self._more = 0  # workers than somebody has set, by TTIN and TTOU
        self._signals = signals.Signals()
        self._parts: list[PoolPart] = []
        self._pidfiles: dict[str, PidFile] = {}  # held, by path
        self._worker = Worker(self._signals)
        _at_fork.add(self)

    # -- what a script calls ------------------------------------------------------------------------------------------

    def manage(self) -> bool:
        """Manager: fork and keep the workers. Returns True in each worker. With 0 processes returns False at once and changes
        nothing. In the manager it never returns: it ends by SystemExit, status 0 after a gentle stop, 1 when somebody
        had to be killed or nothing could be served, 2 when the workers refused to start (BootError).

        Raises ConfigError, PidFileError and what `manager_init` raises, with everything undone.
        """
        self._choose_log()
        left = handover.take()
        if left is not None and left.canary:
            prove(self, left)
        if self.n_processes == 0:
            if left is not None:
                left.abandon()
            return False
        _check_size("n_processes", self.n_processes)
        _check_size("standby", self.standby)
        self.role = Role.MANAGER
        self.manager_pid = os.getpid()
        self._half = half = ManagerHalf(self, self._parts, left)
        try:
            half.start()
            half.run()
        except BaseException as error:
            if self._half is half:  # else this is a worker
                half.close(acted=isinstance(error, SystemExit))
                self._half = None
            raise
        return self.role is Role.SERVER

    def listen(
        self,
        address: str | tuple[Any, ...] | None = None,
        *,
        mode: int | None = None,
        owner: str | None = None,
        backlog: int = 1024,
        take_over: bool = False,
    ) -> Listener:
        """Manager, before `manage()`: bind once, for all workers.

        address: `/path.sock`, `host:port`, `[v6]:port` or `fd:N`, or a tuple (host, port); None for what systemd, a superdaemon
            or a FastCGI spawner handed over (LISTEN_FDS, SERVER_STARTER_PORT, descriptor 0).
        mode: of a socket file, 0o660 by default. It is removed when the manager ends.
        owner: of a socket file: "user", "user:group" or ":group"; by default ours.
        backlog: how many connections may wait to be accepted.
        take_over: move into the place of a living server, which goes on with the connections it has; without it such a
            socket file is refused.

        Raises ConfigError and ListenError.
        """
        asked = "" if address is None and not take_over else parse_address(address).describe()
        left = handover.found()
        found = left.take_listeners(asked) if left is not None else []
        if found:
            pass  # this process had them before it executed itself
        elif not asked:
            found = systemd_listeners() or superdaemon_listeners() or [inherit(0)]
        else:
            found = [bind(parse_address(address), backlog=backlog, mode=mode, owner=owner, take_over=take_over)]
        for listener in found:
            listener.asked = asked
        self._add_listeners(found)
        return found[0]

    def _add_listeners(self, found: list[Listener]) -> None:
        """The same for what this process has bound by itself."""
        if not self.listeners:
            atexit.register(self._remove_listeners)  # for a process that never comes to manage()
        self.listeners += found

    def accept(self, listener: Listener | socket.socket) -> tuple[socket.socket, Any] | None:
        """Worker: the next (connection, address), or None once this worker should leave. No signal is lost between the
        look and the wait, and no accepted connection either. `listener` must be non-blocking, as `listen` makes it. Raises
        OSError as `socket.accept` does."""
        return self._worker.accept(socket_of(listener))

    @property
    def server_pids(self) -> list[int]:
        """Manager: the pids of the workers that are not reaped yet. A standby is none: who sends each of them a signal does not mean one
        that serves nobody."""
        return self._half.registry.workers.pids if self._half is not None else []

    def received_signal(self, name: str | None = None) -> Any:
        """Either: how often a signal came to this process: of one name without its SIG an int, of None a dict of all. Source: FCGI::ProcManager 0.28."""
        received = self._received
        return dict(received) if name is None else received.get(name, 0)

    # -- hooks: override, and call super() ----------------------------------------------------------------------------

    def manager_init(self) -> None:
        """Manager: once, before the first fork; handlers, PID file and process name are in place."""

    def server_init(self) -> None:
        """Worker: once, before `manage()` returns in it. An exception ends the worker; BootError ends the pool, if no
        worker has ever been ready: trying again would not help."""

    def pre_dispatch(self) -> None:
        """Worker: before each request. Puts SA_RESTART back on TERM and HUP, so that the request is not disturbed."""
        worker = self._worker
        if not worker.managed:
            return
        if not worker.served:
            worker.begin_serving()
        if not self.no_signals:
            self._signals.restart(True)

    def post_dispatch(self) -> None:
        """Worker: after each request. Leaves (SystemExit 0) if TERM or HUP came or the manager is gone, unless something
        that was accepted is still to be answered; else takes SA_RESTART off again."""
        worker = self._worker
        if not worker.managed:
            return
        leaving = worker.leaving
        if os.getppid() != self.manager_pid:
            leaving.orphaned = True
        if leaving.told or leaving.orphaned:
            if not worker.busy:
                self.exit(leaving.reason)
            leaving.put_off()
        if not self.no_signals and not worker.in_flight:
            if "asyncio" in modules:  # asked here: two hooks are called for each request
                self._signals.rearm()
            if worker.in_a_row:
                self._signals.owes_swap = True
            else:
                self._signals.restart(False)

    def manager_sig_handler(self, name: str) -> None:
        """Manager: act on a signal; called by the loop, not in the handler. `name` is without its SIG."""
        action = self._ON_SIGNAL.get(name)
        if action is None:
            self.notify(f"ignoring signal {name}")
        else:
            action(self, name)

    def server_sig_handler(self, name: str) -> None:
        """Worker: called in the handler, so it must only note. TERM and HUP: leave after the request in hand."""
        received = self._received
        received[name] = received.get(name, 0) + 1
        if name in signals.LEAVE_SIGNALS:
            self._worker.leaving.told = True

    def notify(self, message: str) -> None:
        """Either: one line, to standard error, or through `logging` when the application configured it. How serious it is, is known by
        its words (`basics/levels.py`)."""
        if self._half is not None and self._half.keeps_back(message):
            return
        line = f"{self.log_name}: {self.role} (pid {os.getpid()}): {message.rstrip()}"
        log.write(line, self._level, exact=not self._says_more, at=self._at)

    def _notify_error(self, message: str) -> None:
        """Either: the same of what is one, although its words are somebody else's and do not tell."""
        self._notify_as(message, ERROR)

    def _notify_as(self, message: str, level: str | None, at: float | None = None) -> None:
        """Either: the same with what is known of it. at: when it was said, see `log.write`."""
        self._level, self._at = level, at
        try:
            self.notify(message)
        finally:
            self._level = self._at = None

    def change_process_name(self) -> None:
        """Either: make `manager_process_name` or `process_name` the title of the process."""
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
        """Manager: stop gently: TERM, repeated; KILL at `die_timeout`, then status 1. A TERM or INT that comes more than a
        second later, or QUIT, kills at once. Ends by SystemExit. Source: pm_die of FCGI::ProcManager 0.28."""
        half = self._half
        if half is not None:
            half.stop()
            if half.killed_somebody:
                self.exit("wait timeout" if half.timed_out else f"killed while stopping: {message}", exits.FAILED)
        self.exit(f"dying: {message}", status)

    def abort(self, message: str) -> NoReturn:
        """Either: leave at once, by SystemExit with status 1. The manager kills and reaps what is left."""
        self.exit(message, exits.FAILED)

    def exit(self, message: str, status: int = exits.OK) -> NoReturn:
        """Either: leave now. The manager kills and reaps what is left, and removes its files. Ends by SystemExit."""
        if self.role is Role.SERVER:
            self._ignore_late_signals()
            self.notify(message)
            self._worker.leaving.said()
            self.leave(status)
        if self._half is not None:
            self._half.leave_nothing()  # the handlers stay until the last line is out: a TERM now would be a death by signal
            for part in self._half.attending:
                part.last_line(status)
        if status == exits.USAGE:
            self._notify_error(message)
        else:
            self.notify(message)
        raise SystemExit(status)

    def leave(self, status: int = exits.OK) -> NoReturn:
        """Worker: leave now; without a word, unless it is leaving for a reason that was found after a request. Ends by
        SystemExit."""
        self._ignore_late_signals()
        self._say_why()
        self._worker.report(SERVED)
        fastexit.arm(status)
        raise SystemExit(status)

    def refuse(self, message: str) -> NoReturn:
        """Worker: it cannot serve, and trying again would not help. The manager says why, and gives up if nobody has ever
        served. Ends by SystemExit, status 2."""
        self._worker.report(REFUSED, message)
        self._ignore_late_signals()
        raise SystemExit(exits.USAGE)

    def retire_self(self, message: str) -> None:
        """Worker: leave after the request in hand and what has been accepted already, with this as the last line."""
        self._worker.leaving.retire(message)

    @property
    def leaving(self) -> bool:
        """Worker: it has been told to leave, or its manager is gone: accept no more."""
        leaving = self._worker.leaving
        return self._worker.is_leaving if leaving.told else leaving.orphaned  # asked at each request

    @property
    def leave_reason(self) -> str:
        """Worker: the words of its last line in the log."""
        return self._worker.leaving.reason

    # -- for servers under a manager ----------------------------------------------------------------------------------

    @property
    def _gate(self) -> Gate:
        """Worker: its wait set, made when first asked for, after the fork."""
        return self._worker.gate

    @property
    def _slot(self) -> Slot | None:
        """Worker: its place on the scoreboard, if there is one."""
        return self._worker.slot

    @property
    def _make_request(self) -> Callable[..., Any] | None:
        """Worker: makes the requests of an accept loop, where somebody is to be told of each; None for the loop's own."""
        return None

    @property
    def _collects_output(self) -> bool:
        """Either: what workers write to standard output and standard error goes to the log through the manager."""
        return False

    def _share_slot(self) -> None:
        """Worker, before its threads: more than one request at a time will be written there."""
        if self._worker.slot is not None:
            from ..ipc.scoreboard import SharedSlot

            self._worker.slot = SharedSlot(self._worker.slot)

    @contextmanager
    def _in_a_row(self) -> Iterator[None]:
        """Worker: a loop that waits in `gate` only and calls the hooks around each request. Where nobody has overridden them, nobody
        can see SA_RESTART between two requests: it is taken off before the worker waits. It is still set before each request, since
        an application may have taken it off."""
        self._worker.in_a_row = not hooks.overridden(self)
        try:
            yield
        finally:
            self._worker.in_a_row = False
            if self._signals.owes_swap:
                self._signals.restart(False)

    @property
    def _baton(self) -> Baton | None:
        """Worker: for gates of its threads."""
        return self._worker.channel.baton if self._worker.channel else None

    @property
    def _in_flight(self) -> int:
        """Worker: with threads, other requests in progress."""
        return self._worker.in_flight

    @_in_flight.setter
    def _in_flight(self, value: int) -> None:
        self._worker.in_flight = value

    def _add_busy_check(self, busy: Callable[[], bool]) -> None:
        """Worker: `busy()` is asked before it leaves: True while something it accepted is still to be answered."""
        self._worker.add_busy_check(busy)

    @contextmanager
    def _single_process(self) -> Iterator[None]:
        """The only process: TERM, INT and HUP make `leaving` true inside the block. For servers; a script with a loop of its
        own and 0 processes keeps the handlers it has.

        A signal that came after the last look at `leaving` is delivered again after the block, to those handlers."""
        if self.no_signals:
            yield
            return
        self._worker = Worker(self._signals)
        self._signals.install(signals.WORKER_SIGNALS, self._on_single_signal)
        try:
            yield
        finally:
            self._worker.close_gate()
            self._signals.close()

    def _attend(self, part: PoolPart) -> None:
        """Before `manage()`: let this part attend the manager's loop."""
        self._parts.append(part)

    # -- the manager --------------------------------------------------------------------------------------------------

    def wait(self) -> int | None:
        """Manager: reap the next child of any kind; its pid, or None when a signal, a worker's report or a timer came
        first. Announces `server (pid P) exited with status S` for its own. Source: pm_wait of FCGI::ProcManager 0.28."""
        if self._half is not None:
            return self._half.wait()
        try:  # no pool here: it can only be a child of the application
            return os.wait()[0]
        except ChildProcessError:
            return None

    def _choose_log(self) -> None:
        """Before the first line, of this process and of those that it forks."""
        if self.log_format is not None:
            log.choose(self.log_format)
        log.choose_level(self.log_level)

    def _size_changed(self) -> None:
        """By a hook, a handler or a thread of the application."""
        if self._half is not None:
            self._half.look()

    def _add_pid_file(self, pidfile: PidFile) -> None:
        """Manager, before `manage()`: one that this process has acquired by itself, as root for example."""
        self._pidfiles[pidfile.path] = pidfile

    def _hold(self, pidfile: PidFile) -> None:
        if pidfile.path not in self._pidfiles:
            pidfile.acquire()
            self._pidfiles[pidfile.path] = pidfile

    def _abandon_pid_files(self) -> None:
        while self._pidfiles:
            self._pidfiles.popitem()[1].abandon()

    def _remove_listeners(self) -> None:
        for listener in self.listeners:
            listener.remove()
        self.listeners.clear()

    @property
    def _received(self) -> dict[str, int]:
        return self._half.inbox.received if self._half is not None else self._worker.received

    def _make_workers(self, half: ManagerHalf) -> Workers:
        """Manager: the part that keeps the pool."""
        return Workers(self, half)

    # -- the beginning of a worker ------------------------------------------------------------------------------------

    def _become_worker(self, mask: set[int]) -> None:
        """In the child, signals held: drop all that is the manager's, make what a worker has of its own, let signals in, and
        only then look whether it was told to leave."""
        half, self._half = self._half, None
        assert half is not None
        self._abandon_pid_files()
        forget_children_of_manager()
        self.role = Role.SERVER
        self._worker = Worker(self._signals, half.drop(), half.workers.slot, half.standby.forked())
        if not self.no_signals:
            self._signals.renew()
            self._signals.restore("QUIT", "TTIN", "TTOU", "USR2", "CHLD")
            self._signals.install(signals.WORKER_SIGNALS, self._on_worker_signal)
            reopening = [part.reopen_in_worker for part in half.attending if part.reopens_in_worker]
            if reopening:
                self._signals.act("USR1", reopening)
            atexit.register(signals.ignore_late)  # a TERM repeated while Python shuts down would kill, status 143
        fastexit.prepare()
        atexit.register(self._say_why)
        signals.unblock(mask)
        traced = half.workers.generation > 0 or any(part.traces for part in half.attending)
        self._boot(half.attending, traced)

    def _boot(self, parts: tuple[PoolPart, ...], traced: bool) -> None:
        """traced: in a reload the log has the whole story; at the start it is one line."""
        self._leave_if_told()
        suffix = "".join(part.starting_suffix for part in parts)
        if suffix:
            set_title(self.process_name + suffix)
        else:
            self.change_process_name()
        try:
            for part in parts:
                part.prepare_worker()
            self.server_init()
        except BootError as error:
            if traced and error.__context__ is not None:
                log.write_traceback(error.__context__)
            self.refuse(str(error))
        if suffix:
            self.change_process_name()
        self._signals.rearm()
        if self._worker.stands_by:
            self._stand_by()
        self.notify("initialized")
        if self._slot is not None:
            self._slot.ready()
        self._worker.report(READY)
        self._leave_if_told()

    def _stand_by(self) -> None:
        """Until it is told to serve. It leaves as an idle worker does: without a word."""
        set_title(f"{self.process_name} ({STANDBY})")
        self.notify("standing by")
        self._worker.report(READY)
        if not self._worker.wait_for_word():
            self.leave()
        self.change_process_name()

    def _leave_if_told(self) -> None:
        if self.leaving:
            self.exit(self.leave_reason)

    def _on_worker_signal(self, name: str) -> None:
        self.server_sig_handler(name)

    def _on_single_signal(self, name: str) -> None:
        self.server_sig_handler(name)
        self._worker.leaving.told = True

    def _say_where(self) -> None:
        if self.listeners and self._says_more:
            self.notify("listening on " + ", ".join(one.describe() for one in self.listeners))

    def _say_why(self) -> None:
        """Worker, on its way out: the last line, if it is still owed."""
        if self._worker.leaving.unsaid and self._worker.managed:
            self._worker.leaving.said()
            self.notify(self.leave_reason)

    def _ignore_late_signals(self) -> None:
        """On its way out: a repeated TERM must not turn its status into a death by signal."""
        if self._signals.open:
            signals.ignore_late()

    def _forked_by_application(self) -> None:
        """In a child that the application has forked: it belongs to no pool, and has nothing of one."""
        if self._half is None and not self._worker.managed:
            return  # a script may become a daemon between `listen` and `manage`
        self._half = None
        self._worker = Worker(self._signals)
        self._abandon_pid_files()
        close_copies(listener.socket for listener in self.listeners)
        self.listeners.clear()

    # -- what a signal does in the manager ----------------------------------------------------------------------------

    def _on_stop(self, name: str) -> None:
        self.notify(f"received signal {name}")
        if self._half is not None and self._half.drain.begin(name):
            return
        self.die(f"safe exit from signal {name}")

    def _on_quit(self, name: str) -> None:
        self.notify(f"received signal {name}")
        self.abort(f"exit at once from signal {name}")

    def _on_reload(self, name: str) -> None:
        if self._says_more:
            self.notify(f"received signal {name}")
        if self._half is not None:
            self._half.reload()

    def _on_renew(self, name: str) -> None:
        self.notify(f"received signal {name}")
        if self._half is not None:
            self._half.renewal.ask()

    def _on_reopen(self, name: str) -> None:
        if self._half is not None:
            self._half.reopen()

    def _on_more(self, name: str) -> None:
        self.n_processes += 1
        self._more += 1
        self.notify(f"received signal {name}: {self.n_processes} servers")

    def _on_fewer(self, name: str) -> None:
        if self.n_processes > 1:
            self.n_processes -= 1
            self._more -= 1
        self.notify(f"received signal {name}: {self.n_processes} servers")

    _ON_SIGNAL = {
        "TERM": _on_stop,
        "INT": _on_stop,
        "QUIT": _on_quit,
        "HUP": _on_reload,
        "USR2": _on_renew,
        "USR1": _on_reopen,
        "TTIN": _on_more,
        "TTOU": _on_fewer,
    }


# Last: an accept loop looks at the listeners that are closed here.
_at_fork = AtFork(ProcManager._forked_by_application, last=True)


def _check_size(name: str, count: int) -> None:
    if count < 0:
        raise ConfigError(f"{name} must not be negative: {count}")
    if not count:
        return
    most = capacity.limit()
    if most is not None and count > most.processes:
        raise ConfigError(
            f"{name} is {count}, and this machine can hold {most.processes} workers at most ({most.reason}): "
            "give a smaller number"
        )
