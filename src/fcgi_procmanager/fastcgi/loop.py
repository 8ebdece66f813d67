"""`FastCGI`: the accept loop of a worker. Decides which connection is served next, and what becomes of it afterwards.

Runs in a worker, in its main thread. Must never serve a request itself.

A connection is in one place at a time: *ready* (something has come from it), *speaking* (accepted, its request not
complete), *idle* (kept open between requests), *lingering* (answered, and its peer is still sending), or in hand. Those that
have nothing to say wait in the gate together with the listener and pin nobody. A new connection is taken only when none
of those held is ready; while new ones come in a row, that is asked once a millisecond.

Told to leave, the worker takes no new connection. What has been accepted and not been served yet gets `drain_timeout` to
speak and is answered; kept connections are looked at once more, then closed; then `accept` returns None.
"""

from __future__ import annotations

import atexit
import errno
import os
import socket
from collections import deque
from collections.abc import Collection, Iterable
from typing import Union

from ..basics import checks
from ..basics.clock import FOREVER, monotonic
from ..errors import ProtocolError
from ..manager.procmanager import ProcManager
from ..sockets.listener import Listener
from ..system.atfork import AtFork
from ..worker.gate import Gate
from . import protocol
from .connection import Connection, Limits
from .request import Request

Listening = Union[Listener, socket.socket]

_LINGER = 2.0  # seconds a peer that still sends gets to read our reply, before a close would destroy it
# Seconds a new connection gets to say its first word before another one may be taken: longer than a web server that was
# preempted between its connect and its send. Once there is a silent one, the others are not given much.
_MOMENT, _SHORT_MOMENT = 0.02, 0.001
_LOOK = 0.001  # seconds between looks at those that are held, while new connections come in a row
# Errors of a connection that was lost before it was accepted, which accept(2) hands on: nothing of ours is wrong.
_PASSING = (errno.EPROTO, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EPERM)
_MAX_HELD = 1000  # connections; beyond it the one that has been silent longest makes room


