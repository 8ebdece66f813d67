"""The control socket of a parent: how its pools are, to programs of its own user and of root.

Runs in the parent. The question is that of a pool's control socket, so that who asks need not know which of the two it is.
"""

from __future__ import annotations

import socket
from typing import Callable

from ..errors import ProtocolError
from ..pool.answers import Answers, Conversation
from ..pool.control import MODE, is_owner
from .overview import Overview, encode

__all__ = ["Control"]

_LINE = 100  # bytes


class Control(Answers):
    """look: how the pools are now."""

    def __init__(self, path: str, look: Callable[[], Overview]) -> None:
        super().__init__(path, MODE)
        self._look = look

    def admits(self, sock: socket.socket) -> bool:
        return is_owner(sock)

    def converse(self) -> Conversation:
        return _Question(self._look)


class _Question(Conversation):
    def __init__(self, look: Callable[[], Overview]) -> None:
        self._look = look
        self._line = b""

    def hear(self, data: bytes) -> bytes | None:
        self._line += data
        line, end, _ = self._line.partition(b"\n")
        if len(line) > _LINE or (end and line not in (b"status", b"status full")):
            raise ProtocolError("no such question")
        return encode(self._look()) if end else None
