"""Many connections, several listeners, requests in a row: nobody waits for another but where a worker is all there is."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Callable

import pytest

from fcgi_procmanager.fastcgi import protocol
from fcgi_procmanager.fastcgi.connection import Connection, Limits
from fcgi_procmanager.fastcgi.request import Request
from harness import fcgi
from harness.process import Script, wait_dead

Run = Callable[..., Script]

FIRST_BYTE_TIMEOUT = 0.02  # seconds a worker waits for the first byte of a connection before it may take another one

HEAD = """
    import os, sys, time
    from fcgi_procmanager import FastCGI, ProcManager
    from fcgi_procmanager.fastcgi import held
"""

SEVERAL = (
    HEAD
    + """
    manager = ProcManager(int(sys.argv[1]))
    for path in sys.argv[2:]:
        manager.listen(path)
    manager.manage()
    fcgi = FastCGI(manager=manager)
"""
)


def test_the_longest_held_makes_room_for_the_last(run_script: Run, sock_path: str) -> None:
    """When all others are still to speak, the one that is to be kept must not be the one that is closed."""
    script = run_script(
        HEAD
        + """
    held.MAX_HELD = 5
    manager = ProcManager(1)
    listener = manager.listen(sys.argv[1])
    manager.manage()
    fcgi = FastCGI(listener, manager=manager)
    while request := fcgi.accept():
        request.stdout.write(b"Status: 200 OK\\r\\n\\r\\n%d" % os.getpid())
        request.finish()
""",
        args=[sock_path],
    )
    script.wait_ready()
    with ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(fcgi.Client(sock_path))
        client = stack.enter_context(fcgi.Client(sock_path))
        first = client.request(keep=True).text
        assert client.request(keep=True).text == first
        unread = stack.enter_context(fcgi.Client(sock_path))
        unread.send(fcgi.begin() + fcgi.params_records(fcgi.cgi_params()) + fcgi.record(fcgi.STDIN, 1, b"body"))
        assert unread.read_reply().text == first
        assert fcgi.fetch(sock_path).text == first
    assert script.stop() == 0


def test_beyond_the_bound_the_longest_silent_are_closed(run_script: Run, sock_path: str) -> None:
    script = run_script(
        HEAD
        + """
    held.MAX_HELD = 5
    manager = ProcManager(1)
    listener = manager.listen(sys.argv[1])
    manager.manage()
    fcgi = FastCGI(listener, manager=manager)
    while request := fcgi.accept():
        request.finish()
""",
        args=[sock_path],
    )
    script.wait_ready()
    with ExitStack() as stack:
        silent = [stack.enter_context(fcgi.Client(sock_path)) for _ in range(9)]
        assert fcgi.fetch(sock_path).ended  # taken after them; it may have been held itself, for a moment
        assert all(client.at_eof() for client in silent[:4])
        assert not any(client.readable() for client in silent[5:])
    assert script.stop() == 0


def test_a_connection_at_each_listener_and_a_worker_for_each(run_script: Run, sock_path: str, tmp_path: Path) -> None:
    """A worker that is called for both takes one and hands on the call for the other: each request waits for the other
    to be in progress. A client that is preempted between its connect and its request may be held by the worker that serves the
    other, so only those that were in time count."""
    other = f"{sock_path}.2"
    script = run_script(
        SEVERAL
        + """
    while request := fcgi.accept():
        manager.pre_dispatch()
        mine, others = request.params["PATH_INFO"][1:].split("-")
        open(mine, "w").close()
        until = time.monotonic() + 20
        while not os.path.exists(others) and time.monotonic() < until:
            time.sleep(0.001)
        met = os.path.exists(others)
        request.stdout.write(b"Status: 200 OK\\r\\n\\r\\n%s" % (b"met" if met else b"alone"))
        request.finish()
        manager.post_dispatch()
