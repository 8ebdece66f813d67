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
    log.flush_standard_streams()
    heard, line = os.pipe()
    if atfork.by_us(os.fork):
        os.close(line)
        raise SystemExit(_wait(heard))
    os.close(heard)
    os.setsid()
    if atfork.by_us(os.fork):
        os._exit(exits.OK)  # the leader of the session ends: nobody can get a terminal by opening one
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.close(null)
    return Detached(line)


def _wait(heard: int) -> int:
    said = b""
    with contextlib.suppress(KeyboardInterrupt):
        while chunk := os.read(heard, _LIMIT):
            said += chunk
    os.close(heard)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    words = said[1:].decode(errors="replace") if said else "ended before its first generation was ready"
    if words:
        print(words, file=sys.stderr, flush=True)
    return said[0] if said else exits.FAILED
