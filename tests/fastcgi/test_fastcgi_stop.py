"""Stopping and reloading: what was accepted is answered, what is silent is closed, and nobody waits for either."""

from __future__ import annotations

import hashlib
import os
import random
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Callable

import pytest

from harness import fcgi
from harness.process import Script, alive, standing_still, wait_asleep, wait_dead, wait_settled, wait_until

Run = Callable[..., Script]

PROMPT = 30.0  # seconds; below any timeout that could be waited for by mistake

SITE = """
    import hashlib, os, sys
    from fcgi_procmanager import ProcManager, WSGIServer
    from harness.inside import say

    def application(environ, start_response):
        path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
        start_response("200 OK", [])
        if path == "/wait":                        # until the test writes a byte
            say("waiting", os.getpid())
            os.read(0, 1)
        elif path == "/parts":
            return parts()
        elif path == "/read":
            say("reading", os.getpid())
            body = environ["wsgi.input"].read()
            return [f"{len(body)} {hashlib.sha1(body).hexdigest()}".encode()]
        elif path == "/big":
            return [b"x" * int(query)]
        return [f"{os.getpid()} {query}".encode()]

    def parts():
        yield b"one "
        say("waiting", os.getpid())
        os.read(0, 1)
        yield b"two"

    manager = ProcManager(n_processes=int(sys.argv[2]), die_timeout=100)
    WSGIServer(application, manager=manager, bindAddress=sys.argv[1], threads=int(sys.argv[3]), drain_timeout=float(sys.argv[4]),
               head_timeout=100, idle_timeout=100).run()
"""


class Pool:
    """The site, and a hand on its standard input."""

    def __init__(self, run_script: Run, path: str, n: int, threads: int, drain: float) -> None:
        read, self.write_end = os.pipe()
        try:
            self.script = run_script(SITE, args=[path, n, threads, drain], stdin=read)
        finally:
            os.close(read)
        self.path = path
        self.script.wait_ready(n)

    def go_on(self, count: int = 1) -> None:
        os.write(self.write_end, b"!" * count)

    def worker(self) -> int:
        return self.script.workers()[0]

    def busy(self) -> int:
        """The pid of the worker that says it is in a request."""
        return int(self.script.line().split()[1])

    def stopped(self) -> None:
        """It ends by itself, in time, gently, without a defect."""
        began = time.monotonic()
        assert self.script.wait() == 0
        assert time.monotonic() - began < PROMPT
        self.script.tree_gone()
        log = self.script.log()
        assert "Traceback" not in log
        assert not re.findall(r"exited with status (?!0$).*", log, re.MULTILINE)


@pytest.fixture
def pool(run_script: Run, sock_path: str) -> Iterator[Callable[..., Pool]]:
    made: list[Pool] = []

    def make(n: int = 1, threads: int = 1, drain: float = 60) -> Pool:
        made.append(Pool(run_script, sock_path, n, threads, drain))
        return made[-1]

    yield make
    for one in made:
        os.close(one.write_end)


both = pytest.mark.parametrize("threads", [1, 3])
asked = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])


# TERM to one worker


@both
@asked
def test_idle(pool: Any, threads: int, number: int) -> None:
    site = pool(threads=threads)
    pid = site.worker()
    wait_asleep(pid)
    began = time.monotonic()
    os.kill(pid, number)
    wait_dead(pid)
    assert time.monotonic() - began < PROMPT
    site.script.wait_log("exited with status 0")
    assert wait_until(lambda: fcgi.fetch(site.path)).ended  # its replacement serves
    site.script.signal(signal.SIGTERM)
    site.stopped()


@both
@asked
@pytest.mark.parametrize("keep", [False, True])
def test_in_a_request(pool: Any, threads: int, number: int, keep: bool) -> None:
    """The reply is complete, then the worker leaves; the kept connection is closed in order."""
    site = pool(threads=threads)
    with fcgi.Client(site.path) as client:
        client.send(fcgi.request_bytes(path="/wait?q", keep=keep))
        pid = site.busy()
        os.kill(pid, number)
        assert not client.readable(0.05)
        site.go_on()
        assert client.read_reply().text == f"{pid} q"
        assert client.at_eof()
    wait_dead(pid)
    site.script.signal(signal.SIGTERM)
    site.stopped()


