"""A socket object for a descriptor that others hold as well: it stays as it was found."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from fcgi_procmanager.sockets.existing import existing


@pytest.fixture(params=[None, 0.0, 600.0])
def default(request: pytest.FixtureRequest) -> Iterator[object]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(request.param)
    yield request.param
    socket.setdefaulttimeout(before)


@pytest.mark.parametrize("blocking", [True, False])
def test_it_blocks_or_not_as_before(default: object, blocking: bool) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.setblocking(blocking)
        one = existing(other.fileno())
        assert os.get_blocking(other.fileno()) is blocking
        assert (one.detach(), socket.getdefaulttimeout()) == (other.fileno(), default)


def test_what_is_no_socket(default: object) -> None:
    read_end, write_end = os.pipe()
    for number in (read_end, -1, 1 << 70):
        with pytest.raises((OSError, ValueError, OverflowError)):
            existing(number)
    os.close(read_end)
    os.close(write_end)
    assert socket.getdefaulttimeout() == default
