"""A pool at one moment, as plain values. Who fills it has asked the manager; who shows it asks nobody.

Every field has a default, so that what another release does not know is left out (see wire.py). Times are unix seconds, durations
seconds, sizes bytes. Pure; runs in any process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Union

STARTING, IDLE, READING, IN_REQUEST, LONG, LEAVING = "starting", "idle", "reading", "in request", "long", "leaving"
STATES = (STARTING, IDLE, READING, IN_REQUEST, LONG, LEAVING)
AT_WORK = (READING, IN_REQUEST, LONG)

STATIC, DYNAMIC, ONDEMAND, PER_REQUEST = "static", "dynamic", "ondemand", "per-request"
KINDS = (STATIC, DYNAMIC, ONDEMAND, PER_REQUEST)
RESTING = (ONDEMAND, PER_REQUEST)  # kinds that have no worker while nobody asks for anything

BEGINNING, RUNNING, RELOADING, DRAINING, STOPPING = "starting", "running", "reloading", "draining", "stopping"
PHASES = (BEGINNING, RUNNING, RELOADING, DRAINING, STOPPING)

SECONDS, BYTES = "seconds", "bytes"
# What a limit is a number of, where it is not a count. One that is not here is a count.
LIMIT_UNITS: Mapping[str, str] = {
    "max_memory": BYTES,
    "max_age": SECONDS,
    "request_timeout": SECONDS,
    "request_grace": SECONDS,
    "slow_after": SECONDS,
    "babysit": SECONDS,
    "process_idle_timeout": SECONDS,
    "boot_timeout": SECONDS,
    "die_timeout": SECONDS,
    "reload_timeout": SECONDS,
    "drain_delay": SECONDS,
    "emergency_restart_interval": SECONDS,
}

Limit = Union[int, float, None]  # None: not set


@dataclass(frozen=True)
class WorkerStatus:
    """One worker.

    state: one of STATES. request_started: of the request in hand, None without one. request_seconds: how long the one in hand
    lasts so far, else how long the last one took. cpu: percent of one core in the last request. memory: RSS. reason: why it leaves.
    """

    pid: int = 0
    generation: int = 0
    state: str = STARTING
    started: float = 0.0
    requests: int = 0
    request_started: float | None = None
    request_seconds: float = 0.0
    method: str = ""
    uri: str = ""
    cpu: float | None = None
    memory: int | None = None
    pss: int | None = None
    reason: str = ""

    @property
    def busy(self) -> bool:
        """Whether it has a request in hand, or one that is on its way. One that leaves may well have."""
        return self.state in AT_WORK or (self.state == LEAVING and self.request_started is not None)

    def age(self, now: float) -> float:
        return max(0.0, now - self.started)


class Sample(NamedTuple):
    """The pool at an earlier moment. requests: begun since the start of the pool."""

    at: float
    idle: int = 0
    active: int = 0
    starting: int = 0
    queue: int = 0
    requests: int = 0


class Deadly(NamedTuple):
    """An address whose request was in the hands of so many workers when they were killed."""

    method: str
    uri: str
    deaths: int = 1


@dataclass(frozen=True)
class PoolStatus:
    """A pool.

    kind: one of KINDS. phase: one of PHASES. accepted: requests begun. queue: connections that wait, None where the system does not
    say; not queue_is_exact: at least so many. max_active: most at work at once. max_children_reached: how often more workers were
    wanted than `n_processes`. deaths: workers killed in a request. failing_starts: so many in a row have failed, and none has served
    since. respawns: workers that were replaced. retired: workers that were asked to leave, by reason. reload_failure: why the last
    reload failed. limits: all that is configured. standby: how many are booted and wait for a place; they are not among the workers.
    """

    name: str = ""
    kind: str = STATIC
    phase: str = RUNNING
    started: float = 0.0
    now: float = 0.0
    pid: int = 0
    version: str = ""
    listeners: tuple[str, ...] = ()
    accepted: int = 0
    queue: int | None = None
    max_queue: int = 0
    queue_limit: int | None = None
    queue_is_exact: bool = True
    max_active: int = 0
    max_children_reached: int = 0
    slow: int = 0
    timeouts: int = 0
    deaths: int = 0
    failed_starts: int = 0
    failing_starts: int = 0
    respawns: int = 0
    retired: Mapping[str, int] = field(default_factory=dict)
    reloads: int = 0
    reload_failure: str = ""
    limits: Mapping[str, Limit] = field(default_factory=dict)
    deadly: tuple[Deadly, ...] = ()
    standby: int = 0
    workers: tuple[WorkerStatus, ...] = ()
    history: tuple[Sample, ...] = ()

    @property
    def idle(self) -> int:
        return self.count(IDLE)

    @property
    def active(self) -> int:
        """Workers with a request, those among them that are to leave included."""
        return sum(worker.busy for worker in self.workers)

    @property
    def total(self) -> int:
        """All processes of the pool: those that start or leave as well, so it can be more than idle and active together."""
        return len(self.workers)

    @property
    def serving(self) -> int:
        """Workers that take requests, now or after the one in hand."""
        return sum(worker.state == IDLE or worker.state in AT_WORK for worker in self.workers)

    @property
    def ceiling(self) -> int | None:
        """How many workers there may be; None when nobody said."""
        limit = self.limits.get("n_processes")
        return None if limit is None else int(limit)

    @property
    def uptime(self) -> float:
        return max(0.0, self.now - self.started)

    def count(self, state: str) -> int:
        return sum(worker.state == state for worker in self.workers)

    def most_urgent_first(self) -> list[WorkerStatus]:
        """The workers in the order in which a person wants to look at them: the longest request first, the idle ones last."""
        return sorted(self.workers, key=_urgency)


def largest(values: Iterable[float | None]) -> float | None:
    """The largest that is known; None when none is."""
    return max((value for value in values if value is not None), default=None)


_RANKS = {state: rank for rank, state in enumerate((LONG, IN_REQUEST, READING, LEAVING, STARTING, IDLE))}


def _urgency(worker: WorkerStatus) -> tuple[int, float, int]:
    seconds = worker.request_seconds if worker.busy else 0.0
    return _RANKS.get(worker.state, len(_RANKS)), -seconds, worker.pid