@both
def test_in_the_middle_of_a_reply(pool: Any, threads: int) -> None:
    site = pool(threads=threads)
    with fcgi.Client(site.path) as client:
        client.send(fcgi.request_bytes(path="/parts"))
        os.kill(site.busy(), signal.SIGTERM)
        site.go_on()
        reply = client.read_reply()
        assert (reply.body, reply.ended) == (b"one two", True)
    site.script.signal(signal.SIGTERM)
    site.stopped()


@both
@pytest.mark.parametrize("size", [0, 1, 60])
def test_between_connection_and_first_byte(pool: Any, threads: int, size: int) -> None:
    """Accepted, and then told to leave before the request has come: it is answered all the same."""
    site = pool(threads=threads)
    pid = site.worker()
    with fcgi.Client(site.path) as client:
        wait_asleep(pid)
        stream = fcgi.request_bytes(path="/")
        client.send(stream[:size])
        _accepted(site)
        os.kill(pid, signal.SIGTERM)
        assert not client.readable(0.1)
        client.send(stream[size:])
        reply = client.read_reply()
        assert reply.ended
        assert reply.text.split()[0] == str(pid)
    wait_dead(pid)
    site.script.signal(signal.SIGTERM)
    site.stopped()


def _accepted(site: Pool) -> None:
    """Wait until the worker holds the connection. Another client, served behind it, proves that."""
    assert fcgi.fetch(site.path).ended


@both
def test_silent_connection_is_not_waited_for_long(pool: Any, threads: int) -> None:
    """One that was accepted and never speaks gets its few seconds (drain_timeout), not the whole head_timeout."""
    site = pool(threads=threads, drain=0.5)
    with fcgi.Client(site.path) as client:
        _accepted(site)
        site.script.signal(signal.SIGTERM)
        began = time.monotonic()
        assert client.at_eof()
        assert time.monotonic() - began < PROMPT
        site.stopped()


@both
def test_kept_idle_connections_are_closed_at_once(pool: Any, threads: int) -> None:
    site = pool(2, threads=threads)
    with ExitStack() as stack:
        kept = [stack.enter_context(fcgi.Client(site.path)) for _ in range(20)]
        for client in kept:
            assert client.request(keep=True).ended
        site.script.signal(signal.SIGTERM)
        for client in kept:
            assert client.at_eof()
        site.stopped()


def test_kept_connection_that_has_just_spoken(pool: Any) -> None:
    """The next request is in the socket when the worker is told to leave: seen by the last look, and answered."""
    for _ in range(5):
        site = pool()
        pid = site.worker()
        with fcgi.Client(site.path) as client:
            assert client.request(keep=True).ended
            wait_settled(pid)
            with standing_still(pid):
                client.send(fcgi.request_bytes(keep=True))
                os.kill(pid, signal.SIGTERM)
            assert client.read_reply().text.split()[0] == str(pid)
            assert client.at_eof()
        site.script.signal(signal.SIGTERM)
        site.stopped()


def test_kept_connection_that_has_half_spoken(pool: Any) -> None:
    site = pool()
    pid = site.worker()
    stream = fcgi.request_bytes(keep=True)
    with fcgi.Client(site.path) as client:
        assert client.request(keep=True).ended
        wait_settled(pid)
        with standing_still(pid):
            client.send(stream[:30])
            os.kill(pid, signal.SIGTERM)
        assert not client.readable(0.1)
        client.send(stream[30:])
        assert client.read_reply().text.split()[0] == str(pid)
        assert client.at_eof()
    site.script.signal(signal.SIGTERM)
    site.stopped()


def test_pipelined_requests_are_all_answered(pool: Any) -> None:
    """What has begun to speak is answered in full, also the requests behind the one in hand."""
    site = pool()
    with fcgi.Client(site.path) as client:
        client.send(fcgi.request_bytes(path="/wait", id=1, keep=True))
        pid = site.busy()
        client.send(b"".join(fcgi.request_bytes(path=f"/?{id}", id=id, keep=True) for id in range(2, 10)))
        os.kill(pid, signal.SIGTERM)
        site.go_on()
        assert client.read_reply(1).ended
        for id in range(2, 10):
            assert client.read_reply(id).text == f"{pid} {id}"
        assert client.at_eof()
    site.script.signal(signal.SIGTERM)
    site.stopped()


