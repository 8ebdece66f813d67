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
from typing import Any

from ..basics import exits
from ..basics.clock import monotonic
from ..basics.exits import Exit
from ..children.registry import Child
from ..errors import ConfigError
from ..ipc.channel import Channel
from ..manager import handover
from ..manager.half import ManagerHalf
from ..manager.parts import PoolPart
from ..manager.procmanager import ProcManager
from ..sockets import addresses
from ..sockets.binding import bind
from ..sockets.inherited import inherit
from ..sockets.listener import Listener
from ..system.poll import any_readable
from .caddy import configuration, find_caddy, program
from .effects import needs_worker

__all__ = ["PrivateDirectory", "Web", "bind_web", "parse_web"]

_YOUNG = 1.0  # seconds; one that ends sooner would end again
_MARGIN = 1.0  # seconds for Caddy to end after its own grace period


class Web(PoolPart):
    """The part of the manager's loop that keeps Caddy running. `target`, the listener of the workers, is set before `manage()`."""

    kind = "web server"
    target: Listener

    def __init__(self, manager: ProcManager, address: str, bound: Listener | None = None) -> None:
        """Bind the web address, unless that was done. Raises ConfigError and ListenError."""
        if manager.n_processes == 0:
            raise needs_worker("--web")
        self._manager = manager
        self._binary = find_caddy()
        left = handover.part(self.kind)
        if bound is not None:
            self._listener = bound
        else:
            self._listener = inherit(left["descriptors"][0]) if left else bind_web(address)
        self.url: str = _url(self._listener.socket)
        self._directory = PrivateDirectory(left["directory"] if left else "")
        self._status = ""
        self._half: ManagerHalf | None = None
        self._caddy: Child | None = None

    def private_socket(self) -> str:
        """The path of a socket that nobody but us and Caddy can reach."""
        return os.path.join(self._directory.path, "fcgi.sock")

    def status_socket(self) -> str:
        """The same for what the manager says of its pool; from now on Caddy shows that to browsers on this machine."""
        self._status = os.path.join(self._directory.path, "status.sock")
        return self._status

    def discard(self) -> None:
        """Whatever happened: leave neither a socket nor a directory."""
        self._listener.close()
        self._directory.remove()

    # -- in the manager -----------------------------------------------------------------------------------------------

    def begin(self, half: ManagerHalf) -> None:
        self._half = half
        running = list(half.registry.of(self.kind).staying.values())
        if running:  # this manager has executed itself
            (self._caddy,) = running
        else:
            self._start()

    def _start(self) -> None:
        assert self._half is not None
        home = self._directory.path
        config = configuration(self._listener, self.target, home, self._manager.die_timeout, self._status)
        try:
            with program(self._binary, config, self._listener.fileno(), home) as caddy:
                self._caddy = self._half.execute(caddy, self.kind)
        except OSError as error:
            raise ConfigError(
                f"{self._binary} cannot be run ({error.strerror}): install fcgi-procmanager[web] again"
            ) from None

    def ended(self, child: Child, exit: Exit) -> None:
        if child is not self._caddy or self._half is None:
            return
        self._caddy = None
        if not self._half.running:
            return
        lived = monotonic() - child.spawned_at
        if lived < _YOUNG:
            self._manager.die(
                "the web server ended at once: what it said is above (Caddy 2.9 or later is needed)", exits.FAILED
            )
        self._manager.notify(f"{self.kind} (pid {child.pid}) ended after {lived:.1f} s: starting it again")
        self._start()

    def stop(self) -> None:
        """Caddy first: it takes no new request, and finishes those in flight while the workers are still there."""
        self._listener.close()
        if self._caddy is not None and self._half is not None:
            limit = self._manager.die_timeout
            self._half.reaper.ask_to_leave([self._caddy], limit and limit + _MARGIN)

    @property
    def holds_stop(self) -> bool:  # type: ignore[override]
        return self._caddy is not None

    def close(self) -> None:
        caddy, self._caddy = self._caddy, None
        if caddy is not None and self._half is not None:
            self._half.reaper.kill(caddy)

    def leave(self) -> dict[str, Any]:
        return {"descriptors": [self._listener.fileno()], "directory": self._directory.path}

    # -- in a worker --------------------------------------------------------------------------------------------------

    def forked(self) -> None:
        half, self._half, self._caddy = self._half, None, None
        self._listener.close()
        if half is not None:
            atexit.register(self._clear_up_for_manager, half.channel, os.getpid())

    def _clear_up_for_manager(self, channel: Channel, worker: int) -> None:
        """Worker, at its end: if the manager was killed, nobody else removes its directory."""
        # Its pipe ends before its children are given to another parent: who asks for the parent here may be told that
        # it is there. And what this worker has forked comes here as well.
        if os.getpid() == worker and any_readable(channel.lifeline):
            self._directory.remove_for_owner()


def parse_web(address: str) -> addresses.Address:
    """Raises ConfigError."""
    where = addresses.parse_address(address)
    if where.kind != "tcp":
        raise ConfigError(f"--web {address!r} is not understood: give HOST:PORT, such as 127.0.0.1:8000")
    return where


def bind_web(address: str) -> Listener:
    """Raises ConfigError and ListenError."""
    return bind(parse_web(address))


class PrivateDirectory:
    """A directory for us alone, removed when its maker ends; when it was killed, by a worker that outlived it."""

    def __init__(self, left: str = "") -> None:
        """left: the path of one that this process had before it executed itself, or that a canary is shown."""
        self._owner = -1 if handover.is_canary() else os.getpid()
        atexit.register(self.remove)
        self.path: str = left
        if left:
            return
        self.path = tempfile.mkdtemp(prefix="fcgi-procmanager-")
        if len(os.fsencode(self.path)) + 16 > addresses.SUN_PATH_MAX:
            os.rmdir(self.path)
            self.path = tempfile.mkdtemp(prefix="fcgi-procmanager-", dir="/tmp")

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
