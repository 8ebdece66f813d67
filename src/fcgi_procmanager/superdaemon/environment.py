"""What a generation finds in its environment, and what that says to the superdaemon itself.

Runs in the superdaemon. The variables that it was started with, then its options, then the files of `--envdir`, which are read
anew each time: a variable whose file is gone is what it was at the start. Source: Server::Starter 0.35.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from typing import Callable

from ..children.launch import environment_from
from .options import Options

_LIMIT = 1 << 16  # bytes of a variable; the system takes no more than twice that
_DEFAULT_INTERVAL = 360.0  # seconds between two restarts by itself
_DEFAULT_DELAY = 5.0  # seconds that old ones stay on at those


class Environment:
    """notify: for one line of the log."""

    variables: dict[str, str]

    def __init__(self, options: Options, started_with: Mapping[str, str], notify: Callable[[str], None]) -> None:
        self._base = environment_from(started_with)
        self._base.update(_told_by_options(options))
        self._directory = self._base.get("ENVDIR", "")
        self._notify = notify
        self._complained = ""
        self.variables = self._base = dict(self.read())

    def read(self) -> Mapping[str, str]:
        """As it is now."""
        try:
            found = dict(_read(self._directory)) if self._directory else {}
            self._complained = ""
        except OSError as error:
            found = {}
            complaint = f"failed to read envdir:{self._directory}:{error.strerror}: going on without it"
            if complaint != self._complained:
                self._complained = complaint
                self._notify(complaint)
        self.variables = {**self._base, **found}
        return self.variables

    # What it says to us, as of the last reading. Perl's truth: an empty text and 0 are false.

    @property
    def auto_restart(self) -> bool:
        return self.variables.get("ENABLE_AUTO_RESTART", "") not in ("", "0")

    @property
    def auto_restart_interval(self) -> float:
        return self._seconds("AUTO_RESTART_INTERVAL") or _DEFAULT_INTERVAL

    @property
    def kill_old_delay(self) -> float:
        given = self._seconds("KILL_OLD_DELAY")
        if given is None:
            return _DEFAULT_DELAY if self.auto_restart else 0.0
        return given

    def _seconds(self, name: str) -> float | None:
        """None for one that is not there, or no number."""
        try:
            value = float(self.variables.get(name, ""))
        except ValueError:
            return None
        return value if 0 <= value < 1e9 else None


def _told_by_options(options: Options) -> dict[str, str]:
    told = {
        "ENVDIR": options.envdir,
        "ENABLE_AUTO_RESTART": "1" if options.enable_auto_restart else None,
        "AUTO_RESTART_INTERVAL": _number(options.auto_restart_interval),
        "KILL_OLD_DELAY": _number(options.kill_old_delay),
    }
    return {name: value for name, value in told.items() if value is not None}


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:g}"


def _read(directory: str) -> Iterator[tuple[str, str]]:
    """A file is a variable, its first line the value. One that is empty changes nothing."""
    for name in sorted(os.listdir(directory)):
        if name.startswith(".") or "=" in name:
            continue
        line = _first_line(os.path.join(directory, name))
        if line:
            yield name, line


def _first_line(path: str) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return ""
        line = os.read(descriptor, _LIMIT).partition(b"\n")[0]
    finally:
        os.close(descriptor)
    return "" if b"\0" in line else os.fsdecode(line)
