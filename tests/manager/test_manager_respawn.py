"""Workers that die, that never start, and forks that the system refuses."""

from __future__ import annotations

import itertools
import signal
import time
from pathlib import Path
from typing import Callable

import pytest

from harness.process import Script, patient, wait_until

Run = Callable[..., Script]

HEAD = """
import errno, os, signal, sys, time
from harness.inside import idle, say
from fcgi_procmanager import *
"""

IDLE = HEAD + "manager = ProcManager(2)\nmanager.manage()\nsay(os.getpid())\nidle(manager)\n"


def test_a_killed_worker_is_replaced_at_once(run_script: Run) -> None:
    script = run_script(IDLE)
    first, second = (int(line) for line in script.lines(2))
    began = time.monotonic()
    script.signal(signal.SIGKILL, first)
    third = int(script.line())
    assert time.monotonic() - began < patient(3)
    script.wait_log(rf"^FastCGI: manager .*: server \(pid {first}\) exited with status 137 \(SIGKILL\)$")
    assert script.workers() == sorted([second, third])
    assert script.stop() == 0


def test_workers_that_leave_by_themselves_are_replaced_at_once(run_script: Run) -> None:
    """Told to leave, or at the end of their loop after a request: however young, nobody waits for a timer."""
    script = run_script(
        HEAD
        + """
manager = ProcManager(1)
manager.manage()
say(os.getpid())
manager.pre_dispatch()
manager.post_dispatch()
"""
    )
    began = time.monotonic()
    script.lines(15, timeout=60)
    assert time.monotonic() - began < patient(10)  # delayed, they would have taken minutes
    script.signal(signal.SIGTERM)
    assert script.wait() == 0
    assert "in a row" not in script.log()


def test_operators_may_term_workers_that_are_still_starting(run_script: Run) -> None:
    """Each is told to leave before it is ready. None of them failed: the manager neither waits nor gives up."""
    script = run_script(
        HEAD
        + """
class Manager(ProcManager):
    count = 0
    def notify(self, message):
        if message.endswith("started"):
            self.count += 1
            if self.count <= 12:
                os.kill(int(message.split("(pid ")[1].split(")")[0]), signal.SIGTERM)
        super().notify(message)
manager = Manager(1)
manager.manage()
say("up")
idle(manager)
"""
    )
    began = time.monotonic()
    wait_until(lambda: script.log().count("started") > 12 and script.line(), 20)
    assert time.monotonic() - began < patient(10)
    assert script.stop() == 0
    assert "exited with status 1" not in script.log()


def test_an_error_of_the_system_in_a_hook_of_a_worker_is_no_refused_fork(run_script: Run) -> None:
    """It ends that worker, as any other exception there; it does not go on as one that has begun well."""
    script = run_script(
        HEAD
        + """
class Manager(ProcManager):
    def server_init(self):
        open("/no/such/file")
Manager(1).manage()
say("serves")
"""
    )
    assert script.wait() == 1
    assert script.output() == ""
    assert "FileNotFoundError" in script.log()
    assert "fork:" not in script.log()


def test_a_script_without_a_loop_does_not_fork_without_end(run_script: Run) -> None:
    """Its workers end with status 0 as soon as they are ready, and have served nothing."""
    script = run_script(HEAD + "manager = ProcManager(2)\nmanager.manage()\nsay(time.monotonic())\n")
    ends = [float(script.line()) for _ in range(10)]
    assert ends[-1] - ends[0] > 0.3
    script.wait_log("servers in a row failed; the next one starts in 0.4 s")
    assert script.stop() == 0


def test_a_crash_at_boot_is_given_up(run_script: Run, tmp_path: Path) -> None:
    script = run_script(
        HEAD
        + """
class Manager(ProcManager):
    def server_init(self):
        super().server_init()
        raise RuntimeError("no database")
Manager(4, pidfile=sys.argv[1]).manage()
""",
        args=[tmp_path / "pid"],
    )
    assert script.wait() == 1
    script.tree_gone()
    assert script.log_lines()[-1] == "manager A: dying: no server ever became ready in 5 attempts"
    assert script.log().count("started") <= 13
    assert "RuntimeError: no database" in script.log()
    assert not (tmp_path / "pid").exists()


def test_a_boot_error_ends_the_pool_in_one_line(run_script: Run, sock_path: str, tmp_path: Path) -> None:
    script = run_script(
        HEAD
        + """
class Manager(ProcManager):
    def server_init(self):
        super().server_init()
        raise BootError("there is no module called shop")
manager = Manager(4, pidfile=sys.argv[1])
manager.listen(sys.argv[2])
manager.manage()
""",
        args=[tmp_path / "pid", sock_path],
    )
    assert script.wait() == 2
    script.tree_gone()
    assert script.log_lines()[-1] == "manager A: there is no module called shop"
    assert script.log().count("no module called shop") == 1
    assert "Traceback" not in script.log()
    assert not (tmp_path / "pid").exists()


def test_a_boot_error_later_does_not_end_a_pool_that_serves(run_script: Run, tmp_path: Path) -> None:
    script = run_script(
        HEAD
        + """
class Manager(ProcManager):
    def server_init(self):
        super().server_init()
        if os.path.exists(sys.argv[1]):
            raise BootError("the module is gone")
manager = Manager(2)
manager.manage()
say(os.getpid())
idle(manager)
""",
        args=[tmp_path / "broken"],
    )
    first, second = (int(line) for line in script.lines(2))
    (tmp_path / "broken").touch()
    script.signal(signal.SIGKILL, first)
    script.wait_log("exited with status 2", count=2)
    assert script.workers()[0] == second
    (tmp_path / "broken").unlink()
    script.line()
    assert script.stop() == 0


