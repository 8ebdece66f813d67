"""Real processes under test, and what can be seen of them from outside.

A `Script` is one program in its own session. Its standard output is a pipe that tests read line by line, its standard
error a file that they search. All its descendants inherit the write end of one more pipe, the tree pipe: end of file on
it proves that the whole tree is dead, whoever adopted the orphans. (A program started with its descriptors closed, as
`subprocess` does by default, leaves the tree.)

Nothing here sleeps for a fixed time: it waits for an event, or, where there is none, asks again every 5 ms; every wait
has a ceiling.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import re
import select
import socket
import string
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM
from typing import IO, Any, Callable, TypeVar, Union

from .interpreter import CPYTHON

T = TypeVar("T")
Source = Union[str, Sequence[Union[str, Path]]]

TESTS = Path(__file__).resolve().parent.parent
POLL = 0.005
O_ACCMODE = os.O_RDONLY | os.O_WRONLY | os.O_RDWR  # PyPy has no name for it
KEPT_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "LD_LIBRARY_PATH", "PYTHON_GIL")
_RANGE = 20_000 + 1000 * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 12)
_FIRST = random.randrange(1000)
_ports = itertools.chain(range(_RANGE + _FIRST, _RANGE + 1000), range(_RANGE, _RANGE + _FIRST))
LOG_LINE = re.compile(r"^(?:\d[\d:.T+-]+ [A-Z]+ )?FastCGI: (?P<role>.+?) \(pid (?P<pid>\d+)\): (?P<message>.*)$")


class Overdue(AssertionError):
    """What was waited for did not happen in time."""


class Script:
    """A program under test: Python source text, or a whole command line as a list."""

    def __init__(
        self,
        source: Source,
        directory: Path,
        *,
        args: Iterable[object] = (),
        env: Mapping[str, str] | None = None,
        stdin: int | IO[Any] | socket.socket | None = None,
        pass_fds: Iterable[int] = (),
        cwd: str | Path | None = None,
        python_args: Iterable[str] = (),
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.log_path = directory / "stderr.log"
        self.argv = [*self._command(source, python_args), *map(str, args)]
        self.closed = False
        self._line_buffer = b""
        self._output_ended = False
        self._tree_pipe, write_end = os.pipe()
        try:
            with open(self.log_path, "wb") as log:
                self.process = subprocess.Popen(
                    self.argv,
                    stdin=_descriptor(stdin),
                    stdout=subprocess.PIPE,
                    stderr=log,
                    bufsize=0,
                    pass_fds=(write_end, *pass_fds),
                    cwd=cwd,
                    env=_environment(env),
                    start_new_session=True,
                )
        except BaseException:
            os.close(self._tree_pipe)
            raise
        finally:
            os.close(write_end)
        self.pid = self.process.pid
        assert self.process.stdout is not None
        self._stdout = self.process.stdout.fileno()

    def __enter__(self) -> Script:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Script {self.pid} {' '.join(self.argv)}>"

    # Doing

    def signal(self, number: int, pid: int | None = None) -> None:
        """Send a signal to the script itself, or to one of its processes."""
        if pid is not None:
            os.kill(pid, number)
        elif self.process.returncode is None:
            os.kill(self.pid, number)
        else:
            raise ProcessLookupError(f"{self} has ended already")

    def signal_group(self, number: int) -> None:
        """Send a signal to the whole process group, as a terminal does at control-C."""
        os.killpg(self.pid, number)

    def wait(self, timeout: float = 60) -> int:
        """The return code (minus the signal's number if one killed it). Too late: everything is killed and it fails."""
        if self.process.returncode is None and not _ends_within(self.pid, timeout):
            self.kill()
            raise Overdue(f"{self} still ran after {timeout} s\n{self._story()}")
        return self.process.wait()

    def stop(self, number: int = SIGTERM, timeout: float = 60) -> int:
        """Send a signal, wait for the script and then for the whole tree to be gone; the return code."""
        self.signal(number)
        code = self.wait(timeout)
        self.tree_gone(timeout)
        return code

    def kill(self) -> None:
        """Kill the group, then whoever left it but still holds the tree pipe, and reap the script."""
        # Once the script is reaped and its tree is dead, its number may be the group of somebody else.
        if self.process.returncode is None or not self._tree_ended(0):
            _kill_group(self.pid)
        deadline = time.monotonic() + 20
        while not self._tree_ended(0.05) and time.monotonic() < deadline:
            for pid in self.tree():
                _kill(pid)
        self.process.wait(timeout=20)

    def close(self) -> None:
        """Kill what is left and let go of everything; fails if a process of the tree survives even that."""
        if self.closed:
            return
        self.closed = True
        try:
            self.kill()
            if not self._tree_ended(20):
                raise Overdue(f"processes {self.tree()} of {self} survived SIGKILL\n{self._story()}")
        finally:
            os.close(self._tree_pipe)
            assert self.process.stdout is not None
            self.process.stdout.close()

    # Standard output

    def line(self, timeout: float = 60) -> str:
        """The next line of standard output, without its end. Fails when there is none in time or no more to come."""
        deadline = time.monotonic() + timeout
        while b"\n" not in self._line_buffer:
            self._read_output(deadline, "a line of standard output")
            if self._output_ended:
                raise EOFError(f"standard output ended, with {self._line_buffer!r} unread\n{self._story()}")
        line, _, self._line_buffer = self._line_buffer.partition(b"\n")
        return line.decode(errors="replace")

    def lines(self, count: int, timeout: float = 60) -> list[str]:
        """The next so many lines of standard output."""
        deadline = time.monotonic() + timeout
        return [self.line(max(0, deadline - time.monotonic())) for _ in range(count)]

    def output(self, timeout: float = 60) -> str:
        """The rest of standard output, until the last process that holds it has closed it."""
        deadline = time.monotonic() + timeout
        while not self._output_ended:
            self._read_output(deadline, "the end of standard output")
        rest, self._line_buffer = self._line_buffer, b""
        return rest.decode(errors="replace")

    # The log (standard error)

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait_log(self, pattern: str, count: int = 1, timeout: float = 60) -> list[re.Match[str]]:
        """All matches in the log once there are `count` (^ and $ match at lines). Fails when the tree is dead."""
        deadline = time.monotonic() + timeout
        while True:
            over = self._tree_ended(0) or time.monotonic() >= deadline
            found = list(re.finditer(pattern, self.log(), re.MULTILINE))
            if len(found) >= count:
                return found
            if over:
                raise Overdue(f"{len(found)} of {count} matches of {pattern!r} in the log\n{self._story()}")
            time.sleep(POLL)

    def wait_ready(self, count: int = 1, timeout: float = 60) -> None:
        """Wait until so many workers have said in the log that they are initialized, and have then told their manager: they do
        that before they wait for a request."""
        for line in self.wait_log(r"server\b.*?\bpid\W+(\d+)\b.*\binitialized\W*$", count, timeout):
            pid = int(line[1])
            wait_until(lambda pid=pid: process_state(pid) in ("S", "Z", None), timeout, f"{pid} to wait for a request")

    def log_lines(self, normalise: bool = True) -> list[str]:
        """The lines of the log; by default with `FastCGI: manager (pid 123): text` as `manager A: text`.

        Processes are called A, B, C... in order of first sight, wherever their pids are met in the text.
        """
        lines = self.log().splitlines()
        return Names().apply(lines) if normalise else lines

    # The tree

    def workers(self) -> list[int]:
        """The living children of the script, in order of their pids."""
        return children(self.pid)

    def wait_workers(self, count: int, timeout: float = 60) -> list[int]:
        """The living children once there are exactly so many."""
        (found,) = wait_until(
            lambda: (found,) if len(found := self.workers()) == count else None,
            timeout,
            lambda: f"{count} workers, not {self.workers()}\n{self._story()}",
        ) or ([],)
        return found

    def tree(self) -> list[int]:
        """All living processes of the script's tree, wherever they are now: who holds the tree pipe (Linux only)."""
        return _writers(os.readlink(f"/proc/self/fd/{self._tree_pipe}"))

    def tree_gone(self, timeout: float = 60) -> None:
        """Wait until no process of the tree is left; fails with the log otherwise."""
        if not self._tree_ended(timeout):
            raise Overdue(f"processes {self.tree()} of {self} are alive after {timeout} s\n{self._story()}")

    def _command(self, source: Source, python_args: Iterable[str]) -> list[str]:
        if not isinstance(source, str):
            return list(map(str, source))
        path = self.directory / "script.py"
        path.write_text(textwrap.dedent(source))
        return [sys.executable, *python_args, str(path)]

    def _read_output(self, deadline: float, what: str) -> None:
        if not readable(self._stdout, deadline - time.monotonic()):
            raise Overdue(f"{what} did not come in time; {self._line_buffer!r} did\n{self._story()}")
        data = os.read(self._stdout, 1 << 16)
        self._line_buffer += data
        self._output_ended = not data

    def _tree_ended(self, timeout: float) -> bool:
        """Nobody writes to the tree pipe: readable means end of file."""
        return readable(self._tree_pipe, timeout)

    def _story(self) -> str:
        return f"--- return code {self.process.returncode}, standard error:\n{self.log()}---"


class Names:
    """Symbolic names for processes: A, B, ... Z, AA, AB, ... in order of first sight."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def of(self, pid: int | str) -> str:
        """The name of a process, given now if it has none."""
        return self._names.setdefault(str(pid), _letters(len(self._names)))

    def apply(self, lines: Iterable[str]) -> list[str]:
        return [self._line(line) for line in lines]

    def _line(self, line: str) -> str:
        match = LOG_LINE.match(line)
        if match is None:
            return self._text(line)
        return f"{match['role']} {self.of(match['pid'])}: {self._text(match['message'])}"

    def _text(self, text: str) -> str:
        """Pids are what follows `pid` or `PIDs`, and any number already known as one."""
        text = re.sub(r"\bpid[ =](\d+)", lambda m: f"pid {self.of(m[1])}", text)
        text = re.sub(r"(?<=\bPIDs, )\d+(?: \d+)*", lambda m: " ".join(map(self.of, m[0].split())), text)
        return re.sub(r"(?<!status )\b\d+\b", lambda m: self._names.get(m[0], m[0]), text)


# Waiting


def patient(seconds: float) -> float:
    """A bound for what takes a fraction of `seconds` on an idle machine and much longer when it is wrong: wider on a
    machine that has more to do than it has processors. The load average comes late: a minute passes until it knows."""
    return seconds * max(3.0, 1.5 * os.getloadavg()[0] / (os.cpu_count() or 1))


def wait_until(fn: Callable[[], T], timeout: float = 60, what: str | Callable[[], str] = "the condition") -> T:
    """Ask every 5 ms until the answer is true, and return it; fail after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        over = time.monotonic() >= deadline
        answer = fn()
        if answer:
            return answer
        if over:
            raise Overdue(f"waited {timeout} s for {what() if callable(what) else what}")
        time.sleep(POLL)


# Looking at a process from outside. A process that is gone has no state, no children and no descriptors.


def process_state(pid: int) -> str | None:
    """The kernel's letter (R, S, D, T, Z...); None when there is no such process."""
    fields = _stat(pid)
    return fields[0] if fields else None


def alive(pid: int) -> bool:
    """Whether the process exists and is more than a zombie."""
    return process_state(pid) not in (None, "Z", "X")


def wait_dead(pid: int, timeout: float = 60) -> None:
    """Wait until the process is gone or at least a zombie."""
    wait_until(lambda: not alive(pid), timeout, f"the death of {pid}")


def wait_asleep(pid: int, timeout: float = 60) -> None:
    """Wait until the process blocks in a system call (its state is S)."""
    wait_until(lambda: process_state(pid) == "S", timeout, f"{pid} to be asleep")


def wait_settled(*pids: int, timeout: float = 60) -> None:
    """Wait until no thread of the processes has been awake for a moment: it waits for an event then, not for the interpreter
    or for a page. One that is preempted is not asleep."""

    def rested() -> bool:
        before = [_sleepers(pid) for pid in pids]
        time.sleep(0.1)
        return all(before) and before == [_sleepers(pid) for pid in pids]

    wait_until(rested, timeout, f"{pids} to be at rest")


@contextlib.contextmanager
def standing_still(*pids: int) -> Iterator[None]:
    """The processes stand still meanwhile: what is connected, sent and signalled is there as a whole when they go on, however
    slowly it was done."""
    for pid in pids:
        os.kill(pid, SIGSTOP)
    try:
        wait_until(lambda: all(state == "T" for pid in pids for state in _states(pid)), 60, f"{pids} to stand still")
        yield
    finally:
        for pid in pids:
            os.kill(pid, SIGCONT)


def session(pid: int) -> int | None:
    """The session that the process is in; None when it is gone."""
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def parent(pid: int) -> int | None:
    fields = _stat(pid)
    return int(fields[1]) if fields else None


def children(pid: int, zombies: bool = False) -> list[int]:
    """The children of a process in order of their pids, without those that are dead but not reaped."""
    found: list[int] = []
    for task in _listdir(f"/proc/{pid}/task"):
        found += map(int, _read(f"/proc/{pid}/task/{task}/children").split())
    return sorted(child for child in found if zombies or alive(child))


def open_fds(pid: int | str = "self") -> dict[int, str]:
    """The open descriptors of a process and what they lead to (`socket:[123]`, `pipe:[45]`, a path)."""
    folder = f"/proc/{pid}/fd"
    return {int(fd): target for fd in _listdir(folder) if (target := _readlink(f"{folder}/{fd}"))}


def context_switches(pid: int) -> int:
    """How often the process has gone to sleep by itself: an idle one must not count up."""
    return int(_status(pid)["voluntary_ctxt_switches"])


def signal_masks(pid: int) -> dict[str, set[int]]:
    """The signals that a process has `pending`, `blocked`, `ignored` and `caught`, as the kernel sees them."""
    status = _status(pid)
    masks = {key: _signals(status[key]) for key in ("SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt")}
    pending = masks["SigPnd"] | masks["ShdPnd"]
    return {"pending": pending, "blocked": masks["SigBlk"], "ignored": masks["SigIgn"], "caught": masks["SigCgt"]}


def sigcatch(pid: int) -> set[int]:
    """The signals for which a process has a handler."""
    return signal_masks(pid)["caught"]


def cmdline(pid: int) -> str:
    """The command line, or the title that the process has put there."""
    return _read(f"/proc/{pid}/cmdline").replace("\0", " ").strip()


def titled(pid: int, text: str) -> bool:
    """Whether the title of a process has the text; true where no process has a title."""
    return not CPYTHON or text in cmdline(pid)


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that nobody listens on just now. Better: bind in the test and hand the socket over.

    It is below those that the system gives to clients and to who asks for any, each is named once, and tests that run at the same
    time have ranges of their own: nobody takes it before the program under test does."""
    for port in _ports:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                sock.bind((host, port))
                return port
    raise Overdue("no port is free")


def listening(address: str | tuple[str, int]) -> bool:
    """Whether somebody accepts connections there. Costs the server a connection that says nothing."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family) as sock:
        sock.settimeout(5)
        return sock.connect_ex(address) == 0


def _states(pid: int) -> list[str | None]:
    """The state of each thread."""
    return [process_state(int(task)) for task in _listdir(f"/proc/{pid}/task")]


def _sleepers(pid: int) -> dict[int, int]:
    """How often each thread has gone to sleep; nothing while one of them is awake."""
    try:
        counts = {int(task): context_switches(int(task)) for task in _listdir(f"/proc/{pid}/task")}
    except ProcessLookupError:  # a thread has ended meanwhile
        return {}
    return counts if all(state == "S" for state in _states(pid)) else {}


def _descriptor(stdin: int | IO[Any] | socket.socket | None) -> int:
    if stdin is None:
        return subprocess.DEVNULL
    return stdin if isinstance(stdin, int) else stdin.fileno()


def _environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    """A scrubbed environment: nothing of the machine's (LISTEN_FDS, NOTIFY_SOCKET, PM_...) can leak into a test."""
    env = {name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ}
    paths = [str(TESTS), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**env, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", **(extra or {})}


def _ends_within(pid: int, timeout: float) -> bool:
    """Whether a child of ours, which stays unreaped, ends in time."""
    if not hasattr(os, "pidfd_open"):
        deadline = time.monotonic() + timeout
        while not _is_waitable(pid) and time.monotonic() < deadline:
            time.sleep(POLL)
        return _is_waitable(pid)
    fd = os.pidfd_open(pid)
    try:
        return readable(fd, timeout)
    finally:
        os.close(fd)


def _is_waitable(pid: int) -> bool:
    if not hasattr(os, "waitid"):  # PyPy
        return process_state(pid) in ("Z", None)
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def readable(fd: int, timeout: float) -> bool:
    """Whether there is something to read, or the end, within so many seconds."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(max(0, timeout) * 1000))


def _kill(pid: int) -> None:
    try:
        os.kill(pid, SIGKILL)
    except ProcessLookupError:
        pass


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, SIGKILL)
    except (ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
        pass


def _writers(pipe: str) -> list[int]:
    """The processes that hold the write end of a pipe. The read end has the same name but another access mode."""
    found = []
    for pid in filter(str.isdigit, _listdir("/proc")):
        held = [fd for fd, target in open_fds(pid).items() if target == pipe]
        if any(_is_write_end(pid, fd) for fd in held):
            found.append(int(pid))
    return sorted(found)


def _is_write_end(pid: str, fd: int) -> bool:
    flags = re.search(r"^flags:\s*([0-7]+)", _read(f"/proc/{pid}/fdinfo/{fd}"), re.MULTILINE)
    return flags is not None and int(flags[1], 8) & O_ACCMODE == os.O_WRONLY


def _letters(number: int) -> str:
    head, last = divmod(number, 26)
    return (_letters(head - 1) if head else "") + string.ascii_uppercase[last]


def _signals(mask: str) -> set[int]:
    bits = int(mask, 16)
    return {number for number in range(1, 65) if bits >> (number - 1) & 1}


def _stat(pid: int) -> list[str]:
    """The fields after the command name, which may itself hold spaces and brackets: state, parent, group..."""
    return _read(f"/proc/{pid}/stat").rpartition(") ")[2].split()


def _status(pid: int) -> dict[str, str]:
    lines = _read(f"/proc/{pid}/status").splitlines()
    if not lines:
        raise ProcessLookupError(f"no process {pid}")
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _read(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ""


def _listdir(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return []


def _readlink(path: str) -> str:
    try:
        return os.readlink(path)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ""


def refusal(script: Script) -> str:
    """The one line with which a command refuses, without the name of the program."""
    assert script.output() == ""
    assert script.wait() == 2, script.log()
    (line,) = script.log().splitlines()
    name, _, message = line.partition(": ")
    assert name == "fcgi-procmanager"
    return message
