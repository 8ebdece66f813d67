"""The FastCGI 1.0 protocol, without input or output: bytes in, requests and replies out.

Runs in a worker; one `Parser` per connection. It must never touch a socket, and never keeps more than one record and the
parameters of one request: what an application does not ask for is not read.

Every legal stream is understood: records split anywhere, padding, streams in several records, requests of other ids in
between (answered with CANT_MPX_CONN). An illegal or unbounded one raises ProtocolError, and nothing else.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Collection
from functools import lru_cache
from typing import NamedTuple

from ..basics.accelerator import accelerated
from ..errors import ProtocolError
from . import pairs

BEGIN_REQUEST, ABORT_REQUEST, END_REQUEST, PARAMS, STDIN, STDOUT, STDERR, DATA = range(1, 9)
GET_VALUES, GET_VALUES_RESULT, UNKNOWN_TYPE = 9, 10, 11

RESPONDER, AUTHORIZER, FILTER = 1, 2, 3
KEEP_CONN = 1
REQUEST_COMPLETE, CANT_MPX_CONN, OVERLOADED, UNKNOWN_ROLE = 0, 1, 2, 3

NO_RECORD = b"\0" * 8  # a header of a version that does not exist: the web server gives the reply up
MAX_CONTENT = 65535  # bytes of content in one record
MAX_PARAMS = 1 << 20  # bytes of name-value pairs of one request: ten times what web servers let through
MAX_EARLY_DATA = 1 << 20  # bytes of a Filter's file that may come before the end of the body
MAX_UNSENT = 1 << 16  # bytes of answers to management records that a peer may let pile up

_HEADER = struct.Struct("!BBHHBx")
_BEGIN = struct.Struct("!HB5x")
_END = struct.Struct("!BBHHBxIB3x")
_UNKNOWN = struct.Struct("!BBHHBxB7x")
_OPENING = struct.Struct("!BBHHBxHB5xBBHHBx")  # BEGIN_REQUEST and the header of the record behind it
_unpack_opening = _OPENING.unpack_from
_pack_header = _HEADER.pack
_unpack_header = _HEADER.unpack_from


def end_request(request_id: int, app_status: int = 0, protocol_status: int = REQUEST_COMPLETE) -> bytes:
    return _END.pack(1, END_REQUEST, request_id, 8, 0, app_status & 0xFFFFFFFF, protocol_status)


@lru_cache(maxsize=256)
def end_of_stream(kind: int, request_id: int) -> bytes:
    """An empty record; ids are few and small."""
    return _pack_header(1, kind, request_id, 0, 0)


def header(kind: int, request_id: int, length: int) -> bytes:
    """The eight bytes before `length` bytes of content, at most MAX_CONTENT. We never pad: no peer needs it."""
    return _pack_header(1, kind, request_id, length, 0)


def stream_records(kind: int, request_id: int, content: bytes) -> list[bytes | memoryview]:
    """`content` as records of a stream, without a copy of it: buffers to be sent in order. Empty gives none."""
    length = len(content)
    if length <= MAX_CONTENT:
        return [header(kind, request_id, length), content] if length else []
    view = memoryview(content)
    records: list[bytes | memoryview] = []
    for start in range(0, length, MAX_CONTENT):
        part = view[start : start + MAX_CONTENT]
        records += (header(kind, request_id, len(part)), part)
    return records


class Opening(NamedTuple):
    """A request whose parameters are complete."""

    params: dict[str, str]
    request_id: int
    role: int
    keep: bool  # the peer wants the connection kept
    body: bytes | None  # all of it; None when a parser has to take apart what comes
    behind: bytes  # what came behind the parameters, for that parser


_HTTP = (b"GET ", b"HEAD ", b"POST ", b"PUT ", b"PATCH ", b"DELETE ", b"OPTIONS ", b"PRI ")  # how its requests begin
_decoder = pairs.Decoder()
_make = tuple.__new__  # `Opening(...)` itself would take twice as long


@accelerated
def opening(received: bytes, roles: Collection[int]) -> Opening | None:
    """The usual first bytes of a connection, at a third of the parser's cost: BEGIN_REQUEST, all parameters in one record and
    their end, and a body that fits in one record or is empty, if it has come whole. None for anything else: that is a
    parser's from its first byte on, also where it is wrong."""
    if len(received) < 40:
        return None
    one, begin, request_id, eight, zero, role, flags, same_one, kind, same_id, length, padding = _unpack_opening(
        received
    )
    if one != 1 or begin != BEGIN_REQUEST or eight != 8 or zero or role not in roles or not request_id:
        return None
    if same_one != 1 or kind != PARAMS or same_id != request_id or not length:
        return None
    stop = 24 + length
    behind = stop + padding
    params_end, empty_body = _ends(request_id)
    if not received.startswith(params_end, behind):
        return None
    try:
        params = _decoder.decode(received[24:stop])
    except ProtocolError:
        return None
    keep = flags & KEEP_CONN != 0
    behind += 8
    if role == FILTER:
        body = None
    elif len(received) == behind + 8 and received.endswith(empty_body):
        body = b""
    else:
        body = _whole_body(received, behind, request_id)
    return _make(Opening, (params, request_id, role, keep, body, received[behind:] if body is None else b""))


