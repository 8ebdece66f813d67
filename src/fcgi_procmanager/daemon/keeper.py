"""The supervisor's half of `Supervisor`: what exists in the supervisor only, as one object that a supervised process drops.

Runs in the supervisor, from its first fork to the end of what it supervises, or until a successor has its place. Must never leave
a process behind that nobody supervises.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Callable

from ..basics import exits
from ..basics.clock import monotonic
from ..basics.exits import Exit
from ..children.reaper import Reaper
from ..children.registry import Child, Registry
from ..children.stop import Stop
from ..events.inbox import Inbox
from ..events.loop import Loop, Part
from ..events.readiness import Readiness, Subject
from ..system import sdnotify, signals
from ..system.pidfile import PidFile
from ..system.signals import Signals
from .handover import HandOver
from .invitation import Invitation
from .line import Line
from .supervised import Supervised
from .takeover import TakeOver

if TYPE_CHECKING:
    from .supervisor import Supervisor


class Keeper:
    """command, directory: how this program was started. noted: the signals. started: called when there is a supervised process."""

    def __init__(
        self,
        owner: Supervisor,
        command: list[str],
        directory: str,
        noted: Signals,
        pid_file: PidFile | None,
        invitation: Invitation | None,
        started: Callable[[], None],
    ) -> None:
        self._owner = owner
        self._signals = noted
        self._started = started
        self._stop: Stop | None = None
        self._asker: Line | None = None  # of a supervised process that waits until the place is ours
        registry = Registry()
        self._registry = registry
        self._inbox = Inbox(noted, self._child_ended)
        self.supervised: Supervised = Supervised(registry, owner.notify, self._said, lambda: owner.delay_before_respawn)
        self._handover = HandOver(
            command,
            directory,
            registry,
            pid_file,
            owner.notify,
            lambda: owner.hot_reload_timeout,
            lambda: owner.die_timeout,
        )
        self._handover.generation = owner.generation
        self._handover.place = self
        self._takeover = (
            TakeOver(
                invitation, pid_file, owner.notify, self._place_is_ours, self._cancelled, lambda: owner.die_timeout
            )
            if invitation is not None
            else None
        )
        readiness = Readiness(_Condition(self))
        parts: list[Part] = [self._inbox, self.supervised, self._handover, readiness]
        self._loop = Loop(noted, [*parts, self._takeover] if self._takeover is not None else parts)
        self._reaper = self._handover.reaper = Reaper(
            registry, _say_nothing, self._ended, _hear_nothing, whole_trees=True
        )

    # -- its life -----------------------------------------------------------------------------------------------------

    def run(self) -> int | None:
        """The exit status in the supervisor, None in a new supervised process. Raises PidFileError, with nothing left behind."""
        owner = os.getpid()
        try:
            return self._keep()
        finally:
            if os.getpid() == owner:
                self._leave_nothing()

    def _keep(self) -> int | None:
        """The one loop."""
        while True:
            self._loop.turn()
            reaped = False
            while self._reaper.reap() is not None:
                reaped = True
            self._act_on_signals()
            if self._handover.is_over:
                return self._left_to_successor()
            if self._stop is not None and self._is_alone:
                return exits.FAILED if self._reaper.killed else exits.OK
            if self.supervised.is_due(monotonic()) and not self.supervised.start(self._owner._become_supervised):
                return None
            if self.supervised.is_there:
                self._started()
            before = len(self._registry)
            self._reaper.escalate()
            # The parts have not had a turn since somebody has ended: one may have waited for just that.
            if not reaped and before == len(self._registry):
                self._loop.sleep(min(self._loop.next_at, self._reaper.next_at))

    @property
    def _is_alone(self) -> bool:
        return not len(self._registry) and not (self._takeover is not None and self._takeover.is_held)

    def _leave_nothing(self) -> None:
        self._reaper.kill_everybody()
        for part in self._loop.parts:
            part.close()

    def drop(self) -> None:
        """In a new supervised process, signals held: let go of what is the supervisor's, but for the ends."""
        self._handover.drop()
        if self._takeover is not None:
            self._takeover.drop()
        for part in self._loop.parts:
            if isinstance(part, Readiness):
                part.drop()

    # -- signals ------------------------------------------------------------------------------------------------------

    def _act_on_signals(self) -> None:
        names, self._inbox.names = self._inbox.names, []
        for position, name in enumerate(names):
            if self._handover.is_over:
                self._inbox.names = names[position:]
                return
            if name == "USR2":
                self._on_reload()
            elif self._stop is None:
                self._begin_stop(f"received signal {name}")
            elif self._stop.insists(name, monotonic()):
                self._force(name)

    def _on_reload(self) -> None:
        if self._stop is not None:
            return
        if not self._owner.can_do_hot_reload:
            self._owner.notify("Received USR2, but this program cannot do a hot reload: can_do_hot_reload is not set")
        elif not self._has_place:
            self._owner.notify("Received USR2, but hot reload is already in progress: this generation is the new one")
        else:
            self._handover.begin()

    def _begin_stop(self, reason: str) -> None:
        self._owner.notify(f"{reason}: stopping")
        self._stop = Stop(monotonic())
        self._reaper.killed = 0
        for part in self._loop.parts:
            part.stop()
        self._retire()

    def _retire(self) -> None:
        self._reaper.ask_to_leave(self.supervised.children.everybody, self._owner.die_timeout)

    def _force(self, name: str) -> None:
        if len(self._registry):
            self._owner.notify(f"received signal {name} while stopping: killing what is left")
        for child in self._registry.everybody:
            self._reaper.kill(child)

    # -- what the supervised process says -----------------------------------------------------------------------------

    def _said(self, word: str) -> None:
        action = _ON_WORD.get(word)
        if action is None:
            self._owner.notify(f"Received unknown command from the supervised process: {word}")
        else:
            action(self)

    def _answer(self, word: str) -> None:
        if self.supervised.line is not None:
            self.supervised.line.say(word)

    def _on_ping(self) -> None:
        self._answer("pong")

    def _on_takeover(self) -> None:
        if self._has_place:
            self._answer("ok")
        elif self._takeover is not None:
            self._asker = self.supervised.line
            self._takeover.ask()

    def _on_shutdown(self) -> None:
        for child in self.supervised.children.everybody:
            self._reaper.kill(child)

    # -- places that change hands -------------------------------------------------------------------------------------

    @property
    def _has_place(self) -> bool:
        return self._takeover is None or self._takeover.is_over

    def _place_is_ours(self) -> None:
        self._owner.notify("took over from the previous generation")
        if self._asker is not None and self._asker is self.supervised.line:
            self._answer("ok")

    def _cancelled(self) -> None:
        if self._stop is None:
            self._begin_stop("the previous generation goes on without us")

    def end_process(self) -> None:
        self.supervised.wanted = False
        self._retire()

    def is_ended(self) -> bool:
        return not self.supervised.is_there

    def resume(self) -> None:
        self.supervised.resume()

    def _left_to_successor(self) -> int:
        successor = self._handover.successor
        self._owner.notify(f"the new generation (pid {successor}) has taken over")
        # Whoever watches the main process of a service is told who it is now.
        sdnotify.notify(f"MAINPID={successor}")
        self._registry.remove(successor)  # nobody is to end it with us
        # Somebody who has read our number a moment ago means the one who serves now. It is a child of ours, not yet reaped, and
        # so the number is nobody else's.
        for name in [*self._inbox.names, *(name for name in self._signals.take() if name != "CHLD")]:
            os.kill(successor, signals.number(name))
        return exits.OK

    # -- children -----------------------------------------------------------------------------------------------------

    def _child_ended(self) -> None:
        self._reaper.child_ended = True

    def _ended(self, child: Child, exit: Exit) -> None:
        for part in self._loop.parts:
            if part.kind == child.kind:
                part.ended(child, exit)


_ON_WORD = {
    "ping": Keeper._on_ping,
    "takeover": Keeper._on_takeover,
    "shutdown": Keeper._on_shutdown,
}


def _say_nothing(line: str) -> None:
    """The parts say it in the words of the original."""


def _hear_nothing() -> None:
    """What a supervised process has said is heard by its part."""


class _Condition(Subject):
    """For the one who started us: ready when the process is there, and the place is ours."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    @property
    def complete(self) -> bool:
        return self._keeper._has_place and self._keeper.supervised.is_there
