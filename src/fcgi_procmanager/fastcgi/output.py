"""The streams of a request to the web server: gathered, and sent at `flush` or at the end of the request.

Runs in a worker, in the thread that serves the request. Must never send but through the request's `Connection`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from . import protocol
from .connection import Connection
from .framing import Framing, bodiless, content_length

if TYPE_CHECKING:
    from collections.abc import Buffer  # type: ignore[attr-defined]

    from .request import Request

_OUTPUT_LIMIT = 1 << 16  # bytes a stream gathers before it sends by itself
# Of a body that has not come whole when the reply begins. A web server that is still sending it then closes the client's
# connection behind the reply. The application may go on to read it.
_UNREAD_SECONDS, _UNREAD_BYTES = 0.1, 1 << 20
_HEAD_LIMIT = 1 << 16  # bytes; what has no end of its headers by then is no CGI reply
_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")


class Output:
    """A stream to the web server. gathered: what has been written and not sent. behind: a stream that is flushed after this one."""

    __slots__ = ("_connection", "_kind", "_request_id", "_size", "behind", "closed", "gathered", "sent")

    def __init__(self, connection: Connection, kind: int, request_id: int) -> None:
        self._connection = connection
        self._kind = kind
        self._request_id = request_id
        self.gathered: list[bytes] = []
        self._size = 0
        self.behind: Output | None = None
        self.sent: bool = False  # something has left for the web server
        self.closed: bool = False

    def write(self, data: bytes | str | Buffer) -> int:
        """Bytes, or text, which is encoded as UTF-8. Returns the number of bytes taken."""
        if type(data) is not bytes:
            data = data.encode() if isinstance(data, str) else bytes(data)
        if self.closed:
            raise ValueError("the request is finished: nothing can be written any more")
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
            if not self.sent and not self._connection.input_ended:
                self._connection.gather_input(_UNREAD_SECONDS, _UNREAD_BYTES)
            self.sent = True
            self._connection.send_pieces(self.take())
            if self.behind is not None:
                self.behind.flush()

    def send_file(self, file: int, offset: int, count: int) -> int:
        """`count` bytes of an open file, behind what was written. Returns how many have left."""
        self.flush()
        self.sent = True
        return self._connection.send_file(self._kind, self._request_id, file, offset, count)

    def take(self) -> list[bytes | memoryview]:
        """What is gathered, as records: pieces to be sent in order."""
        parts, self.gathered, self._size = self.gathered, [], 0
        return records(self._kind, self._request_id, parts)

    def rest(self) -> list[bytes | memoryview]:
        """Likewise, at the end of the request."""
        return self.take()

    def drop(self) -> None:
        """Forget what is gathered and not sent."""
        self.gathered.clear()
        self._size = 0

    def writable(self) -> bool:
        return True


class ErrorOutput(Output):
    """STDERR. It waits until something of STDOUT has left, or for the end of the request: a record of it that comes first is too
    much for some web servers."""

    __slots__ = ("_left_out", "_request")

    def __init__(self, request: Request) -> None:
        super().__init__(request.connection, protocol.STDERR, request.request_id)
        self._request = request
        self._left_out = 0  # bytes

    def flush(self) -> None:
        if self._request.begun:
            super().flush()

    def write(self, data: bytes | str | Buffer) -> int:
        # Its size is the application's: what cannot be sent is not gathered without end.
        if self._size >= _OUTPUT_LIMIT and not self._request.begun:
            self._left_out += len(data)
            return len(data)
        return super().write(data)

    def take(self) -> list[bytes | memoryview]:
        if self._left_out:
            self.gathered.append(b"[%d bytes left out]\n" % self._left_out)
            self._left_out = 0
        return super().take()


class OwnErrorOutput(Output):
    """STDERR for HAProxy: in the log of this process. HAProxy 2.6 dies of a STDERR record that comes first, that is larger than its
    buffer, or that lies across the end of it, and every site behind it goes with it."""

    gathered: list[bytes]

    __slots__ = ()

    def __init__(self, request: Request) -> None:
        super().__init__(request.connection, protocol.STDERR, request.request_id)

    def flush(self) -> None:
        content, self.gathered, self._size = b"".join(self.gathered), [], 0
        try:
            sys.stderr.write(content.decode(errors="replace"))
            sys.stderr.flush()
        except Exception:
            pass  # full, closed, None: no reason to fail a request

    def take(self) -> list[bytes | memoryview]:
        self.flush()
        return []


class CgiOutput(Output):
    """STDOUT for code that writes a CGI reply by itself, head and all: flup's handler, an error page. It sees to what
    response.py sees to otherwise: Status last, and no more of a body than there may be."""

    __slots__ = ("_head", "_request")

    def __init__(self, request: Request) -> None:
        super().__init__(request.connection, protocol.STDOUT, request.request_id)
        self._request = request
        self._head = b""

    def write(self, data: bytes | str | Buffer) -> int:
        if type(data) is not bytes:
            data = data.encode() if isinstance(data, str) else bytes(data)
        framing = self._request.framing
        if framing is not None:
            super().write(framing.cut(data))
        else:
            self._gather(data)
        return len(data)

    def _gather(self, data: bytes) -> None:
        self._head += data
        end = _END_OF_HEAD.search(self._head)
        if end is not None:
            head, body, self._head = self._head[: end.start()], self._head[end.end() :], b""
            self._request.framing = framing = Framing(*self._facts(head))
            super().write(_status_last(head))
            super().write(framing.cut(body))
        elif len(self._head) > _HEAD_LIMIT:
            self._request.framing = Framing(False, None)
            super().write(self._take_rest())

    def _facts(self, head: bytes) -> tuple[bool, int | None]:
        """Whether a CGI reply with this head has no body, and its Content-Length."""
        status, declared = "200", None
        for line in head.splitlines():
            name, _, value = line.partition(b":")
            name = name.strip().lower()
            if name == b"status":
                status = value.strip().decode("latin-1")
            elif name == b"content-length":
                try:
                    declared = content_length(value.decode("latin-1"))
                except ValueError:
                    pass
        return bodiless(self._request.params.get("REQUEST_METHOD"), status), declared

    def _take_rest(self) -> bytes:
        rest, self._head = self._head, b""
        return rest

    def rest(self) -> list[bytes | memoryview]:
        super().write(self._take_rest())  # the application began a head and did not end it
        return super().rest()

    def drop(self) -> None:
        super().drop()
        self._head = b""
        self._request.framing = None


def _status_last(head: bytes) -> bytes:
    lines = head.splitlines()
    lines.sort(key=lambda line: line.lower().startswith(b"status:"))
    return b"\r\n".join(lines) + b"\r\n\r\n"


def records(kind: int, request_id: int, parts: list[bytes]) -> list[bytes | memoryview]:
    """`parts` as records of a stream: pieces to be sent in order."""
    size = sum(map(len, parts))
    if not size:
        return []
    if size <= protocol.MAX_CONTENT:
        return [protocol.header(kind, request_id, size), *parts]
    # Each part in records of its own: a large one is not copied to be joined with the headers before it.
    return [piece for part in parts for piece in protocol.stream_records(kind, request_id, part)]
