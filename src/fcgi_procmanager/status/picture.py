"""The pool over the last minutes, as a picture in a page: who was at work, who was idle, and what waited.

Workers are areas, one upon the other, in steps: between two samples nothing is known. What waited is a line with a scale of its own.
There is no text in the picture but for its title and description, so that it can be stretched; the page says the rest. Colours are the
page's, by class. Pure; runs in any process.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .snapshot import PoolStatus, Sample
from .wording import duration, plural

_WIDTH, _HEIGHT = 1000, 200
_MOST_STEPS = 400  # more cannot be told apart
_ROOM_ABOVE = 1.25  # where the ceiling is too far away to be in the picture
_FAR = 4  # so many times as high as everything else


class Scale(NamedTuple):
    """What the edges of the picture stand for. workers, queue: at its top. ceiling: whether it is in the picture."""

    first: float
    seconds: float
    workers: float
    queue: int
    ceiling: bool

    def x(self, at: float) -> float:
        return (at - self.first) / self.seconds * _WIDTH

    def y(self, workers: float) -> float:
        return _HEIGHT - workers / self.workers * _HEIGHT


def samples(pool: PoolStatus) -> list[Sample]:
    """The history in order, without more than can be told apart: of several, the busiest one stands."""
    whole = sorted(pool.history, key=lambda sample: sample.at)
    each = -(-len(whole) // _MOST_STEPS) or 1
    return [max(whole[at : at + each], key=_business)._replace(at=whole[at].at) for at in range(0, len(whole), each)]


def scale(pool: PoolStatus, shown: Sequence[Sample]) -> Scale:
    """shown: at least one."""
    highest = max(1, *(sample.active + sample.idle + sample.starting for sample in shown))
    ceiling = pool.ceiling or 0
    near = highest <= ceiling <= _FAR * highest
    return Scale(
        first=shown[0].at,
        seconds=max(pool.now - shown[0].at, shown[-1].at - shown[0].at, 1.0),
        workers=ceiling if near else highest * _ROOM_ABOVE,
        queue=max(sample.queue for sample in shown),
        ceiling=near,
    )


def render(pool: PoolStatus) -> str:
    """One `svg` element; nothing when there is no history."""
    shown = samples(pool)
    if not shown:
        return ""
    edges = scale(pool, shown)
    return "".join(_parts(pool, shown, edges))


def _parts(pool: PoolStatus, shown: Sequence[Sample], edges: Scale) -> Iterator[str]:
    yield f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img" aria-labelledby="pic-t pic-d">'
    yield f'<title id="pic-t">The pool over the last {duration(edges.seconds)}</title>'
    yield f'<desc id="pic-d">{html.escape(describe(shown))}</desc>'
    bottom = [0] * len(shown)
    for name, counts in (
        ("active", [sample.active for sample in shown]),
        ("idle", [sample.idle for sample in shown]),
        ("starting", [sample.starting for sample in shown]),
    ):
        top = [low + count for low, count in zip(bottom, counts)]
        if any(counts):
            yield f'<path class="area {name}" d="{_area(shown, bottom, top, edges)}"/>'
        bottom = top
    if edges.queue:
        line = _steps(shown, [_HEIGHT - sample.queue / edges.queue * _HEIGHT for sample in shown], edges)
        yield f'<path class="halo" d="M{line}"/><path class="queue" d="M{line}"/>'
    yield "</svg>"


def describe(shown: Sequence[Sample]) -> str:
    """The picture in words."""
    active = [sample.active for sample in shown]
    idle = [sample.idle for sample in shown]
    return (
        f"Workers in a request: {min(active)} to {max(active)}. Idle workers: {min(idle)} to {max(idle)}. "
        f"At most {plural(max(sample.queue for sample in shown), 'connection')} waited."
    )


def _area(shown: Sequence[Sample], low: Sequence[int], high: Sequence[int], edges: Scale) -> str:
    there = _steps(shown, [edges.y(value) for value in high], edges)
    back = _steps_back(shown, [edges.y(value) for value in low], edges)
    return f"M{there}L{back}Z"


def _steps(shown: Sequence[Sample], heights: Sequence[float], edges: Scale) -> str:
    """From left to right: each height lasts until the next sample, the last one until now."""
    path = f"0 {heights[0]:.1f}"
    for sample, before, height in zip(shown[1:], heights, heights[1:]):
        if height != before:
            path += f"H{edges.x(sample.at):.1f}V{height:.1f}"
    return f"{path}H{_WIDTH}"


def _steps_back(shown: Sequence[Sample], heights: Sequence[float], edges: Scale) -> str:
    path = f"{_WIDTH} {heights[-1]:.1f}"
    for number in range(len(shown) - 1, 0, -1):
        if heights[number] != heights[number - 1]:
            path += f"H{edges.x(shown[number].at):.1f}V{heights[number - 1]:.1f}"
    return f"{path}H0"


def _business(sample: Sample) -> tuple[int, int]:
    return sample.queue, sample.active
