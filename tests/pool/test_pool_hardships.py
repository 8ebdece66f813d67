"""What may happen to a pool and its manager: kills, code that breaks, a system without a process to spare, workers that do not listen."""

from __future__ import annotations

import contextlib
import errno
import math
import signal
import socket
import time
from pathlib import Path
from typing import Callable

import pytest

from harness.fcgi import Client, fetch
from harness.pools import Pool
from harness.process import Script, alive, wait_until

Run = Callable[..., Script]

KINDS = pytest.mark.parametrize("kind", ["static", "dynamic", "ondemand", "per-request"])


@pytest.fixture
def pool(run_script: Run, sock_path: str) -> Pool:
    return Pool(run_script, sock_path)


def refuses(address: str) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(address) == errno.ECONNREFUSED


# -- the manager is killed ------------------------------------------------------------------------------------------------


@KINDS
def test_a_pool_whose_manager_is_killed_serves_no_more_and_the_next_one_takes_its_places(
    pool: Pool, tmp_path: Path, kind: str
) -> None:
    pidfile, page = tmp_path / "run.pid", str(tmp_path / "status.sock")
    arguments = f"3, pool={kind!r}, pidfile={str(pidfile)!r}, status_listen={page!r}"
    patience = "from functools import partial\nWSGIServer = partial(WSGIServer, head_timeout=100, drain_timeout=100)\n"
    script = pool.start(arguments, 1, patience)
    with Client(pool.address) as silent:  # gets its time to speak, but in nobody's way
        assert pool.ask().status == 200  # by now it has been accepted
        script.signal(signal.SIGKILL)
        began = time.monotonic()
        wait_until(lambda: refuses(pool.address) and refuses(page), 60, "nobody to take a connection")
        print(f"{kind}: nobody serves {time.monotonic() - began:.3f} s after the kill")  # pytest -rP
        assert script.wait() == -signal.SIGKILL
        killed, script = script, pool.start(arguments, 1)
        assert pool.ask().status == 200
        assert fetch(page, "/status").status == 200
        assert silent.request().ended
    killed.tree_gone()
    assert script.stop() == 0
    assert not {path.name for path in tmp_path.iterdir()} & {"run.pid", "run.control", "status.sock"}


@KINDS
def test_a_request_in_hand_outlives_its_manager_and_nobody_takes_another(pool: Pool, tmp_path: Path, kind: str) -> None:
    script = pool.start(f"3, pool={kind!r}", 1)
    (asked,) = pool.at_once([f"/wait/{tmp_path / 'gate'}"])
    (begun,) = wait_until(lambda: list(tmp_path.glob("gate.*")), 60, "it to be in hand")
    worker = int(begun.suffix[1:])
    script.signal(signal.SIGKILL)
    wait_until(lambda: [pid for pid in script.tree() if alive(pid)] == [worker], 60, "the others to leave")
    (tmp_path / "gate").touch()
    assert asked.result().text == str(worker)
    script.tree_gone()
    with pytest.raises(ConnectionRefusedError):
        pool.ask()
    assert pool.start(f"3, pool={kind!r}", 1).stop() == 0


# -- workers that do not listen -------------------------------------------------------------------------------------------

DEAF = """
real = app
def app(environ, start_response):
    if environ["PATH_INFO"] == "/deaf":
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGHUP])
        say(os.getpid())
        while True:
            time.sleep(0.05)
    return real(environ, start_response)
"""


@KINDS
def test_a_worker_that_ignores_term_is_killed_in_a_stop(pool: Pool, kind: str) -> None:
    script = pool.start(f"2, pool={kind!r}, die_timeout=1", 1, DEAF)
    (asked,) = pool.at_once(["/deaf"])
    deaf = int(script.line())
    assert script.stop() == 1
    assert f"server (pid {deaf}) exited with status 137 (SIGKILL)" in script.log()
    assert not asked.result().ended


@KINDS
def test_a_worker_that_ignores_term_is_killed_in_a_reload_with_a_time(pool: Pool, kind: str) -> None:
    script = pool.start(f"2, pool={kind!r}, reload_timeout=0.5", 1, DEAF)
    (asked,) = pool.at_once(["/deaf"])
    deaf = int(script.line())
    script.signal(signal.SIGHUP)
    wait_until(lambda: deaf not in script.workers(), 60, "its end")
    assert not asked.result().ended
    assert pool.ask().status == 200
    assert script.stop() == 0


# -- workers that are gone, or cannot start -------------------------------------------------------------------------------


@KINDS
def test_a_worker_that_was_killed_has_a_successor_at_once(pool: Pool, tmp_path: Path, kind: str) -> None:
    """Killed with a request in hand, while the only other one has one too: the next request needs somebody new."""
    script = pool.start(f"2, pool={kind!r}", 1)
    gate = tmp_path / "gate"
    asked = pool.at_once([f"/wait/{gate}"] * 2)
    begun = wait_until(lambda: len(found := list(tmp_path.glob("gate.*"))) == 2 and found, 60, "two in hand")
    victim = int(begun[0].suffix[1:])
    script.signal(signal.SIGKILL, victim)
    began = time.monotonic()
    assert pool.ask().status == 200
    print(f"{kind}: an answer {time.monotonic() - began:.3f} s after the kill")  # pytest -rP
    script.wait_log(rf"server \(pid {victim}\) died in GET ")
    gate.touch()
    assert sorted(future.result().ended for future in asked) == [False, True]
    assert script.stop() == 0


