"""A hot reload as the new supervisor sees it: it takes the place of its predecessor, as a part of its loop.

Runs in a supervisor that was started by another one. Its supervised process says `takeover` when it is ready, and is answered `ok`
when the predecessor and what that supervised are gone and the PID file is ours. Must never hold the place before that.
"""

from __future__ import annotations

import contextlib
import enum
import os
import signal
from collections.abc import Iterable
from typing import Callable

from ..basics.clock import FOREVER, monotonic
from ..events.loop import Part
from ..system.pidfile import PidFile
from .invitation import Invitation
from .line import Line

# Seconds that a predecessor which has nothing left to do may take to end, and more than what it supervises has.
_PATIENCE = 5.0
_LOOK_AGAIN = 0.01  # seconds


class Stage(enum.Enum):
    TRIED = "tried"  # what we supervise is not ready yet
    ASKED = "asked"  # the predecessor is ending its supervised process
    HELD = "held"  # the PID file is ours; the predecessor is leaving
    OVER = "over"


class TakeOver(Part):
    """finished: called when the place is ours. cancelled: called when the predecessor lives and wants us no more. patience: asked for
    the seconds that a supervised process has to leave, 0 for no limit."""

    next_at: float

    def __init__(
        self,
        invitation: Invitation,
        pid_file: PidFile | None,
        notify: Callable[[str], None],
        finished: Callable[[], None],
        cancelled: Callable[[], None],
        patience: Callable[[], float],
    ) -> None:
        self._stage = Stage.TRIED
        self._predecessor = invitation.predecessor
        self._line = Line(invitation.line)
        self._pid_file = pid_file
        self._notify = notify
        self._finished = finished
        self._cancelled = cancelled
        self._patience = patience
        self._alone_until: float | None = None

    @property
    def is_over(self) -> bool:
        return self._stage is Stage.OVER

    @property
    def is_held(self) -> bool:
        """Whose the place is, is known in a moment."""
        return self._stage is Stage.HELD

    def ask(self) -> None:
        """What we supervise is ready."""
        if self._stage is Stage.TRIED:
            patience = self._patience()
            self._enter(Stage.ASKED, patience + _PATIENCE if patience else FOREVER)
            self._line.say("takeover")

    def descriptors(self) -> Iterable[int]:
        return self._line.descriptors()

    def turn(self, now: float) -> bool:
        for word in self._line.hear():
            if word == "yours" and self._stage is Stage.ASKED:
                self._hold()
        if self._line.ended and not self.is_over:
            self._alone(now)
        elif now >= self.next_at:
            self._insist()
        return False

    def _hold(self) -> None:
        """Raises PidFileError: then we end, and the predecessor goes on."""
        self._enter(Stage.HELD, _PATIENCE)
        if self._pid_file is not None:
            self._pid_file.succeed()
        self._line.say("done")

    def _alone(self, now: float) -> None:
        """Nobody is at the other end."""
        if self._stage is Stage.HELD:
            self._end()
        elif not self._lives:
            # Whoever killed it wanted no end of the service, or would have asked for one.
            self._notify("the previous generation is gone without a word: taking over")
            if self._pid_file is not None:
                self._pid_file.succeed()
            self._end()
        elif self._alone_until is not None and now >= self._alone_until:
            self._cancelled()
        else:
            # A process that dies lets go of its descriptors first, and of its children a moment later.
            self._alone_until = self._alone_until or now + _PATIENCE
            self.next_at = now + _LOOK_AGAIN

    def _insist(self) -> None:
        """It does not answer, or does not leave."""
        self._enter(self._stage, _PATIENCE)
        if self._lives:
            why = "Couldn't lock the file." if self._stage is Stage.ASKED else "The previous generation does not end."
            self._notify(f"{why} Sending KILL to previous generation process")
            with contextlib.suppress(OSError):
                os.kill(self._predecessor, signal.SIGKILL)

    @property
    def _lives(self) -> bool:
        """A living parent keeps its number: it cannot be somebody else."""
        return os.getppid() == self._predecessor

    def _end(self) -> None:
        self._enter(Stage.OVER, FOREVER)
        self.close()
        self._finished()

    def _enter(self, stage: Stage, seconds: float) -> None:
        self._stage = stage
        self.next_at = monotonic() + seconds

    def drop(self) -> None:
        """In a new supervised process."""
        self.close()

    def close(self) -> None:
        """Whoever still has the place keeps the PID file: it is not to be removed for our sake."""
        if self._stage is not Stage.OVER and self._pid_file is not None:
            self._pid_file.abandon()
        self._line.close()
