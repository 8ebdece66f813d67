"""The worker's half of `ProcManager`: hooks around requests, the accept that loses no signal, and how a worker leaves.

Runs in each worker (and, with 0 processes, in the only process). Must never fork, reap or signal another process. The manager
inherits these methods and calls none of them but those that are marked "either".
"""

from __future__ import annotations

import atexit
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Callable, NoReturn

from ..basics import exits, log
from ..basics.states import Role
from ..errors import BootError
from ..ipc.baton import Baton
from ..ipc.channel import EXCUSED, READY, REFUSED, Pipes
from ..system import fastexit, signals
from .gate import Gate

if TYPE_CHECKING:
    from ..sockets.listener import Listener


class Worker:
    """What one process of a pool knows of itself."""

    log_name = "FastCGI"  # what each log line begins with

    def __init__(self) -> None:
        self.role = Role.MANAGER
        self.manager_pid = os.getpid()
        self.no_signals = False
        self.in_flight = 0  # with threads: other requests in progress
        self._managed = False  # this process is the manager or a worker of a pool, not a single process
        self._signals = signals.Signals()
        self._received: dict[str, int] = {}
        self._pipes: Pipes | None = None
        self._leave = False  # TERM or HUP came, or a limit was reached
        self._retirement = ""  # why, if not for a signal
        self._orphaned = False  # after a request, the manager was gone
        self._served = False  # it has begun its first request
        self._gate: Gate | None = None
        self._busy_checks: list[Callable[[], bool]] = []

    # -- hooks: override, and call super() ----------------------------------------------------------------------------

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
        if (self._leave or self._orphaned) and not self._still_busy():
            self.exit(self.leave_reason)
        if not self.no_signals and not self.in_flight:
            self._signals.rearm()
            signals.restart(False)

    def server_sig_handler(self, name: str) -> None:
        """Worker: called in the handler, so it must only note. TERM and HUP: leave after the request in hand."""
        self._received[name] = self._received.get(name, 0) + 1
        if name in signals.LEAVE_SIGNALS:
            self._leave = True

    def notify(self, message: str) -> None:
        """Either: one line, to standard error, or through `logging` when the application configured that logger."""
        log.write(f"{self.log_name}: {self.role.value} (pid {os.getpid()}): {message.rstrip()}")

    def change_process_name(self) -> None:
        """Either: show the role in the process title."""

    # -- serving ------------------------------------------------------------------------------------------------------

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
            self.gate.pass_on(sock.fileno())
        return None

    def received_signal(self, name: str | None = None) -> Any:
        """Either: how often a signal came to this process: of one name, or a dict of all. Source: FCGI::ProcManager 0.28."""
        return dict(self._received) if name is None else self._received.get(name, 0)

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

    def add_busy_check(self, busy: Callable[[], bool]) -> None:
        """Worker: `busy()` is asked before it leaves: True while something it accepted is still to be answered."""
        if busy not in self._busy_checks:
            self._busy_checks.append(busy)

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

    # -- leaving ------------------------------------------------------------------------------------------------------

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

    def exit(self, message: str, status: int = exits.OK) -> NoReturn:
        """Worker: leave now, with this as the last line. Ends by SystemExit."""
        self._quiet()
        self.notify(message)
        self.leave(status)

    def leave(self, status: int = exits.OK) -> NoReturn:
        """Worker: leave now, without a word. Ends by SystemExit."""
        self._quiet()
        if self._pipes is not None:
            self._pipes.report(EXCUSED)
        fastexit.arm(status)
        raise SystemExit(status)

    # -- the beginning of a worker ------------------------------------------------------------------------------------

    def _take_role(self, mask: set[int]) -> None:
        """In the child, signals held: what a worker has of its own, then let signals in, then look."""
        self.role = Role.SERVER
        self._received.clear()
        self._gate = None
        self._busy_checks.clear()
        self._leave, self._retirement = False, ""
        self._orphaned, self._served, self.in_flight = False, False, 0
        pipes = self._pipes
        assert pipes is not None
        pipes.keep_worker_ends()
        if not self.no_signals:
            self._signals.renew()
            self._signals.restore("QUIT", "TTIN", "TTOU", "CHLD")
            self._signals.install(signals.WORKER_SIGNALS, self._on_worker_signal)
            atexit.register(signals.ignore_late)  # a TERM repeated while Python shuts down would kill, status 143
        fastexit.prepare()
        signals.unblock(mask)
        self._boot(pipes)

    def _boot(self, pipes: Pipes) -> None:
        if self.leaving:
            self.exit(self.leave_reason)
        self.change_process_name()
        try:
            self.server_init()
        except BootError as error:
            pipes.report(REFUSED, str(error))
            self._quiet()
            raise SystemExit(exits.USAGE)
        self._signals.rearm()
        self.notify("initialized")
        pipes.report(READY)
        if self.leaving:
            self.exit(self.leave_reason)

    def _on_worker_signal(self, name: str) -> None:
        self.server_sig_handler(name)

    def _on_single_signal(self, name: str) -> None:
        self.server_sig_handler(name)
        self._leave = True

    def _has_served(self) -> None:
        """A worker that ends before this, even with status 0, has no loop or no listener: replacing it at once would fork
        without end."""
        if not self._served and self.role is Role.SERVER and self._pipes is not None:
            self._served = True
            self._pipes.report(EXCUSED)

    def _still_busy(self) -> bool:
        answers = [busy() for busy in self._busy_checks]  # each is asked: it finishes what it has in hand
        return any(answers)

    def _drop_gate(self) -> None:
        if self._gate is not None:
            self._gate.close()
            self._gate = None

    def _quiet(self) -> None:
        """On its way out: a repeated TERM must not turn its status into a death by signal."""
        if self._signals.open:
            signals.ignore_late()
