"""Threads: several accept loops in one worker, for applications that spend their time waiting for others.

Runs in a worker. A *lane* is a thread with an accept loop, a gate and held connections of its own, so that no connection is
ever handed from one thread to another. The main thread gets the signals and does nothing but wait: told to leave, it lets
the lanes' stop pipe end, each lane finishes what it has accepted as a single-threaded worker would, and the worker leaves
when the last lane is done.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from typing import Callable

from ..manager.procmanager import ProcManager
from ..worker.gate import Gate


class Hooks:
    """The hooks around each request of a worker whose requests overlap: one at a time, and SA_RESTART stays set while any
    request is in progress."""

    def __init__(self, manager: ProcManager) -> None:
        self._manager = manager
        self._lock = threading.Lock()
        # post_dispatch leaves by SystemExit, which would end one thread only: the main thread does it instead.
        manager.add_busy_check(lambda: True)

    def enter(self) -> None:
        with self._lock:
            self._manager.in_flight += 1
            self._manager.pre_dispatch()

    def leave(self) -> None:
        with self._lock:
            self._manager.in_flight -= 1
            self._manager.post_dispatch()


class Lanes:
    """`count` lanes, each running `serve(gate)` in a thread."""

    def __init__(self, manager: ProcManager, count: int, serve: Callable[[Gate], None]) -> None:
        self._manager = manager
        self._serve = serve
        self._stopping, self._stop = os.pipe()  # end of file: time to leave
        self._done, self._say_done = os.pipe()  # a byte from each lane that has ended
        self._failure: BaseException | None = None
        self._threads = [threading.Thread(target=self._run, name=f"lane-{number}") for number in range(count)]

    def run(self) -> None:
        """Main thread: until the worker should leave and every lane has ended. Raises what a lane ended by: SystemExit when
        the application asked for it."""
        gate = self._manager.gate
        gate.add(self._done)
        for thread in self._threads:
            thread.start()
        while not self._manager.leaving and self._failure is None:
            gate.wait()
        os.close(self._stop)
        for thread in self._threads:
            thread.join()
        gate.remove(self._done)
        for end in (self._stopping, self._done, self._say_done):
            os.close(end)
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        gate = Gate(None, self._stopping, self._manager.baton)
        try:
            self._serve(gate)
        except SystemExit as stop:
            self._failure = stop
        except BaseException as error:
            sys.stderr.write(traceback.format_exc())  # a defect of ours: one lane less is a worker to be replaced
            self._failure = error
        finally:
            gate.close()
            os.write(self._say_done, b"\0")
