"""How many processes this machine can hold for this user: an upper bound, against a typing error that takes the machine down.

Runs in the manager, before its first fork. What cannot be found out limits nothing.
"""

from __future__ import annotations

import os
import resource
from typing import NamedTuple

# Bytes that a worker takes at the very least: kernel stack, page tables, the pages that it writes into. A small one was
# measured to take four times as much.
LEAST_MEMORY = 512 * 1024
_PIDS = ("/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max", "/sys/fs/cgroup/pids.max")
_MEMORY = ("/sys/fs/cgroup/memory.max",)


class Limit(NamedTuple):
    """processes: at most. reason: why, in words."""

    processes: int
    reason: str


def limit() -> Limit | None:
    """The tightest of the limits that are known."""
    found = [*_of_user(), *_of_system(), *_of_memory()]
    return min(found, default=None)


def _of_user() -> list[Limit]:
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if soft == resource.RLIM_INFINITY or os.geteuid() == 0:  # which the kernel does not hold to it
        return []
    return [Limit(soft, "RLIMIT_NPROC, 'ulimit -u'")]


def _of_system() -> list[Limit]:
    numbers = ((path, _number_in(path)) for path in _PIDS)
    return [Limit(number, path) for path, number in numbers if number is not None]


def _of_memory() -> list[Limit]:
    numbers = [number for path in _MEMORY if (number := _number_in(path)) is not None]
    try:
        numbers.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError):
        pass
    return [Limit(number // LEAST_MEMORY, f"{number >> 20} MiB of memory") for number in numbers if number > 0]


def _number_in(path: str) -> int | None:
    """None when there is no such file, or no number in it."""
    try:
        with open(path) as file:
            return int(file.read(32))
    except (OSError, ValueError):
        return None
