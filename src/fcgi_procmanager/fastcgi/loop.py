"""`FastCGI`: the accept loop of a worker. Decides which connection is served next, and what becomes of it afterwards.

Runs in a worker, in the thread that serves. Must never serve a request itself.

A new connection (listeners.py) is taken only when none of those held (held.py) is ready; while new ones come in a row, that
is asked once a millisecond. Told to leave, the worker takes no new connection. What has been accepted and not been served
yet gets `drain_timeout` to speak and is answered; kept connections are looked at once more, then closed; then `accept`
returns None. A worker whose manager is gone closes its listeners first.
"""

from __future__ import annotations

import atexit
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Callable

from ..basics import checks
from ..basics.clock import FOREVER, monotonic
from ..basics.states import Role
from ..errors import ConfigError, ProtocolError
from ..manager.procmanager import ProcManager
from ..system.atfork import AtFork
from ..worker.gate import Gate
from . import held, protocol
from .cgi import Cgi
from .connection import Connection, Limits
from .held import Held, Place
from .listeners import Listeners, Listening
from .request import Done, Request

if TYPE_CHECKING:
    from ..ipc.scoreboard import Slot

# Seconds a new connection gets to say its first word before another one may be taken: longer than a web server that was
# preempted between its connect and its send. Once there is a silent one, the others are not given much.
_FIRST_BYTE_TIMEOUT, _SHORT_FIRST_BYTE_TIMEOUT = 0.02, 0.001
_LOOK = 0.001  # seconds between looks at those that are held, while new connections come in a row


