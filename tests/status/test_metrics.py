"""OpenMetrics, read back by the parser of those who made the format for Python."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from fcgi_procmanager.status import metrics
from fcgi_procmanager.status.snapshot import PoolStatus
from status.pools import HOSTILE, LIMITS, NOW, crowded, empty, hostile, pool, workers

pytest.importorskip("prometheus_client", reason="prometheus-client is not installed")

UNITS = ("seconds", "bytes")


def families(*pools: PoolStatus) -> dict[str, Any]:
    """Each family by its name without the prefix."""
    from prometheus_client.openmetrics.parser import text_string_to_metric_families

    text = metrics.render(pools).decode()
    assert text.endswith("# EOF\n")
    found = {family.name: family for family in text_string_to_metric_families(text)}
    assert all(name.startswith(metrics.PREFIX) for name in found)
    return {name[len(metrics.PREFIX) :]: family for name, family in found.items()}


def value(found: Mapping[str, Any], name: str, **labels: str) -> float | None:
    """Of the one sample that has these labels."""
    family = name[: -len("_total")] if name.endswith("_total") else name
    values = [
        sample.value
        for sample in found[family].samples
        if sample.name == metrics.PREFIX + name and labels.items() <= sample.labels.items()
    ]
    assert len(values) < 2
    return values[0] if values else None


def test_what_a_pool_is_and_does() -> None:
    found = families(pool())
    said = {
        "active_workers": 4,
        "active_workers_max": 8,
        "listen_queue": 0,
        "listen_queue_max": 12,
        "listen_queue_limit": 1024,
        "start_time_seconds": NOW - 273_600,
        "last_reload_successful": 1,
        "deadly_addresses": 2,
        "requests_total": 1_234_567,
        "slow_requests_total": 17,
        "request_timeouts_total": 2,
        "worker_deaths_total": 4,
        "failed_starts_total": 1,
        "respawns_total": 40,
        "ceiling_reached_total": 3,
        "reloads_total": 2,
        "request_age_max_seconds": 7.5,
        "worker_age_max_seconds": 11_000,
        "worker_requests_max": 12_034,
        "worker_memory_max_bytes": 245 * 2**20,
        "memory_bytes": (5 * 123 + 9 + 245) * 2**20,
        "proportional_memory_bytes": 7 * 61 * 2**20,
    }
    assert {name: value(found, name) for name in said} == said
    assert value(found, "workers", state="idle") == 3
    assert value(found, "workers", state="in_request") == 1
    assert value(found, "generation_workers", generation="1") == 7
    assert value(found, "retired_workers_total", reason="max_requests") == 30
    (info,) = found["pool"].samples
    assert info.labels == {"pool": "shop", "kind": "dynamic", "version": "0.1.0"}


@pytest.mark.parametrize("level", ["ok", "busy", "down"])
def test_the_verdict_is_a_set_of_states(level: str) -> None:
    counts = {"ok": {"idle": 1}, "busy": {"in_request": 8}, "down": {"leaving": 1}}[level]
    found = families(pool(workers=workers(**counts)))
    name = metrics.PREFIX + "verdict"
    assert {sample.labels[name]: sample.value for sample in found["verdict"].samples} == {
        each: float(each == level) for each in ("ok", "busy", "down")
    }


def test_every_limit_is_there_with_its_unit() -> None:
    found = families(pool())
    limits = {
        "limit_n_processes": 8,
        "limit_min_spare": 1,
        "limit_max_spare": 3,
        "limit_start_servers": 2,
        "limit_max_requests": 10_000,
        "limit_max_memory_bytes": 200 * 2**20,
        "limit_max_age_seconds": 3600,
        "limit_request_timeout_seconds": 30,
        "limit_slow_after_seconds": 2.5,
        "limit_babysit_seconds": None,
    }
    assert {name: value(found, name) for name in limits} == limits
    assert len([name for name in found if name.startswith("limit_")]) == len(LIMITS) == len(limits)


def test_every_family_has_a_help_a_unit_where_it_has_one_and_the_pool() -> None:
    for name, family in families(pool()).items():
        assert family.documentation.endswith(".")
        unit = name.rpartition("_")[2]
        assert family.unit == (unit if unit in UNITS else "")
        assert all(sample.labels["pool"] == "shop" for sample in family.samples)
        assert all(sample.name.endswith("_total") for sample in family.samples if family.type == "counter")


def test_a_limit_that_a_help_names_can_be_there() -> None:
    known = {f"limit_{name}" for name in families(pool()) for name in re.findall("^limit_(.*)", name)}
    for family in families(pool()).values():
        assert set(re.findall(r"limit_\w+", family.documentation)) <= known


def test_what_is_not_known_has_no_sample() -> None:
    found = families(empty())
    absent = ("listen_queue", "listen_queue_limit", "worker_memory_max_bytes", "memory_bytes", "worker_age_max_seconds")
    assert all(value(found, name) is None for name in absent)
    assert value(found, "workers", state="idle") == 0
    assert value(found, "request_age_max_seconds") == 0
    assert value(families(pool(reload_failure="no")), "last_reload_successful") == 0


def test_several_pools_are_told_apart_by_their_names() -> None:
    found = families(pool(), pool(name="blog", accepted=5, limits={"n_processes": 2}))
    assert value(found, "requests_total", pool="shop") == 1_234_567
    assert value(found, "requests_total", pool="blog") == 5
    assert value(found, "limit_n_processes", pool="blog") == 2
    assert value(found, "limit_max_age_seconds", pool="blog") is None
    assert families() is not None


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_name_is_a_label_and_what_clients_send_is_none(text: str) -> None:
    found = families(hostile(text))
    assert value(found, "requests_total") == 1_234_567
    assert len(found["deadly_addresses"].samples) == 1
    benign = hostile("x")
    assert metrics.render([benign]).count(b"\n") == metrics.render([hostile(text)]).count(b"\n")


def test_a_thousand_workers_are_no_more_series_than_one() -> None:
    assert metrics.render([crowded()]).count(b"\n") == metrics.render([crowded(6)]).count(b"\n")


def test_without_the_client_one_line_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['prometheus_client'] = None\n"
        "from fcgi_procmanager.status import metrics\n"
        "try: metrics.render([])\n"
        "except ValueError as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "ConfigError metrics need prometheus-client: pip install 'fcgi-procmanager[metrics]'\n"
