"""What objects have to do in a child that the application forks, where they are copies that share the parent's descriptors.

Runs in every child, a new worker too, right after the fork. Must cost nothing there while no such object exists: a manager
has none.
"""

from __future__ import annotations

import os
import weakref
from typing import Callable, Generic, TypeVar

T = TypeVar("T")


class AtFork(Generic[T]):
    """All living objects of one kind; `act` is called for each of them in every child."""

    def __init__(self, act: Callable[[T], None]) -> None:
        self._act = act
        self._all: list[weakref.ref[T]] = []
        os.register_at_fork(after_in_child=self._forked)

    def add(self, one: T) -> None:
        self._all.append(weakref.ref(one, self._all.remove))

    def _forked(self) -> None:
        for ref in tuple(self._all):
            one = ref()
            if one is not None:
                self._act(one)
