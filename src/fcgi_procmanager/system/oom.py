"""Whether the system has killed processes of ours for want of memory.

Runs in the manager. Must never fail: what cannot be found out is not known.
"""

from __future__ import annotations

_CGROUPS = "/sys/fs/cgroup"  # of version 2
_OURS = "/proc/self/cgroup"


class MemoryKills:
    """How many there were, counted by the kernel for the cgroup of this process."""

    def __init__(self, file: str | None = None) -> None:
        """file: None for the one of our cgroup."""
        self._file = file if file is not None else _events_file()
        self._seen = self._read()

    def take(self) -> bool:
        """Whether there is one more, which is then used up: each is the end of one process."""
        count = self._read()
        if count is None or self._seen is None or count <= self._seen:
            return False
        self._seen += 1
        return True

    def _read(self) -> int | None:
        try:
            with open(self._file) as file:
                return next(int(line.split()[1]) for line in file if line.startswith("oom_kill "))
        except (OSError, ValueError, IndexError, StopIteration):
            return None


def _events_file() -> str:
    try:
        with open(_OURS) as file:
            ours = next(line[3:].rstrip("\n") for line in file if line.startswith("0::"))
    except (OSError, ValueError, StopIteration):
        return ""
    return f"{_CGROUPS}{ours.rstrip('/')}/memory.events"
