"""What objects do in a child that the application forks, where they are copies that share the parent's descriptors.

Runs in every process right after a fork. A worker that the manager forks is no such child: it keeps what it inherits, and the
code that forked it (children/launch.py) decides about each thing. Must cost nothing while no such object exists.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Callable, Generic, TypeVar

T = TypeVar("T")

_forks_by_us = 0  # forks of this package that are in progress


class AtFork(Generic[T]):
    """All living objects of one kind; `act` is called for each of them in every child that the application forks."""

    def __init__(self, act: Callable[[T], None]) -> None:
        self._act = act
        self._all: list[weakref.ref[T]] = []
        os.register_at_fork(after_in_child=self._forked)

    def add(self, one: T) -> None:
        self._all.append(weakref.ref(one, self._all.remove))

    @property
    def any(self) -> bool:
        """Whether a fork now would concern one."""
        return bool(self._all) and not _forks_by_us

    def _forked(self) -> None:
        if not self.any:
            return
        for ref in tuple(self._all):
            one = ref()
            if one is not None:
                self._act(one)


@contextmanager
def by_us() -> Iterator[None]:
    """A fork inside this block is the package's own."""
    global _forks_by_us
    _forks_by_us += 1
    try:
        yield
    finally:
        _forks_by_us -= 1
