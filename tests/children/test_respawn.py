"""How many workers are forked, and when: simulated on a clock of its own, without a process."""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass
from typing import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fcgi_procmanager.basics.clock import FOREVER
from fcgi_procmanager.children.respawn import (
    DEATHS_PER_SECOND,
    FIRST_DELAY,
    GIVE_UP,
    MAX_DELAY,
    YOUNG,
    Budget,
    Respawn,
)


@dataclass(frozen=True)
class Fate:
    """What becomes of one worker. ready: seconds after the fork, None for never; ends: seconds after that, None for never.
    how: it `fails` to start, `dies` later, or `leaves` well."""

    ready: float | None = 0.01
    ends: float | None = None
    how: str = "fails"


SERVES = Fate()
CRASHES_AT_BOOT = Fate(ready=None, ends=0.05)
CRASHES_YOUNG = Fate(ready=0.05, ends=0.05)  # by itself, before it has served
DIES = Fate(ready=0.01, ends=0.01, how="dies")
LEAVES = Fate(ready=0.01, ends=0.01, how="leaves")


class Pool:
    """The manager's loop around a `Respawn`, with the pool's other half made up."""

    def __init__(self, size: int, fates, start_delay: float = 0) -> None:
        self.respawn = Respawn(start_delay)
        self.size = size
        self.fates = iter(fates)
        self.alive = 0
        self.forks: list[float] = []
        self.events: list = []  # (when, order, what)
        self.order = itertools.count()

    def run(self, until: float) -> Pool:
        now = 0.0
        while now <= until and not self.respawn.hopeless:
            self.resize(now)
            now = min(self.events[0][0] if self.events else FOREVER, self.next_at(now))
            while self.events and self.events[0][0] <= now:
                heapq.heappop(self.events)[2](now)
        return self

    def next_at(self, now: float) -> float:
        if self.alive >= self.size:
            return FOREVER
        missing = self.size - self.alive
        due = self.respawn.next_at(missing, now)
        assert due > now or self.respawn.allowed(missing, now) == 0  # no spinning
        return max(due, now + 1e-9)

    def resize(self, now: float) -> None:
        missing = self.size - self.alive
        allowed = self.respawn.allowed(missing, now)
        assert 0 <= allowed <= max(0, missing)
        assert not allowed or now >= self.respawn.next_at(missing, now)
        for _ in range(allowed):
            fate = next(self.fates)
            if fate is None:
                self.respawn.fork_failed(now)
                break
            self.spawn(fate, now)

    def spawn(self, fate: Fate, now: float) -> None:
        self.respawn.forked(self.size - self.alive, now)
        self.alive += 1
        self.forks.append(now)
        ready_at = now + fate.ready if fate.ready is not None else FOREVER
        if ready_at < FOREVER:
            self.at(ready_at, lambda _: self.respawn.became_ready())
        if fate.ends is not None:
            self.at((ready_at if ready_at < FOREVER else now) + fate.ends, lambda at: self.end(fate, now, ready_at, at))

    def end(self, fate: Fate, spawned_at: float, ready_at: float, now: float) -> None:
        self.alive -= 1
        if fate.how == "leaves":
            self.respawn.left(ready_at, now)
        elif fate.how == "dies":
            self.respawn.died(ready_at, now)
        else:
            self.respawn.start_failed(spawned_at, ready_at, now)

    def at(self, when: float, what) -> None:
        heapq.heappush(self.events, (when, next(self.order), what))


def gaps(times: list[float]) -> list[float]:
    return [round(after - before, 2) for before, after in zip(times, times[1:])]


def test_all_at_once_when_nothing_is_wrong() -> None:
    pool = Pool(8, itertools.repeat(SERVES)).run(100)
    assert pool.forks == [0.0] * 8


def test_the_start_delay_spaces_the_forks() -> None:
    pool = Pool(4, itertools.repeat(SERVES), start_delay=0.3).run(100)
    assert gaps(pool.forks) == [0.3, 0.3, 0.3]


