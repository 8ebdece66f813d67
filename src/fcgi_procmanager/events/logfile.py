"""Where a process that keeps others writes, and they with it: a file, or a command that reads it, as a part of the loop.

Runs in the superdaemon; with a file only, in a manager and its workers. A logger that dies is started again on the same pipe, of
which we keep the other end: no line is lost, and nobody is killed for want of a reader. Must never wait for the logger.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Callable

from ..basics import log
from ..basics.clock import FOREVER, monotonic
from ..basics.exits import Exit
from ..children import launch
from ..children.launch import Program
from ..children.registry import Child, Registry
from ..children.respawn import retry_delay
from ..errors import ConfigError
from ..system.logs import open_log
from ..system.poll import any_readable
from .loop import Part

_YOUNG = 1.0  # seconds: a logger that lived longer is started again at once
_DRAIN_AFTER = 6  # failures in a row after which its pipe is emptied: once it is full, everybody who writes would wait
_PIECE = 1 << 16  # bytes


class LogFile(Part):
    """target: a path, or `| command`; None leaves standard output and standard error as they are."""

    next_at: float

    kind = "logger"

    def __init__(self, target: str | None, registry: Registry, notify: Callable[[str], object] = log.write) -> None:
        self._target = target
        self._notify = notify
        self._command = target.lstrip()[1:].strip() if target is not None and target.lstrip().startswith("|") else None
        self._loggers = registry.of(self.kind)
        self._logger: Child | None = None
        self._write = self._read = -1
        self._opener = 0  # the process that has opened it first
        self._found: tuple[int, ...] = ()  # the standard output and the standard error that were found
        self._failures = 0

    def open(self, detached: bool) -> None:
        """detached: the standard error that is found is a terminal that is not ours any more. Raises ConfigError."""
        if self._target is None:
            return
        if self._command == "":
            raise ConfigError("failed to open log file:|: there is no command behind the bar: give one, or a file")
        self._opener = os.getpid()
        if detached:
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            self._found = (null, os.dup(null))
        else:
            self._found = (os.dup(1), os.dup(2))
        self._reopen()

    def reopen(self) -> None:
        """The file anew, or a new logger: who wrote to the former one goes on with that. Says what went wrong; a
        worker does not: it may be in a handler, where nothing can be written, and its manager says it."""
        if self._target is not None:
            try:
                self._reopen()
            except ConfigError as error:
                if os.getpid() == self._opener:
                    self._notify(str(error))

    def give_to(self, uid: int, gid: int) -> None:
        """To the user who is to open it anew. -1: as it is."""
        if self._command is None and self._write >= 0:
            with contextlib.suppress(OSError):  # a device, or a file system without owners
                os.fchown(self._write, uid, gid)

    @property
    def is_open(self) -> bool:
        return self._write >= 0

    @property
    def descriptors_of_program(self) -> Mapping[int, int]:
        return {1: self._write, 2: self._write} if self._write >= 0 else {}

    def _reopen(self) -> None:
        former = (self._write, self._read)
        if self._command is None:
            self._write, self._read = open_log(self._target or ""), -1
            ours = self._write
        else:
            self._read, self._write = os.pipe()
            ours = _without_waiting(self._write)
            self._start()
        log.flush_standard_streams()
        os.dup2(ours, 1)
        os.dup2(ours, 2)
        if ours != self._write:
            os.close(ours)
        self._close(former)

    # -- the logger ---------------------------------------------------------------------------------------------------

    def descriptors(self) -> Iterable[int]:
        return (self._read,) if self._drains else ()

    @property
    def _drains(self) -> bool:
        return self._read >= 0 and self._logger is None and self._failures >= _DRAIN_AFTER

    def turn(self, now: float) -> bool:
        # Asked for, because the flag that keeps a read from waiting would be the logger's as well.
        if self._drains and any_readable(self._read):
            self._drain()
        if now >= self.next_at:
            self._start()
        return False

    def ended(self, child: Child, exit: Exit) -> None:
        if child is not self._logger:
            return
        self._logger = None
        now = monotonic()
        if now - child.spawned_at >= _YOUNG:
            self._failures = 0
        self._failed(now)
        self._notify(f"logger {child.pid} died, status:{exit.raw}, restarting")

    def _failed(self, now: float) -> None:
        self._failures += 1
        self.next_at = now + retry_delay(self._failures)

    def _start(self) -> None:
        self.next_at = FOREVER
        program = Program(
            ["/bin/sh", "-c", self._command or ""],
            dict(os.environ),
            {0: self._read, 1: self._found[0], 2: self._found[1]},
            session=True,  # control-C at a terminal: it reads on until the last program has ended
        )
        try:
            self._logger = launch.start(program, self._loggers)
        except OSError as error:
            self._failed(monotonic())
            self._notify(f"failed to start the logger:{error.strerror}")

    def _drain(self) -> None:
        with contextlib.suppress(OSError):
            os.write(self._found[1], os.read(self._read, _PIECE))

    def close(self) -> None:
        """Whoever called us has standard output and standard error back. The logger reads what is left, and ends when nobody
        can write any more."""
        self.next_at = FOREVER
        if not self._found:
            return
        log.flush_standard_streams()
        for number, found in zip((1, 2), self._found):
            os.dup2(found, number)
            os.close(found)
        self._close((self._read, self._write))
        self._found, self._read, self._write = (), -1, -1

    def let_go(self) -> None:
        """In a child, which writes somewhere else."""
        self._close((*self._found, self._read, self._write))
        self._found, self._read, self._write = (), -1, -1

    def _close(self, descriptors: Iterable[int]) -> None:
        for descriptor in descriptors:
            if descriptor >= 0:
                os.close(descriptor)


def _without_waiting(write: int) -> int:
    """The same pipe for ourselves, whose lines get lost when it is full: the flag would be the programs' as well."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError):
            return os.open(f"/proc/self/fd/{write}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    return write
