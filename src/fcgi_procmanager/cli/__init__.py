"""The command `fcgi-procmanager`: its entry point, and what an error looks like to a person.

Runs in the process that was typed, which for `serve` and `demo` becomes the manager. A worker passes through here only on
its way out, by SystemExit. It must never show a traceback for a mistake that a person can make: such a mistake is one line
and exit status 2.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from .. import exits
from ..errors import ProcManagerError
from . import check, control, demo, serve
from .arguments import PROGRAM, Parser

__all__ = ["main"]

_COMMANDS = (serve, demo, reload := control.Reload, control.Stop, check)
