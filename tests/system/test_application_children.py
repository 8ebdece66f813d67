"""Processes that the application forks are not ours: they have its handlers, none of our descriptors, and no part in us."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

from harness.fcgi import Client, fetch, request_bytes
from harness.process import Script, alive, open_fds, sigcatch, wait_dead

Run = Callable[..., Script]

HEAD = """
import multiprocessing, os, signal, sys, time
from harness.inside import idle, say
from fcgi_procmanager import *

FORK = multiprocessing.get_context("fork")

def stay():
    '''Until standard input ends, whatever signal is handled meanwhile.'''
    while os.read(0, 1):
        pass
    os._exit(0)
"""

OF_THE_MANAGER = (
    HEAD
    + """
class Manager(ProcManager):
    def manager_init(self):
        super().manager_init()
        if not os.fork():
            say("child", os.getpid())
            stay()
manager = Manager(2, pidfile=sys.argv[1])
manager.listen(sys.argv[2])
manager.manage()
say("worker", os.getpid())
idle(manager)
"""
)


@pytest.fixture
def stdin() -> Iterator[int]:
    """Standard input that ends with the test: who reads it is gone then."""
    read_end, write_end = os.pipe()
    yield read_end
    os.close(write_end)
    os.close(read_end)


class Pool:
    """The pool of OF_THE_MANAGER: its script, the child that its hook forked, and its two workers."""

    def __init__(self, run_script: Run, sock_path: str, tmp_path: Path, stdin: int) -> None:
        self.script = run_script(OF_THE_MANAGER, args=[tmp_path / "pid", sock_path], stdin=stdin)
        found: dict[str, list[int]] = {"child": [], "worker": []}
        for _ in range(3):
            kind, pid = self.script.line().split()
            found[kind].append(int(pid))
        (self.child,) = found["child"]
        self.workers = found["worker"]


@pytest.fixture
def pool(run_script: Run, sock_path: str, tmp_path: Path, stdin: int) -> Pool:
    return Pool(run_script, sock_path, tmp_path, stdin)


def end_but_for_the_child(script: Script) -> None:
    """The child of the application stays, as it would in life: only the manager is waited for."""
    script.signal(signal.SIGTERM)
    assert script.wait() == 0


# Forked in manager_init


@pytest.mark.leaves_socket
def test_a_child_of_the_manager_does_not_keep_the_workers_of_a_dead_one(pool: Pool) -> None:
    pool.script.signal(signal.SIGKILL)
    for worker in pool.workers:
        wait_dead(worker)
    assert alive(pool.child)
    assert pool.script.log().count("safe exit: manager has died") == 2


def test_a_child_of_the_manager_has_no_descriptor_of_ours(pool: Pool, sock_path: str, tmp_path: Path) -> None:
    """Not the listener, whose address would stay taken; not the PID file, which would stay locked; and no pipe."""
    ours = ours_alone(pool.script)
    assert any("socket" in target for target in ours)
    assert any(str(tmp_path / "pid") in target for target in ours)
    assert set(open_fds(pool.child).values()) & ours == set()
    end_but_for_the_child(pool.script)


def test_a_child_of_the_manager_has_the_handlers_that_were_found(pool: Pool) -> None:
    """TERM ends it, and so does HUP: it has nobody who would look at what was noted."""
    assert sigcatch(pool.child) == {signal.SIGINT}  # Python's own
    pool.script.signal(signal.SIGTERM, pool.child)
    wait_dead(pool.child)
    assert pool.script.stop() == 0


def test_a_child_of_the_manager_has_the_handlers_of_the_application(run_script: Run, stdin: int) -> None:
    script = run_script(
        HEAD
        + """
signal.signal(signal.SIGTERM, lambda *_: say("own"))
class Manager(ProcManager):
    def manager_init(self):
        super().manager_init()
        if not os.fork():
            say(os.getpid())
            stay()
manager = Manager(1)
manager.manage()
idle(manager)
""",
        stdin=stdin,
    )
    child = int(script.line())
    script.signal(signal.SIGTERM, child)
    assert script.line() == "own"
    script.signal(signal.SIGKILL, child)
    script.wait_log("server .*: initialized")
    assert script.stop() == 0


@pytest.mark.parametrize("daemon", [True, False])
def test_a_multiprocessing_process_of_the_manager_does_not_hang_the_stop(run_script: Run, daemon: bool) -> None:
    """One that is a daemon is ended by multiprocessing, any other by the application that started it."""
    script = run_script(
        HEAD
        + """
class Manager(ProcManager):
    def manager_init(self):
        super().manager_init()
        self.helper = FORK.Process(target=time.sleep, args=(1000,), daemon=sys.argv[1] == "True")
        self.helper.start()
        say(self.helper.pid)
    def exit(self, message, status=0):
        if self.role == "manager" and not self.helper.daemon:
            self.helper.terminate()
        super().exit(message, status)
