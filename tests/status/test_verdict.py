"""One line says whether a pool can take more."""

from __future__ import annotations

from typing import Any

import pytest

from fcgi_procmanager.status.verdict import BUSY, DOWN, LEVELS, OK, verdict
from status.pools import LIMITS, crowded, empty, pool, workers


def judged(level: str, line: str, **given: Any) -> Any:
    return pytest.param(level, line, given, id=line)


@pytest.mark.parametrize(
    ("level", "line", "given"),
    [
        judged(OK, "ok: 3 of 8 workers idle, nothing waits", workers=workers(idle=3, in_request=5)),
        judged(OK, "ok: 1 of 8 workers idle, 1 connection waits (limit 1,024)", workers=workers(idle=1), queue=1),
        judged(OK, "ok: 8 of 8 workers idle", workers=workers(idle=8), queue=None),
        judged(OK, "ok: 1 of 1 worker idle, nothing waits", workers=workers(idle=1), limits={}),
        judged(
            OK,
            "ok: all 3 workers are in a request, 5 more may be started, 2 connections wait (limit 1,024)",
            workers=workers(in_request=2, long=1),
            queue=2,
        ),
        judged(
            OK,
            "ok: no worker at rest, the next request starts one",
            workers=(),
            kind="ondemand",
        ),
        judged(
            OK,
            "ok: 1 worker starting, 1 connection waits",
            workers=workers(starting=1),
            kind="per-request",
            queue=1,
            queue_limit=None,
        ),
        judged(BUSY, "busy: all 8 workers are in a request, nothing waits", workers=workers(in_request=7, reading=1)),
        judged(
            BUSY,
            "busy: all 8 workers are in a request, 5 connections wait (limit 1,024): raise n_processes or make requests shorter",
            workers=workers(in_request=8),
            queue=5,
        ),
        judged(
            BUSY,
            "busy: all 8 workers are in a request, at least 1 connection waits: raise n_processes or make requests shorter",
            workers=workers(in_request=8),
            queue=1,
            queue_limit=None,
            queue_is_exact=False,
        ),
        judged(
            BUSY,
            "busy: all 8 workers are in a request, 4 connections wait (limit 4), further clients are refused: "
            "raise n_processes or make requests shorter",
            workers=workers(in_request=8),
            queue=4,
            queue_limit=4,
        ),
        judged(
            BUSY,
            "busy: all 8 workers are in a request, 4 connections wait (limit 1,024): 6 of them for more than 2.5s, find out why",
            workers=workers(in_request=2, long=6),
            queue=4,
        ),
        judged(
            BUSY,
            "busy: the worker is in a request, nothing waits",
            workers=workers(in_request=1),
            limits={"n_processes": 1},
        ),
        judged(
            BUSY,
            "busy: all 2 workers are in a request, 1 more starting, nothing waits",
            workers=workers(in_request=2, starting=1),
            kind="static",
            limits={"n_processes": 3},
        ),
        judged(DOWN, "starting: 2 workers started, none is ready yet", workers=workers(starting=2), phase="starting"),
        judged(
            DOWN,
            "stopping: 2 workers left, 1 of them in a request",
            workers=workers(idle=1, in_request=1),
            phase="stopping",
        ),
        judged(DOWN, "draining: 3 workers left", workers=workers(idle=3), phase="draining"),
        judged(
            DOWN,
            "down: nobody can serve, no worker is there, nothing waits: the log says why no worker starts",
            workers=(),
        ),
        judged(
            DOWN,
            "down: nobody can serve, 2 starting and 1 leaving, nothing waits; the last reload failed: no such table",
            workers=workers(starting=2, leaving=1),
            reload_failure="no such table",
        ),
        judged(
            DOWN,
            "down: nobody can serve, no worker is there, 2 connections wait (limit 1,024): the log says why no worker starts",
            workers=(),
            kind="ondemand",
            queue=2,
            failing_starts=2,
        ),
        judged(
            DOWN,
            "down: nobody can serve, 1 starting, 1 connection waits (limit 1,024)",
            workers=workers(starting=1),
            kind="per-request",
            queue=1,
            failing_starts=2,
        ),
        judged(
            OK,
            "ok: no worker at rest, the next request starts one",
            workers=(),
            kind="ondemand",
            queue=0,
            failing_starts=2,
        ),
        judged(
            OK,
            "reloading: 2 of 8 workers idle, nothing waits",
            workers=workers(idle=2, leaving=2),
            phase="reloading",
        ),
        judged(
            BUSY,
            "reloading: all 2 workers are in a request, nothing waits",
            workers=workers(in_request=2),
            phase="reloading",
            kind="static",
        ),
        judged(
            OK,
            "ok: 8 of 8 workers idle, nothing waits; the last reload failed: \\x1b[31mno\\x0asuch file",
            workers=workers(idle=8),
            reload_failure="\x1b[31mno\nsuch file",
        ),
    ],
)
def test_the_line(level: str, line: str, given: dict[str, Any]) -> None:
    found = verdict(pool(**given))
    assert (str(found), found.level) == (line, level)


def test_a_balancer_takes_out_only_a_pool_that_is_down() -> None:
    busy = verdict(pool(workers=workers(in_request=8)))
    assert (busy.exit_status, busy.http_status) == (1, "200 OK")
    down = verdict(pool(workers=()))
    assert (down.exit_status, down.http_status) == (2, "503 Service Unavailable")
    fine = verdict(pool())
    assert (fine.exit_status, fine.http_status) == (0, "200 OK")


def test_somebody_who_leaves_is_nobody_to_serve_the_next_one() -> None:
    assert verdict(pool(workers=workers(leaving=8))).level == DOWN


@pytest.mark.parametrize("kind", ["static", "dynamic", "ondemand", "per-request", "what another release has"])
@pytest.mark.parametrize("phase", ["starting", "running", "reloading", "draining", "stopping", "of another release"])
def test_every_pool_has_one(kind: str, phase: str) -> None:
    for each in (pool(kind=kind, phase=phase), pool(kind=kind, phase=phase, workers=(), limits={}), crowded(), empty()):
        found = verdict(each)
        assert found.level in LEVELS
        assert "\n" not in str(found)
        assert found.reason


def test_a_pool_above_its_ceiling_counts_all() -> None:
    found = verdict(pool(workers=workers(idle=9), limits={**LIMITS, "n_processes": 8}))
    assert str(found) == "ok: 9 of 9 workers idle, nothing waits"
