"""Clients that keep their connections, say nothing, or have closed their half, in every kind of pool: they pin no worker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Callable

import pytest

from harness.fcgi import Client, begin, request_bytes
from harness.pools import Pool, Steady
from harness.process import Script

Run = Callable[..., Script]

KINDS = pytest.mark.parametrize("kind", ["static", "dynamic", "ondemand", "per-request"])
WORKERS = 3
MANY = 4 * WORKERS


@pytest.fixture
def pool(run_script: Run, sock_path: str) -> Pool:
    return Pool(run_script, sock_path)


@pytest.fixture
def clients(sock_path: str) -> Iterator[Callable[[], list[Client]]]:
    """Many connections; closed at the end of the test."""
    with ExitStack() as stack:
        yield lambda: [stack.enter_context(Client(sock_path)) for _ in range(MANY)]


# A client who is to speak later has his time, however late that is.
PATIENT = "from functools import partial\nWSGIServer = partial(WSGIServer, head_timeout=100)\n"


def serves(pool: Pool) -> None:
    """All the while, and several at once."""
    with Steady(pool, 2) as load:
        load.wait(30)
    assert load.failures == []


@KINDS
def test_connections_that_are_kept_after_a_request(pool: Pool, clients: Callable[[], list[Client]], kind: str) -> None:
    script = pool.start(f"{WORKERS}, pool={kind!r}", 1)
    for client in clients():
        assert client.request(keep=True).ended
    serves(pool)
    assert len(script.workers()) <= WORKERS
    assert script.stop() == 0


@KINDS
def test_connections_that_say_nothing(pool: Pool, clients: Callable[[], list[Client]], kind: str) -> None:
    script = pool.start(f"{WORKERS}, pool={kind!r}", 1, PATIENT)
    silent = clients()
    serves(pool)
    assert len(script.workers()) <= WORKERS
    if kind != "per-request":  # there it has had its time as soon as its worker has served another one
        assert silent[-1].request().ended
    for client in silent:
        client.close()
    assert script.stop() == 0


@KINDS
def test_connections_that_say_half_a_request(pool: Pool, clients: Callable[[], list[Client]], kind: str) -> None:
    script = pool.start(f"{WORKERS}, pool={kind!r}", 1, PATIENT)
    many = clients()
    slow = many[:2]
    for client in many[2:]:
        client.close()
    for client in slow:
        client.send(begin())
    serves(pool)
    if kind != "per-request":
        for client in slow:
            client.send(request_bytes()[len(begin()) :])
            assert client.read_reply().ended
    assert script.stop() == 0


@KINDS
def test_clients_that_close_their_half_after_the_request(
    pool: Pool, clients: Callable[[], list[Client]], kind: str
) -> None:
    """They have their reply, and may stay as they are as long as they like."""
    script = pool.start(f"{WORKERS}, pool={kind!r}", 1)
    for client in clients():
        client.send(request_bytes(keep=True))
        client.shut_write()
        assert client.read_reply().ended
    serves(pool)
    assert script.stop() == 0


@KINDS
def test_clients_that_close_their_half_after_the_answer(
    pool: Pool, clients: Callable[[], list[Client]], kind: str
) -> None:
    """The connection was kept: now it is over, and the worker closes it."""
    script = pool.start(f"{WORKERS}, pool={kind!r}", 1)
    for client in clients():
        assert client.request(keep=True).ended
        client.shut_write()
        assert client.at_eof()
    serves(pool)
    assert script.stop() == 0


@KINDS
def test_clients_that_close_their_half_and_have_said_nothing(
    pool: Pool, clients: Callable[[], list[Client]], kind: str
) -> None:
    script = pool.start(f"{WORKERS}, pool={kind!r}", 1)
    for client in clients():
        client.shut_write()
        assert client.at_eof()
    serves(pool)
    assert script.stop() == 0
