"""One connection with a web server: the only place that receives and sends.

Runs in a worker, in the thread that serves the request in hand. Receiving never blocks unless a body is asked for;
everything that a peer can delay has a deadline. A peer that is gone or too slow marks the connection `dead`: what is written
after that is dropped, since an application can do nothing about it.
"""

from __future__ import annotations

import select
import socket
from collections import deque
from collections.abc import Sequence
from itertools import islice

from ..clock import FOREVER, milliseconds, monotonic
from ..errors import ProtocolError
from .protocol import Parser

RECEIVE = 65536  # bytes asked of one recv
JOIN = 65536  # bytes; below it a copy is cheaper than a list of pieces
_DONTWAIT = socket.MSG_DONTWAIT
_MAX_PIECES = 512  # in one sendmsg; Linux takes 1024


class PeerGone(ConnectionResetError):
    """The web server closed the connection, or was too slow, before the whole body of the request had come."""


class Connection:
    """A connected socket and the parser of what comes from it.

    deadline: monotonic seconds; when the peer must have said the rest of its request.
    served: how many requests it has brought.
    """

    __slots__ = ("_receive_timeout", "_send_budget", "_send_timeout", "dead", "deadline", "parser", "served", "sock")

    def __init__(self, sock: socket.SocketType, parser: Parser, receive_timeout: float, send_timeout: float) -> None:
        self.sock = sock
        self.parser = parser
        self.dead = ""  # why nothing more can be sent
        self.deadline = FOREVER
        self.served = 0
        self._receive_timeout = receive_timeout
        self._send_timeout = send_timeout
        self._send_budget = send_timeout

    def fileno(self) -> int:
        return self.sock.fileno()

    def poll(self) -> bool:
        """Take what has come, without waiting. True once a request is complete up to its body. Raises ProtocolError;
        sets `dead` when the peer has closed."""
        parser = self.parser
        if parser.head is None and not self._receive():
            return False
        if parser.unsent or parser.close_after:
            self._answer()
        return parser.head is not None

    def first_words(self, seconds: float) -> bool:
        """Give a peer that has just connected a moment to speak. True when there is something to `poll` for."""
        return _wait(self.sock, select.POLLIN, monotonic() + seconds)

    def next_request(self) -> bool:
        """The request in hand is over. True when the next one has come already, behind it."""
        parser = self.parser
        parser.next_request()
        self._send_budget = self._send_timeout
        parser.resume()
        if parser.unsent or parser.close_after:
            self._answer()
        return parser.head is not None

    def receive_body(self) -> None:
        """Wait for more of the body of the request in hand. Raises PeerGone, ProtocolError."""
        deadline = monotonic() + self._receive_timeout
        while not self._receive():
            if self.dead:
                raise PeerGone(f"the body of a request ended early: {self.dead}")
            if not _wait(self.sock, select.POLLIN, deadline):
                self.dead = f"the peer sent nothing for {self._receive_timeout:g} s"
        if self.parser.unsent:
            self._answer()

    def send(self, buffers: Sequence[bytes | memoryview]) -> bool:
        """Send all of it, waiting for a slow peer as long as the budget of this request lasts. False when dead."""
        if self.dead:
            return False
        if sum(map(len, buffers)) > JOIN:
            # Not joined: the kernel gathers the pieces itself, and a large reply is copied once, into the socket.
            return self._send_pieces(buffers)
        data = buffers[0] if len(buffers) == 1 else b"".join(buffers)
        try:
            sent = self.sock.send(data, _DONTWAIT)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self.dead = error.strerror or str(error)
            return False
        return sent == len(data) or self._send_pieces((memoryview(data)[sent:],))

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

    def half_close(self) -> None:
        """No more from us; the peer may finish what it is sending, and read our reply meanwhile."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.dead = self.dead or "closed"

    def _receive(self) -> bool:
        try:
            received = self.sock.recv(RECEIVE, _DONTWAIT)
        except BlockingIOError:
            return False
        except OSError as error:
            self.dead = error.strerror or str(error)
            return False
        if not received:
            self.dead = "closed by the peer"
            return False
        self.parser.feed(received)
        return True

    def _answer(self) -> None:
        """Send what the parser owes. A peer that does not read these few bytes is not waited for."""
        parser = self.parser
        unsent, parser.unsent = parser.unsent, b""
        try:
            if unsent and self.sock.send(unsent, _DONTWAIT) < len(unsent):
                raise ProtocolError("the peer asks and does not read the answers")
        except OSError as error:
            self.dead = error.strerror or str(error)
        if parser.close_after:
            self.dead = self.dead or "nothing more to say"

    def _send_pieces(self, buffers: Sequence[bytes | memoryview]) -> bool:
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
        writable = _wait(self.sock, select.POLLOUT, began + self._send_budget)
        self._send_budget -= monotonic() - began
        if not writable:
            self.dead = f"the peer did not read the reply within {self._send_timeout:g} s"
        return writable


def _wait(sock: socket.SocketType, event: int, deadline: float) -> bool:
    """Until the socket is ready or the deadline has passed. A signal does not end it: a request in hand is finished."""
    poller = select.poll()
    poller.register(sock, event)
    return bool(poller.poll(milliseconds(deadline, monotonic())))
