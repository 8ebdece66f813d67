"""What a worker of a `PoolManager` may not exceed: requests, memory, age, the time of a request, a CPU."""

from __future__ import annotations

import os
import re
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Callable

import pytest

from harness.interpreter import cpython_only
from harness.pools import Pool, Steady
from harness.process import Script, wait_until

Run = Callable[..., Script]


@pytest.fixture
def pool(run_script: Run, sock_path: str) -> Pool:
    return Pool(run_script, sock_path)


def dies(pool: Pool, path: str) -> bool:
    """Whether a request has no end, because its worker had none."""
    try:
        return not pool.ask(path).ended
    except OSError:
        return True


# -- recycling ----------------------------------------------------------------------------------------------------------


def test_nobody_serves_more_than_max_requests(pool: Pool) -> None:
    script = pool.start("2, max_requests=20", 2)
    served: Counter[str] = Counter()
    for _ in range(200):
        served[pool.ask().text] += 1
    assert max(served.values()) <= 20
    assert "max_requests (" in script.log()
    assert script.stop() == 0


def test_one_that_is_worn_leaves_when_its_replacement_is_ready(pool: Pool) -> None:
    """One at a time, and no request waits or fails."""
    script = pool.start("3, max_requests=100", 3)
    with Steady(pool, 4) as load:
        load.wait(1500)
    assert load.failures == []
    assert script.stop() == 0
    ready = 0
    for line in script.log().partition("received signal TERM")[0].splitlines():
        ready += line.endswith(": initialized") and "server" in line
        ready -= len(found[1].split()) if (found := re.search(r"sending TERM to PIDs, (.*)", line)) else 0
        assert ready >= 3 or "sending TERM" not in line, script.log()


def test_one_that_has_grown_is_replaced(pool: Pool) -> None:
    script = pool.start("2, max_memory='120M'", 2)
    before = script.workers()
    grown = pool.pid_of("/grow/150")
    script.wait_log(rf"replacing server \(pid {grown}\): max_memory \(\d+ MB\)")
    wait_until(lambda: grown not in script.workers(), 60, f"the end of {grown}")
    script.wait_workers(2)
    assert {*before} - {grown} < {*script.workers()}
    assert script.stop() == 0


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="PSS is known on Linux only")
def test_the_memory_may_be_the_proportional_one(pool: Pool) -> None:
    script = pool.start("1, max_memory='120M', memory_measure='pss'", 1)
    grown = pool.pid_of("/grow/150")
    script.wait_log("replacing server .*: max_memory")
    wait_until(lambda: grown not in script.workers(), 60, f"the end of {grown}")
    assert script.stop() == 0


def test_one_that_is_old_is_replaced_though_it_is_idle(pool: Pool) -> None:
    script = pool.start("3, max_age=2", 3)
    before = {*script.workers()}
    script.wait_log(r"replacing server \(pid \d+\): max_age \(2 s\)", 3)
    wait_until(lambda: not before & {*script.workers()}, 60, "others")
    script.wait_workers(3)
    assert script.stop() == 0


# -- the time of a request ------------------------------------------------------------------------------------------------


def test_a_request_that_takes_too_long_gets_504_and_its_worker_goes_on(pool: Pool) -> None:
    script = pool.start("1, request_timeout=1.5, request_grace=60", 1)
    reply = pool.ask("/sleep/20")
    assert reply.status == 504
    script.wait_log(r"the request /sleep/20 took longer than 1.5 s \(request_timeout\)")
    assert pool.pid_of() == script.workers()[0]
    assert pool.started == 1
    assert script.stop() == 0


def test_requests_that_end_in_time_are_left_alone(pool: Pool) -> None:
    script = pool.start("2, request_timeout=20", 2)
    with Steady(pool, 2, "/sleep/0.3") as load:
        load.wait(15)
    assert load.failures == []
    assert "request_timeout" not in script.log()
    assert script.stop() == 0


def test_requests_that_end_at_the_very_moment_are_whole_or_get_504(pool: Pool) -> None:
    """The time is up between 40 ms before and 40 ms after the end of the request, in 80 steps."""
    script = pool.start("1, request_timeout=0.1, request_grace=60", 1)
    statuses: Counter[int] = Counter()
    for step in range(80):
        statuses[pool.ask(f"/sleep/{0.06 + step / 1000:.3f}").status] += 1
    assert set(statuses) == {200, 504}
    assert pool.started == 1, script.log()
    assert script.stop() == 0


