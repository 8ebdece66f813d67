"""`WSGIServer`: flup's server for WSGI applications, aware of its manager.

Runs in the manager until `manage()` returns, then in each worker. From flup come the constructor, the error page and the hooks
that its subclasses override (`handler`, `error`); the connection under it is ours (loop.py, connection.py).
"""

from __future__ import annotations

import html
import os
import traceback
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Callable, cast
from wsgiref.handlers import CGIHandler

from ..basics import checks
from ..basics.states import Role
from ..errors import ConfigError, ListenError, ProtocolError, RequestTimeout
from ..manager.procmanager import ProcManager
from ..sockets.listener import Listener
from ..system import fastexit
from ..worker.gate import Gate
from . import protocol
from .connection import PeerGone
from .environ import common_environ, environ_of
from .framing import Framing
from .lanes import Hooks, Lanes
from .listeners import check_listener
from .loop import FastCGI, manager_of
from .request import BodyTooLarge, Request
from .response import Response
from .tracebacks import write_traceback

Application = Callable[[dict, Callable[..., Any]], Iterable[bytes]]  # type: ignore[type-arg]

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .settings import Timeouts

    class FlupServer:
        """What is used of flup's server, which has no types."""

        application: Application
        environ: dict[str, Any]
        debug: bool
        roles: tuple[int, ...]
        forceCGI: bool
        _bindAddress: str | tuple[Any, ...] | None
        _umask: int | None

        def __init__(self, *_: Any) -> None: ...

        def error(self, req: Request) -> None: ...

else:
    from flup.server.fcgi_single import WSGIServer as FlupServer

CO_COROUTINE = 0x80  # inspect.CO_COROUTINE, without what that module imports
BODY_LIMIT = 64 << 20  # bytes of a body without a length, unless told otherwise

_LIMITS = ("head_timeout", "idle_timeout", "receive_timeout", "send_timeout", "drain_timeout")


