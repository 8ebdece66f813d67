"""Signals at swept and at random moments: nobody is stuck, nothing is lost, nothing is left behind.

A lost TERM would be hidden by the one that a manager sends a second later, so the pools here never repeat it. Moments are
swept, not guessed: the tests pass whatever the outcome of each race is, as long as it is one of the right ones. SWEEP=20 in
the environment makes every sweep twenty times as long.
"""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Callable

import pytest

from harness.process import Script, alive, wait_until

Run = Callable[..., Script]

FACTOR = int(os.environ.get("SWEEP", "1"))
STUCK = 20.0  # seconds; nothing is sent again, so who has lost its TERM never leaves, and a loaded machine has time
REPLY = 3000

HEAD = """
import os, random, signal, sys, threading, time
from fcgi_procmanager.children import ladder
from fcgi_procmanager import *
from harness.inside import say

ladder.RESEND = 1e6

def serve(manager, accepted):
    manager.pre_dispatch()
    with accepted[0] as connection:
        connection.recv(10)
        connection.sendall(str(os.getpid()).encode().ljust(3000))
    manager.post_dispatch()

def loop(manager, listener):
    while (accepted := manager.accept(listener)) is not None:
        serve(manager, accepted)
    manager.exit(manager.leave_reason)

def spin(seconds):
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass
"""

POOL = (
    HEAD
    + """
manager = ProcManager(int(sys.argv[2]))
listener = manager.listen(sys.argv[1])
manager.manage()
loop(manager, listener)
"""
)