manager = Manager(2)
manager.manage()
say("up")
idle(manager)
""",
        args=[daemon],
    )
    helper = int(script.line())
    script.lines(2)
    assert alive(helper)
    assert script.stop() == 0
    assert not alive(helper)


# Forked in a request

SITE = (
    HEAD
    + """
def fork():
    pid = os.fork()
    if not pid:
        say(os.getpid())
        stay()
    return pid

def terminate():
    process = FORK.Process(target=time.sleep, args=(1000,))
    process.start()
    process.terminate()
    process.join(20)
    status = process.exitcode
    process.kill()
    process.join()
    return status

def square(number):
    return number * number

def crowd():
    with FORK.Pool(2) as pool:
        return pool.map(square, range(5))

def busy_crowd():
    with FORK.Pool(2) as pool:
        pool.apply_async(time.sleep, (1000,))
        return pool.map(square, range(5))

WHAT = {"/fork": fork, "/terminate": terminate, "/crowd": crowd, "/busy-crowd": busy_crowd, "/pid": os.getpid}

def app(environ, start_response):
    answer = str(WHAT[environ["PATH_INFO"]]())
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [answer.encode()]
WSGIServer(app, manager=ProcManager(int(sys.argv[2])), bindAddress=sys.argv[1]).run()
"""
)


@pytest.fixture
def site(run_script: Run, sock_path: str, stdin: int) -> Script:
    """Two workers, ready."""
    script = run_script(SITE, args=[sock_path, 2], stdin=stdin)
    script.wait_log("server .*: initialized", count=2)
    return script


def test_a_process_started_in_a_request_can_be_terminated(site: Script, sock_path: str) -> None:
    for _ in range(5):
        assert fetch(sock_path, "/terminate").text == "-15"
    assert site.stop() == 0


@pytest.mark.parametrize("crowd", ["/crowd", "/busy-crowd"])
def test_a_multiprocessing_pool_in_a_request_ends(site: Script, sock_path: str, crowd: str) -> None:
    """Its `with` ends it by TERM to its processes, one of which may be at work, and waits for them."""
    for _ in range(10):
        assert fetch(sock_path, crowd, timeout=20).text == "[0, 1, 4, 9, 16]"
    assert site.stop() == 0


def test_a_grandchild_has_the_handlers_that_were_found(site: Script, sock_path: str) -> None:
    grandchild = int(fetch(sock_path, "/fork").text)
    assert site.line() == str(grandchild)
    assert sigcatch(grandchild) == {signal.SIGINT}
    site.signal(signal.SIGTERM, grandchild)
    wait_dead(grandchild)
    assert site.stop() == 0


def test_a_grandchild_holds_no_pipe_and_no_connection(site: Script, sock_path: str) -> None:
    """A web server that waits for the end of its connection would wait for the grandchild."""
    with Client(sock_path) as held:
        held.send(request_bytes(path="/pid", keep=True))
        held.read_reply()
        grandchild = int(fetch(sock_path, "/fork").text)
        site.line()
        shared = ours_alone(site)
        pipes = {target for target in shared if target.startswith("pipe")}
        workers = [worker for worker in site.workers() if worker != grandchild]
        own = {target for worker in workers for target in ours_alone(site, worker)} - shared
        assert any(target.startswith("socket") for target in own)
        assert len(pipes) >= 3
        assert set(open_fds(grandchild).values()) & (pipes | own) == set()
    end_but_for_the_child(site)


@pytest.mark.leaves_socket
def test_a_grandchild_does_not_keep_the_workers_of_a_dead_manager(site: Script, sock_path: str) -> None:
    grandchild = int(fetch(sock_path, "/fork").text)
    site.line()
    workers = site.workers()
    site.signal(signal.SIGKILL)
    for worker in workers:
        wait_dead(worker)
    assert alive(grandchild)


def test_a_grandchild_does_not_hold_a_stop(site: Script, sock_path: str) -> None:
    grandchild = int(fetch(sock_path, "/fork").text)
    site.line()
    site.signal(signal.SIGTERM)
    assert site.wait() == 0
    assert alive(grandchild)
    assert not os.path.exists(sock_path)


def ours_alone(script: Script, pid: int | None = None) -> set[str]:
    """What a manager or a worker has open and did not find open: its standard streams, and the pipe that tests watch."""
    held = open_fds(script.pid if pid is None else pid)
    found = {held[number] for number in (0, 1, 2)} | {os.readlink(f"/proc/self/fd/{script._tree_pipe}")}
    return {target for target in held.values() if target not in found and not target.startswith("anon_inode")}
