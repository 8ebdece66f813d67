"""What workers write to their standard output and standard error, collected as whole lines, as a part of the manager's loop; and our own
lines of the log in the same form.

Runs in the manager; in a new worker it puts the pipes in place. Each stream of each worker has a pipe of its own, made before the fork, so
that no two lines are ever mixed. What a worker has written before it died is read before its death is told. A pipe is read until its end,
which comes when nobody can write to it any more: a worker may have left children. Must never wait for a worker, nor for whoever
reads the log, but for a second at the end.
"""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ..basics import levels, log, records
from ..basics.levels import INFO, WARNING, Levels
from ..basics.records import EXCEPTION, Line
from ..manager import handover
from ..manager.parts import PoolPart
from .lines import Lines
from .outlet import Outlet

if TYPE_CHECKING:
    from ..manager.half import ManagerHalf

STDOUT, STDERR = "stdout", "stderr"
_DEFAULTS = {STDOUT: INFO, STDERR: WARNING}
_PIECE = 1 << 16  # bytes, as many as a pipe holds
_AT_A_TIME = 16  # pieces of one stream, before the others have their turn
_SECONDS_AT_END = 1.0  # for whoever reads the log
_MORE = "\x1e"  # between a line and what else is known of it, on the way from a worker


class _Stream:
    """One that is read. process, pid: who had it first. descriptor: our end."""

    def __init__(self, process: str, pid: int, name: str, descriptor: int, rest: bytes = b"") -> None:
        self.process, self.pid, self.name, self.descriptor = process, pid, name, descriptor
        self.lines = Lines(rest)
        self.levels = Levels(_DEFAULTS[name])


class Pipes:
    """Of a child that is about to be forked: ours to read, its own to write."""

    def __init__(self) -> None:
        """Raises OSError."""
        self.read: list[int] = []
        self.write: list[int] = []
        try:
            for _ in _DEFAULTS:
                read, write = os.pipe()
                self.read.append(read)
                self.write.append(write)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        for descriptor in (*self.read, *self.write):
            os.close(descriptor)
        self.read, self.write = [], []


