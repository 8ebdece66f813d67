"""The status file: a line `GENERATION:PID` for each generation that serves or still finishes.

The superdaemon writes it; `--restart` reads it. It is put in place at once, and removed by its maker only. Source of the form:
Server::Starter 0.35.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import Callable

__all__ = ["StatusFile", "parse", "write"]

_LIMIT = 1 << 16  # bytes


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


def read(path: str) -> dict[int, int]:
    """Nothing where there is none."""
    try:
        with open(path, "rb") as file:
            return parse(file.read(_LIMIT).decode(errors="replace"))
    except OSError:
        return {}


class StatusFile:
    """path: None for none. notify: for one line of the log."""

    def __init__(self, path: str | None, notify: Callable[[str], None]) -> None:
        self._path = path
        self._notify = notify
        self._text: str | None = None
        self._made: tuple[int, int] | None = None  # the file that is ours

    def show(self, generations: Mapping[int, int]) -> None:
        text = write(generations)
        if self._path is None or text == self._text:
            return
        try:
            self._replace(self._path, text)
            self._text = text
        except OSError as error:
            self._notify(f"failed to write the status file:{self._path}:{error.strerror}")

    def remove(self) -> None:
        """If it is still ours. Never raises."""
        made, self._made = self._made, None
        if self._path is None or made is None:
            return
        with contextlib.suppress(OSError):
            status = os.lstat(self._path)
            if (status.st_dev, status.st_ino) == made:
                os.unlink(self._path)

    def _replace(self, path: str, text: str) -> None:
        aside = f"{path}.{os.getpid()}"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside)  # of a superdaemon that was killed here, and had our number
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            os.write(descriptor, text.encode())
            status = os.fstat(descriptor)
            os.rename(aside, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(aside)
            raise
        finally:
            os.close(descriptor)
        self._made = (status.st_dev, status.st_ino)
