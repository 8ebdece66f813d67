"""A socket object for a descriptor that is there already, and that other processes may hold as well."""

from __future__ import annotations

import os
import socket


def existing(descriptor: int) -> socket.socket:
    """Blocking or not, as it was found: all who hold the socket share that, and a worker that accepts would wait for ever. CPython
    makes it non-blocking where there is a default timeout, PyPy makes it blocking where there is none."""
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(None if os.get_blocking(descriptor) else 0.0)
    try:
        return socket.socket(fileno=descriptor)
    finally:
        socket.setdefaulttimeout(timeout)
