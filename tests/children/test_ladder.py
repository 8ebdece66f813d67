"""The ladder of a stop, on a clock of its own."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fcgi_procmanager.basics.clock import FOREVER, milliseconds
from fcgi_procmanager.children.ladder import RESEND, Ladder


def climb(ladder: Ladder, until: float) -> list[tuple[float, str]]:
    """What is sent when, by somebody who always comes when the ladder says."""
    sent = []
    while ladder.next_at <= until:
        now = max(ladder.next_at, 0.0)
        due = ladder.due(now)
        assert due is not None
        sent.append((now, due))
    return sent


def test_term_each_second_then_kill() -> None:
    terms = [(float(second), "TERM") for second in range(3)]
    assert climb(Ladder(0, 2.5), 4) == [*terms, (2.5, "KILL"), (3.5, "KILL")]


@pytest.mark.parametrize("timeout", [0, None])
def test_without_a_limit_it_never_kills(timeout: float | None) -> None:
    assert {name for _, name in climb(Ladder(0, timeout), 1000)} == {"TERM"}


def test_nothing_is_due_twice() -> None:
    ladder = Ladder(10, 60)
    assert ladder.due(9.9) is None
    assert ladder.due(10) == "TERM"
    assert ladder.due(10) is None
    assert ladder.next_at == 10 + RESEND


def test_forced_it_kills_at_once() -> None:
    ladder = Ladder(0, None)
    ladder.due(0)
    ladder.force()
    assert ladder.due(0.1) == "KILL"
    assert ladder.due(0.1) is None
    assert ladder.due(0.1 + RESEND) == "KILL"


@settings(deadline=None)  # a loaded machine is no failure
@given(
    timeout=st.none() | st.floats(0, 100),
    looks=st.lists(st.floats(0, 30), max_size=50),
    forced=st.none() | st.integers(0, 49),
)
def test_it_only_goes_up_and_is_never_late(timeout: float | None, looks: list[float], forced: int | None) -> None:
    """Whenever somebody looks: TERM first unless forced, never TERM after KILL, KILL from the deadline on."""
    ladder, now, killed = Ladder(0, timeout), 0.0, False
    for turn, wait in enumerate(looks):
        now += wait
        if turn == forced:
            ladder.force()
        overdue, ask = now >= ladder.deadline, now >= ladder.next_at
        due = ladder.due(now)
        assert (due is not None) == ask
        if due is not None:
            assert due == ("KILL" if overdue else "TERM")
            assert not (killed and due == "TERM")
            killed = due == "KILL"
            assert now < ladder.next_at <= now + RESEND


@settings(deadline=None)  # a loaded machine is no failure
@given(deadline=st.floats(0, 1e6), now=st.floats(0, 1e6))
def test_a_wait_never_ends_before_its_deadline(deadline: float, now: float) -> None:
    wait = milliseconds(deadline, now)
    assert wait is not None
    assert wait >= 0
    assert wait / 1000 >= deadline - now - 1e-6
    assert wait <= max(0.0, (deadline - now) * 1000 + 1)


def test_for_ever_is_no_timeout() -> None:
    assert milliseconds(FOREVER, 5.0) is None
