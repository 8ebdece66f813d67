"""Newline-terminated words between two processes, over a stream socket.

A supervisor hears and says without ever waiting; a supervised process asks, and waits for the answer. Must never believe that a
line which was cut off is a word.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable

_LIMIT = 4096  # bytes of one word; a program that writes more speaks something else
# An application may have given SIGPIPE its default action, which ends a process that writes to nobody.
_QUIETLY = getattr(socket, "MSG_NOSIGNAL", 0)


class Line:
    """One end. ended: nobody is at the other one any more."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self.ended: bool = False
        self._unread = b""

    def descriptors(self) -> Iterable[int]:
        return () if self.ended or self.socket.fileno() < 0 else (self.socket.fileno(),)

    def hear(self) -> list[str]:
        """The words that have come, without waiting. At most one piece of what is there: who writes without end does not keep us."""
        if self.ended or self.socket.fileno() < 0:
            return []
        try:
            piece = self.socket.recv(_LIMIT, socket.MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return []
        except OSError:
            piece = b""
        self.ended = not piece
        *words, rest = (self._unread + piece).split(b"\n")
        self._unread = rest[:_LIMIT]
        return [word.decode(errors="replace") for word in words]

    def say(self, word: str) -> None:
        """Without waiting: who does not read what he asked for, does without."""
        with contextlib.suppress(OSError):
            self.socket.send(word.encode() + b"\n", socket.MSG_DONTWAIT | _QUIETLY)

    def ask(self, word: str) -> str:
        """Say a word and wait for the answer. Raises OSError; EOFError when nobody is there any more."""
        self.socket.sendall(word.encode() + b"\n", _QUIETLY)
        while b"\n" not in self._unread:
            piece = self.socket.recv(_LIMIT)
            if not piece:
                raise EOFError("end of file")
            self._unread += piece
        answer, _, self._unread = self._unread.partition(b"\n")
        return answer.decode(errors="replace")

    def close(self) -> None:
        """May be called twice."""
        self.socket.close()
