"""The control socket: the manager says how its pool is, to programs of its own user and of root.

Runs in the manager. A question is one line: `status`, or `status full`, which costs a look at the memory of each worker. The answer is
a snapshot as status/wire.py writes it, to the end of the connection.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING, Callable

from ..errors import ListenError, ProtocolError
from .answers import Answers, Conversation

if TYPE_CHECKING:
    from ..manager.half import ManagerHalf
    from .census import Census

_CREDENTIALS = struct.Struct("=3i")  # pid, uid, gid of SO_PEERCRED
_LINE = 100  # bytes
MODE = 0o600


def path_beside(pidfile: str) -> str:
    """Where the control socket of the manager with this PID file is."""
    return os.path.abspath(pidfile).removesuffix(".pid") + ".control"


def is_owner(sock: socket.socket) -> bool:
    """Whether the other end is of our user, or root; where the system tells."""
    wanted = getattr(socket, "SO_PEERCRED", None)
    if wanted is None:
        return True
    _, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, wanted, _CREDENTIALS.size))
    return uid in (0, os.geteuid())


class Control(Answers):
    kind = "control"  # what it leaves to the manager's next image

    def __init__(self, path: str, census: Census, notify: Callable[[str], None] | None = None) -> None:
        """notify: nobody has asked for this path: where it cannot be had, it is said so, and the pool starts without it."""
        super().__init__(path, MODE)
        self._census = census
        self._notify = notify

    def begin(self, half: ManagerHalf) -> None:
        try:
            super().begin(half)
        except ListenError as error:
            if self._notify is None:
                raise
            self._notify(f"no control socket: {error}")

    def admits(self, sock: socket.socket) -> bool:
        """The mode of the file does not hold for a descriptor that somebody has handed on, nor on every system."""
        return is_owner(sock)

    def converse(self) -> Conversation:
        return _Question(self._census)


class _Question(Conversation):
    def __init__(self, census: Census) -> None:
        self._census = census
        self._line = b""

    def hear(self, data: bytes) -> bytes | None:
        self._line += data
        line, end, _ = self._line.partition(b"\n")
        if len(line) > _LINE:
            raise ProtocolError("the question is too long")
        if not end:
            return None
        if line not in (b"status", b"status full"):
            raise ProtocolError("no such question")
        from ..status import wire  # not above: workers would have it too

        return wire.encode(self._census.take(full=line.endswith(b"full")))