def test_one_that_cannot_be_told_is_killed_and_named(pool: Pool) -> None:
    more = "class Deaf(PoolManager):\n    def request_timed_out(self):\n        pass\n"
    script = pool.start("2, request_timeout=1, request_grace=1", 2, more, "Deaf")
    assert dies(pool, "/sleep/20?secret=1")
    script.wait_log(r"is killed: GET /sleep/20\?secret=1 takes \d+\.\d s \(request_timeout\)")
    script.wait_log(r"died in GET /sleep/20\?secret=1 \(its request 1, after \d+\.\d s\)")
    script.wait_workers(2)
    assert pool.ask().status == 200
    assert script.stop() == 0


def test_the_hook_may_do_something_first(pool: Pool) -> None:
    more = (
        "class Telling(PoolManager):\n    def request_timed_out(self):\n"
        "        self.notify('too late')\n        super().request_timed_out()\n"
    )
    script = pool.start("1, request_timeout=0.2", 1, more, "Telling")
    assert pool.ask("/sleep/20").status == 504
    script.wait_log("too late")
    assert script.stop() == 0


def test_a_request_that_says_that_it_takes_long_may(pool: Pool) -> None:
    more = (
        "def app(environ, start_response):\n    manager.update_status('long')\n    time.sleep(4)\n"
        "    start_response('200 OK', [])\n    return [b'1']\n"
        "manager = PoolManager(1, request_timeout=3, slow_after=2.5)\n"
        "WSGIServer(app, manager=manager, bindAddress=sys.argv[1]).run()\n"
    )
    script = pool.start("1", 1, more)
    assert pool.ask().status == 200
    assert "slow request" not in script.log()
    assert script.stop() == 0


# -- slow requests --------------------------------------------------------------------------------------------------------


class Slow:
    """A request that goes on until it is let go: it opens a pipe for which there is no writer."""

    def __init__(self, pool: Pool, pipe: Path, more: str = "") -> None:
        os.mkfifo(pipe)
        self._pipe = pipe
        self.path = f"/open/{pipe}"
        (self._asked,) = pool.at_once([self.path + more])

    def let_go(self) -> None:
        os.close(os.open(self._pipe, os.O_WRONLY))
        assert self._asked.result().text != ""


def test_a_slow_request_is_reported_once_with_its_stack(pool: Pool, tmp_path: Path) -> None:
    script = pool.start("1, slow_after=0.2", 1)
    slow = Slow(pool, tmp_path / "one", "?a=b")
    script.wait_log(
        rf"slow request: GET {slow.path}\?a=b for \d+\.\d s in server \(pid \d+\), its request 1\n.*\n.*in app$"
    )
    time.sleep(0.7)  # in which nothing may happen
    slow.let_go()
    assert script.log().count("slow request") == 1
    slow = Slow(pool, tmp_path / "two")
    script.wait_log(f"slow request: GET {slow.path} ")
    slow.let_go()
    assert script.stop() == 0


@cpython_only("has no ctypes.PyDLL")
def test_a_stack_comes_while_c_code_holds_the_interpreter(pool: Pool, tmp_path: Path) -> None:
    more = (
        "import ctypes\ndef app(environ, start_response):\n"
        "    os.close(ctypes.PyDLL(None).open(environ['PATH_INFO'][6:].encode(), os.O_RDONLY))\n"
        "    start_response('200 OK', [])\n    return [b'1']\n"
    )
    script = pool.start("1, slow_after=0.2", 1, more)
    slow = Slow(pool, tmp_path / "held")
    script.wait_log(rf"slow request: GET {slow.path} for \d+\.\d s.*\n.*\n.*in app$")
    slow.let_go()
    assert script.stop() == 0


