"""New code in the manager: a canary tries it, then the manager executes itself, as a part of its loop.

Runs in the manager. As long as the canary has not proven the new code, nothing is changed; the exec keeps the process, and with it
its children, its listeners and its locks. Must never execute while a signal waits to be acted on, or after a stop was asked for: both
would be forgotten.

| state  | a renewal is asked for | the canary is ready | it ends, or its time is up | a stop, or its delay |
| ------ | ---------------------- | ------------------- | -------------------------- | -------------------- |
| idle   | trying                 | -                   | -                          | idle                 |
| trying | trying, and once more  | proven              | idle: the reload failed    | it is killed         |
| proven | trying, with a new one | -                   | the manager executes       | it is killed         |
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from ..basics.clock import FOREVER, monotonic
from ..basics.exits import Exit
from ..basics.states import ManagerState
from ..children import launch
from ..children.launch import Program
from ..children.registry import Child
from ..events.loop import Part
from ..ipc.channel import READY, REFUSED
from ..system import signals, trees
from ..system.image import IMAGE
from . import canary, handover

if TYPE_CHECKING:
    from .half import ManagerHalf
    from .procmanager import ProcManager


class Renewal(Part):
    """due: the new code is proven, and the manager is to execute it."""

    next_at: float

    kind = canary.KIND

    def __init__(self, manager: ProcManager, half: ManagerHalf) -> None:
        self._manager = manager
        self._half = half
        self._asked = False
        self._canary: Child | None = None
        self._proven = False
        self._reason = ""
        self.due: bool = False

    def ask(self) -> None:
        """Bring new code, unless the pool is about to end. While one canary tries, another one will: what it has read may have
        changed since."""
        if self._half.drain.under_way:
            return
        self._asked = True
        self.due = False
        self._half.workers.forget_failure()
        self._half.readiness.reloading()

    @property
    def in_progress(self) -> bool:
        return self._asked or self.due or self._canary is not None

    # -- the loop -----------------------------------------------------------------------------------------------------

    def turn(self, now: float) -> bool:
        if self._canary is not None and now >= self.next_at:
            self._kill(f"the {self.kind} was not ready in {self._manager.boot_timeout:g} s (boot_timeout)")
        if self._asked and self._canary is None and self._half.life.state is ManagerState.RUNNING:
            self._asked = False
            self._try()
        return self.due

    def heard(self, kind: bytes, text: str) -> None:
        """A report of the canary."""
        if kind == READY:
            self._proven = True
        elif kind == REFUSED:
            self._reason = text

    def ended(self, child: Child, exit: Exit) -> None:
        if child is not self._canary:
            return
        self._canary, self.next_at = None, FOREVER
        if self._asked or not self._half.running:
            return
        if self._proven:
            self.due = True
        else:
            died = f"the {self.kind} (pid {child.pid}) exited with status {exit} before it was ready"
            self._fail(self._reason or died)

    def cancel(self, reason: str) -> None:
        if self.due:
            self._fail(reason)
        self._asked = self.due = False
        if self._canary is not None:
            self._kill(reason)

    def stop(self) -> None:
        self.close()

    def close(self) -> None:
        self._asked = self.due = False
        if self._canary is not None:
            self._kill("")

    # -- the canary ---------------------------------------------------------------------------------------------------

    def _try(self) -> None:
        self._proven, self._reason = False, ""
        try:
            self._canary = self._start()
        except OSError as error:
            self._fail(f"{error.filename or IMAGE.program} cannot be run: {error.strerror}")
            return
        limit = self._manager.boot_timeout
        self.next_at = monotonic() + limit if limit else FOREVER
        self._manager.notify(f"{self.kind} (pid {self._canary.pid}) started: it tries the new code")

    def _start(self) -> Child:
        left = self._half.show()
        descriptor = left.write()
        kept = {number: number for number in {*left.descriptors(), descriptor} if number > 2}
        try:
            environment = launch.environment_from(os.environ)
            program = Program(
                (IMAGE.program, *IMAGE.arguments[1:]),
                handover.environment(descriptor, environment),
                {**kept, **self._half.give_output()},
                IMAGE.directory,
                session=True,
                death_signal="KILL",
                pid_variable=handover.PID_VARIABLE,
            )
            children = self._half.registry.of(self.kind)
            return launch.start(program, children, forked=partial(self._half.output_given, self.kind))
        finally:
            self._half.output_given(self.kind, 0)
            os.close(descriptor)

    def _kill(self, reason: str) -> None:
        child = self._canary
        assert child is not None
        self._reason, self._proven, self.next_at = reason, False, FOREVER
        trees.kill(child.pid)
        self._half.reaper.kill(child)

    def _fail(self, reason: str) -> None:
        self._half.workers.refuse_reload(reason)

    # -- the exec -----------------------------------------------------------------------------------------------------

    def execute(self) -> None:
        """Become the new code. Returns when that could not be done, or not yet."""
        # From here to the handlers of the new image signals are held, and wait for it. One that has come before is acted on first.
        mask = signals.block()
        try:
            if self._half.inbox.called:
                return
            self.due = False
            self._manager.notify(f"executing the new code: {IMAGE.shown}")
            self._execute(mask)
        except OSError as error:
            self._fail(f"{IMAGE.program} cannot be run: {error.strerror}")
        finally:
            signals.unblock(mask)

    def _execute(self, mask: set[int]) -> None:
        left = self._half.leave(mask)
        descriptor = left.write()
        try:
            environment = handover.environment(descriptor, {**os.environ, handover.PID_VARIABLE: str(os.getpid())})
            IMAGE.execute(environment, {*left.descriptors(), descriptor})
        finally:
            os.close(descriptor)
