"""Pools to look at."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings

from fcgi_procmanager.status.snapshot import (
    DYNAMIC,
    IDLE,
    IN_REQUEST,
    LEAVING,
    LONG,
    READING,
    STARTING,
    Deadly,
    PoolStatus,
    Sample,
    WorkerStatus,
)

NOW = 1_800_000_000.0

# Of what hypothesis makes up. A loaded machine is no failure, nor is a strategy that makes up much that it cannot use.
PATIENT = settings(deadline=None, max_examples=50, suppress_health_check=list(HealthCheck))

HOSTILE = {
    "markup": "/<script>alert(1)</script>",
    "attribute": "/\"onmouseover='alert(1)'><svg/onload=alert(1)>",
    "entities": "/a?b=1&lt;&#60;&amp",
    "end of a style": "/</style></title></textarea>--><!--",
    "ansi": "/\x1b[2J\x1b]0;title\x07\x9b31m",
    "newlines": "/a\r\nSet-Cookie: x\n\u2028\u2029\x85b",
    "backspaces": "/secret\b\b\b\b\b\b\x7f\x00",
    "bidi": "/\u202egnp.exe\u2066\u200f\ufeff",
    "marks": "/e" + "\u0301" * 200,
    "wide": "/" + "漢字" * 100,
    "surrogates": "/\udcff\ud800/\udfff",
    "backslashes": '/\\x1b\\"\\n',
    "long": "/" + "x" * 10_000,
    "emoji": "/👩‍👩‍👧‍👦",
    "template": "/{0.__class__}{{7*7}}%s%n${jndi:ldap://x}",
}

LIMITS = {
    "n_processes": 8,
    "min_spare": 1,
    "max_spare": 3,
    "start_servers": 2,
    "max_requests": 10_000,
    "max_memory": 200 * 2**20,
    "max_age": 3600,
    "request_timeout": 30.0,
    "slow_after": 2.5,
    "babysit": None,
}


def worker(pid: int = 4712, state: str = IDLE, **more: Any) -> WorkerStatus:
    given: dict[str, Any] = {
        "generation": 1,
        "started": NOW - 11_000,
        "requests": 12_034,
        "request_started": NOW - 1.25 if state in (READING, IN_REQUEST, LONG) else None,
        "request_seconds": 1.25,
        "method": "GET",
        "uri": f"/articles/{pid}?page=2",
        "cpu": 42.5,
        "memory": 123 * 2**20,
        "pss": 61 * 2**20,
    }
    return WorkerStatus(pid=pid, state=state, **{**given, **more})


def workers(**counts: int) -> tuple[WorkerStatus, ...]:
    """`workers(idle=3, in_request=2)`"""
    states = [name.replace("_", " ") for name, count in counts.items() for _ in range(count)]
    return tuple(worker(5000 + number, state) for number, state in enumerate(states))


def pool(**more: Any) -> PoolStatus:
    """An ordinary one on an ordinary day."""
    given: dict[str, Any] = {
        "name": "shop",
        "kind": DYNAMIC,
        "started": NOW - 273_600,
        "now": NOW,
        "pid": 4711,
        "version": "0.1.0",
        "listeners": ("/run/app/app.sock", "127.0.0.1:9000"),
        "accepted": 1_234_567,
        "queue": 0,
        "max_queue": 12,
        "queue_limit": 1024,
        "max_active": 8,
        "max_children_reached": 3,
        "slow": 17,
        "timeouts": 2,
        "deaths": 4,
        "failed_starts": 1,
        "failing_starts": 0,
        "respawns": 40,
        "retired": {"max_requests": 30, "max_memory": 5},
        "reloads": 2,
        "limits": LIMITS,
        "deadly": (Deadly("POST", "/pay", 3), Deadly("GET", "/export?all", 1)),
        "workers": (
            worker(4712),
            worker(4713),
            worker(4714, requests=0, method="", uri="", cpu=None, memory=9 * 2**20, pss=None, request_seconds=0.0),
            worker(4715, IN_REQUEST, request_seconds=0.031),
            worker(4716, LONG, request_seconds=7.5, method="POST", uri="/reports/2026/annual?format=pdf", cpu=99.1),
            worker(4717, READING, request_seconds=0.002, method="", uri=""),
            worker(4718, LEAVING, reason="max_memory", request_started=NOW - 2, memory=245 * 2**20, request_seconds=2),
            worker(4719, STARTING, requests=0, started=NOW - 1, generation=2, cpu=None, memory=None, method="", uri=""),
        ),
        "history": history(),
    }
    return PoolStatus(**{**given, **more})


def history(count: int = 120, step: float = 5.0) -> tuple[Sample, ...]:
    """A wave of requests that comes, is too much for a while, and goes."""
    found = []
    for number in range(count):
        wave = max(0, 9 - abs(number - count * 2 // 3) // 3)
        active = min(7, 1 + wave + number % 2)
        queue = max(0, (wave - 6) * 4)
        idle = max(1, 3 - wave) if active < 7 else 0
        at = NOW - (count - 1 - number) * step
        found.append(Sample(at, idle, active, 1 if wave in (4, 5) else 0, queue, number * 20))
    return tuple(found)


def empty() -> PoolStatus:
    return PoolStatus()


def crowded(count: int = 1000) -> PoolStatus:
    states = (IDLE, IN_REQUEST, LONG, READING, LEAVING, STARTING)
    many = tuple(worker(10_000 + number, states[number % len(states)]) for number in range(count))
    return pool(workers=many, limits={**LIMITS, "n_processes": count})


def hostile(text: str) -> PoolStatus:
    """Everything that somebody else can choose is `text`."""
    chosen = {"method": text, "uri": text}
    return pool(
        name=text,
        kind=text,
        phase=text,
        version=text,
        listeners=(text,),
        reload_failure=text,
        retired={text: 3},
        deadly=(Deadly(text, text, 2),),
        workers=(
            worker(1, IN_REQUEST, **chosen),
            worker(2, LEAVING, reason=text, **chosen),
            worker(3, text, **chosen),
        ),
    )
