"""Local time as text: what the C library writes, and how far it is from UTC."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from fcgi_procmanager.basics.localtime import written

AT = 1700000000.9


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[None]:
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("zone", "text"),
    [
        ("UTC0", "22:13 +0000"),
        ("XXX-5:30", "03:43 +0530"),
        ("XXX3:30", "18:43 -0330"),
        ("XXX-0:00:59", "22:14 +0000"),
        ("XXX0:00:59", "22:12 -0000"),
        ("XXX3YYY2,0/0,364/23", "20:13 -0200"),  # summer time all the year
    ],
    indirect=["zone"],
)
@pytest.mark.usefixtures("zone")
def test_the_distance_from_utc(text: str) -> None:
    assert written("%H:%M %z", AT) == text


@pytest.mark.parametrize("zone", ["XXX-5:30"], indirect=True)
@pytest.mark.usefixtures("zone")
def test_a_percent_sign_begins_nothing_behind_another() -> None:
    assert written("%%z %%%z %z%z%", AT) == "%z %+0530 +0530+0530%"
