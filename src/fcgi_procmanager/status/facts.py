"""What is to be said of a pool besides its workers, in words. Nothing in it is raw (visible.py). Pure; runs in any process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from . import wording
from .snapshot import LEAVING, STARTING, Limit, PoolStatus, WorkerStatus
from .visible import cut, visible

LONGEST_TEXT = 2000  # columns of any string
_DEADLIEST = 5  # so many deadly addresses are shown


def facts(pool: PoolStatus) -> list[tuple[str, str]]:
    """What is to be said of the pool besides its workers: a label and a text for each, escaped. Without
    what is nothing."""
    said = [
        ("pool", _identity(pool)),
        ("listens", ", ".join(pool.listeners)),
        ("workers", _census(pool)),
        ("queue", _queue(pool)),
        ("requests", _requests(pool)),
        ("trouble", _counted(pool.deaths, "killed in a request", pool.failed_starts, "failed to start")),
        ("replaced", _counted(pool.respawns, "in all") + _reasons(pool.retired)),
        ("reloads", _reloads(pool)),
        ("deadly", _deadly(pool)),
        ("limits", ", ".join(f"{name} {wording.limit(name, value)}" for name, value in _set(pool.limits))),
    ]
    return [(label, visible(text, LONGEST_TEXT)) for label, text in said if text]


def _identity(pool: PoolStatus) -> str:
    parts = [pool.name, pool.kind, f"manager {pool.pid}", f"up {wording.duration(pool.uptime)}"]
    return ", ".join(filter(None, [*parts, f"version {pool.version}" if pool.version else ""]))


def _census(pool: PoolStatus) -> str:
    states = {
        "idle": pool.idle,
        "in a request": pool.active,
        "starting": pool.count(STARTING),
        "leaving": pool.count(LEAVING),
    }
    ceiling = "" if pool.ceiling is None else f" of {wording.number(pool.ceiling)}"
    there = ", ".join(f"{wording.number(count)} {state}" for state, count in states.items() if count) or "none"
    there += f", {wording.number(pool.standby)} standing by" if pool.standby else ""
    full = f"; full {_times(pool.max_children_reached)}" if pool.max_children_reached else ""
    return f"{there}; at most {wording.number(pool.max_active)}{ceiling} in a request at once{full}"


def _queue(pool: PoolStatus) -> str:
    if pool.queue is None:
        return "not known"
    limit = "" if pool.queue_limit is None else f" of {wording.number(pool.queue_limit)}"
    at_least = "" if pool.queue_is_exact else "at least "
    return f"{at_least}{wording.number(pool.queue)}{limit} waiting, {wording.number(pool.max_queue)} at most so far"


def _requests(pool: PoolStatus) -> str:
    rate = f", {pool.accepted / pool.uptime:.3g} a second" if pool.uptime >= 1 else ""
    more = _counted(pool.slow, "slow", pool.timeouts, "timed out")
    return f"{wording.number(pool.accepted)}{rate}{', ' if more else ''}{more}"


def _reloads(pool: PoolStatus) -> str:
    failure = f"the last one failed: {pool.reload_failure}" if pool.reload_failure else ""
    return ", ".join(filter(None, [wording.number(pool.reloads) if pool.reloads else "", failure]))


def _deadly(pool: PoolStatus) -> str:
    worst = sorted(pool.deadly, key=lambda deadly: -deadly.deaths)[:_DEADLIEST]
    return ", ".join(f"{cut(request(one.method, one.uri), 60)} {_times(one.deaths)}" for one in worst)


def _reasons(retired: Mapping[str, int]) -> str:
    asked = ", ".join(f"{reason} {wording.number(count)}" for reason, count in sorted(retired.items()) if count)
    return f"; asked to leave: {asked}" if asked else ""


def _set(limits: Mapping[str, Limit]) -> Iterator[tuple[str, Limit]]:
    return ((name, value) for name, value in limits.items() if value is not None)


def _counted(*pairs: object) -> str:
    """`3 slow, 1 timed out` of (3, "slow", 1, "timed out"), without those that are 0."""
    counts, words = pairs[::2], pairs[1::2]
    return ", ".join(f"{wording.number(int(str(count)))} {word}" for count, word in zip(counts, words) if count)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{wording.number(count)} times"


def request(method: str, uri: str) -> str:
    """As people write it, escaped; nothing when there is none."""
    return visible(f"{method} {uri}".strip(), LONGEST_TEXT)


def last_request(worker: WorkerStatus) -> str:
    """What a worker does or has done, and why it leaves."""
    reason = f"[{visible(worker.reason, LONGEST_TEXT)}] " if worker.reason else ""
    return reason + request(worker.method, worker.uri)
