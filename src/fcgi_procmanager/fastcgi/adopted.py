"""`adopt()`: an existing flup server object, single-threaded or threaded, put under a manager.

Runs in the manager until `manage()` returns, then in each worker. What the object is for stays: its application, its
`handler` and `error`, its settings. What made it unfit for a pool is not used: it binds nothing, installs no handler, and
neither accepts nor speaks the protocol; `WSGIServer` does that in its place.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from flup.server.fcgi import WSGIServer as ThreadedServer
from flup.server.fcgi_base import BaseFCGIServer
from flup.server.fcgi_single import WSGIServer as SingleServer

from ..errors import ConfigError
from ..manager.procmanager import ProcManager
from . import protocol
from .loop import manager_of
from .request import Request
from .wsgi import WSGIServer

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .settings import Settings

_THREADS = 32  # for a server that has no limit of its own, which is flup's default
_BYPASSED = ("run", "request_class", "_isClientAllowed", "_mainloopPeriodic")  # what a subclass would override in vain


def adopt(server: BaseFCGIServer, manager: ProcManager, **settings: Unpack[Settings]) -> Adopted:
    """Manager: put `server` under `manager`; `.run()` of the result binds, forks and serves, and ends by SystemExit.

    server: a flup.server.fcgi_single.WSGIServer or flup.server.fcgi.WSGIServer (threaded), or of a subclass that overrides
    `handler` and `error` at most; not running. With a bindAddress of None it serves what the manager listens on, else what was
    handed over, on descriptor 0. A threaded one serves `maxThreads` requests at a time in each worker, 32 without that.
    manager: a `ProcManager`. settings: `body_without_length`, `body_limit` and timeouts, see `WSGIServer`.

    Raises ConfigError for anything else.
    """
    manager = manager_of(manager)
    base = _base(server)
    for name in _BYPASSED:
        if _own(server, name) is not getattr(base, name):
            raise ConfigError(f"adopt() would not use the server's own {name}: derive from fcgi_procmanager.WSGIServer")
    return Adopted(
        server, manager, _threads(server), overrides_error=_own(server, "error") is not base.error, **settings
    )


class Adopted(WSGIServer):
    """A flup server under a manager. `run()` is all there is to call."""

    def __init__(
        self,
        server: BaseFCGIServer,
        manager: ProcManager,
        threads: int,
        overrides_error: bool,
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__(
            server.application,
            server.environ,
            server._bindAddress,
            server._umask,
            getattr(server._connectionClass, "_multiplexed", False),
            debug=server.debug,
            roles=server.roles,
            forceCGI=server.forceCGI,
            manager=manager,
            threads=threads,
            **settings,
        )
        self.server = server
        self._overrides_error = overrides_error
        server.multiprocess = self.multiprocess

    def serve(self) -> None:
        if self._bindAddress is None and self.manager.n_processes > 0:
            listener = self._listener or self.manager.listeners[0]
            if listener.fileno() != 0:
                os.dup2(listener.fileno(), 0)  # where a FastCGI application looks for its listener
        super().serve()

    def handler(self, req: Request) -> tuple[int, int]:
        req.expect_cgi()
        req.params.pop("HTTP_TRANSFER_ENCODING", None)  # see environ.py
        req.params["wsgi.input_terminated"] = True  # type: ignore[assignment]
        statuses: tuple[int, int] = self.server.handler(_FlupRequest(req, self.server))
        return statuses

    def error(self, req: Request) -> None:
        if self._overrides_error:
            self.server.error(_FlupRequest(req, self.server))
        else:
            super().error(req)  # not flup's: with debug=True it needs a module that Python 3.13 no longer has


class _FlupRequest:
    """What flup's handlers may use of a request, under flup's names."""

    def __init__(self, request: Request, server: BaseFCGIServer) -> None:
        self.server = server
        self.requestId = request.request_id
        self.role = request.role
        self.flags = protocol.KEEP_CONN if request.keep else 0
        self.params = request.params
        self.stdin = request.stdin
        self.stdout = request.stdout
        self._request = request

    @property
    def stderr(self) -> Any:
        return self._request.stderr

    @property
    def data(self) -> Any:
        return self._request.data

    @property
    def aborted(self) -> bool:
        return self._request.aborted


def _base(server: Any) -> Any:
    for known in (SingleServer, ThreadedServer):
        # Ours derives from the first, and takes its manager as an argument.
        if isinstance(server, known) and not isinstance(server, WSGIServer):
            return known
    raise ConfigError(f"adopt() takes a WSGIServer of flup.server.fcgi_single or flup.server.fcgi, not {server!r}")


def _own(server: Any, name: str) -> Any:
    found = getattr(server, name)
    return getattr(found, "__func__", found)


def _threads(server: Any) -> int:
    """How many requests the server takes at a time. Ends the threads that its constructor has started: they must not be
    there when the manager forks."""
    pool = getattr(server, "_threadPool", None)
    if pool is None:
        return 1
    pool.shutdown()
    return int(pool._maxThreads) if pool._maxThreads <= 1000 else _THREADS
