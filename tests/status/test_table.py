"""The table on a terminal: it fits, it is harmless, and the first line is the verdict."""

from __future__ import annotations

import re

import pytest

from fcgi_procmanager.status import table
from fcgi_procmanager.status.snapshot import IDLE, LONG, PoolStatus
from fcgi_procmanager.status.verdict import verdict
from fcgi_procmanager.status.visible import columns
from status.pools import HOSTILE, crowded, empty, hostile, pool, worker, workers

POOLS = {
    "ordinary": pool(),
    "empty": empty(),
    "crowded": crowded(),
    **{name: hostile(text) for name, text in HOSTILE.items()},
}


def rows(text: str) -> list[str]:
    """The lines of the workers."""
    return text.rsplit("REQUEST\n", maxsplit=1)[-1].splitlines()


@pytest.mark.parametrize("width", [1, 20, 40, 61, 80, 100, 250])
@pytest.mark.parametrize("name", POOLS)
def test_it_fits_and_is_harmless(name: str, width: int) -> None:
    for line in table.render(POOLS[name], width).splitlines():
        assert columns(line) <= max(width, table.NARROWEST)
        assert line.isprintable()
        line.encode()


@pytest.mark.parametrize("name", POOLS)
def test_colours_are_ours_only(name: str) -> None:
    plain, coloured = table.render(POOLS[name], 80), table.render(POOLS[name], 80, colour=True)
    assert re.sub(r"\x1b\[\d+m", "", coloured) == plain
    assert coloured.count("\x1b") > 0
    assert "\x1b" not in plain


def test_the_verdict_comes_first() -> None:
    for given in (pool(), empty(), pool(workers=workers(in_request=8), queue=9)):
        assert table.render(given, 250).splitlines()[0] == str(verdict(given))


def test_a_line_for_each_worker_the_most_urgent_one_first() -> None:
    found = rows(table.render(pool(), 120))
    assert [line.split()[0] for line in found] == ["4716", "4715", "4717", "4718", "4719", "4712", "4713", "4714"]
    assert found[0].split() == [
        "4716",
        "1",
        "long",
        "7.5s",
        "99%",
        "123M",
        "61M",
        "12034",
        "3h03m",
        "POST",
        "/reports/2026/annual?format=pdf",
    ]
    assert found[4].split() == ["4719", "2", "starting", "-", "-", "-", "61M", "0", "1.0s"]
    assert found[3].endswith("[max_memory] GET /articles/4718?page=2")
    assert len(rows(table.render(crowded(), 80))) == 1000


def test_what_finds_no_room_is_left_out() -> None:
    def head(width: int) -> list[str]:
        return next(line for line in table.render(pool(), width).splitlines() if line.endswith("REQUEST")).split()

    assert head(110) == ["PID", "GEN", "STATE", "TIME", "CPU", "RSS", "PSS", "REQUESTS", "AGE", "REQUEST"]
    assert head(60) == ["PID", "STATE", "TIME", "CPU", "RSS", "REQUEST"]
    assert head(40) == ["PID", "STATE", "REQUEST"]


def test_a_long_address_is_cut_and_a_wider_terminal_shows_more() -> None:
    given = pool(workers=(worker(1, LONG, uri="/" + "x" * 10_000),))
    for width in (80, 200):
        (line,) = rows(table.render(given, width))
        assert len(line) == width
        assert line.endswith("x…")


def test_without_workers() -> None:
    assert "PID" not in table.render(pool(), full=False)
    assert "PID" not in table.render(empty())
    assert table.render(empty()).startswith("down: nobody can serve")


def test_every_limit_that_is_set_is_shown() -> None:
    text = " ".join(table.render(pool(), 80).split())
    for part in ("n_processes 8,", "max_requests 10,000", "max_memory 200M", "max_age 1h00m", "slow_after 2.5s"):
        assert part in text
    assert "babysit" not in text


def test_what_is_nothing_is_not_said() -> None:
    quiet = PoolStatus(name="quiet", workers=(worker(1, IDLE),), pid=5)
    labels = [line.split()[0] for line in table.render(quiet, full=False).splitlines()[2:]]
    assert labels == ["pool", "workers", "queue", "requests"]


def test_a_failed_reload_and_its_reason() -> None:
    text = table.render(pool(reload_failure="ImportError: no module named x"), 120)
    assert "reloads   2, the last one failed: ImportError: no module named x\n" in text
