"""Deadlines as poll(2) takes them."""

from __future__ import annotations

import select

import pytest

from fcgi_procmanager.basics.clock import FOREVER, milliseconds


@pytest.mark.parametrize(
    ("deadline", "expected"), [(FOREVER, None), (10.0, 0), (9.0, 0), (10.0001, 1), (11.0, 1000), (10.0015, 2)]
)
def test_a_deadline_in_milliseconds(deadline: float, expected: int | None) -> None:
    assert milliseconds(deadline, 10.0) == expected


@pytest.mark.parametrize("seconds", [3e6, 1e10, 1e300])
def test_the_longest_wait_is_one_that_the_system_takes(seconds: float) -> None:
    found = milliseconds(seconds, 0.0)
    assert found is not None
    poller = select.poll()
    with open("/dev/null", "rb") as read:  # always readable
        poller.register(read, select.POLLIN)
        assert poller.poll(found)
