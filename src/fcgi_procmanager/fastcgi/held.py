"""The connections that a worker has accepted and whose turn it is not: where each is, until when, and what happens then.

Runs in a worker, in the thread of their accept loop. Must never take a new connection, and never serve a request.

A connection is in one place at a time. A peer that has not said enough is watched by the gate and pins nobody:

| place     | its peer                                   | for how long                     | when it sends          | when overdue |
| --------- | ------------------------------------------ | -------------------------------- | ---------------------- | ------------ |
| ready     | has sent something that is not read yet    | until it is the first            | nobody looks           | never is     |
| speaking  | has not sent all parameters of its request | head_timeout, drain_timeout      | ready                  | closed, told |
| idle      | has its replies, and is kept               | idle_timeout                     | ready, with a new time | closed       |
| lingering | has its reply, and is still sending        | LINGER                           | what it sends is lost  | closed       |
| in hand   | is being served                            | receive_timeout and send_timeout | see connection.py      | given up     |

A deadline that a connection has is never moved back: bytes that trickle in do not lengthen its time.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import Callable, NamedTuple

from ..basics.clock import FOREVER, monotonic
from ..errors import ProtocolError
from ..worker.gate import Gate
from .connection import Connection

LINGER = 2.0  # seconds a peer that still sends gets to read our reply, before a close would destroy it
MAX_HELD = 1000  # connections; beyond it the one that has been silent longest makes room


class Place(Enum):
    """Where connections wait, in the order in which they make room for others."""

    IDLE = "idle"
    LINGERING = "lingering"
    SPEAKING = "speaking"


class Held:
    """The connections of one accept loop, except the one in hand.

    ready: those to be looked at, in turn. watched: descriptors that the gate knows; of the connection in hand as well, if
    it was held before. notify: for a line in the log.
    """

    def __init__(self, notify: Callable[[str], None], gate: Callable[[], Gate]) -> None:
        self._notify = notify
        self._gate = gate
        self.ready: deque[Connection] = deque()
        self.watched: set[int] = set()
        # Each in the order of the deadlines: the first one is due first.
        self._places: dict[Place, dict[int, Connection]] = {place: {} for place in Place}

    @property
    def expects_something(self) -> bool:
        """There is one to be looked at, or one that has not said or read all it may."""
        return bool(self.ready or self._places[Place.SPEAKING] or self._places[Place.LINGERING])

    @property
    def somebody_is_silent(self) -> bool:
        """At least one connection has not said all of its request."""
        return bool(self._places[Place.SPEAKING])

    def put(self, place: Place, connection: Connection, seconds: float) -> None:
        """Wait for it so long, or for what is left of the time that it has."""
        now = monotonic()
        earlier, due = connection.deadline, now + seconds
        if earlier <= now:
            _TABLE[place].overdue(self, connection)
            return
        number = connection.fileno()
        self._watch(number)
        there = self._places[place]
        connection.deadline = min(earlier, due)
        there[number] = connection
        if earlier < due:  # behind others that are due later, it would be closed only with them
            self._places[place] = dict(sorted(there.items(), key=lambda held: held[1].deadline))

    def called(self, number: int) -> None:
        """The gate says that this one has sent something."""
        for place, there in self._places.items():
            if number in there:
                _TABLE[place].called(self, there, number)
                return

    @property
    def next_deadline(self) -> float:
        firsts = [next(iter(there.values())).deadline for there in self._places.values() if there]
        return min(firsts, default=FOREVER)

    def expire(self) -> None:
        """Close those whose time is over."""
        now = monotonic()
        for place, there in self._places.items():
            while there:
                number, connection = next(iter(there.items()))
                if connection.deadline > now:
                    break
                del there[number]
                _TABLE[place].overdue(self, connection)

    def hurry(self, deadline: float) -> None:
        """Those that have not said all get until then."""
        for connection in self._places[Place.SPEAKING].values():
            connection.deadline = min(connection.deadline, deadline)

    def dismiss_idle(self) -> None:
        """Close the kept ones, but look at each once more: one that has sent its next request is ready."""
        idle = self._places[Place.IDLE]
        while idle:
            connection = idle.pop(next(iter(idle)))
            connection.deadline = FOREVER
            if _has_sent(connection):
                self.ready.append(connection)
            else:
                self.drop(connection)

    def make_room(self) -> bool:
        """Close the one that has been silent longest. False when nobody is held."""
        for there in self._places.values():
            for number in there:
                self.drop(there.pop(number))
                return True
        return False

    def drop(self, connection: Connection) -> None:
        number = connection.fileno()
        if number in self.watched:
            self.watched.discard(number)
            self._gate().remove(number)
        connection.close()

    def close(self) -> None:
        for connection in self._take_all():
            self.drop(connection)

    def disown(self) -> None:
        """In a child that the application has forked: its copies only. The parent answers, watches and closes; the wait set
        is shared, so taking a connection out of it would make the parent deaf."""
        self.watched.clear()
        for connection in self._take_all():
            connection.close()

    # -- the actions of the table -------------------------------------------------------------------------------------

    def _is_ready(self, there: dict[int, Connection], number: int) -> None:
        self.ready.append(there.pop(number))

    def _begins_anew(self, there: dict[int, Connection], number: int) -> None:
        there[number].deadline = FOREVER  # its silence is over
        self._is_ready(there, number)

    def _sends_in_vain(self, there: dict[int, Connection], number: int) -> None:
        if not there[number].discard():
            self.drop(there.pop(number))

    def _close_and_tell(self, connection: Connection) -> None:
        if connection.spoken and not connection.served:
            self._notify("closed a connection: the parameters of its request did not come in time")
        self.drop(connection)

    def _watch(self, number: int) -> None:
        if number not in self.watched:
            if len(self.watched) >= MAX_HELD:
                self.make_room()
            self._gate().add(number)
            self.watched.add(number)

    def _take_all(self) -> list[Connection]:
        found = [connection for there in self._places.values() for connection in there.values()]
        found += self.ready
        self.ready.clear()
        for there in self._places.values():
            there.clear()
        return found


class _Row(NamedTuple):
    called: Callable[[Held, dict[int, Connection], int], None]
    overdue: Callable[[Held, Connection], None]


_TABLE = {
    Place.SPEAKING: _Row(called=Held._is_ready, overdue=Held._close_and_tell),
    Place.IDLE: _Row(called=Held._begins_anew, overdue=Held.drop),
    Place.LINGERING: _Row(called=Held._sends_in_vain, overdue=Held.drop),
}


def _has_sent(connection: Connection) -> bool:
    try:
        return connection.poll() or connection.spoken
    except ProtocolError:
        return False
