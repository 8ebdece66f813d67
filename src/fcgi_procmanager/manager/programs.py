"""Copies of a program that was not written for us, as the part that keeps a pool: started, tried, retired one after the other.

Runs in the manager. A copy says nothing, unless it was asked to: that it can serve is inferred from its age (children/trial.py). Must
never end one in the middle of a request while there is time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..basics.clock import FOREVER, monotonic
from ..basics.exits import Exit
from ..children import starting
from ..children.ladder import Ladder
from ..children.launch import Program
from ..children.registry import WORKER, Child
from ..children.rollout import rolling
from ..children.starting import Starting
from ..children.trial import Verdict
from ..ipc.channel import READY, SERVED
from ..system import idle, signals
from .workers import Workers

if TYPE_CHECKING:
    from ..sockets.listener import Listener
    from .half import ManagerHalf
    from .procmanager import ProcManager

_LOOK_AGAIN = 0.02  # seconds between two looks whether a copy is idle
_TOO_SHORT = 0.1  # seconds: a copy that ends well sooner has no loop; afterwards it may have had its number of requests


@dataclass(frozen=True)
class Copies:
    """What is kept. stop_signal: what asks a copy to leave. when_idle: only while it has no connection; so it is in any case with
    one that does not catch the signal. interval, ready_timeout: see children/trial.py."""

    program: Program
    listener: Listener
    stop_signal: str = "TERM"
    when_idle: bool = False
    interval: float = 1.0
    ready_timeout: float | None = None


class Programs(Workers):
    """The workers are programs."""

    are_programs = True

    def __init__(self, manager: ProcManager, half: ManagerHalf, copies: Copies) -> None:
        super().__init__(manager, half)
        self._copies = copies
        self._starting: dict[int, Starting] = {}  # by pid
        self._waiting: dict[int, _Waiting] = {}  # to be idle
        self._late: set[int] = set()  # killed because they were not ready in time

    # -- the loop -----------------------------------------------------------------------------------------------------

    @property
    def next_at(self) -> float:  # type: ignore[override]
        verdict = min((one.next_at for one in self._starting.values()), default=FOREVER)
        return min(verdict, min((one.look_at for one in self._waiting.values()), default=FOREVER))

    def descriptors(self) -> Iterable[int]:
        return [descriptor for one in self._starting.values() for descriptor in one.descriptors()]

    def turn(self, now: float) -> bool:
        self._end_idle(now)
        return self._judge(now)

    def close(self) -> None:
        for one in self._starting.values():
            one.close()
        self._starting.clear()

    # -- what is missing ----------------------------------------------------------------------------------------------

    @property
    def missing(self) -> int:
        return rolling(self._snapshot()).start

    @property
    def complete(self) -> bool:
        return super().complete and all(child.generation == self.generation for child in self.children.staying.values())

    def fill(self) -> None:
        self._reload_begun = False
        step = rolling(self._snapshot())
        if step.start or step.retire:
            self._take(step)

    # -- starting -----------------------------------------------------------------------------------------------------

    def _fork(self, missing: int) -> bool:
        copies = self._copies
        forked: list[int] = []
        try:
            started = starting.start(
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
        self._starting[started.child.pid] = started
        self._forked(started.child.pid, missing)
        return True

    def _not_executed(self, error: OSError, missing: int) -> None:
        """A mistake while nobody has ever served; later a program that is being replaced, which is tried again."""
        why = f"{error.filename} cannot be run: {error.strerror}"
        if not self.respawn.ever_ready:
            self.refusal = why
            return
        self._manager.notify(why)
        now = monotonic()
        self.respawn.forked(missing, now)
        self._could_not_start(Child(0, now), now)

    def _judge(self, now: float) -> bool:
        news = False
        for one in list(self._starting.values()):
            verdict = one.verdict(now)
            if verdict is Verdict.WAIT:
                continue
            news = True
            self._forget_trial(one.child)
            if verdict is Verdict.GOOD:
                self.heard(READY, one.child.pid, "")
                self.heard(SERVED, one.child.pid, "")
            else:
                self._manager.notify(f"{WORKER} (pid {one.child.pid}) was not ready in time: killing it")
                self._late.add(one.child.pid)
                self._half.reaper.kill(one.child)
        return news

    def _forget_trial(self, child: Child) -> None:
        one = self._starting.pop(child.pid, None)
        if one is not None:
            one.close()

    # -- leaving ------------------------------------------------------------------------------------------------------

    def retire(self, chosen: Iterable[Child], timeout: float) -> None:
        copies = self._copies
        chosen = list(chosen)
        busy = [child for child in chosen if self._is_to_be_idle(child)]
        gentle = [child for child in chosen if child not in busy]
        self._half.reaper.retire(gentle, timeout, copies.stop_signal)
        if busy:
            pids = " ".join(str(child.pid) for child in busy)
            self._manager.notify(f"sending {copies.stop_signal} when idle to PIDs, {pids}")
            self._wait_for(busy, timeout)

    def _is_to_be_idle(self, child: Child) -> bool:
        if not idle.is_known():
            return False
        return self._copies.when_idle or not idle.catches(child.pid, signals.number(self._copies.stop_signal))

    def _wait_for(self, chosen: list[Child], timeout: float) -> None:
        now = monotonic()
        for child in chosen:
            ladder = Ladder(now, timeout, self._copies.stop_signal)
            ladder.next_at = ladder.deadline  # not a word before that
            self._half.registry.retire(child, ladder)
            ladder.next_at = ladder.deadline  # the nearer one of two requests
            self._waiting[child.pid] = _Waiting(child, now)
        self._end_idle(now)

    def _end_idle(self, now: float) -> None:
        listener, number = self._copies.listener.socket, signals.number(self._copies.stop_signal)
        for waiting in list(self._waiting.values()):
            if now >= waiting.look_at:
                waiting.look_at = now + _LOOK_AGAIN
                if idle.end(waiting.child.pid, listener, number):
                    del self._waiting[waiting.child.pid]

    # -- how they end -------------------------------------------------------------------------------------------------

    def ended(self, child: Child, exit: Exit) -> None:
        now = monotonic()
        self._waiting.pop(child.pid, None)
        self._forget_trial(child)
        if child.pid in self._late:
            self._late.discard(child.pid)
            self._could_not_start(child, now)
        elif child.ladder is None and self._had_its_requests(child, exit, now):
            self.respawn.died(child.ready_at, now)
        else:
            super().ended(child, exit)

    def _had_its_requests(self, child: Child, exit: Exit, now: float) -> bool:
        """A program may end well after so many requests, which can be before it counts as good."""
        young = child.ready_at == FOREVER
        return young and exit.clean and self.respawn.ever_ready and now - child.spawned_at >= _TOO_SHORT


@dataclass
class _Waiting:
    child: Child
    look_at: float = field(default=0.0)
