"""One request, as an application sees it: parameters, input streams, output streams, and its end.

Runs in a worker, in the thread that serves the request. Must never receive or send but through its `Connection`.
"""

from __future__ import annotations

import io
from typing import IO, TYPE_CHECKING, Callable, NoReturn

from . import protocol
from .connection import Connection
from .framing import Framing
from .output import CgiOutput, ErrorOutput, Output, OwnErrorOutput, records

if TYPE_CHECKING:
    from collections.abc import Buffer  # type: ignore[attr-defined]

_IN_MEMORY = 1 << 20  # bytes; a longer body that is received beforehand goes into a temporary file
_INPUT_BUFFER = 1 << 17  # bytes; what an application asks for in larger pieces goes past this buffer

# Of a body that the application has not read: a web server that is still sending it when the reply comes closes the client's
# connection behind it.
_UNREAD_SECONDS, _UNREAD_BYTES = 1.0, 1 << 24
_PIECE = 1 << 16  # bytes taken at a time of such a body

Done = Callable[[Connection, bool], None]  # told of the connection, and whether it is to be kept


class BodyTooLarge(Exception):
    """A body without a length is longer than is allowed."""


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise BodyTooLarge


def _nothing(connection: Connection, keep: bool) -> None:
    pass


class Request:
    """Worker: one request, which `FastCGI.accept` returns.

    `params` has the CGI variables, a dict of strings decoded as latin-1; `role` is 1 for Responder, 2 for Authorizer, 3 for Filter;
    `request_id` is the number of the request on its connection; `keep`, whether the web server wants the connection kept; `body`,
    bytes, all of the body if it came with the variables, else None.

    Source: the request object of flup 1.0.3, and FCGI.pm's.
    """

    body: bytes | None
    keep: bool
    params: dict[str, str]
    request_id: int
    role: int

    __slots__ = (
        "_connection",
        "_data",
        "_done",
        "_input",
        "_parts",
        "_stderr",
        "_stdout",
        "_stored",
        "body",
        "framing",
        "keep",
        "params",
        "request_id",
        "role",
    )

    def __init__(self, connection: Connection, done: Done) -> None:
        assert connection.opened is not None
        self.params, self.request_id, self.role, self.keep, self.body = connection.opened[:5]
        self._connection = connection
        self._done: Done | None = done
        self.framing: Framing | None = None
        self._parts: list[bytes] | None = None  # of `reply`
        self._stored: IO[bytes] | None = None  # all of the body, by `receive_body`
        # Made when asked for: most requests have no body to read, and a reply in one piece.
        self._stdout: Output | None = None
        self._stderr: Output | None = None
        self._input: IO[bytes] | None = None
        self._data: IO[bytes] | None = None

    @property
    def connection(self) -> Connection:
        """For our servers."""
        return self._connection

    # -- input --------------------------------------------------------------------------------------------------------

    @property
    def stdin(self) -> IO[bytes]:
        """A binary file: the body. Reading it raises PeerGone (an OSError) when it ends early. Raises ValueError after `finish`."""
        if self._input is None:
            if self._done is None:
                self._refuse()
            body = self.body  # a small one comes with the parameters
            self._input = io.BytesIO(body) if body is not None else self._stream(protocol.STDIN)
        return self._input

    def receive_body(self, limit: int) -> int:
        """For our servers: all of the body, before it is read: `stdin` has it then, in memory or in a temporary file. Returns its length in bytes.
        Raises BodyTooLarge, PeerGone, ProtocolError, and OSError where it cannot be stored."""
        body = self.body if self.body is not None else self._connection.whole_body(protocol.STDIN)
        if body is None:
            return self._store_body(limit)
        _check_size(len(body), limit)
        self._input = io.BytesIO(body)
        return len(body)

    def _store_body(self, limit: int) -> int:
        import tempfile  # not above: it loads much, which each worker would pay for

        coming, piece = _Body(self, protocol.STDIN), bytearray(_PIECE)
        memory = bytearray()
        while count := coming.readinto(piece):
            memory += memoryview(piece)[:count]
            _check_size(len(memory), limit)
            if len(memory) > _IN_MEMORY:
                break
        else:
            self._input = io.BytesIO(memory)
            return len(memory)
        self._stored = self._input = tempfile.TemporaryFile()  # noqa: SIM115
        size = self._stored.write(memory)
        while count := coming.readinto(piece):
            size += count
            _check_size(size, limit)
            self._stored.write(memoryview(piece)[:count])
        self._stored.seek(0)
        return size

    @property
    def data(self) -> IO[bytes]:
        """A binary file: that of a Filter request. It comes behind the body: what is left unread of that is dropped."""
        if self._data is None:
            if self._done is None:
                self._refuse()
            if self.role != protocol.FILTER:
                self._data = io.BytesIO()
            else:
                self._connection.skip_body()
                self._data = self._stream(protocol.DATA)
        return self._data

    @property
    def aborted(self) -> bool:
        """The web server has withdrawn the request, or is gone: nobody reads a reply."""
        return self._connection.aborted

    def _stream(self, kind: int) -> IO[bytes]:
        content = self._connection.whole_body(kind)
        return io.BufferedReader(_Body(self, kind), _INPUT_BUFFER) if content is None else io.BytesIO(content)

    def _read(self, kind: int, target: memoryview) -> int:
        if self._done is None:
            self._refuse()
        return self._connection.read_body(kind, target)

    def _refuse(self) -> NoReturn:
        raise ValueError("the request is finished: its input is gone")

    # -- output -------------------------------------------------------------------------------------------------------

    @property
    def stdout(self) -> Output:
        """A binary stream: the reply, beginning with its headers. It is gathered, and sent at `flush` and `finish`. What is written to a
        peer that is gone is dropped."""
        if self._stdout is None:
            self._put_stdout(self._new_output())
            assert self._stdout is not None
        return self._stdout

    @property
    def stderr(self) -> Output:
        """A binary stream: for the web server's error log. It is sent behind the first of the reply, or at the end; behind HAProxy it goes to
        this process's standard error."""
        if self._stderr is None:
            fragile = self.params.get("SERVER_SOFTWARE", "").startswith("HAProxy")
            self._stderr = (OwnErrorOutput if fragile else ErrorOutput)(self)
            self._stderr.closed = self._done is None
            self.stdout.behind = self._stderr
        return self._stderr

    def expect_cgi(self) -> None:
        """For our servers: who writes the reply is not a server of ours that knows what it may say: what is written from now on is looked at."""
        self.drop()
        self._put_stdout(self._new_cgi_output())

    def _new_output(self) -> Output:
        return Output(self._connection, protocol.STDOUT, self.request_id)

    def _new_cgi_output(self) -> CgiOutput:
        return CgiOutput(self)

    def _put_stdout(self, output: Output) -> None:
        output.closed = self._done is None
        output.behind = self._stderr
        self._stdout = output

    @property
    def begun(self) -> bool:
        """Something of the reply has left for the web server."""
        return self._stdout is not None and self._stdout.sent

    def reply(self, parts: list[bytes]) -> None:
        """For our servers: the rest of a reply that is at hand, to be sent by `finish`."""
        if self._stdout is None and self._parts is None:
            self._parts = parts
        else:
            self.stdout.writelines(parts)

    def drop(self) -> None:
        """For our servers: forget what was written and is not sent yet."""
        self._parts = None
        self.framing = None
        if self._stdout is not None:
            self._stdout.drop()

    @property
    def disowned(self) -> bool:
        """For our servers: this is a child that the application has forked: the request is its parent's."""
        return self._done is _nothing

    @property
    def finished(self) -> bool:
        """`finish` or `abandon` was called."""
        return self._done is None

    def finish(self, app_status: int = 0, protocol_status: int = protocol.REQUEST_COMPLETE) -> None:
        """Send what is gathered and the end of the request, in one piece if it fits. May be called twice. A reply that is
        shorter than its Content-Length is broken off instead, see `abandon`. app_status, protocol_status: of the FastCGI protocol, 0
        when all is well."""
        done = self._done
        if done is None:
            return
        if self.framing is not None and self.framing.missing:
            self.abandon(self.framing.complaint)
            return
        if self._connection.parser is not None and not self._connection.input_ended:
            self._connection.discard_input(_UNREAD_SECONDS, _UNREAD_BYTES)
        went_well = not app_status and not protocol_status
        parts, stdout = self._parts, self._stdout
        if went_well and self._stderr is None and self._stored is None and (stdout is None or parts is None):
            gathered = stdout.gathered if stdout is not None else parts
            whole = protocol.reply(self.request_id, gathered) if gathered else None
            if whole is not None:  # most replies
                self._connection.send(whole)
                self._done = None
                if stdout is not None:
                    stdout.closed = True
                done(self._connection, self.keep)
                return
        pieces = [] if self._stdout is None else self._stdout.rest()
        if parts is not None:
            pieces += records(protocol.STDOUT, self.request_id, parts)
        if self._stderr is not None:
            pieces += self._stderr.rest()
        if went_well:
            pieces.append(protocol.plain_end(self.request_id))
        else:
            pieces.append(protocol.end_request(self.request_id, app_status, protocol_status))
        self._connection.send_pieces(pieces)
        self._close(done)

    def abandon(self, why: str) -> None:
        """End the connection without an end of the request, and say why in the log: the reply in it is broken, and must not look complete. The mere end of
        a connection does to nginx, lighttpd and Caddy, unless it is to be kept; what is no FastCGI at all does to nobody."""
        done = self._done
        if done is None:
            return
        parts, self._parts = self._parts, None
        if parts is not None:
            self.stdout.writelines(parts)
        self.stdout.flush()
        if self._stderr is not None:
            self._stderr.flush()
        self._connection.send(protocol.NO_RECORD)
        self._connection.dead = self._connection.dead or why
        self._close(done)

    def disown(self) -> None:
        """For our servers, in a child that the application has forked: the reply is its parent's. Writing and finishing do nothing there."""
        self._connection.disown()
        self._done = _nothing

    def _close(self, done: Done) -> None:
        self._done = None
        if self._stdout is not None:
            self._stdout.closed = True
        if self._stderr is not None:
            self._stderr.closed = True
        if self._stored is not None:
            self._stored.close()
        done(self._connection, self.keep)


class _Body(io.RawIOBase):
    """A stream of the request in hand; takes from the connection only what is asked for."""

    def __init__(self, request: Request, kind: int) -> None:
        self._request = request
        self._kind = kind

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        return self._request._read(self._kind, memoryview(buffer))
