"""One line of the log at a time: to standard error, or to the logger that the application configured.

Runs in every process, never in a signal handler. A log that nobody can read is no reason to stop serving.
"""

from __future__ import annotations

import select
import sys
from typing import Any, Callable

_PATIENCE = 100  # milliseconds
_stalled = False  # the last line found no room


_sink: Callable[[str], object] | None = None


def send_to(sink: Callable[[str], object] | None) -> None:
    """From now on each line of this process is for `sink`; None: for standard error, or the application's logger."""
    global _sink
    _sink = sink


def write(line: str) -> None:
    if _sink is not None:
        _sink(line)
        return
    logger = configured_logger()
    if logger is not None:
        logger.info(line)
    else:
        write_plainly(line)


def write_plainly(line: str) -> None:
    """To standard error, whatever the application configured."""
    try:
        if _has_room(sys.stderr):
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
    except (AttributeError, OSError, ValueError):
        pass  # None, closed, or a pipe without a reader


def _has_room(stream: Any) -> bool:
    """Whether a line can be written without waiting for a reader who may never come; a slow one gets a moment."""
    global _stalled
    poller = select.poll()
    try:
        poller.register(stream.fileno(), select.POLLOUT)
    except (AttributeError, OSError, ValueError):
        return True  # not a file of the system
    _stalled = not poller.poll(0 if _stalled else _PATIENCE)
    return not _stalled


def write_traceback(error: BaseException) -> None:
    import traceback

    for part in traceback.format_exception(type(error), error, error.__traceback__):
        write(part.rstrip("\n"))


def text(message: object) -> str:
    """A message as Perl makes a string of it: an exception is its words, None is nothing."""
    return "" if message is None else str(message)


def flush_standard_streams() -> None:
    """Before a fork: what is buffered would be written by every child once more."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, RuntimeError, ValueError):
            pass  # RuntimeError: a handler has interrupted that very stream


def configured_logger(name: str = "fcgi_procmanager") -> Any:
    """A logger of the package, if the application gave it a handler or a level. Nothing is imported to find out."""
    logging = sys.modules.get("logging")
    if logging is None:
        return None
    logger = logging.getLogger(name)
    return logger if logger.handlers or logger.level else None