""",
        args=[2, sock_path, other],
        cwd=tmp_path,
    )
    script.wait_ready(2)
    for number in range(40):
        began = time.monotonic()
        with fcgi.Client(sock_path) as one, fcgi.Client(other) as two:
            one.send(fcgi.request_bytes(path=f"/{number}a-{number}b"))
            two.send(fcgi.request_bytes(path=f"/{number}b-{number}a"))
            late = time.monotonic() - began > FIRST_BYTE_TIMEOUT
            assert (one.read_reply().text, two.read_reply().text) == ("met", "met") or late, number
    assert script.stop() == 0


def test_a_busy_listener_does_not_starve_another(run_script: Run, sock_path: str) -> None:
    other = f"{sock_path}.2"
    script = run_script(
        SEVERAL
        + """
    while request := fcgi.accept():
        time.sleep(0.002)  # the others connect meanwhile
        request.stdout.write(b"Status: 200 OK\\r\\n\\r\\nhello")
        request.finish()
""",
        args=[1, sock_path, other],
    )
    script.wait_ready()
    over = threading.Event()

    def hammer() -> None:
        while not over.is_set():
            fcgi.fetch(sock_path)

    threads = [threading.Thread(target=hammer) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            assert fcgi.fetch(other).text == "hello"
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert script.stop() == 0


@pytest.mark.parametrize("threads", [1, 2])
def test_a_peer_that_always_has_one_more_does_not_keep_a_worker(run_script: Run, sock_path: str, threads: int) -> None:
    """It sends faster than it is answered: its next request has always come by then."""
    script = run_script(
        """
    import sys, time
    from fcgi_procmanager import ProcManager, WSGIServer

    def application(environ, start_response):
        time.sleep(0.005)
        start_response("200 OK", [])
        return [b"x"]

    manager = ProcManager(1, die_timeout=60)
    WSGIServer(application, manager=manager, bindAddress=sys.argv[1], threads=int(sys.argv[2]), drain_timeout=0.3).run()
""",
        args=[sock_path, threads],
    )
    script.wait_ready()
    (worker,) = script.workers()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(sock_path)
        sock.settimeout(30)
        requests = fcgi.request_bytes(keep=True) * 20
        sender = threading.Thread(target=_until_closed, args=(lambda: sock.sendall(requests) or True,))
        reader = threading.Thread(target=_until_closed, args=(lambda: sock.recv(65536),))
        sender.start()
        try:
            assert sock.recv(1)
            reader.start()
            os.kill(worker, signal.SIGTERM)
            wait_dead(worker)
        finally:
            sock.shutdown(socket.SHUT_RDWR)
            sender.join()
            reader.join()
    assert script.stop() == 0


def _until_closed(step: Callable[[], object]) -> None:
    try:
        while step():
            pass
    except OSError:
        pass


# One request on a connection of its own


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, Connection]]:
    ours, theirs = socket.socketpair()
    limits = Limits((1, 2, 3), {}, 5.0, 5.0)
    sock = socket.SocketType(socket.AF_UNIX, socket.SOCK_STREAM, 0, ours.detach())
    with theirs:
        yield theirs, Connection(sock, limits)
        sock.close()


def begun(connection: Connection) -> Request:
    assert connection.poll()
    return Request(connection, lambda connection, keep: None)


@pytest.mark.parametrize("body", [b"", b"x" * 100])
def test_the_body_of_a_finished_request_is_gone(pair: tuple[socket.socket, Connection], body: bytes) -> None:
    """What comes then is of the next request."""
    peer, connection = pair
    peer.sendall(fcgi.request_bytes(body=body, keep=True) + fcgi.request_bytes(body=b"another's", keep=True))
    request = begun(connection)
    request.finish()
    assert connection.next_request()
    with pytest.raises(ValueError, match="finished"):
        request.stdin  # noqa: B018
    with pytest.raises(ValueError, match="finished"):
        request.data  # noqa: B018
    assert begun(connection).stdin.read() == b"another's"


@pytest.mark.parametrize("size", [0, 10, 5000, 60_000])
def test_the_file_of_a_filter_first(pair: tuple[socket.socket, Connection], size: int) -> None:
    """Then nothing is left of the body, whatever its length."""
    peer, connection = pair
    peer.sendall(fcgi.request_bytes(body=b"b" * size, role=protocol.FILTER, data=b"file", chunk=1000))
    request = begun(connection)
    assert request.data.read() == b"file"
    assert request.stdin.read() == b""