FORK_FAILS = """
real = os.fork
failing = {fails}
def fork():
    global failing
    if os.path.exists(sys.argv[1]) if callable(failing) else failing > 0:
        failing = failing if callable(failing) else failing - 1
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return real()
os.fork = fork
"""


def test_a_refused_fork_is_tried_again(run_script: Run) -> None:
    """The first fork works, the system refuses the next three: one refusal each, and the pool gets complete."""
    script = run_script(
        HEAD
        + FORK_FAILS.format(fails=0)
        + """
class Manager(ProcManager):
    def notify(self, message):
        global failing
        if message.endswith("started") and not hasattr(self, "once"):
            self.once, failing = True, 3
        super().notify(message)
manager = Manager(8)
manager.manage()
say("up")
idle(manager)
"""
    )
    script.lines(8)
    found = script.wait_log(r"fork: Resource temporarily unavailable; trying again in (\S+) s$")
    assert len(found) == 3
    assert script.stop() == 0


def test_a_system_that_refuses_every_fork_is_given_up(run_script: Run, tmp_path: Path) -> None:
    script = run_script(
        HEAD + FORK_FAILS.format(fails=1000) + "ProcManager(8, pidfile=sys.argv[1]).manage()\n",
        args=[tmp_path / "pid"],
    )
    assert script.wait() == 1
    assert script.log().count("fork: ") == 5
    assert script.log_lines()[-1] == "manager A: dying: no server ever became ready in 5 attempts"
    assert not (tmp_path / "pid").exists()


def test_a_refused_fork_leaves_the_signals_as_they_are(run_script: Run, tmp_path: Path) -> None:
    """While the system refuses, and in the pause, the manager can be stopped."""
    script = run_script(
        HEAD
        + FORK_FAILS.format(fails="len")
        + "manager = ProcManager(2)\nmanager.manage()\nsay(os.getpid())\nidle(manager)\n",
        args=[tmp_path / "refuse"],
    )
    first, second = (int(line) for line in script.lines(2))
    (tmp_path / "refuse").touch()
    script.signal(signal.SIGKILL, first)
    script.wait_log("fork: Resource", count=3)
    assert script.workers() == [second]
    (tmp_path / "refuse").unlink()
    script.line()
    (tmp_path / "refuse").touch()
    script.signal(signal.SIGKILL, second)
    script.wait_log("fork: Resource", count=4)
    assert script.stop() == 0


def test_a_reload_of_the_worker_that_is_being_tried(run_script: Run, tmp_path: Path) -> None:
    """After failures one worker is tried; a reload takes it before it is ready, by KILL. Another one must follow."""
    script = run_script(
        HEAD
        + """
class Manager(ProcManager):
    def server_init(self):
        super().server_init()
        if os.path.exists("good"):
            return
        if os.path.exists("hang"):
            say("hanging")
            while True:
                time.sleep(100)
        if os.path.exists("bad"):
            os._exit(1)
manager = Manager(1, reload_timeout=0.1)
manager.manage()
say("up")
idle(manager)
""",
        cwd=tmp_path,
    )
    assert script.line() == "up"
    (tmp_path / "bad").touch()
    script.signal(signal.SIGHUP)
    script.wait_log("3 servers in a row failed")
    (tmp_path / "hang").touch()
    assert script.line() == "hanging"
    (tmp_path / "good").touch()
    script.signal(signal.SIGHUP)
    assert script.line() == "up"
    assert script.stop() == 0


@pytest.mark.parametrize("delay", [0.15, 0.25])
def test_the_start_delay_spaces_the_forks(run_script: Run, delay: float) -> None:
    script = run_script(
        HEAD
        + f"""
real = os.fork
def fork():
    say(time.monotonic())
    return real()
os.fork = fork
manager = ProcManager(4, start_delay={delay})
manager.manage()
idle(manager)
"""
    )
    times = [float(script.line()) for _ in range(4)]
    gaps = [after - before for before, after in itertools.zip_longest(times, times[1:]) if after]
    assert all(delay <= gap < delay + patient(3) for gap in gaps)
    assert script.stop() == 0


def test_the_start_delay_does_not_hold_a_stop(run_script: Run) -> None:
    script = run_script(
        HEAD + "manager = ProcManager(2, start_delay=3600)\nmanager.manage()\nsay('up')\nidle(manager)\n"
    )
    script.line()
    began = time.monotonic()
    assert script.stop() == 0
    assert time.monotonic() - began < patient(3)
    assert script.log().count("started") == 1


def test_without_signals_a_pool_that_failed_gets_complete(run_script: Run, tmp_path: Path) -> None:
    """Plain os.wait does not hear that the worker that was tried became ready: the others must follow all the same."""
    script = run_script(
        HEAD
        + """
class Manager(ProcManager):
    def server_init(self):
        super().server_init()
        if not os.path.exists("good"):
            os._exit(1)
    def notify(self, message):
        if "servers in a row failed" in message:
            open("good", "w").close()  # here: a manager of which nobody was ever ready soon gives up
        super().notify(message)
manager = Manager(3, no_signals=True)
manager.manage()
say("up")
idle(manager)
""",
        cwd=tmp_path,
    )
    script.wait_log("servers in a row failed")
    assert script.lines(3) == ["up"] * 3
    script.signal(signal.SIGTERM)
    script.tree_gone()


def test_a_wait_for_a_child_of_the_application(run_script: Run) -> None:
    """`wait` where there is no pool is `os.wait`, and no child is no error."""
    script = run_script(
        HEAD
        + """
manager = ProcManager(1)
manager.manage()
pid = os.fork() or os._exit(3)
say(manager.wait() == pid, manager.wait())
idle(manager)
"""
    )
    assert script.line() == "True None"
    assert script.stop() == 0