def test_slow_requests_may_have_a_file_of_their_own(pool: Pool, tmp_path: Path) -> None:
    log = tmp_path / "slow.log"
    script = pool.start(f"1, slow_after=0.1, slow_log={str(log)!r}", 1)
    slow = Slow(pool, tmp_path / "pipe")
    wait_until(lambda: log.exists() and "in app" in log.read_text(), 60, "the record")
    slow.let_go()
    assert log.stat().st_mode & 0o777 == 0o640
    assert "slow request" not in script.log()
    assert script.stop() == 0


def test_a_file_that_is_a_link_is_not_followed(pool: Pool, tmp_path: Path) -> None:
    (tmp_path / "slow.log").symlink_to(tmp_path / "target")
    script = pool.start(f"1, slow_after=0.1, slow_log={str(tmp_path / 'slow.log')!r}", 1)
    slow = Slow(pool, tmp_path / "pipe")
    script.wait_log("slow_log .*slow.log: ")
    script.wait_log("slow request")
    slow.let_go()
    assert not (tmp_path / "target").exists()
    assert script.stop() == 0


# -- the babysitter -------------------------------------------------------------------------------------------------------


def test_one_that_only_computes_is_ended_step_by_step(pool: Pool) -> None:
    script = pool.start("2, babysit=0.3", 2)
    (asked,) = pool.at_once(["/spin/60"])
    script.wait_log(r"does nothing but use a CPU: sending KILL \(babysit\)", timeout=60)
    script.wait_log(r"died in GET /spin/60")
    assert asked.exception() is not None or not asked.result().ended
    for name in ("INT", "TERM"):
        assert f"sending {name} (babysit)" in script.log()
    script.wait_workers(2)
    assert script.stop() == 0


def test_those_who_wait_are_left_alone(pool: Pool) -> None:
    script = pool.start(
        "2, babysit=1", 2
    )  # who waits for a processor for two of these would be taken for one who uses it
    assert pool.ask("/sleep/3.5").status == 200
    assert "babysit" not in script.log()
    assert script.stop() == 0


def test_one_that_hangs_while_it_starts_is_replaced(pool: Pool, tmp_path: Path) -> None:
    more = (
        "class Hanging(PoolManager):\n    def server_init(self):\n        super().server_init()\n"
        f"        while os.path.exists({str(tmp_path / 'hang')!r}):\n            time.sleep(0.01)\n"
    )
    script = pool.start("2, babysit=0.7, boot_timeout=3", 2, more, "Hanging")
    (tmp_path / "hang").touch()
    script.signal(signal.SIGKILL, script.workers()[0])
    script.wait_log(r"was not ready in 3 s \(boot_timeout\): killing it")
    (tmp_path / "hang").unlink()
    script.wait_ready(3)
    script.wait_workers(2)
    assert script.stop() == 0


# -- deadly requests ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["static", "dynamic", "ondemand", "per-request"])
def test_a_deadly_request_has_a_name(pool: Pool, kind: str) -> None:
    script = pool.start(f"3, pool={kind!r}", 1)
    for number in range(1, 5):
        assert dies(pool, f"/kill/SEGV?number={number}")
        script.wait_log(
            rf"server \(pid \d+\) died in GET /kill/SEGV\?number={number} \(its request \d+, after \d+\.\d s\)"
        )
    assert script.log().count("GET /kill/SEGV has ended 3 servers") == 1
    assert pool.ask().status == 200
    assert script.stop() == 0


def test_what_a_client_sends_cannot_forge_a_line_of_the_log(pool: Pool) -> None:
    script = pool.start("1", 1)
    assert dies(pool, "/kill/KILL?\nFastCGI: manager (pid 1): \x1b[31mforged")
    script.wait_log(r"died in GET /kill/KILL\?\\nFastCGI: manager \(pid 1\): \\x1b\[31mforged")
    assert script.stop() == 0


def test_crashes_in_a_row_replace_everybody(pool: Pool) -> None:
    script = pool.start("3, emergency_restart_threshold=3, emergency_restart_interval=30", 3)
    before = {*script.workers()}
    for _ in range(3):
        assert dies(pool, "/kill/SEGV")
    script.wait_log("too many servers crashed: replacing all of them")
    wait_until(lambda: not before & {*script.workers()}, 60, "others")
    script.wait_workers(3)
    time.sleep(0.05)  # in which nothing may happen
    assert script.log().count("too many servers crashed") == 1
    assert script.stop() == 0
