"""The dashboard and the alert rules use what is exported, and nothing else."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fcgi_procmanager.status import metrics
from harness.tools import require
from status.pools import pool

pytest.importorskip("prometheus_client", reason="prometheus-client is not installed")

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
RULES = EXAMPLES / "alerts.yml"
DASHBOARD = EXAMPLES / "grafana-dashboard.json"


@pytest.fixture(scope="module")
def exported() -> dict[str, set[str]]:
    """The labels of each sample, by its name."""
    from prometheus_client.openmetrics.parser import text_string_to_metric_families

    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(metrics.render([pool()]).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def expressions(value: Any) -> Iterator[str]:
    """Every query in a dashboard."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key in ("expr", "query") and isinstance(item, str):
                yield item
            else:
                yield from expressions(item)
    elif isinstance(value, list):
        for item in value:
            yield from expressions(item)


def rules() -> list[dict[str, Any]]:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def test_the_rules_use_what_is_exported(exported: dict[str, set[str]]) -> None:
    for rule in rules():
        check(rule["expr"], exported)
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) <= {"pool", "instance"}
    assert len({rule["alert"] for rule in rules()}) == len(rules()) > 5


def test_the_dashboard_uses_what_is_exported(exported: dict[str, set[str]]) -> None:
    board = json.loads(DASHBOARD.read_text())
    queries = [query for query in expressions(board) if metrics.PREFIX in query]
    for query in queries:
        check(query, exported)
    assert len(queries) > 15
    used = {name for query in queries for name in names(query)}
    limits = {name for name in exported if name.startswith(f"{metrics.PREFIX}limit_")}
    beside = {f"{metrics.PREFIX}limit_{name}" for name in ("n_processes", "max_memory_bytes", "max_age_seconds")}
    assert beside <= used & limits


def test_the_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    panels = json.loads(DASHBOARD.read_text())["panels"]
    for panel in panels:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in panels}) == len(panels)


def names(query: str) -> list[str]:
    return re.findall(rf"\b{metrics.PREFIX}\w+", query)


def check(query: str, exported: dict[str, set[str]]) -> None:
    assert names(query)
    for name in names(query):
        assert name in exported, f"{name} in {query!r} is not exported"
    for name, selector in re.findall(rf"\b({metrics.PREFIX}\w+)\{{([^}}]*)\}}", query):
        assert set(re.findall(r"(\w+)\s*=", selector)) <= exported[name], (
            f"{query!r} asks for labels that are not there"
        )


def test_prometheus_takes_the_rules_and_the_queries(tmp_path: Path) -> None:
    """The queries of the dashboard as rules, with what Grafana puts into them."""
    queries = [query for query in expressions(json.loads(DASHBOARD.read_text())) if metrics.PREFIX in query]
    plain = [query.replace("$__rate_interval", "1m").replace("$pool", ".*") for query in queries]
    panels = [
        {"record": "panel", "expr": query, "labels": {"n": str(n)}}
        for n, query in enumerate(plain)
        if "label_values" not in query
    ]
    board = tmp_path / "dashboard.yml"
    board.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": panels}]}))  # JSON is YAML
    command = [require("promtool"), "check", "rules", "--lint-fatal", str(RULES), str(board)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
