"""How many workers a pool should have now, and which of those that are too many may leave. Pure: a snapshot in, a verdict out.

Runs in the manager, each turn of its loop. It says what is wanted, not how soon (respawn.py) nor in the place of whom
(rollout.py). Must never read a clock, and never let go of a worker that is not idle.

| pool          | at rest                     | grows by                           | n_processes limits          |
| ------------- | --------------------------- | ---------------------------------- | --------------------------- |
| `static`      | n_processes                 |                                    | who stays                   |
| `dynamic`     | min_spare to max_spare idle | what waits, and spares it is short | who stays                   |
| `ondemand`    | nobody                      | what waits                         | who stays                   |
| `per-request` | nobody                      | what waits                         | who stays and who leaves    |

All but the first are one rule with other numbers: at least as many workers as there are requests, in hand or waiting, and
min_spare more; at most as many as were *used*, and max_spare more. In between nothing changes. Used is who is busy, who
starts, and who has been idle for less than process_idle_timeout.
"""

from __future__ import annotations

from typing import NamedTuple

from ..basics.checks import Parameter, count, seconds
from ..basics.clock import FOREVER
from ..errors import ConfigError

STATIC = "static"
DYNAMIC = "dynamic"
ONDEMAND = "ondemand"
PER_REQUEST = "per-request"
KINDS = (STATIC, DYNAMIC, ONDEMAND, PER_REQUEST)

# Seconds between two steps down: a tenth of process_idle_timeout, but within these. Each step takes half of those that are too
# many. The end of a hundred processes at one stroke is felt by those who are served meanwhile.
_LONGEST_PACE = 1.0
_SHORTEST_PACE = 0.1


class Load(NamedTuple):
    """A snapshot of one pool. Whoever makes it looks at the workers first and at the queues afterwards: the other way round a
    connection that is accepted in between counts twice, and a worker is forked for it in vain."""

    now: float  # monotonic seconds
    starting: int  # forked, not ready yet, staying
    idle: tuple[tuple[int, float], ...]  # (pid, idle since, monotonic seconds) of those who stay and wait for a request
    busy: int  # staying, in a request
    waiting: int  # connections in the queues of the listeners, which nobody has accepted
    leaving: int = 0  # asked to leave, or leaving by themselves, and not reaped yet


class Verdict(NamedTuple):
    wanted: int  # how many should stay from now on
    retire: tuple[int, ...]  # pids, longest idle first: to be asked to leave now. A reload does better to leave them be
    next_at: (
        float  # monotonic seconds: when to ask again if nothing happens before; FOREVER for when only an event matters
    )
    saturated: bool  # more would be wanted, but n_processes does not allow it


class Spares(NamedTuple):
    n_processes: int
    start_servers: int
    min_spare: int
    max_spare: int


def kind(name: str, value: object) -> str:
    """One of KINDS, or ConfigError."""
    if value not in KINDS:
        raise ConfigError(f"{name} must be one of {', '.join(KINDS)}, not {value!r}")
    return str(value)


def spares(
    n_processes: int | None = None,
    start_servers: int | None = None,
    min_spare: int | None = None,
    max_spare: int | None = None,
) -> Spares:
    """The numbers of a dynamic pool, those that are None derived from the others as POE::Component::Daemon does it:

    | given                     | n_processes               | min_spare       | max_spare       |
    | ------------------------- | ------------------------- | --------------- | --------------- |
    | start_servers             | start_servers + max_spare | start_servers   | 2 * min_spare   |
    | n_processes               | as given                  | a fifth of it   | four fifths     |
    | n_processes and max_spare | as given                  | half max_spare  | as given        |

    start_servers is min_spare. Unlike there, a derived min_spare is at least 1, and what is derived gives way to what is given.
    Raises ConfigError, which names a parameter, when those given contradict each other.
    """
    given = {"n_processes": n_processes, "start_servers": start_servers, "min_spare": min_spare, "max_spare": max_spare}
    for name, value in given.items():
        if value is not None:
            count(name, value)
    least = _least(n_processes, start_servers, min_spare, max_spare)
    most = max_spare if max_spare is not None else _most(n_processes, start_servers, least)
    start = start_servers if start_servers is not None else least
    found = Spares(start + most if n_processes is None else n_processes, start, least, most)
    _refuse_contradictions(found)
    return found


def _least(n_processes: int | None, start: int | None, least: int | None, most: int | None) -> int:
    if least is not None:
        return least
    if n_processes is None:
        if start is None:
            raise ConfigError("n_processes must be given, or start_servers, from which it follows")
        derived = start
    else:
        derived = n_processes // 5 if most is None else most // 2
    limits = [number for number in (n_processes, start, most) if number is not None]
    return min(max(1, derived), *limits)


def _most(n_processes: int | None, start: int | None, least: int) -> int:
    derived = 2 * least if n_processes is None else n_processes * 4 // 5
    return max(derived, least, start or 0)


