"""How much time is left of a stop, and who insists."""

from __future__ import annotations

import pytest

from fcgi_procmanager.children.stop import Stop


@pytest.mark.parametrize(("name", "after", "insists"), [("TERM", 0.9, False), ("TERM", 1.0, True), ("INT", 5, True)])
def test_the_same_request_twice_is_one_within_a_second(name: str, after: float, insists: bool) -> None:
    assert Stop(10.0).insists(name, 10.0 + after) is insists


def test_quit_insists_at_once_and_nothing_else_does() -> None:
    stop = Stop(10.0)
    assert stop.insists("QUIT", 10.0)
    assert not any(stop.insists(name, 99.0) for name in ("HUP", "USR1", "CHLD", "TTIN"))


@pytest.mark.parametrize(
    ("whole", "now", "left"), [(0, 500, 0), (60, 10, 60), (60, 30, 40), (60, 200, 1.0), (0.5, 200, 0.5)]
)
def test_one_limit_is_for_the_whole_stop_and_leaves_a_second(whole: float, now: float, left: float) -> None:
    assert Stop(10.0).time_left(whole, now) == left


def test_who_was_asked_before_it_began_can_be_insisted_upon_at_once() -> None:
    assert Stop(10.0, asked_at=5.0).insists("TERM", 10.0)
    assert Stop(10.0, asked_at=5.0).time_left(60, 12.0) == 58
