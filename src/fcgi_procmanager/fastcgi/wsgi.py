"""`WSGIServer`: flup's server for WSGI applications, aware of its manager.

Runs in the manager until `manage()` returns, then in each worker. From flup come the constructor, the error page and the hooks
that its subclasses override (`handler`, `error`); the connection under it is ours (loop.py, connection.py).
"""

from __future__ import annotations

import html
import os
import stat
import sys
import traceback
import wsgiref.util
from collections.abc import Iterable
from typing import Any, Callable, cast
from urllib.parse import unquote_to_bytes
from wsgiref.handlers import CGIHandler

from flup.server.fcgi_single import WSGIServer as FlupServer

from ..errors import ConfigError, ListenError
from ..gate import Gate
from ..listeners import Listener
from ..manager import ProcManager
from ..states import Role
from . import protocol
from .connection import PeerGone
from .lanes import Hooks, Lanes
from .loop import FastCGI, check_timeout
from .request import Request

Application = Callable[[dict, Callable[..., Any]], Iterable[bytes]]  # type: ignore[type-arg]

_LIMITS = ("head_timeout", "idle_timeout", "receive_timeout", "send_timeout", "drain_timeout")
_SMALL_FILE = 1 << 15  # bytes; below it a read and one send cost less than the calls around sendfile
_NO_BODY = frozenset(("204", "304"))


class WSGIServer(FlupServer):  # type: ignore[misc]
    """Serves `application` in the workers of `manager`.

    environ: added to the environment of each request. bindAddress: a path, a (host, port) tuple or any address of
    `ProcManager.listen`; None for what the manager listens on already, else what systemd or a FastCGI spawner handed over.
    umask: while the socket file is made; by default its mode is 0660. multiplexed: refused, one request at a time is
    served. debug: show the traceback in the error page. roles: FastCGI roles to answer. forceCGI: serve one CGI request.
    manager: None for a single process. listener: what `manager.listen()` returned, instead of bindAddress. threads: requests
    that a worker serves at a time, for applications that wait for others. Other keywords go to `FastCGI`: its timeouts.

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
        **limits: float,
    ) -> None:
        if multiplexed:
            raise ConfigError(
                "multiplexed=True is not supported: a worker serves one request at a time; use more workers"
            )
        if not callable(application):
            raise ConfigError(f"application must be callable, not {application!r}")
        super().__init__(application, environ, bindAddress, umask, False, debug, roles, forceCGI)
        self.manager = manager if manager is not None else ProcManager()
        self.multiprocess = self.manager.n_processes > 0
        self._listener = listener
        self.threads = _threads(threads)
        self._limits = _limits(limits)

    def run(self) -> bool:
        """Bind, fork and serve. With a managed pool it ends by SystemExit, in the manager and in each worker. In a single
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
        if manager.role is Role.SERVER or manager.manage():
            self.serve()
            raise SystemExit(0)
        with manager.single_process():
            self.serve()
        if self._listener is not None:
            self._listener.remove()
            if self._listener in manager.listeners:
                manager.listeners.remove(self._listener)
            self._listener = None  # run() may be called again, and binds anew
        return bool(manager.received_signal("HUP"))

    def serve(self) -> None:
        """Worker: answer requests until it should leave."""
        self._common = self._common_environ()
        if self.threads == 1:
            self._serve_in(None, self.manager.pre_dispatch, self.manager.post_dispatch)
        else:
            hooks = Hooks(self.manager)
            Lanes(self.manager, self.threads, lambda gate: self._serve_in(gate, hooks.enter, hooks.leave)).run()

    def _serve_in(self, gate: Gate | None, before: Callable[[], None], after: Callable[[], None]) -> None:
        """One accept loop: the main thread's, or a lane's, which has a gate of its own."""
        fcgi = FastCGI(self._listener, manager=self.manager, roles=self.roles, gate=gate, **self._limits)
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
        finally:
            fcgi.close()
        if leave is not None:
            raise leave

    def handler(self, req: Request) -> tuple[int, int]:
        """Worker: call the application for one request. Returns (protocol status, application status)."""
        response = _Response(req)
        result = self.application(self._environ(req), response.start_response)
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
            protocol_status, app_status = self.handler(request)
        except SystemExit as stop:
            leave = stop
            self._failed(request, traced=False)
        except KeyboardInterrupt:  # nobody noted it as a signal, so it is meant for this process
            request.abandon("interrupted")
            raise
        except BaseException as error:
            self._failed(request, traced=not (isinstance(error, PeerGone) or request.aborted))
        else:
            request.finish(app_status, protocol_status)
        request.finish()
        return leave

    def _failed(self, request: Request, traced: bool) -> None:
        """The application left by an exception: an error page if nothing is sent yet, else a reply that ends short."""
        if traced:
            sys.stderr.write(traceback.format_exc())
        elif request.aborted:
            self.manager.notify(f"a request ended early: {request.connection.dead or 'withdrawn by the web server'}")
        if request.begun:
            request.abandon("the application failed in the middle of its reply")
        else:
            request.drop()
            try:
                self.error(request)
            except Exception:
                sys.stderr.write(traceback.format_exc())
                request.abandon("the error page failed")

    def _common_environ(self) -> dict[str, Any]:
        """What is the same for every request."""
        return {
            **self.environ,
            "wsgi.version": (1, 0),
            "wsgi.errors": sys.stderr,
            "wsgi.url_scheme": "http",
            "wsgi.multithread": self.threads > 1,
            "wsgi.multiprocess": self.multiprocess,
            "wsgi.run_once": False,
            "wsgi.input_terminated": True,
            "wsgi.file_wrapper": FileWrapper,
        }

    def _environ(self, request: Request) -> dict[str, Any]:
        environ: dict[str, Any] = request.params
        environ.update(self._common)
        environ["wsgi.input"] = request.stdin
        if "HTTPS" in environ and environ["HTTPS"].lower() in ("on", "1"):
            environ["wsgi.url_scheme"] = "https"
        # Web servers send these two headers twice, the second time under names that PEP 3333 forbids.
        environ.pop("HTTP_CONTENT_TYPE", None)
        environ.pop("HTTP_CONTENT_LENGTH", None)
        if not environ.get("PATH_INFO") or "QUERY_STRING" not in environ or "SCRIPT_NAME" not in environ:
            _complete_path(environ)
        for name, default in _REQUIRED:
            if name not in environ:
                environ[name] = default
        return environ

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


