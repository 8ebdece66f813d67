"""A FastCGI client, written from the specification and independent of the package under test.

Functions build records as bytes, so that a test can send any of them whole, in pieces or wrong; `Client` talks over
one connection. Every wait has a ceiling: `Client(timeout=...)` bounds each call as a whole, not each byte.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Union

BEGIN_REQUEST, ABORT_REQUEST, END_REQUEST, PARAMS, STDIN, STDOUT, STDERR, DATA = range(1, 9)
GET_VALUES, GET_VALUES_RESULT, UNKNOWN_TYPE = 9, 10, 11
RESPONDER, AUTHORIZER, FILTER = 1, 2, 3
KEEP_CONN = 1
REQUEST_COMPLETE, CANT_MPX_CONN, OVERLOADED, UNKNOWN_ROLE = range(4)
MAX_CONTENT = 0xFFFF

NO_RECORD = bytes(8)
HEADER = struct.Struct("!BBHHBx")

Text = Union[str, bytes]
Pairs = Union[Mapping[Any, Any], Iterable[tuple[Any, Any]]]
Address = Union[str, tuple[str, int]]


class Record(NamedTuple):
    type: int
    id: int
    content: bytes
    padding: int = 0


# Building


def record(type: int, id: int, content: bytes = b"", padding: int = 0) -> bytes:
    """One record; content of more than 65535 bytes does not fit in one."""
    return HEADER.pack(1, type, id, len(content), padding) + content + bytes(padding)


def begin(id: int = 1, role: int = RESPONDER, flags: int = 0) -> bytes:
    return record(BEGIN_REQUEST, id, struct.pack("!HB5x", role, flags))


def abort(id: int = 1) -> bytes:
    return record(ABORT_REQUEST, id)


def get_values(names: Iterable[Text] = ("FCGI_MAX_CONNS", "FCGI_MAX_REQS", "FCGI_MPXS_CONNS")) -> bytes:
    return record(GET_VALUES, 0, encode_params([(name, b"") for name in names]))


def encode_params(pairs: Pairs) -> bytes:
    """Name-value pairs, each length in one byte or in four."""
    items = pairs.items() if isinstance(pairs, Mapping) else pairs
    return b"".join(_encode_pair(_bytes(name), _bytes(value)) for name, value in items)


def decode_params(data: bytes) -> list[tuple[bytes, bytes]]:
    pairs, at = [], 0
    while at < len(data):
        name_length, at = _decode_length(data, at)
        value_length, at = _decode_length(data, at)
        middle, end = at + name_length, at + name_length + value_length
        if end > len(data):
            raise ValueError(f"a pair ends at {end}, the data at {len(data)}")
        pairs.append((data[at:middle], data[middle:end]))
        at = end
    return pairs


def params_records(pairs: Pairs, id: int = 1, split: Iterable[int] = (), padding: int = 0, end: bool = True) -> bytes:
    """The PARAMS stream, cut at these offsets of the encoded pairs, closed by an empty record unless `end=False`."""
    return _stream(PARAMS, id, _cut(encode_params(pairs), sorted(split)), padding, end)


def stdin_records(
    body: bytes = b"", id: int = 1, chunk: int = MAX_CONTENT, padding: int = 0, end: bool = True
) -> bytes:
    """The STDIN stream in records of at most `chunk` bytes, closed by an empty record unless `end=False`."""
    return _stream(STDIN, id, _chunks(body, chunk), padding, end)


def data_records(data: bytes = b"", id: int = 1, chunk: int = MAX_CONTENT, padding: int = 0, end: bool = True) -> bytes:
    """The DATA stream of a filter."""
    return _stream(DATA, id, _chunks(data, chunk), padding, end)


def cgi_params(path: str = "/", body: bytes = b"", method: str | None = None) -> dict[str, str]:
    """The variables that a web server sends for a path, which may carry a query string."""
    path, _, query = path.partition("?")
    variables = {
        "GATEWAY_INTERFACE": "CGI/1.1",
        "SERVER_SOFTWARE": "harness/1",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_ADDR": "127.0.0.1",
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_PORT": "40000",
        "REQUEST_METHOD": method or ("POST" if body else "GET"),
        "REQUEST_URI": f"{path}?{query}" if query else path,
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "HTTP_HOST": "localhost",
    }
    if body:
        variables.update(CONTENT_LENGTH=str(len(body)), CONTENT_TYPE="application/octet-stream")
    return variables


def request_bytes(
    params: Mapping[str, str | None] | None = None,
    body: bytes = b"",
    id: int = 1,
    keep: bool = False,
    role: int = RESPONDER,
    *,
    path: str = "/",
    method: str | None = None,
    data: bytes = b"",
    chunk: int = MAX_CONTENT,
    padding: int = 0,
) -> bytes:
    """A complete request. `params` are added to the usual CGI variables; None as a value takes one away."""
    merged = {**cgi_params(path, body, method), **(params or {})}
    pairs = {name: value for name, value in merged.items() if value is not None}
    parts = [begin(id, role, KEEP_CONN if keep else 0), params_records(pairs, id, padding=padding)]
    if role != AUTHORIZER:
        parts.append(stdin_records(body, id, chunk, padding))
    if role == FILTER:
        parts.append(data_records(data, id, chunk, padding))
    return b"".join(parts)


def split_records(data: bytes) -> list[Record]:
    """The records in some bytes, all of them whole."""
    records, at = [], 0
    while at < len(data):
        _, type, id, length, padding = HEADER.unpack_from(data, at)
        at += HEADER.size
        if at + length + padding > len(data):
            raise ValueError(f"the record at {at - HEADER.size} is not whole")
        records.append(Record(type, id, data[at : at + length], padding))
        at += length + padding
    return records


# Talking


class Reply:
    """What came back for one request. `ended` tells whether END_REQUEST arrived, or the connection ended without it."""

    def __init__(self) -> None:
        self.stdout = b""
        self.stderr = b""
        self.app_status: int | None = None
        self.protocol_status: int | None = None
        self.ended = False

    def __repr__(self) -> str:
        return (
            f"Reply(ended={self.ended}, app_status={self.app_status}, protocol_status={self.protocol_status}, "
            f"stdout={self.stdout!r}, stderr={self.stderr!r})"
        )

    @property
    def status(self) -> int:
        return int(self.headers.get("status", "200").split()[0])

    @property
    def headers(self) -> dict[str, str]:
        """By lower-case name; those that came several times are joined by a comma."""
        found: dict[str, str] = {}
        for line in self._halves()[0].splitlines():
            name, _, value = line.decode("latin-1").partition(":")
            name, value = name.strip().lower(), value.strip()
            found[name] = f"{found[name]}, {value}" if name in found else value
        return found

    @property
    def body(self) -> bytes:
        return self._halves()[1]

    @property
    def text(self) -> str:
        return self.body.decode()

    def add(self, piece: Record) -> None:
        if piece.type == STDOUT:
            self.stdout += piece.content
        elif piece.type == STDERR:
            self.stderr += piece.content
        elif piece.type == END_REQUEST:
            self.app_status, self.protocol_status = struct.unpack("!IB3x", piece.content)
            self.ended = True

    def _halves(self) -> tuple[bytes, bytes]:
        """Headers and body, parted by the first empty line, whichever line end it has."""
        ends = [(at, mark) for mark in (b"\r\n\r\n", b"\n\n") if (at := self.stdout.find(mark)) >= 0]
        if not ends:
            return self.stdout, b""
        at, mark = min(ends)
        return self.stdout[:at], self.stdout[at + len(mark) :]


class Client:
    """One connection to a FastCGI server at a socket path or (host, port)."""

    def __init__(self, address: Address, timeout: float = 60) -> None:
        self.timeout = timeout
        self.sock = _connect(address, timeout)
        self._buffer = b""
        self._others: list[Record] = []

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.sock.close()

    def shut_write(self) -> None:
        """Tell the server that nothing more will come, and go on reading."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close with a TCP reset: what a peer that crashed looks like."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.settimeout(self.timeout)
        self.sock.sendall(data)

    def read_record(self) -> Record | None:
        """The next record on the wire; None when the server closed in order. EOFError: it closed inside a record."""
        return self._read_record(time.monotonic() + self.timeout)

    def read_reply(self, id: int = 1) -> Reply:
        """What comes for one request id, up to END_REQUEST or the end of the connection. Keeps the other records."""
        deadline, reply = time.monotonic() + self.timeout, Reply()
        kept, self._others = self._others, []
        for piece in kept:
            self._sort(piece, id, reply)
        while not reply.ended:
            received = self._read_record(deadline)
            if received is None:
                break
            self._sort(received, id, reply)
        return reply

    def request(self, path: str = "/", body: bytes = b"", keep: bool = False, **params: str | None) -> Reply:
        """One request from beginning to end; keyword arguments are CGI variables (REQUEST_METHOD='PUT', HTTP_X='y')."""
        self.send(request_bytes(params, body, keep=keep, path=path))
        return self.read_reply()

    def values(self, *names: str) -> dict[str, str]:
        """What the server says about itself (GET_VALUES)."""
        self.send(get_values(names) if names else get_values())
        answer = self.read_record()
        if answer is None or answer.type != GET_VALUES_RESULT:
            raise AssertionError(f"GET_VALUES_RESULT expected, not {answer}")
        return {name.decode(): value.decode() for name, value in decode_params(answer.content)}

    def readable(self, timeout: float = 0) -> bool:
        """Whether bytes, or the end of the connection, can be read within so many seconds."""
        if self._buffer:
            return True
        self.sock.settimeout(max(timeout, 0.000001))
        try:
            self.sock.recv(1, socket.MSG_PEEK)
        except (socket.timeout, BlockingIOError):
            return False
        except ConnectionResetError:
            return True
        return True

    def at_eof(self) -> bool:
        """Wait until the server says something more or closes; True when it closed without another byte."""
        return not self._buffer and not self._receive(time.monotonic() + self.timeout)

    def _sort(self, piece: Record, id: int, reply: Reply) -> None:
        if piece.id == id and not reply.ended:
            reply.add(piece)
        else:
            self._others.append(piece)

    def _read_record(self, deadline: float) -> Record | None:
        if not self._fill(HEADER.size, deadline):
            return None
        if self._buffer == NO_RECORD:  # the server breaks a reply off, and closes
            self._buffer = b""
            assert not self._receive(deadline)
            return None
        version, type, id, length, padding = HEADER.unpack_from(self._buffer)
        if version != 1:
            raise AssertionError(f"not a FastCGI record: {self._buffer[:64]!r}")
        whole = HEADER.size + length + padding
        self._fill(whole, deadline)
        content = self._buffer[HEADER.size : HEADER.size + length]
        self._buffer = self._buffer[whole:]
        return Record(type, id, content, padding)

    def _fill(self, size: int, deadline: float) -> bool:
        """Have that many bytes in the buffer; False when the connection ended before the first of them."""
        while len(self._buffer) < size:
            if not self._receive(deadline):
                if self._buffer:
                    raise EOFError(f"the connection ended inside a record: {self._buffer[:64]!r}")
                return False
        return True

    def _receive(self, deadline: float) -> bytes:
        left = deadline - time.monotonic()
        if left <= 0:
            raise socket.timeout("timed out")
        self.sock.settimeout(left)
        data = self.sock.recv(1 << 16)
        self._buffer += data
        return data


