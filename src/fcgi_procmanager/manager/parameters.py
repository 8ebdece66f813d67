"""The keyword parameters of `ProcManager`, for type checkers: what those have whose other parameters are passed on to it.

Never loaded at run time. The types are those of `ProcManager.__init__`, and a test compares the two.
"""

from __future__ import annotations

import os
from typing import TypedDict


class PoolParameters(TypedDict, total=False):
    """Without `reload`, whose default is another one in `PoolManager`."""

    pidfile: str | os.PathLike[str] | None
    die_timeout: float
    drain_delay: float
    boot_timeout: float
    reload_slice: int
    reload_timeout: float
    start_delay: float
    standby: int
    no_signals: bool
    process_name: str
    manager_process_name: str
    log_format: str | None
    log_level: str | None


class Parameters(PoolParameters, total=False):
    """All of them."""

    reload: str
