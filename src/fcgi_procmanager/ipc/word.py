"""The word: what a manager says to one standby, once: serve.

Made in the manager before the fork of that standby, and each side keeps its end. The end of file says that nobody will say it any
more: the manager is gone, or has executed itself. Must never block.
"""

from __future__ import annotations

import socket

from ..system.atfork import AtFork

_SERVE = b"s"
# A script may have given SIGPIPE its default action back: to speak to a standby that has just died must not end the manager.
_FLAGS = socket.MSG_DONTWAIT | getattr(socket, "MSG_NOSIGNAL", 0)


class Word:
    def __init__(self) -> None:
        """Raises OSError when the system has no more descriptors."""
        self._ours, self._its = socket.socketpair()
        _at_fork.add(self)

    def keep_manager_end(self) -> None:
        """Manager, after the fork: else it would not notice that nobody listens."""
        self._its.close()

    def keep_standby_end(self) -> None:
        """Standby, first thing: else it would not notice that nobody speaks."""
        self._ours.close()

    def say(self) -> bool:
        """Manager, once: False when nobody is there to hear it. True does not mean that it is heard: who dies before is reaped."""
        try:
            return self._ours.send(_SERVE, _FLAGS) == len(_SERVE)
        except OSError:
            return False
        finally:
            self._ours.close()

    def fileno(self) -> int:
        """Standby: readable when there is something to hear."""
        return self._its.fileno()

    def heard(self) -> bool:
        """Standby: whether it was told to serve; False at the end of file."""
        try:
            return self._its.recv(1, socket.MSG_DONTWAIT) == _SERVE
        except OSError:
            return False

    def close(self) -> None:
        """May be called twice. What was said can still be heard."""
        self._ours.close()
        self._its.close()


_at_fork = AtFork(Word.close)
