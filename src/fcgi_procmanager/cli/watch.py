"""`serve --watch`: a reload whenever a Python file of the application changes, as a part of the manager's loop.

Runs in the manager, and keeps the watcher (system/watcher.py) running as a child. Must never load watchfiles, nor let a change go
unseen.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import select
import sys
from collections.abc import Iterable

from ..basics.clock import FOREVER, monotonic
from ..basics.exits import Exit
from ..children.launch import Program, environment_from
from ..children.registry import Child
from ..children.respawn import retry_delay
from ..errors import ConfigError
from ..manager.half import ManagerHalf
from ..manager.parts import PoolPart
from ..manager.procmanager import ProcManager
from ..system.watcher import CHANGED, TELL

__all__ = ["RELOAD_TIMEOUT", "Watch", "check_library"]

RELOAD_TIMEOUT = 3.0  # seconds, unless another time is given: who edits does not wait for a slow request

_PATIENCE = 5.0  # seconds that the start of the pool waits for the watch to be in place
_FIRST_RETRY = 4  # of `retry_delay`: 0.8 s
_LEAVE = 1.0  # seconds that the watcher has to end
# Nothing is imported from the folder of the application, whose modules may have any names.
_BOOT = "import sys; sys.path[:] = sys.argv[1:-2]; from fcgi_procmanager.system.watcher import main; main()"


def check_library() -> None:
    """Raises ConfigError when it is not installed."""
    if importlib.util.find_spec("watchfiles") is None:
        raise ConfigError("--watch needs the library watchfiles: pip install 'fcgi-procmanager[watch]'")


class Watch(PoolPart):
    """The folder is the current one."""

    next_at: float

    kind = "watcher"
    traces = True

    def __init__(self, manager: ProcManager) -> None:
        self._manager = manager
        self._folder = os.getcwd()
        self._half: ManagerHalf | None = None
        self._watcher: Child | None = None
        self._told = -1  # what it tells us is read here
        self._begun = b""  # a line that has no end yet
        self._failures = 0  # in a row
        self._is_seen = False  # the watch is in place, and has been since the newest workers were asked for

    # -- in the manager -----------------------------------------------------------------------------------------------

    def begin(self, half: ManagerHalf) -> None:
        """The workers are forked when the watch is in place: what changes after one has read it is seen. If that takes too long,
        its first line means a reload."""
        self._half = half
        for watcher in half.registry.of(self.kind).everybody:  # of the image before, whose pipe is closed
            half.reaper.kill(watcher)
        self._start()
        if self._told >= 0 and _is_readable(self._told) and self._lines():
            self._is_seen = True
            self._manager.notify(f"watching {self._folder}: a change of a Python file reloads")

    def descriptors(self) -> Iterable[int]:
        return (self._told,) if self._told >= 0 else ()

    def turn(self, now: float) -> bool:
        if now >= self.next_at:
            self.next_at = FOREVER
            self._start()
        lines = self._lines()
        for line in lines:
            self._heard(line)
        return bool(lines)

    def ended(self, child: Child, exit: Exit) -> None:
        if child is self._watcher:
            self._watcher = None
            self._let_go()
            self._try_later()

    def holds_on(self, why: str) -> bool:
        self._manager.notify(f"{why}; waiting for a change")
        return True

    def stop(self) -> None:
        self.next_at = FOREVER
        self._let_go()
        if self._watcher is not None and self._half is not None:
            self._half.reaper.ask_to_leave([self._watcher], _LEAVE)

    def close(self) -> None:
        self._let_go()
        watcher, self._watcher = self._watcher, None
        if watcher is not None and self._half is not None:
            self._half.reaper.kill(watcher)

    # -- in a worker --------------------------------------------------------------------------------------------------

    def forked(self) -> None:
        self._half = self._watcher = None
        self._let_go()

    # -- the watcher --------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        assert self._half is not None
        self._is_seen = False
        self._told, tell = os.pipe()
        os.set_blocking(self._told, False)
        try:
            with open(os.devnull, "rb") as null:
                program = Program(
                    [sys.executable, "-c", _BOOT, *_search_path(self._folder), self._folder, str(os.getpid())],
                    environment_from(os.environ),
                    {0: null.fileno(), TELL: tell},
                    session=True,  # control-C at a terminal reaches the manager alone, which ends things in order
                    death_signal="TERM",
                )
                self._watcher = self._half.execute(program, self.kind)
        except OSError as error:
            self._let_go()
            self._manager.notify(f"the {self.kind} cannot be started: {error.strerror}")
            self._try_later()
        finally:
            os.close(tell)

    def _try_later(self) -> None:
        if self._half is None or not self._half.running:
            return
        self._failures += 1
        delay = retry_delay(_FIRST_RETRY + self._failures)
        self.next_at = monotonic() + delay
        self._manager.notify(f"changes are not seen: the {self.kind} starts again in {delay:.1f} s")

    def _heard(self, line: str) -> None:
        """Something changes; or the watch is in place at last, and what has changed before nobody has seen."""
        assert self._half is not None
        self._failures = 0
        word, _, path = line.partition(" ")
        if word == CHANGED or not self._is_seen:
            self._is_seen = True
            why = f"{path} changed" if word == CHANGED else f"watching {self._folder} from now on"
            what = "not reloading a pool that is about to end" if self._half.drain.under_way else "reloading"
            self._manager.notify(f"{why}: {what}")
            self._half.reload()

    def _lines(self) -> list[str]:
        data = b""
        with contextlib.suppress(BlockingIOError):
            while self._told >= 0:
                data = os.read(self._told, 4096)
                if not data:  # its end, which is readable for ever; the child is reaped in its time
                    self._let_go()
                self._begun += data
        *lines, self._begun = self._begun.split(b"\n")
        return [line.decode(errors="replace") for line in lines]

    def _let_go(self) -> None:
        self._begun = b""
        if self._told >= 0:
            os.close(self._told)
            self._told = -1


def _is_readable(descriptor: int) -> bool:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(_PATIENCE * 1000))


def _search_path(folder: str) -> list[str]:
    """Where the watcher looks for modules: where we do, but not in the folder of the application; last, where we are ourselves."""
    ours = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return [*(path for path in sys.path if path not in ("", folder)), ours]