def test_a_crash_at_boot_is_given_up() -> None:
    for size in (1, 4, 64):
        pool = Pool(size, itertools.repeat(CRASHES_AT_BOOT)).run(1000)
        assert pool.respawn.hopeless
        assert pool.respawn.failures == GIVE_UP
        assert len(pool.forks) <= 2 * size + GIVE_UP
        assert pool.forks[-1] < 5


def test_eight_that_fail_together_are_one_failure() -> None:
    respawn = Respawn()
    for missing in range(8, 0, -1):
        respawn.forked(missing, 0)
    delays = [respawn.start_failed(0, FOREVER, 0.1) for _ in range(8)]
    assert (respawn.failures, delays) == (1, [0.0] * 8)


def test_young_deaths_double_the_delay_to_a_ceiling_and_are_never_given_up() -> None:
    pool = Pool(1, itertools.repeat(CRASHES_YOUNG)).run(1000)
    waits = [round(gap - 0.1, 2) for gap in gaps(pool.forks)]
    doubled = [FIRST_DELAY * 2**n for n in range(20)]
    assert waits[:10] == [0.0, *(round(min(MAX_DELAY, delay), 2) for delay in doubled[:9])]
    assert waits[-1] == MAX_DELAY
    assert not pool.respawn.hopeless


def test_a_crash_loop_may_last_for_days() -> None:
    respawn = Respawn()
    respawn.became_ready()
    assert {respawn.start_failed(n * 60, FOREVER, n * 60 + 1) for n in range(2000)} >= {0.0, FIRST_DELAY, MAX_DELAY}


def test_one_at_a_time_is_tried_while_it_fails() -> None:
    fates = itertools.chain(itertools.repeat(CRASHES_YOUNG, 20), itertools.repeat(SERVES))
    pool = Pool(4, fates).run(200)
    late = [fork for fork in pool.forks[10:] if fork > 1]
    assert len(set(late)) == len(late)
    assert pool.alive == 4


def test_a_worker_that_served_a_while_is_replaced_at_once() -> None:
    pool = Pool(1, itertools.repeat(Fate(ready=0.5, ends=YOUNG))).run(100)
    assert set(gaps(pool.forks)) == {0.5 + YOUNG}


@pytest.mark.parametrize("fate", [LEAVES, DIES])
def test_who_has_started_is_replaced_at_once_however_young(fate: Fate) -> None:
    pool = Pool(1, itertools.repeat(fate)).run(5)
    assert set(gaps(pool.forks)) == {0.02}


@pytest.mark.parametrize("end", [Respawn.left, Respawn.died])
def test_one_that_cannot_start_holds_up_nobody(end: Callable[[Respawn, float, float], None]) -> None:
    """Three of four places are filled at once, however often, while the fourth waits ever longer."""
    respawn = Respawn()
    for second in range(8):
        respawn.start_failed(second, FOREVER, second + 0.5)
    for turn in range(50):
        now = 8 + turn / 100
        assert respawn.allowed(1, now) == 0
        for _ in range(3):
            end(respawn, now - 0.1, now)
        assert respawn.allowed(4, now) == 3
        for missing in (4, 3, 2):
            respawn.forked(missing, now)
    assert respawn.next_at(1, 9) > 9
    respawn.forked(1, respawn.next_at(1, 9))  # the fourth has its turn
    assert respawn.start_failed(14, FOREVER, 15) > 0


def test_a_reload_and_a_success_end_the_delay() -> None:
    for end in (Respawn.reload, Respawn.served):
        respawn = Respawn()
        for second in range(8):
            respawn.start_failed(second, FOREVER, second + 0.5)
        assert respawn.allowed(4, 8) == 0
        assert respawn.next_at(4, 8) > 9
        end(respawn)
        assert respawn.allowed(4, 8) == 4


def test_deaths_are_replaced_within_a_budget() -> None:
    """A pool that only dies forks no more than the machine can stand, and all of it is there again afterwards."""
    deadly = Fate(ready=0.001, ends=0.001, how="dies")
    pool = Pool(50, itertools.chain(itertools.repeat(deadly, 3000), itertools.repeat(SERVES))).run(60)
    for start in range(2, 10):
        assert sum(start <= fork < start + 1 for fork in pool.forks) <= DEATHS_PER_SECOND + 1
    assert pool.alive == 50


