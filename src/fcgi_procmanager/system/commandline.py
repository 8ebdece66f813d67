"""The command that this process was started by, to be run once more.

Runs in every process that may execute itself again. Must be read before a process title is put in its place.
"""

from __future__ import annotations

import os
import sys

__all__ = ["command", "words"]


def command() -> list[str]:
    """Interpreter, its options, the script or module, and all arguments, as they were given."""
    first, *others = words()
    return [sys.executable or first, *others]


def words() -> list[str]:
    """The same, with the interpreter as it was typed."""
    return list(getattr(sys, "orig_argv", None) or _from_system() or _put_together())


def _from_system() -> list[str]:
    """Python 3.9 does not say."""
    try:
        with open("/proc/self/cmdline", "rb") as file:
            return [os.fsdecode(word) for word in file.read().split(b"\0")[:-1]]
    except OSError:
        return []


def _put_together() -> list[str]:
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if spec is None:
        return [sys.executable, *sys.argv]
    return [sys.executable, "-m", spec.name.removesuffix(".__main__"), *sys.argv[1:]]
