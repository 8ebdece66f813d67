"""Workers that do nothing but use a CPU, or hang while they start, ended step by step: a part of the manager's loop.

Runs in the manager. A worker that is gone without a trace is noticed by the reaper. One whose request says that it takes long
(`update_status("long")`) may use what it needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..basics.clock import FOREVER, monotonic
from ..children.registry import WORKER, Child
from ..ipc.scoreboard import LONG
from ..manager.parts import PoolPart

if TYPE_CHECKING:
    from ..manager.half import ManagerHalf
    from .poolmanager import PoolManager
    from .workers import PoolWorkers

_SHARE = 0.9  # of one CPU, from one look to the next
_LOOKS = 3  # in a row with the same request
_STEPS = ("INT", "TERM", "KILL")


class _Look(NamedTuple):
    """requests: begun so far. used: seconds of CPU. times: how often in a row it has used nearly all of one. step: of `_STEPS`."""

    at: float
    requests: int
    used: float
    times: int = 0
    step: int = 0


class Babysitter(PoolPart):
    """rogues: workers that were asked to end."""

    next_at: float

    def __init__(self, manager: PoolManager) -> None:
        self._manager = manager
        self._half: ManagerHalf | None = None
        self._looks: dict[int, _Look] = {}
        self.rogues: int = 0

    def begin(self, half: ManagerHalf) -> None:
        self._half = half
        self.next_at = monotonic() + self._manager.babysit

    def stop(self) -> None:
        self.close()

    def close(self) -> None:
        self.next_at = FOREVER

    def forked(self) -> None:
        self._half = None

    def turn(self, now: float) -> bool:
        if self._half is None or now < self.next_at:
            return False
        self.next_at = now + self._manager.babysit
        staying = list(self._workers.children.staying.values())
        self._looks = {child.pid: self._looks[child.pid] for child in staying if child.pid in self._looks}
        for child in staying:
            if child.ready_at == FOREVER:
                self._look_at_start(child, now)
            else:
                self._look_at(child, now)
        return False

    def _look_at_start(self, child: Child, now: float) -> None:
        limit = self._manager.boot_timeout
        if limit and now >= child.spawned_at + limit:
            self._workers.give_up(child, f"{limit:g} s (boot_timeout)")

    def _look_at(self, child: Child, now: float) -> None:
        entry = self._workers.entry(child.pid)
        used = _cpu(child.pid)
        if entry is None or used is None or entry.state == LONG:
            self._looks.pop(child.pid, None)
            return
        last = self._looks.get(child.pid)
        look = _Look(now, entry.requests, used)
        if last is not None and last.requests == entry.requests and used - last.used >= _SHARE * (now - last.at):
            look = look._replace(times=last.times + 1, step=last.step)
            if look.times >= _LOOKS - 1:
                look = self._end(child, look)
        self._looks[child.pid] = look

    def _end(self, child: Child, look: _Look) -> _Look:
        name = _STEPS[min(look.step, len(_STEPS) - 1)]
        self.rogues += look.step == 0
        self._manager.notify(f"{WORKER} (pid {child.pid}) does nothing but use a CPU: sending {name} (babysit)")
        reaper = self._half.reaper  # type: ignore[union-attr]
        if name == "KILL":
            reaper.kill(child)
        else:
            reaper.send(child, name)
        return look._replace(times=0, step=look.step + 1)

    @property
    def _workers(self) -> PoolWorkers:
        assert self._half is not None
        return self._half.workers  # type: ignore[return-value]


def _cpu(pid: int) -> float | None:
    """Seconds that it ran or, where the system tells, could have run: on a busy machine it does not get all that it wants."""
    try:
        with open(f"/proc/{pid}/schedstat", "rb") as file:
            ran, waited = file.read(100).split()[:2]
            return (int(ran) + int(waited)) / 1e9
    except (OSError, ValueError):
        pass
    import psutil  # not above: few pools ask for it

    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return None
    return float(times.user + times.system)
