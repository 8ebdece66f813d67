"""A pool as a page for people: one document that needs nothing else, neither a script nor a picture from elsewhere.

Everything that is not ours is written by `_text`, which escapes control characters and markup; nothing else may put a string of a
pool into the page. `HEADERS` forbid a browser to run or to load anything should that fail. Pure; runs in any process.
"""

from __future__ import annotations

import base64
import hashlib
import html
import time
from collections.abc import Iterator, Sequence
from typing import Callable, NamedTuple

from . import picture, wording
from .facts import facts, last_request
from .look import STYLE
from .snapshot import IDLE, IN_REQUEST, LEAVING, LONG, READING, STARTING, PoolStatus, Sample, WorkerStatus
from .verdict import verdict
from .visible import visible

CONTENT_TYPE = "text/html; charset=utf-8"
_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
HEADERS = (
    ("Content-Type", CONTENT_TYPE),
    ("Cache-Control", "no-store"),
    (
        "Content-Security-Policy",
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
)

REFRESH = 5  # seconds
_LONGEST = 200  # columns of any string
_WORD = 20  # columns of what is a word of ours, or of another release
_RECENTLY = 60.0  # seconds over which the rate is taken
_LATEST_DATE = 253402300799  # the end of the year 9999

_CLASSES = {
    LONG: "long",
    IN_REQUEST: "active",
    READING: "active",
    LEAVING: "leaving",
    STARTING: "starting",
    IDLE: "idle",
}


def render(pool: PoolStatus, refresh: int = REFRESH) -> bytes:
    """UTF-8. refresh: seconds after which a browser asks again; 0 for never."""
    return "".join(_page(pool, refresh)).encode("utf-8")


def _text(text: str, limit: int = _LONGEST) -> str:
    """What may be anything, as text of an element or in a quoted attribute. limit: columns, at least 1."""
    return html.escape(visible(text, limit))


def _page(pool: PoolStatus, refresh: int) -> Iterator[str]:
    judged = verdict(pool)
    name = _text(pool.name) or "pool"
    yield '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    yield '<meta name="robots" content="noindex">\n<link rel="icon" href="data:,">\n'
    if refresh:
        yield f'<meta http-equiv="refresh" content="{refresh}">\n'
    yield f"<title>{judged.level}: {name}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
    yield f'<header><h1>{name}</h1> <span class="soft">{_text(pool.kind, _WORD)}</span></header>\n'
    yield f'<p class="verdict {judged.level}"><strong>{_text(judged.word, _WORD)}</strong> {_text(judged.reason, 2 * _LONGEST)}</p>\n'
    yield from _tiles(pool)
    yield from _history(pool)
    yield from _workers(pool)
    yield from _facts(pool)
    yield f"</main>\n<footer>{_moment(pool.now)}, fcgi-procmanager {_text(pool.version, _WORD)}</footer>\n</body>\n</html>\n"


# The numbers of the moment


def _tiles(pool: PoolStatus) -> Iterator[str]:
    ceiling = "" if pool.ceiling is None else f"of {wording.number(pool.ceiling)}"
    rate = _rate(pool.history)
    memory = [worker.memory for worker in pool.workers if worker.memory is not None]
    queue = "-" if pool.queue is None else wording.number(pool.queue)
    of_queue = "" if pool.queue_limit is None else f"of {wording.number(pool.queue_limit)}"
    yield '<dl class="tiles">\n'
    yield _tile("Idle", wording.number(pool.idle), ceiling)
    yield _tile("In a request", wording.number(pool.active), ceiling)
    yield _tile("Waiting", queue, of_queue)
    yield _tile("Requests", "-" if rate is None else f"{rate:.3g}", "a second")
    yield _tile("Memory", wording.size(sum(memory)) if memory else "-", "in all")
    yield "</dl>\n"


def _tile(label: str, value: str, beside: str) -> str:
    return f"<div><dt>{label}</dt><dd>{value} <small>{beside}</small></dd></div>\n"


def _rate(history: Sequence[Sample]) -> float | None:
    """Requests a second over the last minute, None when that is not known."""
    if not history:
        return None
    last = history[-1]
    first = next(sample for sample in history if sample.at >= last.at - _RECENTLY)
    return max(0.0, (last.requests - first.requests) / (last.at - first.at)) if last.at > first.at else None


# The picture


def _history(pool: PoolStatus) -> Iterator[str]:
    shown = picture.samples(pool)
    if not shown:
        yield '<p class="soft">No history yet.</p>\n'
        return
    edges = picture.scale(pool, shown)
    top = f"{wording.plural(int(edges.workers), 'worker')}, the limit" if edges.ceiling else ""
    yield f'<figure>\n<div class="soft axis"><span>{top}</span></div>\n{picture.render(pool)}\n'
    yield f'<div class="soft axis"><span>{wording.duration(edges.seconds)} ago</span><span>now</span></div>\n'
    yield '<figcaption><ul class="legend">\n'
    for name, label, values in (
        ("active", "in a request", [sample.active for sample in shown]),
        ("idle", "idle", [sample.idle for sample in shown]),
        ("starting", "starting", [sample.starting for sample in shown]),
        ("queue", "waiting connections, on their own scale", [sample.queue for sample in shown]),
    ):
        if any(values):
            yield f'<li><i class="{name}"></i>{label}, at most {wording.number(max(values))}</li>\n'
    yield "</ul></figcaption>\n</figure>\n"


# The workers


class _Column(NamedTuple):
    """limit: the name of the one that belongs beside it. text: markup for a worker at a time."""

    title: str
    limit: str
    text: Callable[[WorkerStatus, float], str]


def _state(worker: WorkerStatus) -> str:
    return f'<span class="state {_CLASSES.get(worker.state, "")}">{_text(worker.state, _WORD)}</span>'


def _lasts(worker: WorkerStatus) -> str:
    return wording.duration(worker.request_seconds) if worker.requests else "-"


# The style sheet knows them by their places (look.py).
_COLUMNS = (
    _Column("PID", "", lambda worker, now: str(worker.pid)),
    _Column("State", "", lambda worker, now: _state(worker)),
    _Column("Time", "request_timeout", lambda worker, now: _lasts(worker)),
    _Column("CPU", "", lambda worker, now: wording.percent(worker.cpu)),
    _Column("Memory", "max_memory", lambda worker, now: wording.size(worker.memory)),
    _Column("PSS", "", lambda worker, now: wording.size(worker.pss)),
    _Column("Requests", "max_requests", lambda worker, now: wording.number(worker.requests)),
    _Column("Age", "max_age", lambda worker, now: wording.duration(worker.age(now))),
    _Column("Generation", "", lambda worker, now: str(worker.generation)),
    _Column("Request", "", lambda worker, now: _text(last_request(worker)) or "-"),
)


def _workers(pool: PoolStatus) -> Iterator[str]:
    if not pool.workers:
        yield '<p class="soft">No worker.</p>\n'
        return
    # The roles are told again because a narrow screen lays the cells out anew, and then browsers forget that this is a table.
    yield '<table role="table">\n<caption>Workers, the longest request first</caption>\n'
    yield '<thead role="rowgroup"><tr role="row">'
    for column in _COLUMNS:
        yield f'<th role="columnheader" scope="col">{column.title}{_limit(pool, column.limit)}</th>'
    yield '</tr></thead>\n<tbody role="rowgroup">\n'
    for worker in pool.most_urgent_first():
        cells = "".join(f'<td role="cell">{column.text(worker, pool.now)}</td>' for column in _COLUMNS)
        yield f'<tr role="row">{cells}</tr>\n'
    yield "</tbody>\n</table>\n"


def _limit(pool: PoolStatus, name: str) -> str:
    value = pool.limits.get(name)
    return "" if value is None else f" <small>of {wording.limit(name, value)}</small>"


# The rest


def _facts(pool: PoolStatus) -> Iterator[str]:
    yield '<dl class="facts">\n'
    for label, text in facts(pool):
        yield f"<div><dt>{label}</dt><dd>{html.escape(text)}</dd></div>\n"
    yield "</dl>\n"


def _moment(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(min(max(at, 0.0), _LATEST_DATE)))
