"""Telling who started us how we are: datagrams to the socket named by NOTIFY_SOCKET.

That is systemd, or a superdaemon, which also gives a descriptor that waits for a newline. The manager runs it, and so does
the superdaemon. It must never block, never raise, and never be needed: when nobody asks it does nothing.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import time

__all__ = [
    "STOPPING",
    "WATCHDOG",
    "extend",
    "forget",
    "is_asked_for",
    "notify",
    "ready",
    "reloading",
    "status",
    "take_descriptor",
    "watchdog_period",
    "write_newline",
]

STOPPING = "STOPPING=1"  # the stop begins
WATCHDOG = "WATCHDOG=1"  # we live and serve

_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")


def is_asked_for() -> bool:
    """Somebody wants to be told."""
    return os.environ.get("NOTIFY_SOCKET", "")[:1] in ("/", "@")


def forget() -> None:
    """In a new worker: what it starts must not speak for the manager."""
    for name in _VARIABLES:
        os.environ.pop(name, None)


def notify(*assignments: str) -> bool | None:
    """Send these, each NAME=VALUE, as one datagram. False if nobody asked for it or nobody hears, None if the receiver has no
    room for it just now."""
    name = os.environ.get("NOTIFY_SOCKET", "")
    if not is_asked_for():
        return False
    target = "\0" + name[1:] if name.startswith("@") else name
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto("\n".join(assignments).encode("utf-8", "replace"), target)
    except BlockingIOError:
        return None
    except (OSError, ValueError):
        return False
    return True


def ready() -> tuple[str, str]:
    """The pool is complete, or a reload is over. The pid: systemd may have started a wrapper of ours."""
    return "READY=1", f"MAINPID={os.getpid()}"


def reloading() -> tuple[str, str]:
    """A reload begins; `ready` ends it. The time tells systemd whether its signal was meant."""
    return "RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}"


def status(text: str) -> str:
    """One line for a person. A line break in the text would begin another assignment."""
    return f"STATUS={' '.join(text.splitlines())}"


def extend(seconds: float) -> str:
    """A time limit of systemd that is running is not over sooner than in so long."""
    return f"EXTEND_TIMEOUT_USEC={round(seconds * 1_000_000)}"


def watchdog_period() -> float:
    """Seconds in which systemd wants to hear WATCHDOG from this process; 0 if it does not."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    text = os.environ.get("WATCHDOG_USEC", "")
    return int(text) / 1_000_000 if text.isascii() and text.isdigit() and len(text) <= 20 else 0.0


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
