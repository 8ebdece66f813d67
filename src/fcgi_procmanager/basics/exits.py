"""Exit statuses: the ones we leave with, and how a child's wait status is read. Pure; runs in every process."""

from __future__ import annotations

import os
import signal
from typing import NamedTuple

OK = 0  # a gentle end
FAILED = 1  # somebody had to be killed, or nothing could be served
USAGE = 2  # a person's mistake: trying again without a change would not help


class Exit(NamedTuple):
    """How a child ended. `raw` is the 16-bit wait status, or None when somebody else reaped the child."""

    raw: int | None

    @property
    def clean(self) -> bool:
        """It left by itself with status 0."""
        return self.raw == 0

    @property
    def code(self) -> int | None:
        """Exit code 0-255, or None when it was ended by a signal or nobody knows."""
        return os.WEXITSTATUS(self.raw) if self.raw is not None and os.WIFEXITED(self.raw) else None

    @property
    def signal(self) -> int | None:
        return os.WTERMSIG(self.raw) if self.raw is not None and os.WIFSIGNALED(self.raw) else None

    def __str__(self) -> str:
        """The words of the log line: `0`, `3`, `9 (SIGKILL)` as a shell would say `128 + n`, or `unknown`."""
        if self.code is not None:
            return str(self.code)
        if self.signal is not None:
            return f"{128 + self.signal} ({_signal_name(self.signal)})"
        return "unknown"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
