"""The plain rollout, without a process: snapshots by hand, and pools that live through any order of events."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fcgi_procmanager.basics.clock import FOREVER
from fcgi_procmanager.children.ladder import Ladder
from fcgi_procmanager.children.registry import Child, Children
from fcgi_procmanager.children.rollout import Snapshot, Step, plain, rolling, snapshot


def staying(*generations: int) -> tuple[Child, ...]:
    """Workers of these generations, oldest first; their pids are 1, 2, 3..."""
    return tuple(Child(pid, 0.0, generation=generation) for pid, generation in enumerate(generations, 1))


def pids(step: Step) -> list[int]:
    return [child.pid for child in step.retire]


@pytest.mark.parametrize(
    ("wanted", "generation", "generations", "leaving", "start", "retired"),
    [
        (3, 0, (), 0, 3, []),
        (3, 0, (0, 0), 0, 1, []),
        (3, 0, (0, 0, 0), 0, 0, []),
        (3, 0, (), 3, 0, []),
        (3, 0, (0,), 1, 1, []),
        (3, 0, (0,), 2, 0, []),
        (3, 0, (0,), 5, 0, []),
        (2, 0, (0, 0, 0, 0), 0, 0, [1, 2]),
        (2, 0, (0, 0, 0), 7, 0, [1]),
        (3, 1, (0, 0, 0), 0, 0, [1, 2, 3]),
        (3, 1, (0, 1, 0), 0, 0, [1, 3]),
        (3, 1, (1,), 2, 0, []),
        (3, 1, (0,), 0, 2, [1]),
        (2, 2, (0, 1, 2), 0, 0, [1, 2]),
        (1, 2, (1, 2, 2, 0), 0, 0, [1, 4, 2]),
        (1, 1, (0, 2), 0, 0, [1]),
        (0, 0, (0, 0), 0, 0, [1, 2]),
        (0, 0, (), 0, 0, []),
    ],
)
def test_a_snapshot_and_its_step(
    wanted: int, generation: int, generations: tuple[int, ...], leaving: int, start: int, retired: list[int]
) -> None:
    step = plain(Snapshot(wanted, generation, staying(*generations), leaving))
    assert (step.start, pids(step)) == (start, retired)


def test_a_snapshot_shows_those_who_stay_oldest_first_and_counts_the_others() -> None:
    workers = Children()
    for pid in (5, 3, 9):
        workers.add(pid, 0.0, generation=1)
    workers.retire(workers.staying[3], Ladder(0, 5))
    now = snapshot(4, 1, workers)
    assert (now.wanted, now.generation, [child.pid for child in now.staying], now.leaving) == (4, 1, [5, 9], 1)


def test_a_snapshot_does_not_change_with_the_pool() -> None:
    workers = Children()
    workers.add(5, 0.0)
    now = snapshot(1, 0, workers)
    workers.remove(5)
    assert [child.pid for child in now.staying] == [5]


SNAPSHOTS = st.builds(
    lambda wanted, generation, generations, leaving: Snapshot(wanted, generation, staying(*generations), leaving),
    st.integers(0, 12),
    st.integers(0, 3),
    st.lists(st.integers(0, 3), max_size=12),
    st.integers(0, 12),
)


@settings(deadline=None)  # a loaded machine is no failure
@given(now=SNAPSHOTS)
def test_nobody_is_started_in_the_place_of_one_who_is_still_there(now: Snapshot) -> None:
    missing = now.wanted - len(now.staying) - now.leaving
    assert plain(now).start == max(0, missing), "all that are missing, and no more"


@settings(deadline=None)
@given(now=SNAPSHOTS)
def test_everybody_of_an_older_generation_is_retired_once_and_the_surplus_oldest_first(now: Snapshot) -> None:
    step = plain(now)
    retired = pids(step)
    assert len(set(retired)) == len(retired)
    old = [child.pid for child in now.staying if child.generation < now.generation]
    present = [child.pid for child in now.staying if child.generation >= now.generation]
    assert retired[: len(old)] == old
    kept = present[len(retired) - len(old) :]
    assert retired[len(old) :] + kept == present, "the oldest of the others"
    assert len(kept) == min(now.wanted, len(present))


class Pool:
    """A registry of workers to which the steps are applied as the manager does."""

    def __init__(self, wanted: int) -> None:
        self.workers = Children()
        self.wanted = wanted
        self.generation = 0
        self.next_pid = 1

    def step(self, allowed: int = 100) -> Step:
        step = plain(snapshot(self.wanted, self.generation, self.workers))
        for child in step.retire:
            assert child.ladder is None, "asked once"
            self.workers.retire(child, Ladder(0, 5))
        room = max(0, self.wanted - len(self.workers))
        assert step.start <= room
        for _ in range(min(step.start, allowed)):
            self.workers.add(self.next_pid, 0.0, self.generation)
            self.next_pid += 1
        return step

    def end(self, number: int) -> None:
        """One of those who are there is gone, asked or not."""
        there = self.workers.pids
        if there:
            self.workers.remove(there[number % len(there)])

    def settle(self) -> int:
        """Steps until nothing is left to do. One of those who leave is gone after each."""
        steps = 1
        while self.step() != (0, ()) or self.workers.leaving:
            self.workers.remove(next(iter(self.workers.leaving), 0))
            steps += 1
            assert steps < 200, "it never comes to an end"
        return steps


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("step"), st.integers(0, 4)),
        st.tuples(st.just("end"), st.integers(0, 11)),
        st.tuples(st.just("reload"), st.just(0)),
        st.tuples(st.just("want"), st.integers(0, 8)),
    ),
    max_size=30,
)


@settings(deadline=None)
@given(wanted=st.integers(0, 8), events=EVENTS)
def test_whatever_happened_the_pool_becomes_what_is_wanted(wanted: int, events: list[tuple[str, int]]) -> None:
    pool = Pool(wanted)
    for what, number in events:
        if what == "step":
            pool.step(number)  # forks may be refused, or put off
        elif what == "end":
            pool.end(number)
        elif what == "reload":
            pool.generation += 1
        else:
            pool.wanted = number
    everybody = len(pool.workers)
    steps = pool.settle()
    assert [child.generation for child in pool.workers.staying.values()] == [pool.generation] * pool.wanted
    assert not pool.workers.leaving
    assert steps <= everybody + 3, "one step for each who leaves"
    assert pool.step() == (0, ()), "and stays so"


@settings(deadline=None)
@given(wanted=st.integers(1, 8), reloads=st.integers(1, 4))
def test_there_are_never_more_than_wanted_in_a_reload(wanted: int, reloads: int) -> None:
    pool = Pool(wanted)
    pool.settle()
    for _ in range(reloads):
        pool.generation += 1
        pool.step()
        assert len(pool.workers) == wanted
    while pool.workers.leaving:
        pool.workers.remove(next(iter(pool.workers.leaving)))
        pool.step()
        assert len(pool.workers) == wanted
    assert {child.generation for child in pool.workers.staying.values()} == {reloads}


# Rolling: a new one first


def rolled(wanted: int, ready: str) -> Step:
    """One step of a reload. ready: a letter for each of those who stay: `o` of the older generation, `r` a new one that is ready,
    `t` one that is tried."""
    children = []
    for pid, letter in enumerate(ready, 1):
        child = Child(pid, 0.0, generation=letter != "o")
        if letter != "t":
            child.ready_at = 1.0
        children.append(child)
    return rolling(Snapshot(wanted, 1, tuple(children), 0))


@pytest.mark.parametrize(
    ("wanted", "there", "start", "retired"),
    [
        (4, "oooo", 1, []),
        (4, "oooot", 0, []),
        (4, "oooor", 1, [1]),
        (4, "ooor", 1, []),
        (4, "ooort", 0, []),
        (4, "orrrr", 0, [1]),
        (4, "rrrr", 0, []),
        (4, "ooo", 1, []),  # an old one died: its place is filled by the new generation
        (4, "o", 3, []),
        (4, "ot", 2, []),
        (4, "", 4, []),
        (4, "tttt", 0, []),
        (8, "oooooooo", 2, []),
        (8, "oooooooott", 0, []),
        (8, "oooooooort", 1, [1]),
        (1, "o", 1, []),
        (1, "or", 0, [1]),
        (2, "rrr", 0, [1]),
        (2, "ooo", 1, [1]),  # one too many, and one to be replaced
        (0, "oo", 0, [1, 2]),
    ],
)
def test_a_rolling_step(wanted: int, there: str, start: int, retired: list[int]) -> None:
    step = rolled(wanted, there)
    assert (step.start, pids(step)) == (start, retired)


@given(st.integers(1, 20), st.lists(st.sampled_from(["die", "ready", "fail"]), max_size=60))
def test_a_rolling_reload_never_serves_with_fewer_than_are_wanted_and_ends(wanted: int, events: list[str]) -> None:
    """Unless somebody dies by himself."""
    workers = Children()
    for pid in range(wanted):
        workers.add(pid, 0.0)
        workers.became_ready(pid, 0.0)
    pid, deaths = wanted, 0
    for event in [*events, *["ready"] * (2 * wanted)]:
        step = rolling(snapshot(wanted, 1, workers))
        for child in step.retire:
            workers.remove(child.pid)
        for _ in range(step.start):
            workers.add(pid, 0.0, generation=1)
            pid += 1
        tried = [child for child in workers.staying.values() if child.ready_at == FOREVER]
        assert workers.ready >= wanted - deaths
        assert len(workers) <= wanted + max(1, wanted // 4)
        if event == "die" and workers.ready:
            workers.remove(next(child.pid for child in workers.staying.values() if child not in tried))
            deaths += 1
        elif tried and event == "ready":
            for child in tried:
                workers.became_ready(child.pid, 1.0)
        elif tried:
            workers.remove(tried[0].pid)
    step = rolling(snapshot(wanted, 1, workers))
    for child in step.retire:
        workers.remove(child.pid)
    assert not rolling(snapshot(wanted, 1, workers)).start
    assert {child.generation for child in workers.staying.values()} == {1}
