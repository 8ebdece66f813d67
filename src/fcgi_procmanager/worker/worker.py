"""The worker's half of `ProcManager`: what one process that serves knows of itself.

Made in each worker right after the fork, and in the only process when there is no pool. Must never fork, reap or signal another
process.
"""

from __future__ import annotations

import contextlib
import socket
import sys
from typing import TYPE_CHECKING, Any, Callable

from ..ipc.channel import SERVED, Channel
from ..system.signals import Signals
from . import parking
from .gate import Gate
from .leaving import Leaving

if TYPE_CHECKING:
    from ..ipc.scoreboard import Slot
    from ..ipc.word import Word
    from ..sockets.listener import Listener


class Worker:
    """channel: to the manager; None where there is none. slot: its place on the scoreboard. word: what it waits for before it serves, if
    it is a standby.

    in_flight: with threads, other requests in progress. in_a_row: nobody can look at SA_RESTART between two requests.
    received: how often each signal came.
    """

    def __init__(
        self, signals: Signals, channel: Channel | None = None, slot: Slot | None = None, word: Word | None = None
    ) -> None:
        self.channel = channel
        self.slot = slot
        self._word = word
        self.managed: bool = channel is not None
        self.received: dict[str, int] = {}
        self.leaving: Leaving = Leaving(self.received)
        self.served: bool = False  # it has begun its first request
        self.in_flight = 0
        self.in_a_row = False
        self._signals = signals
        self._gate: Gate | None = None
        self._busy_checks: list[Callable[[], bool]] = []

    @property
    def gate(self) -> Gate:
        """Its wait set, made when first asked for, after the fork."""
        if self._gate is None:
            channel = self.channel
            if channel is None:
                self._gate = Gate(self._signals)
            else:
                self._gate = Gate(self._signals, channel.lifeline, channel.baton, self.leaving)
        return self._gate

    @property
    def is_leaving(self) -> bool:
        leaving = self.leaving
        if leaving.told and not self.managed:
            self._signals.take()  # whoever looks, acts on it: it is not delivered again
        return leaving.told or leaving.orphaned

    @property
    def stands_by(self) -> bool:
        return self._word is not None

    def wait_for_word(self) -> bool:
        """Whether it was told to serve; else it is to leave."""
        word, self._word = self._word, None
        assert word is not None
        assert self.channel is not None
        return parking.wait_for(word, self._signals, self.channel.lifeline, self.leaving)

    def accept(self, sock: socket.socket) -> tuple[socket.socket, Any] | None:
        called = False
        while not self.is_leaving:
            try:
                accepted: tuple[socket.socket, Any] = sock.accept()
            except (BlockingIOError, ConnectionAbortedError):
                self.gate.add_listener(sock.fileno())
                called = bool(self.gate.wait())
            else:
                self.begin_serving()
                return accepted
        if called:  # the TERM may have come at any moment since the wait
            self.gate.pass_on(sock.fileno())
            if self.gate.is_owed():
                with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
                    accepted = sock.accept()
                    self.begin_serving()
                    return accepted
        return None

    def begin_serving(self) -> None:
        """A worker that ends before this, even with status 0, has no loop or no listener: replacing it at once would fork
        without end."""
        if not self.served:
            self.served = True
            self.report(SERVED)

    def report(self, kind: bytes, text: str = "") -> None:
        if self.channel is not None:
            self.channel.report(kind, text)

    def add_busy_check(self, busy: Callable[[], bool]) -> None:
        if busy not in self._busy_checks:
            self._busy_checks.append(busy)

    @property
    def busy(self) -> bool:
        """Something that it accepted is still to be answered."""
        answers = [busy() for busy in self._busy_checks]  # each is asked: it finishes what it has in hand
        return any(answers)

    def close_gate(self) -> None:
        if self._gate is not None:
            self._gate.close()
            self._gate = None


def forget_children_of_manager() -> None:
    """Worker, first thing: `multiprocessing` would end and join what the manager has started with it, at the worker's end."""
    process = sys.modules.get("multiprocessing.process")
    children = getattr(process, "_children", None)
    if isinstance(children, set):
        children.clear()


def socket_of(listener: Listener | socket.socket) -> socket.socket:
    return listener if isinstance(listener, socket.socket) else listener.socket