@both
def test_with_a_body_still_being_sent(pool: Any, threads: int) -> None:
    site = pool(threads=threads)
    body = os.urandom(1 << 20)
    stream = fcgi.request_bytes(body=body, path="/read")
    with fcgi.Client(site.path) as client:
        client.send(stream[: len(stream) // 2])
        pid = site.busy()
        os.kill(pid, signal.SIGTERM)
        for at in range(len(stream) // 2, len(stream), 100_000):
            client.send(stream[at : at + 100_000])
            assert at + 100_000 >= len(stream) or not client.readable(0.01)
        assert client.read_reply().text == f"{len(body)} {hashlib.sha1(body).hexdigest()}"
    wait_dead(pid)
    site.script.signal(signal.SIGTERM)
    site.stopped()


@both
def test_with_a_reply_still_being_read(pool: Any, threads: int) -> None:
    site = pool(threads=threads)
    with fcgi.Client(site.path) as client:
        client.send(fcgi.request_bytes(path="/big?5000000"))
        assert client.readable(60)
        site.script.signal(signal.SIGTERM)
        site.script.wait_log("received signal TERM")
        assert client.read_reply().body == b"x" * 5_000_000
    site.stopped()


@both
def test_connections_in_the_backlog_are_left_to_others(pool: Any, threads: int) -> None:
    """A worker told to leave takes no more: what waits is served by its replacement."""
    site = pool(threads=threads)
    pid = site.worker()
    wait_settled(pid)
    with ExitStack() as stack:
        with standing_still(pid):
            clients = [stack.enter_context(fcgi.Client(site.path)) for _ in range(10)]
            for client in clients:
                client.send(fcgi.request_bytes())
            os.kill(pid, signal.SIGTERM)
        served = {client.read_reply().text.split()[0] for client in clients}
    assert len(served) <= 2
    site.script.signal(signal.SIGTERM)
    site.stopped()


def test_term_repeated_in_a_request(pool: Any) -> None:
    site = pool()
    with fcgi.Client(site.path) as client:
        client.send(fcgi.request_bytes(path="/wait"))
        pid = site.busy()
        for _ in range(50):
            os.kill(pid, signal.SIGTERM)
        site.go_on()
        assert client.read_reply().ended
    wait_dead(pid)
    site.script.signal(signal.SIGTERM)
    site.stopped()


@both
def test_manager_killed_in_a_request(pool: Any, threads: int, sock_path: str) -> None:
    """The worker answers, then leaves by itself; an idle one leaves at once."""
    site = pool(2, threads=threads)
    workers = site.script.workers()
    with fcgi.Client(site.path) as client:
        client.send(fcgi.request_bytes(path="/wait"))
        busy = site.busy()
        site.script.signal(signal.SIGKILL)
        assert site.script.wait() == -signal.SIGKILL
        (idle,) = set(workers) - {busy}
        wait_dead(idle)
        assert alive(busy)
        site.go_on()
        assert client.read_reply().ended
    site.script.tree_gone()
    os.unlink(sock_path)


def test_threads_finish_each_its_own(pool: Any) -> None:
    """Three requests in progress in one worker: a stop waits for all of them."""
    site = pool(threads=3)
    with ExitStack() as stack:
        clients, pids = [], set()
        for number in range(3):  # one thread may hold all that connect before one is in progress
            clients.append(stack.enter_context(fcgi.Client(site.path)))
            clients[-1].send(fcgi.request_bytes(path=f"/wait?{number}", keep=number == 1))
            pids.add(site.busy())
        assert len(pids) == 1
        site.script.signal(signal.SIGTERM)
        site.script.wait_log("received signal TERM")
        for left in range(3):
            assert sum(not client.readable(0.02) for client in clients) == 3 - left
            site.go_on()
            wait_until(lambda wanted=left + 1: sum(client.readable() for client in clients) == wanted)  # type: ignore[misc]
        for number, client in enumerate(clients):
            assert client.read_reply().text.split()[1] == str(number)
            assert client.at_eof()
        site.stopped()


# Under load


class Load:
    """Clients in threads, each with a new connection for each request (or one kept), counting what went wrong."""

    def __init__(self, path: str, threads: int = 4, keep: bool = False) -> None:
        self.path = path
        self.keep = keep
        self.done = 0
        self.failures: list[str] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(threads)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def more(self, count: int) -> None:
        wanted = self.done + count
        wait_until(lambda: self.done >= wanted or self.failures)

    def _run(self, number: int) -> None:
        count = 0
        while not self._over.is_set():
            count += 1
            try:
                reply = fcgi.fetch(self.path, f"/?{number}.{count}")
            except OSError as error:
                self.failures.append(repr(error))
                return
            if not reply.ended or reply.text.split()[1] != f"{number}.{count}":
                self.failures.append(repr(reply))
                return
            self.done += 1


@both
def test_reloads_under_load(pool: Any, threads: int) -> None:
    site = pool(2, threads=threads)
    with Load(site.path) as load:
        for _ in range(6):
            before = set(site.script.workers())
            load.more(30)
            site.script.signal(signal.SIGHUP)
            wait_until(lambda old=before: not old & set(site.script.workers()))  # type: ignore[misc]
        load.more(100)
    assert not load.failures
    site.script.signal(signal.SIGTERM)
    site.stopped()


@both
def test_workers_told_to_leave_at_random_moments(pool: Any, threads: int) -> None:
    """Every reply is complete although somebody is always leaving."""
    site = pool(2, threads=threads)
    chance = random.Random(4)
    with Load(site.path) as load:
        for _ in range(40):
            time.sleep(chance.random() * 0.02)
            for pid in site.script.workers()[:1]:
                _term(pid)
        load.more(50)
    assert not load.failures
    site.script.signal(signal.SIGTERM)
    site.stopped()


def _term(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        pass


def test_kept_connections_under_reloads(pool: Any) -> None:
    """A reply once begun is whole. A connection closed before the first byte of a reply is what a web server tries again."""
    site = pool(2)
    failures: list[str] = []
    over = threading.Event()

    def keep_asking(number: int) -> None:
        count = 0
        while not over.is_set():
            with fcgi.Client(site.path) as client:
                for _ in range(50):
                    count += 1
                    try:
                        reply = client.request(f"/?{number}.{count}", keep=True)
                    except (BrokenPipeError, ConnectionResetError):
                        break
                    if not reply.ended and not reply.stdout:
                        break
                    if not reply.ended or reply.text.split()[1] != f"{number}.{count}":
                        failures.append(repr(reply))

    threads = [threading.Thread(target=keep_asking, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        before = set(site.script.workers())
        site.script.signal(signal.SIGHUP)
        wait_until(lambda old=before: not old & set(site.script.workers()))  # type: ignore[misc]
    over.set()
    for thread in threads:
        thread.join()
    assert not failures
    site.script.signal(signal.SIGTERM)
    site.stopped()


def test_stop_under_load_loses_nothing_that_was_accepted(pool: Any, sock_path: str) -> None:
    """At the end of everything a client gets a whole reply or was never accepted; nothing in between."""
    site = pool(2)
    odd: list[str] = []

    def ask() -> None:
        while True:
            try:
                reply = fcgi.fetch(sock_path, "/?x")
            except (FileNotFoundError, ConnectionRefusedError, ConnectionResetError, BrokenPipeError):
                return
            if not reply.ended:
                if reply.stdout:
                    odd.append(repr(reply))
                return

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    site.script.signal(signal.SIGTERM)
    site.stopped()
    for thread in threads:
        thread.join()
    assert not odd


def test_slow_start_of_a_request_among_many_stops(pool: Any) -> None:
    """Connections that speak late, while their workers are told to leave one after the other: each is answered."""
    site = pool(2)
    for delay in (0, 0.001, 0.005, 0.02):
        for _ in range(5):
            with fcgi.Client(site.path) as client:
                for pid in site.script.workers()[:1]:
                    _term(pid)
                time.sleep(delay)
                client.send(fcgi.request_bytes())
                assert client.read_reply().ended
    site.script.signal(signal.SIGTERM)
    site.stopped()


def test_nothing_is_inherited_by_the_replacement(pool: Any) -> None:
    """A held connection belongs to one worker: when that one dies, its peer hears it at once."""
    site = pool(2)
    with fcgi.Client(site.path) as client:
        pid = int(client.request(keep=True).text.split()[0])
        os.kill(pid, signal.SIGKILL)
        assert client.at_eof()
    site.script.wait_workers(2)
    site.script.signal(signal.SIGTERM)
    assert site.script.wait() == 0


def test_socket_of_the_pool_is_gone_after_the_stop(pool: Any, sock_path: str) -> None:
    site = pool(2)
    site.script.signal(signal.SIGTERM)
    site.stopped()
    with socket.socket(socket.AF_UNIX) as sock:
        assert sock.connect_ex(sock_path) != 0
    assert not os.path.exists(sock_path)
