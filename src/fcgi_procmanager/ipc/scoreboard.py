"""The scoreboard: what each worker does now, in memory that a manager shares with its workers.

Made in the manager before its first fork, with a fixed number of slots. A slot has one writer at a time: the manager while it is
free, then the worker that it was given to. There is no lock, so nobody can die with one; whoever reads may find half of what is just
being written, looks twice, and believes no number without looking at it. What a worker has written outlives it.

The states of all slots lie side by side, a letter each, so that a worker which becomes busy sees in one look how many others are
idle. Where fewer are left than the manager has asked for, the worker tells it (`BUSY`, see channel.py).
"""

from __future__ import annotations

import math
import mmap
import os
import struct
from time import monotonic, process_time
from typing import Callable, NamedTuple

FREE, STARTING, IDLE, READING, BUSY, LONG, LEAVING = b" ", b"s", b"i", b"r", b"b", b"l", b"e"
STATES = {
    STARTING: "starting",
    IDLE: "idle",
    READING: "reading",
    BUSY: "in request",
    LONG: "long",
    LEAVING: "leaving",
}
_IDLE, _READING, _BUSY, _LONG, _LEAVING = (state[0] for state in (IDLE, READING, BUSY, LONG, LEAVING))
AT_WORK = (READING, BUSY, LONG)
IN_REQUEST = (BUSY, LONG)

_HEADER = 64  # bytes; the first one says how many idle workers the manager wants to see
_MOST_WANTED = 255
_METHOD, _URI = 16, 256  # bytes; what is longer is cut

