"""Which workers to start and which to retire, so that a pool becomes what is wanted. Pure: a snapshot in, a step out.

Runs in the manager, each turn of its loop. Whether the step may be taken now is for others (respawn.py): a rollout says what is
missing, not how soon.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ..basics.clock import FOREVER
from .registry import Child, Children


class Snapshot(NamedTuple):
    """wanted: how many workers. generation: of those that are wanted. staying: oldest first. leaving: how many."""

    wanted: int
    generation: int
    staying: tuple[Child, ...]
    leaving: int


class Step(NamedTuple):
    start: int
    retire: tuple[Child, ...]


def snapshot(wanted: int, generation: int, workers: Children) -> Snapshot:
    return Snapshot(wanted, generation, tuple(workers.staying.values()), len(workers.leaving))


def plain(now: Snapshot) -> Step:
    """The original's HUP: everybody of an older generation leaves at once, and each is replaced when it is gone: one that is
    leaving still holds its place. Of the others those leave that are too many, the oldest first."""
    old = [child for child in now.staying if child.generation < now.generation]
    present = [child for child in now.staying if child.generation >= now.generation]
    surplus = _oldest(present, len(present) - now.wanted)
    start = now.wanted - len(now.staying) - now.leaving
    return Step(max(0, start), (*old, *surplus))


def rolling(now: Snapshot, at_a_time: int = 0) -> Step:
    """A new one first: so many (see `slice_of`) are started beside the older generation, and of that as many leave as have been
    replaced by one that is ready. One that is leaving holds no place: a long request must not hold the others up."""
    old = [child for child in now.staying if child.generation < now.generation]
    present = [child for child in now.staying if child.generation >= now.generation]
    trying = sum(child.ready_at == FOREVER for child in present)
    if not old:
        surplus = _oldest(present, len(present) - now.wanted)
        return Step(max(0, now.wanted - len(present)), tuple(surplus))
    gone = now.wanted - len(now.staying)  # places that nobody serves
    start = min(max(gone, slice_of(now.wanted, at_a_time) - trying), now.wanted - len(present))
    replaced = len(old) + len(present) - trying - now.wanted
    return Step(max(0, start), tuple(_oldest(old, replaced)))


def slice_of(wanted: int, at_a_time: int = 0) -> int:
    """How many are replaced at a time; 0 for a quarter, so that the machine is not asked to hold twice as many."""
    return at_a_time or max(1, wanted // 4)


def _oldest(children: list[Child], count: int) -> Iterable[Child]:
    return children[: max(0, count)]
