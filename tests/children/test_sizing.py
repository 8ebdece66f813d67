"""How many workers a pool should have: snapshots by hand, and pools that live on a clock of their own, without a process."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fcgi_procmanager.basics.clock import FOREVER
from fcgi_procmanager.children.sizing import (
    DYNAMIC,
    KINDS,
    ONDEMAND,
    PER_REQUEST,
    STATIC,
    Load,
    Sizing,
    Verdict,
    kind,
    spares,
)
from fcgi_procmanager.errors import ConfigError

NOW = 1000.0
T = 10.0  # process_idle_timeout

# A loaded machine is no failure.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def load(idle: tuple[float, ...] = (), busy: int = 0, waiting: int = 0, starting: int = 0, leaving: int = 0) -> Load:
    """idle: for how many seconds each of them has been; their pids are 1, 2, 3..."""
    return Load(
        NOW, starting, tuple((pid, NOW - seconds) for pid, seconds in enumerate(idle, 1)), busy, waiting, leaving
    )


def dynamic(n_processes: int = 16, start: int = 1, least: int = 1, most: int = 3) -> Sizing:
    return Sizing(DYNAMIC, n_processes, start, least, most, T)


def wanting(sizing: Sizing, count: int) -> Sizing:
    """One that has wanted so many so far."""
    sizing.decide(load(busy=max(0, count - sizing.spares.min_spare)))
    return sizing


# ---- Numbers ----


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"start_servers": 10}, (30, 10, 10, 20)),  # POE's own test of its defaults
        ({"start_servers": 1}, (3, 1, 1, 2)),
        ({"start_servers": 10, "max_spare": 15}, (25, 10, 10, 15)),
        ({"n_processes": 20}, (20, 4, 4, 16)),
        ({"n_processes": 16}, (16, 3, 3, 12)),
        ({"n_processes": 4}, (4, 1, 1, 3)),  # POE: no spare at all
        ({"n_processes": 1}, (1, 1, 1, 1)),
        ({"n_processes": 0}, (0, 0, 0, 0)),
        ({"n_processes": 20, "max_spare": 9}, (20, 4, 4, 9)),
        ({"n_processes": 20, "max_spare": 1}, (20, 1, 1, 1)),
        ({"n_processes": 20, "max_spare": 0}, (20, 0, 0, 0)),  # what is given counts, 0 too
        ({"n_processes": 20, "min_spare": 0}, (20, 0, 0, 16)),
        ({"n_processes": 20, "min_spare": 18}, (20, 18, 18, 18)),
        ({"n_processes": 20, "start_servers": 2}, (20, 2, 2, 16)),  # what is derived gives way
        ({"n_processes": 20, "start_servers": 19}, (20, 19, 4, 19)),
        ({"n_processes": 9, "start_servers": 3, "min_spare": 2, "max_spare": 4}, (9, 3, 2, 4)),
    ],
)
def test_what_is_not_given_is_derived(given: dict[str, int], found: tuple[int, ...]) -> None:
    assert spares(**given) == found


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({}, "n_processes"),
        ({"n_processes": -1}, "n_processes"),
        ({"n_processes": 4, "min_spare": -1}, "min_spare"),
        ({"n_processes": 4, "min_spare": True}, "min_spare"),
        ({"n_processes": 4, "max_spare": 1.5}, "max_spare"),
        ({"n_processes": 4, "start_servers": "2"}, "start_servers"),
        ({"n_processes": 4, "min_spare": 5}, "min_spare"),
        ({"n_processes": 4, "max_spare": 5}, "max_spare"),
        ({"n_processes": 4, "start_servers": 5}, "start_servers"),
        ({"n_processes": 8, "min_spare": 3, "max_spare": 2}, "max_spare"),
        ({"n_processes": 8, "start_servers": 1, "min_spare": 2}, "start_servers"),
        ({"n_processes": 8, "start_servers": 4, "min_spare": 2, "max_spare": 3}, "start_servers"),
    ],
)
def test_a_contradiction_names_the_parameter(given: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{named} must ") as caught:
        spares(**given)
    assert "\n" not in str(caught.value)


@PATIENT
@given(
    n_processes=st.none() | st.integers(0, 300),
    start=st.none() | st.integers(0, 300),
    least=st.none() | st.integers(0, 300),
    most=st.none() | st.integers(0, 300),
)
def test_numbers_fit_each_other_or_are_refused(
    n_processes: int | None, start: int | None, least: int | None, most: int | None
) -> None:
    asked = (n_processes, start, least, most)
    try:
        found = spares(*asked)
    except ConfigError:
        return
    assert all(wish in (None, number) for wish, number in zip(asked, found))
    assert 0 <= found.min_spare <= found.start_servers <= found.max_spare <= found.n_processes


@PATIENT
@given(st.integers(0, 100_000))
def test_the_ceiling_alone_is_never_a_contradiction(n_processes: int) -> None:
    assert spares(n_processes).n_processes == n_processes


@pytest.mark.parametrize("pool", [STATIC, ONDEMAND, PER_REQUEST])
@pytest.mark.parametrize("name", ["start_servers", "min_spare", "max_spare"])
def test_spares_of_another_pool_are_a_mistake(pool: str, name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name} is for pool='dynamic'"):
        Sizing(pool, 4, **{name: 1})


def test_a_wrong_kind_or_time_names_the_parameter() -> None:
    with pytest.raises(
        ConfigError, match=r"^pool must be one of static, dynamic, ondemand, per-request, not 'prefork'"
    ):
        Sizing("prefork", 4)
    with pytest.raises(ConfigError, match=r"^process_idle_timeout must be"):
        Sizing(STATIC, 4, process_idle_timeout=-1)
    with pytest.raises(ConfigError, match=r"^n_processes must"):
        Sizing(STATIC, -4)
    assert [kind("pool", name) for name in KINDS] == list(KINDS)


@pytest.mark.parametrize(("pool", "start"), [(STATIC, 8), (DYNAMIC, 1), (ONDEMAND, 1), (PER_REQUEST, 1)])
def test_the_workers_at_the_start(pool: str, start: int) -> None:
    assert Sizing(pool, 8).start() == start


# ---- One decision ----


@pytest.mark.parametrize(
    ("now", "wanted", "saturated"),
    [
        (load(idle=(5,)), 1, False),
        (load(idle=(5,), waiting=16), 16, True),  # no room for a spare
        (load(idle=(5,), waiting=15), 16, False),
        (load(idle=(5,), waiting=4), 5, False),
        (load(starting=5, waiting=4), 5, False),  # one for each that waits, and a spare: nobody is forked twice
        (load(starting=2, idle=(1,), waiting=1), 2, False),
        (load(busy=1), 2, False),  # the spare has become busy
        (load(busy=1, starting=1), 2, False),
        (load(busy=3, waiting=2, starting=1), 6, False),
        (load(busy=16, waiting=100), 16, True),
        (load(busy=16), 16, True),
        (load(busy=15), 16, False),
        (load(), 1, False),  # everybody has died
    ],
)
def test_dynamic_grows_by_what_waits_and_by_spares_it_is_short(now: Load, wanted: int, saturated: bool) -> None:
    verdict = dynamic().decide(now)
    assert (verdict.wanted, verdict.retire, verdict.saturated) == (wanted, (), saturated)


@pytest.mark.parametrize(
    ("now", "wanted", "saturated"),
    [
        (load(), 0, False),
        (load(waiting=1), 1, False),
        (load(waiting=1, starting=1), 1, False),
        (load(waiting=2, idle=(1,), busy=2), 4, False),
        (load(waiting=9), 4, True),
        (load(busy=4), 4, False),  # nobody waits
        (load(busy=4, waiting=1), 4, True),
        (load(busy=3, waiting=1, leaving=4), 4, False),  # who leaves holds no place
    ],
)
def test_ondemand_grows_by_what_waits(now: Load, wanted: int, saturated: bool) -> None:
    verdict = Sizing(ONDEMAND, 4).decide(now)
    assert (verdict.wanted, verdict.retire, verdict.saturated) == (wanted, (), saturated)


@pytest.mark.parametrize(
    ("now", "wanted", "saturated"),
    [
        (load(waiting=3), 3, False),
        (load(waiting=3, starting=3), 3, False),
        (load(busy=2, waiting=1), 3, False),
        (load(busy=2, waiting=5), 4, True),
        (load(busy=2, leaving=1, waiting=1), 3, False),
        (load(busy=2, leaving=2, waiting=1), 2, True),  # who leaves holds his place
        (load(busy=1, leaving=9, waiting=1), 1, True),
    ],
)
def test_per_request_never_has_more_processes_than_allowed(now: Load, wanted: int, saturated: bool) -> None:
    verdict = Sizing(PER_REQUEST, 4).decide(now)
    assert (verdict.wanted, verdict.retire, verdict.saturated) == (wanted, (), saturated)


def test_per_request_replaces_nobody_who_has_served() -> None:
    sizing = Sizing(PER_REQUEST, 4)
    assert sizing.decide(load(waiting=2)).wanted == 2
    assert sizing.decide(load(busy=2)).wanted == 2
    assert sizing.decide(load(busy=1, leaving=1)).wanted == 1
    assert sizing.decide(load()) == Verdict(0, (), FOREVER, False)


def test_a_lower_ceiling_of_per_request_lets_go_of_no_more_than_it_has_to() -> None:
    sizing = Sizing(PER_REQUEST, 4)
    sizing.decide(load(waiting=4))
    sizing.n_processes = 3
    assert sizing.decide(load(idle=(1, 1, 1, 1))).retire == (1,)
    assert sizing.decide(load(idle=(1, 1, 1), leaving=1)).retire == ()


@pytest.mark.parametrize(
    "now", [load(), load(busy=4, waiting=9), load(idle=(99, 99)), load(starting=9), load((50,) * 9)]
)
def test_static_stays_as_it_is(now: Load) -> None:
    verdict = Sizing(STATIC, 4).decide(now)
    assert (verdict.wanted, verdict.retire, verdict.next_at) == (4, (), FOREVER)
    assert verdict.saturated == (now.waiting > 0)


def test_static_follows_its_number() -> None:
    """TTIN and TTOU. Whom it lets go is idle, if anybody is; else it is for the rollout to choose."""
    sizing = Sizing(STATIC, 4)
    sizing.n_processes = 5
    assert sizing.decide(load((1, 2, 3, 4))).wanted == 5
    sizing.n_processes = 3
    assert sizing.decide(load((1, 4, 2, 3, 0)))[:2] == (3, (2, 4))
    sizing.n_processes = 2
    assert sizing.decide(load(busy=3))[:2] == (2, ())


@pytest.mark.parametrize(
    ("now", "wanted", "retire"),
    [
        (load(idle=(1, 2, 3, 4, 5, 6)), 6, ()),  # they were used within the timeout
        (load(idle=(90,) * 3), 3, ()),  # as many as may be idle
        (load(idle=(50, 90, 70, 60)), 3, (2,)),
        (load(idle=(50, 90, 70, 60, 80)), 4, (2,)),  # half of those that are too many
        (load(idle=(90, 80, 70, 60, 50, 40, 30, 20, 10)), 6, (1, 2, 3)),
        (load(idle=(9.9, 9.9, 9.9, 90, 80)), 5, ()),  # three were used, and three may be idle beside them
        (load(idle=(9.9, 90, 90, 90, 90, 90)), 5, (2,)),
        (load(starting=2, idle=(90, 90, 90)), 5, ()),
        (load(busy=3, idle=(90, 90, 90, 90)), 6, (1,)),
        (load(busy=3, idle=(90, 90, 90)), 6, ()),
        (load(starting=1, idle=(90, 90, 90, 90)), 4, (1,)),
        (load(idle=(90, 90, 90, 90), waiting=3), 4, ()),  # they are about to be called
    ],
)
def test_dynamic_lets_go_of_the_longest_idle_when_they_are_too_many(
    now: Load, wanted: int, retire: tuple[int, ...]
) -> None:
    staying = now.starting + now.busy + len(now.idle)
    verdict = wanting(dynamic(), staying).decide(now)
    assert (verdict.wanted, verdict.retire) == (wanted, retire)


def test_a_lower_ceiling_holds_at_once() -> None:
    sizing = wanting(dynamic(), 8)
    sizing.n_processes = 4
    assert sizing.decide(load(idle=(1, 2, 3), busy=5))[:2] == (4, (3, 2, 1))  # one more is the rollout's to choose


def test_a_reload_changes_nothing_of_what_is_wanted() -> None:
    """It starts new ones beside the others: they are neither too many nor a reason for still more."""
    sizing = wanting(dynamic(), 3)
    for staying in (3, 4, 5, 4, 3):
        assert sizing.decide(load(idle=(90,) * (staying - 1), starting=1))[:2] == (3, ())


def test_one_that_cannot_be_started_is_wanted_as_long_as_it_is_needed() -> None:
    sizing = dynamic()
    assert sizing.decide(load(idle=(1,), waiting=8)).wanted == 9
    assert sizing.decide(load(busy=1, waiting=7)).wanted == 9
    assert sizing.decide(load(idle=(0,))).wanted == 4


def test_who_is_let_go_is_let_go_once() -> None:
    """Although he may still be there the next time: the signal is on its way."""
    sizing = wanting(dynamic(), 4)
    now = load(idle=(50, 60, 70, 80))
    assert sizing.decide(now).retire == (4,)
    assert sizing.decide(now._replace(now=NOW + 1)).retire == ()


def test_the_times_at_which_to_ask_again() -> None:
    assert dynamic().decide(load(idle=(90,))).next_at == FOREVER  # an idle pool is not woken
    assert wanting(dynamic(), 3).decide(load(idle=(1, 2, 3))).next_at == FOREVER
    assert (
        wanting(dynamic(), 4).decide(load(idle=(1, 2, 3, 4))).next_at == NOW - 1 + T
    )  # the fourth is the first too many
    assert wanting(dynamic(), 4).decide(load(busy=4)).next_at == NOW + T  # nobody tells of the end of a request
    assert Sizing(ONDEMAND, 4).decide(load(idle=(2,))).next_at == NOW - 2 + T  # the one of the start
    sizing = Sizing(ONDEMAND, 4)
    sizing.decide(load(waiting=1))
    assert sizing.decide(load(idle=(2,))).next_at == NOW - 2 + T
    assert dynamic().decide(load(idle=(5, 5), waiting=3)).next_at == NOW + T  # two are to come
    assert wanting(dynamic(), 9).decide(load(idle=(90,) * 9)).next_at == NOW + 1  # the other half


def test_who_looks_often_does_not_make_it_shrink_sooner() -> None:
    sizing = wanting(dynamic(), 9)
    now = load(idle=(90,) * 9)
    retired = [sizing.decide(now._replace(now=NOW + tenth / 10)).retire for tenth in range(10)]
    assert [len(pids) for pids in retired] == [3] + [0] * 9


def test_a_time_that_goes_back_stops_nothing() -> None:
    sizing = wanting(dynamic(), 9)
    assert len(sizing.decide(load(idle=(90,) * 9)).retire) == 3
    early = Load(5.0, 0, tuple((pid, -90.0) for pid in range(6)), 0, 0)
    assert len(sizing.decide(early).retire) + len(sizing.decide(early._replace(now=6.0)).retire) == 2


@pytest.mark.parametrize("since", [math.nan, math.inf, NOW + 50])
def test_nobody_is_idle_since_a_time_to_come(since: float) -> None:
    sizing = wanting(dynamic(), 4)
    now = load(idle=(1, 1, 1))._replace(idle=tuple((pid, since) for pid in range(4)))
    assert sizing.decide(now) == Verdict(4, (), NOW + T, False)


# ---- Any snapshot ----

NUMBERS = st.integers(-3, 40)
LOADS = st.builds(
    Load,
    now=st.floats(0, 1e6),
    starting=NUMBERS,
    idle=st.lists(st.tuples(st.integers(-1, 50), st.floats()), max_size=40).map(tuple),
    busy=NUMBERS,
    waiting=NUMBERS,
    leaving=NUMBERS,
)
SIZINGS = st.builds(
    Sizing,
    st.sampled_from(KINDS),
    st.integers(0, 32),
    process_idle_timeout=st.sampled_from([0, 0.1, 1, 10, 1e9]),
)


@PATIENT
@given(sizing=SIZINGS, loads=st.lists(LOADS, min_size=1, max_size=8))
def test_nonsense_breaks_nothing(sizing: Sizing, loads: list[Load]) -> None:
    """Whatever is seen, and if time stands still or goes back."""
    for now in loads:
        verdict = sizing.decide(now)
        pids = {pid for pid, _ in now.idle}
        requests = max(0, now.busy) + max(0, now.waiting)
        assert 0 <= verdict.wanted <= sizing.n_processes
        assert len(set(verdict.retire)) == len(verdict.retire)
        assert set(verdict.retire) <= pids
        assert verdict.next_at > now.now
        assert sizing.pool != STATIC or verdict.wanted == sizing.n_processes
        if sizing.pool in (DYNAMIC, ONDEMAND):
            assert verdict.wanted >= min(requests + sizing.spares.min_spare, sizing.n_processes)
        if requests > sizing.n_processes:
            assert verdict.saturated


@PATIENT
@given(sizing=SIZINGS, idle=st.lists(st.floats(0, 100), max_size=32), busy=st.integers(0, 32), seen=st.integers(0, 32))
def test_who_was_used_within_the_timeout_stays(sizing: Sizing, idle: list[float], busy: int, seen: int) -> None:
    sizing.decide(load(waiting=seen))
    verdict = sizing.decide(load(idle=tuple(idle), busy=busy))
    assert verdict.retire == tuple(sorted(verdict.retire, key=lambda pid: -idle[pid - 1]))
    if sizing.pool != STATIC:
        assert all(idle[pid - 1] >= sizing.process_idle_timeout - 1e-6 for pid in verdict.retire)


@PATIENT
@given(sizing=SIZINGS, now=LOADS)
def test_asking_again_at_once_changes_nothing(sizing: Sizing, now: Load) -> None:
    """What was decided is done: forked, asked to leave. Then there is nothing more to do in the same instant."""
    first = sizing.decide(now)
    idle = tuple(one for one in now.idle if one[0] not in first.retire)
    second = sizing.decide(now._replace(idle=idle, leaving=max(0, now.leaving) + len(first.retire)))
    assert (second.wanted, second.retire) == (first.wanted, ()) or sizing.pool == PER_REQUEST


# ---- A pool that lives ----


@dataclass
class Worker:
    pid: int
    ready_at: float
    since: float = math.inf  # idle since
    ends: float = math.inf  # of its request

    def is_idle(self, now: float) -> bool:
        return self.ready_at <= now and self.ends == math.inf


class Pool:
    """Workers, a queue and a clock. It asks when the manager would wake up: something waits and nobody is idle, somebody is
    short of a spare, or the time has come that was named."""

    def __init__(self, sizing: Sizing, boot: float = 0.01, calls: str = "first", seed: int = 0) -> None:
        """calls: of those who are idle, who gets the next connection: the `first`, the `last` or `any`."""
        self.sizing = sizing
        self.boot = boot
        self.calls = calls
        self.random = random.Random(seed)
        self.now = 0.0
        self.pids = 0
        self.workers: list[Worker] = []
        self.queue: list[float] = []  # how long each request will take
        self.forks: list[float] = []
        self.ends: list[float] = []  # those who were asked to leave
        self.leaving: list[float] = []  # when those are gone who leave by themselves
        self.next_at = 0.0
        self.asked = 0
        self.fork(sizing.start())

    def fork(self, count: int) -> None:
        for _ in range(count):
            self.pids += 1
            self.workers.append(Worker(self.pids, self.now + self.boot))
            self.forks.append(self.now)

    def snapshot(self) -> Load:
        idle = tuple((w.pid, w.since) for w in self.workers if w.is_idle(self.now))
        busy = sum(w.ends < math.inf for w in self.workers)
        starting = len(self.workers) - len(idle) - busy
        return Load(self.now, starting, idle, busy, len(self.queue), len(self.leaving))

    def decide(self) -> Verdict:
        self.asked += 1
        verdict = self.sizing.decide(self.snapshot())
        for pid in verdict.retire:
            (gone,) = (w for w in self.workers if w.pid == pid)
            assert gone.is_idle(self.now)
            self.workers.remove(gone)
            self.ends.append(self.now)
        if verdict.wanted > len(self.workers) and self.sizing.pool == PER_REQUEST:
            assert verdict.wanted + len(self.leaving) <= self.sizing.n_processes
        self.fork(verdict.wanted - len(self.workers))
        self.next_at = verdict.next_at
        assert len(self.workers) <= self.sizing.n_processes
        load = self.snapshot()
        idle = len(load.idle) + load.starting - load.waiting
        assert idle >= self.sizing.spares.min_spare or self.is_full()
        return verdict

    def is_full(self) -> bool:
        leaving = len(self.leaving) if self.sizing.pool == PER_REQUEST else 0
        return len(self.workers) + leaving >= self.sizing.n_processes

    def request(self, *lengths: float) -> None:
        self.queue += lengths
        self.accept()
        if self.is_short():
            self.decide()

    def is_short(self) -> bool:
        idle = sum(w.is_idle(self.now) for w in self.workers)
        return bool(self.queue) or idle < self.sizing.spares.min_spare

    def accept(self) -> None:
        while self.queue:
            idle = [w for w in self.workers if w.is_idle(self.now)]
            if not idle:
                return
            worker = {"first": idle[0], "last": idle[-1], "any": self.random.choice(idle)}[self.calls]
            worker.ends = self.now + self.queue.pop(0)

    def happens_at(self) -> float:
        ready = [w.ready_at for w in self.workers if w.since == math.inf]
        return min([*ready, *self.leaving, *(w.ends for w in self.workers)], default=math.inf)

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while min(self.happens_at(), self.next_at) <= until:
            self.now = max(self.now, min(self.happens_at(), self.next_at))
            changed = self.settle()
            self.accept()
            if (changed and self.is_short()) or self.now >= self.next_at:
                self.decide()
        self.now = until

    def settle(self) -> bool:
        """Who is ready is idle, and who has ended his request."""
        changed = False
        for worker in list(self.workers):
            if worker.ready_at <= self.now and worker.since == math.inf:
                worker.since, changed = self.now, True
            if worker.ends <= self.now:
                worker.since, worker.ends, changed = self.now, math.inf, True
                if self.sizing.pool == PER_REQUEST:
                    self.workers.remove(worker)
                    self.leaving.append(self.now + 0.05)
        gone = [at for at in self.leaving if at <= self.now]
        self.leaving = [at for at in self.leaving if at > self.now]
        return changed or bool(gone)

    def between(self, first: float, last: float) -> tuple[int, int]:
        """Forks, and workers that were asked to leave."""
        return (
            sum(first <= at < last for at in self.forks),
            sum(first <= at < last for at in self.ends),
        )


def test_a_burst_gets_all_its_workers_in_one_decision() -> None:
    for sizing in (dynamic(16), Sizing(ONDEMAND, 16), Sizing(PER_REQUEST, 16)):
        pool = Pool(sizing)
        pool.run(20)
        pool.request(*[1.0] * 16)
        forks = 16 + (sizing.pool != DYNAMIC)  # the one of the start has left
        assert (len(pool.workers), len(pool.forks)) == (16, forks)
        assert set(pool.forks[sizing.start() :]) == {20.0}
        asked = pool.asked
        pool.run(1.02)
        assert (pool.queue, len(pool.forks)) == ([], forks)
        assert pool.asked - asked <= 16
        assert all(w.ends == math.inf for w in pool.workers)


@pytest.mark.parametrize("boot", [0.001, 0.5, 3.0])
def test_nobody_is_forked_twice_for_a_connection(boot: float) -> None:
    """However long a worker takes to boot, and however often the manager looks meanwhile."""
    pool = Pool(dynamic(64), boot=boot)
    pool.run(20)
    for _ in range(10):
        pool.request(5.0)
    pool.run(0.1)
    for _ in range(100):
        pool.decide()
    pool.run(4)
    assert len(pool.forks) == 11


def test_it_shrinks_back_after_a_burst() -> None:
    for sizing, rest in ((dynamic(32), 3), (Sizing(ONDEMAND, 32), 0), (Sizing(PER_REQUEST, 32), 0)):
        pool = Pool(sizing)
        pool.run(5)
        pool.request(*[1.0] * 32)
        pool.run(1 + T)
        assert len(pool.workers) >= (0 if sizing.pool == PER_REQUEST else 31)
        pool.run(10)
        assert len(pool.workers) == rest
        assert pool.next_at == FOREVER


def test_it_shrinks_gently() -> None:
    pool = Pool(dynamic(64))
    pool.run(5)
    pool.request(*[1.0] * 64)
    pool.run(30)
    steps = [pool.ends.count(at) for at in sorted(set(pool.ends))]
    assert (sum(steps), steps) == (61, [31, 15, 8, 4, 2, 1])
    assert all(later - sooner >= 0.99 for sooner, later in zip(sorted(set(pool.ends)), sorted(set(pool.ends))[1:]))


@pytest.mark.parametrize("calls", ["first", "last", "any"])
@pytest.mark.parametrize("pool_of", [dynamic, lambda: dynamic(16, 1, 1, 1), lambda: Sizing(ONDEMAND, 16)])
def test_bursts_that_come_again_make_no_churn(calls: str, pool_of: Any) -> None:
    """Every three seconds for ten minutes, all of them served by those who are there: the manager sees the first one only."""
    pool = Pool(pool_of(), calls=calls)
    for _ in range(200):
        pool.request(*[0.2] * 8)
        pool.run(3)
    assert pool.between(T, math.inf) == (0, 0)
    pool.run(30)
    assert len(pool.workers) == pool.sizing.spares.max_spare


@settings(PATIENT, max_examples=60)
@given(
    clients=st.integers(1, 20),
    length=st.sampled_from([0.01, 0.3, 2.0, 7.0]),
    pool=st.sampled_from([STATIC, DYNAMIC, ONDEMAND]),
    boot=st.sampled_from([0.001, 0.1, 1.0]),
    calls=st.sampled_from(["first", "last", "any"]),
    seed=st.integers(0, 9),
)
def test_a_constant_load_changes_nothing(
    clients: int, length: float, pool: str, boot: float, calls: str, seed: int
) -> None:
    """So many clients, each of which asks again as soon as it has its reply."""
    living = Pool(Sizing(pool, 16), boot, calls, seed)
    living.run(2 * boot)
    living.request(*[length] * clients)
    settled = 2 * (T + boot + length)
    for _ in range(min(600, int(3 * settled / length))):
        living.run(length)
        missing = clients - len(living.queue) - sum(w.ends < math.inf for w in living.workers)
        living.request(*[length] * missing)
    assert living.between(settled, math.inf) == (0, 0)
    sizing = living.sizing
    assert len(living.workers) == (16 if pool == STATIC else min(16, clients + sizing.spares.min_spare))


def test_a_trickle_keeps_few() -> None:
    """One request in half a second, after a burst: those who are not called leave. The kernel calls the same ones again."""
    pool = Pool(dynamic(16))
    pool.request(*[1.0] * 16)
    for _ in range(100):
        pool.run(0.5)
        pool.request(0.1)
    assert len(pool.workers) == 4  # one is used
    assert pool.between(30, math.inf) == (0, 0)


def test_an_idle_pool_is_not_woken() -> None:
    for sizing in (dynamic(), Sizing(STATIC, 8), Sizing(ONDEMAND, 8), Sizing(PER_REQUEST, 8)):
        pool = Pool(sizing)
        pool.run(1)
        asked = pool.asked
        pool.run(100_000)
        assert pool.asked - asked <= 2


def test_without_a_timeout_nobody_stays_and_nothing_spins() -> None:
    pool = Pool(Sizing(ONDEMAND, 8, process_idle_timeout=0))
    pool.request(*[1.0] * 8)
    pool.run(10)
    assert (len(pool.workers), pool.next_at) == (0, FOREVER)
    assert pool.asked < 150


class AnyLife(RuleBasedStateMachine):
    """Anything may happen in any order: requests, deaths, another ceiling, a manager that looks late or often."""

    @initialize(
        pool=st.sampled_from(KINDS),
        n_processes=st.integers(1, 12),
        timeout=st.sampled_from([0, 0.5, 5]),
        boot=st.sampled_from([0.001, 1.0]),
        calls=st.sampled_from(["first", "last", "any"]),
    )
    def begin(self, pool: str, n_processes: int, timeout: float, boot: float, calls: str) -> None:
        self.pool = Pool(Sizing(pool, n_processes, process_idle_timeout=timeout), boot, calls)

    @rule(lengths=st.lists(st.floats(0.01, 4), min_size=1, max_size=12))
    def request(self, lengths: list[float]) -> None:
        self.pool.request(*lengths)

    @rule(seconds=st.floats(0, 8))
    def time(self, seconds: float) -> None:
        self.pool.run(seconds)

    @rule()
    def look(self) -> None:
        self.pool.decide()

    @precondition(lambda self: self.pool.workers)
    @rule(which=st.randoms(use_true_random=False))
    def death(self, which: random.Random) -> None:
        self.pool.workers.remove(which.choice(self.pool.workers))
        self.pool.decide()

    @rule(step=st.sampled_from([-1, 1]))
    def ceiling(self, step: int) -> None:
        sizing = self.pool.sizing
        sizing.n_processes = max(1, sizing.n_processes + step)
        surplus = len(self.pool.workers) - sizing.n_processes
        if surplus > 0:  # what the rollout does when nobody is idle
            busy = [w for w in self.pool.workers if not w.is_idle(self.pool.now)]
            idle = len(self.pool.workers) - len(busy)
            for worker in busy[: max(0, surplus - idle)]:
                self.pool.workers.remove(worker)
        self.pool.decide()

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "pool"):
            return
        pool = self.pool
        assert len(pool.workers) <= pool.sizing.n_processes
        assert pool.snapshot().starting >= len(pool.queue) or pool.is_full()

    def teardown(self) -> None:
        """At rest in the end, whatever came before."""
        if not hasattr(self, "pool"):
            return
        pool, sizing = self.pool, self.pool.sizing
        pool.decide()
        pool.run(600)
        assert pool.queue == []
        if sizing.pool == STATIC:
            assert len(pool.workers) == sizing.n_processes
        elif sizing.pool == DYNAMIC:
            least, most = sizing.spares[2:]
            assert min(least, sizing.n_processes) <= len(pool.workers) <= min(most, sizing.n_processes)
        else:
            assert pool.workers == []
        assert pool.next_at == FOREVER


AnyLife.TestCase.settings = settings(PATIENT, max_examples=150, stateful_step_count=25)
TestAnyLife = AnyLife.TestCase
