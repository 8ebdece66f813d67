"""Large bodies, which go past the parser into the application's own buffer: whole, whatever lies between the pieces."""

from __future__ import annotations

import os
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fcgi_procmanager.fastcgi.connection import Connection, Limits, PeerGone
from fcgi_procmanager.fastcgi.protocol import DATA, FILTER, STDIN
from fcgi_procmanager.fastcgi.request import Request
from harness import fcgi

TARGET = 65536


@contextmanager
def connected(receive_timeout: float = 60) -> Iterator[tuple[Connection, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Connection(ours, Limits((1, 2, 3), {}, receive_timeout, 60)), theirs


def opened(connection: Connection) -> Request:
    while not connection.poll():
        assert not connection.dead
        connection.first_words(30)
    return Request(connection, lambda connection, keep: None)


def records(content: bytes, chance: random.Random, kind: int = STDIN) -> list[bytes]:
    """A stream in records of any size, with what a peer may put between them."""
    found, position, size = [], 0, 1
    while position < len(content):
        # As long as the one before, or not.
        size = chance.choice([size, size, size, 1, 100, 8192, 32768, 65535, chance.randrange(1, 65536)])
        padding = chance.choice([0, 0, 0, 1, 8, 255])
        found.append(fcgi.record(kind, 1, content[position : position + size], padding))
        position += size
        if chance.randrange(6) == 0:
            between = [fcgi.record(STDIN, 9, b"another's"), fcgi.get_values(), fcgi.begin(3), fcgi.record(77, 0, b"?")]
            late = [fcgi.record(STDIN, 1, b"of a body that has ended")] if kind == DATA else []
            found.append(chance.choice(between + late * 4))
    return [*found, fcgi.record(kind, 1)]


def sent(peer: socket.socket, pieces: list[bytes], chance: random.Random) -> threading.Thread:
    """As a web server sends: some pieces at once, some cut in two."""

    def send() -> None:
        stream = b"".join(pieces)
        while stream:
            size = chance.choice([1, 7, 4096, 32776, 65536, 200_000])
            peer.sendall(stream[:size])
            stream = stream[size:]

    thread = threading.Thread(target=send)
    thread.start()
    return thread


@pytest.mark.parametrize("seed", range(40))
def test_a_body_in_records_of_any_kind(seed: int) -> None:
    chance = random.Random(seed)
    body = chance.randbytes(chance.choice([70_000, 300_000, 1_000_000]))
    with connected() as (connection, peer):
        head = fcgi.begin() + fcgi.params_records({"A": "1"})
        thread = sent(peer, [head, *records(body, chance)], chance)
        request = opened(connection)
        found = bytearray()
        while chunk := request.stdin.read(chance.choice([TARGET, 100_000, 3])):
            found += chunk
        thread.join(30)
        assert found == body
        assert connection.input_ended
        assert not connection.dead


@pytest.mark.parametrize("seed", range(20))
def test_a_body_that_looks_like_headers(seed: int) -> None:
    """What a client sends is never taken for a header, wherever a record ends."""
    chance = random.Random(seed)
    body = struct.pack("!BBHHBx", 1, STDIN, 1, 8192, 0) * 40_000
    cuts = [chance.choice([8192, 16384, 32768, 32776, 65528]) for _ in range(60)]
    stream = [
        fcgi.record(STDIN, 1, body[sum(cuts[:n]) : sum(cuts[: n + 1])]) for n in range(60) if sum(cuts[:n]) < len(body)
    ]
    with connected() as (connection, peer):
        head = fcgi.begin() + fcgi.params_records({"A": "1"})
        thread = sent(peer, [head, *stream, fcgi.record(STDIN, 1)], chance)
        request = opened(connection)
        assert b"".join(iter(lambda: request.stdin.read(TARGET), b"")) == body
        thread.join(30)


@pytest.mark.parametrize("seed", range(5))
def test_the_file_of_a_filter_behind_its_body(seed: int) -> None:
    chance = random.Random(seed)
    body, file = chance.randbytes(200_000), chance.randbytes(1_000_000)
    with connected() as (connection, peer):
        head = fcgi.begin(role=FILTER) + fcgi.params_records({"A": "1"})
        thread = sent(peer, [head, *records(body, chance), *records(file, chance, DATA)], chance)
        request = opened(connection)
        assert request.stdin.read() == body
        assert b"".join(iter(lambda: request.data.read(TARGET), b"")) == file
        thread.join(30)


@pytest.mark.parametrize("come", [0, 1000, 70_000])
def test_a_peer_that_is_silent_in_the_middle(come: int) -> None:
    with connected(receive_timeout=0.3) as (connection, peer):
        record = fcgi.record(STDIN, 1, b"x" * 60_000)
        peer.sendall(fcgi.begin() + fcgi.params_records({"A": "1"}) + (record + record)[: 8 + come])
        request = opened(connection)
        began = time.monotonic()
        with pytest.raises(PeerGone, match="the peer sent nothing for"):
            request.stdin.read(TARGET * 4)
        assert time.monotonic() - began > 0.25
        assert connection.dead


def test_the_time_is_for_each_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for the whole body: of two pieces each comes in time, and both together take longer."""
    now, late = time.monotonic(), [fcgi.record(STDIN, 1, b"x" * 100), fcgi.record(STDIN, 1)]

    def wait(sock: socket.socket, event: int, deadline: float) -> bool:
        nonlocal now
        now += 40
        peer.sendall(late.pop(0))
        return now < deadline

    monkeypatch.setattr("fcgi_procmanager.fastcgi.connection.monotonic", lambda: now)
    with connected(receive_timeout=60) as (connection, peer):
        peer.sendall(fcgi.begin() + fcgi.params_records({"A": "1"}))
        request = opened(connection)
        monkeypatch.setattr("fcgi_procmanager.fastcgi.connection._wait", wait)
        assert request.stdin.read() == b"x" * 100


def test_an_abort_is_told_before_what_has_come() -> None:
    """Nobody waits for a reply any more, so the rest of the body is of no use."""
    with connected() as (connection, peer):
        stream = fcgi.begin() + fcgi.params_records({"A": "1"}) + fcgi.record(STDIN, 1, b"x" * 100) + fcgi.abort()
        peer.sendall(stream)
        request = opened(connection)
        with pytest.raises(PeerGone, match="withdrawn"):
            request.stdin.read1(TARGET)  # type: ignore[attr-defined]


def test_a_peer_that_closes_in_the_middle() -> None:
    with connected() as (connection, peer):
        peer.sendall(fcgi.begin() + fcgi.params_records({"A": "1"}) + fcgi.record(STDIN, 1, b"x" * 60_000)[:50_000])
        peer.shutdown(socket.SHUT_WR)
        request = opened(connection)
        with pytest.raises(PeerGone, match="closed by the peer"):
            request.stdin.read(TARGET * 4)


def test_a_file_that_is_sent_between_two_bodies_of_one_connection(tmp_path: Path) -> None:
    """Sending it makes the socket one that never waits; the next body waits again."""
    content = random.Random(1).randbytes(200_000)
    (tmp_path / "file").write_bytes(content)

    def play_the_web_server(peer: socket.socket) -> None:
        for _ in range(3):
            record = fcgi.record(STDIN, 1, b"x" * 60_000)
            peer.sendall(fcgi.begin(flags=fcgi.KEEP_CONN) + fcgi.params_records({"A": "1"}) + record[:10_000])
            time.sleep(0.05)  # so that there is something to wait for
            peer.sendall(record[10_000:] + fcgi.record(STDIN, 1))
            received = b""
            while not received.endswith(fcgi.record(fcgi.END_REQUEST, 1, bytes(8))):
                received += peer.recv(1 << 20)
            replies.append(received)

    replies: list[bytes] = []
    with connected() as (connection, peer), (tmp_path / "file").open("rb") as file:
        thread = threading.Thread(target=play_the_web_server, args=[peer])
        thread.start()
        for _ in range(3):
            request = opened(connection)
            assert request.stdin.read(TARGET) == b"x" * 60_000
            request.stdout.send_file(file.fileno(), 0, len(content))
            request.finish()
            assert not connection.next_request()
        thread.join(30)
        assert not connection.dead
    assert [len(reply) > len(content) for reply in replies] == [True] * 3


PROGRAM = """
    import socket, sys
    from fcgi_procmanager import ProcManager, WSGIServer

    def application(environ, start_response):
        socket.setdefaulttimeout(600)  # for what it asks of others
        start_response("200 OK", [])
        return [environ["wsgi.input"].read()[:5]]

    WSGIServer(application, manager=ProcManager(n_processes=1), bindAddress=sys.argv[1]).run()
"""


def test_a_default_timeout_of_the_application_is_not_for_its_worker(run_script: Any, sock_path: str) -> None:
    """A receive that is not to wait would wait so long for a connection that says nothing."""
    script = run_script(PROGRAM, args=[sock_path])
    script.wait_ready()
    assert fcgi.fetch(sock_path).ended
    with fcgi.Client(sock_path):
        for _ in range(3):
            assert fcgi.fetch(sock_path, body=os.urandom(5) * 40_000).ended
    assert script.stop() == 0
