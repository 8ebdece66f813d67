"""Numbers as people read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcgi_procmanager.status import wording
from status.pools import PATIENT


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0ms"),
        (0, "0ms"),
        (0.0004, "0ms"),
        (0.35, "350ms"),
        (0.9994, "999ms"),
        (0.9996, "1.0s"),
        (9.94, "9.9s"),
        (9.96, "10s"),
        (59.6, "1m00s"),
        (185, "3m05s"),
        (3599.6, "1h00m"),
        (7620, "2h07m"),
        (86399.7, "1d00h"),
        (4 * 86400 + 3 * 3600, "4d03h"),
        (120 * 86400, "120d"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert wording.duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "-"),
        (-1, "0B"),
        (0, "0B"),
        (1023, "1023B"),
        (1024, "1.0K"),
        (1.5 * 2**20, "1.5M"),
        (200 * 2**20, "200M"),
        (999.6 * 2**20, "1.0G"),
        (2**40, "1.0T"),
    ],
)
def test_size(count: float, text: str) -> None:
    assert wording.size(count) == text


@PATIENT
@given(st.floats(0, 8e7), st.integers(0, 2**60))
def test_they_are_never_wide(seconds: float, count: int) -> None:
    assert len(wording.duration(seconds)) <= 6
    assert len(wording.size(count)) <= 5


def test_limits_have_their_units() -> None:
    assert wording.limit("max_memory", 200 * 2**20) == "200M"
    assert wording.limit("slow_after", 2.5) == "2.5s"
    assert wording.limit("max_age", 3600) == "1h00m"
    assert wording.limit("max_requests", 10_000) == "10,000"
    assert wording.limit("max_requests", None) == "none"
    assert wording.limit("what another release has", 3) == "3"


def test_counts() -> None:
    assert [wording.plural(count, "worker") for count in (0, 1, 1234)] == ["0 workers", "1 worker", "1,234 workers"]
    assert [wording.percent(value) for value in (None, -1.0, 42.5, 399.6)] == ["-", "0%", "42%", "400%"]
