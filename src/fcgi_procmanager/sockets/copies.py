"""What a child that the application has forked has of its parent's listening sockets, and what it does with it.

Runs in such a child, right after the fork. Must never change a socket for the parent: both share it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterable

from ..system.stdio import null_on_zero
from .existing import existing

__all__ = ["close_accepted", "close_copies"]


def close_copies(sockets: Iterable[socket.socket]) -> None:
    """In a child that the application has forked: nobody could connect anew, or bind the address, while it lives."""
    sockets = [sock for sock in sockets if sock.fileno() >= 0]
    # What the child runs finds its standard input on descriptor 0. A listener may be there beside its own number.
    if any(_is_on_zero(sock) for sock in sockets):
        null_on_zero()
    for sock in sockets:
        if sock.fileno() == 0:
            sock.detach()
        else:
            sock.close()


def close_accepted(sockets: Iterable[socket.socket]) -> None:
    """In such a child, before its listeners are closed: end the connections that another thread was just accepting or closing,
    which no object knows. Where the system does not list descriptors, these end with the child."""
    with contextlib.suppress(OSError):
        listeners = [sock.getsockname() for sock in sockets if sock.fileno() >= 0]
        if not listeners:  # another loop of this process has done it
            return
        for descriptor in map(int, os.listdir("/dev/fd")):
            with contextlib.suppress(OSError):
                if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                    _close_if_accepted(descriptor, listeners)


def _close_if_accepted(descriptor: int, listeners: list[object]) -> None:
    sock = existing(descriptor)
    try:
        listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if not listens and any(_is_of(sock.getsockname(), name) for name in listeners):
            sock.close()
    finally:
        sock.detach()


def _is_of(name: object, listener: object) -> bool:
    """Whether a socket of this name was accepted from that listener: the names are the same, but for the host of one that listens
    on every interface."""
    if isinstance(name, tuple) and isinstance(listener, tuple):
        return name[1] == listener[1] and (name[0] == listener[0] or listener[0] in ("0.0.0.0", "::"))
    return bool(name) and name == listener


def _is_on_zero(sock: socket.socket) -> bool:
    try:
        return os.path.sameopenfile(0, sock.fileno())
    except OSError:
        return False
