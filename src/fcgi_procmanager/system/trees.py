"""A process and all that it has started, killed together.

Runs in who keeps foreign programs: one that is killed cannot end its own children any more. Must never touch a process that was
not started by the one that is named.
"""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

__all__ = ["kill"]

_ROUNDS = 20  # a program that forks faster than it can be stopped is not held up by more


def kill(pid: int) -> None:
    """KILL to process `pid` and to its descendants. Raises ProcessLookupError when it is gone."""
    import psutil

    try:
        root = psutil.Process(pid)
    except psutil.NoSuchProcess:
        raise ProcessLookupError(pid) from None
    # One that runs can fork between the look and the KILL, and its child is nobody's then. So all are stopped first, from the
    # top, until a look finds nobody new.
    found = {root}
    new = {root}
    for _ in range(_ROUNDS):
        _send(new, signal.SIGSTOP)
        new = _descendants(root) - found
        if not new:
            break
        found |= new
    _send(found, signal.SIGKILL)


def _descendants(root: psutil.Process) -> set[psutil.Process]:
    import psutil

    with contextlib.suppress(psutil.Error):
        return set(root.children(recursive=True))
    return set()


def _send(processes: set[psutil.Process], number: int) -> None:
    import psutil

    for process in processes:
        with contextlib.suppress(psutil.Error, OSError):
            process.send_signal(number)
