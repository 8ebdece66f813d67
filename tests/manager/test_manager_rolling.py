"""`reload="rolling"`: a new worker first, and an old one only leaves when the new one is ready."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Callable

import pytest

from fcgi_procmanager import ConfigError, ProcManager
from harness.process import Script, alive, cmdline, open_fds, titled, wait_dead, wait_until

Run = Callable[..., Script]

# What a worker does while it boots is in the file BOOT: nothing, `fail`, `exit`, `kill`, `refuse`, or it waits for the file to change.
POOL = """
import os, signal, sys, time
from harness.inside import idle
from fcgi_procmanager import *

class Manager(ProcManager):
    def server_init(self):
        super().server_init()
        word = open("boot").read()
        while word == "wait":
            time.sleep(0.005)
            word = open("boot").read()
        if word == "fail":
            raise RuntimeError("broken")
        if word == "refuse":
            raise BootError("no such module")
        if word == "exit":
            os._exit(7)
        if word == "kill":
            os.kill(os.getpid(), signal.SIGKILL)

manager = Manager(int(sys.argv[1]), reload="rolling", reload_slice=int(sys.argv[2]), {options})
manager.manage()
idle(manager)
"""


@pytest.fixture
def boot(tmp_path: Path) -> Path:
    (tmp_path / "boot").write_text("")
    return tmp_path / "boot"


@pytest.fixture
def pool(run_script: Run, boot: Path) -> Callable[..., Script]:
    def start(workers: int, at_a_time: int = 0, options: str = "") -> Script:
        script = run_script(POOL.format(options=options), args=[workers, at_a_time], cwd=boot.parent)
        script.wait_ready(workers)
        return script

    return start


def write(boot: Path, word: str) -> None:
    """At once: a worker may look at any moment."""
    aside = boot.with_suffix(".new")
    aside.write_text(word)
    os.rename(aside, boot)


@pytest.mark.parametrize("at_a_time", [0, 1, 3, 9])
def test_everybody_is_replaced_and_never_are_fewer_there_than_are_wanted(
    pool: Callable[..., Script], at_a_time: int
) -> None:
    script = pool(4, at_a_time)
    old = script.workers()
    script.signal(signal.SIGHUP)
    wait_until(lambda: len(now := script.workers()) == 4 and not {*old} & {*now}, 60, "new workers")
    assert script.stop() == 0
    ready = leaving = 0
    for line in script.log().splitlines():
        ready += "initialized" in line and "server" in line
        leaving += "sending TERM" in line and len(line.rpartition(", ")[2].split())
        if "safe exit" not in line and "received signal" not in line:
            assert ready - leaving >= 4 or ready < 4, script.log()
        if "received signal" in line:
            break


def test_an_old_one_stays_until_the_new_one_is_ready(pool: Callable[..., Script], boot: Path) -> None:
    script = pool(2)
    old = script.workers()
    write(boot, "wait")
    script.signal(signal.SIGHUP)
    new = wait_until(lambda: {*script.workers()} - {*old}, 60, "a new worker")
    assert len(new) == 1, "one at a time"
    script.signal(signal.SIGHUP)  # one more, while it boots
    write(boot, "")
    wait_until(lambda: len(now := script.workers()) == 2 and not ({*old} | new) & {*now}, 60, "the newest ones")
    assert script.stop() == 0


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("fail", r"server \(pid \d+\) exited with status 1 before it was ready"),
        ("exit", r"server \(pid \d+\) exited with status 7 before it was ready"),
        ("kill", r"server \(pid \d+\) exited with status 137 \(SIGKILL\) before it was ready"),
        ("refuse", "no such module"),
    ],
)
def test_one_that_fails_before_it_is_ready_ends_the_reload_and_the_old_ones_go_on(
    pool: Callable[..., Script], boot: Path, word: str, reason: str
) -> None:
    script = pool(3)
    old = script.workers()
    write(boot, word)
    script.signal(signal.SIGHUP)
    script.wait_log(rf"reload failed: {reason}; 3 old servers go on$")
    assert [*script.workers()] == old
    assert titled(script.pid, "(reload 1 failed: ")
    assert "sending TERM" not in script.log()
    assert len(script.wait_log(r"server \(pid \d+\) started")) == 4, "it is not tried again"
    write(boot, "")
    script.signal(signal.SIGHUP)
    wait_until(lambda: len(now := script.workers()) == 3 and not {*old} & {*now}, 60, "new workers")
    assert "failed" not in cmdline(script.pid)
    assert script.stop() == 0


def test_after_a_failed_reload_one_that_dies_is_replaced_as_always(pool: Callable[..., Script], boot: Path) -> None:
    script = pool(2)
    write(boot, "exit")
    script.signal(signal.SIGHUP)
    script.wait_log("reload failed")
    write(boot, "")
    victim = script.workers()[0]
    script.signal(signal.SIGKILL, victim)
    wait_until(lambda: len(now := script.workers()) == 2 and victim not in now, 60, "the replacement")
    assert script.stop() == 0


def test_a_stop_in_the_middle_leaves_nobody(pool: Callable[..., Script], boot: Path) -> None:
    script = pool(3)
    write(boot, "wait")
    script.signal(signal.SIGHUP)
    wait_until(lambda: len(script.workers()) == 4, 60, "a new worker")
    everybody = script.workers()
    script.signal(signal.SIGTERM)
    script.wait_log("sending TERM")
    write(boot, "")
    assert script.wait() == 0
    for pid in everybody:
        wait_dead(pid)
    script.tree_gone()


def test_reloads_in_a_row_are_one_more_in_the_end(pool: Callable[..., Script]) -> None:
    """25 of them, 0 to 24 ms apart; one more replaces everybody as always."""
    script = pool(3)
    for milliseconds in range(25):
        script.signal(signal.SIGHUP)
        time.sleep(milliseconds / 1000)
    old = script.wait_workers(3)
    script.signal(signal.SIGHUP)
    wait_until(lambda: len(now := script.workers()) == 3 and not {*old} & {*now}, 60, "new workers")
    assert "failed" not in cmdline(script.pid)
    assert script.stop() == 0


def test_reloads_leave_no_descriptor(pool: Callable[..., Script]) -> None:
    script = pool(2)
    before = open_fds(script.pid)
    for _ in range(50):
        old = {*script.workers()}
        script.signal(signal.SIGHUP)
        wait_until(lambda old=old: len(now := script.workers()) == 2 and not old & {*now}, 60, "new workers")
    assert open_fds(script.pid) == before
    assert script.stop() == 0


def test_one_that_hangs_while_it_boots_ends_the_reload_in_time(pool: Callable[..., Script], boot: Path) -> None:
    script = pool(4, options="boot_timeout=1")
    old = script.workers()
    write(boot, "wait")
    script.signal(signal.SIGHUP)
    script.wait_log(r"reload failed: server \(pid \d+\) was not ready in 1 s \(boot_timeout\); 4 old servers go on")
    wait_until(lambda: script.workers() == old, 10)
    assert titled(script.pid, "was not ready in 1 s")
    assert script.stop() == 0


def test_without_old_ones_nobody_is_given_up(run_script: Run, boot: Path) -> None:
    """At the start a worker that boots slowly is all that there is."""
    write(boot, "wait")
    script = run_script(POOL.format(options="boot_timeout=0.1"), args=[2, 0], cwd=boot.parent)
    before = script.wait_workers(2)
    time.sleep(0.3)  # in which nothing may happen
    write(boot, "")
    script.wait_ready(2)
    assert script.workers() == before
    assert script.stop() == 0


@pytest.mark.parametrize("change", [signal.SIGTTIN, signal.SIGTTOU])
def test_a_pool_that_is_resized_in_the_middle_has_the_size_that_was_asked_for(
    pool: Callable[..., Script], boot: Path, change: int
) -> None:
    script = pool(3)
    old = script.workers()
    write(boot, "wait")
    script.signal(signal.SIGHUP)
    wait_until(lambda: len(script.workers()) == 4, 60, "a new worker")
    script.signal(change)
    write(boot, "")
    wanted = 4 if change == signal.SIGTTIN else 2
    wait_until(lambda: len(now := script.workers()) == wanted and not {*old} & {*now}, 60, "new workers")
    assert all(map(alive, script.workers()))
    assert script.stop() == 0


@pytest.mark.parametrize("value", ["", "gently", None, 1])
def test_a_way_to_reload_that_does_not_exist_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="reload must be 'plain' or 'rolling'"):
        ProcManager(1, reload=value)  # type: ignore[arg-type]
