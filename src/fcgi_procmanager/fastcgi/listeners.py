"""The listening sockets of one accept loop: which of them has a new connection, and whose turn it is.

Runs in a worker, in the thread of its accept loop. Must never wait, and never close a listener but in a
child, or in a worker whose manager is gone.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable, Iterator
from typing import Any, Callable, Union

from ..basics.states import Role
from ..errors import ConfigError, ListenError
from ..manager.procmanager import ProcManager
from ..sockets.copies import close_accepted, close_copies
from ..sockets.listener import Listener
from ..worker.gate import Gate
from .connection import Connection, Limits

Listening = Union[Listener, socket.socket]

# Errors of a connection that was lost before it was accepted, which accept(2) hands on: nothing of ours is wrong.
_PASSING = (errno.EPROTO, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EPERM)

# The number. `sock.family` looks for a member of an enumeration, at the cost of memory in each worker.
_family = socket.SocketType.family.__get__
_default_timeout = socket.getdefaulttimeout


class Listeners:
    """called: descriptors of those that the gate said have a connection, until somebody has looked.
    limits: of the connections that are taken. gate: asked for only when it is needed, after the fork. refuse: told of an error of
    accept(2) that is ours; it raises, or has made room."""

    def __init__(
        self,
        given: Listening | Iterable[Listening] | None,
        manager: ProcManager,
        limits: Limits,
        gate: Callable[[], Gate],
        refuse: Callable[[OSError], None],
    ) -> None:
        self._given = _given(given, manager)
        self._in_turn = tuple(_prepared(_socket(one)) for one in self._given)
        self._allowed = _allowed_addresses()
        self._limits = limits
        self._gate = gate
        self._refuse = refuse
        self.called: list[int] = []

    def take(self) -> Connection | None:
        """A new connection, if there is one now. Whichever listener called: another worker that was called for this one
        may have been faster, and then takes from the others as well."""
        called = self.called
        if called:
            self.called = []
        for entry in self._in_turn:
            listener, family = entry
            try:
                # `listener.accept()` without its Python half, which makes an object we have no use for.
                descriptor, address = listener._accept()  # type: ignore[attr-defined]
            except (BlockingIOError, ConnectionAbortedError):
                continue
            except OSError as error:
                if error.errno not in _PASSING:  # no descriptor left, say: what is held must be served all the same
                    self._refuse(error)
                continue
            if len(self._in_turn) > 1:
                self._next_turn(entry, called)
            sock = socket.SocketType(family, socket.SOCK_STREAM, 0, descriptor)
            if _default_timeout() is not None:
                sock.settimeout(None)  # the application's own is for its own; here a receive would wait for it
            if self._allowed is not None and not (isinstance(address, tuple) and address[0] in self._allowed):
                sock.close()
                continue
            return Connection(sock, self._limits)
        return None

    def enter(self) -> None:
        """Be watched."""
        gate = self._gate()
        for listener, _ in self._in_turn:
            if (number := listener.fileno()) not in gate.listeners:
                gate.add_listener(number)

    def note_call(self, number: int) -> None:
        """The gate says that there is something at a descriptor; it may be of somebody else."""
        if any(listener.fileno() == number for listener, _ in self._in_turn):
            self.called.append(number)

    def pass_on(self) -> None:
        """This worker turns to something else: another one is called instead."""
        called, self.called = self.called, []
        self._gate().pass_on(*called)

    def close(self) -> None:
        """In a worker without a manager, which takes no more: those of its siblings are their own."""
        close_copies(_socket(one) for one in self._given)

    def close_copies(self) -> None:
        """In a child that the application has forked: nobody could connect anew, or bind the address, while it lives."""
        close_accepted(_socket(one) for one in self._given)
        self.close()

    def _next_turn(self, taken: tuple[socket.socket, int], called: list[int]) -> None:
        """The others are first the next time, and are taken from at once by another worker, if this one was woken for
        them too."""
        self._in_turn = (*(entry for entry in self._in_turn if entry is not taken), taken)
        owed = [number for number in called if number != taken[0].fileno()]
        if owed:
            self._gate().pass_on(*owed)


def _given(listener: Listening | Iterable[Listening] | None, manager: ProcManager) -> list[Listening]:
    return check_listener(listener) or list(manager.listeners) or [_handed_over(manager)]


def check_listener(given: Any) -> list[Listening]:
    """As a list; empty for None. Raises ConfigError."""
    if given is None:
        return []
    if isinstance(given, ProcManager):
        raise ConfigError("listener is a ProcManager: give it by name, manager=...")
    found = list(given) if isinstance(given, (list, tuple, set, frozenset, Iterator)) else [given]
    if not found or not all(isinstance(one, (socket.socket, Listener)) for one in found):
        raise ConfigError(f"listener must be what manager.listen() returned, or a listening socket, not {given!r}")
    return found


def _handed_over(manager: ProcManager) -> Listening:
    try:
        return manager.listen()
    except ListenError as error:
        if manager.role is Role.SERVER:  # its siblings have the same descriptors: nobody will ever serve
            manager.refuse(str(error))
        raise


def _socket(one: Listening) -> socket.socket:
    return one.socket if isinstance(one, Listener) else one


def _prepared(sock: socket.socket) -> tuple[socket.socket, int]:
    family = _family(sock)
    sock.setblocking(False)
    if family != socket.AF_UNIX:
        # Inherited by what is accepted. A reply in two pieces would wait for the peer's delayed acknowledgement.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock, family


def _allowed_addresses() -> frozenset[str] | None:
    """The web servers' addresses, from FCGI_WEB_SERVER_ADDRS as the specification has it; None for all."""
    listed = os.environ.get("FCGI_WEB_SERVER_ADDRS")
    return frozenset(part.strip() for part in listed.split(",")) if listed is not None else None
