"""What objects do in a child that the application forks, where they are copies that share the parent's descriptors.

Runs in every process around a fork. A worker that the manager forks is no such child: it keeps what it inherits, and the
code that forked it (children/launch.py) decides about each thing. Must cost nothing while no such object exists, and next to
nothing in a worker: each piece of code that runs there makes pages its own.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from functools import partial
from typing import Callable, Generic, TypeVar

T = TypeVar("T")

_kinds: list[AtFork] = []  # type: ignore[type-arg]
_last_kinds: list[AtFork] = []  # type: ignore[type-arg]
_around: list[tuple[Callable[[], None], Callable[[], None]]] = []
_forks_by_us = 0  # forks of this package that are in progress


class AtFork(Generic[T]):
    """All living objects of one kind; `act` is called for each of them in every child that the application forks. Kinds act in
    the order in which they were made, but for those that are to be last."""

    def __init__(self, act: Callable[[T], None], last: bool = False) -> None:
        self._act = act
        self._all: list[weakref.ref[T]] = []
        (_last_kinds if last else _kinds).append(self)

    def add(self, one: T) -> None:
        self._all.append(weakref.ref(one, self._all.remove))

    @property
    def any(self) -> bool:
        return bool(self._all)

    def acts(self) -> Iterator[Callable[[], None]]:
        """What is to be done, for each of them."""
        for ref in tuple(self._all):
            one = ref()
            if one is not None:
                yield partial(self._act, one)


def around(before: Callable[[], None], after: Callable[[], None]) -> None:
    """Call `before` ahead of every fork of the application, and `after` behind it, in both processes; in the child when all
    objects have acted."""
    _around.append((before, after))


def by_us(fork: Callable[[], int]) -> int:
    """A fork of the package itself."""
    global _forks_by_us
    _forks_by_us += 1
    try:
        return fork()
    finally:
        _forks_by_us -= 1


def _before() -> None:
    if not _forks_by_us:
        for before, _ in _around:
            before()


def _in_parent() -> None:
    if not _forks_by_us:
        for _, after in _around:
            after()


def _in_child() -> None:
    if _forks_by_us:
        return
    failure = None
    for kind in (*_kinds, *_last_kinds):
        for act in kind.acts():
            try:
                act()
            except Exception as error:  # the others act all the same: Python says what it was, and goes on
                failure = failure or error
    _in_parent()
    if failure is not None:
        raise failure


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