def _limits(given: dict[str, Any]) -> dict[str, float]:
    """Looked at here, not by `FastCGI` in each worker, where a mistake would end one worker after the other."""
    for name in given:
        if name not in _LIMITS:
            raise TypeError(f"WSGIServer() got an unexpected keyword argument {name!r}")
    return {name: check_timeout(name, value) for name, value in given.items()}


def _threads(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"threads must be a whole number from 1, not {value!r}")
    return value


_REQUIRED = (
    ("REQUEST_METHOD", "GET"),
    ("SERVER_NAME", "localhost"),
    ("SERVER_PORT", "80"),
    ("SERVER_PROTOCOL", "HTTP/1.0"),
)


def _complete_path(environ: dict[str, Any]) -> None:
    """SCRIPT_NAME, PATH_INFO and QUERY_STRING for a web server that does not send them, from REQUEST_URI."""
    path, _, query = environ.get("REQUEST_URI", "").partition("?")
    script = environ.setdefault("SCRIPT_NAME", "")
    if not environ.get("PATH_INFO"):
        environ["PATH_INFO"] = "" if path == script else _path_info(path, script)
    if not environ.get("QUERY_STRING"):
        environ["QUERY_STRING"] = query


def _path_info(path: str, script: str) -> str:
    decoded = unquote_to_bytes(path.encode("latin-1")).decode("latin-1") if "%" in path else path
    inside = decoded.startswith(script) and decoded[len(script) : len(script) + 1] in ("", "/")
    return decoded[len(script) :] if inside else decoded


class FileWrapper(wsgiref.util.FileWrapper):
    """`wsgi.file_wrapper`: a file to be sent; by the kernel if it is a real one."""

    def region(self) -> tuple[int, int, int] | None:
        """Descriptor, offset and length of a regular file that is large enough to gain by it."""
        try:
            file, offset = self.filelike.fileno(), self.filelike.tell()
            status = os.fstat(file)
        except (AttributeError, OSError, ValueError):
            return None
        count = status.st_size - offset
        return (file, offset, count) if stat.S_ISREG(status.st_mode) and count > _SMALL_FILE else None