def spin(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def connect(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(20)
    try:
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    return sock


def reply(sock: socket.socket) -> bytes:
    with sock:
        sock.sendall(b"x")
        return b"".join(iter(lambda: sock.recv(65536), b""))


def moment(rng: random.Random) -> float:
    """Mostly the first 300 us, in which a worker goes from its reply through the hooks to its wait."""
    return rng.random() * rng.choice([0.0001, 0.0003, 0.0003, 0.002])


NEVER_GOES = (
    HEAD
    + """
class Manager(ProcManager):
    def exit(self, message, status=0):
        if self.role == "manager":
            super().exit(message, status)
        raise SystemExit
def left():
    manager._worker.leaving.told = False
    say("left")
manager = Manager(1)
listener = manager.listen(sys.argv[1])
manager.manage()
say("ready")
while True:
    try:
        accepted = manager.accept(listener)
        if accepted is not None:
            serve(manager, accepted)
            continue
    except SystemExit:
        pass
    left()
"""
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("when", ["after the reply", "after the connect", "idle"])
def test_told_to_leave_at_any_moment(run_script: Run, sock_path: str, when: str, number: int) -> None:
    """A worker that would leave says so and goes on, so that one process stands thousands of signals."""
    script = run_script(NEVER_GOES, args=[sock_path])
    assert script.line() == "ready"
    worker, rng = script.workers()[0], random.Random(when)
    for _ in range(700 * FACTOR):
        if when == "after the connect":
            sock = connect(sock_path)
            spin(moment(rng))
            os.kill(worker, number)
            answer = reply(sock)
        elif when == "after the reply":
            answer = reply(connect(sock_path))
            spin(moment(rng))
            os.kill(worker, number)
        else:
            answer = b" " * REPLY
            spin(moment(rng))
            os.kill(worker, number)
        assert len(answer) == REPLY
        assert script.line(STUCK) == "left"
    # SIGKILL: this worker would not go otherwise.
    script.signal(signal.SIGKILL, worker)
    script.signal(signal.SIGQUIT)
    assert script.wait() == 1


CLIENTS = """
import socket, sys, threading
from harness.inside import say
count, wrong = 0, []
stop = threading.Event()
def run():
    global count
    while not stop.is_set() or count < 100:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(20)
            got = b""
            try:
                sock.connect(sys.argv[1])
                sock.sendall(b"x")
                while piece := sock.recv(65536):
                    got += piece
            except (ConnectionRefusedError, FileNotFoundError) as error:
                wrong.append(type(error).__name__)
                break
            except OSError as error:
                wrong.append(f"{type(error).__name__} after {len(got)}")
                continue
            if len(got) != 3000:
                wrong.append(f"end after {len(got)}")
            count += 1
threads = [threading.Thread(target=run) for _ in range(3)]
for thread in threads:
    thread.start()
say("running")
sys.stdin.buffer.read()
stop.set()
for thread in threads:
    thread.join()
say(count, *wrong)
"""


class Clients:
    """Three clients that connect in a fast loop; `end` lets them have 100 replies at least, and returns how many they
    had and what went wrong."""

    def __init__(self, run_script: Run, path: str) -> None:
        read_end, self.write_end = os.pipe()
        self.script = run_script(CLIENTS, args=[path], stdin=read_end)
        os.close(read_end)
        self.script.line()

    def end(self) -> tuple[int, list[str]]:
        os.close(self.write_end)
        count, *wrong = self.script.line().split(maxsplit=1)
        assert self.script.wait() == 0
        return int(count), wrong


def test_nothing_is_lost_while_workers_are_told_to_leave(run_script: Run, sock_path: str) -> None:
    """Under load, 200 workers are sent TERM or HUP at random moments: each is gone in time, each request answered."""
    script = run_script(POOL, args=[sock_path, 4])
    script.wait_ready(4)
    clients, rng, told = Clients(run_script, sock_path), random.Random(1), dict[int, float]()
    while len(told) < 200 * FACTOR:
        for worker in script.workers():
            if worker not in told:
                told[worker] = time.monotonic()
                script.signal(rng.choice([signal.SIGTERM, signal.SIGHUP]), worker)
                spin(rng.random() * 0.01)  # long enough that some of the others have begun to serve
        told_long_ago = [worker for worker, when in told.items() if time.monotonic() - when > STUCK]
        assert not any(map(alive, told_long_ago[-20:]))
    wait_until(lambda: not any(map(alive, told)), STUCK, "the last ones to leave")
    _, wrong = clients.end()
    assert not wrong
    statuses = Counter(match[1] for match in script.wait_log(r"exited with status (.*)$"))
    assert set(statuses) == {"0"}
    assert script.stop() == 0


def test_25_reloads_0_to_24_milliseconds_apart(run_script: Run, sock_path: str) -> None:
    script = run_script(POOL, args=[sock_path, 2])
    script.wait_ready(2)
    first, clients = set(script.workers()), Clients(run_script, sock_path)
    for milliseconds in range(25):
        script.signal(signal.SIGHUP)
        spin(milliseconds / 1000)
    wait_until(lambda: len(workers := script.workers()) == 2 and not first & set(workers))
    count, wrong = clients.end()
    assert (wrong, count > 0) == ([], True)
    assert {match[1] for match in script.wait_log(r"exited with status (.*)$")} == {"0"}
    script.wait_workers(2)
    assert script.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_under_load_cuts_no_reply(run_script: Run, sock_path: str, number: int) -> None:
    """What was accepted is answered in full. What was not gets no byte: it is turned away as a whole."""
    rng = random.Random(2)
    for _ in range(4 * FACTOR):
        script = run_script(POOL, args=[sock_path, 3])
        script.wait_ready(3)
        clients = Clients(run_script, sock_path)
        spin(rng.random() * 0.05)
        script.signal(number)
        assert script.wait(STUCK) == 0
        script.tree_gone()
        _, wrong = clients.end()
        left = " ".join(wrong)
        for harmless in ("ConnectionRefusedError", "FileNotFoundError", "ConnectionResetError after 0"):
            left = left.replace(harmless, "")
        assert not left.replace("BrokenPipeError after 0", "").strip()


# Just forked


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_worker_that_has_just_been_forked(run_script: Run, tmp_path: Path, name: str) -> None:
    """A signal between fork and the first look: PID file and siblings are left alone, the worker leaves with status 0."""
    script = run_script(
        HEAD
        + """
number = getattr(signal, sys.argv[2])
real = os.fork
def fork():
    pid = real()
    if pid and os.path.exists("sweep"):
        spin(random.random() * random.choice([0, 0.0002, 0.002, 0.01]))
        os.kill(pid, number)
        if number == signal.SIGINT:
            os.kill(pid, signal.SIGTERM)
    return pid
os.fork = fork
class Manager(ProcManager):
    def notify(self, message):
        super().notify(message)
        if self.role == "manager" and "exited" in message:
            pidfile = os.stat(sys.argv[1])
            say("left", message.rpartition("status ")[2], pidfile.st_ino, open(sys.argv[1]).read().strip())
manager = Manager(2, pidfile=sys.argv[1])
manager.manage()
while not manager.leaving:
    manager._gate.wait()
manager.exit(manager.leave_reason)
""",
        args=[tmp_path / "pid", name],
        cwd=tmp_path,
    )
    script.wait_ready(2)
    sibling, victim = script.workers()
    inode = os.stat(tmp_path / "pid").st_ino
    (tmp_path / "sweep").touch()
    script.signal(signal.SIGTERM, victim)
    for line in script.lines(60 * FACTOR + 1, timeout=60 * FACTOR):
        assert line == f"left 0 {inode} {script.pid}"
    (tmp_path / "sweep").unlink()
    assert alive(sibling)
    wait_until(lambda: len(script.workers()) == 2)
    script.signal(signal.SIGTERM)
    assert script.wait() == 0
    assert not (tmp_path / "pid").exists()


# The manager

# Forks a manager, waits for a swept moment counted from its call of manage(), and sends it a signal, or two.
DRIVER = (
    HEAD
    + """
import select
folder = sys.argv[1]
first, second = (getattr(signal, name, None) for name in sys.argv[2:4])
rounds, step = int(sys.argv[4]), float(sys.argv[5])

def manage():
    manager = ProcManager(2, pidfile=folder + "/pid")
    listener = manager.listen(folder + "/sock")
    os.write(go[1], b"go")
    manager.manage()
    os.write(up[1], b"up")
    loop(manager, listener)

def readable(fd, timeout):
    return bool(select.select([fd], [], [], timeout)[0])

def pids(parent):
    return open(f"/proc/{parent}/task/{parent}/children").read()

def one(moment):
    global go, up
    go, up, tree = os.pipe(), os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        os.close(tree[0])
        try:
            manage()
        except SystemExit as end:
            os._exit(end.code)
        except KeyboardInterrupt:
            os._exit(130)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(99)
        os._exit(98)
    for end in (tree, go, up):
        os.close(end[1])
    os.read(go[0], 2)
    spin(moment)
    os.kill(pid, first)
    if first == signal.SIGHUP:
        # It must live on and be complete again, unless its handlers were not in place yet.
        if readable(up[0], 20) and os.read(up[0], 2):
            spin(0.002)
            os.kill(pid, signal.SIGTERM)
    elif second:
        spin(random.random() * 0.01)
        try:
            os.kill(pid, second)
        except ProcessLookupError:
            pass
    deadline = time.monotonic() + 20  # nothing is sent again: who has lost a signal hangs for ever
    while not (ended := os.waitpid(pid, os.WNOHANG))[0] and time.monotonic() < deadline:
        time.sleep(0.0005)
    if not ended[0]:
        where = open(f"/proc/{pid}/wchan").read()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return report(moment, f"hangs in {where}", tree)
    report(moment, f"status {os.waitstatus_to_exitcode(ended[1])}", tree)

def report(moment, outcome, tree):
    orphans = not readable(tree[0], 20)
    left = ",".join(sorted(os.listdir(folder)))
    for name in os.listdir(folder):
        os.unlink(folder + "/" + name)
    for end in (go, up, tree):
        os.close(end[0])
    say(outcome, "orphans" if orphans else "-", left or "-", moment)

for number in range(rounds):
    one(number * step)
say("done")
"""
)


def sweep(run_script: Run, tmp_path: Path, first: str, second: str, rounds: int, step: float) -> Counter[str]:
    """Outcomes of so many rounds, each as `status 0 - -`: how the manager ended, orphans, files that were left."""
    (tmp_path / "f").mkdir()
    script = run_script(DRIVER, args=[tmp_path / "f", first, second, rounds, step])
    outcomes: Counter[str] = Counter()
    while (line := script.line(90)) != "done":
        outcomes[line.rpartition(" ")[0]] += 1
    assert sum(outcomes.values()) == rounds
    assert script.wait() == 0
    assert "Traceback" not in script.log(), script.log()
    return outcomes


GENTLE = "status 0 - -"
# Before manage() has installed anything the system's own action holds, and a bound socket's file is left, as after KILL:
# the next start takes it over.
TOO_EARLY = {
    "SIGTERM": {"status -15 - sock"},
    "SIGHUP": {"status -1 - sock"},
    "SIGINT": {"status 130 - -", "status 130 - sock"},
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_signal_to_the_manager_from_its_start_on(run_script: Run, tmp_path: Path, name: str) -> None:
    """Swept over the first 12 ms after the call of manage(), in which it forks its workers and they become ready; over more on a
    machine that has something else to do, until most of the signals come when the handlers are there."""
    rounds = 80 * FACTOR
    for stretch in (1, 2, 4, 8, 16):
        place = tmp_path / str(stretch)
        place.mkdir()
        outcomes = sweep(run_script, place, name, "-", rounds, stretch * 0.012 / rounds)
        assert set(outcomes) <= {GENTLE, *TOO_EARLY[name]}
        if outcomes[GENTLE] > rounds / 2:
            return
    pytest.fail(f"most signals came too early: {outcomes}")


@pytest.mark.parametrize("second", ["SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGTTIN"])
def test_a_signal_to_a_manager_that_is_stopping(run_script: Run, tmp_path: Path, second: str) -> None:
    """Nothing is left, whenever it comes. Who insists gets status 1; once the handlers are given back, the pool and its
    files are gone already, and the system's own action is all that is left to happen."""
    outcomes = sweep(run_script, tmp_path, "SIGTERM", second, 50 * FACTOR, 0.010 / 50 / FACTOR)
    allowed = {GENTLE, *TOO_EARLY["SIGTERM"]}
    if second in ("SIGTERM", "SIGINT", "SIGQUIT"):
        allowed |= {"status 1 - -", "status 130 - -"}
    if second == "SIGINT":
        allowed |= TOO_EARLY[second]
    else:
        allowed |= {f"status -{int(signal.Signals[second])} - {left}" for left in ("-", "sock")}
    assert set(outcomes) <= allowed


def test_a_manager_killed_at_any_moment_leaves_no_worker(run_script: Run, tmp_path: Path) -> None:
    outcomes = sweep(run_script, tmp_path, "SIGKILL", "-", 100 * FACTOR, 0.012 / 100 / FACTOR)
    assert {outcome.rpartition(" ")[0] for outcome in outcomes} == {"status -9 -"}


FROM_EXEC = (
    HEAD
    + """
manager = ProcManager(2, pidfile=sys.argv[1])
listener = manager.listen(sys.argv[2])
manager.manage()
loop(manager, listener)
"""
)


@pytest.mark.leaves_socket
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_to_the_manager_from_exec_on(run_script: Run, sock_path: str, tmp_path: Path, number: int) -> None:
    """0 to 400 ms after exec. It hangs at no moment, leaves no orphan and no PID file."""
    step = 20 if number == signal.SIGTERM else 50
    for milliseconds in range(0, 401, step):
        script = run_script(FROM_EXEC, args=[tmp_path / "pid", sock_path])
        spin(milliseconds / 1000)
        script.signal(number)
        if number == signal.SIGHUP:
            wait_until(lambda script=script: script.process.poll() is not None or answers(sock_path), 60)
            if script.process.poll() is None:
                script.signal(signal.SIGTERM)
        if number == signal.SIGINT:
            ended = partial(is_over, script)
            wait_until(ended, STUCK + 2, lambda script=script: f"an end: {script.log()}")
            if script.process.poll() is None:
                script.kill()
                for path in (tmp_path / "pid", Path(sock_path)):
                    path.unlink(missing_ok=True)
                continue
        code = script.wait(STUCK + 2)
        script.tree_gone(STUCK)
        assert not (tmp_path / "pid").exists()
        if "FastCGI: manager" in script.log():
            assert code == 0
            assert not os.path.exists(sock_path)
        else:
            assert code in (-number, 1)


def is_over(script: Script) -> bool:
    return script.process.poll() is not None or lost_at_the_start(script)


def lost_at_the_start(script: Script) -> bool:
    """Before our handler there is Python's, whose KeyboardInterrupt may be raised where the interpreter says so and goes on: in a
    weakref callback of the import system, or in its look whether the script is a package."""
    return re.search(r"^KeyboardInterrupt\b(.*\n)+.*: initialized$", script.log(), re.MULTILINE) is not None


def answers(path: str) -> bool:
    try:
        return len(reply(connect(path))) == REPLY
    except (FileNotFoundError, ConnectionRefusedError, ConnectionResetError, BrokenPipeError):
        return False
