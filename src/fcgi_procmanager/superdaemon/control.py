"""Commands to a running superdaemon: restart and stop. It may also be the Perl one.

Runs in a process of its own. Must never signal who does not hold the PID file's lock.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from typing import Any

from ..basics import checks, log
from ..basics.clock import monotonic
from ..errors import ConfigError, ControlError
from ..system.running import Running, found
from . import statusfile
from .options import RESTART_TIMEOUT, Path

_INTERVAL = 0.05  # seconds between two looks at the status file


def restart_server(
    *, pid_file: Path = None, status_file: Path = None, restart_timeout: float = RESTART_TIMEOUT
) -> None:
    """Any process: HUP to the superdaemon, and wait until only generations serve that were started after it.

    pid_file, status_file: those of the superdaemon. restart_timeout: seconds to wait.

    Raises ConfigError, PidFileError, and ControlError when that has not come about. Source: restart_server of Server::Starter
    0.35."""
    limit = checks.timeout("restart_timeout", restart_timeout)
    if pid_file is None or status_file is None:
        raise ConfigError("--restart option requires --pid-file and --status-file to be set as well")
    path = os.fspath(checks.path("status_file", status_file) or "")
    with found(os.fspath(checks.path("pid_file", pid_file) or ""), locked_only=True) as running:
        if running is None:
            raise ControlError(f"not running: no living process holds {os.fspath(pid_file)}")
        before = statusfile.read(path)
        if before is None:
            raise ControlError(f"no active process found in the status file: {path}: wait until a generation serves")
        asked = _wait_for_tick()
        _signal(running, signal.SIGHUP, "SIGHUP")
        _follow(running, path, max(before, default=0), asked, limit)


def stop_server(*, pid_file: Path = None) -> None:
    """Any process: TERM to the superdaemon, and wait until it is gone; its own `die_timeout` is the limit.

    pid_file: that of the superdaemon.

    Raises ConfigError, PidFileError, and ControlError when none is running. Source: stop_server of Server::Starter 0.35."""
    if pid_file is None:
        raise ConfigError("--stop option requires --pid-file to be set as well")
    with found(os.fspath(checks.path("pid_file", pid_file) or ""), locked_only=True) as running:
        if running is None:
            raise ControlError(f"not running: no living process holds {os.fspath(pid_file)}")
        log.write(f"stop_server (pid:{os.getpid()}) stopping now (pid:{running.pid})...", exact=True)
        _signal(running, signal.SIGTERM, "SIGTERM")
        while not running.ends_within(3600):
            pass


def _signal(running: Running, number: Any, name: str) -> None:
    try:
        running.send(number)
    except ConfigError as error:
        raise ConfigError(f"failed to send {name} to the server process: {error}") from None


def _follow(running: Running, path: str, before: int, asked: int, limit: float) -> None:
    deadline = monotonic() + limit
    while True:
        if running.ends_within(min(_INTERVAL, max(0.0, deadline - monotonic()))):
            raise ControlError(f"the server process {running.pid} ended while it was to restart: its log says why")
        there = statusfile.read(path) or {}
        new = {number: pid for number, pid in there.items() if number > before and _started_after(pid, asked)}
        if there and new == there:
            return
        if monotonic() >= deadline:
            raise ControlError(_why_not(there, new, limit))


def _why_not(there: dict[int, int], new: dict[int, int], limit: float) -> str:
    old = ", ".join(f"generation {number} (pid {pid})" for number, pid in sorted(there.items()) if number not in new)
    if new:
        return f"restarted, but {old} still has something to finish after {limit:g} s: it goes on doing so"
    return f"not restarted after {limit:g} s: no new generation is good, {old or 'none'} serves: the log says why"


# A generation that was started before the signal, while another restart was in progress, may have the old code, although its
# number is higher than what served then. The system knows when a process was started, by ticks of a hundredth of a second. So we
# ask at the beginning of a tick.


def _wait_for_tick() -> int:
    """The number of the tick that has just begun; 0 where the system does not tell."""
    if not _HAS_TICKS:
        return 0
    tick = _tick()
    while _tick() == tick:
        time.sleep(0.0005)
    return tick + 1


def _started_after(pid: int, tick: int) -> bool:
    if not _HAS_TICKS:
        return True
    with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[19]) >= tick
    return False  # gone: the status file will say so


def _tick() -> int:
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))


_HAS_TICKS = sys.platform.startswith("linux") and hasattr(time, "CLOCK_BOOTTIME")
