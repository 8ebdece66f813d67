"""One connection with a web server: the only place that receives and sends.

Runs in a worker, in the thread that serves the request in hand. Receiving never blocks unless a body is asked for;
everything that a peer can delay has a deadline. A peer that is gone or too slow marks the connection `dead`: what is written
after that is dropped, since an application can do nothing about it.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Any, NamedTuple

from ..basics.clock import FOREVER, milliseconds, monotonic
from ..errors import ProtocolError
from . import protocol
from .protocol import Opening, Parser

RECEIVE = 65536  # bytes asked of one recv
JOIN = 65536  # bytes; below it a copy is cheaper than a list of pieces
_DONTWAIT = socket.MSG_DONTWAIT
_MORE = getattr(socket, "MSG_MORE", 0)
_NO_SENDFILE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)  # a file system that cannot: copied by us
_DIRECT = 1 << 15  # bytes; for less than that a receive of its own would cost more than a copy
_LONGEST = 1e6  # seconds that a receive waits at most; the kernel counts in a type of its own
_PLACES = 16  # of one receive: eight records and their headers
_MAX_PIECES = 512  # in one sendmsg; Linux takes 1024


class PeerGone(ConnectionResetError):
    """The web server closed the connection, or was too slow, before the whole body of the request had come."""


class Limits(NamedTuple):
    """What every connection of one accept loop goes by. Times are seconds."""

    roles: tuple[int, ...]
    capability: dict[str, str]
    receive_timeout: float
    send_timeout: float


class Connection:
    """A connected socket, and what is known of the request that it has brought.

    opened: the request whose parameters are complete, else None.
    parser: of what comes, from the moment that it is more than a whole `protocol.opening`; None before.
    deadline: monotonic seconds; when the peer must have said the rest of its request.
    served: how many requests it has brought.
    dead: why nothing more can be sent or received; empty while it can.
    """

    __slots__ = ("_budget", "_limits", "_waits", "dead", "deadline", "opened", "parser", "served", "sock")

    def __init__(self, sock: socket.SocketType, limits: Limits) -> None:
        self.sock: socket.SocketType = sock
        self.opened: Opening | None = None
        self.parser: Parser | None = None
        self.dead: str = ""
        self.deadline: float = FOREVER
        self.served: int = 0
        self._limits = limits
        self._budget = limits.send_timeout  # seconds that the peer may still keep this reply waiting
        self._waits = False  # a receive waits for the peer, unless it says otherwise

    def fileno(self) -> int:
        return self.sock.fileno()

    @property
    def spoken(self) -> bool:
        """The peer has begun something that is not answered yet."""
        return self.opened is not None or (self.parser is not None and self.parser.spoken)

    @property
    def aborted(self) -> bool:
        """The peer has withdrawn the request in hand, or is gone."""
        return bool(self.dead) or (self.parser is not None and self.parser.aborted)

    @property
    def input_ended(self) -> bool:
        """All of the request in hand has come, and maybe something of the next one."""
        return self.parser is None or self.parser.over or self.parser.awaits_nothing

    @property
    def input_complete(self) -> bool:
        """Nothing more of the request in hand is on its way."""
        return self.parser is None or self.parser.input_complete

    def poll(self) -> bool:
        """Take what has come, without waiting. True once a request is complete up to its body. Raises ProtocolError;
        sets `dead` when the peer has closed."""
        if self.opened is not None:
            return True
        received = self._receive()
        if not received:
            return False
        if self.parser is not None:
            self.parser.feed(received)
        else:
            self.opened = opened = protocol.opening(received, self._limits.roles)
            if opened is not None and opened.body is not None:
                return True
            self._begin_to_parse(received)
        return self._parsed()

    def first_words(self, seconds: float) -> bool:
        """Give a peer that has just connected a moment to speak. True when there is something to `poll` for."""
        return _wait(self.sock, select.POLLIN, monotonic() + seconds)

    def next_request(self) -> bool:
        """The request in hand is over. True when the next one has come already, behind it. Raises ProtocolError."""
        self.opened = None
        self._budget = self._limits.send_timeout
        parser = self.parser
        if parser is None:
            return False
        parser.next_request()
        parser.resume()
        if not parser.spoken and not parser.unsent:
            self.parser = None
            return False
        return self._parsed()

    # -- the body of the request in hand. `kind`: STDIN, or DATA for the file of a Filter -------------------------------

    def whole_body(self, kind: int) -> bytes | None:
        """All of it, once, if it has come by now; else None: it is to be read."""
        opened, parser = self.opened, self.parser
        if parser is None:
            return opened.body if opened is not None and kind == protocol.STDIN else b""
        if not parser.ended(kind):
            return None
        chunks = parser.stream(kind)
        content = b"".join(chunks)
        chunks.clear()
        return content

    def read_body(self, kind: int, target: memoryview) -> int:
        """Some of it, waiting for the peer; 0 at its end. Raises PeerGone, ProtocolError."""
        parser = self.parser
        assert parser is not None  # or all of it would have been at hand
        chunks = parser.stream(kind)
        while not chunks or parser.aborted:
            due = 0 if parser.aborted else parser.content_due(kind)
            if due and len(target) >= _DIRECT:
                return self._receive_body_into(parser, target, due)
            if self._body_ended(parser, kind):
                break
            self._receive_body(parser)
        return _move(chunks, target)

    def gather_input(self, seconds: float, limit: int) -> None:
        """Receive what is still coming of the request in hand, for whoever reads it later: until its end, for so long, or so many
        bytes."""
        parser, deadline = self.parser, monotonic() + seconds
        while parser is not None and not self.input_ended and not self.aborted and limit > 0:
            received = self._receive()
            if received:
                limit -= len(received)
                try:
                    self._feed(parser, received)
                except ProtocolError:
                    return
            elif self.dead or not _wait(self.sock, select.POLLIN, deadline):
                return

    def discard_input(self, seconds: float, limit: int) -> None:
        """Likewise, when nobody reads it any more."""
        deadline = monotonic() + seconds
        while not self.input_ended and not self.aborted and limit > 0 and (left := deadline - monotonic()) > 0:
            self.gather_input(left, RECEIVE)
            limit -= RECEIVE
            assert self.parser is not None
            self.parser.stdin.clear()
            self.parser.data.clear()

    def skip_body(self) -> None:
        """Read the body to its end and drop it. Raises PeerGone, ProtocolError."""
        parser = self.parser
        if parser is None:
            return
        while not self._body_ended(parser, protocol.STDIN):
            parser.stdin.clear()
            self._receive_body(parser)
        parser.stdin.clear()

    def _body_ended(self, parser: Parser, kind: int) -> bool:
        ended = parser.ended(kind)
        if not ended and parser.aborted:
            raise PeerGone("the web server has withdrawn the request")
        return ended

    def _receive_body(self, parser: Parser) -> None:
        """Wait for more of it. Raises PeerGone, ProtocolError."""
        deadline = monotonic() + self._limits.receive_timeout
        while not (received := self._receive()):
            self._await_body(deadline)
        self._feed(parser, received)

    def _receive_body_into(self, parser: Parser, target: memoryview, due: int) -> int:
        """Likewise, when the next `due` bytes are of the body: they are received where the application wants them, and
        copied by nobody. So are the next records, if there is room and they are as long as this one: web servers cut a body into equal
        records. Returns how many came; what else has come goes to the parser."""
        if due > len(target):
            taken = self._wait_into((target,))
            parser.received_elsewhere(taken)
            return taken
        places: list[memoryview | bytearray] = [target[:due], bytearray(parser.up_to_next_content)]
        end = due + parser.length
        while end <= len(target) and len(places) < _PLACES:
            places += (target[end - parser.length : end], bytearray(8))
            end += parser.length
        left = self._wait_into(places)
        taken = at = 0
        while left:
            size = min(left, due, len(places[at]))
            parser.received_elsewhere(size)
            taken += size
            left -= size
            between = places[at + 1]
            if size < len(places[at]) or left < len(between) or not (due := parser.goes_on(between)):
                if left:
                    self._feed(parser, b"".join(places[at:])[size : size + left])
                break
            left -= len(between)
            at += 2
        return taken

    def _await_body(self, deadline: float) -> None:
        """Nothing has come. Wait for it, or raise PeerGone."""
        if not self.dead and not _wait(self.sock, select.POLLIN, deadline):
            self.dead = f"the peer sent nothing for {self._limits.receive_timeout:g} s"
        if self.dead:
            raise PeerGone(f"the body of a request ended early: {self.dead}")

    def _feed(self, parser: Parser, received: bytes) -> None:
        try:
            parser.feed(received)
            if parser.unsent:
                self._answer(parser)
        except ProtocolError as error:  # an application may go on after it; this connection cannot
            self.dead = str(error)
            raise

    # -- the reply ----------------------------------------------------------------------------------------------------

    def send(self, data: bytes, flags: int = _DONTWAIT) -> bool:
        """Send all of it, waiting for a slow peer as long as the budget of this request lasts. False when dead."""
        if self.dead:
            return False
        try:
            sent = self.sock.send(data, flags)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self.dead = error.strerror or str(error)
            return False
        return sent == len(data) or self._send_rest((memoryview(data)[sent:],))

    def send_pieces(self, pieces: Sequence[bytes | memoryview]) -> bool:
        """Likewise. Large ones are not joined: the kernel gathers them itself, and a large reply is copied once, into
        the socket."""
        if len(pieces) > 1 and sum(map(len, pieces)) > JOIN:
            return not self.dead and self._send_rest(pieces)
        return self.send(b"".join(pieces))

    def send_file(self, kind: int, request_id: int, file: int, offset: int, count: int) -> int:
        """Send `count` bytes of an open file as records of a stream; the kernel copies them. Returns how many have left: fewer when
        dead."""
        if self.dead:
            return 0
        begin = offset
        self.sock.setblocking(False)  # sendfile takes no flag for it
        self._waits = False
        while count and not self.dead:
            size = min(count, protocol.MAX_CONTENT)
            self.send(protocol.header(kind, request_id, size), _DONTWAIT | _MORE)
            count -= size
            while size and not self.dead:
                sent = self._send_part(file, offset, size)
                offset += sent
                size -= sent
        return offset - begin

    def _send_part(self, file: int, offset: int, size: int) -> int:
        """Some of a file, once the peer has room for it. Its length is promised already: a file that has become shorter
        ends the connection."""
        try:
            sent = os.sendfile(self.sock.fileno(), file, offset, size)
        except BlockingIOError:
            self._writable()
            return 0
        except OSError as error:
            if error.errno not in _NO_SENDFILE:
                self.dead = error.strerror or str(error)
                return 0
            part = os.pread(file, size, offset)
            self.send(part)
            sent = len(part)
        if not sent:
            self.dead = "the file became shorter while it was sent"
        return sent

    def discard(self) -> bool:
        """Read and drop what the peer still sends. False once it has closed."""
        try:
            while chunk := self.sock.recv(RECEIVE, _DONTWAIT):
                if len(chunk) < RECEIVE:
                    return True
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def close(self) -> None:
        self.sock.close()

    def disown(self) -> None:
        """In a child that the application has forked: its copy only. What is written is dropped."""
        self.dead = self.dead or "it is another process's"
        self.sock.close()

    def half_close(self) -> None:
        """No more from us; the peer may finish what it is sending, and read our reply meanwhile."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.dead = self.dead or "closed"

    def _receive(self) -> bytes:
        """What has come; empty when nothing has, or when the connection is dead now."""
        try:
            received = self.sock.recv(RECEIVE, _DONTWAIT)
        except BlockingIOError:
            return b""
        except OSError as error:
            self.dead = self.dead or error.strerror or str(error)
            return b""
        if not received:
            self.dead = "closed by the peer"
        return received

    def _wait_into(self, buffers: Sequence[memoryview | bytearray]) -> int:
        """Likewise, into these; waits for the peer. How many bytes. Raises PeerGone."""
        if not self._waits:
            self._wait_for_the_peer()
        try:
            count = self.sock.recvmsg_into(buffers)[0]
        except BlockingIOError:
            self.dead = f"the peer sent nothing for {self._limits.receive_timeout:g} s"
        except OSError as error:
            self.dead = self.dead or error.strerror or str(error)
        else:
            if count:
                return count
            self.dead = "closed by the peer"
        raise PeerGone(f"the body of a request ended early: {self.dead}")

    def _wait_for_the_peer(self) -> None:
        """From now on a receive without `_DONTWAIT` is the wait itself: half the system calls of a poll and a receive."""
        self.sock.settimeout(None)
        seconds = min(self._limits.receive_timeout, _LONGEST)
        whole = int(seconds)
        limit = struct.pack("@ll", whole, max(int((seconds - whole) * 1e6), 0 if whole else 1))
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self._waits = True

    def _begin_to_parse(self, received: bytes) -> None:
        self.parser = parser = Parser(self._limits.roles, self._limits.capability)
        if self.opened is not None:
            parser.open(self.opened)
        else:
            parser.feed(received)

    def _parsed(self) -> bool:
        """What the parser has found: answers that are owed, and a request, or none yet."""
        parser = self.parser
        assert parser is not None
        if parser.unsent or parser.close_after:
            self._answer(parser)
        self.opened = parser.opened
        return self.opened is not None

    def _answer(self, parser: Parser) -> None:
        """Send what the parser owes. A peer that does not read these few bytes is not waited for."""
        unsent, parser.unsent = parser.unsent, b""
        try:
            if unsent and self.sock.send(unsent, _DONTWAIT) < len(unsent):
                raise ProtocolError("the peer asks and does not read the answers")
        except OSError as error:
            self.dead = error.strerror or str(error)
        if parser.close_after:
            self.dead = self.dead or "nothing more to say"

    def _send_rest(self, buffers: Sequence[bytes | memoryview]) -> bool:
        pieces = deque(memoryview(piece) for piece in buffers)
        while pieces:
            try:
                sent = self.sock.sendmsg(islice(pieces, _MAX_PIECES), (), _DONTWAIT)
            except BlockingIOError:
                if not self._writable():
                    return False
                continue
            except OSError as error:
                self.dead = error.strerror or str(error)
                return False
            while pieces and sent >= len(pieces[0]):
                sent -= len(pieces.popleft())
            if sent:
                pieces[0] = pieces[0][sent:]
        return True

    def _writable(self) -> bool:
        """Wait until the peer has read something, on the budget of this request."""
        began = monotonic()
        writable = _wait(self.sock, select.POLLOUT, began + self._budget)
        self._budget -= monotonic() - began
        if not writable:
            self.dead = f"the peer did not read the reply within {self._limits.send_timeout:g} s"
        return writable


def _wait(sock: socket.SocketType, event: int, deadline: float) -> bool:
    """Until the socket is ready or the deadline has passed. A signal does not end it: a request in hand is finished."""
    poller = select.poll()
    poller.register(sock, event)
    return bool(poller.poll(milliseconds(deadline, monotonic())))


def _move(chunks: deque[Any], target: memoryview) -> int:
    """The first of the chunks, or as much of it as there is room for."""
    if not chunks:
        return 0
    chunk = chunks.popleft()
    size = min(len(chunk), len(target))
    target[:size] = chunk[:size]
    if size < len(chunk):
        chunks.appendleft(memoryview(chunk)[size:])
    return size