def _refuse_contradictions(found: Spares) -> None:
    n_processes, start, least, most = found
    for name, value in (("min_spare", least), ("start_servers", start), ("max_spare", most)):
        if value > n_processes:
            raise ConfigError(f"{name} must not be more than n_processes ({n_processes}): {value}")
    if most < least:
        raise ConfigError(f"max_spare must not be less than min_spare ({least}): {most}")
    if start < least:
        raise ConfigError(f"start_servers must not be less than min_spare ({least}): {start}")
    if start > most:
        raise ConfigError(f"start_servers must not be more than max_spare ({most}): {start}")


class Sizing:
    """How one pool is sized. It remembers what it wanted last, and when it last let somebody go; all else is in the snapshot."""

    n_processes: Parameter[int] = Parameter(count)  # may be changed at any time
    process_idle_timeout: Parameter[float] = Parameter(seconds)

    def __init__(
        self,
        pool: str,
        n_processes: int,
        start_servers: int | None = None,
        min_spare: int | None = None,
        max_spare: int | None = None,
        process_idle_timeout: float = 10.0,
    ) -> None:
        """Raises ConfigError, which names the parameter. start_servers, min_spare, max_spare: for `dynamic` only; see `spares`.
        process_idle_timeout: seconds."""
        self.pool: str = kind("pool", pool)
        self.n_processes = n_processes
        self.process_idle_timeout = process_idle_timeout
        self.spares: Spares = self._limits(start_servers, min_spare, max_spare)
        self._wanted = self.start()
        self._fell_at = -FOREVER

    def start(self) -> int:
        """How many workers to start with."""
        return self.n_processes if self.pool == STATIC else self.spares.start_servers

    def decide(self, load: Load) -> Verdict:
        """Asked whenever something has happened, and at `next_at`. What it says is taken as done: whom it lets go is not asked for
        again."""
        load = _sane(load)
        staying = load.starting + len(load.idle) + load.busy
        ceiling = self._ceiling(staying, load.leaving)
        needed = load.busy + load.waiting + self.spares.min_spare
        # A reload starts some beside those that are wanted, and some may not have been started yet. Neither is for us to put right.
        present = min(self._wanted, staying)
        wanted = max(needed, min(self._wanted, self._used(load) + self.spares.max_spare))
        wanted = max(wanted, present - self._step(present - wanted, load.now))
        wanted = ceiling if self.pool == STATIC else min(wanted, ceiling)
        leaving = load.idle[: max(0, present - wanted)]
        if leaving:
            self._fell_at = load.now
        self._wanted = wanted
        return Verdict(wanted, tuple(pid for pid, _ in leaving), self._next_at(load), needed > ceiling)

    def _limits(self, start: int | None, least: int | None, most: int | None) -> Spares:
        if self.pool == DYNAMIC:
            return spares(self.n_processes, start, least, most)
        for name, value in (("start_servers", start), ("min_spare", least), ("max_spare", most)):
            if value is not None:
                raise ConfigError(f"{name} is for pool={DYNAMIC!r}, and this pool is {self.pool!r}")
        # One all the same at the start: whether the code can serve is to be known before the first request.
        return Spares(self.n_processes, min(1, self.n_processes), 0, 0)

    def _ceiling(self, staying: int, leaving: int) -> int:
        """Who leaves holds no place: its last request may take long, and others wait. Where n_processes limits the requests
        themselves, it does; but for that nobody who is there already has to go."""
        if self.pool != PER_REQUEST:
            return self.n_processes
        return min(self.n_processes, max(staying, self.n_processes - leaving))

    def _used(self, load: Load) -> int:
        """How many were needed lately. Idle times tell that more truly than what we have seen: nobody wakes the manager for a burst
        that those who are there can serve."""
        timeout = self.process_idle_timeout
        return load.starting + load.busy + sum(since + timeout > load.now for _, since in load.idle)

    def _step(self, too_many: int, now: float) -> int:
        """How many of them may leave now."""
        self._fell_at = min(self._fell_at, now)
        return (max(0, too_many) + 1) // 2 if now >= self._fell_at + self._pace else 0

    @property
    def _pace(self) -> float:
        return min(_LONGEST_PACE, max(_SHORTEST_PACE, self.process_idle_timeout / 10))

    def _next_at(self, load: Load) -> float:
        """When somebody may be too many if nobody is called meanwhile; who is busy or starts, or is only wanted yet, may be idle from
        now on."""
        if self.pool == STATIC:
            return FOREVER
        unused = [since + self.process_idle_timeout for _, since in load.idle]
        staying = load.starting + len(load.idle) + load.busy
        latest = load.now + self.process_idle_timeout
        unused += [latest] * (max(staying, self._wanted) - len(unused))
        first = len(unused) - self._wanted + self.spares.max_spare
        return max(unused[first], load.now + self._pace) if first < len(unused) else FOREVER


def _sane(load: Load) -> Load:
    """What comes from memory that many processes write may be nonsense: no number below 0, nobody idle twice or since a time to
    come. Longest idle first."""
    idle = {pid: since if since <= load.now else load.now for pid, since in load.idle}
    return Load(
        load.now,
        max(0, load.starting),
        tuple(sorted(idle.items(), key=lambda one: one[1])),
        max(0, load.busy),
        max(0, load.waiting),
        max(0, load.leaving),
    )
