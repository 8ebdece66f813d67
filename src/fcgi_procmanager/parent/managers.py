"""The managers, as a part of the parent's loop: one for each pool, started, heard, kept, and told what the parent is told.

Runs in the parent. A manager is a program of ours that was executed, never a fork: the parent loads no application, and one pool's
code does not reach another. Must never send a signal to a manager that does not catch it yet: that would be its end.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Mapping
from typing import Callable

from ..basics import exits
from ..basics.clock import FOREVER, monotonic
from ..basics.exits import Exit
from ..basics.states import WorkerState
from ..children import started
from ..children.launch import Program
from ..children.reaper import Reaper
from ..children.registry import Child, Children, Registry
from ..children.respawn import Respawn
from ..children.started import Started
from ..children.trial import Verdict
from ..events.loop import Part
from ..system import idle
from .wanted import Wanted, longer

__all__ = ["LEAVING", "READY", "RESTING", "STARTING", "WAITING", "Kept", "Managers"]

# How a pool is, in the words of the status.
STARTING, READY, LEAVING = "starting", "ready", "leaving"
WAITING = "waiting"  # to be started again
RESTING = "resting"  # its manager has found a mistake: until the next reload

_MARGIN = 5.0  # seconds that a manager has beyond what its workers have, to kill those and to end
_INSIST = 5.0  # seconds from QUIT to KILL


class Kept:
    """One pool. wanted: as the file had it last; None when it is gone from there. started_for: what its manager was started by."""

    def __init__(self, wanted: Wanted, registry: Registry) -> None:
        self.name: str = wanted.name
        self.wanted: Wanted | None = wanted
        self.started_for = wanted
        self.patience: float = 0.0
        self.children: Children = registry.of(f"manager of pool {wanted.name}")
        self.started: Started | None = None
        self.respawn: Respawn = Respawn(size=1)
        self.resting = False
        self.untold: list[str] = []  # signals that came while its manager was starting

    @property
    def child(self) -> Child | None:
        return next(iter(self.children.everybody), None)

    @property
    def state(self) -> str:
        child = self.child
        if child is None:
            return RESTING if self.resting else WAITING
        if child.state in (WorkerState.RETIRING, WorkerState.KILLED):
            return LEAVING
        return READY if child.state is WorkerState.READY else STARTING

    @property
    def words(self) -> str:
        """What its manager has said last of how it is."""
        return self.started.words if self.started is not None else ""

    def let_go(self) -> None:
        if self.started is not None:
            self.started.close()
            self.started = None


class Managers(Part):
    """program: makes what is to be executed for a pool. notify: for one line of the log. reaper: set by who runs the loop. failure:
    why the start of it all has to be given up, with the exit status for that; until everybody has been ready once somebody is looking,
    and is told instead."""

    reaper: Reaper

    def __init__(
        self,
        wanted: Mapping[str, Wanted],
        registry: Registry,
        program: Callable[[Wanted], Program],
        notify: Callable[[str], None],
    ) -> None:
        self._registry = registry
        self._program = program
        self._notify = notify
        self._stopping = False
        self._ever_complete = False
        self.kept: dict[str, Kept] = {name: Kept(one, registry) for name, one in wanted.items()}
        self.failure: tuple[str, int] | None = None
        self.worst: int = exits.OK  # of those that ended in a stop

    @property
    def settled(self) -> bool:
        """Every pool is ready, or waits for a reload; and none of the old ones is left."""
        return all(kept.wanted is not None and kept.state in (READY, RESTING) for kept in self.kept.values())

    @property
    def ready(self) -> int:
        return sum(kept.state == READY for kept in self.kept.values())

    # -- what the loop asks -------------------------------------------------------------------------------------------

    def descriptors(self) -> Iterable[int]:
        return [number for kept in self.kept.values() if kept.started for number in kept.started.descriptors()]

    @property
    def next_at(self) -> float:  # type: ignore[override]
        now = monotonic()
        if self._stopping or self.failure is not None:
            return FOREVER
        return min((kept.respawn.next_at(self._missing(kept), now) for kept in self.kept.values()), default=FOREVER)

    def turn(self, now: float) -> bool:
        for kept in tuple(self.kept.values()):
            if kept.started is not None and kept.state == STARTING and kept.started.verdict(now) is Verdict.GOOD:
                self._became_ready(kept, now)
            elif kept.started is not None:
                kept.started.hear()
        if not self._stopping and self.failure is None:
            for kept in tuple(self.kept.values()):
                if kept.respawn.allowed(self._missing(kept), now):
                    self._start(kept)
        self._ever_complete = self._ever_complete or self.settled
        return False

    def stop(self) -> None:
        self._stopping = True

    def close(self) -> None:
        for kept in tuple(self.kept.values()):
            kept.let_go()

    # -- one manager --------------------------------------------------------------------------------------------------

    def _missing(self, kept: Kept) -> int:
        """One that is to be started. A pool that has got another name finds its address free once the old one is gone."""
        if kept.wanted is None or kept.resting or len(kept.children):
            return 0
        leaving = (other.started_for.places for other in self.kept.values() if other.state == LEAVING)
        return int(all(kept.wanted.places.isdisjoint(places) for places in leaving))

    def _start(self, kept: Kept) -> None:
        wanted = kept.wanted
        assert wanted is not None
        kept.started_for, kept.patience, kept.untold = wanted, wanted.patience, []
        forked: list[int] = []
        try:
            kept.started = started.start(self._program(wanted), kept.children, 0, FOREVER, FOREVER, forked.append)
        except OSError as error:
            self._not_started(kept, error, bool(forked))
            return
        kept.respawn.forked(1, monotonic())
        self._notify(f"{kept.children.kind} (pid {forked[0]}) started")

    def _not_started(self, kept: Kept, error: OSError, was_forked: bool) -> None:
        now = monotonic()
        if was_forked:
            kept.respawn.forked(1, now)
            self._start_failed(kept, f"{error.filename} cannot be run: {error.strerror}", now, FOREVER, now)
        else:
            delay = kept.respawn.fork_failed(now)
            self._notify(f"pool {kept.name}: fork failed: {error.strerror}; next attempt in {delay:.1f} s")

    def _became_ready(self, kept: Kept, now: float) -> None:
        child = kept.child
        assert child is not None
        kept.children.became_ready(child.pid, now)
        kept.respawn.became_ready()
        self._notify(f"pool {kept.name} is ready")
        for name in kept.untold:
            self.reaper.send(child, name)
        kept.untold = []

    def ended(self, child: Child, exit: Exit) -> None:
        kept = next(kept for kept in self.kept.values() if kept.children.kind == child.kind)
        kept.let_go()
        if self._stopping:
            self.worst = max(self.worst, _status(exit))
        elif kept.wanted is None:
            del self.kept[kept.name]
        elif child.ladder is not None:
            kept.respawn.reload()  # it was asked to leave for another one
        else:
            self._ended_by_itself(kept, child, exit)

    def _ended_by_itself(self, kept: Kept, child: Child, exit: Exit) -> None:
        now = monotonic()
        has_given_up = bool(exit.code) and child.ready_at == FOREVER
        if has_given_up and not self._ever_complete:
            # With 1 it has tried several times already.
            self.failure = (f"pool {kept.name} cannot be started: its manager says why", exit.code or exits.FAILED)
        elif not has_given_up or exit.code != exits.USAGE:
            why = f"its manager exited with status {exit}"
            self._start_failed(kept, why, child.spawned_at, child.ready_at, now)
        else:
            kept.resting = True
            self._notify(
                f"pool {kept.name} has a mistake, of which its manager says more: it rests until the next reload"
            )

    def _start_failed(self, kept: Kept, why: str, spawned_at: float, ready_at: float, now: float) -> None:
        delay = kept.respawn.start_failed(spawned_at, ready_at, now)
        if kept.respawn.hopeless and not self._ever_complete:
            self.failure = (f"pool {kept.name} never became ready: {why}", exits.FAILED)
        elif delay:
            self._notify(f"pool {kept.name}: {why}; next attempt in {delay:.1f} s")

    # -- a reload -----------------------------------------------------------------------------------------------------

    def reload(self, wanted: Mapping[str, Wanted], name: str) -> None:
        """Other pools from now on. name: the signal that tells those that are there already."""
        for kept in tuple(self.kept.values()):
            if kept.name in wanted:
                self._renew(kept, wanted[kept.name], name)
            else:
                self._drop(kept)
        self.kept = {name: kept for name, kept in self.kept.items() if kept.wanted is not None or len(kept.children)}
        for one in wanted.values():
            if one.name not in self.kept:
                self.kept[one.name] = Kept(one, self._registry)

    def _drop(self, kept: Kept) -> None:
        if kept.wanted is not None:
            self._notify(f"pool {kept.name} is gone from the file")
            kept.wanted = None
            self._ask_to_leave(kept)

    def _renew(self, kept: Kept, wanted: Wanted, name: str) -> None:
        kept.wanted, kept.resting = wanted, False
        kept.respawn.reload()
        kept.patience = longer(kept.patience, wanted.patience)
        if kept.state not in (STARTING, READY):
            return
        if not wanted.is_kept_by(kept.started_for):
            self._notify(f"pool {kept.name} needs another manager: it is started when the old one is gone")
            self._ask_to_leave(kept)
            return
        if wanted.fixed != kept.started_for.fixed:
            self._notify(
                f"pool {kept.name} has other options: '{wanted.command}' reads them when its manager is started again"
            )
        self._tell(kept, name)

    # -- signals ------------------------------------------------------------------------------------------------------

    def reopen_logs(self) -> None:
        for kept in tuple(self.kept.values()):
            self._tell(kept, "USR1")

    def _tell(self, kept: Kept, name: str) -> None:
        child = kept.child
        if child is None or kept.state == LEAVING:
            return
        if kept.state == STARTING:
            if name not in kept.untold:
                kept.untold.append(name)
        elif name != "USR1" or _hears_usr1(child.pid, kept.started_for):
            self.reaper.send(child, name)

    def ask_all_to_leave(self) -> None:
        for kept in tuple(self.kept.values()):
            self._ask_to_leave(kept)

    def _ask_to_leave(self, kept: Kept) -> None:
        """Once: a second TERM is an order to stop at once."""
        if kept.child is not None and kept.child.ladder is None:
            limit = 0 if kept.patience == FOREVER else kept.patience + _MARGIN
            self.reaper.ask_to_leave([kept.child], limit, repeated=False)

    def end_all(self) -> None:
        """At once: they kill their workers."""
        for kept in tuple(self.kept.values()):
            if kept.child is not None:
                self.reaper.ask_to_leave([kept.child], _INSIST, "QUIT", repeated=False)


def _hears_usr1(pid: int, wanted: Wanted) -> bool:
    """Without a log file a manager leaves the signal as it was, and would end."""
    return idle.catches(pid, signal.SIGUSR1) if idle.is_known() else wanted.reopens


def _status(exit: Exit) -> int:
    """A manager that TERM has ended had not come so far that it could catch it, and has left nothing."""
    if exit.code is not None:
        return exit.code
    return exits.OK if exit.signal == signal.SIGTERM else exits.FAILED
