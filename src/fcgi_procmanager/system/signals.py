"""Signals: noted by a handler that only notes and wakes, acted on by the loop that was waiting.

The race this closes. A worker looks whether it was told to leave, finds nothing, and calls accept(2). A TERM that lands
between the two is seen by nobody until the next request comes: since PEP 475 Python restarts `accept` and `wait` after a
handler that does not raise, whatever SA_RESTART says, and before that the window was only smaller. Designs rejected:

* A handler that raises. The exception may land just after accept(2) has returned a connection, which is then lost.
* signalfd, sigwait, or all signals blocked. Nothing under the application (a driver that waits for a database) would be
  interrupted any more, and CPython has no signalfd.
* Polling once a second. An idle pool must not wake up at all, and a stop must not take a second.

So: CPython's C handler writes a byte into a pipe (`signal.set_wakeup_fd`) at the very moment of the signal, and every
blocking wait of this package watches that pipe together with what it waits for. The Python handler, which runs later,
notes the name and writes a byte as well, in case an event loop of the application has taken the wakeup descriptor away.

SA_RESTART is swapped around each request all the same: C libraries under the application do see it. With it a request in
progress is not disturbed by TERM, and an accept in C ends at once.

Runs in the manager and in each worker, which makes a pipe of its own (`renew`). Must never act on a signal.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterable
from typing import Any, Callable

from ..basics.accelerator import accelerated
from ..errors import ConfigError
from . import atfork
from .atfork import AtFork

# What `signal` is made of. Its own functions look for a member of an enumeration first: 30 times as slow, and memory of each
# worker.
_raw: Any = sys.modules.get("_signal", signal)
_getsignal, _signal = _raw.getsignal, _raw.signal

try:  # PyPy: right after a fork in a thread, the child may set no handler unless it asks.
    from __pypy__.thread import signals_enabled  # type: ignore[import-not-found]
except ImportError:
    signals_enabled = contextlib.nullcontext()

Names = Iterable[str]

MANAGER_SIGNALS = ("TERM", "INT", "QUIT", "HUP", "TTIN", "TTOU", "USR2", "CHLD")
LEAVE_SIGNALS = ("TERM", "HUP")  # what asks a worker to leave
# INT reaches a worker only from a terminal, together with its manager, which then stops it in order: noted, not obeyed.
WORKER_SIGNALS = ("TERM", "HUP", "INT")
SUPERDAEMON_SIGNALS = ("TERM", "INT", "QUIT", "HUP", "USR1", "CHLD")
PARENT_SIGNALS = ("TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "TTIN", "TTOU", "CHLD")  # of several pools
SUPERVISOR_SIGNALS = ("TERM", "INT", "QUIT", "USR2", "CHLD")
DAEMON_SIGNALS = ("TERM", "INT", "QUIT")  # also of a supervised process
HANDLED = tuple(  # by anyone of ours
    dict.fromkeys((*MANAGER_SIGNALS, *WORKER_SIGNALS, *SUPERDAEMON_SIGNALS, *SUPERVISOR_SIGNALS))
)

_NUMBER = {name: int(getattr(signal, f"SIG{name}")) for name in HANDLED}
_DEFAULT, _IGNORE = int(signal.SIG_DFL), int(signal.SIG_IGN)
_NAME = {number: name for name, number in _NUMBER.items()}
_siginterrupt = signal.siginterrupt
_TERM, _HUP = int(signal.SIGTERM), int(signal.SIGHUP)
_AROUND_FORK = {*_NUMBER.values(), signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM}


def number(name: str) -> int:
    """The number of a signal named without its SIG."""
    return int(getattr(signal, f"SIG{name}"))


def block() -> set[int]:
    """Hold every signal that somebody handles, for the moment of a fork. Returns the mask for `unblock`."""
    return signal.pthread_sigmask(signal.SIG_BLOCK, _AROUND_FORK)


def unblock(mask: set[int]) -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def ignore_late() -> None:
    """For the last moments of a process: its work is done, and TERM must not turn its exit status into a death."""
    for name in ("TERM", "INT", "QUIT", "HUP"):
        _signal(_NUMBER[name], _IGNORE)


@accelerated
def swap(restart: bool) -> None:
    """Set SA_RESTART on TERM and HUP, or take it off."""
    _siginterrupt(_TERM, not restart)
    _siginterrupt(_HUP, not restart)


class Signals:
    """The dispositions of one role, the names noted, and the pipe that wakes. One is open in a process at a time,
    or they are nested: closing one restores what it found."""

    def __init__(self) -> None:
        self._noted: list[str] = []
        self._found: dict[int, Any] = {}  # number -> handler found by the first install
        self._found_mask: set[int] | None = None
        self._found_wakeup = -1
        self._read = self._write = -1
        self._tell: Callable[[str], None] | None = None
        self._handler = self._note  # one object: whether it is still in place is asked at each request
        self.owes_swap: bool = False  # SA_RESTART is to be taken off before this process waits

    @property
    def open(self) -> bool:
        return self._read >= 0

    def fileno(self) -> int:
        """Readable when a signal has come since `take`; -1 while closed."""
        return self._read

    def install(self, names: Names, tell: Callable[[str], None] | None = None) -> None:
        """Note these signals from now on. `tell`, when given, is called with the name from the Python handler.

        Raises ConfigError outside the main thread, where Python can install no handler."""
        if not _in_main_thread():
            raise ConfigError("signals can be handled in the main thread only: pass no_signals=True")
        if not self.open:
            self._open()
        self._tell = tell
        for name in names:
            signum = _NUMBER[name]
            found = _signal(signum, self._handler)
            self._found.setdefault(signum, found)
        # Whoever started us may have left these blocked: a stop would never arrive.
        mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, [_NUMBER[name] for name in names])
        if self._found_mask is None:
            self._found_mask = mask

    def let_in(self, mask: Iterable[int]) -> None:
        """In a program that was executed while signals were held: this was the mask before."""
        self._found_mask = set(mask)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._found_mask - {_NUMBER[name] for name in MANAGER_SIGNALS})

    def restart(self, flag: bool) -> None:
        """Set (True) or take off SA_RESTART on TERM and HUP, and take both back from whoever has replaced our handler since:
        the next TERM would kill in the middle of a request."""
        if (_getsignal(_TERM) is not self._handler or _getsignal(_HUP) is not self._handler) and _in_main_thread():
            self._take_back()
        self.owes_swap = False
        swap(flag)  # `signal.signal` takes the flag off, so this follows each install

    def _take_back(self) -> None:
        for signum in (_TERM, _HUP):
            if signum in self._found:
                _signal(signum, self._handler)

    def restore(self, *names: str) -> None:
        """Give these signals back the handler that was found, and keep the rest."""
        for name in names:
            signum = _NUMBER[name]
            if signum in self._found:
                _set(signum, self._found.pop(signum))

    def reset(self, *names: str) -> None:
        """Give these signals the system's default action, whatever was found."""
        for name in names:
            self._found.pop(_NUMBER[name], None)
            _signal(_NUMBER[name], _DEFAULT)

    def renew(self) -> None:
        """In a worker, while signals are blocked: forget what was noted and stop sharing a pipe with the manager,
        which would be woken by our signals and we by its."""
        if self.open:
            signal.set_wakeup_fd(-1)
            self._close_pipe()
            self._read, self._write = _pipe()
            signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._noted.clear()

    def act(self, name: str, actions: Iterable[Callable[[], object]]) -> None:
        """In a worker, while signals are blocked: do these in the handler itself, since a request may last. System calls are restarted,
        so that the request is not disturbed."""
        actions = tuple(actions)

        def handle(signum: int, frame: object) -> None:
            for action in actions:
                with contextlib.suppress(Exception):  # it would be raised in code of the application
                    action()

        _signal(_NUMBER[name], handle)
        _siginterrupt(_NUMBER[name], False)

    def claim(self) -> int:
        """Have the wakeup descriptor for the length of a wait. Returns whose it was, for `give_back`.

        An event loop of the application takes it while it runs, and leaves it at -1 when it is closed."""
        if not self.open:
            return -1
        try:
            return signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        except ValueError:  # in a thread, which gets no signals
            return -1

    def give_back(self, owner: int) -> None:
        """To an event loop that is still there; -1, or our own, is nobody else."""
        if self.open and owner not in (-1, self._write):
            _set_wakeup(owner)

    def rearm(self) -> None:
        """Main thread, after code of the application: an event loop that listened to one of our signals has left the
        default action in place of the handler it found, and TERM would kill in the middle of the next request."""
        if "asyncio" not in sys.modules or not self.open or not _in_main_thread():
            return
        owner = self.claim()
        if owner == self._write:
            return  # whoever listens to a signal with a loop takes the descriptor as well
        for signum in self._found:
            if _getsignal(signum) in (_DEFAULT, signal.default_int_handler):
                _signal(signum, self._handler)
        self.give_back(owner)

    def take(self) -> list[str]:
        """The names noted since the last call, in order. Empties the pipe first: a signal that comes in between
        leaves its byte there, and costs one needless turn."""
        if self.open:
            try:
                while len(os.read(self._read, 512)) == 512:
                    pass
            except BlockingIOError:
                pass
        noted, self._noted = self._noted, []
        return noted

    @property
    def noted(self) -> tuple[str, ...]:
        """The names that `take` would return."""
        return tuple(self._noted)

    def close(self) -> None:
        """Restore every handler, the mask and the wakeup descriptor that were found. What was noted and has not been taken
        is delivered again, to the handlers that are back: nobody else would ever act on it. May be called twice."""
        if self.open:
            noted, self._noted = self._noted, []
            self._restore_all()
            _deliver(noted)

    def _abandon(self) -> None:
        """In a child that the application has forked: its handlers are those that were found. What was noted is its parent's
        business."""
        if self.open:
            self._noted.clear()
            self._found_mask = None  # that is the parent's as well; signals are held just now
            with signals_enabled:
                self._restore_all()

    def _restore_all(self) -> None:
        for signum, found in self._found.items():
            _set(signum, found)
        self._found.clear()
        # Only if it is still ours: an event loop may have taken it in the meantime, and given it back or not.
        current = signal.set_wakeup_fd(-1)
        _set_wakeup(self._found_wakeup if current in (self._write, -1) else current)
        self._close_pipe()
        if self._found_mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._found_mask)
            self._found_mask = None

    def _open(self) -> None:
        _at_fork.add(self)
        self._read, self._write = _pipe()
        self._found_wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

    def _close_pipe(self) -> None:
        os.close(self._read)
        os.close(self._write)
        self._read = self._write = -1

    def wake(self) -> None:
        """End the wait that is going on, or the next one. From any thread, and from a handler."""
        if self._write >= 0:
            try:
                os.write(self._write, b"\0")
            except BlockingIOError:
                pass  # full, so the waiter is awake already

    def _note(self, signum: int, frame: object) -> None:
        name = _NAME[signum]
        self._noted.append(name)
        self.wake()
        if self._tell is not None:
            self._tell(name)


