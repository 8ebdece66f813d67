"""What tells a new generation that it is one: a variable in its environment that names its parent.

Written by the serving supervisor for the program that it executes, taken out of the environment first thing by that program.
"""

from __future__ import annotations

import os
import socket
import stat
from typing import NamedTuple

_VARIABLE = "FCGI_PROCMANAGER_RELOAD"


class Invitation(NamedTuple):
    """predecessor: pid of the serving supervisor. generation: ours, counted from 1."""

    predecessor: int
    line: socket.socket
    generation: int


def written(descriptor: int, generation: int) -> dict[str, str]:
    """For the environment of a program that has the line to us on this descriptor."""
    return {_VARIABLE: f"{os.getpid()} {descriptor} {generation}"}


def taken() -> Invitation | None:
    """The invitation to this process, if there is one. The variable goes, whoever it was for."""
    # A supervisor that is started from inside another one inherits the variable if it is started before it was taken out. It
    # has another parent than the one that is named, and no socket on that descriptor.
    words = os.environ.pop(_VARIABLE, "").split()
    if len(words) != 3 or not all(word.isascii() and word.isdigit() and len(word) < 10 for word in words):
        return None
    predecessor, descriptor, generation = map(int, words)
    try:
        if predecessor != os.getppid() or not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return None
    except OSError:
        return None
    os.set_inheritable(descriptor, False)
    return Invitation(predecessor, socket.socket(fileno=descriptor), generation)
