"""One request, as an application sees it: parameters, input streams, output streams, and its end.

Runs in a worker, in the thread that serves the request. Must never receive or send but through its `Connection`.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from functools import lru_cache
from typing import IO, TYPE_CHECKING, Callable, NoReturn

from . import protocol
from .connection import Connection

if TYPE_CHECKING:
    from collections.abc import Buffer  # type: ignore[attr-defined]

_OUTPUT_LIMIT = 1 << 16  # bytes an output stream gathers before it sends by itself
_INPUT_BUFFER = 1 << 15  # bytes; what an application asks for in larger pieces goes past this buffer

Done = Callable[[Connection, bool], None]  # told of the connection, and whether it is to be kept


def _nothing(connection: Connection, keep: bool) -> None:
    pass


class Request:
    """params: the CGI variables, decoded as latin-1. role: protocol.RESPONDER and so on. keep: the web server wants the
    connection kept. stdin, data: binary files to read, `data` for the Filter role only. stdout, stderr: binary streams to
    the web server, gathered and sent at `flush` and `finish`. What is written to a peer that is gone is dropped.

    Source: the request object of flup 1.0.3, and FCGI.pm's.
    """

    __slots__ = (
        "_body",
        "_connection",
        "_data",
        "_done",
        "_input",
        "_parts",
        "_stderr",
        "_stdout",
        "keep",
        "params",
        "request_id",
        "role",
    )

    def __init__(self, connection: Connection, done: Done) -> None:
        assert connection.opened is not None
        self.params, self.request_id, self.role, self.keep, self._body = connection.opened[:5]
        self._connection = connection
        self._done: Done | None = done
        self._parts: list[bytes] | None = None  # of `reply`
        # Made when asked for: most requests have no body to read, and a reply in one piece.
        self._stdout: Output | None = None
        self._stderr: Output | None = None
        self._input: IO[bytes] | None = None
        self._data: IO[bytes] | None = None

    @property
    def connection(self) -> Connection:
        return self._connection

    # -- input --------------------------------------------------------------------------------------------------------

    @property
    def stdin(self) -> IO[bytes]:
        """The body. Reading it raises PeerGone (an OSError) when it ends early. Raises ValueError after `finish`."""
        if self._input is None:
            if self._done is None:
                self._refuse()
            body = self._body  # a small one comes with the parameters
            self._input = io.BytesIO(body) if body is not None else self._stream(protocol.STDIN)
        return self._input

    @property
    def data(self) -> IO[bytes]:
        """The file of a Filter request. It comes behind the body: what is left unread of that is dropped."""
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
        """The reply."""
        if self._stdout is None:
            self._stdout = self._output(protocol.STDOUT)
        return self._stdout

    @property
    def stderr(self) -> Output:
        """For the web server's error log."""
        if self._stderr is None:
            self._stderr = self._output(protocol.STDERR)
        return self._stderr

    @property
    def begun(self) -> bool:
        """Something of the reply has left for the web server."""
        return self._stdout is not None and self._stdout.sent

    def reply(self, parts: list[bytes]) -> None:
        """The rest of a reply that is at hand, to be sent by `finish`."""
        if self._stdout is None and self._parts is None:
            self._parts = parts
        else:
            self.stdout.writelines(parts)

    def drop(self) -> None:
        """Forget what was written and is not sent yet."""
        self._parts = None
        if self._stdout is not None:
            self._stdout.drop()

    @property
    def disowned(self) -> bool:
        """This is a child that the application has forked: the request is its parent's."""
        return self._done is _nothing

    @property
    def finished(self) -> bool:
        return self._done is None

    def finish(self, app_status: int = 0, protocol_status: int = protocol.REQUEST_COMPLETE) -> None:
        """Send what is gathered and the end of the request, in one piece if it fits. May be called twice."""
        done = self._done
        if done is None:
            return
        if app_status or protocol_status:
            end = protocol.end_request(self.request_id, app_status, protocol_status)
        else:
            end = _plain_end(self.request_id)
        parts, stdout = self._parts, self._stdout
        if self._stderr is None and (stdout is None or parts is None):
            gathered = stdout.gathered if stdout is not None else parts
            if gathered and 0 < (size := sum(map(len, gathered))) <= protocol.MAX_CONTENT:  # most replies
                head = protocol.header(protocol.STDOUT, self.request_id, size)
                self._connection.send(b"".join((head, *gathered, end)))
                self._done = None
                if stdout is not None:
                    stdout.closed = True
                done(self._connection, self.keep)
                return
        pieces = [] if parts is None else _records(protocol.STDOUT, self.request_id, parts)
        pieces.append(end)
        if self._stdout is not None:
            pieces = self._stdout.take() + pieces
        if self._stderr is not None:
            pieces = self._stderr.take() + pieces
        self._connection.send_pieces(pieces)
        self._close(done)

    def abandon(self, why: str) -> None:
        """End the connection without an end of the request: the reply in it is broken, and must not look complete."""
        done = self._done
        if done is None:
            return
        self.stdout.flush()
        self._connection.dead = self._connection.dead or why
        self._close(done)

    def disown(self) -> None:
        """In a child that the application has forked: the reply is its parent's. Writing and finishing do nothing there."""
        self._connection.disown()
        self._done = _nothing

    def _output(self, kind: int) -> Output:
        output = Output(self._connection, kind, self.request_id)
        output.closed = self._done is None
        return output

    def _close(self, done: Done) -> None:
        self._done = None
        if self._stdout is not None:
            self._stdout.closed = True
        if self._stderr is not None:
            self._stderr.closed = True
        done(self._connection, self.keep)


