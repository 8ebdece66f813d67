"""The last step of a worker: out of the process without taking the interpreter apart.

Runs in a worker that leaves by `ProcManager.exit`, after everything that Python promises at an exit: `finally` blocks,
threads that are not daemons, `atexit` functions, flushed standard streams. Must never run anywhere else.

What Python does after that is to destroy every module and what it holds, which writes into nearly every page that the worker
shares with its manager: 9 ms and some 2,000 page faults for a process that has nothing left to do, eight times what leaving
takes without it, and on every stop and every reload for every worker. The one thing a program may miss, although Python does
not promise it either, is that what it wrote to files it never closed is written out. That is done here.

The moment for it is after the last `atexit` function, whoever registered it, and before CPython stops all other threads. When
all functions have run, it drops them: an object that only that list refers to is told then.

*Threads.* A buffered file has a lock, which a thread holds while it reads or writes: a daemon thread that waits for bytes from
a pipe holds it for good. Once CPython has stopped the other threads, whoever asks for such a lock ends in a fatal error
(SIGABRT); before, whoever asks waits. Therefore this happens before, readers are not touched, and while other threads live,
files that may have something to write are left to helper threads, which may get stuck instead of us. They are started when the
worker says that it leaves: in the middle of an exit Python 3.12 starts none.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import gc
import io
import os
import socket
import sys
import weakref
from collections.abc import Iterable

from ..basics.clock import monotonic

_ONE_FILE = 0.1  # seconds before its helper is taken for stuck, and another one goes on with the next file
_ALL_FILES = 1.0  # seconds that those who are stuck get, in all: a slow disk needs them
_MOST_HELPERS = 16

# These have nothing else to do at their end than to write out what they hold. Others may: a gzip file has a checksum there.
_PLAIN = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom, io.BufferedRWPair)
_UNBUFFERED = (io.FileIO, socket.SocketIO, io.BytesIO, io.StringIO)

# CPython. Others have no such collector, drop no object at a known moment, and do not take themselves apart at their end.
_HAS_FREEZE = hasattr(gc, "freeze")

_early: weakref.WeakSet[io.IOBase] = weakref.WeakSet()  # opened before the fork
_armed: weakref.ref[_LastObject] | None = None


def freeze() -> None:
    """Manager, before the first fork: what is there now is never collected, so the workers' copies of these pages stay shared."""
    if _HAS_FREEZE:
        # First: what is frozen is hidden from `gc.get_objects`.
        _early.update(found for found in gc.get_objects() if issubclass(type(found), io.IOBase))
        gc.freeze()


def prepare() -> None:
    """Worker, at its begin: if it ends by itself, and the long way, Python has to find what the manager froze: a file that
    only a cycle of objects refers to would never be closed."""
    if _HAS_FREEZE:
        atexit.register(_thaw)


def arm(status: int) -> None:
    """Worker: it is about to raise SystemExit with this status."""
    global _armed
    if not _HAS_FREEZE:
        return
    disarm()
    atexit.unregister(_thaw)
    last = _LastObject(status, _helpers())
    _armed = weakref.ref(last)
    atexit.register(last)


def disarm() -> None:
    """Worker: that SystemExit was caught, and the process will end with another status, the long way."""
    last = _armed() if _armed is not None else None
    if last is not None:
        last.disarm()
        atexit.unregister(last)
        prepare()


def _thaw() -> None:
    gc.unfreeze()


class _LastObject:
    """An `atexit` function that does nothing when it is called, but when it is dropped with all the others."""

    def __init__(self, status: int, helpers: list[_Helper]) -> None:
        self._status = status
        self._helpers = helpers
        self._pid = os.getpid()

    def __call__(self) -> None:
        pass

    def disarm(self) -> None:
        self._pid = -1
        for helper in self._helpers:
            helper.dismiss()

    def __del__(self) -> None:
        if os.getpid() == self._pid:
            try:
                _write_out(self._helpers)
            finally:
                os._exit(self._status)


def _write_out(helpers: list[_Helper]) -> None:
    if gc.isenabled():
        gc.collect()  # as Python does here: objects that only each other refer to have their `__del__` called
    files = [sys.stdout, sys.stderr, *_unwritten()]
    if helpers and _other_threads() - {helper.ident for helper in helpers}:
        _leave_to(helpers, files)
    else:
        for file in files:
            _finish(file)


def _other_threads() -> set[int]:
    return sys._current_frames().keys() - {_thread.get_ident()}


def _unwritten() -> list[io.IOBase]:
    """The files that may hold something. Outermost first: a buffer that is written out first misses what is above it."""
    late = (found for found in gc.get_objects() if issubclass(type(found), io.IOBase))
    return sorted((file for file in (*late, *_early) if type(file) not in _UNBUFFERED), key=_depth)


def _depth(file: io.IOBase) -> int:
    """How far below others it may stand: text over a compressed stream over a buffer over a descriptor."""
    if isinstance(file, io.TextIOBase):
        return 0
    if isinstance(file, io.RawIOBase):
        return 3
    return 2 if isinstance(file, _PLAIN) else 1


class _Helper:
    """A thread that waits for a file to write out, and then for the next one."""

    def __init__(self) -> None:
        self._file: object = None
        self._given, self._ended = _thread.allocate_lock(), _thread.allocate_lock()
        self._given.acquire()
        self._ended.acquire()
        self.ident = _thread.start_new_thread(self._run, ())

    def give(self, file: object) -> None:
        self._file = file
        self._given.release()

    def ended(self, seconds: float) -> bool:
        """Whether it has done with its file within that time."""
        return self._ended.acquire(timeout=seconds)

    def dismiss(self) -> None:
        self.give(None)

    def _run(self) -> None:
        while self._given.acquire() and self._file is not None:
            _finish(self._file)
            self._ended.release()


def _helpers() -> list[_Helper]:
    """None while there is no other thread. Of those there are, each may hold one lock, which a file and the text over it want."""
    others = len(_other_threads())
    helpers: list[_Helper] = []
    with contextlib.suppress(RuntimeError):  # the system has no thread to spare
        while len(helpers) < min(_MOST_HELPERS, 2 * others + 1 if others else 0):
            helpers.append(_Helper())
    return helpers


def _leave_to(helpers: list[_Helper], files: Iterable[object]) -> None:
    free, stuck = list(helpers), []
    for file in files:
        if file is None:
            continue
        free[-1].give(file)
        if not free[-1].ended(_ONE_FILE):
            stuck.append(free.pop())
            if not free:
                break
    deadline = monotonic() + _ALL_FILES
    for helper in stuck:
        helper.ended(max(0.0, deadline - monotonic()))


def _finish(file: object) -> None:
    """Write out what it holds; readers hold nothing, and their lock may be somebody's. Nobody is left to be told of a full
    disk or a closed pipe."""
    with contextlib.suppress(BaseException):
        if type(file) in _PLAIN or not isinstance(file, io.IOBase):
            _flush(file)
        elif file.writable():
            file.close()


def _flush(file: object) -> None:
    # Closed, it would be missed by a thread that goes on writing, with a traceback in the last moment.
    if not isinstance(file, io.IOBase) or file.writable():
        file.flush()  # type: ignore[attr-defined]
