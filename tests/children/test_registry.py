"""The registry of workers, without a process."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fcgi_procmanager.basics.clock import FOREVER
from fcgi_procmanager.basics.states import IllegalEvent, WorkerEvent, WorkerState
from fcgi_procmanager.children.ladder import Ladder
from fcgi_procmanager.children.registry import Children


def test_a_worker_is_forked_ready_asked_to_leave_and_gone() -> None:
    children = Children()
    child = children.add(7, now=1.0)
    assert (child.pid, child.spawned_at, child.ready_at, child.state) == (7, 1.0, FOREVER, WorkerState.SPAWNED)
    assert children.became_ready(7, 2.0)
    assert (child.ready_at, child.state, children.ready) == (2.0, WorkerState.READY, 1)
    children.retire(child, Ladder(3.0, 5))
    assert (child.state, children.ready, children.leaving, children.staying) == (
        WorkerState.RETIRING,
        0,
        {7: child},
        {},
    )
    assert children.remove(7) is child
    assert (len(children), children.get(7), children.remove(7)) == (0, None, None)


def test_oldest_first_and_those_who_leave_last() -> None:
    children = Children()
    for pid in (5, 3, 9):
        children.add(pid, 0)
    children.retire(children.staying[3], Ladder(0, 5))
    assert children.pids == [5, 9, 3]
    assert list(children.staying) == [5, 9]


def test_a_report_of_a_worker_that_is_gone_is_nothing() -> None:
    assert not Children().became_ready(7, 1.0)


def test_a_worker_asked_to_leave_may_still_report() -> None:
    children = Children()
    child = children.add(7, 0)
    children.retire(child, Ladder(1, 5))
    assert children.became_ready(7, 2.0)
    assert (child.state, child.ready_at, children.ready) == (WorkerState.RETIRING, 2.0, 0)


def test_asked_twice_the_nearer_deadline_holds_and_the_last_signal() -> None:
    children = Children()
    child = children.add(7, 0)
    for ladder, deadline in ((Ladder(0, 60), 60), (Ladder(1, 5), 6), (Ladder(0, 60), 6), (Ladder(0, None, "USR1"), 6)):
        children.retire(child, ladder)
        assert child.ladder is ladder
        assert ladder.deadline == deadline
    assert len(children) == 1


def test_ready_twice_is_a_defect() -> None:
    children = Children()
    children.add(7, 0)
    children.became_ready(7, 1)
    with pytest.raises(IllegalEvent):
        children.became_ready(7, 2)
    assert children.ready == 1


def test_a_worker_forgets_its_copy() -> None:
    children = Children()
    children.became_ready(children.add(7, 0).pid, 1)
    children.retire(children.add(8, 0), Ladder(0, 1))
    children.clear()
    assert (len(children), children.pids, children.ready) == (0, [], 0)


class Registry(RuleBasedStateMachine):
    """Any order of events: a worker is in one drawer, and `ready` counts what it says."""

    def __init__(self) -> None:
        super().__init__()
        self.children = Children()
        self.now = 0.0
        self.next_pid = 100

    @rule()
    def fork(self) -> None:
        self.next_pid += 1
        self.children.add(self.next_pid, self.now)

    @rule(number=st.integers(0, 5))
    def report(self, number: int) -> None:
        child = self.some(number)
        if child is not None and child.state is not WorkerState.READY:
            assert self.children.became_ready(child.pid, self.now)

    @rule(number=st.integers(0, 5), timeout=st.none() | st.floats(0, 10))
    def retire(self, number: int, timeout: float | None) -> None:
        child = self.some(number)
        if child is not None:
            before = child.ladder.deadline if child.ladder else FOREVER
            self.children.retire(child, Ladder(self.now, timeout))
            assert child.ladder is not None
            assert child.ladder.deadline <= before

    @rule(number=st.integers(0, 5))
    def kill(self, number: int) -> None:
        child = self.some(number)
        if child is not None and child.ladder is not None:
            child.on(WorkerEvent.KILL)

    @rule(number=st.integers(0, 5))
    def reap(self, number: int) -> None:
        child = self.some(number)
        if child is not None:
            assert self.children.remove(child.pid) is child

    @rule(seconds=st.floats(0, 5))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def one_drawer_each(self) -> None:
        staying, leaving = self.children.staying, self.children.leaving
        assert not staying.keys() & leaving.keys()
        assert len(self.children) == len(self.children.pids) == len(staying) + len(leaving)
        assert all(child.ladder is None for child in staying.values())
        assert all(child.ladder is not None for child in leaving.values())
        assert self.children.ready == sum(child.state is WorkerState.READY for child in staying.values())

    def some(self, number: int):
        pids = self.children.pids
        return self.children.get(pids[number % len(pids)]) if pids else None


Registry.TestCase.settings = settings(deadline=None, max_examples=40, stateful_step_count=30)
test_any_order_of_events = Registry.TestCase
