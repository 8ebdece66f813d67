"""Listening sockets that this process was started with: by systemd, a superdaemon, or a FastCGI spawner on descriptor 0.

The manager (or a single process) takes them here, before its first fork. Must never close a descriptor that proved not to be a
listening socket, and never accept a connection.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable

from ..errors import ListenError
from . import serverports
from .addresses import Address
from .existing import existing
from .listener import Listener

SYSTEMD_FIRST = 3  # SD_LISTEN_FDS_START


def inherit(number: int) -> Listener:
    """The listening stream socket that descriptor `number` already is; its file, if any, stays its maker's."""
    try:
        sock = existing(number)
    except (OSError, ValueError, OverflowError):
        raise _not_listening(number) from None
    if not _is_listening(sock):
        sock.detach()
        raise _not_listening(number)
    sock.setblocking(False)
    # Descriptor 0 must be something in every program this process runs: closed on exec, the first file that program
    # opens would be its standard input. And a FastCGI program is expected to find its listener there after an exec.
    # Therefore 0 stays inheritable; who runs other programs gives them their own standard input.
    if number != 0:
        sock.set_inheritable(False)
    return Listener(sock, Address("fd", number=number))


def _is_listening(sock: socket.socket) -> bool:
    if sock.family not in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM:
        return False
    try:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return False


def _not_listening(number: int) -> ListenError:
    what = f"descriptor {number} is not a listening socket"
    if number == 0:
        return ListenError(f"{what}: give an address, or let a FastCGI spawner start this")
    return ListenError(f"{what}: let whoever starts this pass one there, or give an address")


def systemd_listeners() -> list[Listener]:
    """The sockets of systemd's socket activation, none if it is not meant for this process.

    The variables go in any case: a child whose pid happens to match would take descriptors that mean something else.
    """
    return _inherit_all(_take_systemd_variables()[0])


def take_systemd_sockets() -> list[tuple[Listener, str]]:
    """The same for who only hands them on: with their names, under their own addresses, and sockets for datagrams as well."""
    numbers, names = _take_systemd_variables()
    return [(_own_address(number), name) for number, name in zip(numbers, names)]


def superdaemon_listeners() -> list[Listener]:
    """The sockets of a superdaemon, none if there is none. Its variable goes as well."""
    text = os.environ.pop(serverports.VARIABLE, "")
    try:
        numbers = serverports.parse(text).values()
    except ValueError as error:
        raise ListenError(f"{error}: let a superdaemon set it, or give an address") from None
    return _inherit_all(numbers)


def _take_systemd_variables() -> tuple[range, list[str]]:
    """The descriptors, and as many names."""
    pid, count, text = (os.environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    if not (pid.isascii() and pid.isdigit() and count.isascii() and count.isdigit()):
        return range(0), []
    if len(pid) > 9 or len(count) > 9 or int(pid) != os.getpid():
        return range(0), []
    names = text.split(":") if text else []
    return range(SYSTEMD_FIRST, SYSTEMD_FIRST + int(count)), names + ["unknown"] * (int(count) - len(names))


def _own_address(number: int) -> Listener:
    """A socket that somebody may listen on, whatever for."""
    try:
        sock = existing(number)
    except (OSError, ValueError, OverflowError):
        raise _not_listening(number) from None
    if not _is_listening(sock) and sock.type != socket.SOCK_DGRAM:
        sock.detach()
        raise _not_listening(number)
    sock.set_inheritable(False)
    return Listener(sock, _address_of(sock.getsockname()))


def _address_of(name: object) -> Address:
    if isinstance(name, tuple):
        return Address("tcp", host=name[0], port=name[1])
    path = os.fsdecode(name) if isinstance(name, (bytes, str)) else ""
    return Address("unix", path=path.replace("\0", "@", 1))


def _inherit_all(numbers: Iterable[int]) -> list[Listener]:
    listeners: list[Listener] = []
    try:
        for number in numbers:
            listeners.append(inherit(number))
    except ListenError:
        for listener in listeners:
            listener.close()
        raise
    return listeners
