"""The one place that forks: a child that becomes a worker, or one that becomes another program.

Runs in the manager. Signals are held from before the fork until the child has its own handlers and the parent has recorded the
pid. Otherwise a TERM would run the manager's stop in the child, which would remove the PID file and end its siblings, or come
to a manager that does not know this child yet, and never end it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Callable, NoReturn

from ..basics import log
from ..basics.clock import monotonic
from ..system import atfork, signals
from .registry import Child, Children

Record = Callable[[int], object]

# What our starter says to us is not for a program: it would speak for us, or take descriptors that mean something else.
_FOR_US = (
    *("LISTEN_FDNAMES", "LISTEN_FDS", "LISTEN_PID", "NOTIFY_SOCKET", "SERVER_STARTER_NOTIFY_FD"),
    *("SERVER_STARTER_PORT", "WATCHDOG_PID", "WATCHDOG_USEC"),
)

_CHDIR, _EXEC = b"c", b"e"  # the step that failed in the child
_EXEC_FAILED = 127  # as shells have it
_EXEC_PATIENCE = 10_000  # milliseconds until a program that neither runs nor fails is left to the one who waits for it
_PR_SET_PDEATHSIG = 1
# Python ignores these, and what is ignored stays so over an exec: a program would not end when its reader is gone.
_IGNORED_BY_PYTHON = ("SIGPIPE", "SIGXFSZ")


@dataclass(frozen=True)
class Program:
    """What a child is to execute.

    descriptors: those the program gets, its number -> ours; 0, 1 and 2 are inherited unless named, all others are closed.
    environment: the whole of it. directory: where it starts. session: in a session of its own, so that a terminal's control-C
    does not reach it. death_signal: what it gets when this manager is gone, even by KILL (Linux). pid_variable: the name of a
    variable that is to have its pid.
    """

    arguments: Sequence[str]
    environment: Mapping[str, str]
    descriptors: Mapping[int, int] = field(default_factory=dict)
    directory: str | None = None
    session: bool = False
    death_signal: str = ""
    pid_variable: str = ""


def environment_from(ours: Mapping[str, str]) -> dict[str, str]:
    """What a program is to find of our own environment."""
    return {name: value for name, value in ours.items() if name not in _FOR_US}


def fork(record: Record, become: Callable[[set[int]], object]) -> int:
    """A child that goes on with Python. Returns the pid, which `record` was called with, and 0 in the child, where `become`
    was called with the mask for `signals.unblock`. Raises OSError when the system refuses."""
    log.flush_standard_streams()
    mask = signals.block()
    try:
        pid = atfork.by_us(os.fork)
    except BaseException:  # an audit hook may forbid it in its own way
        signals.unblock(mask)
        raise
    if pid == 0:
        become(mask)
        return 0
    try:
        record(pid)
    finally:
        signals.unblock(mask)
    return pid


def execute(program: Program, record: Record) -> int:
    """A child that becomes `program`. Returns its pid, which `record` was called with, once it has. Raises OSError when the
    program cannot be run, and is reaped, or the system refuses to fork. Its file name says which: the program, the directory, or
    none."""
    prepared = _Prepared(program)
    told, tell = os.pipe()
    try:
        pid = fork(record, lambda mask: prepared.become(tell, mask))
        os.close(tell)
        tell = -1
        failure = _failure(told)
    finally:
        for end in (told, tell):
            if end >= 0:
                os.close(end)
    if failure:
        # The system reaps where SIGCHLD is ignored; else a thread of the application may have.
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
        step, number = failure[:1], int(failure[1:])
        raise OSError(number, os.strerror(number), program.directory if step == _CHDIR else program.arguments[0])
    return pid


def start(program: Program, children: Children, generation: int = 0, forked: Record = int) -> Child:
    """A child of this kind that becomes `program`. forked: called with its pid before it does. Raises as `execute`, and leaves
    no trace of it then."""
    recorded: list[Child] = []

    def record(pid: int) -> None:
        recorded.append(children.add(pid, monotonic(), generation))
        forked(pid)

    try:
        execute(program, record)
    except OSError:
        for child in recorded:
            children.remove(child.pid)
        raise
    return recorded[0]


def _failure(told: int) -> bytes:
    """What the child that could not execute has written; nothing at the end of file, which is its success."""
    poller = select.poll()
    poller.register(told, select.POLLIN)
    # Another thread may fork while the pipe is open, and its child holds it until it executes something or ends.
    if not poller.poll(_EXEC_PATIENCE):
        return b""
    return os.read(told, 16)


class _Prepared:
    """All that takes memory or a lock is done before the fork: in the child another thread may hold any lock for ever."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._prctl = _prctl() if program.death_signal else None
        self._parent = os.getpid()
        self._environment = dict(program.environment)
        self._death_signal = getattr(signal, f"SIG{program.death_signal}") if program.death_signal else 0
        self._step = _EXEC

    def become(self, tell: int, mask: set[int]) -> NoReturn:
        """In the child: the program, or the reason why not."""
        try:
            # Out of the way of the numbers that the program's own descriptors get.
            tell = _copy(tell, max(self._program.descriptors, default=0) + 1)
            self._execute(mask)
        except OSError as error:
            os.write(tell, self._step + b"%d" % (error.errno or errno.EIO))
        except BaseException:
            os.write(tell, self._step + b"%d" % errno.EIO)
        finally:
            os._exit(_EXEC_FAILED)

    def _execute(self, mask: set[int]) -> None:
        program = self._program
        if program.session:
            os.setsid()
        if self._prctl is not None:
            self._prctl(_PR_SET_PDEATHSIG, self._death_signal, 0, 0, 0)
            # The manager may have died before the request was in place: then nobody will tell us.
            if os.getppid() != self._parent:
                os._exit(_EXEC_FAILED)
        if program.directory is not None:
            self._step = _CHDIR
            os.chdir(program.directory)
            self._step = _EXEC
        _arrange(program.descriptors)
        _close_others(program.descriptors)
        for name in _IGNORED_BY_PYTHON:
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), signal.SIG_DFL)
        # A handler of ours must not run any more: what comes from now on takes its default action, as in the program.
        for name in signals.HANDLED:
            signal.signal(signals.number(name), signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        signals.unblock(mask)
        if program.pid_variable:
            self._environment[program.pid_variable] = str(os.getpid())
        os.execvpe(program.arguments[0], list(program.arguments), self._environment)


def _arrange(descriptors: Mapping[int, int]) -> None:
    """Give each descriptor its number. All are copied out of the way first: one may have the number that another is to get."""
    above = max(descriptors, default=0) + 1
    aside = {number: _copy(ours, above) for number, ours in descriptors.items()}
    for number, copy in aside.items():
        os.dup2(copy, number, inheritable=True)


def _copy(descriptor: int, least: int) -> int:
    """Under the first free number from `least` on. PyPy does not know F_DUPFD_CLOEXEC."""
    copy = fcntl.fcntl(descriptor, fcntl.F_DUPFD, least)
    os.set_inheritable(copy, False)
    return copy


def _close_others(descriptors: Mapping[int, int]) -> None:
    """At the exec: a spawner or a C library may have left one that is inheritable."""
    for number in map(int, os.listdir("/dev/fd")):
        if number > 2 and number not in descriptors:
            with contextlib.suppress(OSError):  # the one that the listing itself had
                os.set_inheritable(number, False)


def _prctl() -> Callable[..., int] | None:
    if not sys.platform.startswith("linux"):
        return None
    import ctypes  # not above: it is large, and few managers need it

    prctl: Callable[..., int] = ctypes.CDLL(None, use_errno=True).prctl
    return prctl
