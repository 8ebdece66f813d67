"""`request_timeout` in the worker: the manager says by a signal that the time of the request in hand is up, and the handler raises in
the code of the application, if that is what runs now.

Runs in a worker, in its main thread. Must never raise in code of this package, which may be in the middle of a record: then nothing
happens, and the manager asks once more.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Callable

SIGNAL = "RTMIN" if hasattr(signal, "SIGRTMIN") else "VTALRM"

_PACKAGE = __name__.partition(".")[0]
# From where the application is called, and its reply asked for: module, class, methods.
_CALLERS = (
    ("fastcgi.wsgi", "WSGIServer", ("handler",)),
    ("fastcgi.adopted", "Adopted", ("handler",)),
    ("fastcgi.response", "Response", ("send", "_send_pieces")),
    ("cli.hosting", "Application", ("__call__",)),
)


def listen(is_late: Callable[[], bool], act: Callable[[], object]) -> None:
    """From now on: `act` is called when the signal comes, if `is_late` and code of the application runs. What it raises, is raised
    there."""

    def handle(number: int, frame: FrameType | None) -> None:
        if is_late() and _is_of_application(frame):
            act()

    signal.signal(getattr(signal, f"SIG{SIGNAL}"), handle)


def _is_of_application(frame: FrameType | None) -> bool:
    """Whether the nearest code of this package around it, if there is any, is what calls the application."""
    if frame is not None and _is_ours(frame):
        return False
    while frame is not None:
        if _is_ours(frame):
            return frame.f_code in _callers()
        frame = frame.f_back
    return True


def _callers() -> Iterator[CodeType]:
    """Of the modules that are loaded: a script may have a loop of its own."""
    for module, name, methods in _CALLERS:
        found = getattr(sys.modules.get(f"{_PACKAGE}.{module}"), name, None)
        if found is not None:
            yield from (getattr(found, method).__code__ for method in methods)


def _is_ours(frame: FrameType) -> bool:
    name = str(frame.f_globals.get("__name__", ""))
    return name == _PACKAGE or name.startswith(_PACKAGE + ".")
