"""How a program that we run tells us that it is ready: systemd's way, READY=1 to NOTIFY_SOCKET, or s6's, a newline on a descriptor.

Made in the parent, one for each program. Must never block, and never believe somebody who is not of the program's user.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import struct
import sys
import tempfile
from collections.abc import Iterable

_LIMIT = 4096  # bytes of one message
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid
_HAS_CREDENTIALS = sys.platform.startswith("linux")


class Announcement:
    """tell: the descriptor on which the program writes its newline. words: what it has said last of how it is (STATUS)."""

    tell: int

    def __init__(self) -> None:
        self._directory = ""
        self._name = ""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._told, self.tell = os.pipe()
        self._said = False
        self.words: str = ""
        try:
            self._bind()
            self._socket.setblocking(False)
            os.set_blocking(self._told, False)
        except BaseException:
            self.close()
            raise

    def _bind(self) -> None:
        if _HAS_CREDENTIALS:
            # A name without a file: the program may have changed its user or its root, and nothing is left behind. Anybody on
            # this machine can send to it; the system says who it was.
            self._name = f"@fcgi-procmanager/{os.getpid()}/{os.urandom(8).hex()}"
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            self._socket.bind("\0" + self._name[1:])
        else:
            self._directory = tempfile.mkdtemp(prefix="fcgi-procmanager-")
            self._name = os.path.join(self._directory, "notify")
            self._socket.bind(self._name)

    def environment(self, number: int) -> dict[str, str]:
        """For the program. number: of `tell` in it."""
        return {"NOTIFY_SOCKET": self._name, "SERVER_STARTER_NOTIFY_FD": str(number)}

    def descriptors(self) -> Iterable[int]:
        return [fd for fd in (self._socket.fileno(), self._told) if fd >= 0]

    def started(self) -> None:
        """The program has its end of the pipe."""
        os.close(self.tell)
        self.tell = -1

    def is_ready(self, pid: int) -> bool:
        """Whether it has said so by now. pid: of the program."""
        self._read_messages(pid)
        self._read_pipe()
        return self._said

    def close(self) -> None:
        self._socket.close()
        for fd in (self._told, self.tell):
            if fd >= 0:
                os.close(fd)
        self._told = self.tell = -1
        if self._directory:
            shutil.rmtree(self._directory, ignore_errors=True)

    def _read_messages(self, pid: int) -> None:
        with contextlib.suppress(OSError):
            while True:
                # There is no room for descriptors beside the credentials: the system closes those that somebody sends.
                data, extra, _, _ = self._socket.recvmsg(_LIMIT, socket.CMSG_SPACE(_CREDENTIALS.size))
                if _is_believed(extra, pid):
                    self._take(data.split(b"\n"))

    def _take(self, assignments: list[bytes]) -> None:
        self._said = self._said or b"READY=1" in assignments
        for one in assignments:
            if one.startswith(b"STATUS="):
                self.words = one[7:].decode("utf-8", "replace")

    def _read_pipe(self) -> None:
        if self._told < 0:
            return
        try:
            data = os.read(self._told, _LIMIT)
        except BlockingIOError:
            return
        if b"\n" in data:
            self._said = True
        if not data:  # closed, which says nothing, and would wake us for ever
            os.close(self._told)
            self._told = -1


def _is_believed(extra: list[tuple[int, int, bytes]], pid: int) -> bool:
    """Whether root, our own user or that of the program has sent it."""
    if not _HAS_CREDENTIALS:
        return True
    users = {0, os.geteuid()}
    with contextlib.suppress(OSError):
        users.add(os.stat(f"/proc/{pid}").st_uid)
    return any(
        kind == socket.SCM_CREDENTIALS and _CREDENTIALS.unpack(data[: _CREDENTIALS.size])[1] in users
        for level, kind, data in extra
        if level == socket.SOL_SOCKET and len(data) >= _CREDENTIALS.size
    )