BREAKS = """
class Breaking(PoolManager):
    def server_init(self):
        super().server_init()
        if os.path.exists({path!r}):
            os._exit(1)
"""


@KINDS
def test_code_that_breaks_later_is_tried_ever_more_rarely(pool: Pool, tmp_path: Path, kind: str) -> None:
    """All are killed, and nobody can start: few forks, a manager that says so, and all is well when the code is."""
    broken, page = tmp_path / "broken", str(tmp_path / "status.sock")
    script = pool.start(
        f"3, pool={kind!r}, status_listen={page!r}", 1, BREAKS.format(path=str(broken)), manager="Breaking"
    )
    assert pool.ask().status == 200
    wait_until(lambda: fetch(page, "/ping").status == 200, 60, "a pool that serves")
    if kind == "static":
        script.wait_log(r"server \(pid \d+\) started$", 3)
    before = pool.started
    broken.touch()
    began = time.monotonic()
    for pid in script.workers():
        with contextlib.suppress(ProcessLookupError):  # it has served its request, and left
            script.signal(signal.SIGKILL, pid)
    (asked,) = pool.at_once(["/"])
    script.wait_log(r"in a row failed", 3)
    wait_until(lambda: fetch(page, "/ping").status == 503, 60, "a pool in which nobody serves")
    # Two rounds at once; then one after a tenth of a second, and each later one after twice the time.
    assert pool.started - before <= 2 * 3 + 2 + math.log2(1 + 10 * (time.monotonic() - began))
    broken.unlink()
    assert asked.result().status == 200
    wait_until(lambda: fetch(page, "/ping").status == 200, 60, "a pool that serves")
    assert script.stop() == 0


REFUSES = """
import errno
real_fork = os.fork
def fork():
    if os.path.exists({path!r}):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return real_fork()
os.fork = fork
"""


@pytest.mark.parametrize("kind", ["dynamic", "ondemand", "per-request"])
def test_a_fork_that_the_system_refuses_is_tried_again_and_loses_no_request(
    pool: Pool, tmp_path: Path, kind: str
) -> None:
    refuse, gate = tmp_path / "refuse", tmp_path / "gate"
    script = pool.start(f"3, pool={kind!r}, process_idle_timeout=0.2", 1, REFUSES.format(path=str(refuse)))
    if kind != "dynamic":
        wait_until(lambda: not script.workers(), 60, "nobody to be there")
    refuse.touch()
    asked = pool.at_once([f"/wait/{gate}"] * 3)
    script.wait_log("fork: Resource temporarily unavailable; trying again", 2)
    refuse.unlink()
    wait_until(lambda: len(list(tmp_path.glob("gate.*"))) == 3, 60, "all to be in hand")
    gate.touch()
    assert [future.result().status for future in asked] == [200] * 3
    assert script.stop() == 0


@KINDS
def test_a_worker_that_somebody_else_has_reaped_is_missed(pool: Pool, kind: str) -> None:
    more = """
import threading
class Reaping(PoolManager):
    def manager_init(self):
        super().manager_init()
        threading.Thread(target=self.reap, daemon=True).start()
    def reap(self):
        while True:
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                time.sleep(0.001)
"""
    script = pool.start(f"2, pool={kind!r}", 1, more, "Reaping")
    for _ in range(3):
        victim = pool.pid_of()
        try:
            script.signal(signal.SIGKILL, victim)
        except ProcessLookupError:
            assert kind == "per-request"
        wait_until(lambda victim=victim: victim not in script.workers(), 60, "its end")
    assert pool.ask().status == 200
    assert script.stop() == 0


# -- what workers have in common ------------------------------------------------------------------------------------------


@KINDS
def test_random_numbers_differ_between_workers(pool: Pool, tmp_path: Path, kind: str) -> None:
    """The modules were used before the fork."""
    more = """
import random, ssl, tempfile, uuid
random.seed(1), ssl.RAND_bytes(8), uuid.uuid4(), tempfile.mktemp()
real = app
def app(environ, start_response):
    real(environ, lambda *_: None)
    start_response("200 OK", [])
    found = random.random(), ssl.RAND_bytes(8).hex(), uuid.uuid4(), tempfile.mktemp(), os.urandom(8).hex()
    return [" ".join(map(str, found)).encode()]
"""
    script = pool.start(f"6, pool={kind!r}", 1, more)
    gate = tmp_path / "gate"
    asked = pool.at_once([f"/wait/{gate}"] * 6)
    wait_until(lambda: len(list(tmp_path.glob("gate.*"))) == 6, 60, "each of them to have one")
    gate.touch()
    columns = list(zip(*(future.result().text.split() for future in asked)))
    assert [len(set(column)) for column in columns] == [6] * 5
    assert script.stop() == 0