class WSGIServer(FlupServer):
    """Serves `application` in the workers of `manager`.

    application: as PEP 3333 has it. environ: added to the environment of each request. bindAddress: a path, a (host, port) tuple or any address of
    `ProcManager.listen`; None for what the manager listens on already, else what systemd or a FastCGI spawner handed over.
    umask: while the socket file is made; by default its mode is 0660. multiplexed: without effect, requests that share a
    connection are served one at a time. debug: show the traceback in the error page. roles: FastCGI roles to answer, see
    `FastCGI`. forceCGI: serve one CGI request. manager: None for a single process. listener: what `manager.listen()` returned, instead of bindAddress.
    threads: requests that a worker serves at a time, for applications that wait for others. body_without_length: "buffer": a
    body that comes without CONTENT_LENGTH (a chunked upload) is received before the application is called, and its length
    set; "stream": it is handed over as it comes. body_limit: bytes of such a body; a longer one gets 413. limits: the timeouts of
    `FastCGI`: head_timeout, idle_timeout, receive_timeout, send_timeout and drain_timeout, in seconds.

    Raises ConfigError. Source: flup.server.fcgi_single.WSGIServer 1.0.3.
    """

    def __init__(
        self,
        application: Application,
        environ: dict[str, Any] | None = None,
        bindAddress: str | tuple[Any, ...] | None = None,
        umask: int | None = None,
        multiplexed: bool = False,
        debug: bool = False,
        roles: tuple[int, ...] = (protocol.RESPONDER,),
        forceCGI: bool = False,
        *,
        manager: ProcManager | None = None,
        listener: Listener | None = None,
        threads: int = 1,
        body_without_length: str = "buffer",
        body_limit: int = BODY_LIMIT,
        **limits: Unpack[Timeouts],
    ) -> None:
        _check_application(application)
        _check_environ(environ)
        if umask is not None:
            checks.count("umask", umask)
        super().__init__(application, environ, bindAddress, umask, False, debug, roles, forceCGI)
        self.manager: ProcManager = manager_of(manager)
        self.multiprocess: bool = self.manager.n_processes > 0
        check_listener(listener)
        self._listener = listener
        self.threads: int = _threads(threads)
        self._buffers = _buffers(body_without_length)
        self._body_limit = checks.count("body_limit", body_limit)
        if multiplexed:
            self.manager.notify("multiplexed=True has no effect: requests on one connection are served one at a time")
        self._limits = _limits(cast("dict[str, Any]", limits))
        self._loop: FastCGI | None = None  # of the main thread, made before the fork

    def run(self) -> bool:
        """Manager: bind, fork and serve. With a managed pool it ends by SystemExit, in the manager and in each worker. In a single
        process it returns True after HUP, False after INT or TERM, as flup's does.

        Raises ConfigError, ListenError and PidFileError, before anything is served.
        """
        if self._is_cgi():
            CGIHandler().run(cast(Any, self.application))
            return False
        manager = self.manager
        if self._listener is None and not (self._bindAddress is None and manager.listeners):
            if manager.role is Role.SERVER:
                raise ConfigError("a worker cannot bind: call run() instead of manage(), or manager.listen() before it")
            mode = None if self._umask is None else 0o777 & ~self._umask
            self._listener = manager.listen(self._bindAddress, mode=mode)
        if self.threads == 1:
            self._loop = self._new_loop()  # before the fork: the workers share the memory of what each has alike
        if manager.role is Role.SERVER or manager.manage():
            self.serve()
            manager.leave()
        with manager._single_process():
            self.serve()
        if self._listener is not None:
            self._listener.remove()
            if self._listener in manager.listeners:
                manager.listeners.remove(self._listener)
            self._listener = None  # run() may be called again, and binds anew
        stopped = manager.received_signal("TERM") or manager.received_signal("INT")
        return bool(manager.received_signal("HUP") and not stopped)

    def serve(self) -> None:
        """Worker: answer requests until it should leave."""
        self._common = common_environ(self.environ, self.threads > 1, self.multiprocess)
        if self.threads == 1:
            with self.manager._in_a_row():
                self._serve_in(None, self.manager.pre_dispatch, self.manager.post_dispatch)
        else:
            self.manager._share_slot()
            hooks = Hooks(self.manager)
            Lanes(self.manager, self.threads, lambda gate: self._serve_in(gate, hooks.enter, hooks.leave)).run()

    def _serve_in(self, gate: Gate | None, before: Callable[[], None], after: Callable[[], None]) -> None:
        """One accept loop: the main thread's, or a lane's, which has a gate of its own."""
        fcgi, self._loop = self._loop or self._new_loop(gate), None
        leave = None
        try:
            while (request := fcgi.accept()) is not None:
                before()
                leave = self._answer(request) or leave
                if leave is not None:  # not at once: what this worker has accepted would be lost
                    self.manager.retire_self(f"the application called sys.exit({leave.code!r})")
                after()
        except SystemExit:
            if leave is None:
                raise
            fastexit.disarm()  # the worker leaves with the application's status
        finally:
            fcgi.close()
        if leave is not None:
            raise leave

    def _new_loop(self, gate: Gate | None = None) -> FastCGI:
        return FastCGI(self._listener, manager=self.manager, roles=self.roles, _gate=gate, **self._limits)

    def handler(self, req: Request) -> tuple[int, int]:
        """Worker: call the application for one request. Returns (protocol status, application status)."""
        response = Response(req)
        result = self.application(environ_of(req, self._common), response.start_response)
        try:
            response.send(result)
        finally:
            close = getattr(result, "close", None)
            if close is not None:
                close()
        return protocol.REQUEST_COMPLETE, 0

    def error(self, req: Request) -> None:
        """Worker: the page for an exception of the application before its reply began. To be overridden; see flup."""
        if not self.debug:
            super().error(req)
            return
        trace = html.escape(traceback.format_exc())
        page = f"<!DOCTYPE html><title>Unhandled Exception</title><h1>Unhandled Exception</h1><pre>{trace}</pre>"
        head = "Status: 500 Internal Server Error\r\nContent-Type: text/html; charset=utf-8\r\n\r\n"
        req.stdout.write((head + page).encode(errors="replace"))

    def _answer(self, request: Request) -> SystemExit | None:
        """One request to its end, whatever the application does. Returns the exit it asked for, if it did."""
        leave = None
        try:
            if request.body != b"" and not request.params.get("CONTENT_LENGTH"):
                self._receive_body(request)
            protocol_status, app_status = self.handler(request)
        except _Refused as refusal:
            self.manager.notify(str(refusal))
            request.expect_cgi()
            request.stdout.write(_page(refusal.status))
        except SystemExit as stop:
            leave = stop
            self._failed(request, traced=False)
        except RequestTimeout as late:
            self._ended_late(request, late)
        except KeyboardInterrupt:  # nobody noted it as a signal, so it is meant for this process
            request.abandon("interrupted")
            raise
        except BaseException as error:
            self._failed(request, traced=not _of_the_peer(error))
        else:
            if request.framing is not None:
                self._tell_complaint(request, request.framing)
            request.finish(app_status, protocol_status)
            return None
        request.finish()
        return leave

    def _receive_body(self, request: Request) -> None:
        """Most frameworks take a body without a length for none. Raises _Refused, PeerGone, ProtocolError."""
        if not self._buffers or request.role != protocol.RESPONDER:
            return
        try:
            length = request.receive_body(self._body_limit)
        except BodyTooLarge:
            why = f"refused a body without a length: it is longer than body_limit, {self._body_limit} bytes"
            raise _Refused("413 Content Too Large", why) from None
        except PeerGone:
            raise
        except OSError as error:
            why = f"refused a body without a length: it cannot be stored ({error.strerror})"
            raise _Refused("500 Internal Server Error", why) from None
        if length:
            request.params["CONTENT_LENGTH"] = str(length)

    def _tell_complaint(self, request: Request, framing: Framing) -> None:
        if framing.complaint and not request.aborted:
            self.manager.notify(framing.complaint)

    def _failed(self, request: Request, traced: bool) -> None:
        """The application left by an exception: an error page if nothing is sent yet, else a reply that ends short."""
        if traced:
            write_traceback(self.manager, request.params)
        elif request.aborted and not request.disowned:
            self.manager.notify(f"a request ended early: {request.connection.dead or 'withdrawn by the web server'}")
        if request.begun:
            request.abandon("the application failed in the middle of its reply")
        else:
            request.expect_cgi()
            try:
                self.error(request)
            except Exception:
                write_traceback(self.manager, request.params)
                request.abandon("the error page failed")

    def _ended_late(self, request: Request, late: RequestTimeout) -> None:
        self.manager.notify(str(late))
        if request.begun:
            request.abandon("the time of the request was up in the middle of its reply")
        else:
            request.expect_cgi()
            request.stdout.write(_page("504 Gateway Timeout"))

    def _is_cgi(self) -> bool:
        """Started by a web server for one CGI request, as flup supports: no listening socket, and CGI's variables."""
        if self.forceCGI or os.environ.get("FCGI_FORCE_CGI", "N").upper().startswith("Y"):
            return True
        if self._bindAddress is not None or self._listener is not None or self.manager.listeners:
            return False
        if "GATEWAY_INTERFACE" not in os.environ:
            return False
        try:
            self._listener = self.manager.listen()
        except ListenError:
            return True
        return False