def test_a_pool_that_dies_at_one_stroke_is_replaced_at_once() -> None:
    size = 1000
    respawn = Respawn(size=size)
    for _ in range(size):
        respawn.died(1.0, 1.0)
    assert respawn.allowed(size, 1.0) == size
    assert not respawn.is_short(1.0)


def test_the_budget_refills() -> None:
    budget = Budget(per_second=10, at_once=2)
    for _ in range(4):
        budget.take(0.0)
    assert (budget.overdrawn(0.0), budget.refilled_at(2, 0.0), budget.refilled_at(1, 0.0)) == (2, 0.1, 0.2)
    assert [budget.overdrawn(now) for now in (0.05, 0.1, 0.2, 9.0)] == [2, 1, 0, 0]
    for _ in range(3):
        budget.take(9.0)
    assert budget.overdrawn(9.0) == 1


def test_a_trial_worker_that_is_asked_to_leave_does_not_stop_the_respawning() -> None:
    """A HUP takes the one worker that is being tried, before it became ready: another one must follow."""
    hup = Fate(ready=None, ends=0.2, how="leaves")
    fates = itertools.chain([CRASHES_AT_BOOT, CRASHES_AT_BOOT, hup], itertools.repeat(SERVES))
    pool = Pool(1, fates).run(60)
    assert pool.alive == 1


def test_a_refused_fork_is_tried_again() -> None:
    pool = Pool(3, itertools.chain([SERVES, None, None, None], itertools.repeat(SERVES))).run(60)
    assert pool.alive == 3


def test_a_refusing_system_is_given_up_only_when_nobody_serves() -> None:
    assert Pool(3, itertools.repeat(None)).run(60).respawn.hopeless
    assert not Pool(3, itertools.chain([SERVES], itertools.repeat(None))).run(60).respawn.hopeless


def test_what_is_over_is_forgotten() -> None:
    """After many failures a worker served for a while and was reloaded: the next failure is a first one."""
    respawn = Respawn()
    for second in range(8):
        respawn.start_failed(second, FOREVER, second + 0.5)
    respawn.left(ready_at=100, now=100 + YOUNG)
    respawn.forked(1, 200)
    respawn.became_ready()
    assert respawn.start_failed(200, 200.1, 200.2) == 0


FATES = st.one_of(
    st.none(),
    st.builds(
        Fate,
        ready=st.none() | st.floats(0, 3),
        ends=st.floats(0.001, 3),
        how=st.sampled_from(["fails", "dies", "leaves"]),
    ),
)


@settings(deadline=None)  # a loaded machine is no failure
@given(size=st.integers(1, 8), fates=st.lists(FATES, max_size=60), start_delay=st.sampled_from([0, 0, 0.25, 2]))
def test_any_fate_forks_at_a_bounded_rate_and_never_more_than_is_missing(
    size: int, fates: list[Fate | None], start_delay: float
) -> None:
    """However workers end: never more of them than wanted, no spinning, and no more than so many forks in a second."""
    pool = Pool(size, itertools.chain(fates, itertools.repeat(SERVES)), start_delay)
    pool.run(4000)
    assert pool.respawn.hopeless or pool.alive == size
    for index, fork in enumerate(pool.forks):
        within = sum(fork <= other < fork + 1 for other in pool.forks[index:])
        assert within <= 3 * size + 6 + sum(fate is not None and fate.how != "fails" for fate in fates)
        assert not start_delay or within <= 1 / start_delay + 1


@settings(deadline=None)  # a loaded machine is no failure
@given(deaths=st.integers(1, 200), size=st.integers(1, 8))
def test_workers_that_always_crash_are_forked_ever_more_rarely(deaths: int, size: int) -> None:
    pool = Pool(size, itertools.chain(itertools.repeat(CRASHES_YOUNG, deaths), itertools.repeat(SERVES)))
    pool.run(600)
    assert sum(fork > 120 for fork in pool.forks) <= (480 / MAX_DELAY + 1) * size
