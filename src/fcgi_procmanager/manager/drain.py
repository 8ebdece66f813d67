"""A stop that was asked for and has not begun: the pool serves on for a while, so that a balancer can forget it first.

A part of the manager's loop; runs in the manager. It is a wish with a time, not a state of the pool: workers that die are
replaced as ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..basics.clock import FOREVER, monotonic
from ..basics.states import ManagerState
from ..children.stop import Stop
from ..events.loop import Part

if TYPE_CHECKING:
    from .half import ManagerHalf
    from .procmanager import ProcManager

# The request once more; and new workers, for a pool that is about to end.
_IGNORED = frozenset(("TERM", "INT", "HUP", "USR2"))


class Drain(Part):
    """asked_at: when a signal has asked for the stop. next_at: when the stop begins. Both are monotonic seconds."""

    next_at: float

    def __init__(self, manager: ProcManager, half: ManagerHalf) -> None:
        self._manager = manager
        self._half = half
        self._signal = ""
        self.asked_at: float = FOREVER

    @property
    def under_way(self) -> bool:
        """Also while the stop itself is."""
        return self.asked_at < FOREVER

    def begin(self, signal: str) -> bool:
        """A signal asks for a stop. False when it is to begin at once: no delay is wanted, or nobody serves yet."""
        delay = self._manager.drain_delay
        if not delay or self._half.life.state is not ManagerState.RUNNING:
            return False
        self._signal = signal
        self.asked_at = monotonic()
        self.next_at = self.asked_at + delay
        self._half.readiness.stop()
        self._half.renewal.cancel("the pool is about to end")  # new code would know nothing of the stop
        self._manager.notify(f"draining: serving for {delay:g} s more")
        return True

    def hear(self, signal: str) -> None:
        """A further signal before the stop begins."""
        if Stop(self.asked_at).insists(signal, monotonic()):
            count = len(self._half.workers.children)
            self._manager.notify(f"received signal {signal} while draining: killing {count} servers")
            self._manager.abort(f"exit at once from signal {signal}")
        if signal not in _IGNORED:
            self._manager.manager_sig_handler(signal)

    def end_in_time(self) -> None:
        """The stop begins when it is due. Ends by SystemExit then."""
        if monotonic() >= self.next_at:
            self._manager.die(f"safe exit from signal {self._signal}")

    def stop(self) -> None:
        self.next_at = FOREVER