class FastCGI:
    """Requests, one after another, for a hand-written loop.

    listener: what `manager.listen()` returned, a listening socket, or several; None for all that the manager listens
        on, else what systemd or a FastCGI spawner handed over.
    manager: None for a single process without one.
    roles: FastCGI roles to answer; others are refused with UNKNOWN_ROLE.
    head_timeout: seconds a connection may take to bring the parameters of its first request, or of a begun one.
    idle_timeout: seconds a kept connection may be silent. Longer than the web server's own, so that it closes first.
    receive_timeout: seconds to wait for more of a body. send_timeout: seconds that the peer may keep one reply waiting
        in all. drain_timeout: see above.
    gate: of a thread of its own (lanes.py); None for the main thread's.

    Source: the loop of FCGI.pm and of every Perl FastCGI script.
    """

    def __init__(
        self,
        listener: Listening | Iterable[Listening] | None = None,
        *,
        manager: ProcManager | None = None,
        roles: Collection[int] = (protocol.RESPONDER,),
        head_timeout: float = 15,
        idle_timeout: float = 75,
        receive_timeout: float = 60,
        send_timeout: float = 60,
        drain_timeout: float = 3,
        gate: Gate | None = None,
    ) -> None:
        self.manager = manager if manager is not None else ProcManager()
        self._doors = tuple((sock, int(sock.family)) for sock in _sockets(listener, self.manager))
        self.roles = tuple(roles)
        self.head_timeout = checks.timeout("head_timeout", head_timeout)
        self.idle_timeout = checks.timeout("idle_timeout", idle_timeout)
        self.receive_timeout = checks.timeout("receive_timeout", receive_timeout)
        self.send_timeout = checks.timeout("send_timeout", send_timeout)
        self.drain_timeout = checks.timeout("drain_timeout", drain_timeout)
        self._allowed = _allowed_addresses()
        self._limits = Limits(self.roles, _capability(self.manager), self.receive_timeout, self.send_timeout)
        self._ready: deque[Connection] = deque()
        # Each in the order of the deadlines, since all of one kind have the same time: the first one is due first.
        self._speaking: dict[int, Connection] = {}
        self._idle: dict[int, Connection] = {}
        self._lingering: dict[int, Connection] = {}
        self._watched: set[int] = set()
        self._calls: list[int] = []  # listeners that the gate said have a connection
        # Monotonic seconds. Until then new connections come in a row, and those held are not asked.
        self._next_look = 0.0
        self._in_hand: Request | None = None
        self._draining = False
        self._drain_by = FOREVER
        self._lane_gate = gate
        _at_fork.add(self)
        if gate is None:
            self.manager.add_busy_check(self.busy)
            atexit.register(self._finish_in_hand)

    def accept(self) -> Request | None:
        """The next request, or None once this worker should leave. A request in hand that was not finished is."""
        if self._in_hand is not None:
            self._in_hand.finish()
        while True:
            while self._ready:
                request = self._look(self._ready.popleft())
                if request is not None:
                    return request
            if self._leaving:
                if not self._drain():
                    return None
                if self._ready:  # what it said has been read already: no event will come for it
                    continue
            elif not self._watched or self._calls or monotonic() < self._next_look:
                connection = self._take()
                if connection is not None:
                    request = self._look(connection)
                    if request is not None:
                        return request
                    continue
                self._next_look = 0.0
            self._wait()

    @property
    def _leaving(self) -> bool:
        lane = self._lane_gate
        return self.manager.leaving if lane is None else lane.orphaned or self.manager.leaving

    @property
    def _gate(self) -> Gate:
        return self._lane_gate or self.manager.gate

    def busy(self) -> bool:
        """Whether a worker that was told to leave still has something to answer. Finishes the request in hand."""
        self._finish_in_hand()
        return self._drain()

    def close(self) -> None:
        """Finish the request in hand and close every held connection. The listeners are their owner's."""
        self._finish_in_hand()
        for held in (self._speaking, self._idle, self._lingering):
            for connection in tuple(held.values()):
                self._drop(connection)
        while self._ready:
            self._drop(self._ready.popleft())
        atexit.unregister(self._finish_in_hand)

    def _disown(self) -> None:
        """In a child that the application has forked: what is open here is its parent's to answer, watch and close.

        A child that ends as Python programs do runs the exit handlers, and would end the request in hand a second time;
        and the wait set is shared, so that taking a connection out of it would make the parent deaf."""
        if self._in_hand is not None:
            self._in_hand.connection.dead = "the request of another process"
        self._watched.clear()
        for held in (self._speaking, self._idle, self._lingering):
            for connection in held.values():
                connection.close()
            held.clear()
        while self._ready:
            self._ready.popleft().close()

    # -- taking connections -------------------------------------------------------------------------------------------

    def _take(self) -> Connection | None:
        """A new connection, if there is one now. Whichever listener called: another worker that was called for this one
        may have been faster, and then takes from the others as well."""
        calls, self._calls = self._calls, []
        for door in self._doors:
            listener, family = door
            try:
                # `listener.accept()` without its Python half, which makes an object we have no use for.
                descriptor, address = listener._accept()  # type: ignore[attr-defined]
            except (BlockingIOError, ConnectionAbortedError):
                continue
            except OSError as error:
                if error.errno not in _PASSING:  # no descriptor left, say: what is held must be served all the same
                    self._refuse(error)
                continue
            if len(self._doors) > 1:
                self._next_door(door, calls)
            sock = socket.SocketType(family, socket.SOCK_STREAM, 0, descriptor)
            if self._allowed is not None and not (isinstance(address, tuple) and address[0] in self._allowed):
                sock.close()
                continue
            return Connection(sock, self._limits)
        return None

    def _next_door(self, taken: tuple[socket.socket, int], calls: list[int]) -> None:
        """The other listeners have their turn: first the next time, and at once by another worker, if this one was
        woken for them too."""
        self._doors = (*(door for door in self._doors if door is not taken), taken)
        owed = [number for number in calls if number != taken[0].fileno()]
        if owed:
            self._gate.pass_on(*owed)

    def _refuse(self, error: OSError) -> None:
        self.manager.notify(f"accept: {error.strerror}")
        if not self._close_oldest():
            raise error

    def _look(self, connection: Connection) -> Request | None:
        """What a connection has to say now: its request, or it goes to wait, or it is closed."""
        try:
            complete = connection.poll() or self._speaks_late(connection)
        except ProtocolError as error:
            self.manager.notify(f"closed a connection: {error}")
            self._drop(connection)
            return None
        if complete:
            connection.deadline = FOREVER
            self._in_hand = Request(connection, self._finished)
            return self._in_hand
        if connection.dead:
            self._drop(connection)
        else:
            self._hold(connection)
        return None

    def _speaks_late(self, connection: Connection) -> bool:
        """A web server connects and sends in two calls, and we may look between them. Held at once, the connection would
        wait behind the next one that we take, for as long as that is served, although other workers are idle."""
        if connection.served or connection.dead or connection.deadline < FOREVER or connection.spoken:
            return False
        return connection.first_words(_SHORT_MOMENT if self._speaking else _MOMENT) and connection.poll()

    # -- holding connections ------------------------------------------------------------------------------------------

    def _hold(self, connection: Connection) -> None:
        """It has nothing complete to say: wait for it together with the others."""
        if connection.served and not connection.spoken:
            self._put(self._idle, connection, self.idle_timeout)
            return
        due = connection.deadline
        if due <= monotonic():  # bytes that trickle in do not lengthen its time
            self._overdue(connection)
            return
        self._put(self._speaking, connection, self.drain_timeout if self._draining else self.head_timeout)
        if due < connection.deadline:
            connection.deadline = due
            # Behind others that are due later, it would be cut only with them.
            self._speaking = dict(sorted(self._speaking.items(), key=lambda held: held[1].deadline))

    def _put(self, place: dict[int, Connection], connection: Connection, seconds: float) -> None:
        number = connection.fileno()
        if number not in self._watched:
            if len(self._watched) >= _MAX_HELD:
                self._close_oldest()
            self._gate.add(number)
            self._watched.add(number)
        connection.deadline = monotonic() + seconds
        place[number] = connection

    def _wait(self) -> None:
        gate = self._gate
        if not self._draining:
            for listener, _ in self._doors:
                if (number := listener.fileno()) not in gate.listeners:
                    gate.add_listener(number)
        for number in gate.wait(self._next_deadline() if self._watched else FOREVER):
            self._called(number)
        if self._calls and (self._ready or self._leaving):
            self._pass_on()
        if self._watched:
            self._expire()
            self._next_look = monotonic() + _LOOK if self._calls else 0.0

    def _next_deadline(self) -> float:
        deadline = FOREVER
        for place in (self._speaking, self._idle, self._lingering):
            for connection in place.values():
                deadline = min(deadline, connection.deadline)
                break
        return deadline

    def _pass_on(self) -> None:
        calls, self._calls = self._calls, []
        self._gate.pass_on(*calls)

    def _called(self, number: int) -> None:
        if number in self._speaking:
            self._ready.append(self._speaking.pop(number))
        elif number in self._idle:
            self._idle[number].deadline = FOREVER  # its silence is over
            self._ready.append(self._idle.pop(number))
        elif number in self._lingering:
            if not self._lingering[number].discard():
                self._drop(self._lingering.pop(number))
        elif any(listener.fileno() == number for listener, _ in self._doors):
            self._calls.append(number)

    def _expire(self) -> None:
        now = monotonic()
        for place in (self._speaking, self._idle, self._lingering):
            while place:
                number, connection = next(iter(place.items()))
                if connection.deadline > now:
                    break
                del place[number]
                self._overdue(connection)

    def _overdue(self, connection: Connection) -> None:
        if connection.spoken and not connection.served:
            self.manager.notify("closed a connection: the parameters of its request did not come in time")
        self._drop(connection)

    def _close_oldest(self) -> bool:
        for place in (self._idle, self._lingering, self._speaking):
            for number in place:
                self._drop(place.pop(number))
                return True
        return False

    def _drop(self, connection: Connection) -> None:
        number = connection.fileno()
        if number in self._watched:
            self._watched.discard(number)
            self._gate.remove(number)
        connection.close()

    # -- after a request ----------------------------------------------------------------------------------------------

    def _finish_in_hand(self) -> None:
        if self._in_hand is not None:
            self._in_hand.finish()

    def _finished(self, connection: Connection, keep: bool) -> None:
        """Called by the request in hand at its end."""
        self._in_hand = None
        connection.served += 1
        watched = self._watched and connection.fileno() in self._watched
        if not keep and not watched and connection.parser is None:  # most requests
            connection.sock.close()
            return
        try:
            self._settle(connection, keep)
        except ProtocolError as error:
            self.manager.notify(f"closed a connection: {error}")
            self._drop(connection)

    def _settle(self, connection: Connection, keep: bool) -> None:
        if connection.dead:
            self._drop(connection)
        elif keep:
            if self._leaving and not self._draining:
                self._drain()
            # A peer that always has one more would keep a worker that is to leave.
            if self._draining and monotonic() >= self._drain_by:
                self._drop(connection)
            elif connection.next_request():
                self._ready.append(connection)
            elif connection.dead:
                self._drop(connection)
            else:
                self._hold(connection)
        elif connection.input_complete:
            self._drop(connection)
        else:
            # A close with bytes unread resets the connection, and our reply with it. Say that we are done, and let
            # the peer finish.
            connection.half_close()
            self._put(self._lingering, connection, _LINGER)

    def _drain(self) -> bool:
        """Told to leave: True while something is still to be answered."""
        if not self._draining:
            self._draining = True
            self._gate.remove_listeners()
            if self._calls:
                self._pass_on()
            self._drain_by = monotonic() + self.drain_timeout
            for connection in self._speaking.values():
                connection.deadline = min(connection.deadline, self._drain_by)
        for number, connection in tuple(self._idle.items()):
            del self._idle[number]
            connection.deadline = FOREVER
            if self._has_spoken(connection):
                self._ready.append(connection)
            else:
                self._drop(connection)
        return bool(self._ready or self._speaking or self._lingering)

    def _has_spoken(self, connection: Connection) -> bool:
        """One more look at a kept connection that is about to be closed."""
        try:
            return connection.poll() or connection.spoken
        except ProtocolError:
            return False


_at_fork = AtFork(FastCGI._disown)


def _sockets(listener: Listening | Iterable[Listening] | None, manager: ProcManager) -> tuple[socket.socket, ...]:
    if listener is None:
        found: list[Listening] = list(manager.listeners) or [manager.listen()]
    elif isinstance(listener, (socket.socket, Listener)):
        found = [listener]
    else:
        found = list(listener)
    sockets = tuple(one.socket if isinstance(one, Listener) else one for one in found)
    for sock in sockets:
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            # Inherited by what is accepted. A reply in two pieces would wait for the peer's delayed acknowledgement.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sockets


def _allowed_addresses() -> frozenset[str] | None:
    """The web servers' addresses, from FCGI_WEB_SERVER_ADDRS as the specification has it; None for all."""
    listed = os.environ.get("FCGI_WEB_SERVER_ADDRS")
    return frozenset(part.strip() for part in listed.split(",")) if listed is not None else None


def _capability(manager: ProcManager) -> dict[str, str]:
    workers = str(max(1, manager.n_processes))
    return {"FCGI_MAX_CONNS": workers, "FCGI_MAX_REQS": workers, "FCGI_MPXS_CONNS": "0"}