class _Response:
    """What PEP 3333 asks of a server for one reply."""

    __slots__ = ("_begun", "_head", "_request")

    def __init__(self, request: Request) -> None:
        self._request = request
        self._head = ""  # status and headers, each with its line end
        self._begun = False  # they are written

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], None]:
        if exc_info:
            try:
                if self._request.begun:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # no circle through this frame
            self._request.drop()
            self._begun = False
        elif self._head:
            raise AssertionError("start_response() was called a second time, without exc_info")
        self._head = _head(status, headers)
        return self.write

    def write(self, data: bytes) -> None:
        """The callable of PEP 3333: transmitted at once."""
        stdout = self._request.stdout
        if not self._begun:
            stdout.write(self._take_head(None))
        stdout.write(_as_bytes(data))
        stdout.flush()

    def send(self, result: Iterable[bytes]) -> None:
        """All of the reply. What is a list is at hand and goes in as few pieces as it fits; what is produced step by
        step is sent step by step, as PEP 3333 has it, and no longer than somebody reads it."""
        if isinstance(result, (list, tuple)):
            parts = [part if type(part) is bytes else _as_bytes(part) for part in result]
            if not self._begun:
                parts.insert(0, self._take_head(self._known_length(parts)))
            self._request.reply(parts)
            return
        if isinstance(result, FileWrapper) and self._send_file(result):
            return
        for chunk in result:
            if chunk:
                self.write(chunk)
                if self._request.aborted:
                    return
        if not self._begun:
            self._request.reply([self._take_head(None)])

    def _send_file(self, wrapper: FileWrapper) -> bool:
        """A file that the kernel can send by itself, from where it stands to its end. False for anything else."""
        found = wrapper.region()
        if found is None:
            return False
        file, offset, count = found
        stdout = self._request.stdout
        if not self._begun:
            stdout.write(self._take_head(count))
        stdout.send_file(file, offset, count)
        return True

    def _known_length(self, parts: list[bytes]) -> int | None:
        """Of the body of a reply in one part or none, as flup has it. An empty reply to HEAD says nothing of the body
        that GET would have."""
        if len(parts) > 1:
            return None
        length = len(parts[0]) if parts else 0
        return length if length or self._request.params.get("REQUEST_METHOD") != "HEAD" else None

    def _take_head(self, length: int | None) -> bytes:
        """The headers, for the one time that they are written. `length`: of the whole body, when it is known."""
        head = self._head
        if not head:
            raise AssertionError("the application sent a body before it called start_response()")
        if length is not None and _wants_length(head):
            head += f"Content-Length: {length}\r\n"
        self._begun = True
        return (head + "\r\n").encode("latin-1")


def _head(status: str, headers: Iterable[tuple[str, str]]) -> str:
    """The lines of a status and of headers. Raises TypeError, ValueError: in the application's own call."""
    try:
        lines = [name + ": " + value + "\r\n" for name, value in headers]
        head = "Status: " + status + "\r\n" + "".join(lines)
    except TypeError:
        return _head(_as_text(status), [(_as_text(name), _as_text(value)) for name, value in headers])
    if not status[:3].isdigit() or status[3:4] != " ":
        raise ValueError(f"a status must be three digits, a space and a reason, not {status!r}")
    if not head.count("\n") == head.count("\r") == len(lines) + 1:
        raise ValueError("a status or header holds a line break: refused, it would begin a header of its own")
    if "\0" in head:
        raise ValueError("a status or header holds a NUL: refused, web servers cut or drop such a reply")
    return head


def _wants_length(head: str) -> bool:
    """Whether a reply may be given a Content-Length: not if it has one, nor for a status that has no body."""
    code = head[8:11]
    return code not in _NO_BODY and code[0] != "1" and "\r\ncontent-length:" not in head.lower()


def _as_text(value: Any) -> str:
    """flup takes bytes for strings here, so its applications may pass them."""
    if type(value) is str:
        return value
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, str):
        return str(value)
    raise TypeError(f"a status, header name or header value must be a string, not {value!r}")


def _as_bytes(chunk: Any) -> Any:
    """Likewise text for the bytes of a body, as latin-1."""
    return chunk.encode("latin-1") if isinstance(chunk, str) else chunk
