"""The wait of a standby, which has done all that comes before the first request and is not needed yet.

Runs in a worker, before `manage()` returns in it. Must never look at a listener, nor take the baton: a wake-up would be lost with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .gate import Gate

if TYPE_CHECKING:
    from ..ipc.word import Word
    from ..system.signals import Signals
    from .leaving import Leaving


def wait_for(word: Word, signals: Signals, lifeline: int, leaving: Leaving) -> bool:
    """True when it is told to serve; False when it is to leave. A TERM that comes together with the word is found in `leaving` by
    whoever goes on: the manager counts it as a worker by then."""
    gate = Gate(signals, lifeline, leaving=leaving)
    try:
        gate.add(word.fileno())
        while not (leaving.told or leaving.orphaned):
            if word.fileno() in gate.wait():
                return word.heard()
        return False
    finally:
        gate.close()
        word.close()
