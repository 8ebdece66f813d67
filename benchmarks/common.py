"""What the benchmarks share: a stage that leaves nothing behind, a look at processes from outside, figures and tables.

Everything that a benchmark starts or writes belongs to its `Stage`. It is gone at the end of the `with` block, whatever ended
it: Ctrl-C, TERM and HUP too.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, NamedTuple, NoReturn, TypeVar

HERE = Path(__file__).resolve().parent
APPLICATIONS = HERE / "applications"
TICKS = os.sysconf("SC_CLK_TCK")
LOAD = os.getloadavg()[0]  # before anything was started

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PATH = [os.path.dirname(sys.executable), *os.environ.get("PATH", os.defpath).split(os.pathsep), "/usr/sbin", "/sbin"]

T = TypeVar("T")


class Failed(Exception):
    """A benchmark cannot go on, and why."""


# -- the stage --------------------------------------------------------------------------------------------------------


class Stage:
    """A directory, and the programs that were started on it."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="bench-"))
        self.programs: list[Program] = []

    def __enter__(self) -> Stage:
        for number in _ENDING:
            signal.signal(number, _interrupted)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number in _ENDING:  # a second Ctrl-C must not leave half of it behind
            signal.signal(number, signal.SIG_IGN)
        for program in reversed(self.programs):
            program.stop()
        shutil.rmtree(self.directory)
        for number in _ENDING:
            signal.signal(number, signal.SIG_DFL)

    def place(self, name: str) -> Path:
        """A new directory."""
        path = self.directory / name
        path.mkdir()
        return path

    def start(self, name: str, argv: Sequence[object], *, talks: bool = False) -> Program:
        """Start a program. `talks`: its standard input and output are pipes, for `say` and `line`."""
        program = Program(name, [str(word) for word in argv], self.directory / f"{name}.log", talks)
        self.programs.append(program)
        return program


def _interrupted(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)


class Program:
    """A running program in a session of its own, by which all that it starts is found again."""

    def __init__(self, name: str, argv: list[str], log: Path, talks: bool) -> None:
        self.name = name
        self.log = log
        with open(log, "wb") as out:
            self.process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
                stdout=subprocess.PIPE if talks else out,
                stderr=out,
                bufsize=0,
                start_new_session=True,
                cwd=log.parent,
            )
        self.pid = self.process.pid
        self._said = b""

    def stop(self, number: int = signal.SIGTERM, patience: float = 3) -> None:
        """Ask it to end, and kill what is left of its session when it does not."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        deadline = time.monotonic() + patience
        while self.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        while left := session(self.pid):
            for pid in left:
                _kill(pid)
            self.process.poll()
            time.sleep(0.01)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream:
                stream.close()

    def say(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(line.encode() + b"\n")

    def line(self) -> str:
        """The next line of its output. Raises Failed at the end of it."""
        assert self.process.stdout
        while b"\n" not in self._said:
            piece = os.read(self.process.stdout.fileno(), 1 << 16)
            if not piece:
                raise Failed(f"{self.name} ended: {self.story()}")
            self._said += piece
        line, _, self._said = self._said.partition(b"\n")
        return line.decode()

    def story(self) -> str:
        """The end of what it logged."""
        return self.log.read_text(errors="replace")[-2000:].strip() or "it logged nothing"

    def until(self, condition: Callable[[], T], what: str, seconds: float = 20) -> T:
        """Wait for something that this program should bring about."""
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"{self.name}: {what} did not come: {self.story()}")
            time.sleep(0.005)
        return found


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


# -- processes from outside -------------------------------------------------------------------------------------------


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; empty when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text.rpartition(")")[2].split()


def session(leader: int, zombies: bool = False) -> list[int]:
    """The processes of a session that live, or also those that nobody has reaped yet."""
    states = "" if zombies else "ZX"
    looked = ((int(name), _stat(int(name))) for name in os.listdir("/proc") if name.isdigit())
    return [pid for pid, fields in looked if fields and fields[3] == str(leader) and fields[0] not in states]


def cpu(program: Program) -> float:
    """Seconds of CPU that all processes of a program have used, with those that it has reaped."""
    while True:
        reaped = _times_of_reaped(program.pid)
        living = sum(sum(map(int, _stat(pid)[11:13])) for pid in session(program.pid, zombies=True))  # utime, stime
        if reaped == _times_of_reaped(program.pid):  # else one was counted twice, or not at all
            return (living + reaped) / TICKS


def _times_of_reaped(pid: int) -> int:
    return sum(map(int, _stat(pid)[13:15]))  # cutime, cstime


def cpu_exactly(pid: int) -> float:
    """Seconds of CPU of one process, to the nanosecond where the kernel counts so."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
    except FileNotFoundError:
        return sum(map(int, _stat(pid)[11:13])) / TICKS


