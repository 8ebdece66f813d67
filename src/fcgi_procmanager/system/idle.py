"""Whether a process has a connection of a listener in hand, and ending it while it has none. Linux: /proc tells.

Runs in who keeps programs that no signal asks gently. Must never leave a process stopped.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time

__all__ = ["catches", "connections", "end", "is_known"]

_STOPPED = frozenset("TtZX")
# Seconds until a process that was sent STOP has stopped; one in the middle of a disk access may take longer.
_PATIENCE = 0.05


def is_known() -> bool:
    """Whether this system tells."""
    return os.path.exists("/proc/self/net/unix") and os.path.exists("/proc/self/status")


def catches(pid: int, number: int) -> bool:
    """Whether the process has a handler for this signal, or ignores it; else it would end in the middle of a request."""
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/status") as file:
        masks = dict(line.split(":", 1) for line in file)
        return bool((int(masks["SigCgt"], 16) | int(masks["SigIgn"], 16)) >> (number - 1) & 1)
    return False


def connections(listener: socket.socket) -> set[str]:
    """Those that somebody has accepted, for `end`."""
    try:
        return _accepted(listener)
    except OSError:
        return set()  # `end` finds out that it cannot be told


def end(pid: int, listener: socket.socket, number: int, accepted: set[str]) -> bool:
    """Send the signal if the process has no connection of this listener. False when it has one, or when that cannot be told.
    accepted: as `connections` saw them, for a first look."""
    try:
        if _sockets_of(pid) & accepted:
            return False
    except OSError:
        return False
    # It may accept a connection between the look and the signal. So it is stopped, looked at once more, and finds the signal when
    # it goes on: before its accept returns. A connection that comes meanwhile stays in the queue.
    try:
        os.kill(pid, signal.SIGSTOP)
        try:
            idle = _has_stopped(pid) and _is_idle(pid, listener)
            if idle:
                os.kill(pid, number)
        finally:
            os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        return False
    return idle


def _is_idle(pid: int, listener: socket.socket) -> bool:
    try:
        return not _sockets_of(pid) & _accepted(listener)
    except OSError:
        return False


def _has_stopped(pid: int) -> bool:
    deadline = time.monotonic() + _PATIENCE
    while not _STOPPED.issuperset(_states(pid)):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.0005)
    return True


def _states(pid: int) -> set[str]:
    """Of its threads."""
    states = set()
    for thread in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/stat", "rb") as file:
            states.add(file.read().rpartition(b")")[2].split()[0].decode())
    return states


def _sockets_of(pid: int) -> set[str]:
    found = set()
    with os.scandir(f"/proc/{pid}/fd") as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                target = os.readlink(entry.path)
                if target.startswith("socket:["):
                    found.add(target[8:-1])
    return found


def _accepted(listener: socket.socket) -> set[str]:
    """The inode numbers of the connections of a listener that some process has accepted."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return _accepted_unix(os.fsdecode(name))
    table = "tcp6" if listener.family == socket.AF_INET6 else "tcp"
    return _accepted_tcp(table, name[1])


def _accepted_unix(path: str) -> set[str]:
    path = path.replace("\0", "@", 1)
    found = set()
    with open("/proc/self/net/unix", errors="surrogateescape") as file:
        for line in file:
            row = line.rstrip("\n").split(None, 7)
            # Number, references, protocol, flags, type, state, inode, path. The listener itself has the flag of one.
            if len(row) == 8 and row[7] == path and not int(row[3], 16) & 0x10000:
                found.add(row[6])
    return found


def _accepted_tcp(table: str, port: int) -> set[str]:
    found = set()
    with open(f"/proc/self/net/{table}") as file:
        next(file, None)
        for line in file:
            row = line.split()
            if int(row[1].rpartition(":")[2], 16) == port and row[3] != "0A":
                found.add(row[9])
    return found
