"""JSON with php-fpm's keys, held against a real php-fpm where there is one."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fcgi_procmanager.status import jsonform
from fcgi_procmanager.status.snapshot import PoolStatus
from harness import fcgi
from harness.process import listening, wait_until
from harness.tools import require_any
from status.pools import HOSTILE, LIMITS, NOW, crowded, empty, hostile, pool

# What php-fpm says of a request besides and we do not know, and what newer ones add.
NOT_OURS = {"content length", "user", "script"}
NEWER = {"memory peak"}


def rendered(given: PoolStatus, full: bool = False) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(jsonform.render(given, full))
    return found


def test_the_keys_of_php_fpm_their_types_and_units() -> None:
    found = rendered(pool())
    assert list(found)[:14] == [
        "pool", "process manager", "start time", "start since", "accepted conn", "listen queue", "max listen queue",
        "listen queue len", "idle processes", "active processes", "total processes", "max active processes",
        "max children reached", "slow requests",
    ]  # fmt: skip
    assert list(found.values())[:14] == [
        "shop", "dynamic", NOW - 273_600, 273_600, 1_234_567, 0, 12, 1024, 3, 4, 8, 8, 3, 17,
    ]  # fmt: skip
    assert all(type(found[key]) is int for key in list(found)[2:14])
    assert "processes" not in found


def test_a_process() -> None:
    processes = rendered(pool(), full=True)["processes"]
    assert [one["pid"] for one in processes] == list(range(4712, 4720))
    assert processes[4] == {
        "pid": 4716,
        "state": "Running",
        "start time": NOW - 11_000,
        "start since": 11_000,
        "requests": 12_034,
        "request duration": 7_500_000,
        "request method": "POST",
        "request uri": "/reports/2026/annual?format=pdf",
        "last request cpu": 99.1,
        "last request memory": 123 * 2**20,
        "worker state": "long",
        "generation": 1,
        "memory pss": 61 * 2**20,
        "leaves because": "",
    }
    assert [one["state"] for one in processes] == ["Idle"] * 3 + ["Running"] * 2 + [
        "Reading headers",
        "Finishing",
        "Creating",
    ]
    blank = processes[2]
    assert (blank["request method"], blank["request uri"], blank["last request cpu"]) == ("-", "-", 0.0)
    assert type(blank["request duration"]) is int
    assert type(blank["last request cpu"]) is float


def test_more_beside_them() -> None:
    found = rendered(pool(reload_failure="no", queue=3))
    assert found["limits"] == {name.replace("_", " "): value for name, value in LIMITS.items()}
    assert found["verdict"].startswith("ok: 3 of 8 workers idle, 3 connections wait")
    assert (found["level"], found["worker deaths"], found["reload failure"]) == ("ok", 4, "no")
    assert found["deadly requests"][0] == {"request method": "POST", "request uri": "/pay", "deaths": 3}
    assert (found["starting processes"], found["leaving processes"]) == (1, 1)
    assert found["retired workers"] == {"max_requests": 30, "max_memory": 5}


def test_a_queue_that_is_not_known_is_0_as_in_php_fpm_and_says_so() -> None:
    found = rendered(pool(queue=None, queue_limit=None))
    assert (found["listen queue"], found["listen queue len"]) == (0, 0)
    assert (found["listen queue known"], found["listen queue exact"]) == (False, False)


def test_every_key_is_in_lower_case_with_spaces() -> None:
    found = rendered(pool(), full=True)
    for keys in (found, found["limits"], *found["processes"], *found["deadly requests"]):
        assert all(key == key.lower() and "_" not in key for key in keys)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_string_arrives_as_it_is_but_for_surrogates(text: str) -> None:
    data = jsonform.render(hostile(text), full=True)
    assert data.isascii()
    assert b"\n" not in data
    uri = json.loads(data)["processes"][0]["request uri"]
    uri.encode()
    if "\udcff" not in text:
        assert uri == text


def test_nobody_and_a_thousand() -> None:
    assert rendered(empty(), full=True)["processes"] == []
    assert len(rendered(crowded(), full=True)["processes"]) == 1000


# php-fpm itself


@pytest.fixture
def php_fpm_status(tmp_path: Path, sock_path: str) -> dict[str, Any]:
    """What a real one says of itself."""
    program = require_any("php-fpm", "php-fpm8.4", "php-fpm8.3", "php-fpm8.2", "php-fpm8.1", "php-fpm7.4")
    config = tmp_path / "php-fpm.conf"
    as_root = os.geteuid() == 0
    config.write_text(
        f"[global]\nerror_log={tmp_path}/log\n[shop]\nlisten={sock_path}\npm=dynamic\npm.max_children=3\npm.start_servers=1\n"
        "pm.min_spare_servers=1\npm.max_spare_servers=2\npm.status_path=/status\n" + ("user=root\n" if as_root else "")
    )
    command = [program, "-n", "-F", "-y", str(config), *(["-R"] if as_root else [])]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: process.poll() is not None or listening(sock_path), 60, "php-fpm")
        assert process.poll() is None, (tmp_path / "log").read_text()
        return json.loads(_asked(sock_path))  # type: ignore[no-any-return]
    finally:
        process.terminate()
        process.wait(60)
        Path(sock_path).unlink(missing_ok=True)


def _asked(address: str) -> str:
    return fcgi.fetch(address, "/status?json&full", SCRIPT_NAME="/status", SCRIPT_FILENAME="/status").text


def test_a_real_php_fpm_says_the_same_keys_with_the_same_types(php_fpm_status: dict[str, Any]) -> None:
    ours, theirs = rendered(pool(), full=True), php_fpm_status
    for mine, other, excused in ((ours, theirs, NEWER), (ours["processes"][0], theirs["processes"][0], NOT_OURS)):
        keys = [key for key in other if key not in excused]
        assert [key for key in mine if key in keys] == keys
        assert {key: type(mine[key]) for key in keys} == {key: type(other[key]) for key in keys}
