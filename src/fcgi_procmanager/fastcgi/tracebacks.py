"""A traceback for whoever reads standard error.

Runs in a worker, in any thread, while an exception is handled. Must never raise: a disk that is full or a reader that is gone
must not decide what becomes of a request, or of a worker.
"""

from __future__ import annotations

import sys
import traceback


def write_traceback() -> None:
    try:
        sys.stderr.write(traceback.format_exc())
    except Exception:
        pass  # full, closed, None, or an object of the application
