"""How one generation follows another, without a process."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fcgi_procmanager.basics.clock import FOREVER
from fcgi_procmanager.superdaemon.succession import SETTLED, Due, State, Succession


def serving(now: float = 0.0) -> Succession:
    """The first generation is good."""
    succession = Succession()
    succession.ask(now)
    assert succession.due(now) is Due.START
    assert succession.started() == 1
    succession.accepted(now, 0)
    assert succession.due(now) is Due.HAND_OVER
    succession.handed_over(now)
    return succession


def test_nothing_is_due_until_somebody_asks() -> None:
    assert Succession().due(99.0) is None
    assert serving().due(99.0) is None


def test_a_request_while_one_is_in_progress_is_one_more_however_often_it_comes() -> None:
    succession = serving()
    for _ in range(3):
        succession.ask(1.0)
    assert succession.started() == 2
    for _ in range(3):
        succession.ask(1.5)
    assert succession.due(1.5) is None
    succession.accepted(2.0, 0)
    succession.ask(2.0)
    succession.handed_over(2.0)
    assert succession.due(2.0) is Due.START
    assert succession.started() == 3
    succession.accepted(3.0, 0)
    succession.handed_over(3.0)
    assert succession.due(99.0) is None


def test_a_start_that_comes_after_the_request_is_what_was_asked_for() -> None:
    succession = serving()
    succession.ask(1.0)
    succession.started()
    succession.ask(1.1)
    assert succession.failed(1.2) == 0  # and nobody who has asked waits for an old failure
    succession.started()
    succession.accepted(2.0, 0)
    succession.handed_over(2.0)
    assert succession.due(99.0) is None


def test_failures_in_a_row_wait_longer_each_time_and_a_request_ends_that() -> None:
    succession = serving()
    succession.ask(1.0)
    delays = []
    for _ in range(12):
        succession.started()
        delays.append(round(succession.failed(1.0), 3))
    assert delays == [0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30]
    assert succession.due(1.0) is None
    succession.ask(1.0)
    assert succession.due(1.0) is Due.START
    succession.started()
    assert succession.failed(1.0) == 0


def test_one_that_dies_soon_after_it_was_accepted_is_a_failure_in_the_row() -> None:
    succession = serving()
    delays = []
    for _ in range(4):
        delays.append(succession.died(1.0))
        succession.started()
        succession.accepted(1.0, 0)
        succession.handed_over(1.0)
    assert delays == [0, pytest.approx(0.1), pytest.approx(0.2), pytest.approx(0.4)]
    assert succession.died(1.0 + SETTLED) == 0
    assert succession.failures == 0


def test_old_ones_stay_for_the_delay_and_longer_when_the_new_one_dies_meanwhile() -> None:
    succession = serving()
    succession.ask(1.0)
    succession.started()
    succession.accepted(2.0, 5.0)
    assert succession.next_at == 7.0
    assert succession.due(6.9) is None
    assert succession.died(3.0) == 0
    assert succession.due(8.0) is Due.START


def test_one_that_dies_while_its_successor_is_tried_starts_no_other() -> None:
    succession = serving()
    succession.ask(1.0)
    succession.started()
    succession.died(1.1)
    assert succession.state is State.TRYING
    assert succession.due(99.0) is None


class Life(RuleBasedStateMachine):
    """Whatever happens in whatever order: a request is answered by a generation that was started after it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.succession = Succession()
        self.asked_after = 0  # the latest request came when this generation was the latest

    @rule()
    def ask(self) -> None:
        self.succession.ask(self.now)
        self.asked_after = self.succession.generation

    @rule(seconds=st.floats(0, 60))
    def time(self, seconds: float) -> None:
        self.now += seconds
        while (due := self.succession.due(self.now)) is not None:
            if due is Due.START:
                self.succession.started()
            else:
                self.succession.handed_over(self.now)

    @precondition(lambda self: self.succession.state is State.TRYING)
    @rule(delay=st.sampled_from([0.0, 5.0]))
    def good(self, delay: float) -> None:
        self.succession.accepted(self.now, delay)

    @precondition(lambda self: self.succession.state is State.TRYING)
    @rule()
    def bad(self) -> None:
        assert 0 <= self.succession.failed(self.now) <= 30

    @precondition(lambda self: self.succession.generation)
    @rule()
    def dies(self) -> None:
        assert 0 <= self.succession.died(self.now) <= 30.001

    @invariant()
    def nobody_is_forgotten(self) -> None:
        if self.succession.state is State.RESTING and self.succession.generation:
            assert self.succession.generation > self.asked_after

    @invariant()
    def something_will_happen(self) -> None:
        waits = self.succession.state in (State.WAITING, State.HANDING_OVER)
        assert waits == (self.succession.next_at < FOREVER)


Life.TestCase.settings = settings(deadline=None, max_examples=60, stateful_step_count=30)
TestLife = Life.TestCase
