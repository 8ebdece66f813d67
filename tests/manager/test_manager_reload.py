"""HUP replaces the workers and kills no request, unless it is told how long one may last."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

from harness.process import Script, alive, patient, wait_dead

Run = Callable[..., Script]

SOURCE = """
import os
from harness.inside import idle, say
from fcgi_procmanager import *

manager = ProcManager(1, {parameters})
manager.manage()
manager.pre_dispatch()
say("busy", os.getpid())
os.read(0, 1)
say("answered", os.getpid())
manager.post_dispatch()
idle(manager)
"""

SPAN = (
    1.1  # seconds in which a request must not be killed, longer than any limit here, and than a TERM counts as the same
)


@pytest.fixture
def busy(run_script: Run) -> Iterator[Callable[..., tuple[Script, int, Callable[[], object]]]]:
    """`busy(parameters)` starts a pool of one worker with a request in hand: (script, worker, release)."""
    read_end, write_end = os.pipe()

    def start(parameters: str) -> tuple[Script, int, Callable[[], object]]:
        script = run_script(SOURCE.format(parameters=parameters), stdin=read_end)
        return script, next_busy(script), lambda: os.write(write_end, b"x")

    yield start
    os.close(read_end)
    os.close(write_end)


def next_busy(script: Script) -> int:
    word, pid = script.line().split()
    assert word == "busy"
    return int(pid)


def test_a_reload_kills_no_request(busy) -> None:
    """Not one that lasts longer than die_timeout, which is the limit of a stop."""
    script, worker, release = busy("die_timeout=0.3")
    script.signal(signal.SIGHUP)
    script.wait_log("sending TERM to PIDs")
    time.sleep(SPAN)
    assert alive(worker)
    release()
    assert script.line() == f"answered {worker}"
    assert next_busy(script) != worker
    assert f"server (pid {worker}) exited with status 0\n" in script.log()
    release()
    script.line()
    assert script.stop() == 0
    assert "SIGKILL" not in script.log()


def test_a_reload_that_is_given_a_time_kills_who_takes_longer(busy) -> None:
    script, worker, release = busy("reload_timeout=0.3")
    began = time.monotonic()
    script.signal(signal.SIGHUP)
    assert next_busy(script) != worker
    assert 0.3 <= time.monotonic() - began < patient(3)
    assert f"server (pid {worker}) exited with status 137 (SIGKILL)\n" in script.log()
    release()
    script.line()
    assert script.stop() == 0  # somebody killed in a reload is no failure of the stop


def test_a_request_within_the_time_of_a_reload_is_answered(busy) -> None:
    script, worker, release = busy("reload_timeout=60, die_timeout=0.1")
    script.signal(signal.SIGHUP)
    script.wait_log("sending TERM to PIDs")
    time.sleep(SPAN)
    release()
    assert script.line() == f"answered {worker}"
    next_busy(script)
    release()
    script.line()
    assert script.stop() == 0


@pytest.mark.parametrize("parameters", ["die_timeout=0.3", "die_timeout=0.3, reload_timeout=60"])
def test_a_second_hup_does_not_make_the_first_impatient(busy, parameters: str) -> None:
    """However often and whenever it is said again: it is not the insisting of a second TERM."""
    script, worker, release = busy(parameters)
    for _ in range(3):
        script.signal(signal.SIGHUP)
    script.wait_log("sending TERM to PIDs")
    time.sleep(SPAN)
    script.signal(signal.SIGHUP)
    time.sleep(SPAN)
    assert alive(worker)
    release()
    assert script.line() == f"answered {worker}"
    next_busy(script)
    release()
    script.line()
    assert script.stop() == 0


def test_a_second_hup_does_not_give_a_new_time(busy) -> None:
    """Who reloads again and again must not keep a stuck worker for ever."""
    script, worker, _ = busy("reload_timeout=1")
    began = time.monotonic()
    script.signal(signal.SIGHUP)
    script.wait_log("sending TERM to PIDs")
    while alive(worker) and time.monotonic() - began < 20:
        script.signal(signal.SIGHUP)
        time.sleep(0.1)  # how often it is said again
    assert 1 <= time.monotonic() - began < patient(4)
    script.wait_log(rf"server \(pid {worker}\) exited with status 137 \(SIGKILL\)$")
    assert script.stop(signal.SIGQUIT) == 1


@pytest.mark.parametrize("parameters", ["die_timeout=0.3", "die_timeout=0.3, reload_timeout=60"])
def test_a_stop_beats_a_reload(busy, parameters: str) -> None:
    """TERM while a request holds up a reload: from now on die_timeout is the limit."""
    script, worker, _ = busy(parameters)
    script.signal(signal.SIGHUP)
    script.wait_log("sending TERM to PIDs")
    time.sleep(SPAN)
    assert alive(worker)
    began = time.monotonic()
    script.signal(signal.SIGTERM)
    assert script.wait() == 1
    assert 0.3 <= time.monotonic() - began < patient(3)
    script.tree_gone()
    assert script.log_lines()[-1] == "manager A: wait timeout"


def test_a_stop_takes_its_own_time_not_what_is_left_of_a_reload(busy) -> None:
    script, worker, release = busy("die_timeout=60, reload_timeout=60")
    script.signal(signal.SIGHUP)
    script.wait_log("sending TERM to PIDs")
    script.signal(signal.SIGTERM)
    script.wait_log("received signal TERM")
    release()
    assert script.line() == f"answered {worker}"
    assert script.wait() == 0
    script.tree_gone()


# What a worker does while it boots is what the file says when it begins to; it goes on when there is a file of that name.
BOOTING = """
import os, sys, time
from harness.inside import idle, say
from fcgi_procmanager import *

class Manager(ProcManager):
    def server_init(self):
        word = open("boot").read()
        say(word, os.getpid())
        while not os.path.exists("go-" + word):
            time.sleep(0.005)
        if word == "old":
            raise BootError("no such module")

manager = Manager(1, reload=sys.argv[1])
manager.manage()
idle(manager)
"""


@pytest.mark.parametrize("how", ["plain", "rolling"])
def test_what_an_older_worker_cannot_do_does_not_end_the_start_of_a_newer_one(
    run_script: Run, tmp_path: Path, how: str
) -> None:
    """Neither of them has been ready yet: the code was wrong at the start, and was put right while it was being loaded."""
    (tmp_path / "boot").write_text("old")
    script = run_script(BOOTING, args=[how], cwd=tmp_path)
    old = int(script.line().split()[-1])
    (tmp_path / "boot").write_text("new")
    script.signal(signal.SIGHUP)
    if how == "rolling":
        assert script.line().startswith("new ")
        (tmp_path / "go-old").touch()
        wait_dead(old)
        script.wait_log(rf"server \(pid {old}\) exited with status 2")
    else:
        script.wait_log("sending TERM")
        (tmp_path / "go-old").touch()
        assert script.line().startswith("new ")
    (tmp_path / "go-new").touch()
    script.wait_ready()
    assert script.stop() == 0