def fetch(address: Address, path: str = "/", *, timeout: float = 60, **kw: Any) -> Reply:
    """Connect, ask, read the reply, close. Keyword arguments as for `Client.request`."""
    with Client(address, timeout) as client:
        return client.request(path, **kw)


def _connect(address: Address, timeout: float) -> socket.socket:
    if not isinstance(address, str):
        return socket.create_connection(address, timeout)
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(timeout)
    try:
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _stream(type: int, id: int, pieces: Iterable[bytes], padding: int, end: bool) -> bytes:
    """Records of one stream. An empty piece would close it early, so those are left out."""
    closing = record(type, id) if end else b""
    return b"".join(record(type, id, piece, padding) for piece in pieces if piece) + closing


def _chunks(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def _cut(data: bytes, offsets: list[int]) -> list[bytes]:
    edges = [0, *offsets, len(data)]
    pieces = [data[start:stop] for start, stop in zip(edges, edges[1:])]
    return [chunk for piece in pieces for chunk in _chunks(piece, MAX_CONTENT)]


def _bytes(text: Text) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")


def _encode_pair(name: bytes, value: bytes) -> bytes:
    return _encode_length(len(name)) + _encode_length(len(value)) + name + value


def _encode_length(length: int) -> bytes:
    return bytes([length]) if length < 128 else struct.pack("!I", length | 0x80000000)


def _decode_length(data: bytes, at: int) -> tuple[int, int]:
    if data[at] < 128:
        return data[at], at + 1
    return int.from_bytes(data[at : at + 4], "big") & 0x7FFFFFFF, at + 4
