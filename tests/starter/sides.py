"""The same program under Perl's `start_server` and under ours, played by one helper."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Callable, TypeVar, Union

from harness.process import Names, Overdue, Script, alive, cmdline, wait_asleep, wait_until
from harness.tools import require

T = TypeVar("T")

PERL, OURS = "perl", "ours"
SIDES = (PERL, OURS)
WORKER = Path(__file__).parent / "worker.py"
CEILING = 60.0  # seconds for what comes soon on an idle machine

Address = Union[str, tuple[str, int]]

PLACE = re.compile(r" at /\S+ line \d+\.$")
PIDS = re.compile(r"(?<=\bpid:)\d+|(?<=\bworker )\d+|(?<=workers:)\d[\d,]*")


def command(side: str) -> list[str]:
    """How the superdaemon of a side is called, or the test is skipped."""
    return [require("start_server")] if side == PERL else [sys.executable, "-m", "fcgi_procmanager.starter"]


class Superdaemon:
    """A superdaemon of either side with `worker.py` under it, in a folder of its own.

    DIR in the options is that folder and SOCK the path of a Unix socket. The status file is always DIR/status.
    """

    def __init__(
        self,
        side: str,
        folder: Path,
        sock: str,
        *options: str,
        words: Iterable[str] = (),
        before: Iterable[str] = (),
        program: list[str] | None = None,
        env: Mapping[str, str] | None = None,
        prepare: Callable[[Superdaemon], object] = lambda daemon: None,
        launcher: Callable[[list[str]], list[str]] = lambda argv: argv,
        **more: Any,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.side, self.folder, self.sock = side, folder, sock
        self._speaks = program is None
        if program is None:
            program = [sys.executable, "-S", str(WORKER), str(folder), *map(self.fill, words)]
        argv = [*command(side), "--status-file=DIR/status", *options, *before, *(["--", *program] if program else [])]
        filled = {name: self.fill(value) for name, value in (env or {}).items()}
        prepare(self)
        self.script = Script(launcher(list(map(self.fill, argv))), folder / "script", env=filled, **more)
        self.pid = self.script.pid

    def fill(self, text: str) -> str:
        return text.replace("DIR", str(self.folder)).replace("SOCK", self.sock)

    def file(self, name: str) -> Path:
        return self.folder / name

    # Doing

    def ask(self, line: str, address: Address | None = None) -> str:
        """The worker's answer; empty when the connection ended without one."""
        address = address or self.sock
        family = (
            socket.AF_UNIX if isinstance(address, str) else socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        )
        with closing(socket.socket(family)) as client:
            client.settimeout(CEILING)
            client.connect(address)
            client.sendall(f"{line}\n".encode())
            with client.makefile("r") as stream:
                return stream.readline().strip()

    def who(self) -> tuple[int, int]:
        """The generation and the pid of the worker that answers."""
        generation, pid = self.ask("who").split()
        return int(generation), int(pid)

    def come_to_rest(self) -> None:
        """Perl can miss a signal that comes between two looks for them."""
        if self.side == PERL:
            wait_asleep(self.pid, CEILING)

    def send(self, number: int) -> None:
        self.come_to_rest()
        self.script.signal(number)

    def hup(self) -> None:
        self.send(signal.SIGHUP)

    def end(self, number: int = signal.SIGTERM, timeout: float = CEILING) -> int:
        """Stop it and wait until it and all that it has started are gone; its status."""
        self.send(number)
        status = self.script.wait(timeout)
        self.script.tree_gone(timeout)
        self.programs_gone()
        return status

    # Seeing

    def events(self) -> list[str]:
        return _lines(self.file("events"))

    def wait_event(self, pattern: str, count: int = 1, timeout: float = CEILING) -> list[re.Match[str]]:
        """All events that match as a whole, once there are `count` of them."""

        def found() -> list[re.Match[str]] | None:
            matches = [match for line in self.events() if (match := re.fullmatch(pattern, line))]
            return matches if len(matches) >= count else None

        return self._wait(found, timeout, lambda: f"{count} events {pattern!r}, not {self.events()}")

    def status(self) -> dict[int, int]:
        """Generations and their pids, as the status file has them; none when there is no file."""
        return {int(gen): int(pid) for gen, pid in (line.split(":") for line in _lines(self.file("status")))}

    def wait_status(self, *generations: int, timeout: float = CEILING) -> dict[int, int]:
        """The status file once it names exactly these generations, and `worker.py` in them hears signals.

        A generation is accepted at its age, which a busy machine lets pass before its program runs."""

        def found() -> dict[int, int] | None:
            status = self.status()
            return status if sorted(status) == sorted(generations) else None

        status = self._wait(found, timeout, lambda: f"generations {generations}, not {self.status()}")
        if self._speaks:
            wait_until(lambda: self._hears(status), timeout, lambda: f"{status} to be up, not {self.events()}")
        return status

    def wait_only(self, but: int = 0, timeout: float = CEILING) -> tuple[int, int]:
        """Number and pid of the generation that is alone, and another one than `but`."""

        def found() -> tuple[int, int] | None:
            status = self.status()
            return next(iter(status.items())) if len(status) == 1 and but not in status else None

        number, pid = self._wait(found, timeout, lambda: f"one generation but {but}, not {self.status()}")
        self.wait_event(rf"up {number} {pid}")
        return number, pid

    def _hears(self, status: dict[int, int]) -> bool:
        events = self.events()
        return all(f"up {number} {pid}" in events or not alive(pid) for number, pid in status.items())

    def age(self, pid: int) -> float:
        """Seconds since a process was forked, as the kernel knows: the test may have seen it late."""
        with open(f"/proc/{pid}/stat") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")

    def _wait(self, fn: Callable[[], T | None], timeout: float, what: Callable[[], str]) -> T:
        """What `fn` has to give, once it is true; fails at once when a superdaemon in the foreground is gone."""

        def look() -> tuple[bool, T | None]:
            gone = "--daemonize" not in self.script.argv and self.script.process.poll() is not None
            found = fn()
            return (found is not None or gone), found

        def story() -> str:
            return f"{what()}\n{self.script.log()}"

        _, found = wait_until(lambda: answer if (answer := look())[0] else None, timeout, story) or (True, None)
        if found is None:
            raise Overdue(f"return code {self.script.process.poll()} before {story()}")
        return found

    def programs(self) -> list[int]:
        """The living processes among those that it has started: ours keep no descriptor, so that the tree pipe knows none."""
        started = re.findall(r"^starting new worker (\d+)$", self.script.log(), re.MULTILINE)
        told = [event.split()[2] for event in self.events() if event.startswith(("up ", "child ", "failing "))]
        return sorted(pid for pid in map(int, {*started, *told}) if alive(pid))

    def programs_gone(self, timeout: float = CEILING) -> None:
        wait_until(lambda: not self.programs(), timeout, lambda: f"the end of {self.programs()}\n{self.script.log()}")

    def log(self, text: str | None = None) -> list[str]:
        """The lines of the log with paths and pids by name; what Perl says about its own source code is left out."""
        names = Names()
        lines = (self.script.log() if text is None else text).splitlines()
        return [self.tidy(line, names) for line in lines]

    def tidy(self, line: str, names: Names) -> str:
        line = PLACE.sub("", line.replace(str(self.folder), "DIR").replace(self.sock, "SOCK"))
        return PIDS.sub(lambda found: ",".join(sorted(map(names.of, found[0].split(",")))), line)

    def close(self) -> None:
        """Kill what is left: of the programs, those that can be told from strangers."""
        self.script.close()
        for pid in self.programs():
            if str(self.folder) in cmdline(pid):
                with suppress(ProcessLookupError):  # it ends just now
                    os.kill(pid, signal.SIGKILL)


def run_command(side: str, folder: Path, *options: str, **more: Any) -> tuple[int, str, str]:
    """A command that ends by itself: its status, its standard output and its standard error."""
    with Script([*command(side), *options], folder, **more) as script:
        status = script.wait(CEILING)
        return status, script.output(CEILING), script.log()


def _lines(path: Path) -> list[str]:
    """The whole lines of a file that may not exist."""
    try:
        return path.read_text().splitlines()
    except FileNotFoundError:
        return []


def descriptors_hidden(ports: str) -> str:
    """SERVER_STARTER_PORT without the numbers of the descriptors."""
    return re.sub(r"(?<==)\d+(?=;|$)", "N", ports)


def write_over(path: Path, text: str) -> None:
    """Replace a file at once, so that nobody sees half of it."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    os.replace(new, path)
