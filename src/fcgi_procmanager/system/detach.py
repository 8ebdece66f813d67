"""Into the background, with whoever typed the command waiting for the truth.

Two processes run this: the one that was typed, which waits and ends as it is told, and the daemon, which goes on. Must be called
before anything is made that belongs to one process: a socket file, a PID file, a thread.
"""

from __future__ import annotations

import contextlib
import os
import sys

from ..basics import exits, log
from . import atfork

_LIMIT = 4096  # bytes of the last words


class Detached:
    """In the daemon: its line to the one who waits."""

    def __init__(self, line: int) -> None:
        self._line = line

    def tell(self, status: int, words: str = "") -> None:
        """The one who waits writes these words and ends with this status. Only the first call counts."""
        if self._line < 0:
            return
        with contextlib.suppress(OSError):
            os.write(self._line, bytes([status]) + words.encode(errors="replace")[: _LIMIT - 1])
        self.close()

    def close(self) -> None:
        if self._line >= 0:
            os.close(self._line)
            self._line = -1


def detach() -> Detached:
    """Returns in the daemon only, in a session of its own with nothing to read. In the process that was typed it raises
    SystemExit, with what `Detached.tell` says, or 1 when the daemon ends without a word."""
    away = fork_away("ended before its first generation was ready")
    if isinstance(away, int):
        raise SystemExit(away)
    return away


def fork_away(silence: str) -> Detached | int:
    """The same, but in the process that was typed it returns that status. silence: what is said of a daemon that ends without a
    word. Raises OSError when the system refuses to fork."""
    log.flush_standard_streams()
    heard, line = os.pipe()
    try:
        child = atfork.by_us(os.fork)
    except BaseException:
        os.close(heard)
        os.close(line)
        raise
    if child:
        os.close(line)
        return _wait(child, heard, silence)
    os.close(heard)
    detached = Detached(line)
    os.setsid()
    _fork_again(detached)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.close(null)
    return detached


def leave_streams() -> None:
    """What is written to standard output and standard error goes nowhere from now on."""
    log.flush_standard_streams()
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for number in (1, 2):
        os.dup2(null, number)
    os.close(null)


def _fork_again(detached: Detached) -> None:
    """The leader of the session ends: nobody can get a terminal by opening one."""
    try:
        child = atfork.by_us(os.fork)
    except OSError as error:
        detached.tell(exits.FAILED, f"Can't fork grandchild process: {error.strerror}")
        os._exit(exits.FAILED)
    if child:
        os._exit(exits.OK)


def _wait(child: int, heard: int, silence: str) -> int:
    said = b""
    with contextlib.suppress(KeyboardInterrupt):
        while chunk := os.read(heard, _LIMIT):
            said += chunk
    os.close(heard)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(child, 0)
    words = said[1:].decode(errors="replace") if said else silence
    if words:
        print(words, file=sys.stderr, flush=True)
    return said[0] if said else exits.FAILED
