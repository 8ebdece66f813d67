"""Telling who started us how we are: one datagram per change of state, to the socket named by NOTIFY_SOCKET.

That is systemd, or a superdaemon, which also gives a descriptor that waits for a newline. The manager runs it, and so does
the superdaemon. It must never block, never raise, and never be needed: when nobody asks it does nothing.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import time

__all__ = ["notify", "ready", "reloading", "stopping", "take_descriptor", "write_newline"]


def notify(state: str) -> bool:
    """Send `state`, lines of NAME=VALUE. False if nobody asked for it or it could not be sent."""
    name = os.environ.get("NOTIFY_SOCKET", "")
    if name[:1] not in ("/", "@"):
        return False
    target = "\0" + name[1:] if name.startswith("@") else name
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto(state.encode("utf-8", "replace"), target)
    except (OSError, ValueError):
        return False
    return True


def ready(status: str | None = None) -> bool:
    """The first worker is ready, or a reload is over."""
    return notify(_lines("READY=1", status))


def reloading(status: str | None = None) -> bool:
    """A reload begins; `ready` ends it."""
    return notify(_lines(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}", status))


def stopping(status: str | None = None) -> bool:
    """The manager begins to stop."""
    return notify(_lines("STOPPING=1", status))


def take_descriptor() -> int:
    """The one on which a superdaemon waits for a newline, -1 if there is none. The variable goes: a child would write to a
    descriptor that means something else."""
    text = os.environ.pop("SERVER_STARTER_NOTIFY_FD", "")
    if not (text.isascii() and text.isdigit() and len(text) <= 6):
        return -1
    try:
        if not stat.S_ISFIFO(os.fstat(int(text)).st_mode):
            return -1
        os.set_inheritable(int(text), False)
    except OSError:
        return -1
    return int(text)


def write_newline(descriptor: int) -> None:
    """Ready, on that descriptor."""
    with contextlib.suppress(OSError):
        os.write(descriptor, b"\n")


def _lines(state: str, status: str | None) -> str:
    """The state and its STATUS line. A line break in the text would begin another assignment."""
    return state if status is None else f"{state}\nSTATUS={' '.join(status.splitlines())}"
