"""A pool as JSON with the keys, types and units of php-fpm's status page, so that what reads that one reads ours; and more keys
beside them.

As in php-fpm: `request duration` is in microseconds, `last request memory` in bytes, `last request cpu` in percent of a core, times
in whole unix seconds, a method or an address that is not known is `-`. `total processes` counts those that start and leave as well.
A `state` is a word of php-fpm, `worker state` one of ours. Pure; runs in any process.
"""

from __future__ import annotations

import json
from typing import Any

from .snapshot import IDLE, IN_REQUEST, LEAVING, LONG, READING, STARTING, PoolStatus, WorkerStatus
from .verdict import verdict
from .visible import without_surrogates

CONTENT_TYPE = "application/json"

PHP_FPM_STATES = {
    STARTING: "Creating",
    IDLE: "Idle",
    READING: "Reading headers",
    IN_REQUEST: "Running",
    LONG: "Running",
    LEAVING: "Finishing",
}
_NOTHING = "-"
_MICROSECONDS = 1_000_000


def render(pool: PoolStatus, full: bool = False) -> bytes:
    """full: with `processes`, one for each worker. ASCII, one line, without a newline."""
    return json.dumps(as_dict(pool, full), allow_nan=False).encode("ascii")


def as_dict(pool: PoolStatus, full: bool = False) -> dict[str, Any]:
    found = {**_as_php_fpm(pool), **_beside(pool)}
    if full:
        found["processes"] = [_process(worker, pool.now) for worker in pool.workers]
    return found


def _as_php_fpm(pool: PoolStatus) -> dict[str, Any]:
    return {
        "pool": without_surrogates(pool.name),
        "process manager": pool.kind,
        "start time": int(pool.started),
        "start since": int(pool.uptime),
        "accepted conn": pool.accepted,
        "listen queue": pool.queue or 0,
        "max listen queue": pool.max_queue,
        "listen queue len": pool.queue_limit or 0,
        "idle processes": pool.idle,
        "active processes": pool.active,
        "total processes": pool.total,
        "max active processes": pool.max_active,
        "max children reached": pool.max_children_reached,
        "slow requests": pool.slow,
    }


def _beside(pool: PoolStatus) -> dict[str, Any]:
    judged = verdict(pool)
    return {
        "verdict": str(judged),
        "level": judged.level,
        "phase": pool.phase,
        "manager pid": pool.pid,
        "version": pool.version,
        "listeners": [without_surrogates(address) for address in pool.listeners],
        "listen queue known": pool.queue is not None,
        "listen queue exact": pool.queue is not None and pool.queue_is_exact,
        "starting processes": pool.count(STARTING),
        "leaving processes": pool.count(LEAVING),
        "request timeouts": pool.timeouts,
        "worker deaths": pool.deaths,
        "failed starts": pool.failed_starts,
        "respawns": pool.respawns,
        "retired workers": {without_surrogates(reason): count for reason, count in pool.retired.items()},
        "reloads": pool.reloads,
        "reload failure": without_surrogates(pool.reload_failure),
        "limits": {name.replace("_", " "): value for name, value in pool.limits.items()},
        "deadly requests": [
            {"request method": _text(deadly.method), "request uri": _text(deadly.uri), "deaths": deadly.deaths}
            for deadly in pool.deadly
        ],
    }


def _process(worker: WorkerStatus, now: float) -> dict[str, Any]:
    return {
        "pid": worker.pid,
        "state": PHP_FPM_STATES.get(worker.state, worker.state),
        "start time": int(worker.started),
        "start since": int(worker.age(now)),
        "requests": worker.requests,
        "request duration": max(0, round(worker.request_seconds * _MICROSECONDS)),
        "request method": _text(worker.method),
        "request uri": _text(worker.uri),
        "last request cpu": round(worker.cpu or 0.0, 2),
        "last request memory": worker.memory or 0,
        "worker state": worker.state,
        "generation": worker.generation,
        "memory pss": worker.pss,
        "leaves because": without_surrogates(worker.reason),
    }


def _text(text: str) -> str:
    return without_surrogates(text) or _NOTHING
