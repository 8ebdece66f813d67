"""What an application can break in its own worker: standard error, descriptors, a thread. Clients get a reply or an end, and a
worker that cannot serve is replaced."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Callable

import pytest

from harness import fcgi
from harness.process import Script, wait_dead, wait_settled, wait_until

Run = Callable[..., Script]
Start = Callable[..., Script]

SITE = """
    import os, sys, threading
    from fcgi_procmanager import ProcManager, WSGIServer
    from harness.inside import say

    class Deaf:
        def write(self, text):
            raise RuntimeError("nobody listens")
        flush = write

    def spoil(how):
        if how == "full":
            os.dup2(os.open("/dev/full", os.O_WRONLY), 2)
        elif how == "without a reader":
            read, write = os.pipe()
            os.dup2(write, 2)
            os.close(read)
            os.close(write)
        elif how == "closed":
            sys.stderr.close()
        elif how == "none":
            sys.stderr = None
        elif how == "replaced":
            sys.stderr = Deaf()

    def application(environ, start_response):
        path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
        if path == "/spoil":
            spoil(query.replace("+", " "))
        elif path == "/wait":
            say("waiting")
            os.read(0, 1)
        elif path == "/close":
            os.closerange(int(query), 1000)
        elif path == "/close-and-stay":
            os.closerange(3, 1000)
            say("waiting")
            os.read(0, 1)
        elif path == "/replace":
            os.closerange(int(query), 1000)
            kept.extend(open(os.devnull) for _ in range(60))
        elif path == "/defect":
            manager.defect.broken = True
        elif path != "/":
            if path == "/middle":
                start_response("200 OK", [])(b"half")
            raise ValueError("on purpose")
        start_response("200 OK", [])
        return [str(os.getpid()).encode()]

    class Manager(ProcManager):
        defect = threading.local()
        def post_dispatch(self):
            super().post_dispatch()
            if getattr(self.defect, "broken", False):
                raise RuntimeError("a defect")

    class Server(WSGIServer):
        def error(self, request):
            if request.params["PATH_INFO"] == "/page":
                raise LookupError("the error page as well")
            super().error(request)

    kept = []
    manager = Manager(n_processes=1, die_timeout=60)
    Server(application, manager=manager, bindAddress=sys.argv[1], threads=int(sys.argv[2])).run()
"""

each_number_of_threads = pytest.mark.parametrize("threads", [1, 2])


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


@pytest.fixture
def start(run_script: Run, sock_path: str, pipe: tuple[int, int]) -> Start:
    """The site, with the pipe for its standard input."""

    def start(threads: int) -> Script:
        script = run_script(SITE, args=[sock_path, threads], stdin=pipe[0])
        script.wait_ready()
        return script

    return start


def replaced(script: Script, path: str, pid: int) -> None:
    """The worker has ended, and another one serves."""
    wait_dead(pid)
    assert wait_until(lambda: fcgi.fetch(path)).text != str(pid)


@each_number_of_threads
@pytest.mark.parametrize("how", ["full", "without+a+reader", "closed", "none", "replaced"])
def test_a_traceback_that_cannot_be_written_changes_no_reply(
    start: Start, sock_path: str, how: str, threads: int
) -> None:
    script = start(threads)
    pid = fcgi.fetch(sock_path, f"/spoil?{how}").text
    for _ in range(3):
        reply = fcgi.fetch(sock_path, "/raise")
        assert (reply.status, reply.ended) == (500, True)
        assert b"Unhandled Exception" in reply.body
        reply = fcgi.fetch(sock_path, "/middle")
        assert (reply.body, reply.ended) == (b"half", False)
        reply = fcgi.fetch(sock_path, "/page")
        assert (reply.stdout, reply.ended) == (b"", False)
    assert fcgi.fetch(sock_path).text == pid
    assert "exited" not in script.log()
    assert script.stop() == 0


# With one thread a worker that has lost some of them fails at once, or serves on.
@pytest.mark.parametrize(("threads", "first"), [(1, 3), (2, 3), (2, 8), (2, 12)])
@pytest.mark.parametrize("how", ["/close", "/replace"])
def test_a_worker_whose_descriptors_are_closed_is_replaced(
    start: Start, sock_path: str, threads: int, first: int, how: str
) -> None:
    """Closed descriptors wake nobody: what waits for them would wait for ever."""
    script = start(threads)
    pid = int(fcgi.fetch(sock_path).text)
    wait_settled(pid)  # each thread has the descriptors that it is to lose
    try:
        fcgi.fetch(sock_path, f"{how}?{first}")
    except OSError:
        pass
    replaced(script, sock_path, pid)
    assert script.stop() == 0


def test_a_worker_whose_descriptors_are_closed_obeys_in_the_middle_of_a_request(start: Start, sock_path: str) -> None:
    """The thread that could notice it is busy, and the others can be told nothing."""
    script = start(2)
    with fcgi.Client(sock_path) as client:
        pid = int(client.request(keep=True).text)
        # One that is not asleep yet fails when it wants to be, and the worker ends before it is told to.
        wait_until(lambda: len(os.listdir(f"/proc/{pid}/task")) == 3)
        wait_settled(pid)
        client.send(fcgi.request_bytes(path="/close-and-stay", keep=True))
        assert script.line() == "waiting"
        os.kill(pid, signal.SIGTERM)
        replaced(script, sock_path, pid)
    assert script.stop() == 0


@pytest.mark.parametrize("how", ["", "full", "none"])
def test_a_thread_that_ends_ends_its_worker_in_order(
    start: Start, sock_path: str, pipe: tuple[int, int], how: str
) -> None:
    """Another request in progress is finished first, and nobody serves with the threads that are left."""
    script = start(3)
    pid = int(fcgi.fetch(sock_path, f"/spoil?{how}").text)
    with fcgi.Client(sock_path) as client:
        client.send(fcgi.request_bytes(path="/wait"))
        assert script.line() == "waiting"
        assert fcgi.fetch(sock_path, "/defect").ended
        assert not client.readable(0.05)
        os.write(pipe[1], b"!")
        assert client.read_reply().text == str(pid)
    replaced(script, sock_path, pid)
    script.wait_log("exited with status 1")
    assert script.stop() == 0


def test_a_worker_that_cannot_start_its_threads_ends(run_script: Run, sock_path: str) -> None:
    broken = SITE.replace(
        "    kept = []",
        """
    start = threading.Thread.start
    def no_more(thread):
        if thread.name == "lane-2":
            raise RuntimeError("can't start new thread")
        start(thread)
    threading.Thread.start = no_more
    kept = []
""",
    )
    script = run_script(broken, args=[sock_path, 3])
    script.wait_log("can't start new thread", 2)
    script.wait_log("exited with status 1", 2)
    assert script.stop() == 0
