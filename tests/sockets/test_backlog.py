"""How many connections wait in a listen queue, as the kernel tells."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fcgi_procmanager.sockets import backlog
from fcgi_procmanager.sockets.backlog import Backlog, Backlogs

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="known on Linux only")


@pytest.fixture
def backlogs() -> Iterator[Backlogs]:
    found = Backlogs()
    yield found
    found.close()


@pytest.fixture(params=["unix", "tcp", "tcp6"])
def listener(request: pytest.FixtureRequest, sock_path: str) -> Iterator[socket.socket]:
    family = {"unix": socket.AF_UNIX, "tcp": socket.AF_INET, "tcp6": socket.AF_INET6}[request.param]
    address = {"unix": sock_path, "tcp": ("127.0.0.1", 0), "tcp6": ("::1", 0)}[request.param]
    with socket.socket(family) as listening:
        try:
            listening.bind(address)
        except OSError as error:
            pytest.skip(f"{request.param}: {error}")
        listening.listen(10)
        yield listening
    if request.param == "unix":
        os.unlink(sock_path)


def connected(stack: ExitStack, listener: socket.socket) -> socket.socket:
    client = stack.enter_context(socket.socket(listener.family))
    client.settimeout(10)
    client.connect(listener.getsockname())
    return client


@linux
def test_those_who_wait_are_counted(listener: socket.socket, backlogs: Backlogs) -> None:
    assert backlogs.of(listener) == Backlog(0, 10, True)
    with ExitStack() as stack:
        for number in range(1, 6):
            connected(stack, listener)
            assert backlogs.of(listener) == Backlog(number, 10, True)
        stack.enter_context(listener.accept()[0])
        assert backlogs.of(listener).waiting == 4


@linux
def test_among_many_sockets_it_is_ours(sock_path: str, backlogs: Backlogs) -> None:
    with ExitStack() as stack:
        others = []
        for number in range(200):
            one = stack.enter_context(socket.socket(socket.AF_UNIX))
            one.bind(f"{sock_path}{number}")
            one.listen(number + 1)
            others.append(one)
        for number, one in enumerate(others):
            assert backlogs.of(one) == Backlog(0, number + 1, True)
        for number in range(200):
            os.unlink(f"{sock_path}{number}")


@linux
def test_the_total_of_several(listener: socket.socket, backlogs: Backlogs) -> None:
    with ExitStack() as stack, socket.socket(socket.AF_INET) as other:
        other.bind(("127.0.0.1", 0))
        other.listen(5)
        connected(stack, listener)
        connected(stack, other)
        assert backlogs.total([listener, other]) == Backlog(2, 15, True)
    assert backlogs.total([]) == Backlog(0, 0, True)


def test_where_the_kernel_does_not_tell_it_is_seen_whether_anybody_waits(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "_NETLINK_SOCK_DIAG", 31)  # no such protocol: the system refuses it
    monkeypatch.setattr(backlog, "_TCP_INFO", -1)
    backlogs = Backlogs()
    assert backlogs.of(listener) == Backlog(0, 0, False)
    with ExitStack() as stack:
        connected(stack, listener)
        connected(stack, listener)
        assert backlogs.of(listener) == Backlog(1, 0, False)
    backlogs.close()


def test_one_that_is_closed_says_what_it_can(listener: socket.socket, backlogs: Backlogs) -> None:
    backlogs.close()
    backlogs.close()
    assert backlogs.of(listener).waiting == 0


@linux
@pytest.mark.parametrize(
    "answer",
    [b"", b"\0" * 15, b"\0" * 32, b"\xff" * 64, b"\0" * 36 + b"\0\0\x04", b"\0" * 36 + b"\0\0\x05\0\0\0\0\0"],
)
def test_an_answer_that_makes_no_sense_is_no_answer(answer: bytes, sock_path: str) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs, socket.socket(socket.AF_UNIX) as listening:
        listening.bind(sock_path)
        listening.listen(3)
        backlogs = Backlogs()
        backlogs.close()
        ours.settimeout(0.05)
        backlogs._socket = ours
        theirs.send(answer or b"\0")
        assert backlogs.of(listening) == Backlog(0, 0, False)
        backlogs._socket = None
    Path(sock_path).unlink()
