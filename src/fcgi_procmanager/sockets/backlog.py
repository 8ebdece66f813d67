"""How many connections wait in the queue of a listening socket, and how many fit.

Runs in the manager. Linux says both: of a Unix socket by NETLINK_SOCK_DIAG, of TCP by TCP_INFO, where on a listener `unacked` is what
waits and `sacked` the limit. Elsewhere, and where a sandbox forbids it, all that can be seen is whether anything waits. Must never
wait, and never believe a length that the kernel's answer states.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable
from typing import NamedTuple

from ..system.atfork import AtFork
from ..system.poll import any_readable

_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _REQUEST_FLAG = 4, 20, 1
_SHOW_RQLEN, _RQLEN = 0x10, 4
_NO_COOKIE = 0xFFFFFFFF

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_QUERY = struct.Struct("=BBHIIIII")  # family, protocol, padding, states, inode, what to show, cookie in two halves
_FOUND = struct.Struct("=BBBBIII")  # family, type, state, padding, inode, cookie
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_QUEUE = struct.Struct("=II")  # waiting, limit
_TCP_QUEUE = struct.Struct("=24xII")
_PATIENCE = 0.05  # seconds; the kernel answers within the call that asks


class Backlog(NamedTuple):
    """waiting, limit: connections. exact: else `waiting` is 1 for some, and there is no limit to be known."""

    waiting: int
    limit: int = 0
    exact: bool = False


class Backlogs:
    """Asks the kernel, by one socket that is kept."""

    def __init__(self) -> None:
        self._socket = _netlink()
        self._number = 0
        _at_fork.add(self)

    def of(self, listener: socket.socket) -> Backlog:
        try:
            found: Backlog | None
            if listener.family == socket.AF_UNIX:
                found = self._of_unix(listener)
            else:
                waiting, limit = _TCP_QUEUE.unpack(listener.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 32))
                found = Backlog(waiting, limit, True)
        except (OSError, struct.error, TypeError):
            found = None
        return found if found is not None else Backlog(int(any_readable(listener.fileno())))

    def total(self, listeners: Iterable[socket.socket]) -> Backlog:
        """Of all of them; exact if each one is."""
        found = [self.of(listener) for listener in listeners]
        waiting, limit = sum(one.waiting for one in found), sum(one.limit for one in found)
        return Backlog(waiting, limit, all(one.exact for one in found))

    def close(self) -> None:
        """May be called twice. What is seen afterwards is not exact."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _of_unix(self, listener: socket.socket) -> Backlog | None:
        if self._socket is None:
            return None
        self._number = (self._number + 1) & 0x7FFFFFFF
        inode = os.fstat(listener.fileno()).st_ino & 0xFFFFFFFF
        query = _QUERY.pack(socket.AF_UNIX, 0, 0, 0xFFFFFFFF, inode, _SHOW_RQLEN, _NO_COOKIE, _NO_COOKIE)
        size = _HEADER.size + len(query)
        self._socket.send(_HEADER.pack(size, _SOCK_DIAG_BY_FAMILY, _REQUEST_FLAG, self._number, 0) + query)
        while True:
            answer = self._socket.recv(4096)
            _, kind, _, number, _ = _HEADER.unpack_from(answer)
            if number == self._number:  # else it is the answer to one that was given up
                return _queue(answer, inode) if kind == _SOCK_DIAG_BY_FAMILY else None


def _queue(answer: bytes, inode: int) -> Backlog | None:
    if _FOUND.unpack_from(answer, _HEADER.size)[4] != inode:
        return None
    at = _HEADER.size + _FOUND.size
    while at + _ATTRIBUTE.size <= len(answer):
        length, kind = _ATTRIBUTE.unpack_from(answer, at)
        if kind == _RQLEN:
            waiting, limit = _QUEUE.unpack_from(answer, at + _ATTRIBUTE.size)
            return Backlog(waiting, limit, True)
        if length < _ATTRIBUTE.size:
            return None
        at += (length + 3) & ~3
    return None


def _netlink() -> socket.socket | None:
    family = getattr(socket, "AF_NETLINK", None)
    if family is None:
        return None
    try:
        found = socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
        found.settimeout(_PATIENCE)
    except OSError:
        return None
    return found


_TCP_INFO: int = getattr(socket, "TCP_INFO", -1)
_at_fork = AtFork(Backlogs.close)
