"""The web server in front of the workers: Caddy, as a child of the manager that lives and ends with it.

Runs in the manager. A worker only closes its copy of the web server's socket. Must never write outside a private
directory, leave Caddy behind, or let a request in flight fall because of a gentle stop.

The manager binds the web address and hands the socket over: a port in use is found before anything is started, port 0
works, and while Caddy starts, or is started again after a death, clients wait in the socket's queue and are not refused.
"""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import tempfile
from typing import NoReturn

from ..basics import exits
from ..basics.clock import FOREVER, monotonic
from ..basics.states import ManagerEvent, Role
from ..errors import ConfigError
from ..manager.procmanager import ProcManager
from ..sockets import addresses
from ..sockets.binding import bind
from ..sockets.listener import Listener
from ..system import sdnotify
from ..system.poll import any_readable
from .caddy import Caddy, configuration, find_caddy

__all__ = ["PrivateDirectory", "WithWeb"]

_YOUNG = 1.0  # seconds; one that ends sooner would end again
_MARGIN = 1.0  # seconds for Caddy to end after its own grace period
_INSISTENT = ("TERM", "INT", "QUIT")


class WithWeb(ProcManager):
    """What `--web` adds to a manager class. `open_web` and `web_target` are set before `manage()`."""

    web_target: Listener
    _web_listener: Listener
    _directory: PrivateDirectory
    _caddy: Caddy | None = None
    _caddy_until = FOREVER

    def open_web(self, address: str) -> str:
        """Bind the web address; its URL. Raises ConfigError and ListenError."""
        if self.n_processes == 0:
            raise ConfigError("--web needs a worker process: give -n 1 or more")
        self._binary = find_caddy()
        where = addresses.parse_address(address)
        if where.kind != "tcp":
            raise ConfigError(f"--web {address!r} is not understood: give HOST:PORT, such as 127.0.0.1:8000")
        self._web_listener = bind(where)
        self._directory = PrivateDirectory()
        return _url(self._web_listener.socket)

    def private_socket(self) -> str:
        """The path of a socket that nobody but us and Caddy can reach."""
        return os.path.join(self._directory.path, "fcgi.sock")

    def manage(self) -> bool:
        owner = os.getpid()
        try:
            return super().manage()
        except BaseException:
            if os.getpid() == owner:
                self._close_web()
            raise

    def manager_init(self) -> None:
        super().manager_init()
        self._caddy = self._start_caddy()

    def server_init(self) -> None:
        self._web_listener.close()
        atexit.register(self._clear_up_for_manager, os.getpid())
        super().server_init()

    def _clear_up_for_manager(self, worker: int) -> None:
        """Worker, at its end: if the manager was killed, nobody else removes its directory."""
        # Its pipe ends before its children are given to another parent: who asks for the parent here may be told that
        # it is there. And what this worker has forked comes here as well.
        if os.getpid() == worker and self._pipes is not None and any_readable(self._pipes.lifeline):
            self._directory.remove_for_owner()

    def wait(self) -> int | None:
        pid = super().wait()
        caddy = self._caddy
        if caddy is not None and caddy.ended:
            self._caddy = None
            if self._running:
                self._replace(caddy)
        return pid

    def die(self, message: str, status: int = exits.OK) -> NoReturn:
        if self._running:
            self._life.on(ManagerEvent.STOP)
            sdnotify.stopping()
            self._drain()
        super().die(message, status)

    def exit(self, message: str, status: int = exits.OK) -> NoReturn:
        if self.role is Role.MANAGER:
            self._kill_caddy()
        super().exit(message, status)

    def _start_caddy(self) -> Caddy:
        config = configuration(self._web_listener, self.web_target, self._directory.path, self.die_timeout)
        return Caddy(self._binary, config, self._web_listener.fileno(), self._directory.path)

    def _replace(self, ended: Caddy) -> None:
        lived = monotonic() - ended.started_at
        if lived < _YOUNG:
            self.die("the web server ended at once: what it said is above (Caddy 2.9 or later is needed)", exits.FAILED)
        self.notify(f"web server (pid {ended.pid}) ended after {lived:.1f} s: starting it again")
        self._caddy = self._start_caddy()

    def _drain(self) -> None:
        """Caddy first: it takes no new request, and finishes those in flight while the workers are still there."""
        self._web_listener.close()
        if self._caddy is None:
            return
        self._caddy.terminate()
        began = monotonic()
        if self.die_timeout:
            self._caddy_until = began + self.die_timeout + _MARGIN
        while self._caddy is not None and self.server_pids and monotonic() < self._caddy_until:
            self._inbox = [name for name in self._inbox if name in _INSISTENT]
            if self._inbox:
                break
            self.wait()
            self._note_signals()
        self._caddy_until = FOREVER
        self._kill_caddy()
        if self.die_timeout:  # one limit for the whole stop
            self.die_timeout = max(_MARGIN, self.die_timeout - (monotonic() - began))

    def _next_deadline(self) -> float:
        return min(super()._next_deadline(), self._caddy_until)

    def _kill_caddy(self) -> None:
        caddy, self._caddy = self._caddy, None
        if caddy is not None:
            caddy.kill()

    def _close_web(self) -> None:
        self._kill_caddy()
        self._web_listener.close()
        self._directory.remove()


class PrivateDirectory:
    """A directory for us alone, removed when its maker ends; when it was killed, by a worker that outlived it."""

    def __init__(self) -> None:
        self._owner = os.getpid()
        self.path = tempfile.mkdtemp(prefix="fcgi-procmanager-")
        if len(os.fsencode(self.path)) + 16 > addresses.SUN_PATH_MAX:
            os.rmdir(self.path)
            self.path = tempfile.mkdtemp(prefix="fcgi-procmanager-", dir="/tmp")
        atexit.register(self.remove)

    def remove(self) -> None:
        if os.getpid() == self._owner:
            self.remove_for_owner()

    def remove_for_owner(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def _url(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "localhost"
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