class Collector(PoolPart):
    """format: "plain" or "json". pool: the name of it. has_collected: lines of workers so far."""

    kind = "collector"  # what it leaves to the manager's next image

    def __init__(self, format: str, pool: str) -> None:
        self._format = format
        self._pool = pool
        self._outlet = Outlet(self._left_out)
        self._streams: dict[int, _Stream] = {}  # by our end
        self._readable: Any = None  # an epoll set, or a poll object
        self._next: Pipes | None = None  # of the child that is about to be forked

    def install(self) -> None:
        """From now on what this process has to say is written in the form that was asked for."""
        # What a canary says is collected by the manager that has started it.
        log.send_to(_pass_on if handover.is_canary() else self._write)

    # -- the manager --------------------------------------------------------------------------------------------------

    def begin(self, half: ManagerHalf) -> None:
        self._readable = select.epoll() if hasattr(select, "epoll") else select.poll()
        for process, pid, name, descriptor, rest in half.left_by(self.kind).get("streams", ()):
            self._add(_Stream(process, pid, name, descriptor, rest.encode("latin-1")))

    def leave(self) -> dict[str, Any] | None:
        self._outlet.settle(_SECONDS_AT_END)
        streams = [
            (one.process, one.pid, one.name, one.descriptor, one.lines.rest.decode("latin-1"))
            for one in self._streams.values()
        ]
        return {"descriptors": list(self._streams), "streams": streams}

    def descriptors(self) -> Iterable[int]:
        if self._readable is None or self._outlet.is_full:
            return ()  # they wait, as long as somebody who is slow takes something
        return (self._readable.fileno(),) if hasattr(self._readable, "fileno") else tuple(self._streams)

    @property
    def next_at(self) -> float:  # type: ignore[override]
        return self._outlet.next_at

    def turn(self, now: float) -> bool:
        self._outlet.flush()
        self.take_in()
        return False

    def take_in(self) -> None:
        if self._readable is None or not self._streams:
            return
        for descriptor, _ in self._readable.poll(0):
            if self._outlet.is_full:
                return
            self._read(self._streams[descriptor])

    def close(self) -> None:
        if self._readable is None:
            return
        self.take_in()
        for stream in list(self._streams.values()):
            self._end(stream)
        if hasattr(self._readable, "close"):
            self._readable.close()
        self._readable = None
        self._outlet.settle(_SECONDS_AT_END)

    # -- streams ------------------------------------------------------------------------------------------------------

    def give_output(self) -> Mapping[int, int]:
        """Also to a worker that is about to be forked. Raises OSError when the system has no more descriptors."""
        self._next = Pipes()
        return dict(zip((1, 2), self._next.write))

    def output_given(self, kind: str, pid: int) -> None:
        pipes, self._next = self._next, None
        if pipes is None:
            return
        if pid:
            for name, descriptor in zip(_DEFAULTS, pipes.read):
                os.set_blocking(descriptor, False)
                self._add(_Stream(kind, pid, name, descriptor))
            pipes.read = []
        pipes.close()

    def _add(self, stream: _Stream) -> None:
        self._streams[stream.descriptor] = stream
        self._readable.register(stream.descriptor, select.POLLIN)

    def _read(self, stream: _Stream) -> None:
        for _ in range(_AT_A_TIME):
            try:
                data = os.read(stream.descriptor, _PIECE)
            except BlockingIOError:
                return
            if not data:
                self._end(stream)
                return
            self._write_lines(stream, stream.lines.feed(data))
            if self._outlet.is_full:
                return

    def _end(self, stream: _Stream) -> None:
        self._write_lines(stream, stream.lines.last())
        self._readable.unregister(stream.descriptor)
        del self._streams[stream.descriptor]
        os.close(stream.descriptor)

    # -- lines --------------------------------------------------------------------------------------------------------

    def _write_lines(self, stream: _Stream, whole: list[bytes]) -> None:
        now = time.time()
        for data in whole:
            text = data.decode(errors="backslashreplace").rstrip("\r")
            if stream.name == STDERR and records.is_own(text):
                text, more = _taken_apart(text)
                self._write(records.own(now, text, stream.pid, more=more))
            else:
                level, text = stream.levels.of(text)
                self._write(Line(now, level, stream.process, stream.pid, stream.name, text))

    def _write(self, line: Line) -> None:
        logger = log.configured_logger()
        if logger is None or not logger.hasHandlers():
            self._outlet.write(self._formatted(line))
        elif log.is_wanted(logger, levels.NUMBERS[line.level], ours=line.stream == "log"):
            log.hand_over(logger, line, {"pool": self._pool, "stream": line.stream, "role": line.process})

    def _formatted(self, line: Line) -> bytes:
        return records.form(line, self._format, self._pool)

    def _left_out(self, count: int) -> bytes:
        text = f"{count} lines of the log were left out: nobody took them"
        return self._formatted(Line(time.time(), WARNING, "manager", os.getpid(), "log", text))

    # -- a worker -----------------------------------------------------------------------------------------------------

    def forked(self) -> None:
        """Its lines get their time and level in the manager."""
        log.send_to(_pass_on)
        pipes, self._next = self._next, None
        if pipes is not None:
            for number, descriptor in zip((1, 2), pipes.write):
                os.dup2(descriptor, number)
            pipes.close()
        for descriptor in self._streams:
            os.close(descriptor)
        self._streams = {}
        if hasattr(self._readable, "close"):
            self._readable.close()
        self._readable = None
        _write_lines_at_once()


def _pass_on(line: Line) -> None:
    """A worker's own line, to the collector. What belongs to it comes in the same line: others may write to this pipe as well."""
    if line.process and line.more:
        import json  # not above: most workers have no such line

        log.write_plainly(records.head(line) + _MORE + json.dumps(line.more))
    else:
        log.write_plainly(records.words(line))


def _taken_apart(text: str) -> tuple[str, dict[str, str]]:
    """The reverse of it. An application may write what looks like one of our lines."""
    words, found, rest = text.partition(_MORE)
    if found:
        import json

        try:
            more = json.loads(rest)
            return words, {key: str(more[key]) for key in ("method", "path", EXCEPTION) if key in more}
        except (ValueError, TypeError, RecursionError):
            pass
    return text, {}


def _write_lines_at_once() -> None:
    """Into a pipe Python would write when there are 8 KB, which may be an hour later."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        except (AttributeError, ValueError, OSError):
            pass  # the application has put something else there