@accelerated
def reply(request_id: int, parts: list[bytes]) -> bytes | None:
    """All of the reply of a request that went well, if it fits in one record, with its end; else None. `parts` hold something."""
    size = sum(map(len, parts))
    if not 0 < size <= MAX_CONTENT:
        return None
    return b"".join((_pack_header(1, STDOUT, request_id, size, 0), *parts, plain_end(request_id)))


@lru_cache(maxsize=64)
def plain_end(request_id: int) -> bytes:
    """The end of the output stream and of a request that went well; ids are few and small."""
    return end_of_stream(STDOUT, request_id) + end_request(request_id)


def _whole_body(received: bytes, position: int, request_id: int) -> bytes | None:
    """The body, if what begins there is one record of it and its end, and nothing else."""
    if len(received) - position < 17:
        return None
    version, kind, same_id, length, padding = _unpack_header(received, position)
    start = position + 8
    stop = start + length
    if version != 1 or kind != STDIN or same_id != request_id:
        return None
    return received[start:stop] if received[stop + padding :] == end_of_stream(STDIN, request_id) else None


@lru_cache(maxsize=64)
def _ends(request_id: int) -> tuple[bytes, bytes]:
    """The end of the parameters, and that with the end of an empty body; ids are few and small."""
    return end_of_stream(PARAMS, request_id), end_of_stream(PARAMS, request_id) + end_of_stream(STDIN, request_id)