def switches(pid: int) -> int:
    """How often a process has gone to sleep by itself."""
    found = re.search(r"^voluntary_ctxt_switches:\s*(\d+)", Path(f"/proc/{pid}/status").read_text(), re.M)
    assert found
    return int(found[1])


def pss(pid: int) -> int:
    """The memory of a process in KiB, what it shares divided by those that share it."""
    found = re.search(r"^Pss:\s*(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)
    assert found
    return int(found[1])


# -- what is installed ------------------------------------------------------------------------------------------------


def find(*programs: str) -> str | None:
    """The path of the first of these that is installed."""
    return next(filter(None, (shutil.which(name, path=os.pathsep.join(_PATH)) for name in programs)), None)


@cache
def perl_version(module: str) -> str:
    """The version of a Perl module; empty when it is not installed."""
    perl = find("perl")
    return output(perl, f"-M{module}", "-e", f"print {module}->VERSION") if perl else ""


def output(*argv: str) -> str:
    """What a program prints; empty when it fails."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30)
    return done.stdout.strip() if done.returncode == 0 else ""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def listens(path: Path) -> bool:
    """Whether somebody accepts at this socket file."""
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0


# -- a FastCGI request, as nginx sends it ------------------------------------------------------------------------------

VARIABLES = {
    "QUERY_STRING": "12",
    "REQUEST_METHOD": "GET",
    "CONTENT_TYPE": "",
    "CONTENT_LENGTH": "",
    "SCRIPT_NAME": "",
    "PATH_INFO": "/page",
    "REQUEST_URI": "/page?12",
    "DOCUMENT_URI": "/page",
    "DOCUMENT_ROOT": "/srv/www",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "REQUEST_SCHEME": "http",
    "GATEWAY_INTERFACE": "CGI/1.1",
    "SERVER_SOFTWARE": "nginx/1.22.1",
    "REMOTE_ADDR": "127.0.0.1",
    "REMOTE_PORT": "40000",
    "SERVER_ADDR": "127.0.0.1",
    "SERVER_PORT": "8080",
    "SERVER_NAME": "localhost",
    "REDIRECT_STATUS": "200",
    "HTTP_HOST": "127.0.0.1:8080",
}


def page(number: int) -> dict[str, str]:
    """The variables of one of many different requests."""
    path, client = f"/page/{number * 7919 % 100003}", f"127.0.{number % 256}.{number % 7}"
    changed = {"PATH_INFO": path, "REQUEST_URI": f"{path}?12", "DOCUMENT_URI": path, "REMOTE_ADDR": client}
    return {**VARIABLES, **changed, "REMOTE_PORT": str(1024 + number * 7919 % 60000)}


def request(variables: Mapping[str, str] = VARIABLES) -> bytes:
    """A request without a body, on a connection that is not kept."""
    pairs = b"".join(
        bytes((len(name), len(value))) + name.encode() + value.encode() for name, value in variables.items()
    )
    return b"".join(
        (
            struct.pack("!BBHHBxHB5x", 1, 1, 1, 8, 0, 1, 0),
            struct.pack("!BBHHBx", 1, 4, 1, len(pairs), 0),
            pairs,
            struct.pack("!BBHHBx", 1, 4, 1, 0, 0),
            struct.pack("!BBHHBx", 1, 5, 1, 0, 0),
        )
    )


def reply(body: bytes) -> bytes:
    """The answer to it."""
    content = b"Status: 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    return b"".join(
        (
            struct.pack("!BBHHBx", 1, 6, 1, len(content), 0),
            content,
            struct.pack("!BBHHBx", 1, 6, 1, 0, 0),
            struct.pack("!BBHHBxIB3x", 1, 3, 1, 8, 0, 0, 0),
        )
    )


# -- figures ----------------------------------------------------------------------------------------------------------


class Figure(NamedTuple):
    """The median of some measurements, with the least and the greatest."""

    median: float
    low: float
    high: float

    def text(self, digits: int = 2) -> str:
        return f"{self.median:,.{digits}f} ({self.low:,.{digits}f}-{self.high:,.{digits}f})"


def figure(values: Iterable[float]) -> Figure:
    values = list(values)
    return Figure(statistics.median(values), min(values), max(values))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Figure:
    """Of what was measured in the same rounds. The spread of ratios is far below that of the values."""
    return figure(mine / other for mine, other in zip(ours, theirs))


class Aim(NamedTuple):
    what: str
    figure: str
    aim: str
    met: bool | None  # None: a figure without an aim

    @staticmethod
    def table(aims: Iterable[Aim]) -> str:
        words = {True: "met", False: "**missed**", None: ""}
        rows = [(aim.what, aim.figure, aim.aim, words[aim.met]) for aim in aims]
        return table(("what", "figure", "aim", ""), rows)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that a terminal and Markdown both show well."""
    lines = [list(head), *map(list, rows)]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(head))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths)) + " |" for line in lines)


