"""An exception of the application, for whoever reads the log.

Runs in a worker, in any thread, while it is handled. Must never raise: a disk that is full or a reader that is gone must not decide
what becomes of a request, or of a worker.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from ..basics import log
from ..basics.printable import printable
from ..manager.procmanager import ProcManager


def write_traceback(manager: ProcManager, params: Mapping[str, str] | None = None) -> None:
    """params: of the request that was in hand."""
    error = sys.exc_info()[1]
    assert error is not None
    try:
        if not manager._says_more:
            log.write_traceback(error, exact=True)
            return
        where = {} if params is None else _place(params)
        what = " ".join(filter(None, where.values())) or "a worker"
        line = f"{manager.log_name}: {manager.role} (pid {os.getpid()}): exception in {what}: {log.story(error)}"
        log.write_exception(line, error, **where)
    except Exception:
        pass  # full, closed, or an object of the application


def _place(params: Mapping[str, str]) -> dict[str, str]:
    """What a client has written, without what it asked for behind the path, which may be a secret."""
    try:
        path = params.get("REQUEST_URI") or params.get("SCRIPT_NAME", "") + params.get("PATH_INFO", "")
        return {"method": printable(params.get("REQUEST_METHOD", "")), "path": printable(path.partition("?")[0])}
    except (AttributeError, TypeError):
        return {}  # the application has put something else there
