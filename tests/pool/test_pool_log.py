"""What the log says of workers that were killed, and by which options of the command it says less or more."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Callable

import pytest

from harness.fcgi import fetch
from harness.pools import Pool
from harness.process import Script, listening, wait_until

Run = Callable[..., Script]

ASKED = r"WARNING FastCGI: manager .*: server \(pid \d+\) was killed, and not by its manager: was it out of memory\?"
GONE = r"WARNING FastCGI: manager .*: server \(pid {}\) exited with status 137 \(SIGKILL\)$"


@pytest.fixture
def pool(run_script: Run, sock_path: str) -> Pool:
    return Pool(run_script, sock_path)


def kill(script: Script, pid: int) -> None:
    script.signal(signal.SIGKILL, pid)
    script.wait_log(GONE.format(pid))


def test_who_was_killed_by_somebody_else_may_have_been_out_of_memory(pool: Pool) -> None:
    script = pool.start("2", 2)
    for pid in script.workers():  # asked once in a while
        kill(script, pid)
    script.wait_ready(4)
    assert script.stop() == 0
    script.wait_log(ASKED)
    assert script.log().count("out of memory?") == 1


def test_who_was_killed_by_its_manager_was_not(pool: Pool) -> None:
    script = pool.start("1, request_timeout=0.1, request_grace=0.1, die_timeout=0.5", 1)
    assert not pool.ask("/kill/STOP").ended
    script.wait_log(r"is killed: GET /kill/STOP takes ")
    script.wait_ready(2)
    (pid,) = script.wait_workers(1)
    script.signal(signal.SIGSTOP, pid)
    assert script.stop() == 1
    script.wait_log(GONE.format(pid))
    assert "out of memory?" not in script.log()


def test_what_the_kernel_has_counted_is_no_question(pool: Pool, tmp_path: Path) -> None:
    events = tmp_path / "memory.events"
    events.write_text("oom_kill 7\n")
    more = f"from fcgi_procmanager.manager import half\nKills = half.MemoryKills\nhalf.MemoryKills = lambda: Kills({str(events)!r})"
    script = pool.start("2", 2, more)
    events.write_text("oom_kill 9\n")
    for pid in script.workers():  # both in one event
        kill(script, pid)
        script.wait_log(
            rf"WARNING FastCGI: .*: server \(pid {pid}\) was killed for want of memory: .*memory\.events\)$"
        )
    assert "out of memory?" not in script.log()
    assert script.stop() == 0


@pytest.mark.parametrize("name", ["SEGV", "ABRT", "BUS"])
def test_a_crash_names_the_request_that_was_in_hand(pool: Pool, name: str) -> None:
    script = pool.start("1", 1)
    assert not pool.ask(f"/kill/{name}").ended
    script.wait_log(rf"WARNING FastCGI: .*: server \(pid \d+\) exited with status \d+ \(SIG{name}\)$")
    script.wait_log(rf"WARNING FastCGI: .*: server \(pid \d+\) died in GET /kill/{name} \(its request 1, after ")
    script.wait_ready(2)
    assert script.stop() == 0
    assert "out of memory?" not in script.log()


@pytest.mark.parametrize("where", ["option", "variable", "file"])
def test_the_command_says_less(run_script: Run, sock_path: str, tmp_path: Path, where: str) -> None:
    (tmp_path / "shop.py").write_text("def app(environ, start_response):\n    raise ValueError('no')\n")
    (tmp_path / "pools.toml").write_text('[pool.shop]\napplication = "shop:app"\nlog-level = "error"\n')
    level = {"option": ["--log-level", "error"], "variable": [], "file": ["--config", "pools.toml"]}[where]
    environment = {"FCGI_PROCMANAGER_LOG_LEVEL": "error"} if where == "variable" else {}
    command = [sys.executable, "-m", "fcgi_procmanager", "serve", "shop:app", "--listen", sock_path, "-n", "1", *level]
    script = run_script(command, cwd=tmp_path, env=environment)
    wait_until(lambda: os.path.exists(sock_path) and listening(sock_path), 60)
    assert fetch(sock_path, timeout=60).status == 500
    assert script.stop() == 0
    first, *rest = script.log().splitlines()
    assert " ERROR FastCGI: server " in first
    assert first.endswith(": exception in GET /: ValueError: no")
    assert rest[0] == "Traceback (most recent call last):"
    assert not [line for line in rest if "FastCGI" in line]


@pytest.mark.parametrize(("form", "begin"), [("bare", "FastCGI: "), ("json", '{"time": ')])
def test_the_form_of_the_lines_of_a_program(run_script: Run, sock_path: str, form: str, begin: str) -> None:
    program = [sys.executable, "-c", "import time; time.sleep(600)"]
    options = ["--listen", sock_path, "-n", "1", "--interval", "0", "--log-format", form, "--log-level", "debug"]
    script = run_script([sys.executable, "-m", "fcgi_procmanager", "exec", *options, "--", *program])
    script.wait_log("is ready after")
    assert script.stop() == 0
    lines = script.log().splitlines()
    assert all(line.startswith(begin) for line in lines)
    if form == "json":
        assert {json.loads(line)["level"] for line in lines} >= {"DEBUG", "INFO"}


def test_the_demo_says_less(run_script: Run, sock_path: str) -> None:
    options = ["--listen", sock_path, "-n", "1", "--log-level", "warning"]
    script = run_script([sys.executable, "-m", "fcgi_procmanager", "demo", *options])
    script.line()
    assert fetch(sock_path, "/plain").status == 200
    assert script.stop() == 0
    assert script.log() == ""


def test_what_is_kept_back_at_the_start_has_the_time_at_which_it_was_said(
    run_script: Run, sock_path: str, tmp_path: Path
) -> None:
    slow = "import time; until = time.monotonic() + 1\nwhile time.monotonic() < until: time.sleep(0.01)\n"
    (tmp_path / "shop.py").write_text(slow + "def app(environ, start_response):\n    return []\n")
    command = [sys.executable, "-m", "fcgi_procmanager", "serve", "shop:app", "--listen", sock_path, "-n", "1"]
    script = run_script([*command, "--log-format", "json"], cwd=tmp_path)
    wait_until(lambda: script.log().count("initialized") == 2, 60)
    assert script.stop() == 0
    lines = [json.loads(line) for line in script.log().splitlines()]
    (started,) = [one["time"] for one in lines if one["message"].endswith(" started")]
    (ready,) = [one["time"] for one in lines if one["message"] == "initialized" and one["process"] == "server"]
    assert started < ready