class _Refused(Exception):
    """A request that the application is not called for. status: of the reply."""

    def __init__(self, status: str, why: str) -> None:
        super().__init__(why)
        self.status = status


def _page(status: str) -> bytes:
    title = status[4:]
    page = f"<!DOCTYPE html><title>{title}</title><h1>{title}</h1>"
    return f"Content-Type: text/html; charset=utf-8\r\nStatus: {status}\r\n\r\n{page}".encode()


def _of_the_peer(error: BaseException | None) -> bool:
    """Whether the web server's going away is behind an exception, however a framework has wrapped it."""
    while error is not None and not isinstance(error, (PeerGone, ProtocolError)):
        error = error.__cause__ or error.__context__
    return error is not None


def _check_application(given: object) -> None:
    if not callable(given):
        raise ConfigError(f"application must be callable, not {given!r}")
    code = getattr(given, "__code__", None) or getattr(type(given).__call__, "__code__", None)
    if code is not None and code.co_flags & CO_COROUTINE:
        raise ConfigError(f"application {given!r} is for ASGI: WSGI calls application(environ, start_response)")


def _check_environ(value: object) -> None:
    if isinstance(value, ProcManager):
        raise ConfigError("the second parameter of WSGIServer is flup's environ: give the manager by name, manager=...")
    if value is not None and not isinstance(value, Mapping):
        raise ConfigError(f"environ must be a dict, not {value!r}: it is added to the environment of each request")


def _limits(given: dict[str, Any]) -> dict[str, Any]:
    """Looked at here, not by `FastCGI` in each worker, where a mistake would end one worker after the other."""
    for name in given:
        if name not in _LIMITS:
            raise TypeError(f"WSGIServer() got an unexpected keyword argument {name!r}")
    return {name: checks.timeout(name, value) for name, value in given.items()}


def _buffers(value: Any) -> bool:
    if value not in ("buffer", "stream"):
        raise ConfigError(f"body_without_length must be 'buffer' or 'stream', not {value!r}")
    return bool(value == "buffer")


def _threads(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"threads must be a whole number from 1, not {value!r}")
    return value
