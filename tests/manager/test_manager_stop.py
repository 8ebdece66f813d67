"""Stopping: the ladder, its exit statuses, and what is removed when."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Callable

import pytest

from harness.process import Script, alive, children, patient, process_state, wait_asleep, wait_dead, wait_until

Run = Callable[..., Script]

HEAD = """
import os, signal, sys, threading, time
from harness.inside import idle, say
from fcgi_procmanager import *

def busy(manager):
    '''One request, which lasts until a byte comes on standard input.'''
    manager.pre_dispatch()
    say("busy", os.getpid())
    os.read(0, 1)
    say("answered")
    manager.post_dispatch()
    idle(manager)

def deaf(manager):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    say("deaf", os.getpid())
    while True:
        signal.pause()
"""


class Release:
    """Standard input of a pool: each byte ends one request of `busy`."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()

    def __enter__(self) -> Release:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.read_end)
        os.close(self.write_end)

    def __call__(self, count: int = 1) -> None:
        os.write(self.write_end, b"x" * count)


# Seconds in which two requests to stop are the same one. A test that has to come within them may be held up by the machine.
LONG_SAME = "from fcgi_procmanager.children import stop\nstop._SAME_REQUEST = 100\n"
# A TERM is not repeated: whoever has missed it would be found by that only.
ONCE = "from fcgi_procmanager.children import ladder\nladder.RESEND = 1e6\n"


def pool(size: int, loop: str, **parameters: object) -> str:
    given = "".join(f", {name}={value!r}" for name, value in parameters.items())
    return HEAD + f"manager = ProcManager({size}{given})\nmanager.manage()\n{loop}(manager)\n"


def test_a_worker_that_ignores_term_is_killed_in_time(run_script: Run) -> None:
    script = run_script(pool(2, "deaf", die_timeout=0.3))
    workers = [int(line.split()[1]) for line in script.lines(2)]
    began = time.monotonic()
    script.signal(signal.SIGTERM)
    assert script.wait() == 1
    assert 0.3 <= time.monotonic() - began < patient(3)
    script.tree_gone()
    # Reaped, so there is no zombie of it: nobody has that number any more.
    assert [process_state(worker) for worker in workers] == [None, None]
    for worker in workers:
        assert f"server (pid {worker}) exited with status 137 (SIGKILL)" in script.log()
    assert script.log_lines()[-1] == "manager A: wait timeout"


def test_a_stopped_worker_is_killed_too(run_script: Run) -> None:
    script = run_script(pool(1, "busy", die_timeout=0.2))
    worker = int(script.line().split()[1])
    script.signal(signal.SIGSTOP, worker)
    assert script.stop() == 1


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_two_requests_to_stop_within_a_second_are_one(run_script: Run, first: int, second: int) -> None:
    """A service manager and a terminal, or a script and its child, both say it. The request in hand is answered."""
    with Release() as release:
        script = run_script(LONG_SAME + pool(2, "busy"), stdin=release.read_end)
        script.lines(2)
        script.signal(first)
        script.wait_log("sending TERM to PIDs")
        script.signal(second)
        script.signal(second)
        wait_asleep(script.pid)
        release(2)
        assert script.lines(2) == ["answered"] * 2
        assert script.wait() == 0
    script.tree_gone()
    assert script.log_lines()[-1] == f"manager A: dying: safe exit from signal {signal.Signals(first).name[3:]}"


@pytest.mark.parametrize(
    ("second", "after"), [(signal.SIGTERM, 1.1), (signal.SIGINT, 1.1), (signal.SIGQUIT, 0), (signal.SIGQUIT, 1.1)]
)
@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_who_insists_kills_at_once(run_script: Run, tmp_path: Path, first: int, second: int, after: float) -> None:
    with Release() as release:
        script = run_script(pool(2, "busy", pidfile=str(tmp_path / "pid")), stdin=release.read_end)
        script.lines(2)
        script.signal(first)
        script.wait_log("sending TERM to PIDs")
        time.sleep(after)  # a span in which nothing may happen: a second TERM within it is the same one
        assert script.process.poll() is None
        script.signal(second)
        assert script.wait() == 1
        script.tree_gone()
    name = signal.Signals(second).name[3:]
    assert f"received signal {name} while stopping: killing 2 servers" in script.log()
    assert "killed while stopping" in script.log_lines()[-1]
    assert not (tmp_path / "pid").exists()


def test_quit_stops_now(run_script: Run, tmp_path: Path) -> None:
    with Release() as release:
        script = run_script(pool(2, "busy", pidfile=str(tmp_path / "pid")), stdin=release.read_end)
        script.lines(2)
        assert script.stop(signal.SIGQUIT) == 1
    assert script.log_lines()[-1] == "manager A: exit at once from signal QUIT"
    assert not (tmp_path / "pid").exists()


