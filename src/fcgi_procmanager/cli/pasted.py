"""Command lines for a person to paste: they work in any folder, and run this installation.

Runs in any process of the command. Must never show what only the environment knows.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable

from .messages import PROGRAM

__all__ = ["pasted"]


def pasted(words: Iterable[str]) -> str:
    return shlex.join([*_program(), *words])


def _program() -> list[str]:
    """The command beside our interpreter, that of a virtual environment; else our module."""
    beside = os.path.join(os.path.dirname(sys.executable), PROGRAM)
    if os.path.isabs(beside) and os.access(beside, os.X_OK):
        return [beside]
    return [sys.executable or "python3", "-m", __package__.partition(".")[0]]
