"""The wait set of one worker: listeners, held connections, the wakeup pipe and the manager's lifeline in one wait.

Runs in a worker (or in the only process), in its main thread. Made after the fork: an epoll set that is shared by a
fork reports to both sides. Must never accept, read a connection, or decide to leave.

*The herd.* Many idle workers wait for one listener; `EPOLLEXCLUSIVE` wakes one of them. The wake-up is then owed: a
worker that was woken for the listener but turns to something else (a held connection that became ready in the same
instant, a TERM) would leave the new connection in the backlog although others are idle. It passes the *baton*: a byte in a
pipe that all workers watch in the same exclusive way, so that another one wakes up and tries to accept. Nobody may be left who
takes it: one that leaves looks, last of all, and accepts once more if it is still there.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

from ..basics.clock import FOREVER, milliseconds, monotonic
from ..ipc.baton import Baton
from ..system.atfork import AtFork
from ..system.poll import any_readable

if TYPE_CHECKING:
    from ..system.signals import Signals
    from .leaving import Leaving

# PyPy has no name for it; a kernel before 4.5 takes no notice.
_EXCLUSIVE: int = getattr(select, "EPOLLEXCLUSIVE", 1 << 28 if hasattr(select, "epoll") else 0)


class Gate:
    """Waits for any of the things a worker may be called to."""

    def __init__(
        self,
        signals: Signals | None,
        lifeline: int = -1,
        baton: Baton | None = None,
        leaving: Leaving | None = None,
    ) -> None:
        """`signals`: None in a thread, which gets none. `lifeline`: read end of a pipe whose write end only the manager
        has; -1 for none. `leaving`: told when the manager is gone, too."""
        self.orphaned: bool = False  # the manager is gone
        self._leaving = leaving
        self._signals = signals
        self._baton = baton
        self.listeners: set[int] = set()
        self._lifeline = lifeline
        self._in_seconds = hasattr(select, "epoll")
        self.wake: int = signals.fileno() if signals else -1  # readable when a signal has come
        self._hears_baton = False
        self._poller = select.epoll() if self._in_seconds else select.poll()
        _at_fork.add(self)  # whole enough to be closed: another thread may fork at any moment
        for fd in (self.wake, lifeline):
            if fd >= 0:
                self.add(fd)
        if self._baton is not None:
            self._poller.register(self._baton.read_end, select.POLLIN | _EXCLUSIVE)
            self._hears_baton = True

    def add(self, fd: int) -> None:
        self._poller.register(fd, select.POLLIN)

    def add_listener(self, fd: int) -> None:
        if fd not in self.listeners:
            self._poller.register(fd, select.POLLIN | _EXCLUSIVE)
            self.listeners.add(fd)

    def remove(self, fd: int) -> None:
        """To be called before the descriptor is closed: a copy of it in a child would keep it in the set."""
        self._poller.unregister(fd)
        self.listeners.discard(fd)

    def remove_listeners(self) -> None:
        for fd in tuple(self.listeners):
            self.remove(fd)
        if self._baton is not None and self._hears_baton:
            # The baton is for those who accept. This one may have been the one that it woke: so it wakes one more, who at
            # worst finds nothing.
            self._poller.unregister(self._baton.read_end)
            self._hears_baton = False
            if self._baton.given:
                self._baton.give()

    def wait(self, deadline: float = FOREVER) -> list[int]:
        """The descriptors that are ready: of listeners and of what was added. Empty after a signal, the end of the
        manager, or at the deadline (monotonic seconds)."""
        owner = -1
        if self._signals is not None:
            if self._signals.owes_swap:
                self._signals.restart(False)
            owner = self._signals.claim()
        timeout = None if deadline == FOREVER else milliseconds(deadline, monotonic())
        if self._in_seconds:
            events = self._poller.poll(-1 if timeout is None else timeout / 1000)
        else:
            events = self._poller.poll(timeout)
        if self._signals is not None:
            self._signals.give_back(owner)
        ready = [fd for fd, _ in events]
        if len(ready) == 1 and ready[0] in self.listeners:  # mostly
            return ready
        if self._signals is not None and self.wake in ready:
            ready.remove(self.wake)
            self._signals.take()
        if self._lifeline in ready:
            ready.remove(self._lifeline)
            self._poller.unregister(self._lifeline)
            self.orphaned = True
            if self._leaving is not None:
                self._leaving.orphaned = True
        if self._baton is not None and self._baton.read_end in ready:
            ready.remove(self._baton.read_end)
            self._baton.take()
            ready += [fd for fd in self.listeners if fd not in ready]
        return ready

    def pass_on(self, *listeners: int) -> None:
        """This worker was woken for one of these listeners and does not accept: wake another one instead. Not for an
        empty backlog: busy workers would hand the baton round and round."""
        if self._baton is not None and any_readable(*listeners):
            self._baton.give()

    def is_owed(self) -> bool:
        """This worker leaves: whether a wake-up is owed that nobody has taken. Then it is this one's to accept once more: all of
        its siblings may be leaving too, and other pools that wait for the same listener do not hear our baton."""
        if self._baton is None or not self._baton.given:
            return False
        self._baton.take()
        return True

    def close(self) -> None:
        """May be called twice. Nothing can be waited for any more."""
        if self._in_seconds:
            self._poller.close()  # type: ignore[union-attr]


# A child that the application has forked shares the set: what it took out of it, its parent would never hear of again.
_at_fork = AtFork(Gate.close)
