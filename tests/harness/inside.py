"""What a script under test may import (`from harness.inside import ...`) to look at itself from within."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

_LINUX = sys.platform.startswith("linux")
SA_RESTART = 0x10000000 if _LINUX else 0x2


class _Sigaction(ctypes.Structure):
    """`struct sigaction` as the C library has it: glibc and musl on Linux, else the BSD order."""

    _fields_ = (
        [
            ("handler", ctypes.c_void_p),
            ("mask", ctypes.c_ulong * (1024 // (8 * ctypes.sizeof(ctypes.c_ulong)))),
            ("flags", ctypes.c_int),
            ("restorer", ctypes.c_void_p),
        ]
        if _LINUX
        else [("handler", ctypes.c_void_p), ("mask", ctypes.c_uint32), ("flags", ctypes.c_int)]
    )


def sigaction_flags(signum: int) -> int:
    """The sa_flags that the kernel holds for a signal, which Python itself cannot tell."""
    found = _Sigaction()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.sigaction(ctypes.c_int(signum), None, ctypes.byref(found)):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return int(found.flags) & 0xFFFFFFFF


def restarts(signum: int) -> bool:
    """Whether a system call that the signal interrupts is restarted (SA_RESTART)."""
    return bool(sigaction_flags(signum) & SA_RESTART)


def say(*words: object) -> None:
    """Print a line in one write, so that the lines of several processes never mix."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def idle(manager: Any) -> None:
    """A worker without a server: it waits to be told to leave, and leaves."""
    while not manager.leaving:
        manager._gate.wait()
    manager.exit(manager.leave_reason)