def machine() -> str:
    """Where and when, and whether others were there."""
    python = ".".join(platform.python_version_tuple()[:2])
    kernel = ".".join(platform.release().split(".")[:2])
    busy = f", **on a busy machine** (load average {LOAD:.0f})" if LOAD > 1 else ""
    return (
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, "
        f"{platform.python_implementation()} {python}{_build()}, {platform.system()} {kernel}{busy}"
    )


def _build() -> str:
    """How the interpreter was built, which makes up to a third of a difference. Distributions optimize theirs, and Debian's does not
    say so."""
    if platform.python_implementation() != "CPython":
        return ""
    if sys.base_prefix == "/usr":
        return " of the distribution"
    optimized = "--enable-optimizations" in str(sysconfig.get_config_var("CONFIG_ARGS"))
    return " built with optimizations" if optimized else " built without optimizations"


# -- the command line ---------------------------------------------------------------------------------------------------


def options(about: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few and short rounds: does everything work?")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement there")
    parser.add_argument("--page", type=Path, metavar="FILE", help="put the tables into this page, between their marks")
    return parser


def publish(page: Path | None, name: str, text: str) -> None:
    """Print a part of the report, and put it into the page between `<!-- figures: NAME -->` and `<!-- end -->`."""
    print(text, end="\n\n")
    if page is not None:
        marks = re.compile(rf"(<!-- figures: {re.escape(name)} -->\n).*?(<!-- end -->)", re.S)
        new, count = marks.subn(lambda found: f"{found[1]}\n{text}\n\n{found[2]}", page.read_text())
        if count != 1:
            raise Failed(f"{page} has {count} places for the figures {name!r}")
        page.write_text(new)


def progress(text: str) -> None:
    """What is going on, for a person who waits."""
    print(text, file=sys.stderr, flush=True)


def run(main: Callable[[], Any]) -> NoReturn:
    try:
        main()
    except Failed as error:
        raise SystemExit(f"error: {error}")
    raise SystemExit(0)
