"""One request, as an application sees it: parameters, input streams, output streams, and its end.

Runs in a worker, in the thread that serves the request. Must never receive or send but through its `Connection`.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterable
from functools import lru_cache
from typing import IO, TYPE_CHECKING, Callable, cast

from . import protocol
from .connection import Connection, PeerGone

if TYPE_CHECKING:
    from collections.abc import Buffer  # type: ignore[attr-defined]

_OUTPUT_LIMIT = 1 << 16  # bytes an output stream gathers before it sends by itself
_INPUT_BUFFER = 1 << 16


class Request:
    """params: the CGI variables, decoded as latin-1. role: protocol.RESPONDER and so on. keep: the web server wants the
    connection kept. stdin, data: binary files to read, `data` for the Filter role only. stdout, stderr: binary streams to
    the web server, gathered and sent at `flush` and `finish`.

    Source: the request object of flup 1.0.3, and FCGI.pm's.
    """

    __slots__ = ("_connection", "_data", "_done", "_input", "_stderr", "keep", "params", "request_id", "role", "stdout")

    def __init__(self, connection: Connection, done: Callable[[Request], None]) -> None:
        parser = connection.parser
        self.params: dict[str, str] = parser.head  # type: ignore[assignment]
        self.request_id = request_id = parser.request_id
        self.role = parser.role
        self.keep = parser.keep
        self.stdout = Output(connection, protocol.STDOUT, request_id)
        self._stderr: Output | None = None
        self._connection = connection
        self._input: IO[bytes] | None = None
        self._data: IO[bytes] | None = None
        self._done: Callable[[Request], None] | None = done

    @property
    def stderr(self) -> Output:
        """For the web server's error log; most requests have nothing to say there."""
        if self._stderr is None:
            self._stderr = Output(self._connection, protocol.STDERR, self.request_id)
            self._stderr.closed = self._done is None
        return self._stderr

    @property
    def stdin(self) -> IO[bytes]:
        """The body. Reading it raises PeerGone (an OSError) when it ends early."""
        if self._input is None:
            parser = self._connection.parser
            self._input = _input(self._connection, parser.stdin, parser.stdin_ended, self._stdin_ended)
        return self._input

    @property
    def data(self) -> IO[bytes]:
        """The file of a Filter request. It comes behind the body: what is left unread of that is dropped."""
        if self._data is None:
            while not self._stdin_ended():
                self._connection.parser.stdin.clear()
                self._connection.receive_body()
            parser = self._connection.parser
            ended = parser.data_ended or self.role != protocol.FILTER
            self._data = _input(self._connection, parser.data, ended, self._data_ended)
        return self._data

    @property
    def aborted(self) -> bool:
        """The web server has withdrawn the request, or is gone: nobody reads a reply."""
        return bool(self._connection.dead) or self._connection.parser.aborted

    @property
    def finished(self) -> bool:
        return self._done is None

    @property
    def connection(self) -> Connection:
        return self._connection

    def finish(self, app_status: int = 0, protocol_status: int = protocol.REQUEST_COMPLETE) -> None:
        """Send what is gathered and the end of the request, in one piece if it fits. May be called twice."""
        if self._done is None:
            return
        if app_status or protocol_status:
            end = protocol.end_request(self.request_id, app_status, protocol_status)
        else:
            end = _plain_end(self.request_id)
        pieces = self.stdout.take()
        pieces.append(end)
        if self._stderr is not None:
            pieces = self._stderr.take() + pieces
        self._connection.send(pieces)
        self._close()

    def abandon(self, why: str) -> None:
        """End the connection without an end of the request: the reply in it is broken, and must not look complete."""
        if self._done is None:
            return
        self.stdout.flush()
        self._connection.dead = self._connection.dead or why
        self._close()

    def _close(self) -> None:
        done, self._done = self._done, None
        self.stdout.closed = True
        if self._stderr is not None:
            self._stderr.closed = True
        if done is not None:
            done(self)

    def _stdin_ended(self) -> bool:
        return self._ended(self._connection.parser.stdin_ended)

    def _data_ended(self) -> bool:
        return self._ended(self._connection.parser.data_ended)

    def _ended(self, flag: bool) -> bool:
        if self._done is None:
            raise ValueError("the request is finished: its input is gone")
        if not flag and self._connection.parser.aborted:
            raise PeerGone("the web server has withdrawn the request")
        return flag


class Output:
    """A stream to the web server. What is written to a peer that is gone is dropped."""

    __slots__ = ("_connection", "_kind", "_parts", "_request_id", "_size", "closed", "sent")

    def __init__(self, connection: Connection, kind: int, request_id: int) -> None:
        self._connection = connection
        self._kind = kind
        self._request_id = request_id
        self._parts: list[bytes] = []
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
            self._parts.append(data)
            self._size += len(data)
            if self._size >= _OUTPUT_LIMIT:
                self.flush()
        return len(data)

    def writelines(self, lines: Iterable[bytes | str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if self._parts:
            self.sent = True
            self._connection.send(self.take())

    def take(self) -> list[bytes | memoryview]:
        """What is gathered, as records: pieces to be sent in order."""
        parts, size = self._parts, self._size
        if not size:
            return []
        self._parts, self._size = [], 0
        if size <= protocol.MAX_CONTENT:
            return [protocol.header(self._kind, self._request_id, size), *parts]
        # Each part in records of its own: a large one is not copied to be joined with the headers before it.
        return [piece for part in parts for piece in protocol.stream_records(self._kind, self._request_id, part)]

    def drop(self) -> None:
        """Forget what is gathered and not sent."""
        self._parts.clear()
        self._size = 0

    def writable(self) -> bool:
        return True


class _Body(io.RawIOBase):
    """A stream of the request in hand; reads from the connection only what is asked for."""

    def __init__(self, connection: Connection, chunks: deque[bytes | memoryview], ended: Callable[[], bool]) -> None:
        self._connection = connection
        self._chunks = chunks
        self._ended = ended

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        while not self._chunks:
            if self._ended():
                return 0
            self._connection.receive_body()
        self._ended()  # refuses after the request is finished
        chunk = self._chunks.popleft()
        target = memoryview(buffer)
        size = min(len(chunk), len(target))
        target[:size] = chunk[:size]
        if size < len(chunk):
            self._chunks.appendleft(memoryview(chunk)[size:])
        return size


def _input(connection: Connection, chunks: deque[bytes], complete: bool, ended: Callable[[], bool]) -> IO[bytes]:
    if complete:  # most requests: no body, or a small one that came with the parameters
        content = b"".join(chunks)
        chunks.clear()
        return io.BytesIO(content)
    return io.BufferedReader(_Body(connection, cast("deque[bytes | memoryview]", chunks), ended), _INPUT_BUFFER)


@lru_cache(maxsize=64)
def _plain_end(request_id: int) -> bytes:
    """The end of the output stream and of a request that went well; ids are few and small."""
    return protocol.end_of_stream(protocol.STDOUT, request_id) + protocol.end_request(request_id)
