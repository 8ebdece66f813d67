"""Threads: several accept loops in one worker, for applications that spend their time waiting for others.

Runs in a worker. A *lane* is a thread with an accept loop, a gate and held connections of its own, so that no connection is
ever handed from one thread to another. The main thread gets the signals and does nothing but wait. Told to leave, it tells
the lanes; each finishes what it has accepted as a single-threaded worker would, and the worker leaves when the last lane is
done. A lane that ends by itself, whatever the reason, makes the whole worker leave in the same way. Must never serve with
fewer lanes than it was asked for.
"""

from __future__ import annotations

import os
import threading
from typing import Callable, NoReturn

from ..basics import exits, log
from ..manager.procmanager import ProcManager
from ..system.atfork import AtFork
from ..worker.gate import Gate
from .tracebacks import write_traceback


class Hooks:
    """The hooks around each request of a worker whose requests overlap: one at a time, and SA_RESTART stays set while any
    request is in progress."""

    def __init__(self, manager: ProcManager) -> None:
        self._manager = manager
        self._lock = threading.Lock()
        # post_dispatch leaves by SystemExit, which would end one thread only: the main thread does it instead.
        manager._add_busy_check(lambda: True)
        _at_fork.add(self)

    def enter(self) -> None:
        with self._lock:
            self._manager._in_flight += 1
            self._manager.pre_dispatch()

    def leave(self) -> None:
        with self._lock:
            self._manager._in_flight -= 1
            self._manager.post_dispatch()

    def renew(self) -> None:
        """In a child that the application has forked, where no thread is left that would open the lock."""
        self._lock = threading.Lock()


_at_fork = AtFork(Hooks.renew)


class Lanes:
    """`count` lanes, each running `serve(gate)` in a thread."""

    def __init__(self, manager: ProcManager, count: int, serve: Callable[[Gate], None]) -> None:
        self._manager = manager
        self._serve = serve
        self._owner = os.getpid()
        self._stop, self._done = _Pipe(), _Pipe()  # time to leave; a lane has ended
        self._ended = False
        self._failure: BaseException | None = None
        self._gates: list[Gate] = []
        self._lock = threading.Lock()  # of the gates: one that is being closed looks like one that is broken
        self._threads = [threading.Thread(target=self._run, name=f"lane-{number}") for number in range(count)]

    def run(self) -> None:
        """Main thread: until the worker should leave and every lane has ended. Raises what a lane ended by: SystemExit when
        the application asked for it."""
        try:
            self._start_and_wait()
        except BaseException as error:
            self._fail(error)
        self._end_if_broken()
        self._stop.write()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        self._manager._gate.remove(self._done.read_end)
        self._stop.close()
        self._done.close()
        if self._failure is not None:
            raise self._failure

    def _start_and_wait(self) -> None:
        gate = self._manager._gate
        gate.remove_listeners()  # this thread accepts nothing: the baton is not for it
        gate.add(self._done.read_end)
        for thread in self._threads:
            thread.start()
        while not self._manager.leaving and not self._ended:
            gate.wait()

    def _run(self) -> None:
        try:
            self._serve_with_a_gate()
        except BaseException as error:
            self._fail(error)
            if not isinstance(error, SystemExit):
                write_traceback(self._manager)  # a defect of ours, or a worker that the application has broken
        if os.getpid() != self._owner:
            self._end_child()
        if self._failure is not None:
            self._end_if_broken()
        self._ended = True
        self._done.write()

    def _serve_with_a_gate(self) -> None:
        gate = Gate(None, self._stop.read_end, self._manager._baton)
        self._gates.append(gate)
        try:
            self._serve(gate)
        finally:
            with self._lock:
                self._gates.remove(gate)
                gate.close()

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error

    def _end_if_broken(self) -> None:
        """Lanes that wait for descriptors which the application has closed wait for ever, the main thread as well: closing
        a descriptor wakes nobody. What they hold is closed too, or carries the number of somebody else's file. So there is
        nothing to finish, and the worker ends here."""
        with self._lock:
            if self._intact():
                return
        self._manager.notify("the application closed descriptors of its worker")
        log.flush_standard_streams()
        os._exit(exits.FAILED)

    def _intact(self) -> bool:
        if not (self._stop.intact and self._done.intact):
            return False
        try:
            for gate in (self._manager._gate, *self._gates):
                gate.add(self._stop.write_end)  # fails where there is no wait set any more
                gate.remove(self._stop.write_end)
        except (OSError, ValueError):
            return False
        return True

    def _end_child(self) -> NoReturn:
        """A child that the application forked in a request has come back from it: what it shares is its parent's."""
        code = 0 if self._failure is None else getattr(self._failure, "code", exits.FAILED)
        log.flush_standard_streams()
        os._exit(code if isinstance(code, int) else int(code is not None))


class _Pipe:
    """A pipe that says one thing, and whose ends a child of the application may still hold: so it says it by a byte, and not
    by its end."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        self._identity = self._look()

    @property
    def intact(self) -> bool:
        """Both ends are still what they were: the application has not closed them, or put others in their place."""
        return self._look() == self._identity

    def write(self) -> None:
        os.write(self.write_end, b"\0")

    def close(self) -> None:
        os.close(self.read_end)
        os.close(self.write_end)

    def _look(self) -> list[tuple[int, int]]:
        try:
            found = [os.fstat(end) for end in (self.read_end, self.write_end)]
        except OSError:
            return []
        return [(one.st_dev, one.st_ino) for one in found]