class FastCGI:
    """Requests, one after another, for a hand-written loop.

    listener: what `manager.listen()` returned, a listening socket, or several; None for all that the manager listens
        on, else what systemd or a FastCGI spawner handed over.
    manager: None for a single process without one.
    roles: FastCGI roles to answer, 1 for Responder, 2 for Authorizer, 3 for Filter; others are refused with UNKNOWN_ROLE.
    head_timeout: seconds a connection may take to bring the parameters of its first request, or of a begun one.
    idle_timeout: seconds a kept connection may be silent. Longer than the web server's own, so that it closes first.
    receive_timeout: seconds to wait for more of a body. send_timeout: seconds that the peer may keep one reply waiting
        in all. drain_timeout: seconds that one which was accepted gets to speak, when this worker is to leave.
    as_cgi: while a request is in hand, `print` writes its reply, `sys.stdin` is its body and `os.environ` has its parameters, as in
        a CGI script. For scripts with one thread: streams and environment are those of the whole process.
    _gate: of a thread of its own (lanes.py); None for the main thread's.

    Raises ConfigError, and ListenError when nothing was handed over. Source: the loop of FCGI.pm and of every Perl FastCGI script.
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
        as_cgi: bool = False,
        _gate: Gate | None = None,
    ) -> None:
        self.manager: ProcManager = manager_of(manager)
        self.roles: tuple[int, ...] = tuple(roles)
        self.head_timeout: float = checks.timeout("head_timeout", head_timeout)
        self.idle_timeout: float = checks.timeout("idle_timeout", idle_timeout)
        self.receive_timeout: float = checks.timeout("receive_timeout", receive_timeout)
        self.send_timeout: float = checks.timeout("send_timeout", send_timeout)
        self.drain_timeout: float = checks.timeout("drain_timeout", drain_timeout)
        self._cgi = Cgi() if checks.flag("as_cgi", as_cgi) else None
        self._capability: dict[str, str] = {}
        limits = Limits(self.roles, self._capability, self.receive_timeout, self.send_timeout)
        self._listeners = Listeners(listener, self.manager, limits, self._gate, self._refuse)
        self._lane_gate = _gate
        self._held = Held(self.manager.notify, self._gate)
        # Monotonic seconds. Until then new connections come in a row, and those held are not asked.
        self._next_look = 0.0
        self._in_hand: Request | None = None
        self._looked_at: Connection | None = None  # the one in hand, or the last one
        self._begun = False  # this process accepts
        self._make: Callable[[Connection, Done], Request] = Request
        self._slot: Slot | None = None  # of the scoreboard
        self._disowned = False
        self._draining = False
        self._drain_by = FOREVER
        _at_fork.add(self)
        _at_fork_then.add(self)

    def accept(self) -> Request | None:  # noqa: PLR0912 - each call would cost every request
        """Worker: the next request, or None once it should leave. A request in hand that was not finished is. Raises OSError when no
        connection can be accepted any more."""
        if self._in_hand is not None:
            self._in_hand.finish()
        waiting, listeners = self._held, self._listeners
        if not self._begun:
            self._begin()
        slot = self._slot
        while True:
            while waiting.ready:
                request = self._look(waiting.ready.popleft())
                if request is not None:
                    return request
            if self._leaving:
                if self._disowned or not self._drain():
                    return None
                if waiting.ready:  # what it said has been read already: no event will come for it
                    continue
            elif not waiting.watched or listeners.called or monotonic() < self._next_look:
                if slot is not None:
                    slot.reading()  # before it has one: who dies with a connection was at work
                connection = listeners.take()
                if connection is not None:
                    request = self._look(connection)
                    if request is not None:
                        return request
                    continue
                self._next_look = 0.0
            if slot is not None:
                slot.rest()
            self._wait()

    def busy(self) -> bool:
        """Worker: told to leave, whether it still has something to answer. Finishes the request in hand."""
        self._finish_in_hand()
        return self._drain()

    def close(self) -> None:
        """Worker: finish the request in hand and close every held connection. The listeners are their owner's."""
        self._finish_in_hand()
        self._held.close()
        atexit.unregister(self._finish_in_hand)

    @property
    def _leaving(self) -> bool:
        lane = self._lane_gate
        if lane is not None and lane.orphaned:
            return True
        return self.manager.leaving or self._disowned

    def _gate(self) -> Gate:
        return self._lane_gate or self.manager._gate

    def _disown(self) -> None:
        """In a child that the application has forked: what is open here is its parent's to answer, watch and close. While a
        copy of it is open, the peer sees no end of its connection, and nobody can bind the address anew."""
        if self._in_hand is not None:
            self._in_hand.disown()
            self._in_hand = None
        if self._cgi is not None:
            self._cgi.take_back()
        if self._looked_at is not None:
            self._looked_at.disown()
        self._slot = None
        self._held.disown()

    def _disown_listeners(self) -> None:
        """In such a child, when every loop of this process has disowned what it knows."""
        if self._is_of_the_application:
            self._listeners.close_copies()
            self._disowned = True

    @property
    def _is_of_the_application(self) -> bool:
        """Whether a child of this process is one of the application. A worker has no others. A process that is to become
        the manager, ours or a hand-made one, forks workers, which need the listeners; it does not accept."""
        return self.manager.role is Role.SERVER or (self._begun and self.manager.n_processes == 0)

    def _begin(self) -> None:
        """What a worker has is there after the fork only; this loop may have been made before it."""
        self._begun, self._slot = True, self.manager._slot
        self._capability.update(_capability(self.manager))
        if self._lane_gate is None:
            self.manager._add_busy_check(self.busy)
            atexit.register(self._finish_in_hand)
        self._make = self.manager._make_request or Request

    # -- before a request ---------------------------------------------------------------------------------------------

    def _look(self, connection: Connection) -> Request | None:
        """What a connection has to say now: its request, or it goes to wait, or it is closed."""
        self._looked_at = connection
        try:
            complete = connection.poll() or self._speaks_late(connection)
        except ProtocolError as error:
            self.manager.notify(f"closed a connection: {error}")
            self._held.drop(connection)
            return None
        if complete:
            connection.deadline = FOREVER
            self._in_hand = request = self._make(connection, self._finished)
            if self._slot is not None:
                params = request.params
                uri = params.get("REQUEST_URI") or params.get("SCRIPT_NAME", "") + params.get("PATH_INFO", "")
                self._slot.begin(params.get("REQUEST_METHOD", ""), uri)
            if self._cgi is not None:
                self._cgi.give(request)
            return request
        if connection.dead:
            self._held.drop(connection)
        else:
            self._hold(connection)
        return None

    def _speaks_late(self, connection: Connection) -> bool:
        """A web server connects and sends in two calls, and we may look between them. Held at once, the connection would
        wait behind the next one that we take, for as long as that is served, although other workers are idle."""
        if connection.served or connection.dead or connection.deadline < FOREVER or connection.spoken:
            return False
        crowded = self._held.somebody_is_silent
        seconds = _SHORT_FIRST_BYTE_TIMEOUT if crowded else _FIRST_BYTE_TIMEOUT
        return connection.first_words(seconds) and connection.poll()

    def _hold(self, connection: Connection) -> None:
        """It has nothing complete to say: wait for it together with the others."""
        if connection.served and not connection.spoken:
            connection.deadline = FOREVER  # also of one that has withdrawn a request it had begun
            self._held.put(Place.IDLE, connection, self.idle_timeout)
        else:
            self._held.put(Place.SPEAKING, connection, self.drain_timeout if self._draining else self.head_timeout)

    def _wait(self) -> None:
        gate, waiting, listeners = self._gate(), self._held, self._listeners
        if not self._draining:
            listeners.enter()
        for number in gate.wait(waiting.next_deadline if waiting.watched else FOREVER):
            if number in waiting.watched:
                waiting.called(number)
            else:
                listeners.note_call(number)
        if listeners.called and (waiting.ready or self._leaving):
            listeners.pass_on()
        if waiting.watched:
            waiting.expire()
            self._next_look = monotonic() + _LOOK if listeners.called else 0.0

    def _refuse(self, error: OSError) -> None:
        """No connection can be taken. With room made it is tried again; with nobody to make room it is hopeless."""
        self.manager.notify(f"accept: {error.strerror}")
        if not self._held.make_room():
            raise error

    # -- after a request ----------------------------------------------------------------------------------------------

    def _finish_in_hand(self) -> None:
        if self._in_hand is not None:
            self._in_hand.finish()

    def _finished(self, connection: Connection, keep: bool) -> None:
        """Called by the request in hand at its end."""
        self._in_hand = None
        if self._cgi is not None:
            self._cgi.take_back()
        if self._slot is not None:
            self._slot.end()
        connection.served += 1
        watched = self._held.watched and connection.fileno() in self._held.watched
        if not keep and not watched and connection.parser is None:  # most requests
            connection.sock.close()
            return
        try:
            self._settle(connection, keep)
        except ProtocolError as error:
            self.manager.notify(f"closed a connection: {error}")
            self._held.drop(connection)

    def _settle(self, connection: Connection, keep: bool) -> None:
        if connection.dead:
            self._held.drop(connection)
        elif keep:
            if self._leaving and not self._draining:
                self._drain()
            # A peer that always has one more would keep a worker that is to leave.
            if self._draining and monotonic() >= self._drain_by:
                self._held.drop(connection)
            elif connection.next_request():
                self._held.ready.append(connection)
            elif connection.dead:
                self._held.drop(connection)
            else:
                self._hold(connection)
        elif connection.input_complete:
            self._held.drop(connection)
        else:
            # A close with bytes unread resets the connection, and our reply with it. Say that we are done, and let
            # the peer finish.
            connection.half_close()
            self._held.put(Place.LINGERING, connection, held.LINGER)

    def _drain(self) -> bool:
        """Told to leave: True while something is still to be answered."""
        if not self._draining:
            self._draining = True
            if self._slot is not None:
                self._slot.leave()
            gate = self._gate()
            gate.remove_listeners()
            if self._listeners.called:
                self._listeners.pass_on()
            if gate.is_owed():
                self._take_last()
            self._drain_by = monotonic() + self.drain_timeout
            self._held.hurry(self._drain_by)
        if self._lane_gate is None and self._gate().orphaned:
            # Nobody will take what comes now, and the next manager cannot have an address at which somebody listens.
            self._listeners.close()
        self._held.dismiss_idle()
        return self._held.expects_something

    def _take_last(self) -> None:
        connection = self._listeners.take()
        if connection is not None:
            self._held.ready.append(connection)


_at_fork = AtFork(FastCGI._disown)
_at_fork_then = AtFork(FastCGI._disown_listeners)


def manager_of(given: ProcManager | None) -> ProcManager:
    """What a server was given as its manager, or one of a single process. Raises ConfigError."""
    if given is None:
        return ProcManager()
    if not isinstance(given, ProcManager):
        number = given if type(given) is int else 4
        raise ConfigError(f"manager must be a ProcManager, not {given!r}: write manager=ProcManager({number})")
    return given


def _capability(manager: ProcManager) -> dict[str, str]:
    workers = str(max(1, manager.n_processes))
    return {"FCGI_MAX_CONNS": workers, "FCGI_MAX_REQS": workers, "FCGI_MPXS_CONNS": "0"}
