"""A pool for a terminal: the verdict, a few lines about the pool, then a line for each worker, the most urgent one first.

No line is wider than it is told, and nothing that a client sent reaches the terminal raw (visible.py). Columns that find no room are
left out, the least needed one first. Pure: how wide the terminal is, and whether it has colours, is the caller's to know.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Callable, NamedTuple

from . import wording
from .facts import facts, last_request
from .snapshot import IDLE, IN_REQUEST, LEAVING, LONG, READING, STARTING, PoolStatus, WorkerStatus
from .verdict import BUSY, DOWN, OK, verdict
from .visible import columns, cut, padded, visible

NARROWEST = 20
_LABEL = 10  # columns
_GAP = "  "
_LEAST_REQUEST = 18  # columns; what is left for the address is never less, as long as a column can be left out
_SHORT_ITEM = 30  # columns
_BOND = "\xa0"

_RESET, _BOLD, _DIM = "\x1b[0m", "\x1b[1m", "\x1b[2m"
_GREEN, _YELLOW, _RED, _BLUE = "\x1b[32m", "\x1b[33m", "\x1b[31m", "\x1b[34m"
_LEVEL_COLOURS = {OK: _BOLD + _GREEN, BUSY: _BOLD + _YELLOW, DOWN: _BOLD + _RED}
_STATE_COLOURS = {LONG: _RED, IN_REQUEST: _BLUE, READING: _BLUE, LEAVING: _YELLOW, STARTING: _YELLOW, IDLE: _DIM}


class Column(NamedTuple):
    """text: what stands in it for a worker at a time. needed: the one with the least goes first where there is no room."""

    title: str
    needed: int
    right: bool
    text: Callable[[WorkerStatus, float], str]


COLUMNS = (
    Column("PID", 9, True, lambda worker, now: str(worker.pid)),
    Column("GEN", 2, True, lambda worker, now: str(worker.generation)),
    Column("STATE", 8, False, lambda worker, now: visible(worker.state, 12)),
    Column("TIME", 7, True, lambda worker, now: wording.duration(worker.request_seconds) if worker.requests else "-"),
    Column("CPU", 5, True, lambda worker, now: wording.percent(worker.cpu)),
    Column("RSS", 6, True, lambda worker, now: wording.size(worker.memory)),
    Column("PSS", 1, True, lambda worker, now: wording.size(worker.pss)),
    Column("REQUESTS", 4, True, lambda worker, now: str(worker.requests)),
    Column("AGE", 3, True, lambda worker, now: wording.duration(worker.age(now))),
)


def render(pool: PoolStatus, width: int = 80, colour: bool = False, full: bool = True) -> str:
    """Lines of at most `width` columns, each with its newline. full: with the workers."""
    width = max(width, NARROWEST)
    judged = verdict(pool)
    lines = [_coloured(line, _LEVEL_COLOURS[judged.level], colour) for line in _wrapped(visible(str(judged)), width)]
    lines += ["", *_about(pool, width)]
    if full and pool.workers:
        workers = pool.most_urgent_first()
        heading, *rows = grid(workers, pool.now, width)
        lines += ["", _coloured(heading, _BOLD, colour)]
        lines += [_coloured(row, _STATE_COLOURS.get(one.state, ""), colour) for row, one in zip(rows, workers)]
    return "".join(f"{line}\n" for line in lines)


def _about(pool: PoolStatus, width: int) -> Iterator[str]:
    """A label, then its text, over as many lines as it takes."""
    room = width - _LABEL
    for label, text in facts(pool):
        for number, line in enumerate(_wrapped(_bound(text), room)):
            yield padded("" if number else label, _LABEL) + line.replace(_BOND, " ")


def _bound(text: str) -> str:
    """With the words of each short item of a list kept together. The bond is not in a visible text."""
    items = text.split(", ")
    return ", ".join(item.replace(" ", _BOND) if columns(item) <= _SHORT_ITEM else item for item in items)


def _wrapped(text: str, width: int) -> Iterator[str]:
    """Broken between words; a word that is too long is broken anywhere. The words are visible already."""
    line = ""
    for word in text.split(" "):
        joined = f"{line} {word}" if line else word
        if columns(joined) <= width:
            line = joined
            continue
        if line:
            yield line
        *whole, line = _chopped(word, width)
        yield from whole
    yield line


def _chopped(word: str, width: int) -> Iterator[str]:
    while columns(word) > width:
        piece = cut(word, width + 1)[:-1]  # without its ellipsis: what follows is on the next line
        yield piece
        word = word[len(piece) :]
    yield word


def grid(workers: Sequence[WorkerStatus], now: float, width: int) -> list[str]:
    """A heading, then a line for each worker in this order, each of at most `width` columns."""
    texts = {column: [column.text(worker, now) for worker in workers] for column in COLUMNS}
    widths = {column: max(map(columns, [column.title, *texts[column]])) for column in COLUMNS}
    shown = _those_with_room(widths, width)
    room = width - sum(widths[column] + len(_GAP) for column in shown)

    def line(cells: Iterable[str], last: str) -> str:
        whole = [padded(cell, widths[column], column.right) for column, cell in zip(shown, cells)]
        return _joined([*whole, cut(last, room)] if room > 0 else whole, width)

    heading = line((column.title for column in shown), "REQUEST")
    rows = [[texts[column][number] for column in shown] for number in range(len(workers))]
    return [heading, *(line(cells, last_request(worker)) for cells, worker in zip(rows, workers))]


def _joined(cells: Iterable[str], width: int) -> str:
    return cut(_GAP.join(cells).rstrip(" "), width)


def _those_with_room(widths: Mapping[Column, int], width: int) -> list[Column]:
    shown = list(COLUMNS)
    while len(shown) > 1 and sum(widths[column] + len(_GAP) for column in shown) + _LEAST_REQUEST > width:
        shown.remove(min(shown, key=lambda column: column.needed))
    return shown


def _coloured(line: str, code: str, colour: bool) -> str:
    return f"{code}{line}{_RESET}" if colour and code else line
