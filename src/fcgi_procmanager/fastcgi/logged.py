"""A request that somebody is told of when it has ended: what was asked, what was answered, and what it cost.

Runs in a worker, in the thread that serves the request. Must never change a reply, whichever way it is written: it counts what leaves
for the web server.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Protocol

from . import protocol
from .connection import Connection
from .output import CgiOutput, Output
from .request import Done, Request

if TYPE_CHECKING:
    from collections.abc import Mapping

_HEAD_LIMIT = 1 << 16  # bytes; what has no end of its headers by then has none
_END_OF_HEAD = re.compile(rb"\n\r?\n")
_OUR_STATUS = b"Status: "
_STATUS = re.compile(rb"^status:[ \t]*(\d{3})", re.IGNORECASE | re.MULTILINE)
_LOCATION = re.compile(rb"^location:", re.IGNORECASE | re.MULTILINE)

Times = tuple[float, float]  # seconds of a CPU: in code of the program, in the kernel for it


class Answered(NamedTuple):
    """params: what the web server sent, as the application has left it. status: three digits; empty when nothing of a reply has left.
    head: of the reply, without its last line end. size: bytes of its body. ended_at: of the epoch. seconds: from the last byte of
    its parameters to the last of the reply. user, system: seconds of a CPU that its thread used; where nobody asks for the two, `user` is
    both. memory: bytes of the worker now; 0 for unknown."""

    params: Mapping[str, Any]
    status: str
    head: bytes
    size: int
    ended_at: float
    seconds: float
    user: float = 0.0
    system: float = 0.0
    memory: int = 0


class Log(Protocol):
    """Who is told. times, resident: how to measure; None where it is of no interest. write: raises nothing."""

    times: Callable[[], Times] | None
    resident: Callable[[], int] | None

    def write(self, answered: Answered) -> None: ...


def cpu() -> Times:
    """Of this thread, as one number."""
    return time.thread_time(), 0.0


def cpu_parts() -> Times:
    """The two numbers; of the process, where the system has none of a thread."""
    import resource

    used = resource.getrusage(getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF))
    return used.ru_utime, used.ru_stime


class LoggedRequest(Request):
    """log: is told once, when the reply has left or was given up; not in a child that the application has forked."""

    __slots__ = ("_after", "_began_at", "_log", "_tally", "_times")

    def __init__(self, log: Log, connection: Connection, done: Done) -> None:
        super().__init__(connection, self._ended)
        self._log = log
        self._after = done
        self._tally = _Tally()
        self._began_at = monotonic()
        self._times = log.times() if log.times is not None else None

    def _new_output(self) -> Output:
        return _Counted(self)

    def _new_cgi_output(self) -> CgiOutput:
        return _CountedCgi(self)

    def _ended(self, connection: Connection, keep: bool) -> None:
        try:
            self._log.write(self._told(connection))
        finally:
            self._after(connection, keep)

    def _told(self, connection: Connection) -> Answered:
        tally, log = self._tally, self._log
        user, system = self._used()
        seconds = (
            monotonic() - self._began_at
        )  # the clock of the CPU was started after this one: a share is not above 100
        if not connection.dead:  # these went with the end of the request
            if self._stdout is not None and self._stdout.gathered:
                tally.add(self._stdout.gathered)
            if self._parts is not None:
                tally.add(self._parts)
        memory = log.resident() if log.resident is not None else 0
        head = tally.head
        status = _status(head) if head or tally.begun else ""
        return Answered(self.params, status, head, tally.size, time.time(), seconds, user, system, memory)

    def _used(self) -> Times:
        if self._times is None or self._log.times is None:
            return 0.0, 0.0
        (user_before, system_before), (user, system) = self._times, self._log.times()
        # Less than nothing: a loop of the application has ended it in another thread.
        return max(0.0, user - user_before), max(0.0, system - system_before)


class _Tally:
    """What has left for the web server. head: of the reply, as far as it has come. begun: all of it has. size: bytes behind it."""

    __slots__ = ("begun", "head", "size")

    def __init__(self) -> None:
        self.head = b""
        self.size = 0
        self.begun = False

    def add(self, parts: Sequence[bytes]) -> None:
        if self.begun:
            self.size += sum(map(len, parts))
            return
        for position, part in enumerate(parts):
            head = self.head + part if self.head else part
            end = _END_OF_HEAD.search(head)
            if end is not None or len(head) > _HEAD_LIMIT:
                self.begun = True
                self.head = bytes(head[: end.start()]) if end is not None else b""
                self.size = len(head) - (end.end() if end is not None else 0) + sum(map(len, parts[position + 1 :]))
                return
            self.head = bytes(head)


class _Counted(Output):
    __slots__ = ("_tally",)

    def __init__(self, request: LoggedRequest) -> None:
        super().__init__(request.connection, protocol.STDOUT, request.request_id)
        self._tally = request._tally

    def take(self) -> list[bytes | memoryview]:
        if not self._connection.dead:
            self._tally.add(self.gathered)
        return super().take()

    def send_file(self, file: int, offset: int, count: int) -> int:
        sent = super().send_file(file, offset, count)
        self._tally.size += sent
        return sent


class _CountedCgi(CgiOutput):
    __slots__ = ("_tally",)

    def __init__(self, request: LoggedRequest) -> None:
        super().__init__(request)
        self._tally = request._tally

    def take(self) -> list[bytes | memoryview]:
        if not self._connection.dead:
            self._tally.add(self.gathered)
        return super().take()

    def send_file(self, file: int, offset: int, count: int) -> int:
        sent = super().send_file(file, offset, count)
        self._tally.size += sent
        return sent


def _status(head: bytes) -> str:
    """What a web server makes of the headers of a CGI reply."""
    at = head.rfind(_OUR_STATUS)
    if at >= 0 and (at == 0 or head[at - 1] == 0x0A):
        code = head[at + len(_OUR_STATUS) :][:3]
        if code.isdigit() and len(code) == 3:
            return code.decode()
    found = _STATUS.search(head)
    if found is not None:
        return found[1].decode()
    return "302" if _LOCATION.search(head) else "200"
