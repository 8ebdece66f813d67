"""How many connections wait in the queue of a listening socket, accepted by nobody, and how long that queue may become.

Runs in the manager, with the listeners of its pool. Must never wait, nor read or accept from a listener.

Linux tells: for TCP by getsockopt(TCP_INFO), whose fields for what is unacknowledged are those of the queue when a socket listens;
for Unix sockets by netlink (sock_diag(7)), asked for one socket by its inode number and cookie. Elsewhere, and where that is
refused (systemd's RestrictAddressFamilies=, a seccomp filter, a listener of another network namespace, a kernel without
UNIX_DIAG), all that is left is to look whether there is anything.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import sys
from collections.abc import Iterable
from typing import NamedTuple

from ..system.atfork import AtFork
from ..system.poll import any_readable

__all__ = ["Backlog", "Backlogs"]

_LINUX = sys.platform.startswith("linux")
_LISTEN = 10  # the state of a socket that listens: TCP_LISTEN, for Unix sockets too
_TCP_INFO = struct.Struct("=B23xII")  # struct tcp_info: tcpi_state, tcpi_unacked, tcpi_sacked

_SOCK_DIAG = 4  # NETLINK_SOCK_DIAG
_BY_FAMILY = 20  # SOCK_DIAG_BY_FAMILY
_ERROR = 2  # NLMSG_ERROR
_REQUEST = 1  # NLM_F_REQUEST
_SHOW_RQLEN = 0x10  # UDIAG_SHOW_RQLEN
_RQLEN = 4  # UNIX_DIAG_RQLEN
_SO_COOKIE = 57
_NO_COOKIE = 0xFFFFFFFFFFFFFFFF  # kernels before 4.12 do not tell it
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_QUESTION = struct.Struct("=BBHIIIII")  # struct unix_diag_req
_ANSWER = struct.Struct("=BBBBIII")  # struct unix_diag_msg: family, type, state, padding, inode, cookie
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr: length, type
_QUEUE = struct.Struct("=II")  # struct unix_diag_rqlen
_REPLY_SIZE = 1024  # bytes; an answer has about 50
_MOST_REPLIES = 8  # that are looked at for one question: older ones may be left

# What opening a socket says when that may be otherwise a moment later.
_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Backlog(NamedTuple):
    waiting: int  # connections
    limit: int  # as `ss` shows it: one more than that can wait. 0 if it is not known
    exact: bool  # False: at least so many wait, and whether there are more is not known


class Backlogs:
    """Looks at listeners. Keeps one netlink socket once a Unix listener was looked at: close it, in a worker too."""

    def __init__(self) -> None:
        self._netlink: socket.socket | None = None
        self._refused = False
        self._untold: set[int] = set()  # inode numbers of those about whom netlink says nothing
        self._sequence = 0
        _at_fork.add(self)

    def of(self, listener: socket.socket) -> Backlog:
        """Never raises, whatever the system refuses; nothing waits for a listener that is closed."""
        if listener.fileno() < 0:
            return Backlog(0, 0, False)
        found = None
        if _LINUX:
            with contextlib.suppress(OSError, struct.error):
                found = self._unix(listener) if listener.family == socket.AF_UNIX else _tcp(listener)
        # Of a queue for one a look tells all. A system that only claims to be Linux may say 0 and 0.
        if found is None or not found.limit:
            return Backlog(int(any_readable(listener.fileno())), 0, False)
        return found

    def total(self, listeners: Iterable[socket.socket]) -> Backlog:
        """Of all of them together. The limit is known if each is."""
        found = [self.of(listener) for listener in listeners]
        limit = sum(one.limit for one in found) if all(one.limit for one in found) else 0
        return Backlog(sum(one.waiting for one in found), limit, all(one.exact for one in found))

    def close(self) -> None:
        """May be called twice. After it netlink is not asked any more."""
        self._refused = True
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None

    def _unix(self, listener: socket.socket) -> Backlog | None:
        inode = os.fstat(listener.fileno()).st_ino
        netlink = self._opened()
        if netlink is None or inode in self._untold:
            return None
        reply = self._ask(netlink, inode, _cookie(listener))
        if _type_of(reply) == _ERROR:
            # Asked once more, a kernel without UNIX_DIAG would once more start a program that looks for the module.
            self._untold.add(inode)
        return answered(reply, inode)

    def _opened(self) -> socket.socket | None:
        if self._netlink is None and not self._refused:
            try:
                self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _SOCK_DIAG)
                self._netlink.setblocking(False)
            except OSError as error:
                self._refused = error.errno not in _PASSING
        return self._netlink

    def _ask(self, netlink: socket.socket, inode: int, cookie: int) -> bytes:
        """The kernel's reply, which is there before `send` returns; else OSError."""
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        netlink.send(question(inode, cookie, self._sequence))
        for _ in range(_MOST_REPLIES):
            reply, (port, _) = netlink.recvfrom(_REPLY_SIZE)
            if port == 0 and is_reply(reply, self._sequence):  # port 0 is the kernel
                return reply
        raise BlockingIOError(errno.EAGAIN, "no answer of netlink")


def question(inode: int, cookie: int, sequence: int) -> bytes:
    body = _QUESTION.pack(
        socket.AF_UNIX, 0, 0, 1 << _LISTEN, inode & 0xFFFFFFFF, _SHOW_RQLEN, cookie & 0xFFFFFFFF, cookie >> 32
    )
    return _HEADER.pack(_HEADER.size + len(body), _BY_FAMILY, _REQUEST, sequence, 0) + body


def is_reply(reply: bytes, sequence: int) -> bool:
    """Whether these bytes begin as a reply to the question of this number."""
    return len(reply) >= _HEADER.size and _HEADER.unpack_from(reply)[3] == sequence


def _type_of(reply: bytes) -> int:
    return int(_HEADER.unpack_from(reply)[1])


def answered(reply: bytes, inode: int) -> Backlog | None:
    """What a reply says of this listener; None for nothing, such as an error. It is read by the bytes that have come, not by the
    lengths that it names."""
    end_of_head = _HEADER.size + _ANSWER.size
    if len(reply) < end_of_head or _type_of(reply) != _BY_FAMILY:
        return None
    family, _, state, _, found, _, _ = _ANSWER.unpack_from(reply, _HEADER.size)
    if (family, state, found) != (socket.AF_UNIX, _LISTEN, inode & 0xFFFFFFFF):
        return None
    offset = end_of_head
    while offset + _ATTRIBUTE.size <= len(reply):
        length, kind = _ATTRIBUTE.unpack_from(reply, offset)
        body = reply[offset + _ATTRIBUTE.size : offset + length]
        if kind == _RQLEN and len(body) == _QUEUE.size:
            waiting, limit = _QUEUE.unpack(body)
            return Backlog(waiting, limit, True)
        offset += max(_ATTRIBUTE.size, (length + 3) & ~3)  # they are aligned to four bytes
    return None


def _tcp(listener: socket.socket) -> Backlog | None:
    info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    state, waiting, limit = _TCP_INFO.unpack(info)
    return Backlog(waiting, limit, True) if state == _LISTEN else None


def _cookie(listener: socket.socket) -> int:
    """Which tells a socket from a later one of the same inode number."""
    try:
        return int.from_bytes(listener.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8), sys.byteorder)
    except OSError:
        return _NO_COOKIE


# A child that the application has forked would take the answers to its parent's questions.
_at_fork = AtFork(Backlogs.close)
