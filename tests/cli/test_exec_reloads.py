"""Ten reloads of `exec` under continuous load: no request is lost, and each one replaces every copy."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cli.programs import PROGRAMS, Folder, Load
from harness.process import alive

IDLE_IS_SEEN = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux tells whether a program has a connection in hand"
)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "options", "env"),
    [
        pytest.param("libfcgi", ["--stop-signal", "USR1"], {}, id="libfcgi by USR1"),
        pytest.param("perl", ["--stop-signal", "HUP"], {}, id="perl by HUP", marks=IDLE_IS_SEEN),
        pytest.param("plain", [], {}, id="a program that knows no signal", marks=IDLE_IS_SEEN),
        pytest.param(
            *("plain", ["--stop-when-idle"], {"ON_TERM": "flag"}),
            id="one that notes TERM and is killed by the second",
            marks=IDLE_IS_SEEN,
        ),
    ],
)
def test_ten_reloads_under_load_lose_nothing(
    folder: Folder, tmp_path: Path, name: str, options: list[str], env: dict[str, str]
) -> None:
    script = folder.exec(PROGRAMS[name](tmp_path), "--interval", "0.2", *options, n=2, env=env)
    seen = {*script.workers()}
    with Load(folder.sock_path) as load:
        load.wait_more(20)
        for _ in range(10):
            before = script.workers()
            folder.control("reload")
            assert not any(map(alive, before)), script.log()
            after = {*script.wait_workers(2)}
            assert not after & seen
            seen |= after
            load.wait_more(20)
            assert load.wrong == [], script.log()
    assert load.wrong == [], script.log()
    assert len(seen) == 22
    assert load.pids <= seen
    assert len(load.pids) >= 11, "each generation has answered"
    assert script.stop() == 0
