"""Pools as OpenMetrics, for Prometheus: the extra `metrics`.

One family a metric, one sample of it for each pool, told apart by the label `pool`. A number that is not known and a limit that is
not set have no sample. Nothing of a worker is a label, and nothing that a client sent: each value of a label is a series that is
kept for weeks. So what a limit is for is given as the largest of all workers, beside the limit. Pure; runs in any process.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

from ..errors import ConfigError
from .snapshot import BYTES, LIMIT_UNITS, SECONDS, STATES, PoolStatus, largest
from .verdict import LEVELS, verdict
from .visible import visible

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PREFIX = "fcgi_procmanager_"


class Gauge(NamedTuple):
    """name: with its unit, where it has one. value: None is no sample."""

    name: str
    help: str
    unit: str
    value: Callable[[PoolStatus], float | None]


class Counter(NamedTuple):
    """name: without `_total`."""

    name: str
    help: str
    value: Callable[[PoolStatus], float]


GAUGES = (
    Gauge("start_time_seconds", "When the pool was started.", SECONDS, lambda pool: pool.started),
    Gauge("active_workers", "Workers that have a request in hand.", "", lambda pool: pool.active),
    Gauge(
        "active_workers_max",
        "Most workers at once that had a request in hand so far.",
        "",
        lambda pool: pool.max_active,
    ),
    Gauge("listen_queue", "Connections that wait to be accepted. Absent where unknown.", "", lambda pool: pool.queue),
    Gauge("listen_queue_max", "Most connections that have waited at once so far.", "", lambda pool: pool.max_queue),
    Gauge("listen_queue_limit", "Connections that can wait; more are refused.", "", lambda pool: pool.queue_limit),
    Gauge("last_reload_successful", "0 when the last reload failed.", "", lambda pool: not pool.reload_failure),
    Gauge("deadly_addresses", "Addresses whose requests have killed a worker.", "", lambda pool: len(pool.deadly)),
    Gauge(
        "request_age_max_seconds",
        "Age of the oldest request in hand. 0 without one. Beside limit_request_timeout_seconds.",
        SECONDS,
        lambda pool: largest(worker.request_seconds for worker in pool.workers if worker.busy) or 0,
    ),
    Gauge(
        "worker_age_max_seconds",
        "Age of the oldest worker. Beside limit_max_age_seconds.",
        SECONDS,
        lambda pool: largest(worker.age(pool.now) for worker in pool.workers),
    ),
    Gauge(
        "worker_requests_max",
        "Most requests that one of the workers has begun. Beside limit_max_requests.",
        "",
        lambda pool: largest(worker.requests for worker in pool.workers),
    ),
    Gauge(
        "worker_memory_max_bytes",
        "Resident memory of the largest worker. Beside limit_max_memory_bytes.",
        BYTES,
        lambda pool: largest(worker.memory for worker in pool.workers),
    ),
    Gauge(
        "memory_bytes",
        "Resident memory of all workers; what they share is counted for each.",
        BYTES,
        lambda pool: _sum(worker.memory for worker in pool.workers),
    ),
    Gauge(
        "proportional_memory_bytes",
        "Proportional memory (PSS) of all workers; what they share is counted once.",
        BYTES,
        lambda pool: _sum(worker.pss for worker in pool.workers),
    ),
)

COUNTERS = (
    Counter("requests", "Requests that workers have begun.", lambda pool: pool.accepted),
    Counter("slow_requests", "Requests that lasted longer than limit_slow_after_seconds.", lambda pool: pool.slow),
    Counter("request_timeouts", "Requests ended for lasting longer than the limit.", lambda pool: pool.timeouts),
    Counter("worker_deaths", "Workers that were killed in a request.", lambda pool: pool.deaths),
    Counter("failed_starts", "Workers that never became ready.", lambda pool: pool.failed_starts),
    Counter("respawns", "Workers that were replaced.", lambda pool: pool.respawns),
    Counter(
        "ceiling_reached",
        "How often more workers were wanted than limit_n_processes.",
        lambda p: p.max_children_reached,
    ),
    Counter("reloads", "Reloads that were begun.", lambda pool: pool.reloads),
)


def render(pools: Sequence[PoolStatus]) -> bytes:
    """Raises ConfigError when prometheus-client is not installed."""
    try:
        from prometheus_client.openmetrics import exposition
    except ImportError:
        raise ConfigError("metrics need prometheus-client: pip install 'fcgi-procmanager[metrics]'") from None
    generate: Callable[[Any], bytes] = exposition.generate_latest
    return generate(_Collected(list(_families(pools))))


class _Collected:
    """What the client takes for a registry. A real one would keep the numbers of every pool for good."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _families(pools: Sequence[PoolStatus]) -> Iterable[Metric]:
    yield _about(pools)
    yield _judged(pools)
    yield _by_state(pools)
    yield _by_generation(pools)
    for gauge in GAUGES:
        yield _gauge(gauge.name, gauge.help, gauge.unit, [(pool, gauge.value(pool)) for pool in pools])
    for counter in COUNTERS:
        yield _counter(counter, pools)
    yield _retired(pools)
    yield from _limits(pools)


