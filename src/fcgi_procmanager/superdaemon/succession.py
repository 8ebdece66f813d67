"""How one generation follows another: when to start the next one, and when to ask the old ones to leave. Pure: no process, no
clock.

| a change is  | it is asked for   | its program is good  | its program fails | its time has come   | the one that serves dies |
| ------------ | ----------------- | -------------------- | ----------------- | ------------------- | ------------------------ |
| `RESTING`    | start now         | -                    | -                 | -                   | start, later each time   |
| `WAITING`    | start now         | -                    | -                 | start               | goes on waiting          |
| `TRYING`     | one more after it | old ones stay a time | try again later   | -                   | goes on trying           |
| `HANDING_OVER` | one more after it | -                  | -                 | old ones may leave  | start, old ones stay     |

What is asked for while a change is in progress is one change more, however often it is asked: a generation that was started
after the last request has what everybody asked for.
"""

from __future__ import annotations

import enum

from ..basics.clock import FOREVER
from ..children.respawn import retry_delay

GIVE_UP = 5  # failed starts, for who waits for the first generation
SETTLED = 2.0  # seconds: one that has served so long is replaced at once, whatever happened before


class State(enum.Enum):
    RESTING = "resting"
    WAITING = "waiting"  # for the time of the next start
    TRYING = "trying"  # a program was started, and is not known to be good
    HANDING_OVER = "handing over"  # it is good; the old ones serve beside it


class Due(enum.Enum):
    START = "start"
    HAND_OVER = "hand over"


class Succession:
    """generation: the number of the latest start. failures: in a row. Times are monotonic seconds."""

    def __init__(self) -> None:
        self.state: State = State.RESTING
        self.generation: int = 0
        self.failures: int = 0
        self.accepted_at: float = -FOREVER
        self._asked = False  # again, while a change is in progress
        self._at = FOREVER

    @property
    def next_at(self) -> float:
        return self._at if self.state in (State.WAITING, State.HANDING_OVER) else FOREVER

    @property
    def in_progress(self) -> bool:
        return self.state is not State.RESTING

    @property
    def is_busy(self) -> bool:
        """What is asked for now comes after what is in progress."""
        return self.state in (State.TRYING, State.HANDING_OVER)

    def due(self, now: float) -> Due | None:
        if now < self.next_at:
            return None
        return Due.START if self.state is State.WAITING else Due.HAND_OVER

    # -- what happens -------------------------------------------------------------------------------------------------

    def ask(self, now: float) -> None:
        """A new generation is wanted. Who asks does not want to wait for an old failure."""
        if self.is_busy:
            self._asked = True
        else:
            self.failures = 0
            self._wait(now)

    def started(self) -> int:
        """The number of the generation that is started now."""
        self.state = State.TRYING
        self.generation += 1
        self._asked = False
        return self.generation

    def failed(self, now: float) -> float:
        """What was started is no good. Returns the seconds until the next start."""
        self.failures = 0 if self._asked else self.failures + 1
        return self._wait(now + retry_delay(self.failures), now)

    def accepted(self, now: float, delay: float) -> None:
        """It is good. delay: seconds that the old ones serve beside it."""
        self.state = State.HANDING_OVER
        self.accepted_at = now
        self._at = now + delay

    def handed_over(self, now: float) -> None:
        """The old ones have been asked to leave."""
        self.state = State.RESTING
        if self._asked:
            self._wait(now)

    def died(self, now: float) -> float:
        """The one that was accepted is gone, unasked. Returns the seconds until the next start."""
        if self.state in (State.TRYING, State.WAITING):
            return 0.0
        self.failures = 0 if now - self.accepted_at >= SETTLED else self.failures + 1
        return self._wait(now + retry_delay(self.failures), now)

    def _wait(self, at: float, now: float | None = None) -> float:
        self.state = State.WAITING
        self._at = at
        return 0.0 if now is None else at - now