class Parser:
    """Takes what a peer sends, in pieces of any size. One request at a time is open.

    head: parameters of the open request once they are complete, else None.
    request_id, role, keep: of the open request.
    stdin, data: contents of those streams that have come and have not been taken; the `_ended` flags say that no more
        will come.
    aborted: the peer has withdrawn the open request.
    unsent: answers that are owed to the peer now.
    close_after: once `unsent` is sent, the connection is to be closed.
    """

    aborted: bool
    data_ended: bool
    keep: bool
    request_id: int
    role: int
    stdin_ended: bool

    __slots__ = (
        "_active",
        "_buffer",
        "_capability",
        "_content_due",
        "_due_to",
        "_early_data",
        "_padding_due",
        "_params",
        "_params_size",
        "_roles",
        "aborted",
        "close_after",
        "data",
        "data_ended",
        "head",
        "keep",
        "length",
        "request_id",
        "role",
        "stdin",
        "stdin_ended",
        "unsent",
    )

    def __init__(self, roles: Collection[int] = (RESPONDER,), capability: dict[str, str] | None = None) -> None:
        self._roles = roles
        self._capability = capability or {}
        self._buffer = b""
        self._content_due = self._padding_due = 0  # bytes still to come of a record that is passed on as it comes
        self.length: int = 0
        self.head: dict[str, str] | None = None
        self.unsent: bytes = b""
        self.close_after: bool = False
        self.stdin: deque[bytes] = deque()
        self.data: deque[bytes] = deque()
        self.next_request()

    def open(self, opened: Opening) -> None:
        """Go on behind an `opening`. Raises ProtocolError."""
        self.head, self.request_id, self.role, self.keep, _, behind = opened
        self._active = True
        self.feed(behind)

    @property
    def opened(self) -> Opening | None:
        """The open request, once its parameters are complete."""
        return None if self.head is None else Opening(self.head, self.request_id, self.role, self.keep, None, b"")

    def next_request(self) -> None:
        """Forget the open request. What still comes of it is read and dropped; what has come of the next one is kept."""
        self._active = False
        self._params: list[bytes] = []
        self._params_size = 0
        self._early_data = 0
        self.request_id = 0
        self.role = 0
        self.keep = False
        self.head = None
        self.aborted = False
        self.stdin_ended = self.data_ended = False
        self._due_to: deque[bytes] | None = None  # the stream of that record; None: nobody wants it
        if self.stdin:
            self.stdin.clear()
        if self.data:
            self.data.clear()

    @property
    def spoken(self) -> bool:
        """The peer has begun something that is not answered yet."""
        return self._active or bool(self._buffer or self._content_due or self._padding_due)

    @property
    def input_complete(self) -> bool:
        """Nothing more of the open request is on its way."""
        return self.over and not self._buffer and not self._padding_due

    @property
    def over(self) -> bool:
        """All streams of the open request have ended."""
        return self.stdin_ended and (self.role != FILTER or self.data_ended)

    @property
    def awaits_nothing(self) -> bool:
        """An Authorizer has no body; some web servers send the end of one, others the next request."""
        return self.role == AUTHORIZER and self.head is not None

    def resume(self) -> None:
        """Look at what came behind the previous request."""
        if self._buffer:
            self.feed(b"")

    def feed(self, received: bytes) -> None:
        """Take the next bytes of the connection. Raises ProtocolError.

        Records behind the last one of a complete request stay unread until `next_request` and `resume`: a peer that
        sends many requests at once is answered in order, and fills its own buffers."""
        if self._content_due or self._padding_due:
            received = self._go_on(received)
        buffer = self._buffer + received if self._buffer else received
        position, end = 0, len(buffer)
        while end - position >= 8:
            version, kind, request_id, length, padding = _unpack_header(buffer, position)
            start = position + 8
            stop = start + length
            if version != 1:
                raise ProtocolError(_no_record(bytes(buffer[position:start])))
            if kind == BEGIN_REQUEST and (self.over or self.awaits_nothing):
                break
            if stop + padding > end:
                if length and self._is_body(kind, request_id):
                    self._begin_to_stream(kind, buffer[start:stop], length, padding)
                    position = min(end, stop)
                    self._padding_due -= end - position
                    position = end
                break
            position = stop + padding
            self._record(kind, request_id, buffer[start:stop])
        self._buffer = buffer[position:] if position < end else b""

    # A record of a body is passed on as it comes; all others are awaited to their end.

    def stream(self, kind: int) -> deque[bytes]:
        """What has come of a stream (STDIN or DATA) and has not been taken."""
        return self.stdin if kind == STDIN else self.data

    def ended(self, kind: int) -> bool:
        return self.stdin_ended if kind == STDIN else self.data_ended

    def content_due(self, kind: int) -> int:
        """Bytes of this stream that come next on the connection, before anything else; 0 when that is not known."""
        return self._content_due if self._due_to is self.stream(kind) else 0

    @property
    def up_to_next_content(self) -> int:
        """Bytes between that content and the next one: padding and a header."""
        return self._padding_due + 8

    def received_elsewhere(self, count: int) -> None:
        """The first `count` of the bytes that are due have gone where they are wanted, past the parser."""
        self._content_due -= count

    def goes_on(self, between: bytearray | memoryview) -> int:
        """These bytes have come behind content that has gone past the parser. When they are all up to the next content of the same
        body, they are taken, and its length is returned. Else 0: they are to be fed."""
        if self._content_due or len(between) != self._padding_due + 8:
            return 0
        length: int
        version, kind, request_id, length, padding = _unpack_header(between, self._padding_due)
        if version != 1 or kind != STDIN or request_id != self.request_id or self._due_to is not self.stdin:
            return 0
        if length:
            self.length = self._content_due = length
            self._padding_due = padding
        return length

    def _is_body(self, kind: int, request_id: int) -> bool:
        if request_id != self.request_id or self.head is None:
            return False
        return kind == STDIN or (kind == DATA and self.role == FILTER)

    def _begin_to_stream(self, kind: int, content: bytes, length: int, padding: int) -> None:
        chunks, ended = (self.stdin, self.stdin_ended) if kind == STDIN else (self.data, self.data_ended)
        if kind == DATA:
            self._allow_data(length)
        self._due_to = None if ended else chunks
        if content and not ended:
            chunks.append(content)
        self._content_due, self._padding_due = length - len(content), padding
        self.length = length

    def _allow_data(self, length: int) -> None:
        """Nobody can ask for the file of a Filter before its body has ended: until then it piles up."""
        if not self.stdin_ended:
            self._early_data += length
            if self._early_data > MAX_EARLY_DATA:
                raise ProtocolError(f"more than {MAX_EARLY_DATA} bytes of a file before the end of the body")

    def _go_on(self, received: bytes) -> bytes:
        """More of the record that is being passed on. Returns what comes behind it."""
        content = received[: self._content_due]
        if content and self._due_to is not None:
            self._due_to.append(content)
        self._content_due -= len(content)
        behind = len(content) + self._padding_due
        self._padding_due = max(0, behind - len(received))
        return received[behind:]

    def _record(self, kind: int, request_id: int, content: bytes) -> None:
        if kind == BEGIN_REQUEST:
            self._begin(request_id, content)
        elif request_id == 0:
            self._management(kind, content)
        elif request_id != self.request_id:
            pass  # of a request that is over, or was refused: dropped, as the specification has it
        elif kind == PARAMS:
            self._parameters(content)
        elif kind == STDIN:
            self.stdin_ended = self._stream(self.stdin, content, self.stdin_ended)
        elif kind == DATA and self.role == FILTER:
            self._allow_data(len(content))
            self.data_ended = self._stream(self.data, content, self.data_ended)
        elif kind == ABORT_REQUEST:
            self._abort()

    def _begin(self, request_id: int, content: bytes) -> None:
        if len(content) != 8 or request_id == 0:
            raise ProtocolError("a BEGIN_REQUEST record that is not one")
        role, flags = _BEGIN.unpack(content)
        if self._active:
            if request_id == self.request_id:
                raise ProtocolError("a request was begun twice")
            self._answer(end_request(request_id, 0, CANT_MPX_CONN))
        elif role not in self._roles:
            self._answer(end_request(request_id, 0, UNKNOWN_ROLE))
            self.close_after = not flags & KEEP_CONN
        else:
            self._active = True
            self.request_id, self.role, self.keep = request_id, role, bool(flags & KEEP_CONN)

    def _parameters(self, content: bytes) -> None:
        if self.head is not None:
            raise ProtocolError("parameters after the end of the parameters")
        if content:
            self._params.append(content)
            self._params_size += len(content)
            if self._params_size > MAX_PARAMS:
                raise ProtocolError(f"more than {MAX_PARAMS} bytes of parameters")
        else:
            # Decoded as one stream, never record by record: a pair may be split over two records.
            self.head = pairs.decode(b"".join(self._params))
            self._params.clear()

    def _stream(self, chunks: deque[bytes], content: bytes, ended: bool) -> bool:
        """One record of a stream; whether the stream is at its end now."""
        if self.head is None:
            raise ProtocolError("a body before the end of the parameters")
        if content and not ended:
            chunks.append(content)
        return ended or not content

    def _abort(self) -> None:
        self.aborted = True
        if self.head is None:  # nobody has seen it yet
            self._answer(end_request(self.request_id))
            self.close_after = not self.keep
            self.next_request()

    def _management(self, kind: int, content: bytes) -> None:
        if kind == GET_VALUES:
            asked = pairs.decode(content)
            known = {name: value for name, value in self._capability.items() if name in asked}
            values = pairs.encode(known)
            self._answer(header(GET_VALUES_RESULT, 0, len(values)) + values)
        else:
            self._answer(_UNKNOWN.pack(1, UNKNOWN_TYPE, 0, 8, 0, kind))

    def _answer(self, record: bytes) -> None:
        self.unsent += record
        if len(self.unsent) > MAX_UNSENT:
            raise ProtocolError("the peer asks and does not read the answers")


def _no_record(header: bytes) -> str:
    """What somebody speaks who does not speak FastCGI."""
    if header.startswith(_HTTP):
        return "the peer speaks HTTP, not FastCGI: put a web server in between (fastcgi_pass), or see serve --web"
    return f"FastCGI version {header[0]}, not 1"
