"""A pool on a terminal, as it changes: the extra `top`.

What is on the screen is a pure function of a snapshot, the size of the terminal and the keys so far. `show` alone loads rich, which
knows terminals; it neither waits nor reads by itself: `ask` says how the pool is, `wait` waits for a key. Runs in the command only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Callable, NamedTuple

from ..errors import ConfigError
from . import table, wording
from .facts import facts
from .snapshot import IDLE, IN_REQUEST, LEAVING, LONG, READING, STARTING, PoolStatus, WorkerStatus
from .verdict import BUSY, DOWN, OK, verdict
from .visible import cut, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

INTERVAL = 1.0  # seconds
QUIT = "q"

Ask = Callable[[], PoolStatus]
# Waits for a key, for so many seconds at most: the key, nothing when there was none, None at the end of the input.
Wait = Callable[[float], "str | None"]


class Order(NamedTuple):
    """name: what the last line calls it. most: what the first worker has the most of; nothing for the most urgent one."""

    name: str
    most: Callable[[WorkerStatus], float | None] | None


ORDERS = {
    "u": Order("urgency", None),
    "c": Order("CPU", lambda worker: worker.cpu),
    "m": Order("memory", lambda worker: worker.memory),
    "t": Order("time", lambda worker: worker.request_seconds),
    "r": Order("requests", lambda worker: worker.requests),
}
_FACTS = ("pool", "workers", "queue", "requests", "trouble", "deadly")
_LABEL = 10  # columns
_BARS = " ▁▂▃▄▅▆▇█"
_LEAST_WORKERS = 3  # so many lines are theirs, however low the terminal is

_LEVEL_STYLES = {OK: "bold green", BUSY: "bold yellow", DOWN: "bold red"}
_STATE_STYLES = {LONG: "red", IN_REQUEST: "blue", READING: "blue", LEAVING: "yellow", STARTING: "yellow", IDLE: "dim"}


class Line(NamedTuple):
    text: str
    style: str = ""


class View:
    """What somebody has chosen by keys, and what they see."""

    def __init__(self) -> None:
        self.order: Order = ORDERS["u"]

    def press(self, key: str) -> bool:
        """Whether to go on. A key without a meaning changes nothing."""
        self.order = ORDERS.get(key.lower(), self.order)
        return key.lower() != QUIT

    def sorted(self, pool: PoolStatus) -> list[WorkerStatus]:
        workers, most = pool.most_urgent_first(), self.order.most
        return workers if most is None else sorted(workers, key=lambda worker: _descending(most(worker)))

    def lines(self, pool: PoolStatus, width: int, height: int) -> list[Line]:
        """At most `height` lines of at most `width` columns, all of them visible."""
        above = [line._replace(text=cut(line.text, width)) for line in _above(pool, width)]
        above = above[: max(1, height - _LEAST_WORKERS - 2)]
        workers = self.sorted(pool)
        room = max(0, height - len(above) - 2)  # without the heading and the keys
        heading, *rows = table.grid(workers[:room], pool.now, width)
        styled = [Line(row, _STATE_STYLES.get(worker.state, "")) for row, worker in zip(rows, workers)]
        keys = Line(cut(self._keys(len(workers) - len(styled)), width), "reverse")
        return [*above, Line(heading, "bold"), *styled, keys][:height]

    def _keys(self, hidden: int) -> str:
        chosen = "  ".join(f"{key} {order.name}" for key, order in ORDERS.items())
        more = f"{wording.plural(hidden, 'more worker')}, " if hidden else ""
        return f" {chosen}  {QUIT} quit | {more}sorted by {self.order.name} "


def show(ask: Ask, wait: Wait, console: Console | None = None) -> None:
    """Until `q`, or the end of the input. What `ask` raises passes, once the terminal is as it was. Raises ConfigError when rich is
    not installed."""
    try:
        from rich.console import Console
        from rich.live import Live
    except ImportError:
        raise ConfigError("top needs rich: pip install 'fcgi-procmanager[top]'") from None
    console, view = console or Console(), View()
    with Live(console=console, screen=console.is_terminal, auto_refresh=False, transient=True) as live:
        while True:
            live.update(_text(view.lines(ask(), console.width, console.height)), refresh=True)
            key = wait(INTERVAL)
            if key is None or not view.press(key):
                return


def _text(lines: Sequence[Line]) -> Text:
    """Never a string of rich: it would read markup in it."""
    from rich.text import Text

    whole = Text(no_wrap=True, overflow="crop", end="")
    for number, line in enumerate(lines):
        whole.append("\n" if number else "").append(line.text, line.style or None)
    return whole


def _above(pool: PoolStatus, width: int) -> list[Line]:
    judged = verdict(pool)
    said = [Line(visible(str(judged)), _LEVEL_STYLES[judged.level])]
    said += [Line(f"{label:<{_LABEL}}{text}") for label, text in facts(pool) if label in _FACTS]
    bars = sparkline([sample.active for sample in pool.history], width - _LABEL, pool.ceiling)
    return [*said, *([Line(f"{'at work':<{_LABEL}}{bars}", "blue")] if bars else []), Line("")]


def sparkline(values: Sequence[int], width: int, ceiling: int | None = None) -> str:
    """The latest `width` values as bars. ceiling: a full bar, where none is higher."""
    shown = values[-width:] if width > 0 else []
    top = max(ceiling or 0, *shown, 1) if shown else 1
    steps = len(_BARS) - 1
    return "".join(_BARS[-(-max(0, value) * steps // top)] for value in shown)


def _descending(value: float | None) -> tuple[bool, float]:
    """What is not known comes last."""
    return value is None, -(value or 0.0)