class Output:
    """A stream to the web server. gathered: what has been written and not sent."""

    __slots__ = ("_connection", "_kind", "_request_id", "_size", "closed", "gathered", "sent")

    def __init__(self, connection: Connection, kind: int, request_id: int) -> None:
        self._connection = connection
        self._kind = kind
        self._request_id = request_id
        self.gathered: list[bytes] = []
        self._size = 0
        self.sent = False  # something has left for the web server
        self.closed = False

    def write(self, data: bytes | str | Buffer) -> int:
        """Bytes, or text, which is encoded as UTF-8. Returns the number of bytes taken."""
        if self.closed:
            raise ValueError("the request is finished: nothing can be written any more")
        if type(data) is not bytes:
            data = data.encode() if isinstance(data, str) else bytes(data)
        if data:
            self.gathered.append(data)
            self._size += len(data)
            if self._size >= _OUTPUT_LIMIT:
                self.flush()
        return len(data)

    def writelines(self, lines: Iterable[bytes | str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if self.gathered:
            self.sent = True
            self._connection.send_pieces(self.take())

    def send_file(self, file: int, offset: int, count: int) -> None:
        """`count` bytes of an open file, behind what was written."""
        self.flush()
        self.sent = True
        self._connection.send_file(self._kind, self._request_id, file, offset, count)

    def take(self) -> list[bytes | memoryview]:
        """What is gathered, as records: pieces to be sent in order."""
        parts, self.gathered, self._size = self.gathered, [], 0
        return _records(self._kind, self._request_id, parts)

    def drop(self) -> None:
        """Forget what is gathered and not sent."""
        self.gathered.clear()
        self._size = 0

    def writable(self) -> bool:
        return True


class _Body(io.RawIOBase):
    """A stream of the request in hand; takes from the connection only what is asked for."""

    def __init__(self, request: Request, kind: int) -> None:
        self._request = request
        self._kind = kind

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        return self._request._read(self._kind, memoryview(buffer))


def _records(kind: int, request_id: int, parts: list[bytes]) -> list[bytes | memoryview]:
    """`parts` as records of a stream: pieces to be sent in order."""
    size = sum(map(len, parts))
    if not size:
        return []
    if size <= protocol.MAX_CONTENT:
        return [protocol.header(kind, request_id, size), *parts]
    # Each part in records of its own: a large one is not copied to be joined with the headers before it.
    return [piece for part in parts for piece in protocol.stream_records(kind, request_id, part)]


@lru_cache(maxsize=64)
def _plain_end(request_id: int) -> bytes:
    """The end of the output stream and of a request that went well; ids are few and small."""
    return protocol.end_of_stream(protocol.STDOUT, request_id) + protocol.end_request(request_id)
