"""The workers of an adaptive pool: each has a slot on the scoreboard, and how many there are is decided anew as they become busy.

Runs in the manager. What a worker did last is read here when it has ended.
"""

from __future__ import annotations

import signal
from functools import partial
from typing import TYPE_CHECKING, Any

from ..basics.clock import FOREVER, monotonic
from ..basics.exits import Exit
from ..basics.printable import printable
from ..children.launch import Record
from ..children.registry import WORKER, Child
from ..children.sizing import PER_REQUEST, Load
from ..ipc.channel import BUSY, WORN
from ..ipc.scoreboard import Entry, Scoreboard
from ..manager.workers import Workers
from .deaths import Crashes, Deaths
from .worn import lifetime

if TYPE_CHECKING:
    from ..manager.half import ManagerHalf
    from ..manager.handover import Handover
    from .poolmanager import PoolManager

_FATAL = (signal.SIGSEGV, signal.SIGBUS)


class PoolWorkers(Workers):
    """board: the scoreboard. requests: begun by those who are gone. started: workers so far. died: those who were not asked to
    leave. retired: how many were replaced for which limit. failed_starts: who has never become ready."""

    started: int
    died: int
    failed_starts: int

    def __init__(self, manager: PoolManager, half: ManagerHalf) -> None:
        super().__init__(manager, half)
        self._pool = manager
        self.board: Scoreboard = manager._scoreboard()
        self.deaths: Deaths = Deaths()
        self.retired: dict[str, int] = {}
        self.requests: int = 0
        self.started = self.died = self.failed_starts = 0
        self._crashes = Crashes(manager.emergency_restart_threshold, manager.emergency_restart_interval)
        self._slots: dict[int, int] = {}  # pid -> slot
        self._worn: dict[int, str] = {}  # pid -> why it is to be replaced, in the order in which they said so
        self._reasons: dict[int, str] = {}  # pid -> why it was replaced, of those who are leaving
        self._ages: dict[int, float] = {}  # pid -> when it is too old (monotonic seconds)
        self._wanted = manager._sizing.start()

    # -- how many -----------------------------------------------------------------------------------------------------

    @property
    def wanted(self) -> int:
        """One more while one is to be replaced: the new one comes first. Not beside a reload, which replaces everybody."""
        return self._wanted + (bool(self._worn) and not self._reloading)

    def resize(self, wanted: int, retire: tuple[int, ...]) -> None:
        """From now on there should be so many, and these are the ones to go."""
        self._wanted = wanted
        chosen = [self.children.staying[pid] for pid in retire if pid in self.children.staying]
        self.retire(chosen, self._manager.reload_timeout)

    def load(self, waiting: int) -> Load:
        """waiting: connections that nobody has accepted."""
        idle, busy, starting = [], 0, 0
        entries = {entry.pid: entry for entry in self.board.entries()}
        for pid, child in self.children.staying.items():
            entry = entries.get(pid)
            if child.ready_at == FOREVER:
                starting += 1
            elif entry is not None and not entry.in_request:
                idle.append((pid, max(child.ready_at, entry.idle_since)))
            else:
                busy += 1
        return Load(monotonic(), starting, tuple(idle), busy, waiting, len(self.children.leaving))

    def fill(self) -> None:
        self._pool._sizer.look()
        if self._worn and not self._reloading:
            self._replace_worn()
        super().fill()

    # -- slots --------------------------------------------------------------------------------------------------------

    def fork(self, record: Record) -> int:
        """A standby has its slot from the beginning, in which it is one that starts until it is told to serve."""
        collector = self._pool._collector
        if collector is not None:
            collector.give_output()
        self.slot = self.board.give(self.generation)
        try:
            return super().fork(partial(self._furnish, record))
        finally:
            if collector is not None:
                collector.output_given(WORKER, 0)
            # In the child it has been taken from here; a slot whose worker could not be forked is free again.
            slot, self.slot = self.slot, None
            if slot is not None and slot.number not in self._slots.values() and self._half.is_kept:
                self.board.take_back(slot.number)

    def _furnish(self, record: Record, pid: int) -> None:
        record(pid)
        if self._pool._collector is not None:
            self._pool._collector.output_given(WORKER, pid)
        if self.slot is not None:
            self._slots[pid] = self.slot.number

    def _promote(self, missing: int) -> bool:
        promoted = super()._promote(missing)
        if promoted:
            self._pool._sizer.called()
        return promoted

    def _began(self, pid: int) -> None:
        self.started += 1
        if self._pool.max_age:
            self._ages[pid] = monotonic() + lifetime(self._pool.max_age)

    def standby_ended(self, pid: int) -> None:
        self._take_back_slot(pid)

    def _take_back_slot(self, pid: int) -> Entry | None:
        number = self._slots.pop(pid, None)
        return self.board.take_back(number) if number is not None else None

    def entry(self, pid: int) -> Entry | None:
        """What this worker does now."""
        number = self._slots.get(pid)
        return None if number is None else self.board.read(number)

    # -- what they say ------------------------------------------------------------------------------------------------

    def heard(self, kind: bytes, pid: int, text: str) -> None:
        if kind == BUSY:
            self._pool._sizer.called()
        elif kind == WORN:
            if pid in self.children.staying:
                self._worn.setdefault(pid, text)
        else:
            super().heard(kind, pid, text)
            self._pool._sizer.called()

    # -- those that are replaced --------------------------------------------------------------------------------------

    def _replace_worn(self) -> None:
        """One at a time, when there is one more than there should be and all are ready."""
        for pid in [pid for pid in self._worn if pid not in self.children.staying]:
            del self._worn[pid]
        if self._worn and self.children.ready > self._wanted:
            pid = next(iter(self._worn))
            reason = self._reasons[pid] = self._worn.pop(pid)
            limit = reason.partition(" ")[0]
            self.retired[limit] = self.retired.get(limit, 0) + 1
            self._manager.notify(f"replacing {WORKER} (pid {pid}): {reason}")
            self.retire([self.children.staying[pid]], self._manager.reload_timeout)

    def reason(self, pid: int) -> str:
        """Why it is, or will be, replaced; empty if it is not."""
        return self._reasons.get(pid) or self._worn.get(pid, "")

    @property
    def next_at(self) -> float:  # type: ignore[override]
        return min(super().next_at, min(self._ages.values(), default=FOREVER))

    def turn(self, now: float) -> bool:
        old = [pid for pid, at in self._ages.items() if at <= now]
        for pid in old:
            del self._ages[pid]
            if pid in self.children.staying:
                self._worn.setdefault(pid, f"max_age ({self._pool.max_age:g} s)")
        return super().turn(now) or bool(old)

    # -- how they end -------------------------------------------------------------------------------------------------

    def ended(self, child: Child, exit: Exit) -> None:
        self._worn.pop(child.pid, None)
        self._reasons.pop(child.pid, None)
        self._ages.pop(child.pid, None)
        entry = self._take_back_slot(child.pid)
        if entry is not None:
            self.requests += entry.requests
            if entry.at_work and not exit.clean:
                self._died_at_work(child, entry)
        if self._pool._sizing.pool == PER_REQUEST and child.ladder is None and child.served and exit.clean:
            self._wanted = max(0, self._wanted - 1)  # it has had its request: another one is for the next request
        self.died += child.ladder is None and not exit.clean
        if not exit.clean:
            # It may have been woken for a connection that it did not come to accept, and here nobody need take its place: who is
            # idle looks.
            self._half.channel.baton.give()
        super().ended(child, exit)
        self._pool._sizer.called()
        if exit.signal in _FATAL and self._crashes.add(monotonic()):
            self._manager.notify("too many servers crashed: replacing all of them (emergency_restart_threshold)")
            self._half.reload()

    def _could_not_start(self, child: Child, now: float) -> None:
        self.failed_starts += 1
        super()._could_not_start(child, now)

    def _died_at_work(self, child: Child, entry: Entry) -> None:
        if not entry.in_request:
            self.deaths.count += 1  # it had a connection, and no request yet that could be named
            return
        method, uri = printable(entry.method), printable(entry.uri)
        after = monotonic() - entry.began_at
        what = f"{method} {uri}" if method or uri else "a request"
        self._manager.notify(
            f"{WORKER} (pid {child.pid}) died in {what} (its request {entry.requests}, after {after:.1f} s)"
        )
        if times := self.deaths.add(method, uri):
            path = uri.partition("?")[0]
            self._manager.notify(f"{method} {path} has ended {times} servers: it is said once, and counted on")

    # -- the manager executes itself ----------------------------------------------------------------------------------

    def left(self) -> dict[str, Any]:
        """What the next image is to have of it."""
        descriptors = [self.board.descriptor] if self.board.descriptor >= 0 else []
        return {
            "descriptors": descriptors,
            "requests": self.requests,
            "started": self.started,
            "deaths": self.deaths.count,
            "died": self.died,
            "failed_starts": self.failed_starts,
            "retired": self.retired,
        }

    def adopt(self, left: Handover) -> None:
        super().adopt(left)
        mine = left.parts.get(self._pool._sizer.kind, {})
        if mine.get("descriptors"):
            self.board.close()
            self.board = Scoreboard(0, mine["descriptors"][0])
        self.requests, self.started = mine.get("requests", 0), mine.get("started", 0)
        self.died, self.failed_starts = mine.get("died", 0), mine.get("failed_starts", 0)
        self.deaths.count, self.retired = mine.get("deaths", 0), mine.get("retired", {})
        self._pool._sizer.saturated, self._pool._sizer.max_active = mine.get("saturated", 0), mine.get("max_active", 0)
        by_pid = {entry.pid: entry.number for entry in self.board.entries()}
        present = [*self.children.pids, *self._half.standby.children.pids]
        self._slots = {pid: by_pid[pid] for pid in present if pid in by_pid}
        for number in by_pid.values():
            if number not in self._slots.values():
                self.board.take_back(number)  # of one whose end was heard of before it could be taken back
        self._wanted = max(self._wanted, len(self.children.staying))
        if self._pool.max_age:
            self._ages = {pid: monotonic() + lifetime(self._pool.max_age) for pid in self.children.staying}