def test_nothing_else_is_obeyed_while_stopping(run_script: Run) -> None:
    """HUP starts nothing, TTIN adds nothing, and the request in hand is answered: status 0."""
    with Release() as release:
        script = run_script(pool(1, "busy"), stdin=release.read_end)
        script.line()
        script.signal(signal.SIGTERM)
        script.wait_log("sending TERM to PIDs")
        for number in (signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGHUP):
            script.signal(number)
        wait_asleep(script.pid)
        release()
        assert script.line() == "answered"
        assert script.wait() == 0
    script.tree_gone()
    assert script.log().count("started") == 1


def test_the_files_stay_until_the_last_worker_is_gone(run_script: Run, sock_path: str, tmp_path: Path) -> None:
    source = pool(2, "busy", pidfile=str(tmp_path / "pid")).replace(
        "manager.manage()", f"manager.listen({sock_path!r})\nmanager.manage()"
    )
    with Release() as release:
        script = run_script(source, stdin=release.read_end)
        script.lines(2)
        workers = script.workers()
        script.signal(signal.SIGTERM)
        script.wait_log("sending TERM to PIDs")
        release()
        script.wait_log("exited with status 0")
        wait_asleep(script.pid)
        assert (tmp_path / "pid").read_text() == f"{script.pid}\n"
        assert os.path.exists(sock_path)
        release()
        assert script.wait() == 0
        assert not any(map(alive, workers))
    assert not (tmp_path / "pid").exists()
    assert not os.path.exists(sock_path)


@pytest.mark.leaves_socket
def test_what_is_not_ours_any_more_is_not_removed(run_script: Run, sock_path: str, tmp_path: Path) -> None:
    source = pool(1, "idle", pidfile=str(tmp_path / "pid")).replace(
        "manager.manage()", f"manager.listen({sock_path!r})\nmanager.manage()"
    )
    script = run_script(source)
    script.wait_ready()
    os.unlink(sock_path)
    (tmp_path / "pid").unlink()
    (tmp_path / "pid").write_text("1\n")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(sock_path)
        assert script.stop() == 0
        assert os.path.exists(sock_path)
    assert (tmp_path / "pid").read_text() == "1\n"


def test_a_worker_killed_in_a_reload_is_no_failure_of_the_stop(run_script: Run, tmp_path: Path) -> None:
    source = (
        HEAD
        + """
manager = ProcManager(1, reload_timeout=0.1)
manager.manage()
if os.path.exists("once"):
    idle(manager)
open("once", "w").close()
deaf(manager)
"""
    )
    script = run_script(source, cwd=tmp_path)
    script.line()
    script.signal(signal.SIGHUP)
    script.wait_log("137 .SIGKILL.")
    script.wait_ready(2)
    assert script.stop() == 0


@pytest.mark.parametrize(
    ("call", "status", "last"),
    [
        ("self.die('enough')", 0, "dying: enough"),
        ("self.die('enough', 5)", 5, "dying: enough"),
        ("self.abort('enough')", 1, "enough"),
        ("self.exit('enough')", 0, "enough"),
        ("self.exit('enough', 7)", 7, "enough"),
    ],
)
def test_the_manager_ends_itself(run_script: Run, tmp_path: Path, call: str, status: int, last: str) -> None:
    script = run_script(
        HEAD
        + f"""
class Manager(ProcManager):
    def manager_sig_handler(self, name):
        {call}
manager = Manager(2, pidfile={str(tmp_path / "pid")!r})
manager.manage()
say("up")
idle(manager)
"""
    )
    script.lines(2)
    assert script.stop(signal.SIGTTIN) == status
    assert script.log_lines()[-1] == f"manager A: {last}"
    assert not (tmp_path / "pid").exists()


@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGTTIN, signal.SIGTERM])
def test_the_pid_file_is_removed_when_no_worker_is_left_to_reap(run_script: Run, tmp_path: Path, number: int) -> None:
    """QUIT, abort() (here at TTIN) and a gentle stop alike: while the file is there, somebody may serve."""
    script = run_script(
        HEAD
        + """
def exists(pid):
    try:
        os.kill(pid, 0)  # a zombie is one that exists
    except ProcessLookupError:
        return False
    return True

class Manager(ProcManager):
    seen = ()
    def manager_sig_handler(self, name):
        self.seen = self.server_pids
        self.abort("enough") if name == "TTIN" else super().manager_sig_handler(name)
    def remove_pid_file(self):
        say("removing", len(self.seen), self.server_pids, list(map(exists, self.seen)), os.path.exists(self.pidfile))
        super().remove_pid_file()
manager = Manager(3, pidfile=sys.argv[1])
manager.manage()
say("up")
deaf(manager) if sys.argv[2] == "deaf" else idle(manager)
""",
        args=[tmp_path / "pid", "idle" if number == signal.SIGTERM else "deaf"],
    )
    up = 3 if number == signal.SIGTERM else 6
    script.lines(up)
    script.signal(number)
    assert script.line() == "removing 3 [] [False, False, False] True"
    script.wait()
    assert not (tmp_path / "pid").exists()


