"""How many workers a pool starts at a load that stays the same, and what is left of one after a burst."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Callable

import pytest

from harness.pools import Pool, Steady
from harness.process import Script, wait_until

Run = Callable[..., Script]

SECONDS = float(os.environ.get("FCGI_PROCMANAGER_SECONDS", "4"))  # of a load that stays the same
CLIENTS = 4
SPARE = {"dynamic": ", start_servers=1, min_spare=1, max_spare=2"}


@pytest.fixture
def pool(run_script: Run, sock_path: str) -> Pool:
    return Pool(run_script, sock_path)


@pytest.mark.parametrize("kind", ["static", "dynamic", "ondemand"])
def test_a_load_that_stays_the_same_makes_no_churn(pool: Pool, kind: str) -> None:
    """FCGI_PROCMANAGER_SECONDS: how long it lasts. Counted are all the workers that were ever started.

    A reply comes before its worker is idle again, so each client may be seen twice, and three times where one is preempted there; whoever
    was started for that stays.
    """
    size = CLIENTS if kind == "static" else 4 * CLIENTS
    script = pool.start(f"{size}, pool={kind!r}{SPARE.get(kind, '')}, process_idle_timeout=60", 1)
    with Steady(pool, CLIENTS, "/sleep/0.1") as load:
        load.wait(40)
        before = pool.started
        time.sleep(SECONDS)  # the time is what is tested
        started = pool.started
    print(f"{kind}: {started} workers started, {started - before} of them in the last {SECONDS:g} s")  # pytest -rP
    assert load.failures == []
    assert started <= 3 * CLIENTS
    assert "exited" not in script.log()
    assert script.stop() == 0


@pytest.mark.parametrize(("kind", "rest"), [("dynamic", 2), ("ondemand", 0), ("per-request", 0)])
def test_after_a_burst_it_is_as_small_as_before(pool: Pool, tmp_path: Path, kind: str, rest: int) -> None:
    script = pool.start(f"8, pool={kind!r}{SPARE.get(kind, '')}, process_idle_timeout=0.5", 1)
    for number in range(2):
        gate = tmp_path / f"gate{number}"
        asked = pool.at_once([f"/wait/{gate}"] * 8)
        wait_until(lambda gate=gate: len(list(tmp_path.glob(gate.name + ".*"))) == 8, 60, "all to be in hand")
        gate.touch()
        assert [future.result().status for future in asked] == [200] * 8
        script.wait_workers(rest)
    assert "KILL" not in script.log()
    assert script.stop() == 0


@pytest.mark.parametrize("kind", ["dynamic", "ondemand", "per-request"])
def test_a_burst_of_requests_of_one_second_upon_one_worker(pool: Pool, kind: str) -> None:
    """They take 16 s one after the other, and little more than one when each has a worker."""
    script = pool.start(f"16, pool={kind!r}{SPARE.get(kind, '')}", 1)
    began = time.monotonic()
    replies = [future.result() for future in pool.at_once(["/sleep/1"] * 16)]
    took = time.monotonic() - began
    print(f"{kind}: 16 requests of 1 s in {took:.2f} s")  # pytest -rP
    assert [reply.status for reply in replies] == [200] * 16
    assert took < 12
    assert script.stop() == 0
