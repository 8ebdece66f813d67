"""`PoolManager`: as many workers as are needed, in every kind of pool."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Callable

import pytest

from fcgi_procmanager import ConfigError, PoolManager
from harness.pools import Pool, Steady
from harness.process import Script, process_state, wait_dead, wait_until

Run = Callable[..., Script]


@pytest.fixture
def pool(run_script: Run, sock_path: str) -> Pool:
    return Pool(run_script, sock_path)


def waiting(gate: Path, count: int) -> list[str]:
    """Requests that wait until the file is there."""
    return [f"/wait/{gate}"] * count


def in_hand(gate: Path) -> list[Path]:
    """Of these requests: a file for each that has begun."""
    return list(gate.parent.glob(gate.name + ".*"))


def test_static_is_always_n_processes(pool: Pool) -> None:
    script = pool.start("4", 4)
    before = script.workers()
    for future in pool.at_once(["/sleep/0.1"] * 8):
        assert future.result().status == 200
    assert script.workers() == before
    assert script.stop() == 0


@pytest.mark.parametrize("kind", ["dynamic", "ondemand", "per-request"])
def test_a_burst_has_a_worker_for_each_request_at_once(pool: Pool, tmp_path: Path, kind: str) -> None:
    """16 requests upon one idle worker: all of them are in hand before the first one is done."""
    spare = ", start_servers=1, min_spare=1, max_spare=2" if kind == "dynamic" else ""
    script = pool.start(f"16, pool={kind!r}{spare}", 1)
    asked = pool.at_once(waiting(gate := tmp_path / "gate", 16))
    wait_until(lambda: len(in_hand(gate)) == 16, 60, "all of them to be in hand")
    gate.touch()
    pids = {int(future.result().text) for future in asked}
    assert len(pids) == 16
    assert pool.started <= (17 if kind == "dynamic" else 32)
    assert script.stop() == 0


@pytest.mark.parametrize("kind", ["dynamic", "ondemand", "per-request"])
def test_there_are_never_more_than_n_processes(pool: Pool, tmp_path: Path, kind: str) -> None:
    spare = ", start_servers=1, min_spare=1, max_spare=2" if kind == "dynamic" else ""
    script = pool.start(f"3, pool={kind!r}{spare}", 1)
    asked = pool.at_once(waiting(gate := tmp_path / "gate", 8))
    script.wait_workers(3)
    most = 0
    for _ in range(50):
        most = max(most, len(script.workers()))
        time.sleep(0.005)  # in which nothing may happen
    assert most == 3, script.log()
    script.wait_log("no more may be started")
    gate.touch()
    assert [future.result().status for future in asked] == [200] * 8
    assert script.stop() == 0


def test_dynamic_shrinks_to_max_spare_when_it_has_been_idle(pool: Pool, tmp_path: Path) -> None:
    script = pool.start("8, pool='dynamic', start_servers=1, min_spare=1, max_spare=2, process_idle_timeout=0.3", 1)
    asked = pool.at_once(waiting(gate := tmp_path / "gate", 8))
    script.wait_workers(8)
    gate.touch()
    for future in asked:
        future.result()
    script.wait_workers(2)
    started = pool.started
    time.sleep(0.7)  # in which nothing may happen
    assert len(script.workers()) == 2
    assert pool.started == started
    assert script.stop() == 0


def test_ondemand_has_none_at_rest_and_serves_the_next_request_all_the_same(pool: Pool) -> None:
    script = pool.start("4, pool='ondemand', process_idle_timeout=0.2", 1)
    for _ in range(3):
        wait_until(lambda: not script.workers(), 60, "nobody to be there")
        assert pool.ask().status == 200
    assert script.stop() == 0


def test_per_request_is_a_worker_for_each_request(pool: Pool) -> None:
    script = pool.start("4, pool='per-request', process_idle_timeout=1", 1)
    pids = [pool.pid_of() for _ in range(12)]
    assert len(set(pids)) == 12
    with Steady(pool, 3) as load:
        load.wait(60)
    assert load.failures == []
    # One who is slow to speak is served by a worker that holds him, besides the request of another one.
    assert len({*load.prompt}) == len(load.prompt) > 0
    assert "in a row failed" not in script.log()
    wait_until(lambda: not script.workers(), 60, "nobody to be there")
    assert script.stop() == 0


def test_the_longest_idle_leaves_first(pool: Pool, tmp_path: Path) -> None:
    script = pool.start("4, pool='dynamic', min_spare=1, max_spare=1, process_idle_timeout=1", 1)
    asked = pool.at_once(waiting(gate := tmp_path / "gate", 4))
    wait_until(lambda: len(in_hand(gate)) == 4, 60, "four in hand")
    gate.touch()
    for future in asked:
        future.result()
    pool.settle()
    busy = pool.pid_of("/sleep/0.5")
    wait_until(lambda: len(script.workers()) == 1, 60, "the others to leave")
    assert script.workers() == [busy]
    assert script.stop() == 0


@pytest.mark.parametrize("kind", ["static", "dynamic", "ondemand"])
def test_a_killed_worker_is_replaced(pool: Pool, kind: str) -> None:
    spare = ", start_servers=2, min_spare=2, max_spare=3" if kind == "dynamic" else ""
    script = pool.start(f"3, pool={kind!r}{spare}, process_idle_timeout=60", 1)
    victim = pool.pid_of()
    script.signal(signal.SIGKILL, victim)
    wait_dead(victim)
    with Steady(pool, 2) as load:
        load.wait(50)
    assert load.failures == []
    assert victim not in load.pids
    assert script.stop() == 0


@pytest.mark.parametrize("kind", ["static", "dynamic", "ondemand", "per-request"])
def test_kills_at_random_under_load_leave_it_serving(pool: Pool, kind: str) -> None:
    """Each kill costs one request at most. Who has never answered is spared: nobody would on a machine on which a start takes longer than
    the time between two kills."""
    script = pool.start(f"4, pool={kind!r}, process_idle_timeout=1", 1)
    answered: set[int] = set()
    killed, asked, failed = 0, 0, 0
    longest = 0.0
    over = threading.Event()

    def kill() -> None:
        nonlocal killed
        while not over.wait(0.03):
            workers = [pid for pid in script.workers() if pid in answered]
            if workers:
                try:
                    os.kill(workers[killed % len(workers)], signal.SIGKILL)
                except ProcessLookupError:
                    continue
                killed += 1

    killer = threading.Thread(target=kill)
    killer.start()
    until = time.monotonic() + 3
    while time.monotonic() < until:
        began = time.monotonic()
        asked += 1
        try:
            reply = pool.ask()
        except OSError:
            failed += 1
        else:
            failed += not reply.ended
            if reply.ended:
                answered.add(int(reply.text))
        longest = max(longest, time.monotonic() - began)
    over.set()
    killer.join()
    assert failed <= killed
    print(f"{kind}: {killed} kills, the longest of {asked} requests {longest:.3f} s")  # pytest -rP
    assert pool.ask().status == 200
    assert script.stop() == 0


@pytest.mark.parametrize("kind", ["static", "dynamic", "ondemand", "per-request"])
def test_a_reload_in_every_kind(pool: Pool, kind: str) -> None:
    script = pool.start(f"4, pool={kind!r}, process_idle_timeout=1", 1)
    with Steady(pool, 2) as load:
        load.wait(20)
        for _ in range(3):
            before = {*script.workers()}
            script.signal(signal.SIGHUP)
            wait_until(lambda before=before: not before & {*script.workers()}, 60, "other workers")
            load.wait(20)
    assert load.failures == []
    assert "failed" not in script.log()
    assert script.stop() == 0


@pytest.mark.parametrize("kind", ["static", "dynamic", "ondemand", "per-request"])
def test_a_stop_in_every_kind_leaves_nobody(pool: Pool, tmp_path: Path, kind: str) -> None:
    script = pool.start(f"4, pool={kind!r}", 1)
    asked = pool.at_once(waiting(gate := tmp_path / "gate", 3))
    wait_until(lambda: len(in_hand(gate)) == 3, 60, "three in hand")
    script.signal(signal.SIGTERM)
    script.wait_log("sending TERM")
    gate.touch()
    assert sum(future.result().status == 200 for future in asked) == 3
    assert script.wait() == 0
    script.tree_gone()


def is_at_rest(pid: int) -> bool:
    """Whether it sleeps whenever it is looked at."""
    states = []
    for _ in range(20):
        states.append(process_state(pid))
        time.sleep(0.01)
    return states.count("S") > 15


@pytest.mark.parametrize("kind", ["static", "dynamic", "ondemand", "per-request"])
@pytest.mark.parametrize("moment", ["starting", "stopping"])
def test_the_manager_waits_while_nothing_happens(pool: Pool, tmp_path: Path, kind: str, moment: str) -> None:
    gate = tmp_path / "gate"
    more = (
        "class Slow(PoolManager):\n    def server_init(self):\n        super().server_init()\n"
        f"        while not os.path.exists({str(gate)!r}):\n            time.sleep(0.02)\n"
        if moment == "starting"
        else ""
    )
    script = pool.start(f"3, pool={kind!r}", 0 if more else 1, more, "Slow" if more else "PoolManager")
    if more:
        script.wait_log(r"server \(pid \d+\) started")
        script.signal(signal.SIGKILL, script.workers()[0])
        script.wait_log(r"server \(pid \d+\) started", 2)
    else:
        asked = pool.at_once(waiting(gate, 2))
        wait_until(lambda: len(in_hand(gate)) == 2, 60, "two in hand")
        script.signal(signal.SIGTERM)
        script.wait_log("sending TERM")
    wait_until(lambda: is_at_rest(script.pid), 60, "the manager to be at rest")
    gate.touch()
    if more:
        script.wait_ready()
        assert script.stop() == 0
    else:
        assert [future.result().status for future in asked] == [200, 200]
        assert script.wait() == 0


def test_ttin_and_ttou_change_how_many_there_may_be(pool: Pool, tmp_path: Path) -> None:
    script = pool.start("1, pool='ondemand'", 1)
    asked = pool.at_once(waiting(gate := tmp_path / "gate", 3))
    script.wait_log("no more may be started")
    script.signal(signal.SIGTTIN)
    script.wait_workers(2)
    script.signal(signal.SIGTTIN)
    script.wait_workers(3)
    gate.touch()
    assert [future.result().status for future in asked] == [200] * 3
    assert script.stop() == 0


@pytest.mark.parametrize("kind", ["dynamic", "ondemand", "per-request"])
def test_a_first_worker_that_cannot_start_ends_the_pool_as_ever(pool: Pool, kind: str) -> None:
    more = "class Broken(PoolManager):\n    def server_init(self):\n        raise RuntimeError('broken')\n"
    script = pool.start(f"4, pool={kind!r}", 0, more, "Broken")
    assert script.wait() == 1
    assert "no server ever became ready" in script.log()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"pool": "elastic"}, "pool must be"),
        ({"min_spare": 1}, "min_spare is for pool='dynamic'"),
        ({"pool": "dynamic", "min_spare": 9}, "min_spare must not be more than n_processes"),
        ({"pool": "dynamic", "min_spare": 4, "max_spare": 3}, "max_spare must not be less than min_spare"),
        ({"process_idle_timeout": -1}, "process_idle_timeout"),
        ({"max_memory": "lots"}, "max_memory must be a size"),
        ({"max_age": "soon"}, "max_age must be a time"),
        ({"request_timeout": "x"}, "request_timeout"),
        ({"emergency_restart_threshold": -1}, "emergency_restart_threshold"),
    ],
)
def test_a_mistake_names_the_parameter(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        PoolManager(8, **arguments)  # type: ignore[arg-type]
