"""What systemd, or the superdaemon that started us, is told of our children, as a part of the loop.

Runs in a manager, and in the superdaemon. When nobody asked for it, it has no time and sends nothing.

READY and RELOADING: for `Type=notify` and `Type=notify-reload`. STATUS: one line for a person, when it changes. WATCHDOG: while
the subject serves; systemd restarts us when it stays away. EXTEND_TIMEOUT_USEC: systemd has limits of its own for a start, a
reload and a stop. For those who leave we have one too (`die_timeout`, `reload_timeout`), and ours is to decide: as long as they
are waited for, the other is put off. A start is different, nothing of ours limits it: each worker that becomes ready puts
TimeoutStartSec off, and one that hangs while it loads is left to it.
"""

from __future__ import annotations

import os

from ..basics.clock import FOREVER, monotonic
from ..system import sdnotify
from .loop import Part

STARTING, RELOADING = "starting", "reloading"

_AGAIN = 0.1  # seconds until what the receiver had no room for is sent again
_STATUS_PACE = 0.25  # seconds between two lines of status: workers can die 200 times a second
_EXTENSION, _EXTEND_EVERY = 15.0, 5.0  # seconds; a manager that is stuck itself is noticed so soon
_START_EXTENSION = 60.0  # seconds that a start has for its next step


class Subject:
    """Whom `Readiness` speaks for. What it does not need, it leaves as it is here."""

    @property
    def complete(self) -> bool:
        """Everything that is wanted is there and ready, and nothing is being replaced."""
        raise NotImplementedError

    @property
    def leaving(self) -> bool:
        """Somebody who was asked to leave is still waited for."""
        return False

    def serves(self, now: float) -> bool:
        """There is no reason to start us anew. Only an event makes it true again."""
        return True

    def status(self, phase: str) -> str:
        """How it is, in one line; empty for none. phase: STARTING or RELOADING until ready is said; empty afterwards."""
        return ""


class Readiness(Part):
    next_at: float

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._phase = STARTING  # until ready is said
        self._stopping = False
        self._descriptor = sdnotify.take_descriptor()
        self._is_heard = sdnotify.is_asked_for()
        self._outbox: list[tuple[str, ...]] = []  # in order; a state that is lost would leave systemd waiting
        self._status = ""  # as it was told
        self._status_from = -FOREVER  # the next line of status, not sooner
        self._interval = sdnotify.watchdog_period() / 2
        self._ping_at = -FOREVER if self._interval else FOREVER
        self._extend_at = -FOREVER

    def turn(self, now: float) -> bool:
        if self._phase and self._subject.complete:
            self._become_ready(now)
        if self._is_heard:
            self._speak(now)
        return False

    def reloading(self) -> None:
        if self._stopping:
            return
        self._phase = self._phase or RELOADING
        if self._is_heard:
            self._tell(monotonic(), *sdnotify.reloading())

    def stop(self) -> None:
        """The stop begins, or is announced. May be called once more when it begins."""
        self._phase = ""
        was_said, self._stopping = self._stopping, True
        if self._is_heard and not was_said:
            self._tell(monotonic(), sdnotify.STOPPING)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def drop(self) -> None:
        """In a new worker: none of it is its to say."""
        self.close()
        sdnotify.forget()

    def _become_ready(self, now: float) -> None:
        self._phase = ""
        if self._is_heard:
            self._tell(now, *sdnotify.ready())
        if self._descriptor >= 0:
            sdnotify.write_newline(self._descriptor)
            self.close()

    # -- datagrams ----------------------------------------------------------------------------------------------------

    def _tell(self, now: float, *state: str) -> None:
        """A change of state, at once: the loop may not turn again. What it implies goes with it."""
        self._status_from = self._extend_at = -FOREVER  # a new state has a new limit
        self._outbox.append((*state, *self._due(now)))
        self._send()

    def _speak(self, now: float) -> None:
        due = self._due(now)
        if due:
            self._outbox.append(due)
        self._send()
        self.next_at = now + _AGAIN if self._outbox else self._due_at(now)

    def _send(self) -> None:
        while self._outbox and sdnotify.notify(*self._outbox[0]) is not None:
            del self._outbox[0]

    def _due(self, now: float) -> tuple[str, ...]:
        if self._outbox:
            return ()
        return (*self._due_status(now), *self._due_extension(now), *self._due_ping(now))

    def _due_status(self, now: float) -> tuple[str, ...]:
        status = self._subject.status(self._phase)
        if status == self._status or now < self._status_from:
            return ()
        self._status, self._status_from = status, now + _STATUS_PACE
        if self._phase and not self._is_extended:
            return (sdnotify.status(status), sdnotify.extend(_START_EXTENSION))
        return (sdnotify.status(status),)

    def _due_extension(self, now: float) -> tuple[str, ...]:
        if not self._is_extended or now < self._extend_at:
            return ()
        self._extend_at = now + _EXTEND_EVERY
        return (sdnotify.extend(_EXTENSION),)

    def _due_ping(self, now: float) -> tuple[str, ...]:
        """One that was withheld is still due: it goes out with the event that makes it true again."""
        if now < self._ping_at or not self._is_well(now):
            return ()
        self._ping_at = now + self._interval
        return (sdnotify.WATCHDOG,)

    @property
    def _is_extended(self) -> bool:
        """Not in between: systemd would put off RuntimeMaxSec."""
        return self._stopping or (bool(self._phase) and self._subject.leaving)

    def _is_well(self, now: float) -> bool:
        return self._stopping or self._subject.serves(now)

    def _due_at(self, now: float) -> float:
        """When there is something to say without being called."""
        status_at = self._status_from if self._subject.status(self._phase) != self._status else FOREVER
        extend_at = self._extend_at if self._is_extended else FOREVER
        ping_at = self._ping_at if self._ping_at < FOREVER and self._is_well(now) else FOREVER
        return min(status_at, extend_at, ping_at)
