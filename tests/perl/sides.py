"""The two sides of a case of test_perl_differential.py: how a script is played, and what is seen of it."""

from __future__ import annotations

import itertools
import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import SIGTERM
from typing import Callable, NamedTuple

from harness import fcgi
from harness.process import LOG_LINE, Overdue, Script, children, cmdline, process_state, wait_until

STAYS = 5  # seconds; what has not ended by itself by then does not
LEAVES = 60  # seconds for what ends by itself


class Difference(NamedTuple):
    perl: str  # the line that only Perl has; empty for none
    ours: str
    reason: str


class Case(NamedTuple):
    play: Callable[[Play], None]
    script: str
    arguments: tuple[str, ...]
    differences: list[Difference]


CASES: dict[str, Case] = {}


def case(script: str, *arguments: str) -> Callable[[Callable[[Play], None]], Callable[[Play], None]]:
    """Register a case: `script` with `arguments`, in which DIR is a directory of its own. With LIVING there is an app.pid in
    it already, which names a living process."""

    def register(play: Callable[[Play], None]) -> Callable[[Play], None]:
        CASES[play.__name__] = Case(play, script, arguments, getattr(play, "differences", []))
        return play

    return register


def differs(perl: str, ours: str, reason: str) -> Callable[[Callable[[Play], None]], Callable[[Play], None]]:
    def add(play: Callable[[Play], None]) -> Callable[[Play], None]:
        play.differences = [Difference(perl, ours, reason), *getattr(play, "differences", [])]  # type: ignore[attr-defined]
        return play

    return add


class Held(NamedTuple):
    """A request that is answered in two halves, after the first."""

    client: socket.socket
    reply: str


