"""One listening socket, and the file it made if it made one.

The manager (or a single process) makes and removes a `Listener`; a worker only uses it and closes it. Must never remove a file
that this very process did not bind.
"""

from __future__ import annotations

import contextlib
import socket

from ..system.stdio import null_on_zero
from .addresses import Address
from .socketfiles import BoundFile


class Listener:
    """One listening, non-blocking socket, and the file it made if it made one. `ProcManager.listen` returns it.

    `socket` is the socket itself, `address` what was asked for, `bound` the file. `asked`: the address that somebody asked for, by
    which the program that a manager executes asks for it again.
    """

    def __init__(self, sock: socket.socket, address: Address, bound: BoundFile | None = None) -> None:
        self.socket = sock
        self.address = address
        self.bound = bound
        self.asked = ""

    def fileno(self) -> int:
        """Any process: the number of the descriptor, -1 once closed."""
        return self.socket.fileno()

    def describe(self) -> str:
        """Any process: the address in words, with the real port if port 0 was asked for."""
        return self.address.describe()

    def close(self) -> None:
        """Any process: close this process's descriptor; the file and the other processes' descriptors stay."""
        # A process without a descriptor 0 gives that number to the next file or socket it opens, which then is the
        # standard input of whatever it runs. Therefore descriptor 0 is replaced, not closed.
        if self.socket.fileno() == 0:
            with contextlib.suppress(OSError):
                null_on_zero()
            self.socket.detach()
        self.socket.close()

    def remove(self) -> None:
        """The process that bound it: remove the socket file if it is still that very file, then close.

        After `close()` this does nothing: without the open socket the file's inode number may be somebody else's.
        """
        # Closed first, the file would look stale: a starter could replace it just before our unlink, which would then
        # take the file of a living server. Therefore the file goes while the socket still listens.
        if self.bound is not None and self.fileno() >= 0:
            self.bound.remove()
        self.close()

    def __repr__(self) -> str:
        return f"<Listener {self.describe()} descriptor={self.fileno()}>"
