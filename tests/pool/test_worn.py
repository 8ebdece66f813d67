"""Limits of workers: each is shortened by chance, so that those who were forked together are not worn together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fcgi_procmanager.pool.worn import Worn, lifetime, shortened


@given(limit=st.integers(1, 10**9))
def test_a_shortened_number_is_near_the_limit_and_never_above_it(limit: int) -> None:
    assert max(1, int(0.9 * limit)) <= shortened(limit) <= limit


@given(seconds=st.floats(0.001, 1e9))
def test_a_shortened_time_is_near_the_limit_and_never_above_it(seconds: float) -> None:
    assert 0.899 * seconds <= lifetime(seconds) <= seconds


def test_those_who_were_forked_together_are_not_worn_together() -> None:
    assert len({shortened(10_000) for _ in range(20)}) > 5
    assert len({lifetime(3600) for _ in range(20)}) > 5


@given(limit=st.integers(1, 500))
def test_the_replacement_is_asked_for_before_the_end_and_once(limit: int) -> None:
    worn = Worn(requests=limit)
    asked = next(number for number in range(1, limit + 1) if worn.wears(number))
    worn.asked = True
    last = next(number for number in range(1, limit + 1) if worn.leaves(number))
    assert asked <= last <= limit
    assert not worn.wears(last)


def test_without_limits_nobody_is_worn() -> None:
    worn = Worn()
    assert not any(worn.wears(number) or worn.leaves(number) for number in (0, 1, 10**9))
