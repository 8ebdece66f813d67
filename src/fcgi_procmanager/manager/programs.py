"""Copies of a program that was not written for us, as the part that keeps a pool: started, tried, retired one after the other.

Runs in the manager. A copy says nothing, unless it was asked to: that it can serve is inferred from its age (children/trial.py). Must
never end one in the middle of a request while there is time.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..basics.clock import FOREVER, monotonic
from ..basics.exits import Exit
from ..children import started
from ..children.ladder import RESEND, Ladder
from ..children.launch import Program
from ..children.registry import Child
from ..children.started import Started
from ..children.trial import Verdict
from ..ipc.channel import READY, SERVED
from ..system import idle, signals
from .workers import Workers

if TYPE_CHECKING:
    from ..sockets.listener import Listener
    from .half import ManagerHalf
    from .procmanager import ProcManager

_LOOK_AGAIN = 0.005  # seconds between two looks whether a copy is idle: under load it is so for a moment only
# Seconds until a copy that catches the signal gets it while it is busy: its peers may keep connections open.
_PATIENCE = 10.0
_TOO_SHORT = 0.1  # seconds: a copy that ends well sooner has no loop; afterwards it may have had its number of requests


@dataclass(frozen=True)
class Copies:
    """What is kept. stop_signal: what asks a copy to leave, while it has no connection. when_idle: never otherwise; else one that
    catches the signal gets it after a while all the same. interval, ready_timeout: see children/trial.py."""

    program: Program
    listener: Listener
    stop_signal: str = "TERM"
    when_idle: bool = False
    interval: float = 1.0
    ready_timeout: float | None = None


class Programs(Workers):
    """The workers are programs."""

    refusal: str

    are_programs = True

    def __init__(self, manager: ProcManager, half: ManagerHalf, copies: Copies) -> None:
        super().__init__(manager, half)
        self._copies = copies
        self._started: dict[int, Started] = {}  # by pid, of those that are not reaped
        self._tried: set[int] = set()  # of these
        self._waiting: dict[int, _Waiting] = {}  # to be idle

    # -- the loop -----------------------------------------------------------------------------------------------------

    @property
    def next_at(self) -> float:  # type: ignore[override]
        verdict = min((self._started[pid].next_at for pid in self._tried), default=FOREVER)
        return min(verdict, min((one.look_at for one in self._waiting.values()), default=FOREVER))

    def descriptors(self) -> Iterable[int]:
        return [descriptor for one in self._started.values() for descriptor in one.descriptors()]

    def turn(self, now: float) -> bool:
        for one in self._started.values():
            one.hear()
        self._end_idle(now)
        return self._judge(now)

    def close(self) -> None:
        while self._started:
            self._started.popitem()[1].close()
        self._tried.clear()

    # -- starting -----------------------------------------------------------------------------------------------------

    def _fork(self, missing: int) -> bool:
        copies = self._copies
        forked: list[int] = []
        try:
            one = started.start(
                copies.program,
                self.children,
                self.generation,
                copies.interval,
                copies.ready_timeout,
                forked.append,
            )
        except OSError as error:
            if not forked:
                self._fork_refused(error)
            else:
                self._not_executed(error, missing)
            return False
        self._started[one.child.pid] = one
        self._tried.add(one.child.pid)
        self._forked(one.child.pid, missing)
        return True

    def _not_executed(self, error: OSError, missing: int) -> None:
        """A mistake while nobody has ever served; a failed reload; or a program that is just being replaced: tried again."""
        why = f"{error.filename} cannot be run: {error.strerror}"
        if error.errno == errno.ENOENT and os.path.isfile(error.filename):
            why += " (the file is there: what its first line names is not)"
        if not self.respawn.ever_ready:
            self.refusal = why
            return
        if self._can_back_out:
            self._back_out(why)
            return
        self._manager._notify_error(why)
        now = monotonic()
        self.respawn.forked(missing, now)
        self._could_not_start(Child(0, now), now)

    def _judge(self, now: float) -> bool:
        news = False
        for pid in tuple(self._tried):
            one = self._started[pid]
            verdict = one.verdict(now)
            if verdict is Verdict.WAIT:
                continue
            news = True
            self._tried.discard(pid)
            if verdict is Verdict.GOOD:
                self.heard(READY, one.child.pid, "")
                self.heard(SERVED, one.child.pid, "")
            else:
                self.give_up(one.child, "time")
        return news

    # -- leaving ------------------------------------------------------------------------------------------------------

    def retire(self, chosen: Iterable[Child], timeout: float) -> None:
        """A signal can break off what a program does, even one that it catches: libfcgi drops a connection whose first bytes have
        not come. So it is sent while the program has none, where the system tells."""
        chosen, signal = list(chosen), self._copies.stop_signal
        if not idle.is_known():
            self._half.reaper.retire(chosen, timeout, signal)
        elif chosen:
            pids = " ".join(str(child.pid) for child in chosen)
            self._manager.notify(f"sending {signal} to PIDs, {pids}, each when it is idle")
            self._wait_for(chosen, timeout)

    def _wait_for(self, chosen: list[Child], timeout: float) -> None:
        now = monotonic()
        for child in chosen:
            ladder = Ladder(now, timeout, self._copies.stop_signal)
            self._half.registry.retire(child, ladder)
            ladder.next_at = ladder.deadline  # until then the signal is sent here
            self._waiting.setdefault(child.pid, _Waiting(child, since=now, look_at=now))
        self._end_idle(now)

    def _end_idle(self, now: float) -> None:
        due = [waiting for waiting in self._waiting.values() if now >= waiting.look_at]
        if not due:
            return
        listener, number = self._copies.listener.socket, signals.number(self._copies.stop_signal)
        busy = idle.connections(listener)  # of all of them in one look: the system's table can be long
        for waiting in due:
            pid = waiting.child.pid
            sent = idle.end(pid, listener, number, busy) or self._insists(waiting, number, now)
            # Once more after a while: a program may lose the signal between its look and its accept.
            waiting.look_at = now + (RESEND if sent else _LOOK_AGAIN)

    def _insists(self, waiting: _Waiting, number: int, now: float) -> bool:
        if self._copies.when_idle or now < waiting.since + _PATIENCE or not idle.catches(waiting.child.pid, number):
            return False
        self._half.reaper.send(waiting.child, self._copies.stop_signal)
        return True

    # -- how they end -------------------------------------------------------------------------------------------------

    def ended(self, child: Child, exit: Exit) -> None:
        now = monotonic()
        self._waiting.pop(child.pid, None)
        self._tried.discard(child.pid)
        one = self._started.pop(child.pid, None)
        if one is not None:
            one.close()
        if child.ladder is None and self._had_its_requests(child, exit, now):
            self.respawn.died(child.ready_at, now)
        else:
            super().ended(child, exit)

    def _had_its_requests(self, child: Child, exit: Exit, now: float) -> bool:
        """A program may end well after so many requests, which can be before it counts as good."""
        young = child.ready_at == FOREVER
        return young and exit.clean and self.respawn.ever_ready and now - child.spawned_at >= _TOO_SHORT


@dataclass
class _Waiting:
    """For a child to be idle. since, look_at: monotonic seconds."""

    child: Child
    since: float
    look_at: float