def _label(pool: PoolStatus) -> str:
    return visible(pool.name)


def _gauge(name: str, help: str, unit: str, values: Sequence[tuple[PoolStatus, float | None]]) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(PREFIX + name, help, labels=["pool"], unit=unit)
    for pool, value in values:
        if value is not None:
            family.add_metric([_label(pool)], value)
    return family


def _counter(counter: Counter, pools: Sequence[PoolStatus]) -> Metric:
    from prometheus_client.core import CounterMetricFamily

    family = CounterMetricFamily(PREFIX + counter.name, counter.help, labels=["pool"])
    for pool in pools:
        family.add_metric([_label(pool)], counter.value(pool))
    return family


def _about(pools: Sequence[PoolStatus]) -> Metric:
    from prometheus_client.core import InfoMetricFamily

    family = InfoMetricFamily(f"{PREFIX}pool", "What kind of pool it is, and by which release.", labels=["pool"])
    for pool in pools:
        family.add_metric([_label(pool)], {"kind": visible(pool.kind), "version": visible(pool.version)})
    return family


def _judged(pools: Sequence[PoolStatus]) -> Metric:
    from prometheus_client.core import StateSetMetricFamily

    help = "Whether the pool can take more: ok, busy (a new request has to wait), down (nobody serves it)."
    family = StateSetMetricFamily(f"{PREFIX}verdict", help, labels=["pool"])
    for pool in pools:
        level = verdict(pool).level
        family.add_metric([_label(pool)], {each: each == level for each in LEVELS})
    return family


def _by_state(pools: Sequence[PoolStatus]) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    help = "Workers by what they do. Beside limit_n_processes."
    family = GaugeMetricFamily(f"{PREFIX}workers", help, labels=["pool", "state"])
    for pool in pools:
        for state in STATES:
            family.add_metric([_label(pool), state.replace(" ", "_")], pool.count(state))
    return family


def _by_generation(pools: Sequence[PoolStatus]) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    help = "Workers by generation; each reload makes a new one."
    family = GaugeMetricFamily(f"{PREFIX}generation_workers", help, labels=["pool", "generation"])
    for pool in pools:
        generations = [worker.generation for worker in pool.workers]
        for generation in sorted(set(generations)):
            family.add_metric([_label(pool), str(generation)], generations.count(generation))
    return family


def _retired(pools: Sequence[PoolStatus]) -> Metric:
    from prometheus_client.core import CounterMetricFamily

    help = "Workers that were asked to leave, by the reason."
    family = CounterMetricFamily(f"{PREFIX}retired_workers", help, labels=["pool", "reason"])
    for pool in pools:
        for reason, count in sorted(pool.retired.items()):
            family.add_metric([_label(pool), visible(reason)], count)
    return family


def _limits(pools: Sequence[PoolStatus]) -> Iterable[Metric]:
    """A family for each limit that one of the pools knows."""
    for name in sorted({name for pool in pools for name in pool.limits}):
        unit = LIMIT_UNITS.get(name, "")
        full = "limit_" + re.sub(r"\W", "_", name, flags=re.ASCII) + (f"_{unit}" if unit else "")
        yield _gauge(
            full, f"The limit {visible(name)}. Absent when not set.", unit, [(p, p.limits.get(name)) for p in pools]
        )


def _sum(values: Iterable[int | None]) -> int | None:
    """Of those that are known; None when none is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None
