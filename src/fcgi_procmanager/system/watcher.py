"""The watcher: a program that says on its descriptor 3 when Python files in a folder change, a line for each batch of changes.

Runs in a process of its own, a child of the manager, which never loads watchfiles. Must end when the manager does, or no longer
listens.

A line is `watching`, once the watch is in place, or `changed` and the first file of a batch. What is written while a worker loads
it makes one more batch: the last state of a file is always followed by a line.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
from collections.abc import Iterator

from .proctitle import set_title

__all__ = ["CHANGED", "TELL", "TITLE", "WATCHING", "is_source", "main"]

CHANGED, WATCHING = "changed", "watching"
TELL = 3  # the descriptor
TITLE = "python-fcgi-pm (watcher)"

_QUIET = 100  # milliseconds without a change end a batch: an editor renames, a checkout writes many files
_AT_MOST = 1000  # milliseconds that a batch may last
_IGNORED = frozenset(("__pycache__", "node_modules", "site-packages"))


def main() -> None:
    """Arguments, the last two: the folder, and the pid of the manager."""
    folder, manager = sys.argv[-2], int(sys.argv[-1])
    set_title(TITLE)
    from watchfiles import watch

    for changes in watch(
        folder,
        watch_filter=lambda _, path: is_source(path, folder) or _brings_sources(path, folder),
        step=_QUIET,
        debounce=_AT_MOST,
        stop_event=_End(manager),
        raise_interrupt=False,
    ):
        _tell(f"{CHANGED} {os.path.relpath(min(path for _, path in changes), folder)}")


class _End:
    """Whether to end, which watchfiles asks all the time; for the first time when the watch is in place."""

    def __init__(self, manager: int) -> None:
        self._manager = manager
        self._in_place = False

    def is_set(self) -> bool:
        if not self._in_place:
            self._in_place = True
            _tell(WATCHING)
        return os.getppid() != self._manager or not _is_heard()


def is_source(path: str, folder: str) -> bool:
    """A Python file that may belong to the application: not an editor's, nor in a hidden folder, nor an installed package."""
    return path.endswith(".py") and not _is_ignored(path, folder)


def _is_ignored(path: str, folder: str) -> bool:
    return any(part.startswith(".") or part in _IGNORED for part in os.path.relpath(path, folder).split(os.sep))


def _brings_sources(path: str, folder: str) -> bool:
    """A folder that came with files in it: the watch upon it comes too late for them."""
    return os.path.isdir(path) and not _is_ignored(path, folder) and any(_sources(path, folder))


def _sources(path: str, folder: str) -> Iterator[str]:
    for parent, _, files in os.walk(path):
        yield from (name for name in files if is_source(os.path.join(parent, name), folder))


def _is_heard() -> bool:
    """Somebody has the other end of the pipe: a manager that executes itself afresh keeps its pid, and starts another watcher."""
    poller = select.poll()
    poller.register(TELL, 0)
    return not poller.poll(0)


def _tell(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # the next look finds out that nobody reads any more
        os.write(TELL, (" ".join(line.splitlines()) + "\n").encode("utf-8", "replace"))
