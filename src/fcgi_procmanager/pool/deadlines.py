"""Requests that take too long, as a part of the manager's loop: reported with their stack, told to end, killed.

Runs in the manager, which reads on the scoreboard when each request began: a request costs nothing, and a worker that hangs is
watched all the same. A request that says that it takes long (`update_status("long")`) is left alone.

| after                             | once a request                                                                    |
| --------------------------------- | --------------------------------------------------------------------------------- |
| slow_after                        | the worker is asked for its stack; one record in the log, or in slow_log           |
| request_timeout                   | the worker is told, each quarter of a second until the request ends: RequestTimeout |
| request_timeout and request_grace | the worker is killed                                                               |
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any

from ..basics.clock import FOREVER, monotonic
from ..basics.printable import printable
from ..children.registry import WORKER, Child
from ..ipc.scoreboard import BUSY, Entry
from ..manager.parts import PoolPart
from . import stacks, timeouts

if TYPE_CHECKING:
    from ..manager.half import ManagerHalf
    from .poolmanager import PoolManager
    from .workers import PoolWorkers

_REPEAT = 0.25  # seconds


class Deadlines(PoolPart):
    """slow: requests that were reported. timeouts: those whose worker was told."""

    next_at: float

    kind = "deadlines"  # what it leaves to the manager's next image

    def __init__(self, manager: PoolManager) -> None:
        self._manager = manager
        self._half: ManagerHalf | None = None
        self._stacks: stacks.Stacks | None = None
        self._asked: tuple[Child, Entry] | None = None  # for its stack
        self._reported: dict[int, int] = {}  # pid -> the number of its request
        self._told: dict[int, tuple[int, float]] = {}  # the same, and when it is to be told again
        self.slow: int = 0
        self.timeouts: int = 0

    def begin(self, half: ManagerHalf) -> None:
        self._half = half
        left = half.left_by(self.kind)
        self.slow, self.timeouts = left.get("slow", 0), left.get("timeouts", 0)
        if self._manager.slow_after:
            self._stacks = stacks.Stacks(left.get("descriptors", ()))
        self.next_at = monotonic()

    def leave(self) -> dict[str, Any] | None:
        descriptors = self._stacks.descriptors if self._stacks is not None else []
        return {"descriptors": descriptors, "slow": self.slow, "timeouts": self.timeouts}

    def close(self) -> None:
        self.next_at = FOREVER
        if self._stacks is not None:
            self._stacks.close()
            self._stacks = None

    def forked(self) -> None:
        self._half = None

    def prepare_worker(self) -> None:
        if self._stacks is not None:
            self._stacks.answer_from_here(threads=False)

    # -- the loop -----------------------------------------------------------------------------------------------------

    def turn(self, now: float) -> bool:
        if self._half is None or now < self.next_at:
            return False
        self._forget_gone()
        due = [self._collect(now)]
        for child in self._workers.children.everybody:
            entry = self._workers.entry(child.pid)
            if entry is not None and entry.state == BUSY and child.ready_at < FOREVER:
                due += [self._report_slow(child, entry, now), self._end_late(child, entry, now)]
        # A request that begins now is not late sooner than this.
        limits = [limit for limit in (self._manager.slow_after, self._manager.request_timeout) if limit]
        self.next_at = min(due) if min(due) < FOREVER else FOREVER
        self.next_at = max(now + 0.001, min(self.next_at, now + min(limits)))
        return False

    def _forget_gone(self) -> None:
        present = set(self._workers.children.pids)
        self._reported = {pid: number for pid, number in self._reported.items() if pid in present}
        self._told = {pid: told for pid, told in self._told.items() if pid in present}

    def _end_late(self, child: Child, entry: Entry, now: float) -> float:
        """Returns when there is more to do (monotonic seconds)."""
        limit = self._manager.request_timeout
        if not limit:
            return FOREVER
        late_at = entry.began_at + limit
        if now < late_at:
            return late_at
        if now >= late_at + self._manager.request_grace:
            self._kill(child, entry, now)
            return FOREVER
        number, again_at = self._told.get(child.pid, (0, 0.0))
        if number != entry.requests:
            self.timeouts += 1
            again_at = now
        if now >= again_at:
            again_at = now + _REPEAT
            self._told[child.pid] = entry.requests, again_at
            self._half.reaper.send(child, timeouts.SIGNAL)  # type: ignore[union-attr]
        return min(again_at, late_at + self._manager.request_grace)

    def _kill(self, child: Child, entry: Entry, now: float) -> None:
        seconds = now - entry.began_at
        self._manager.notify(
            f"{WORKER} (pid {child.pid}) is killed: {_name(entry)} takes {seconds:.1f} s (request_timeout)"
        )
        self._half.reaper.kill(child)  # type: ignore[union-attr]

    # -- stacks -------------------------------------------------------------------------------------------------------

    def _report_slow(self, child: Child, entry: Entry, now: float) -> float:
        limit = self._manager.slow_after
        if not limit or self._reported.get(child.pid) == entry.requests:
            return FOREVER
        slow_at = entry.began_at + limit
        if now < slow_at:
            return slow_at
        if self._asked is not None or self._stacks is None:
            return now + stacks.LOOK
        self._reported[child.pid] = entry.requests
        self._asked = child, entry
        self._stacks.begin()
        self._half.reaper.send(child, stacks.SIGNAL)  # type: ignore[union-attr]
        return now + stacks.LOOK

    def _collect(self, now: float) -> float:
        if self._asked is None or self._stacks is None:
            return FOREVER
        stack = self._stacks.answer()
        if stack is None:
            return now + stacks.LOOK
        (child, entry), self._asked = self._asked, None
        self._record(child, entry, stack, now)
        return FOREVER

    def _record(self, child: Child, entry: Entry, stack: str, now: float) -> None:
        self.slow += 1
        seconds = now - entry.began_at
        head = f"slow request: {_name(entry)} for {seconds:.1f} s in {WORKER} (pid {child.pid}), its request {entry.requests}"
        record = f"{head}\n{stack or '(the stack could not be had)'}"
        path = self._manager.slow_log
        if path is None:
            self._manager.notify(record)
            return
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        try:
            _append(os.fspath(path), f"{stamp} {record}\n\n")
        except OSError as error:
            self._manager.notify(f"slow_log {os.fspath(path)}: {error.strerror}")
            self._manager.notify(record)

    @property
    def _workers(self) -> PoolWorkers:
        assert self._half is not None
        return self._half.workers  # type: ignore[return-value]


def _append(path: str, text: str) -> None:
    """Opened each time: whoever moves the file away need not tell."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(path, flags, 0o640)
    try:
        with contextlib.suppress(BlockingIOError):  # a pipe that is full
            os.write(descriptor, text.encode(errors="replace"))
    finally:
        os.close(descriptor)


def _name(entry: Entry) -> str:
    return f"{printable(entry.method)} {printable(entry.uri)}" if entry.method or entry.uri else "a request"
