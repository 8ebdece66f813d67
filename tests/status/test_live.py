"""The live view: what keys change, what fits, and that the terminal is left as it was."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator

import pytest

from fcgi_procmanager.errors import ControlError
from fcgi_procmanager.status import live
from fcgi_procmanager.status.snapshot import PoolStatus
from fcgi_procmanager.status.visible import columns
from status.pools import HOSTILE, crowded, empty, hostile, pool, worker

POOLS = {
    "ordinary": pool(),
    "empty": empty(),
    "crowded": crowded(),
    **{name: hostile(text) for name, text in HOSTILE.items()},
}


@pytest.mark.parametrize("size", [(20, 5), (40, 12), (80, 24), (200, 60)], ids=str)
@pytest.mark.parametrize("name", POOLS)
def test_it_fits_and_is_harmless(name: str, size: tuple[int, int]) -> None:
    width, height = size
    lines = live.View().lines(POOLS[name], width, height)
    assert len(lines) <= height
    assert all(columns(line.text) <= width and line.text.isprintable() for line in lines)


def test_the_verdict_is_first_and_the_keys_are_last() -> None:
    lines = live.View().lines(pool(), 120, 30)
    assert lines[0] == ("ok: 3 of 8 workers idle, nothing waits", "bold green")
    assert lines[-1].text == " u urgency  c CPU  m memory  t time  r requests  q quit | sorted by urgency "
    assert [line.text.split()[0] for line in lines[-9:-1]] == [
        "4716",
        "4715",
        "4717",
        "4718",
        "4719",
        "4712",
        "4713",
        "4714",
    ]


@pytest.mark.parametrize(
    ("key", "pids"),
    [
        ("c", [2, 1, 3, 4]),
        ("m", [3, 1, 2, 4]),
        ("t", [1, 3, 2, 4]),
        ("r", [4, 3, 2, 1]),
        ("u", [1, 2, 3, 4]),
        ("C", [2, 1, 3, 4]),
    ],
)
def test_keys_choose_the_order(key: str, pids: list[int]) -> None:
    given = pool(
        workers=(
            worker(1, cpu=20.0, memory=200, request_seconds=9.0, requests=1),
            worker(2, cpu=90.0, memory=100, request_seconds=1.0, requests=2),
            worker(3, cpu=None, memory=300, request_seconds=2.0, requests=3),
            worker(4, cpu=None, memory=None, request_seconds=0.0, requests=4),
        )
    )
    view = live.View()
    assert view.press(key)
    assert [one.pid for one in view.sorted(given)] == pids
    assert view.press("x")
    assert [one.pid for one in view.sorted(given)] == pids


def test_q_ends_it() -> None:
    assert not live.View().press("q")
    assert not live.View().press("Q")
    assert live.View().press("")


def test_those_for_whom_there_is_no_room_are_counted() -> None:
    lines = live.View().lines(crowded(), 100, 24)
    assert len(lines) == 24
    shown = sum(line.text.lstrip()[:1].isdigit() for line in lines)
    assert f"| {1000 - shown} more workers, sorted by urgency" in lines[-1].text


def test_sparkline() -> None:
    assert live.sparkline([0, 1, 2, 4, 8], 10, 8) == " ▁▂▄█"
    assert live.sparkline([1, 2, 3], 2) == "▆█"
    assert live.sparkline([], 10) == live.sparkline([1], 0) == ""
    assert live.sparkline([-3, 5], 5, 1) == " █"


# With rich


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(pools: Iterator[PoolStatus], keys: list[str | None], colour: bool = True) -> str:
    """What a terminal of 100 columns gets."""
    console = pytest.importorskip("rich.console", reason="rich is not installed")
    screen = Screen()
    terminal = console.Console(
        file=screen, force_terminal=True, width=100, height=30, color_system="standard" if colour else None, _environ={}
    )
    left = iter(keys)
    live.show(lambda: next(pools), lambda seconds: next(left), terminal)
    return screen.getvalue()


def test_it_asks_again_until_q() -> None:
    pools = iter([pool(), pool(name="second"), pool(name="third"), pool(name="never")])
    text = shown(pools, ["", "m", "q"])
    assert "second, dynamic" in text
    assert "third, dynamic" in text
    assert "never" not in text
    assert "sorted by memory" in text
    assert text.startswith("\x1b[?1049h")
    assert text.endswith("\x1b[?25h\x1b[?1049l")


def test_the_end_of_the_input_ends_it() -> None:
    assert "shop" in shown(iter([pool()]), [None])


def test_a_pool_that_is_gone_leaves_the_terminal_as_it_was() -> None:
    console = pytest.importorskip("rich.console", reason="rich is not installed")
    screen = Screen()

    def ask() -> PoolStatus:
        if screen.getvalue().count("shop"):
            raise ControlError("the pool is gone")
        return pool()

    with pytest.raises(ControlError):
        live.show(
            ask, lambda seconds: "", console.Console(file=screen, force_terminal=True, width=80, height=24, _environ={})
        )
    assert "\x1b[?1049l" in screen.getvalue()
    assert "\x1b[?25h" in screen.getvalue()


@pytest.mark.parametrize("text", [*HOSTILE.values(), "[red]x[/red][link=file:///]y", "[/]"])
def test_no_string_is_markup_or_moves_the_cursor(text: str) -> None:
    found = shown(iter([hostile(text)]), ["q"], colour=False)
    plain = shown(iter([hostile("plain")]), ["q"], colour=False)
    assert _controls(found) == _controls(plain)
    if text.startswith("[red]"):
        assert text in found


def _controls(text: str) -> list[str]:
    return [char for char in text if not char.isprintable()]


def test_without_rich_one_line_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['rich'] = sys.modules['rich.console'] = None\n"
        "from fcgi_procmanager.status import live\n"
        "try: live.show(None, None)\n"
        "except ValueError as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "ConfigError top needs rich: pip install 'fcgi-procmanager[top]'\n"
