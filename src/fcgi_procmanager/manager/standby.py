"""The standby: a worker that is forked and booted ahead, and parked before its first request, as a part of the manager's loop.

Runs in the manager. A standby is a child of a kind of its own, so nobody counts it; when it takes a place it becomes a worker, and from
then on all is as with any other. Must never be forked while a worker is missing, and never serve beside code that is newer than its own.

| a standby      | is                                                              |
| -------------- | --------------------------------------------------------------- |
| boots          | left alone: it is no sooner there than a new worker would be; killed after `boot_timeout` |
| is parked      | told to serve when a place is to be filled                      |
| is outdated    | asked to leave when one of the new generation is ready; kept if the reload fails before |
| is one too many | asked to leave                                                 |
| ends           | replaced, later each time that it does so by itself             |
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..basics.clock import FOREVER, monotonic
from ..basics.exits import Exit
from ..children.registry import Child, Children
from ..children.respawn import Respawn
from ..events.loop import Part
from ..ipc.channel import READY, REFUSED, SERVED
from ..ipc.word import Word

if TYPE_CHECKING:
    from .half import ManagerHalf
    from .procmanager import ProcManager

KIND = "standby"  # in the words of the log
# Seconds from the moment in which one has taken a place to the fork of the next: the fork would take the processor from it.
_PAUSE = 0.02


class Standby(Part):
    """children: those that have not become workers."""

    kind = KIND

    def __init__(self, manager: ProcManager, half: ManagerHalf) -> None:
        self._manager = manager
        self._half = half
        self.children: Children = half.registry.of(KIND)
        self._words: dict[int, Word] = {}  # by pid, of those that were not told yet
        self._word: Word | None = None  # of the one that is forked next
        self._respawn = Respawn()
        self._late: set[int] = set()  # killed because they were not ready in time
        self._refusal = ""  # said once
        self._not_before = -FOREVER  # the next fork (monotonic seconds)

    # -- the loop -----------------------------------------------------------------------------------------------------

    @property
    def is_short(self) -> bool:
        """There should be more, now or when the workers are ready."""
        return len(self.children.staying) < self._manager.standby

    @property
    def _missing(self) -> int:
        if not self.is_short or not self._half.running or not self._half.workers.settled:
            return 0
        return self._manager.standby - len(self.children.staying)

    @property
    def next_at(self) -> float:  # type: ignore[override]
        return min(self._start_at, self._late_at)

    @property
    def _start_at(self) -> float:
        if not self.is_short:
            return FOREVER
        return max(self._not_before, self._respawn.next_at(self._missing, monotonic()))

    @property
    def _booting(self) -> list[Child]:
        return [child for child in self.children.staying.values() if child.ready_at == FOREVER]

    @property
    def _late_at(self) -> float:
        limit = self._manager.boot_timeout
        return min((child.spawned_at + limit for child in self._booting), default=FOREVER) if limit else FOREVER

    def turn(self, now: float) -> bool:
        if now >= self._late_at:
            self._give_up(self._booting[0])
        return now >= self._start_at

    def keep(self) -> None:
        """Ask those to leave who are outdated or too many, and fork those who are missing. In a new standby that was told to serve, the
        manager's half is gone afterwards."""
        if unwanted := self._unwanted:
            # They have accepted nothing, and one may hang for ever.
            self._half.reaper.retire(unwanted, self._manager.die_timeout)
        now = monotonic()
        if now < self._not_before:
            return
        for _ in range(self._respawn.allowed(self._missing, now)):
            if self._half.inbox.called or not self._fork():
                return

    @property
    def _unwanted(self) -> list[Child]:
        staying = list(self.children.staying.values())
        workers = self._half.workers
        if not staying or workers.unproven:
            return []
        fresh = [child for child in staying if child.generation == workers.generation]
        outdated = [child for child in staying if child.generation != workers.generation]
        return outdated + fresh[max(0, self._manager.standby) :]

    # -- starting -----------------------------------------------------------------------------------------------------

    def _fork(self) -> bool:
        """False in the child, and when the system refused."""
        missing = self._missing
        try:
            self._word = Word()
            pid = self._half.workers.fork(self._record)
        except OSError as error:
            if not self._half.is_kept:
                raise  # of the application, in the child
            self._fork_refused(error)
            return False
        if pid == 0:
            return False
        self._respawn.forked(missing, monotonic())
        self._manager.notify(f"{KIND} (pid {pid}) started")
        return True

    def _record(self, pid: int) -> None:
        word, self._word = self._word, None
        assert word is not None
        word.keep_manager_end()
        self._words[pid] = word
        self.children.add(pid, monotonic(), self._half.workers.generation)

    def _fork_refused(self, error: OSError) -> None:
        word, self._word = self._word, None
        if word is not None:
            word.close()
        delay = self._respawn.fork_failed(monotonic())
        self._manager.notify(f"fork of a {KIND}: {error.strerror}; trying again in {delay:.1f} s")

    def _give_up(self, child: Child) -> None:
        """It was not ready in time. Nobody waits for it, but while it hangs there is no standby."""
        limit = f"{self._manager.boot_timeout:g} s (boot_timeout)"
        self._manager.notify(f"{KIND} (pid {child.pid}) was not ready in {limit}: killing it")
        self._late.add(child.pid)
        self._half.reaper.kill(child)

    def forked(self) -> Word | None:
        """In a new worker, signals held: let go of what is the manager's. Returns the word that it is to wait for, None for none."""
        word, self._word = self._word, None
        if word is not None:
            word.keep_standby_end()
        self.close()
        return word

    # -- taking a place -----------------------------------------------------------------------------------------------

    def promote(self) -> Child | None:
        """Tell the one that has waited longest to serve; None when there is none. It is a worker from now on: if it dies before it has
        heard of that, its place is filled as that of a worker."""
        for child in list(self.children.staying.values()):
            if child.ready_at == FOREVER or child.generation != self._half.workers.generation:
                continue
            word = self._words.pop(child.pid, None)
            # Who is dead already is reaped as a standby, and the place goes to the next one, or to a new worker.
            if word is not None and word.say():
                self.children.remove(child.pid)
                self._respawn.served()
                self._not_before = monotonic() + _PAUSE
                return child
        return None

    def stay(self, generation: int) -> None:
        """The reload has failed: their code is that of the workers, which go on."""
        for child in self.children.staying.values():
            child.generation = generation

    # -- what they say, and how they end ------------------------------------------------------------------------------

    def heard(self, kind: bytes, pid: int, text: str) -> None:
        child = self.children.get(pid)
        if child is None:
            return
        if kind == READY:
            self.children.became_ready(pid, monotonic())
            self._respawn.became_ready()
        elif kind == SERVED:
            child.served = True
        elif kind == REFUSED and text != self._refusal:
            self._refusal = text
            self._manager._notify_error(text)

    def ended(self, child: Child, exit: Exit) -> None:
        now = monotonic()
        if (word := self._words.pop(child.pid, None)) is not None:
            word.close()
        self._half.workers.standby_ended(child.pid)
        is_late = child.pid in self._late
        self._late.discard(child.pid)
        if not is_late and (child.ladder is not None or (child.served and exit.clean)):
            self._respawn.left(child.ready_at, now)
            return
        delay = self._respawn.start_failed(child.spawned_at, child.ready_at, now)
        if delay:
            failures = self._respawn.failures
            self._manager.notify(f"{failures} standbys in a row failed; the next one starts in {delay:.1f} s")

    def adopt(self) -> None:
        """Those of the image before: their words went with it, so that they leave by themselves. One that still boots is told."""
        self._half.reaper.ask_to_leave(list(self.children.staying.values()), self._manager.die_timeout)

    def close(self) -> None:
        while self._words:
            self._words.popitem()[1].close()
