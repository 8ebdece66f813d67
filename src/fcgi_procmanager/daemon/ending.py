"""The end of a process that runs code of the application, which has no loop of ours: its hook runs in the handler of the signal.

Runs in a daemon, and in a supervised process. Must never run the hook twice, nor end it half-way for a signal that is repeated.
"""

from __future__ import annotations

import enum
import os
import signal
import threading
from typing import Callable

from ..basics import exits, log

ERROR = 255  # the original's status of an end by an error


class _Stage(enum.Enum):
    NONE = "none"
    HOOK = "hook"
    OVER = "over"


class Ending:
    """hook: called once; what it returns is the exit status, if that is a number."""

    def __init__(self, hook: Callable[[], object]) -> None:
        self._hook = hook
        self._stage = _Stage.NONE
        self._status: int | None = None

    def by_signal(self, name: str) -> None:
        """In the handler. Raises SystemExit once the hook is done; again at each further signal, should code of the application
        have caught it."""
        if self._stage is not _Stage.HOOK:
            self.leave()

    def leave(self, status: int | None = None) -> None:
        """Raises SystemExit, in the main thread. status: whatever the hook says."""
        if status is not None and self._status is None:
            self._status = status
        if threading.current_thread() is not threading.main_thread():
            os.kill(os.getpid(), signal.SIGTERM)  # elsewhere a SystemExit ends one thread and no more
            return
        if self._stage is _Stage.NONE:
            self._run_hook()
        raise SystemExit(self._status)

    def _run_hook(self) -> None:
        self._stage = _Stage.HOOK
        try:
            found = self._hook()
        except Exception as error:
            log.write_traceback(error, exact=True)
            found = ERROR
        finally:
            self._stage = _Stage.OVER
        if self._status is None:
            self._status = found if isinstance(found, int) and not isinstance(found, bool) else exits.OK
