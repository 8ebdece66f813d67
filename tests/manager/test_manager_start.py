"""Starting a pool: what is refused before anybody is forked, and that the manager hears signals while it forks."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Callable

import pytest

from harness.process import Script

Run = Callable[..., Script]

HEAD = """
import os, resource, signal, sys
from harness.inside import idle, say
from fcgi_procmanager import *
"""

NOBODY_IS_FORKED = """
def fork():
    say("forked")
    os._exit(99)  # not one: the machine might not stand it
os.fork = fork
"""


# While the workers are forked


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGQUIT, 1)])
def test_a_stop_is_heard_while_the_workers_are_forked(run_script: Run, number: int, status: int) -> None:
    script = run_script(
        HEAD
        + """
class Manager(ProcManager):
    count = 0
    def notify(self, message):
        super().notify(message)
        if message.endswith("started"):
            self.count += 1
            if self.count == 20:
                os.kill(os.getpid(), int(sys.argv[1]))
manager = Manager(150)
manager.manage()
idle(manager)
""",
        args=[int(number)],
    )
    assert script.wait(60) == status
    script.tree_gone()
    assert 20 <= script.log().count("started") < 60


def test_more_is_heard_while_the_workers_are_forked(run_script: Run) -> None:
    """Not only a stop: TTIN in the middle of the forks adds its worker, and none of the others is forgotten."""
    script = run_script(
        HEAD
        + """
class Manager(ProcManager):
    count = 0
    def notify(self, message):
        super().notify(message)
        if message.endswith("started"):
            self.count += 1
            if self.count == 5:
                os.kill(os.getpid(), signal.SIGTTIN)
manager = Manager(20)
manager.manage()
say("up")
idle(manager)
"""
    )
    assert script.lines(21) == ["up"] * 21
    forked_before = script.log().partition("received signal TTIN")[0].count("started")
    assert forked_before < 20
    assert script.stop() == 0
    assert script.log().count("started") == 21


# More than the machine can hold


def test_more_workers_than_the_machine_can_hold_are_refused(run_script: Run, tmp_path: Path) -> None:
    script = run_script(
        HEAD
        + NOBODY_IS_FORKED
        + """
manager = ProcManager(1_000_000, pidfile="pid")
try:
    manager.manage()
except ConfigError as error:
    say(error)
say(manager.server_pids, os.path.exists("pid"), signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)
""",
        cwd=tmp_path,
    )
    refusal = script.line()
    assert "n_processes" in refusal
    assert 0 < held(refusal) < 1_000_000
    assert script.line() == "[] False True"
    assert script.wait() == 0


def test_serve_refuses_more_workers_than_the_machine_can_hold_in_one_line(run_script: Run, sock_path: str) -> None:
    script = run_script(
        "from harness.inside import say\nimport os, sys\n"
        + NOBODY_IS_FORKED
        + "from fcgi_procmanager.cli import main\nsys.exit(main())\n",
        args=["serve", "wsgiref.simple_server:demo_app", "-n", 1_000_000, "--listen", sock_path],
    )
    assert script.wait() == 2
    assert script.output() == ""
    (line,) = script.log().splitlines()
    assert "n_processes" in line or re.search(r"(^|\s)-n\b|--processes", line)
    assert 0 < held(line) < 1_000_000
    assert not os.path.exists(sock_path)


def test_more_workers_than_the_user_may_have_are_refused(run_script: Run) -> None:
    script = run_script(
        HEAD
        + NOBODY_IS_FORKED
        + """
import psutil
resource.setrlimit(resource.RLIMIT_NPROC, (60, 60))
if os.getuid() == 0:  # for whom there is no such limit
    try:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    except OSError as error:
        say("skip", error)
        sys.exit()
try:
    ProcManager(100).manage()
except ConfigError as error:
    say(error)
"""
    )
    refusal = script.line()
    if refusal.startswith("skip"):
        pytest.skip(f"root cannot become another user here: {refusal}")
    assert "n_processes" in refusal
    assert held(refusal, but=100) <= 60
    assert script.wait() == 0


@pytest.mark.skipif(os.getuid() != 0, reason="a limit that only others have is for root")
def test_root_has_no_limit_of_processes(run_script: Run) -> None:
    script = run_script(
        HEAD
        + """
resource.setrlimit(resource.RLIMIT_NPROC, (2, 2))
manager = ProcManager(4)
manager.manage()
say("up")
idle(manager)
"""
    )
    script.lines(4)
    assert script.stop() == 0


def held(line: str, but: int = 1_000_000) -> int:
    """The number of workers that a refusal says is possible: the one in it that is not what was asked for."""
    numbers = {int(re.sub(r"[,_]", "", found)) for found in re.findall(r"\b\d[\d,_]*\b", line)}
    possible = numbers - {but}
    assert possible, f"{line!r} does not say how many can be held"
    return max(possible)


# No listening socket


CORE = """
from fcgi_procmanager import FastCGI, ProcManager
manager = ProcManager(n_processes=2)
manager.manage()
fcgi = FastCGI(manager=manager)
while request := fcgi.accept():
    manager.pre_dispatch()
    request.stdout.write(b"Content-Type: text/plain\\r\\n\\r\\nhello")
    request.finish()
    manager.post_dispatch()
"""

OBJECT_STYLE = """
from fcgi_procmanager import FastCGI
from fcgi_procmanager.perl import ProcManager
manager = ProcManager({"n_processes": 10})
manager.pm_manage()
fcgi = FastCGI(manager=manager)
while request := fcgi.accept():
    manager.pm_pre_dispatch()
    request.stdout.write(b"Content-Type: text/plain\\r\\n\\r\\nhello")
    request.finish()
    manager.pm_post_dispatch()
"""

FUNCTIONS = """
from fcgi_procmanager import FastCGI
from fcgi_procmanager.perl import default_manager, pm_manage, pm_post_dispatch, pm_pre_dispatch
pm_manage(n_processes=10)
fcgi = FastCGI(manager=default_manager())
while request := fcgi.accept():
    pm_pre_dispatch()
    request.stdout.write(b"Content-Type: text/plain\\r\\n\\r\\nhello")
    request.finish()
    pm_post_dispatch()
"""


@pytest.mark.parametrize("source", [CORE, OBJECT_STYLE, FUNCTIONS], ids=["core", "object style", "functions"])
def test_a_loop_without_a_listening_socket_ends_and_says_why(run_script: Run, source: str) -> None:
    """The first examples of PORTING typed into a shell, descriptor 0 being no socket: workers find out after `manage()`,
    and no further one will fare better."""
    script = run_script(source)
    assert script.wait() == 2
    script.tree_gone()
    assert "descriptor 0 is not a listening socket: " in script.log_lines()[-1]
    assert script.log().count("Traceback") <= 1
    assert script.log().count("started") <= 10


def test_a_worker_without_a_listening_socket_does_not_end_a_pool_that_serves(run_script: Run, tmp_path: Path) -> None:
    """Once somebody has served it is one worker that failed, and the others serve on."""
    script = run_script(
        HEAD
        + """
manager = ProcManager(2)
manager.manage()
if os.path.exists("broken"):
    FastCGI(manager=manager)
manager.pre_dispatch()
manager.post_dispatch()
say(os.getpid())
idle(manager)
""",
        cwd=tmp_path,
    )
    first, second = (int(line) for line in script.lines(2))
    (tmp_path / "broken").touch()
    script.signal(signal.SIGKILL, first)
    script.wait_log("descriptor 0 is not a listening socket", count=2)
    assert second in script.workers()
    (tmp_path / "broken").unlink()
    script.line()
    assert script.stop() == 0
