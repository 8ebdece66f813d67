"""A standby of a `PoolManager`: it has a slot, and is nobody on the scoreboard; a pool that grows takes it."""

from __future__ import annotations

import contextlib
import re
import signal
from pathlib import Path
from typing import Callable

import pytest

from harness.fcgi import Client, request_bytes
from harness.interpreter import cpython_only
from harness.pools import Pool, facts, status
from harness.process import Script, cmdline, open_fds, process_state, wait_asleep, wait_dead, wait_until

Run = Callable[..., Script]

pytestmark = cpython_only("no process titles, which tell a standby from a worker here")

LONG = 60  # seconds


@pytest.fixture
def pool(run_script: Run, sock_path: str) -> Pool:
    return Pool(run_script, sock_path)


def parked(script: Script, old: int = 0) -> int:
    """The one that stands by, another than the old one, once its manager knows of it."""

    def found() -> list[int]:
        return [
            pid for pid in script.workers() if "(standby)" in cmdline(pid) and process_state(pid) == "S" and pid != old
        ]

    (pid,) = wait_until(found, LONG, script.log)
    wait_asleep(script.pid, LONG)
    return pid


def test_a_request_that_kills_is_followed_by_the_standby(pool: Pool) -> None:
    """Many times: slots are given and taken back, and none is lost."""
    script = pool.start("1, standby=1", 1)
    for _ in range(80):  # more than there are slots
        standby = parked(script)
        with contextlib.suppress(OSError):
            pool.ask("/kill/KILL")
        assert pool.pid_of() == standby
    parked(script)
    assert script.stop() == 0
    assert "in a row" not in script.log()


@pytest.mark.parametrize("threads", [1, 4])
def test_with_threads(pool: Pool, threads: int) -> None:
    pool._site = pool._site.replace("bindAddress", f"threads={threads}, bindAddress")
    script = pool.start("2, standby=1", 2)
    standby = parked(script)
    script.signal(signal.SIGKILL, next(pid for pid in script.workers() if pid != standby))
    script.wait_log(rf"server \(pid {standby}\): initialized$", timeout=LONG)
    parked(script, standby)
    assert {pool.ask().status for _ in range(20)} == {200}
    assert script.stop() == 0


@pytest.mark.parametrize("kind", ["dynamic", "ondemand", "per-request"])
def test_a_pool_that_grows_takes_it(pool: Pool, tmp_path: Path, kind: str) -> None:
    spare = ", start_servers=1, min_spare=1, max_spare=2" if kind == "dynamic" else ""
    script = pool.start(f"4, pool={kind!r}, standby=1{spare}", 1)
    standby = parked(script)
    gate = tmp_path / "gate"
    asked = pool.at_once([f"/wait/{gate}"] * 3)
    wait_until(lambda: len(list(tmp_path.glob("gate.*"))) == 3, LONG)
    gate.touch()
    assert all(future.result().status == 200 for future in asked)
    assert f"standby (pid {standby}) serves from now on" in script.log()
    parked(script, standby)
    assert script.stop() == 0


def test_it_replaces_those_who_are_worn(pool: Pool) -> None:
    script = pool.start("1, standby=1, max_requests=20", 1)
    for _ in range(3):
        standby = parked(script)
        while pool.pid_of() != standby:
            pass
    assert script.stop() == 0


def test_it_is_counted_as_nothing_but_a_standby(pool: Pool, tmp_path: Path) -> None:
    control = tmp_path / "control"
    script = pool.start(f"2, standby=1, control={str(control)!r}, babysit=0.05, request_timeout=30", 2)
    standby = parked(script)
    found = facts(control)
    assert (found["total processes"], found["idle processes"]) == (2, 2)
    assert "2 idle, 1 standing by" in status(control).stdout
    script.signal(signal.SIGKILL, standby)
    wait_dead(standby, LONG)
    parked(script, standby)
    assert facts(control)["total processes"] == 2
    assert script.stop() == 0


def test_with_collected_output(pool: Pool) -> None:
    """What it says, before and after, comes as lines of the log."""
    more = "class Manager(PoolManager):\n    def server_init(self):\n        super().server_init()\n        print('booted', os.getpid())\n"
    script = pool.start("1, standby=1, log_format='plain'", 1, more, "Manager")
    standby = parked(script)
    script.wait_log(rf"booted {standby}$", timeout=LONG)
    assert script.stop() == 0


def test_a_log_that_is_opened_anew_is_so_for_it_too(pool: Pool, tmp_path: Path) -> None:
    """What it writes once it serves is in the new file."""
    log = tmp_path / "requests"
    script = pool.start(f"1, standby=1, access_log={str(log)!r}, access_format='%p'", 1)
    standby = parked(script)
    log.rename(tmp_path / "moved")
    script.signal(signal.SIGUSR1)
    wait_until(log.exists, LONG)
    wait_until(lambda: open_fds(standby) and str(tmp_path / "moved") not in open_fds(standby).values(), LONG)
    with contextlib.suppress(OSError):
        pool.ask("/kill/KILL")
    assert pool.pid_of() == standby
    wait_until(lambda: log.read_text() == f"{standby}\n", LONG)
    assert (tmp_path / "moved").read_text() == ""
    assert script.stop() == 0


def test_a_connection_that_its_worker_did_not_come_to_take(pool: Pool) -> None:
    """The wake-up died with the worker. Who takes the place tries to accept first thing; the others who stand by leave it alone."""
    script = pool.start("1, standby=2", 1)
    for _ in range(10):
        wait_until(lambda: sum("(standby)" in cmdline(pid) for pid in script.workers()) == 2, LONG)
        server = next(pid for pid in script.workers() if "(standby)" not in cmdline(pid))
        script.signal(signal.SIGSTOP, server)
        wait_until(lambda pid=server: process_state(pid) == "T", LONG)
        with Client(pool.address, LONG) as client:
            client.send(request_bytes())
            script.signal(signal.SIGKILL, server)
            assert client.read_reply().status == 200
    assert script.stop() == 0


def test_an_exec_of_the_manager_lets_it_go(pool: Pool) -> None:
    script = pool.start("2, standby=1", 2)
    for generation in (1, 2):
        parked(script)
        old = {*script.workers()}
        script.signal(signal.SIGUSR2)
        script.wait_log("adopted 2 servers$", generation, LONG)
        wait_until(lambda old=old: not old & {*script.workers()}, LONG, script.log)
        parked(script)
    script.wait_workers(3, LONG)
    assert script.stop() == 0
    ends = re.findall(r"standby \(pid \d+\) exited with status (.*)$", script.log(), re.MULTILINE)
    assert ends == ["0"] * 3
    script.tree_gone()
