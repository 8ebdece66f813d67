"""Somebody asks the manager, and gets an answer, whatever the workers do: a part of the manager's loop that listens.

Runs in the manager. Must never wait for who asks: what he sends and takes is bounded in size and in time, and so is how many ask at
once.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ..basics.clock import FOREVER, monotonic
from ..errors import ProcManagerError
from ..manager import handover
from ..manager.parts import PoolPart
from ..sockets.addresses import Address, parse_address
from ..sockets.binding import bind

if TYPE_CHECKING:
    from ..manager.half import ManagerHalf
    from ..sockets.listener import Listener

_PATIENCE = 5.0  # seconds for a question and its answer
_MOST = 16  # who ask at once; more wait in the listen queue
_QUESTION = 1 << 17  # bytes
_PIECE = 1 << 16
_PAUSE = 0.5  # seconds


class Conversation:
    """One question. To be derived from."""

    def hear(self, data: bytes) -> bytes | None:
        """More of the question. The answer once it is whole, after which the connection is closed. Raises ProcManagerError."""
        raise NotImplementedError


class _Client:
    def __init__(self, sock: socket.socket, conversation: Conversation) -> None:
        self.socket = sock
        self.conversation = conversation
        self.deadline = monotonic() + _PATIENCE
        self.heard = 0
        self.unsent: memoryview | None = None  # the answer, once there is one


class Answers(PoolPart):
    """address, mode: where it listens; the mode is of a socket file. To be derived from."""

    def __init__(self, address: str, mode: int | None = None) -> None:
        self.address: Address = parse_address(address)
        self._mode = mode
        self._half: ManagerHalf | None = None
        self._listener: Listener | None = None
        self._selector: selectors.BaseSelector | None = None
        self._clients: dict[int, _Client] = {}
        self._listening = False
        self._resume_at = FOREVER  # when to listen again (monotonic seconds)

    # -- to be overridden ---------------------------------------------------------------------------------------------

    def admits(self, sock: socket.socket) -> bool:
        return True

    def converse(self) -> Conversation:
        raise NotImplementedError

    # -- a part -------------------------------------------------------------------------------------------------------

    def begin(self, half: ManagerHalf) -> None:
        """Raises ListenError."""
        self._half = half
        self.open(half.left_by(self.kind))

    def open(self, left: Mapping[str, Any]) -> None:
        """left: by an older image of this process. Raises ListenError."""
        self._listener = handover.listener(dict(left)) if left else bind(self.address, mode=self._mode)
        self._selector = selectors.DefaultSelector()
        self._listen(True)

    def leave(self) -> dict[str, Any] | None:
        if self._listener is None:
            return None
        return {**handover.describe(self._listener), "descriptors": [self._listener.fileno()]}

    @property
    def next_at(self) -> float:  # type: ignore[override]
        deadlines = [client.deadline for client in self._clients.values()]
        return min([self._resume_at, *deadlines])

    def descriptors(self) -> Iterable[int]:
        return (self._selector.fileno(),) if self._selector is not None else ()  # type: ignore[attr-defined]

    def turn(self, now: float) -> bool:
        if self._selector is None:
            return False
        for key, _ in self._selector.select(0):
            if key.data is None:
                self._accept()
            else:
                self._serve(key.data)
        if now >= self._resume_at:
            self._resume_at = FOREVER
            self._listen(len(self._clients) < _MOST)
        for client in [client for client in self._clients.values() if client.deadline <= now]:
            self._drop(client)
        return False

    def close(self) -> None:
        """May be called twice."""
        self._let_go()
        if self._listener is not None:
            self._listener.remove()
            self._listener = None

    def forked(self) -> None:
        self._let_go()
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _let_go(self) -> None:
        for client in self._clients.values():
            client.socket.close()
        self._clients.clear()
        if self._selector is not None:
            self._selector.close()
            self._selector = None

    # -- who asks -----------------------------------------------------------------------------------------------------

    def _listen(self, wanted: bool) -> None:
        assert self._selector is not None
        assert self._listener is not None
        if wanted and not self._listening:
            self._selector.register(self._listener.socket, selectors.EVENT_READ)
        elif self._listening and not wanted:
            self._selector.unregister(self._listener.socket)
        self._listening = wanted

    def _accept(self) -> None:
        assert self._selector is not None
        assert self._listener is not None
        try:
            sock, _ = self._listener.socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # gone again
        except OSError:  # no descriptor is left: who waits would wake the loop again and again
            self._listen(False)
            self._resume_at = monotonic() + _PAUSE
            return
        sock.setblocking(False)
        if not self.admits(sock):
            sock.close()
            return
        client = self._clients[sock.fileno()] = _Client(sock, self.converse())
        self._selector.register(sock, selectors.EVENT_READ, client)
        self._listen(len(self._clients) < _MOST)

    def _serve(self, client: _Client) -> None:
        try:
            done = self._send(client) if client.unsent is not None else self._hear(client)
        except BlockingIOError:
            return
        except (OSError, ProcManagerError):
            done = True
        if done:
            self._drop(client)

    def _hear(self, client: _Client) -> bool:
        """Whether the connection is at its end."""
        assert self._selector is not None
        data = client.socket.recv(_PIECE)
        client.heard += len(data)
        if not data or client.heard > _QUESTION:
            return True
        answer = client.conversation.hear(data)
        if answer is None:
            return False
        client.unsent = memoryview(answer)
        self._selector.modify(client.socket, selectors.EVENT_WRITE, client)
        return self._send(client)

    def _send(self, client: _Client) -> bool:
        assert client.unsent is not None
        client.unsent = client.unsent[client.socket.send(client.unsent) :]
        return not client.unsent

    def _drop(self, client: _Client) -> None:
        assert self._selector is not None
        del self._clients[client.socket.fileno()]
        self._selector.unregister(client.socket)
        with contextlib.suppress(OSError):
            client.socket.shutdown(socket.SHUT_WR)
        client.socket.close()
        self._listen(len(self._clients) < _MOST)
