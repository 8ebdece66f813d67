"""systemd's end of NOTIFY_SOCKET, owned by a test."""

from __future__ import annotations

import os
import re
import secrets
import socket
import time
from typing import Callable

Message = dict[str, str]


class Notified:
    """What a service has told, in order: each datagram as a dict. all: everything so far."""

    def __init__(self) -> None:
        self.address = f"@fcgi-procmanager-test-{os.getpid()}-{secrets.token_hex(4)}"
        self.all: list[Message] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + self.address[1:])

    def close(self) -> None:
        self._socket.close()

    @property
    def environment(self) -> dict[str, str]:
        return {"NOTIFY_SOCKET": self.address}

    def next(self, timeout: float = 60) -> Message:
        self._socket.settimeout(max(0.001, timeout))
        lines = self._socket.recv(4096).decode().split("\n")
        message = dict(line.split("=", 1) for line in lines)
        assert len(message) == len(lines), f"something is said twice: {lines}"
        self.all.append(message)
        return message

    def wait(self, name: str, pattern: str = "", timeout: float = 60) -> Message:
        """The next message in which this variable has a value that matches the whole pattern; any, without one."""
        return self._wait(
            lambda message: name in message and bool(re.fullmatch(pattern or ".*", message[name])), timeout
        )

    def hear(self, seconds: float) -> list[Message]:
        """All that comes in so long."""
        deadline, heard = time.monotonic() + seconds, []
        while True:
            try:
                heard.append(self.next(deadline - time.monotonic()))
            except (socket.timeout, BlockingIOError):
                return heard

    def states(self) -> list[str]:
        """The changes of state so far."""
        words = ("READY", "RELOADING", "STOPPING")
        return [word for message in self.all for word in words if word in message]

    def _wait(self, fits: Callable[[Message], bool], timeout: float) -> Message:
        deadline = time.monotonic() + timeout
        while True:
            try:
                message = self.next(deadline - time.monotonic())
            except (socket.timeout, BlockingIOError):
                raise AssertionError(f"not said in {timeout} s; this was: {self.all}") from None
            if fits(message):
                return message
