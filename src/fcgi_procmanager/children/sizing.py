"""How many workers an adaptive pool should have now, and who may go. Pure: a snapshot in, a verdict out, and nothing remembered.

Runs in the manager, whenever something has changed (pool/sizer.py). It grows on what waits, not on a clock: each connection that waits
has somebody, idle or starting, as far as `n_processes` allows. It shrinks on what was not needed: one that has been idle for the whole
of `process_idle_timeout` was needed at no moment of it, whatever the others did; so nothing oscillates at a steady load, nor at bursts
that come again within that time.

| kind        | at the start  | idle at least | idle for long, at most | a worker serves |
| ----------- | ------------- | ------------- | ---------------------- | --------------- |
| static      | n_processes   | -             | -                      | as long as it lives |
| dynamic     | start_servers | min_spare     | max_spare              | as long as it lives |
| ondemand    | 1             | 0             | 0                      | as long as it lives |
| per-request | 1             | 0             | 0                      | one request         |
"""

from __future__ import annotations

from typing import NamedTuple

from ..basics import checks
from ..basics.clock import FOREVER
from ..errors import ConfigError

STATIC, DYNAMIC, ONDEMAND, PER_REQUEST = "static", "dynamic", "ondemand", "per-request"
KINDS = (STATIC, DYNAMIC, ONDEMAND, PER_REQUEST)


class Load(NamedTuple):
    """starting, busy: how many of those who stay. idle: the pids of the others, and since when (monotonic seconds). waiting: connections
    that nobody has accepted. leaving: workers that were asked to leave, and are still there."""

    now: float
    starting: int
    idle: tuple[tuple[int, float], ...]
    busy: int
    waiting: int
    leaving: int = 0

    @property
    def total(self) -> int:
        return self.starting + len(self.idle) + self.busy


class Verdict(NamedTuple):
    """wanted: how many are to stay from now on. retire: the pids of those who are to go, the longest idle first. next_at: when to ask
    again though nothing has happened (monotonic seconds). saturated: something waits for a worker that may not be started."""

    wanted: int
    retire: tuple[int, ...] = ()
    next_at: float = FOREVER
    saturated: bool = False


class Sizing:
    """The limits, of which `n_processes` may change while the pool runs. Raises ConfigError, which names the parameter."""

    def __init__(
        self,
        pool: str,
        n_processes: int,
        start_servers: int | None = None,
        min_spare: int | None = None,
        max_spare: int | None = None,
        process_idle_timeout: float = 10.0,
    ) -> None:
        self.pool = checks.one_of("pool", pool, KINDS)
        self.n_processes = n_processes
        self.process_idle_timeout = checks.seconds("process_idle_timeout", process_idle_timeout)
        if pool == DYNAMIC:
            self.start_servers, self.min_spare, self.max_spare = spares(
                n_processes, start_servers, min_spare, max_spare
            )
        else:
            for name, value in (("start_servers", start_servers), ("min_spare", min_spare), ("max_spare", max_spare)):
                if value is not None:
                    raise ConfigError(f"{name} is for pool='dynamic', and this one is {pool!r}")
            self.start_servers, self.min_spare, self.max_spare = n_processes if pool == STATIC else 1, 0, 0

    def start(self) -> int:
        """How many are started first. One at least: whether the code can serve is to be known before the first request."""
        return min(self.n_processes, self.start_servers) if self.pool != STATIC else self.n_processes

    @property
    def idle_wanted(self) -> int:
        """With fewer idle workers than these, there is something to decide."""
        return 0 if self.pool == STATIC else max(1, self.min_spare)

    def decide(self, load: Load) -> Verdict:
        load = _sane(load)
        if self.pool == STATIC:
            return Verdict(self.n_processes, saturated=load.waiting > len(load.idle) + load.starting)
        # One that is leaving is a process all the same, but only here it is what the ceiling is for.
        ceiling = self.n_processes - (load.leaving if self.pool == PER_REQUEST else 0)
        free = load.starting + len(load.idle)
        missing = max(0, load.waiting + self.min_spare - free)
        if missing:
            wanted = max(min(load.total, self.n_processes), min(ceiling, load.total + missing))
            return Verdict(wanted, (), self._look_again(load), load.waiting > free + max(0, wanted - load.total))
        return self._shrink(load)

    def _shrink(self, load: Load) -> Verdict:
        longest = sorted(load.idle, key=lambda one: one[1])
        surplus = longest[: max(0, len(longest) - self.max_spare - load.waiting)]
        due = [pid for pid, since in surplus if since + self.process_idle_timeout <= load.now]
        # Those who stay may not be more than n_processes either, when it was lowered: that is a rollout's to see to.
        wanted = load.total - len(due)
        next_at = min((since + self.process_idle_timeout for _, since in surplus[len(due) :]), default=FOREVER)
        return Verdict(min(wanted, self.n_processes), tuple(due), min(next_at, self._look_again(load)))

    def _look_again(self, load: Load) -> float:
        """Who becomes idle tells nobody."""
        return load.now + max(1.0, self.process_idle_timeout) if load.busy or load.starting else FOREVER


def spares(
    n_processes: int, start_servers: int | None = None, min_spare: int | None = None, max_spare: int | None = None
) -> tuple[int, int, int]:
    """start_servers, min_spare and max_spare: as given, and the others derived as POE::Component::Daemon 0.1004 does, but that one
    is always spare, and none of them is above n_processes. Raises ConfigError."""
    given = {"start_servers": start_servers, "min_spare": min_spare, "max_spare": max_spare}
    for name, value in given.items():
        if value is not None and not 1 <= checks.number(name, value) <= max(1, n_processes):
            raise ConfigError(f"{name} must be from 1 to n_processes, which is {n_processes}, not {value}")
    least = min_spare if min_spare is not None else _least(n_processes, start_servers, max_spare)
    most = max_spare if max_spare is not None else _most(n_processes, start_servers, min_spare)
    least = max(1, least)
    if min_spare is None:
        least = min(least, most)
    most = max(1, min(most, n_processes)) if max_spare is None else most
    if most < least:
        raise ConfigError(f"max_spare must not be smaller than min_spare: {most} is less than {least}")
    return (start_servers if start_servers is not None else least), least, most


def _least(n_processes: int, start_servers: int | None, max_spare: int | None) -> int:
    if start_servers is not None:
        return start_servers
    return max_spare // 2 if max_spare is not None else int(0.2 * n_processes)


def _most(n_processes: int, start_servers: int | None, min_spare: int | None) -> int:
    if min_spare is not None or start_servers is not None:
        return 2 * (min_spare if min_spare is not None else start_servers or 1)
    return int(0.8 * n_processes)


def _sane(load: Load) -> Load:
    """It comes from memory that others write: no number below nothing, and nobody who has been idle since later than now."""
    idle = tuple((pid, min(since, load.now)) for pid, since in load.idle)
    return Load(load.now, max(0, load.starting), idle, max(0, load.busy), max(0, load.waiting), max(0, load.leaving))
