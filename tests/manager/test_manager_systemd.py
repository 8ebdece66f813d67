"""What systemd is told, through a notify socket of the test's own: states, status, watchdog, and time limits that are put off."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Callable

import pytest

from harness.notify import Notified
from harness.process import Script, context_switches, patient, process_state, wait_asleep, wait_until

Run = Callable[..., Script]

# What a worker does while it boots is in the file BOOT: nothing, `refuse`, `die`, or it waits for the file to change. It holds a
# TERM back while there is a file HOLD.
POOL = """
import os, sys, time
from harness.inside import idle, say
from fcgi_procmanager import *

class Manager(ProcManager):
    def server_init(self):
        super().server_init()
        word = open("boot").read()
        while word == "wait":
            time.sleep(0.005)
            word = open("boot").read()
        if word == "refuse":
            raise BootError("no such module")
        if word == "die":
            os._exit(7)

settings = eval(sys.argv[2])
manager = Manager(int(sys.argv[1]), **settings)
if manager.manage():
    say(*(name in os.environ for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")))
    while not manager.leaving or os.path.exists("hold"):
        manager._gate.wait() if not manager.leaving else time.sleep(0.005)
    manager.exit(manager.leave_reason)
"""

WATCHDOG = 2.0  # seconds


@pytest.fixture
def notified() -> Iterator[Notified]:
    with closing(Notified()) as one:
        yield one


@pytest.fixture
def boot(tmp_path: Path) -> Path:
    (tmp_path / "boot").write_text("")
    return tmp_path / "boot"


@pytest.fixture
def pool(run_script: Run, boot: Path, notified: Notified) -> Run:
    def start(workers: int, env: dict[str, str] | None = None, **settings: Any) -> Script:
        env = {**notified.environment, **(env or {})}
        return run_script(POOL, args=[workers, settings], cwd=boot.parent, env=env)

    return start


def write(boot: Path, word: str) -> None:
    """At once: a worker may look at any moment."""
    aside = boot.with_suffix(".new")
    aside.write_text(word)
    os.rename(aside, boot)


def test_a_life(pool: Run, notified: Notified) -> None:
    script = pool(3)
    ready = notified.wait("READY")
    assert ready == {"READY": "1", "MAINPID": str(script.pid), "STATUS": "3 of 3 servers ready"}
    assert all(message["STATUS"].startswith("starting: ") for message in notified.all[:-1])
    before = time.monotonic_ns() // 1000
    script.signal(signal.SIGHUP)
    reloading = notified.wait("RELOADING")
    assert before <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
    assert reloading["STATUS"] == "reloading: 0 of 3 servers replaced"
    assert notified.wait("READY")["STATUS"] == "3 of 3 servers ready"
    script.signal(signal.SIGTERM)
    stopping = notified.wait("STOPPING")
    assert stopping["STATUS"] == "stopping: 3 servers left"
    assert int(stopping["EXTEND_TIMEOUT_USEC"]) >= 10_000_000
    assert script.wait() == 0
    notified.hear(0)
    assert notified.states() == ["READY", "RELOADING", "READY", "STOPPING"]


def test_the_status_follows_a_rolling_reload(pool: Run, boot: Path, notified: Notified) -> None:
    script = pool(3, reload="rolling")
    notified.wait("READY")
    write(boot, "wait")
    script.signal(signal.SIGHUP)
    notified.wait("STATUS", "reloading: 0 of 3 servers replaced")
    write(boot, "")
    assert notified.wait("READY")["STATUS"] == "3 of 3 servers ready"
    assert script.stop() == 0


def test_why_a_reload_failed_stays_in_the_status_until_the_next_one(pool: Run, boot: Path, notified: Notified) -> None:
    script = pool(2, reload="rolling")
    notified.wait("READY")
    write(boot, "refuse")
    script.signal(signal.SIGHUP)
    notified.wait("RELOADING")
    assert notified.wait("READY")["STATUS"] == "reload failed: no such module; 2 of 2 servers ready"
    write(boot, "")
    script.signal(signal.SIGHUP)
    notified.wait("RELOADING")
    assert notified.wait("READY")["STATUS"] == "2 of 2 servers ready"
    assert script.stop() == 0


def test_the_status_says_that_one_is_missing(pool: Run, boot: Path, notified: Notified) -> None:
    script = pool(2)
    notified.wait("READY")
    write(boot, "wait")
    script.signal(signal.SIGKILL, script.workers()[0])
    notified.wait("STATUS", "1 of 2 servers ready")
    write(boot, "")
    notified.wait("STATUS", "2 of 2 servers ready")
    assert script.stop() == 0


def test_the_same_is_not_said_twice(pool: Run, notified: Notified) -> None:
    script = pool(2)
    notified.wait("READY")
    for _ in range(5):
        script.signal(signal.SIGWINCH)
        script.signal(signal.SIGCHLD)
    assert script.stop() == 0
    notified.hear(0)
    told = [message["STATUS"] for message in notified.all if "STATUS" in message]
    assert all(one != other for one, other in zip(told, told[1:]))


def test_nothing_of_it_reaches_what_a_worker_starts(pool: Run, notified: Notified) -> None:
    script = pool(1, {"WATCHDOG_USEC": "9000000", "WATCHDOG_PID": "1"})
    assert script.line() == "False False False"
    script.signal(signal.SIGHUP)
    assert script.line() == "False False False", "the manager itself still speaks"
    notified.wait("RELOADING")
    assert script.stop() == 0


def test_a_receiver_that_has_no_room_is_told_later(pool: Run, notified: Notified) -> None:
    """Its queue holds a few datagrams only, and nobody reads while there are many changes."""
    script = pool(1, reload="rolling")
    script.wait_ready()
    for count in range(2, 12):
        script.signal(signal.SIGHUP)
        script.wait_ready(count)
        script.wait_workers(1)
    while notified.states().count("RELOADING") < 10:
        notified.wait("RELOADING")
    notified.wait("READY")
    assert script.stop() == 0


# Watchdog


@pytest.fixture
def watched() -> dict[str, str]:
    return {"WATCHDOG_USEC": str(int(WATCHDOG * 1_000_000))}


def test_an_idle_pool_is_alive(pool: Run, notified: Notified, watched: dict[str, str]) -> None:
    begin = time.monotonic()
    script = pool(1, watched)
    for _ in range(4):
        notified.wait("WATCHDOG", timeout=patient(3 * WATCHDOG))
    assert time.monotonic() - begin >= 3 * WATCHDOG / 2, "at half the period, not all the time"
    assert script.stop() == 0


def test_a_watchdog_for_another_process_is_not_ours(pool: Run, notified: Notified) -> None:
    script = pool(1, {"WATCHDOG_USEC": "100000", "WATCHDOG_PID": "1"})
    notified.wait("READY")
    notified.hear(0.3)
    assert script.stop() == 0
    notified.hear(0)
    assert not any("WATCHDOG" in message for message in notified.all)


def test_a_pool_in_which_nobody_serves_falls_silent_and_speaks_when_somebody_does(
    pool: Run, boot: Path, notified: Notified
) -> None:
    script = pool(1, {"WATCHDOG_USEC": "200000"})
    notified.wait("READY")
    notified.wait("WATCHDOG")
    write(boot, "wait")
    script.signal(signal.SIGKILL, script.workers()[0])
    notified.wait("STATUS", "0 of 1 servers ready")
    wait_until(lambda: is_silent(script, notified), 60, "silence")
    write(boot, "")
    recovered = notified.wait("STATUS", "1 of 1 servers ready")
    assert recovered.get("WATCHDOG") == "1", "at once: the period may be nearly over"
    assert script.stop() == 0


def is_silent(script: Script, notified: Notified) -> bool:
    """It says nothing because it sleeps, not because the machine holds it up."""
    before = context_switches(script.pid)
    said = any("WATCHDOG" in message for message in notified.hear(0.5))
    return not said and process_state(script.pid) == "S" and context_switches(script.pid) == before


def test_a_pool_is_alive_while_it_starts_and_while_the_last_ones_answer(
    pool: Run, boot: Path, notified: Notified
) -> None:
    write(boot, "wait")
    (boot.parent / "hold").touch()
    script = pool(1, {"WATCHDOG_USEC": "200000"}, die_timeout=60)
    for _ in range(3):
        notified.wait("WATCHDOG")
    write(boot, "")
    notified.wait("READY")
    script.line()  # it is in its loop: told to leave before that, it would not look at HOLD
    script.signal(signal.SIGHUP)
    notified.wait("RELOADING")
    for _ in range(3):
        notified.wait("WATCHDOG")
    script.signal(signal.SIGTERM)
    notified.wait("STOPPING")
    for _ in range(3):
        notified.wait("WATCHDOG")
    (boot.parent / "hold").unlink()
    assert script.wait() == 0
    script.tree_gone()


# Time limits of systemd


def test_each_worker_of_a_start_puts_its_limit_off_and_one_that_hangs_does_not(
    pool: Run, boot: Path, notified: Notified
) -> None:
    write(boot, "wait")
    script = pool(2)
    assert "EXTEND_TIMEOUT_USEC" in notified.wait("STATUS", "starting: 0 of 2 servers ready")
    assert notified.hear(1.0) == []
    write(boot, "")
    notified.wait("READY")
    assert script.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_those_who_still_answer_put_the_limit_off(pool: Run, boot: Path, notified: Notified, number: int) -> None:
    (boot.parent / "hold").touch()
    script = pool(1)
    notified.wait("READY")
    script.line()  # it is in its loop
    script.signal(number)
    notified.wait("EXTEND_TIMEOUT_USEC", "15000000")
    begin = time.monotonic()
    notified.wait("EXTEND_TIMEOUT_USEC", "15000000")
    assert time.monotonic() - begin < 15  # before the first one is over
    (boot.parent / "hold").unlink()
    if number == signal.SIGHUP:
        notified.wait("READY")
        assert notified.hear(0.5) == []
        script.signal(signal.SIGTERM)
    assert script.wait() == 0
    script.tree_gone()


# Costs


@pytest.mark.parametrize("env", [{}, {"WATCHDOG_USEC": "100000"}], ids=["nothing", "watchdog-without-socket"])
def test_nobody_who_listens_costs_nothing(run_script: Run, boot: Path, env: dict[str, str]) -> None:
    script = run_script(POOL, args=[1, {}], cwd=boot.parent, env=env)
    script.wait_ready()
    script.line()
    wait_asleep(script.pid)
    before = context_switches(script.pid)
    time.sleep(1)
    assert context_switches(script.pid) - before <= 1  # the report that it is ready may just have come
    assert script.stop() == 0