def test_an_exception_in_the_manager_leaves_nobody_behind(run_script: Run, sock_path: str, tmp_path: Path) -> None:
    script = run_script(
        HEAD
        + f"""
class Manager(ProcManager):
    def manager_sig_handler(self, name):
        raise RuntimeError("a defect in a hook")
manager = Manager(2, pidfile={str(tmp_path / "pid")!r})
manager.listen({sock_path!r})
manager.manage()
say("up")
idle(manager)
"""
    )
    script.lines(2)
    assert script.stop(signal.SIGHUP) == 1
    assert "RuntimeError: a defect in a hook" in script.log()
    assert not (tmp_path / "pid").exists()


@pytest.mark.parametrize(
    ("call", "status"), [("manager.exit('bye')", 0), ("manager.exit('bye', 3)", 3), ("manager.abort('bye')", 1)]
)
def test_a_worker_ends_itself(run_script: Run, tmp_path: Path, call: str, status: int) -> None:
    script = run_script(
        HEAD
        + f"""
manager = ProcManager(1, pidfile={str(tmp_path / "pid")!r})
manager.manage()
if not os.path.exists(sys.argv[1]):
    open(sys.argv[1], "w").close()
    manager.pre_dispatch()
    {call}
say("second")
idle(manager)
""",
        args=[tmp_path / "once"],
    )
    assert script.line() == "second"
    found = script.wait_log(r"server \(pid \d+\) exited with status (\d+)$")
    assert found[0][1] == str(status)
    assert (tmp_path / "pid").exists()
    assert script.stop() == 0


def test_repeated_terms_do_not_turn_the_status_of_a_worker_into_a_death(run_script: Run) -> None:
    """From its first TERM on until it is reaped: none of the following makes it end by a signal."""
    with Release() as release:
        script = run_script(pool(1, "busy"), stdin=release.read_end)
        for _ in range(5):
            worker = int(script.line().split()[1])
            script.signal(signal.SIGTERM, worker)
            release()
            while alive(worker):
                try:
                    script.signal(signal.SIGTERM, worker)
                except ProcessLookupError:
                    break
            script.wait_log(rf"server \(pid {worker}\) exited with status 0$")
            assert script.line() == "answered"
        release(2)
        assert script.stop() == 0


def test_a_gentle_stop_is_quick(run_script: Run) -> None:
    """No worker waits for a timer: a stop of an idle pool takes far less than the second until TERM would be repeated. The machine
    may hold one up, but not each of them."""
    assert any(seconds_of_a_stop(run_script) < 0.9 for _ in range(5))


def seconds_of_a_stop(run_script: Run) -> float:
    script = run_script(ONCE + pool(4, "idle"))
    script.wait_ready(4)
    for worker in script.workers():
        wait_asleep(worker)
    began = time.monotonic()
    script.signal(signal.SIGTERM)
    assert script.wait() == 0
    return time.monotonic() - began


# Nobody hangs because somebody else reaps


REAPER = """
class Manager(ProcManager):
    def manager_init(self):
        super().manager_init()
        threading.Thread(target=reap, daemon=True).start()
def reap():
    '''Takes the children away from the manager, faster than it.'''
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            time.sleep(0.001)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_children_reaped_by_a_thread(run_script: Run, number: int) -> None:
    """A worker that somebody else reaped is missed and replaced, though the others live on; and a stop ends."""
    script = run_script(
        HEAD + REAPER + "manager = Manager(3)\nmanager.manage()\nsay(os.getpid())\nidle(manager)\n",
    )
    workers = [int(line) for line in script.lines(3)]
    for _ in range(3):
        script.signal(signal.SIGKILL, workers.pop())
        workers.append(int(script.line()))
    script.wait_workers(3)
    assert script.stop(number) == (0 if number == signal.SIGTERM else 1)


def test_a_child_of_the_application_that_lives_on_holds_nobody(run_script: Run) -> None:
    """Somebody else reaps a worker and another child of the manager stays: killing the pool does not wait for that."""
    script = run_script(
        HEAD
        + """
