"""Descriptors 0, 1 and 2 are something, whoever started us.

Runs in a process that was typed, first thing. Where one of them is closed, the next file or pipe that is opened would get its number,
and with it what others write to their standard error.
"""

from __future__ import annotations

import os
import sys

__all__ = ["null_on_zero", "open_missing"]


def open_missing() -> None:
    """What is closed leads nowhere from now on."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:  # cannot be: the lowest number that is free is given
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)
    # Python has no stream where it found no descriptor; a log file may take its place later.
    if sys.stdout is None:
        sys.stdout = open(1, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115


def null_on_zero() -> None:
    """/dev/null on descriptor 0, which whatever this process runs finds there."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0, inheritable=True)
    os.close(null)