_at_fork = AtFork(Signals._abandon)
_held: list[set[int]] = []  # the masks of forks of the application that are in progress


def _hold() -> None:
    # A TERM to a child whose first instruction is still to come would be noted by a handler of ours, and then forgotten, by
    # CPython or by us. So it waits until the handlers that were found are back.
    if _at_fork.any:
        _held.append(block())


def _let_go() -> None:
    if _held:
        unblock(_held.pop())


atfork.around(_hold, _let_go)


def _deliver(names: Names) -> None:
    for name in names:
        if name != "CHLD":  # its parent looks for children by itself
            signal.raise_signal(_NUMBER[name])


def _in_main_thread() -> bool:
    # Not imported: once it is, it does a third of a millisecond of work in every child, and without it there is one
    # thread only.
    threading = sys.modules.get("threading")
    return threading is None or threading.current_thread() is threading.main_thread()


def _pipe() -> tuple[int, int]:
    ends = os.pipe()
    for end in ends:
        os.set_blocking(end, False)
    return ends


def _set_wakeup(fd: int) -> None:
    try:
        signal.set_wakeup_fd(fd)
    except (OSError, ValueError):
        pass  # its owner has closed it


def _set(signum: int, handler: Any) -> None:
    # None stands for a handler that C code installed: Python cannot put it back.
    if handler is not None:
        _signal(signum, handler)