class Manager(ProcManager):
    def manager_init(self):
        super().manager_init()
        self.helper = os.fork()
        if not self.helper:
            signal.pause()
    def notify(self, message):
        if message.endswith("at once from signal QUIT") or message.startswith("received signal QUIT"):
            os.kill(self.server_pids[0], 9) if self.server_pids else None
            if self.server_pids:
                os.waitpid(self.server_pids[0], 0)
        super().notify(message)
manager = Manager(2)
manager.manage()
say("up")
idle(manager)
"""
    )
    script.lines(2)
    script.signal(signal.SIGQUIT)
    assert script.wait() == 1


@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGTERM])
def test_a_child_of_the_application_is_left_to_the_application(run_script: Run, number: int) -> None:
    """It lives on when the pool is killed, and its status is there for whoever forked it."""
    script = run_script(
        HEAD
        + """
import atexit
class Manager(ProcManager):
    def manager_init(self):
        super().manager_init()
        read_end, write_end = os.pipe()
        helper = os.fork()
        if not helper:
            os.close(write_end)
            os.read(read_end, 1)
            os._exit(7)
        os.close(read_end)
        atexit.register(collect, os.getpid(), helper, write_end)
def collect(owner, helper, write_end):
    if os.getpid() == owner:
        alive = os.waitpid(helper, os.WNOHANG) == (0, 0)
        os.close(write_end)
        say("alive", alive, "status", os.waitstatus_to_exitcode(os.waitpid(helper, 0)[1]))
manager = Manager(2)
manager.manage()
say("up")
idle(manager)
"""
    )
    script.lines(2)
    assert script.stop(number) == (1 if number == signal.SIGQUIT else 0)
    assert script.output() == "alive True status 7\n"


def test_foreign_children_are_reaped_in_silence(run_script: Run) -> None:
    """As process 1 gets them: they are neither announced nor replaced, and no zombie stays."""
    script = run_script(
        HEAD
        + """
import ctypes
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
class Manager(ProcManager):
    def manager_sig_handler(self, name):
        if name != "TTIN":
            return super().manager_sig_handler(name)
        for status in (0, 3):
            if os.fork() == 0:
                if os.fork() == 0:
                    os._exit(status)
                os._exit(status)
        say("forked")
manager = Manager(1)
manager.manage()
say("up")
idle(manager)
"""
    )
    script.line()
    script.wait_log("started")
    worker = script.workers()
    before = script.log()
    script.signal(signal.SIGTTIN)
    assert script.line() == "forked"
    wait_until(lambda: children(script.pid, zombies=True) == worker, 10)
    wait_asleep(script.pid)
    assert script.log() == before
    assert script.stop() == 0


@pytest.mark.parametrize("where", ["before", "manager_init", "exec"])
@pytest.mark.parametrize("no_signals", [False, True])
def test_sigchld_ignored_by_the_application(run_script: Run, where: str, no_signals: bool) -> None:
    ignore = "signal.signal(signal.SIGCHLD, signal.SIG_IGN)"
    source = (
        HEAD
        + f"""
class Manager(ProcManager):
    def manager_init(self):
        super().manager_init()
        {ignore if where == "manager_init" else "pass"}
{ignore if where == "before" else ""}
manager = Manager(2, no_signals={no_signals})
manager.manage()
say(os.getpid())
idle(manager)
"""
    )
    if where == "exec":
        start = f"import os, signal, sys; {ignore}; os.execv(sys.executable, [sys.executable, '-c', sys.argv[1]])"
        script = run_script([sys.executable, "-c", start, source])
    else:
        script = run_script(source)
    workers = [int(line) for line in script.lines(2)]
    script.signal(signal.SIGKILL, workers[0])
    if no_signals:
        # The system reaps, and os.wait returns when the last child is gone: then they are all replaced.
        script.signal(signal.SIGKILL, workers[1])
        script.lines(2)
        script.signal(signal.SIGKILL)
        script.wait()
        script.tree_gone()
    else:
        script.line()
        script.wait_log(rf"server \(pid {workers[0]}\) exited with status 137 \(SIGKILL\)")
        assert script.stop() == 0


def test_without_signals_the_pool_is_kept_and_dies_with_its_manager(run_script: Run) -> None:
    script = run_script(
        HEAD + "manager = ProcManager(3, no_signals=True)\nmanager.manage()\nsay(os.getpid())\nidle(manager)\n"
    )
    workers = [int(line) for line in script.lines(3)]
    for worker in tuple(workers):
        script.signal(signal.SIGKILL, worker)
        workers.append(int(script.line()))
    script.signal(signal.SIGTERM)
    assert script.wait() == -signal.SIGTERM
    script.tree_gone()
    for worker in workers:
        wait_dead(worker)
