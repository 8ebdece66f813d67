"""Can this pool take more? One line for a person, and a level for a balancer and for scripts.

`ok`: a request that comes now is begun at once, or as soon as one more worker has started. `busy`: it has to wait for somebody
else's to end; the pool still serves, so a balancer must not take it out, since that makes the others busier. `down`: nobody takes
it, or soon nobody will. Pure; runs in any process.
"""

from __future__ import annotations

from typing import NamedTuple

from .snapshot import (
    BEGINNING,
    DRAINING,
    DYNAMIC,
    LONG,
    ONDEMAND,
    PER_REQUEST,
    RELOADING,
    RESTING,
    STARTING,
    STOPPING,
    PoolStatus,
)
from .visible import visible
from .wording import limit, number, plural

OK, BUSY, DOWN = "ok", "busy", "down"
LEVELS = (OK, BUSY, DOWN)

_EXIT_STATUS = {OK: 0, BUSY: 1, DOWN: 2}  # as monitoring plugins have it: fine, warning, critical
_HTTP_STATUS = {OK: "200 OK", BUSY: "200 OK", DOWN: "503 Service Unavailable"}
_GROWING = (DYNAMIC, ONDEMAND, PER_REQUEST)
_REASON = 120  # columns of somebody else's words


class Verdict(NamedTuple):
    """level: one of LEVELS. word: what the line begins with, the level or the phase of the pool."""

    level: str
    word: str
    reason: str

    def __str__(self) -> str:
        return f"{self.word}: {self.reason}"

    @property
    def exit_status(self) -> int:
        return _EXIT_STATUS[self.level]

    @property
    def http_status(self) -> str:
        """For a balancer: 503 when it should ask somebody else."""
        return _HTTP_STATUS[self.level]


def verdict(pool: PoolStatus) -> Verdict:
    if pool.phase in (STOPPING, DRAINING):
        return _leaving(pool)
    if not pool.serving:
        return _unserved(pool)
    level, reason = _capacity(pool)
    return Verdict(level, RELOADING if pool.phase == RELOADING else level, reason + _failure(pool))


def _leaving(pool: PoolStatus) -> Verdict:
    at_work = f", {number(pool.active)} of them in a request" if pool.active else ""
    return Verdict(DOWN, pool.phase, f"{plural(pool.total, 'worker')} left{at_work}")


def _unserved(pool: PoolStatus) -> Verdict:
    """Nobody is there who takes requests."""
    starting = pool.count(STARTING)
    if pool.phase == BEGINNING:
        return Verdict(DOWN, BEGINNING, f"{plural(starting, 'worker')} started, none is ready yet")
    # With nobody who waits, nobody is started, and a balancer that has taken the pool out would never see that it is well again.
    fails = pool.failing_starts > 1 and pool.queue
    if pool.kind in RESTING and not pool.total and not pool.reload_failure and not fails:
        return Verdict(OK, OK, "no worker at rest, the next request starts one")
    if pool.kind in RESTING and starting and not fails:
        return Verdict(OK, OK, _listed(f"{plural(starting, 'worker')} starting", _waiting(pool)))
    advice = "" if starting else ": the log says why no worker starts"
    reason = _listed("nobody can serve", _others(pool), _waiting(pool))
    return Verdict(DOWN, DOWN, reason + advice + _failure(pool))


def _capacity(pool: PoolStatus) -> tuple[str, str]:
    ceiling = pool.ceiling or pool.total
    if pool.idle:
        return OK, _listed(
            f"{number(pool.idle)} of {plural(max(ceiling, pool.serving), 'worker')} idle", _waiting(pool)
        )
    everyone = "the worker is" if pool.serving == 1 else f"all {plural(pool.serving, 'worker')} are"
    if pool.kind in _GROWING and pool.total < ceiling:
        more = f"{number(ceiling - pool.total)} more may be started"
        return OK, _listed(f"{everyone} in a request", more, _waiting(pool))
    starting = pool.count(STARTING)
    more = f"{number(starting)} more starting" if starting else ""
    return BUSY, _listed(f"{everyone} in a request", more, _waiting(pool)) + _advice(pool)


def _listed(*parts: str) -> str:
    return ", ".join(filter(None, parts))


def _waiting(pool: PoolStatus) -> str:
    """Nothing where the system does not say how many wait."""
    if pool.queue is None:
        return ""
    if not pool.queue:
        return "nothing waits"
    most = f" (limit {number(pool.queue_limit)})" if pool.queue_limit else ""
    verb = "waits" if pool.queue == 1 else "wait"
    at_least = "" if pool.queue_is_exact else "at least "
    return f"{at_least}{plural(pool.queue, 'connection')} {verb}{most}"


def _advice(pool: PoolStatus) -> str:
    """What to do about it, once somebody has to wait."""
    if not pool.queue:
        return ""
    refused = ", further clients are refused" if pool.queue_limit and pool.queue >= pool.queue_limit else ""
    long = pool.count(LONG)
    if 2 * long >= pool.serving:
        slow = pool.limits.get("slow_after")
        since = f" for more than {limit('slow_after', slow)}" if slow else " for long"
        return f"{refused}: {number(long)} of them{since}, find out why"
    return f"{refused}: raise n_processes or make requests shorter"


def _others(pool: PoolStatus) -> str:
    starting, rest = pool.count(STARTING), pool.total - pool.count(STARTING)
    parts = [f"{number(starting)} starting"] if starting else []
    parts += [f"{number(rest)} leaving"] if rest else []
    return " and ".join(parts) or "no worker is there"


def _failure(pool: PoolStatus) -> str:
    failure = visible(pool.reload_failure, _REASON)
    return f"; the last reload failed: {failure}" if failure else ""
