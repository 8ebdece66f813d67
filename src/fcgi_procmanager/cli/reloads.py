"""A reload of several pools under a parent, seen from outside: whether the parent takes it, and then each pool.

Runs in the command `reload`. Must never wait without a limit.
"""

from __future__ import annotations

from typing import Callable

from ..basics.clock import monotonic
from ..errors import ControlError, ProtocolError
from ..parent.managers import LEAVING, READY, RESTING
from ..parent.overview import Entry, Overview
from ..pool.control import path_beside
from ..system.running import Running
from .messages import Progress
from .pool import INTERVAL, Pool
from .status import ask_any

__all__ = ["Reload", "family"]

Follow = Callable[[Running, Pool, float, Progress], "str | None"]


def family(pidfile: str) -> Overview | None:
    """The pools of the parent with this PID file; None where that is no parent."""
    try:
        found = ask_any(path_beside(pidfile))
    except (ControlError, ProtocolError):
        return None
    return found if isinstance(found, Overview) else None


class Reload:
    """Made before the parent is told: it remembers who is there. What goes wrong is a line of text."""

    def __init__(self, parent: Running, before: Overview, pidfile: str) -> None:
        self._parent = parent
        self._before = before
        self._pidfile = pidfile
        self._deadline = monotonic()
        self._timeout = 0.0
        self._now = before
        self._pools = {entry.name: (entry.pid, Pool(entry.pid)) for entry in before.pools if entry.state == READY}

    def refusal(self, timeout: float) -> str | None:
        """Why the parent does not take it, once it has looked at its file; None if it does. timeout: seconds for all of it."""
        self._timeout, self._deadline = timeout, monotonic() + timeout
        while (now := self._look()) is None or now.reloads == self._before.reloads:
            if failure := self._wait():
                return failure
        self._now = now
        return f"not reloaded, every pool goes on as it is: {now.refusal}" if now.refusal else None

    def follow(self, follow: Follow, progress: Progress) -> str | None:
        """Every pool that is there now, one after the other, until all is as it should be. follow: for one of them."""
        for entry in self._now.pools:
            failure = self._follow_one(entry, follow, progress)
            if failure is not None:
                return f"pool {entry.name}: {failure}"
        return self._settle()

    def _settle(self) -> str | None:
        """Until the new ones are ready, and the old ones gone."""
        while (now := self._look()) is None or any(entry.state != READY for entry in now.pools):
            for entry in now.pools if now is not None else ():
                if entry.state == RESTING:
                    return f"pool {entry.name} has a mistake, and is not running: the log says which"
            if failure := self._wait():
                return failure + _unready(now)
        return None

    def _follow_one(self, entry: Entry, follow: Follow, progress: Progress) -> str | None:
        pid, pool = self._pools.get(entry.name, (0, None))
        if pool is None or pid != entry.pid or entry.state != READY:
            return None
        try:
            manager = Running(entry.pid)
        except ProcessLookupError:
            return "its manager ended while it was to reload: its log says why"
        try:
            return follow(manager, pool, max(0.0, self._deadline - monotonic()), progress)
        finally:
            manager.close()

    def _look(self) -> Overview | None:
        return family(self._pidfile)

    def _wait(self) -> str | None:
        """For a moment. What is wrong when there is no further one."""
        if self._parent.ends_within(INTERVAL):
            return f"the parent (process {self._parent.pid}) ended while it was to reload: its log says why"
        if monotonic() >= self._deadline:
            return f"not reloaded after {self._timeout:g} s"
        return None


def _unready(now: Overview | None) -> str:
    words = {LEAVING: "is still leaving"}
    found = (
        [f"pool {one.name} {words.get(one.state, f'is {one.state}')}" for one in now.pools if one.state != READY]
        if now
        else []
    )
    return f": {', '.join(found)}; wait longer with --timeout" if found else ""
