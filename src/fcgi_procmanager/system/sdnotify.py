"""Telling systemd how we are: one datagram per change of state, to the socket named by NOTIFY_SOCKET.

The manager runs it. It must never block, never raise, and never be needed: without systemd it does nothing.
"""

from __future__ import annotations

import os
import socket
import time

__all__ = ["notify", "ready", "reloading", "stopping"]


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


def _lines(state: str, status: str | None) -> str:
    """The state and its STATUS line. A line break in the text would begin another assignment."""
    return state if status is None else f"{state}\nSTATUS={' '.join(status.splitlines())}"
