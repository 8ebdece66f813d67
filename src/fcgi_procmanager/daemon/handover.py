"""A hot reload as the serving supervisor sees it: the new generation started, tried, and given the place, as a part of its loop.

The words on the line. The new one says `takeover` when its supervised process is ready; then ours is ended, and when it is gone we
say `yours`; the new one takes the PID file, says `done`, and we leave. Whatever ends the new one before `done` leaves us serving.
Must never leave while it is not known that the other one holds the place.
"""

from __future__ import annotations

import enum
import os
import socket
from collections.abc import Iterable
from typing import Callable, Protocol

from ..basics.clock import FOREVER, monotonic
from ..basics.exits import Exit
from ..children import launch
from ..children.launch import Program
from ..children.reaper import Reaper
from ..children.registry import Child, Registry
from ..errors import PidFileError
from ..events.loop import Part
from ..system.pidfile import PidFile
from . import invitation
from .line import Line

KIND = "new generation"
_HUNG_UP = 1.0  # seconds between the end of the line and that of a process which is ending


class Stage(enum.Enum):
    NONE = "none"
    TRIED = "tried"  # started; it has not said that it is ready
    YIELDING = "yielding"  # it is; our supervised process has been asked to leave
    LENT = "lent"  # that one is gone, and the new generation may take the PID file
    OVER = "over"  # it has


class Place(Protocol):
    """What is given, and how."""

    def end_process(self) -> None:
        """Ask the supervised process to leave."""

    def is_ended(self) -> bool:
        """It is gone."""

    def resume(self) -> None:
        """Serve again."""


class HandOver(Part):
    """command, directory: how this program was started. timeout, patience: asked for the seconds that a new generation has to become
    ready, 0 for no limit, and to leave when it is given up."""

    next_at: float

    kind = KIND

    def __init__(
        self,
        command: list[str],
        directory: str,
        registry: Registry,
        pid_file: PidFile | None,
        notify: Callable[[str], None],
        timeout: Callable[[], float],
        patience: Callable[[], float],
    ) -> None:
        self.reaper: Reaper  # set by whoever makes us
        self.place: Place
        self.generation = 1
        self.stage: Stage = Stage.NONE
        self._command = command
        self._directory = directory
        self._children = registry.of(self.kind)
        self._pid_file = pid_file
        self._notify = notify
        self._timeout = timeout
        self._patience = patience
        self._child: Child | None = None
        self._line: Line | None = None
        self._hung_up = False

    @property
    def is_over(self) -> bool:
        return self.stage is Stage.OVER

    @property
    def successor(self) -> int:
        """Its pid."""
        assert self._child is not None
        return self._child.pid

    # -- the loop -----------------------------------------------------------------------------------------------------

    def descriptors(self) -> Iterable[int]:
        return self._line.descriptors() if self._line is not None else ()

    def turn(self, now: float) -> bool:
        self._hear()
        if self.stage is Stage.YIELDING and self.place.is_ended():
            self._lend()
        if self._line is not None and self._line.ended and not self._hung_up:
            # Most likely it is dead, and its end, which has the better story, is about to be noticed.
            self._hung_up = True
            self.next_at = min(self.next_at, now + _HUNG_UP)
        if now >= self.next_at:
            self._give_up("the new generation has hung up" if self._hung_up else "Hot reloading timed out, cancelling")
        return False

    def _hear(self) -> None:
        for word in self._line.hear() if self._line is not None else ():
            _ON_WORD.get((self.stage, word), HandOver._on_nonsense)(self)

    def ended(self, child: Child, exit: Exit) -> None:
        if child is not self._child:
            return
        self._hear()  # its last words: it may have taken the place
        if not self.is_over:
            self._give_up(f"the new generation (pid {child.pid}) exited with status {exit} before it had taken over")

    # -- the stages ---------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """USR2."""
        if self.stage is not Stage.NONE:
            self._notify("Received USR2, but hot reload is already in progress")
            return
        self._notify("Received USR2, initiating hot reload")
        ours, theirs = socket.socketpair()
        try:
            self._child = self._execute(theirs)
        except OSError as error:
            ours.close()
            words = f"Couldn't exec: {error.filename}: " if error.filename else "Could not fork, cancelling reload: "
            self._notify(words + str(error.strerror))
            return
        finally:
            theirs.close()
        self._line = Line(ours)
        self._hung_up = False
        self._enter(Stage.TRIED)

    def _execute(self, line: socket.socket) -> Child:
        # What is inheritable was handed to this process by whoever started it, listening sockets for example, and belongs to
        # each of its generations.
        handed = [number for number in map(int, os.listdir("/dev/fd")) if number > 2 and _is_inheritable(number)]
        number = max((2, *handed)) + 1
        environment = {**os.environ, **invitation.written(number, self.generation + 1)}
        program = Program(
            self._command,
            environment,
            {**{fd: fd for fd in handed}, number: line.fileno()},
            directory=self._directory,
            pid_variable="LISTEN_PID" if "LISTEN_FDS" in environment else "",
        )
        return launch.start(program, self._children)

    def _on_takeover(self) -> None:
        self._enter(Stage.YIELDING, limited=False)  # our supervised process has its own time to leave
        self.place.end_process()

    def _lend(self) -> None:
        assert self._line is not None
        if self._pid_file is not None:
            self._pid_file.lend()
        self._enter(Stage.LENT)
        self._line.say("yours")

    def _on_done(self) -> None:
        self._enter(Stage.OVER, limited=False)
        if self._pid_file is not None:
            self._pid_file.abandon()

    def _on_nonsense(self) -> None:
        """A word that has no place here: of a program that is not ours."""

    def _enter(self, stage: Stage, limited: bool = True) -> None:
        self.stage = stage
        timeout = self._timeout() if limited else 0
        self.next_at = monotonic() + timeout if timeout else FOREVER

    def _give_up(self, reason: str) -> None:
        """We go on, and the next reload is not refused: what is left of this one has nothing to say any more."""
        self._notify(f"{reason}: the old generation goes on")
        if self.stage is Stage.LENT and self._pid_file is not None:
            self._end_at_once()
            try:
                self._pid_file.take_back()
            except PidFileError as error:
                self._notify(str(error))
        resumes = self.stage in (Stage.YIELDING, Stage.LENT)
        self._discard()
        if resumes:
            self.place.resume()

    def _end_at_once(self) -> None:
        """It may be about to take the PID file: it must be gone before we do."""
        child, self._child = self._child, None  # its end is no news
        if child is not None and self._is_there(child):
            self.reaper.kill(child)
            if self._is_there(child):
                self.reaper.wait_for(child)

    def _discard(self) -> None:
        child, self._child = self._child, None
        if child is not None and self._is_there(child) and child.ladder is None:
            # TERM, so that it ends what it supervises in order; one that is still importing dies of it.
            self.reaper.ask_to_leave([child], self._patience(), repeated=False)
        if self._line is not None:
            self._line.close()
            self._line = None
        self._enter(Stage.NONE, limited=False)

    def _is_there(self, child: Child) -> bool:
        return self._children.get(child.pid) is child

    # -- ends ---------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """The service is to end, and the new generation with it."""
        if not self.is_over:
            self._discard()

    def drop(self) -> None:
        """In a new supervised process."""
        self.close()

    def close(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None


_ON_WORD = {
    (Stage.TRIED, "takeover"): HandOver._on_takeover,
    (Stage.LENT, "done"): HandOver._on_done,
}


def _is_inheritable(number: int) -> bool:
    try:
        return os.get_inheritable(number)
    except OSError:  # the one that the listing itself had
        return False
