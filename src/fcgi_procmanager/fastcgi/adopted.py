"""`adopt()`: an existing flup server object, single-threaded or threaded, put under a manager.

Runs in the manager until `manage()` returns, then in each worker. flup's protocol code stays; what made it unfit for a pool
is replaced on the object: it binds nothing, installs no handler, and does not accept by itself. The accept loop is
`ProcManager.accept`, so that no TERM is lost and no connection with it.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from typing import Any

from flup.server.fcgi_base import BaseFCGIServer, Connection
from flup.server.fcgi_single import WSGIServer as SingleServer
from flup.server.threadedserver import ThreadedServer
from flup.server.threadpool import ThreadPool

from ..clock import milliseconds, monotonic
from ..errors import ConfigError
from ..manager import ProcManager
from ..states import Role

_SILENCE = 15.0  # seconds a peer may keep a thread waiting for the next record
_GLANCE = 0.1  # seconds; a lock cannot be waited for together with a signal, so a full pool looks up now and then
_LINGER = 2.0  # seconds a peer gets to close after the reply


def adopt(server: BaseFCGIServer, manager: ProcManager) -> Adopted:
    """Put `server` under `manager`; `.run()` of the result binds, forks and serves, and ends by SystemExit.

    server: a flup.server.fcgi_single.WSGIServer or flup.server.fcgi.WSGIServer (threaded), not running. With a
    bindAddress of None it serves what the manager listens on, else what was handed over, on descriptor 0.
    Raises ConfigError for anything else, and for multiplexed=True.
    """
    if not isinstance(server, (SingleServer, ThreadedServer)) or not isinstance(server, BaseFCGIServer):
        raise ConfigError(f"adopt() takes a WSGIServer of flup.server.fcgi_single or flup.server.fcgi, not {server!r}")
    if getattr(server._connectionClass, "_multiplexed", False):
        raise ConfigError(
            "adopt() does not support multiplexed=True: its requests have no end that a stop could wait for"
        )
    return Adopted(server, manager)


class Adopted:
    """A flup server under a manager. `run()` is all there is to call."""

    def __init__(self, server: BaseFCGIServer, manager: ProcManager) -> None:
        self.server = server
        self.manager = manager
        self._pool = _pool_sizes(server)
        server.multiprocess = manager.n_processes > 0

    def run(self) -> None:
        """Bind once, fork, serve. Ends by SystemExit in the manager and in each worker; with 0 processes the single
        process serves until TERM, INT or HUP, and run() returns."""
        manager = self.manager
        listener = self._listen()
        if manager.role is Role.SERVER or manager.manage():
            if self.server._bindAddress is None and listener.fileno() != 0:
                os.dup2(listener.fileno(), 0)  # where a FastCGI application looks for its listener
            self._serve(listener.socket)
            raise SystemExit(0)
        with manager.single_process():
            self._serve(listener.socket)
        listener.remove()

    def _listen(self) -> Any:
        server, manager = self.server, self.manager
        if manager.listeners and server._bindAddress is None:
            return manager.listeners[0]
        mode = None if server._umask is None else 0o777 & ~server._umask
        return manager.listen(server._bindAddress, mode=mode)

    def _serve(self, listener: socket.socket) -> None:
        guard = _Guard(self.manager, threaded=self._pool is not None)
        self.server._web_server_addrs = _allowed_addresses()
        if self._pool is not None:
            # The threads of the constructor stayed in the manager: a fork takes none along.
            self.server._threadPool = ThreadPool(**self._pool)
        self.manager.add_duty(lambda: True)  # post_dispatch never leaves: this loop does, when all is answered
        while guard.room(self._pool) and (accepted := self.manager.accept(listener)) is not None:
            sock, address = accepted
            if not self.server._isClientAllowed(address):
                sock.close()
                continue
            connection = _Supervised(sock, address, self.server, guard)
            if self._pool is None:
                connection.run()
            else:
                guard.began()
                self.server._threadPool.addJob(connection)
        guard.stop()
        if self._pool is not None:
            self.server.shutdown()


class _Guard:
    """What the connections of one worker share: the hooks, and the word to stop.

    With threads the hooks run around the first and the last of the requests that overlap, so that SA_RESTART is set while
    any is in progress; and a worker leaves from its main thread, when all of them have ended."""

    def __init__(self, manager: ProcManager, threaded: bool) -> None:
        self.manager = manager
        self.threaded = threaded
        self.stopping, self._stop = os.pipe()  # end of file when it is time to stop
        self._changed = threading.Condition()
        self._jobs = 0
        self._requests = 0

    def began(self) -> None:
        with self._changed:
            self._jobs += 1

    def ended(self) -> None:
        with self._changed:
            self._jobs -= 1
            self._changed.notify_all()

    def enter_request(self) -> None:
        with self._changed:
            self._requests += 1
            if self._requests == 1 or not self.threaded:
                self.manager.pre_dispatch()

    def leave_request(self) -> None:
        with self._changed:
            self._requests -= 1
            if not self._requests or not self.threaded:
                self.manager.post_dispatch()

    def room(self, pool: dict[str, int] | None) -> bool:
        """Main thread: wait until a thread is free, so that what waits stays in the backlog, where other workers see it.
        False when it is time to leave."""
        while pool is not None and self._jobs >= pool["maxThreads"] and not self.manager.leaving:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs < pool["maxThreads"], _GLANCE)
        return not self.manager.leaving

    def stop(self) -> None:
        """Main thread: idle kept connections end now, requests in hand when they are answered; then all are gone."""
        if self._stop >= 0:
            os.close(self._stop)
            self._stop = -1
        with self._changed:
            self._changed.wait_for(lambda: not self._jobs)
        os.close(self.stopping)


class _Supervised(Connection):  # type: ignore[misc]
    """flup's connection, with deadlines for its peer, hooks around its requests, and an ear for the stop."""

    def __init__(self, sock: socket.socket, address: Any, server: BaseFCGIServer, guard: _Guard) -> None:
        super().__init__(sock, address, server, None)
        sock.settimeout(_SILENCE)  # in the middle of a record, and for a peer that does not read
        self.guard = guard
        self._served = 0

    def run(self) -> None:
        try:
            super().run()
        except OSError:
            pass  # the peer went away: nothing is left to be said to it
        finally:
            self._sock.close()
            if self.guard.threaded:
                self.guard.ended()

    def process_input(self) -> None:
        if not self._keepGoing:
            return
        self._await_record()
        super().process_input()

    def _await_record(self) -> None:
        """Until a record begins to come. Raises EOFError, which ends the connection, when the peer is silent for too long;
        at a stop a kept connection is looked at once more, while one whose request is due gets its time."""
        kept_idle = self._served > 0 and not self._requests
        poller = select.poll()
        poller.register(self._sock, select.POLLIN)
        if kept_idle:
            poller.register(self.guard.stopping, select.POLLIN)
            if not self.guard.threaded and self.guard.manager.gate.wake >= 0:
                poller.register(self.guard.manager.gate.wake, select.POLLIN)
        ready = [fd for fd, _ in poller.poll(milliseconds(monotonic() + _SILENCE, monotonic()))]
        if self._sock.fileno() not in ready:
            raise EOFError

    def _start_request(self, request: Any) -> None:
        self.guard.enter_request()
        try:
            super()._start_request(request)
        finally:
            self._served += 1
            self.guard.leave_request()

    def _cleanupSocket(self) -> None:
        """As flup's, which waits for the peer to close, but not for ever."""
        deadline = monotonic() + _LINGER
        try:
            self._sock.shutdown(socket.SHUT_WR)
            self._sock.settimeout(_LINGER)
            while monotonic() < deadline and self._sock.recv(65536):
                pass
        except OSError:
            pass
        self._sock.close()


def _pool_sizes(server: BaseFCGIServer) -> dict[str, int] | None:
    """The thread pool's sizes, and an end to its threads, which must not be there when the manager forks; None for a
    single-threaded server."""
    pool = getattr(server, "_threadPool", None)
    if pool is None:
        return None
    pool.shutdown()
    return {"minSpare": pool._minSpare, "maxSpare": pool._maxSpare, "maxThreads": pool._maxThreads}


def _allowed_addresses() -> list[str] | None:
    listed = os.environ.get("FCGI_WEB_SERVER_ADDRS")
    return [part.strip() for part in listed.split(",")] if listed is not None else None
