"""The status file: a line `GENERATION:PID` for each generation that serves or still finishes.

The superdaemon writes it; `--restart` reads it. It is put in place at once, and removed by its maker only. Source of the form:
Server::Starter 0.35.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Mapping
from typing import Callable

from ..basics.clock import FOREVER, monotonic
from ..errors import ConfigError

__all__ = ["StatusFile", "parse", "write"]

_LIMIT = 1 << 16  # bytes
_RETRY = 1.0  # seconds between two attempts to write


def write(generations: Mapping[int, int]) -> str:
    """generations: number -> pid."""
    return "".join(f"{number}:{pid}\n" for number, pid in sorted(generations.items()))


def parse(text: str) -> dict[int, int]:
    """What `write` has written; lines of another form are left out."""
    found = {}
    for line in text.splitlines():
        number, _, pid = line.partition(":")
        if number.isascii() and number.isdigit() and pid.isascii() and pid.isdigit() and len(line) < 40:
            found[int(number)] = int(pid)
    return found


def read(path: str) -> dict[int, int] | None:
    """None where there is no file; empty while nobody serves."""
    try:
        with open(path, "rb") as file:
            return parse(file.read(_LIMIT).decode(errors="replace"))
    except OSError:
        return None


class StatusFile:
    """path: None for none. notify: for one line of the log."""

    def __init__(self, path: str | None, notify: Callable[[str], None]) -> None:
        self._path = path
        self._notify = notify
        self._text: str | None = None
        self._wanted: str | None = None
        self._locked = -1  # the file that is ours, open and locked while it is
        self.retry_at: float = FOREVER  # when to write what could not be written (monotonic seconds)

    def claim(self) -> None:
        """Raises ConfigError when the file is that of another superdaemon."""
        if self._path is not None and _is_locked(self._path):
            raise ConfigError(f"{self._path} belongs to another superdaemon: choose another --status-file")

    def show(self, generations: Mapping[int, int]) -> None:
        self._wanted = write(generations)
        if self._wanted != self._text:
            self._write(self._wanted)

    def retry(self, now: float) -> None:
        if now >= self.retry_at and self._wanted is not None:
            self._write(self._wanted)

    def _write(self, text: str) -> None:
        if self._path is None:
            return
        failed_before = self.retry_at < FOREVER
        try:
            self._replace(self._path, text)
            self._text = text
            self.retry_at = FOREVER
        except OSError as error:
            self.retry_at = monotonic() + _RETRY
            if not failed_before:
                self._notify(f"failed to write the status file:{self._path}:{error.strerror}: trying again")

    def remove(self) -> None:
        """If it is still ours. Never raises."""
        locked, self._locked = self._locked, -1
        if self._path is None or locked < 0:
            return
        with contextlib.suppress(OSError):
            if os.path.samestat(os.lstat(self._path), os.fstat(locked)):
                os.unlink(self._path)
        os.close(locked)

    def _replace(self, path: str, text: str) -> None:
        aside = f"{path}.{os.getpid()}"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside)  # of a superdaemon that was killed here, and had our number
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(descriptor, text.encode())
            os.rename(aside, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(aside)
            os.close(descriptor)
            raise
        former, self._locked = self._locked, descriptor
        if former >= 0:
            os.close(former)


def _is_locked(path: str) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False