# pid, generation, when it was given out; requests begun, when the latest one began, what it is; when it ended, and the share of
# a CPU that the latest ones took.
_OWNER = struct.Struct("=IId")
_REQUEST = struct.Struct(f"=Qd{_METHOD}s{_URI}s")
_END = struct.Struct("=dd")
_REQUEST_AT = _OWNER.size
_END_AT = _REQUEST_AT + _REQUEST.size
_SIZE = -(-(_END_AT + _END.size) // 64) * 64  # no two workers write to one line of the cache

_LOOKS = 3  # so often is a slot read until two readings agree
# Seconds between two looks at the clock of the process: it is a system call, dearer than all the rest together. So the share of short
# requests is that of all of them in this time, and that of a long one its own.
_SAMPLE = 0.1


class Entry(NamedTuple):
    """A slot as somebody else sees it. Times are monotonic seconds, 0 for never. cpu: share of one CPU that the latest requests
    took, of those that have ended."""

    number: int
    state: bytes
    pid: int
    generation: int
    given_at: float
    requests: int
    began_at: float
    ended_at: float
    cpu: float
    method: str
    uri: str

    @property
    def at_work(self) -> bool:
        return self.state in AT_WORK

    @property
    def in_request(self) -> bool:
        return self.state in IN_REQUEST

    @property
    def idle_since(self) -> float:
        return max(self.given_at, self.ended_at)


class Scoreboard:
    """Manager: the slots, and who has which."""

    def __init__(self, slots: int, descriptor: int = -1) -> None:
        """descriptor: of one that this process had before it executed itself. Raises OSError."""
        self.descriptor: int = descriptor if descriptor >= 0 else _memory()
        if descriptor >= 0:
            slots = _slots_of(os.fstat(descriptor).st_size)
        self.slots = slots
        self._slots_at = _HEADER + -(-slots // 64) * 64
        size = self._slots_at + slots * _SIZE
        if self.descriptor >= 0:
            if descriptor < 0:
                os.ftruncate(self.descriptor, size)
            self._map = mmap.mmap(self.descriptor, size)
        else:
            self._map = mmap.mmap(-1, size)
        if descriptor < 0:
            self._map[_HEADER : _HEADER + slots] = FREE * slots
        self._free = [number for number in reversed(range(slots)) if self._state(number) == FREE]

    def give(self, generation: int) -> Slot | None:
        """A slot for the worker that is to be forked next; None when there is none."""
        if not self._free:
            return None
        number = self._free.pop()
        at = self._slots_at + number * _SIZE
        self._map[at : at + _SIZE] = bytes(_SIZE)
        _OWNER.pack_into(self._map, at, 0, generation, monotonic())
        self._map[_HEADER + number] = STARTING[0]
        return Slot(self._map, number, self.slots, at)

    def take_back(self, number: int) -> Entry | None:
        """Its worker is gone, or was never forked: what it did last."""
        entry = self.read(number)
        if self._state(number) != FREE:
            self._map[_HEADER + number] = FREE[0]
            self._free.append(number)
        return entry

    def want_idle(self, count: int) -> None:
        """Be told by a worker that becomes busy when fewer than these are idle then; 0 for never."""
        self._map[0] = max(0, min(count, _MOST_WANTED))

    @property
    def states(self) -> bytes:
        """A letter for each slot."""
        return self._map[_HEADER : _HEADER + self.slots]

    def read(self, number: int) -> Entry | None:
        """What is in a slot; None when it is free, or holds nothing that could be true."""
        at, state, last = self._slots_at + number * _SIZE, b"", b""
        for _ in range(_LOOKS):
            seen = self._state(number), self._map[at : at + _SIZE]
            if seen == (state, last):
                break
            state, last = seen
        return _entry(number, state, last) if state in STATES else None

    def entries(self) -> list[Entry]:
        found = [self.read(number) for number, state in enumerate(self.states) if state != FREE[0]]
        return [entry for entry in found if entry is not None]

    def drop(self) -> None:
        """Worker: it has its slot, and no use for the descriptor."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def close(self) -> None:
        """May be called twice."""
        self._map.close()
        self.drop()

    def _state(self, number: int) -> bytes:
        return self._map[_HEADER + number : _HEADER + number + 1]


class Slot:
    """Worker: where it writes what it does. Each method is called in each request, so each is one or two copies into memory.

    tell: called when fewer are idle than the manager wants to see, once this worker has become busy.
    """

    __slots__ = (
        "_at",
        "_began",
        "_busy",
        "_cpu",
        "_end",
        "_map",
        "_request",
        "_rest",
        "_sample_at",
        "_state",
        "_states",
        "_used",
        "number",
        "requests",
        "tell",
    )

    def __init__(self, memory: mmap.mmap, number: int, slots: int, at: int) -> None:
        self.number: int = number
        self.requests: int = 0
        self.tell: Callable[[], object] = _nothing
        self._map = memory
        self._at = at
        self._state = _HEADER + number
        # Copied in one go: `pack_into` would write zeros first, and who died there would leave no number.
        self._request = slice(at + _REQUEST_AT, at + _REQUEST_AT + _REQUEST.size)
        self._end = slice(at + _END_AT, at + _END_AT + _END.size)
        self._states = slice(_HEADER, _HEADER + slots)
        self._rest = _IDLE  # what it is between two requests
        self._began = self._busy = self._used = self._cpu = 0.0
        self._sample_at = 0.0

    def take(self) -> None:
        """First thing in the worker."""
        _, generation, given_at = _OWNER.unpack_from(self._map, self._at)
        _OWNER.pack_into(self._map, self._at, os.getpid(), generation, given_at)

    def ready(self) -> None:
        """It can serve from now on."""
        now = monotonic()
        self._used, self._sample_at = process_time(), now + _SAMPLE
        self._map[self._end] = _END.pack(now, 0.0)
        self.rest()

    def reading(self) -> None:
        """It looks for a connection, or has one and no whole request yet."""
        self._map[self._state] = _READING

    def rest(self) -> None:
        """It has nothing in hand."""
        self._map[self._state] = self._rest

    def begin(self, method: str, uri: str) -> None:
        """A request, as the web server names it."""
        memory = self._map
        self.requests += 1
        self._began = monotonic()
        # First what it is, then that it is: a request that kills its worker at once has a name.
        memory[self._request] = _REQUEST.pack(
            self.requests,
            self._began,
            method.encode("latin-1", "replace"),
            uri.encode("latin-1", "replace"),
        )
        memory[self._state] = _BUSY
        # The manager may ask for more at this very moment. It asks, and then reads all states: one of the two sees the other.
        wanted = memory[0]
        if wanted and memory[self._states].count(IDLE) < wanted:
            self.tell()

    @property
    def in_request(self) -> bool:
        return self._map[self._state] in (_BUSY, _LONG)

    @property
    def seconds(self) -> float:
        """Since the latest request began."""
        return monotonic() - self._began

    @property
    def uri(self) -> str:
        """Of the latest request."""
        return _text(_REQUEST.unpack_from(self._map, self._at + _REQUEST_AT)[3])

    def long(self) -> None:
        """The request in hand takes long, and is meant to."""
        if self.in_request:
            self._map[self._state] = _LONG

    def end(self) -> None:
        """Of the request in hand."""
        now = monotonic()
        self._busy += now - self._began
        if now >= self._sample_at:
            self._sample(now)
        self._map[self._end] = _END.pack(now, self._cpu)
        self._map[self._state] = self._rest

    def leave(self) -> None:
        """It is leaving: what it still serves is its last."""
        self._rest = _LEAVING
        if not self.in_request:
            self.rest()

    def _sample(self, now: float) -> None:
        used = process_time()
        # What it used between requests is in it too, which may be more than a short one takes.
        self._cpu = min(1.0, (used - self._used) / max(self._busy, 1e-9))
        self._used, self._busy, self._sample_at = used, 0.0, now + _SAMPLE


class SharedSlot(Slot):
    """The same for a worker whose requests overlap: it is busy while there is any, and shows the one that began last."""

    __slots__ = ("_count", "_lock")

    def __init__(self, slot: Slot) -> None:
        import threading  # not above: a fork would cost more in every worker

        for name in Slot.__slots__:
            setattr(self, name, getattr(slot, name))
        self._lock = threading.Lock()
        self._count = 0

    def begin(self, method: str, uri: str) -> None:
        with self._lock:
            self._count += 1
            super().begin(method, uri)

    def end(self) -> None:
        with self._lock:
            self._count -= 1
            super().end()
            if self._count:
                self._map[self._state] = _BUSY

    def reading(self) -> None:
        """Another thread may be in a request, and this is no news of it."""

    def rest(self) -> None:
        if not self._count:
            super().rest()


def _nothing() -> None:
    pass


def _memory() -> int:
    """Of no name, and without a place on a disk; -1 where a descriptor for it cannot be had, and a fork is what shares it."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("scoreboard")
    return -1


def _slots_of(size: int) -> int:
    """How many there are in so many bytes."""
    slots = (size - _HEADER) // _SIZE
    while slots > 0 and _HEADER + -(-slots // 64) * 64 + slots * _SIZE > size:
        slots -= 1
    return slots


def _entry(number: int, state: bytes, data: bytes) -> Entry:
    pid, generation, given_at = _OWNER.unpack_from(data)
    requests, began_at, method, uri = _REQUEST.unpack_from(data, _REQUEST_AT)
    ended_at, cpu = _END.unpack_from(data, _END_AT)
    return Entry(
        number,
        state,
        pid,
        generation,
        _seconds(given_at),
        requests,
        _seconds(began_at),
        _seconds(ended_at),
        _seconds(cpu),
        _text(method),
        _text(uri),
    )


def _seconds(value: float) -> float:
    return value if math.isfinite(value) and value >= 0 else 0.0


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("latin-1")