class Play:
    """One side of a case while it runs: the script, its socket, and what has been noted."""

    def __init__(self, command: list[str], arguments: tuple[str, ...], folder: Path, address: str) -> None:
        self.is_ours = command[-1].endswith(".py")
        self.folder = folder
        self.address = address
        self.facts: list[str] = []
        self.clients: list[socket.socket] = []
        if "LIVING" in arguments:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "app.pid").write_text(f"{os.getpid()}\n")
            arguments = tuple(word for word in arguments if word != "LIVING")
        with socket.socket(socket.AF_UNIX) as listener:
            listens_itself = "SOCKET" in arguments
            if not listens_itself:
                listener.bind(address)
                listener.listen(64)
            words = [word.replace("DIR", str(folder)).replace("SOCKET", address) for word in arguments]
            env = dict(word.split("=") for word in words if word.startswith("PM_"))
            self.script = Script(
                command,
                folder,
                args=[word for word in words if not word.startswith("PM_")],
                stdin=None if listens_itself else listener,
                env=env,
            )

    # Doing

    def ready(self, count: int = 1) -> None:
        """Wait until so many workers in all have been ready, and everybody living sleeps."""
        self.script.wait_log(r"server \(pid \d+\): initialized$", count)
        self.settle()

    def settle(self) -> None:
        """Wait until everybody sleeps, or is gone: Perl loses a signal that comes on the way to `accept` (P2)."""
        for pid in [*self.workers, self.script.pid]:
            wait_until(lambda pid=pid: process_state(pid) in ("S", "Z", None))  # type: ignore[misc]

    def ask(self, command: str) -> str:
        """Send a request; its reply, empty when the connection ended without one."""
        client, reply = self._send(command)
        client.close()
        self.settle()
        return reply

    def hold(self, command: str) -> Held:
        """Send a request whose worker waits for more, after a first reply."""
        held = self._send(command)
        self.clients.append(held.client)
        return held

    def finish(self, held: Held) -> str:
        """Let the worker go on; the rest of its reply."""
        held.client.sendall(b"go\n")
        return _receive(held.client)

    def visit(self, path: str) -> str:
        """A FastCGI request; the body of its reply."""
        with fcgi.Client(self.address) as client:
            return client.request(path).text

    def signal(self, number: int, pid: int | None = None) -> None:
        """Returns when it has been acted on, and whoever was told to leave by that has been told: a line of the log may be there earlier."""
        self.settle()
        self.script.signal(number, pid)
        self.settle()

    def end(self, number: int = SIGTERM) -> None:
        """Stop the manager and wait for it."""
        self.signal(number)
        self.wait()

    def wait(self) -> None:
        self.note("return code", self.script.wait())

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.script.close()

    def _send(self, command: str) -> Held:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(60)
        try:
            client.connect(self.address)
            client.sendall(f"{command}\n".encode())
            return Held(client, _receive(client))
        except BaseException:
            client.close()
            raise

    def patience(self, ours_leave: bool = True) -> float:
        """How long to wait for what ends, or starts, by itself on one side only."""
        return LEAVES if self.is_ours is ours_leave else STAYS

    # Noting

    def note(self, *words: object) -> None:
        self.facts.append(" ".join(map(str, words)))

    def note_pid_file(self, when: str) -> None:
        try:
            content = (self.folder / "app.pid").read_text()
        except FileNotFoundError:
            content = "none"
        known = {f"{self.script.pid}\n": "the manager's number", f"{os.getpid()}\n": "another's"}
        self.note("PID file", when + ":", known.get(content, content))

    def note_titles(self) -> None:
        self.note("titles:", cmdline(self.script.pid), *sorted(cmdline(pid) for pid in self.workers))

    def note_workers(self, expected: int) -> None:
        """How many workers there are, when the expected number has not come in time."""
        with suppress(Overdue):
            self.script.wait_workers(expected, self.patience())
            # Its manager knows of those that have ended: what it does next differs until then.
            wait_until(lambda: self.workers == children(self.script.pid, zombies=True), LEAVES)
        self.note("workers", len(self.workers))

    def note_orphans(self) -> None:
        """Whether the workers leave by themselves, now that their manager is gone; if not, a request ends them."""
        try:
            self.script.tree_gone(self.patience())
            self.note("workers without a manager leave")
        except Overdue:
            self.note("workers without a manager stay")
            for _ in self.script.tree():
                self._send("pid").client.close()
            self.script.tree_gone()

    @property
    def workers(self) -> list[int]:
        return self.script.workers()

    def story(self) -> list[str]:
        """All that is compared: facts, the manager's log, each worker's log, and what is not of the managers."""
        logs: dict[str, list[str]] = {str(self.script.pid): []}
        other = []
        for line in self.script.log().splitlines():
            found = LOG_LINE.match(line)
            if found:
                logs.setdefault(found["pid"], []).append(f"{found['role']}: {self._hide(found['message'])}")
            elif line and not line.startswith((" ", "Traceback")):
                other.append(f"other: {self._hide(line)}")
        manager = _sort_runs(logs.pop(str(self.script.pid)))
        workers = sorted([*log, "-"] for log in logs.values())
        return [*(f"fact: {fact}" for fact in self.facts), *manager, "-", *itertools.chain(*workers), *other]

    def _hide(self, text: str) -> str:
        """What differs from run to run."""
        text = re.sub(r"(?<=\bpid )\d+|(?<=\bprocess )\d+", "*", text.replace(str(self.folder), "DIR"))
        text = re.sub(r"\bat /\S+ line \d+", "at FILE line N", text)
        text = re.sub(r"(?<=requests: )\d+(?= KB)", "*", text)
        return re.sub(r"(?<=PIDs, )[\d ]+", lambda found: " ".join("*" * len(found[0].split())), text)


def started(pid: int) -> float:
    """When a process was started, in seconds, to a hundredth, from the kernel."""
    fields = re.sub(r".*\) ", "", Path(f"/proc/{pid}/stat").read_text()).split()
    return int(fields[19]) / 100


Stage = Callable[..., Play]


@contextmanager
def staged(folder: Path, address: str) -> Iterator[Stage]:
    """Gives `stage(script, *arguments)`, which starts a play, and clears all of them away."""
    plays: list[Play] = []

    def stage(script: str, *arguments: str) -> Play:
        number = str(len(plays))
        interpreter = sys.executable if script.endswith(".py") else "perl"
        command = [interpreter, str(Path(__file__).parent / script)]
        plays.append(Play(command, arguments, folder / number, f"{address}.{number}"))
        return plays[-1]

    try:
        yield stage
    finally:
        for play in plays:
            play.close()
            Path(play.address).unlink(missing_ok=True)


def _receive(client: socket.socket) -> str:
    """A line, or what there is of it when the connection ends."""
    reply = b""
    try:
        while not reply.endswith(b"\n"):
            piece = client.recv(100)
            if not piece:
                break
            reply += piece
    except ConnectionError:
        pass
    return reply.decode().strip()


def _sort_runs(lines: list[str]) -> list[str]:
    """Sort what stands together about starts and ends of workers."""
    runs = itertools.groupby(lines, key=lambda line: line.startswith("manager: server (pid"))
    return [line for together, run in runs for line in (sorted(run) if together else run)]
