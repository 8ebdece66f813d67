"""The last step of a worker: out of the process without taking the interpreter apart.

Runs in a worker that leaves by `ProcManager.exit`, after everything that Python promises at an exit: `finally` blocks,
threads that are not daemons, `atexit` functions, flushed standard streams. Must never run anywhere else.

What Python does after that is to destroy every module and what it holds, which writes into nearly every page that the worker
shares with its manager: 9 ms and some 2,000 page faults for a process that has nothing left to do, eight times what leaving
takes without it, and on every stop and every reload for every worker. The one thing a program may miss, although Python does
not promise it either, is that files it never closed are flushed. They are closed here.

There is no hook behind the last `atexit` function, whoever registered it. But before it destroys modules, CPython drops a few
attributes of `sys` that belong to an interactive session, `last_value` among them: an object that only it refers to is told
then. Where a version does not do so, the worker ends the long way.
"""

from __future__ import annotations

import atexit
import gc
import io
import os
import sys
import weakref

_early: weakref.WeakSet[io.IOBase] = weakref.WeakSet()  # opened before the fork


def remember_open_files() -> None:
    """Manager, before `gc.freeze`, which hides objects from `gc.get_objects`."""
    _early.update(found for found in gc.get_objects() if issubclass(type(found), io.IOBase))


def prepare() -> None:
    """Worker, at its begin: if it ends by itself, and the long way, Python has to find what the manager froze: a file that
    only a cycle of objects refers to would never be closed."""
    atexit.register(_thaw)


def arm(status: int) -> None:
    """Worker: it is about to raise SystemExit with this status."""
    atexit.unregister(_thaw)
    sys.last_value = _LastObject(status)  # type: ignore[assignment]


def disarm() -> None:
    """Worker: that SystemExit was caught, and the process will end with another status, the long way."""
    last = getattr(sys, "last_value", None)
    if isinstance(last, _LastObject):
        last.disarm()
        del sys.last_value
        prepare()


def _thaw() -> None:
    gc.unfreeze()


class _LastObject:
    def __init__(self, status: int) -> None:
        self._status = status
        self._pid = os.getpid()

    def disarm(self) -> None:
        self._pid = -1

    def __del__(self) -> None:
        if os.getpid() != self._pid:
            return
        _close_files()
        os._exit(self._status)


def _close_files() -> None:
    late = [found for found in gc.get_objects() if issubclass(type(found), io.IOBase)]
    # Outermost first: a file that is closed under its buffer takes what is in the buffer with it.
    for file in sorted((*late, *_early), key=_depth):
        try:
            file.close()
        except BaseException:
            pass  # a full disk, a closed pipe: nobody is left to be told


def _depth(file: io.IOBase) -> int:
    """How far below others it may stand: text over a compressed stream over a buffer over a descriptor."""
    if isinstance(file, io.TextIOBase):
        return 0
    if isinstance(file, io.RawIOBase):
        return 3
    return 2 if isinstance(file, (io.BufferedWriter, io.BufferedRandom, io.BufferedReader)) else 1
