"""A standby: booted ahead, counted by nobody, told to serve when the place of a worker is to be filled."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import time
from pathlib import Path
from typing import Any, Callable

import pytest

from fcgi_procmanager import ConfigError
from fcgi_procmanager.manager.programmanager import ProgramManager
from harness.interpreter import cpython_only
from harness.process import (
    Script,
    alive,
    cmdline,
    open_fds,
    process_state,
    wait_asleep,
    wait_dead,
    wait_until,
)

Run = Callable[..., Script]

pytestmark = cpython_only("no process titles, which tell a standby from a worker here")

FACTOR = int(os.environ.get("SWEEP", "1"))
LONG = 60  # seconds; whatever is waited for takes milliseconds, and any process may be preempted

# Each worker says its pid when it comes out of `manage()`. What it does while it boots is in the file BOOT: nothing, `refuse`, `die`, or it
# waits for the file to change. `only` and pids: the others wait.
POOL = """
import os, signal, sys, time
from fcgi_procmanager import *
from harness.inside import idle, say

class Manager(ProcManager):
    def server_init(self):
        super().server_init()
        self.code = open("boot").read()
        while self.held(open("boot").read().split()):
            time.sleep(0.005)
        if self.code == "refuse":
            raise BootError("no such module")
        if self.code == "die":
            os._exit(7)

    def held(self, words):
        return words[:1] == ["wait"] or (words[:1] == ["only"] and str(os.getpid()) not in words)

manager = Manager(int(sys.argv[1]), process_name="worker", **eval(sys.argv[2]))
if len(sys.argv) > 3:
    listener = manager.listen(sys.argv[3])
if manager.manage():
    say(os.getpid(), manager.code)
    if len(sys.argv) < 4:
        idle(manager)
    while (accepted := manager.accept(listener)) is not None:
        manager.pre_dispatch()
        with accepted[0] as connection:
            connection.sendall(str(os.getpid()).encode())
        manager.post_dispatch()
    manager.exit(manager.leave_reason)
"""


class Pool:
    def __init__(self, run: Run, place: Path) -> None:
        self._run, self._place = run, place
        self.write("")

    def write(self, word: str) -> None:
        """What workers do while they boot. At once: one may look at any moment."""
        aside = self._place / "boot.new"
        aside.write_text(word)
        os.rename(aside, self._place / "boot")

    def start(self, workers: int, *args: object, **settings: Any) -> Script:
        self.script = self._run(POOL, args=[workers, {"standby": 1, **settings}, *args], cwd=self._place)
        self.serving = [self.next() for _ in range(workers)]
        return self.script

    def next(self) -> int:
        """The next worker that serves."""
        return int(self.script.line(LONG).split()[0])

    def parked(self, count: int = 1) -> list[int]:
        """Those who wait for the word, once there are so many."""
        return wait_until(lambda: found if len(found := self._parked()) == count else [], LONG, self._story)

    def _parked(self) -> list[int]:
        return [
            pid for pid in self.script.workers() if cmdline(pid) == "worker (standby)" and process_state(pid) == "S"
        ]

    def _story(self) -> str:
        return f"standbys, not {list(map(cmdline, self.script.workers()))}\n{self.script.log()}"

    def known(self) -> int:
        """The standby, once its manager knows that it waits: it has nothing more to read."""
        (pid,) = self.parked()
        wait_until(lambda: process_state(self.script.pid) == "S", LONG)
        return pid

    def kill(self, pid: int) -> None:
        self.script.signal(signal.SIGKILL, pid)


@pytest.fixture
def pool(run_script: Run, tmp_path: Path) -> Pool:
    return Pool(run_script, tmp_path)


# -- what it is ---------------------------------------------------------------------------------------------------------


def test_it_takes_the_place_of_a_worker_that_is_killed(pool: Pool) -> None:
    script = pool.start(2)
    standby = pool.known()
    pool.kill(pool.serving[0])
    assert pool.next() == standby
    assert cmdline(standby) == "worker"
    (following,) = pool.parked()
    assert script.workers() == sorted([pool.serving[1], standby, following])
    script.wait_log(rf"standby \(pid {standby}\) serves from now on$")
    assert script.stop() == 0


def test_without_one_there_is_none(pool: Pool) -> None:
    script = pool.start(2, standby=0)
    pool.kill(pool.serving[0])
    pool.next()
    script.wait_workers(2)
    assert script.stop() == 0
    assert "stand" not in script.log()


def test_there_may_be_several(pool: Pool) -> None:
    script = pool.start(3, standby=2)
    first = {*pool.parked(2)}
    wait_asleep(script.pid, LONG)
    for pid in pool.serving[:2]:
        pool.kill(pid)
    assert {pool.next(), pool.next()} == first
    pool.parked(2)
    assert script.stop() == 0


def test_it_is_not_among_the_pids_of_the_servers(run_script: Run) -> None:
    script = run_script(
        """
from fcgi_procmanager import *
from harness.inside import idle, say

class Manager(ProcManager):
    def notify(self, message):
        super().notify(message)
        if message.startswith("standby") and message.endswith("started"):
            say(*sorted(self.server_pids))

manager = Manager(2, standby=1, process_name="worker")
if manager.manage():
    idle(manager)
"""
    )
    servers = [int(pid) for pid in script.line(LONG).split()]
    assert len(servers) == 2
    (standby,) = {*script.workers()} - {*servers}
    wait_until(lambda: cmdline(standby) == "worker (standby)", LONG)
    assert script.stop() == 0


def test_it_does_not_look_at_the_listeners(pool: Pool, sock_path: str) -> None:
    """Nor does it take a wake-up from those who do: it is asleep while requests come and go."""
    script = pool.start(1, sock_path)
    standby = pool.known()
    before = _switches(standby)
    for _ in range(50):
        assert _answer(sock_path) == pool.serving[0]
    assert _switches(standby) == before
    assert script.stop() == 0


def test_it_is_forked_when_the_workers_are_ready(pool: Pool) -> None:
    """Else the pool would be ready later."""
    pool.write("wait")
    script = pool._run(POOL, args=[2, {"standby": 1}], cwd=pool._place)
    script.wait_workers(2)
    wait_asleep(script.pid, LONG)
    assert len(script.workers()) == 2
    pool.write("")
    script.lines(2, LONG)
    script.wait_log(r"standby \(pid \d+\) started$")
    assert script.stop() == 0


def test_it_has_no_descriptor_that_says_the_word_to_another(pool: Pool) -> None:
    """A worker with such a copy would keep a standby from noticing the end of its manager."""
    pool.start(2, standby=2)
    pool.parked(2)
    manager = _sockets(pool.script.pid)
    for pid in pool.script.workers():
        assert not manager & _sockets(pid)
    assert pool.script.stop() == 0


@pytest.mark.parametrize("kind", ["no_signals", "start_delay"])
def test_with_parameters_that_change_how_the_manager_waits(pool: Pool, kind: str) -> None:
    settings = {"no_signals": {"no_signals": True}, "start_delay": {"start_delay": 0.05}}[kind]
    script = pool.start(2, **settings)
    standby = pool.known()
    pool.kill(pool.serving[0])
    assert pool.next() == standby
    pool.parked()
    if kind == "no_signals":
        script.kill()
    else:
        assert script.stop() == 0


def test_a_pool_that_grows_takes_it(pool: Pool) -> None:
    script = pool.start(1)
    standby = pool.known()
    script.signal(signal.SIGTTIN)
    assert pool.next() == standby
    pool.parked()
    script.signal(signal.SIGTTOU)
    wait_dead(pool.serving[0], LONG)  # the oldest
    assert alive(standby)
    assert script.stop() == 0


def test_a_number_that_is_lowered_lets_it_go(run_script: Run, tmp_path: Path) -> None:
    """USR2 is the signal at which this manager sets it to 0."""
    script = run_script(
        """
import os
from fcgi_procmanager import *
from harness.inside import idle, say

class Manager(ProcManager):
    def manager_sig_handler(self, name):
        if name == "USR2":
            self.standby = 0
        else:
            super().manager_sig_handler(name)

manager = Manager(1, standby=2, process_name="worker")
if manager.manage():
    say(os.getpid())
    idle(manager)
"""
    )
    server = int(script.line(LONG))
    wait_until(lambda: [cmdline(pid) for pid in script.workers()].count("worker (standby)") == 2, LONG)
    script.signal(signal.SIGUSR2)
    wait_until(lambda: script.workers() == [server], LONG)
    assert script.stop() == 0


# -- parameters ---------------------------------------------------------------------------------------------------------


def test_programs_have_none() -> None:
    with pytest.raises(ConfigError, match=r"^standby is for workers that are forked"):
        ProgramManager(2, standby=1).manage()


def test_a_single_process_has_none(run_script: Run) -> None:
    script = run_script("from fcgi_procmanager import *\nprint(ProcManager(0, standby=1).manage())")
    assert script.line() == "False"
    assert script.wait() == 0


# -- one that ends ------------------------------------------------------------------------------------------------------


def test_one_that_is_killed_is_replaced(pool: Pool) -> None:
    script = pool.start(2)
    standby = pool.known()
    pool.kill(standby)
    (other,) = wait_until(lambda: (found := pool._parked()) and found != [standby] and found, LONG)
    script.wait_log(rf"standby \(pid {standby}\) exited with status 137 \(SIGKILL\)$")
    assert {*pool.serving, other} == {*script.workers()}
    assert script.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_one_that_is_told_to_leave_does_so_without_a_word(pool: Pool, number: int) -> None:
    script = pool.start(1)
    standby = pool.known()
    script.signal(number, standby)
    script.wait_log(rf"standby \(pid {standby}\) exited with status 0$", timeout=LONG)
    pool.parked()
    assert "safe exit" not in script.log()
    assert script.stop() == 0


@pytest.mark.parametrize("word", ["die", "refuse"])
def test_those_that_cannot_start_are_tried_later_each_time(pool: Pool, word: str) -> None:
    """The pool serves on, and its places are filled by workers as ever."""
    script = pool.start(2)
    standby = pool.known()
    pool.write(word)
    pool.kill(standby)
    script.wait_log(r"3 standbys in a row failed; the next one starts in 0\.2 s$", timeout=LONG)
    assert {*pool.serving} <= {*script.workers()}
    assert script.log().count("no such module") == (word == "refuse")
    pool.write("")
    pool.parked()
    assert script.stop() == 0


def test_one_that_hangs_while_it_boots_is_not_waited_for(pool: Pool) -> None:
    script = pool.start(1)
    standby = pool.known()
    pool.write("wait")
    pool.kill(standby)
    script.wait_log(r"standby \(pid \d+\) started$", 2, LONG)
    pool.kill(pool.serving[0])
    script.wait_log(r"server \(pid \d+\) started$", 2, LONG)
    pool.write("")
    assert pool.next() not in (standby, pool.serving[0])
    pool.parked()
    assert script.stop() == 0


def test_one_that_is_not_ready_in_time_is_killed(pool: Pool) -> None:
    script = pool.start(1, boot_timeout=0.3)
    standby = pool.known()
    pool.write("wait")
    pool.kill(standby)
    script.wait_log(r"standby \(pid \d+\) was not ready in 0\.3 s \(boot_timeout\): killing it$", 3, LONG)
    script.wait_log(r"3 standbys in a row failed; the next one starts in \d\.\d s$", timeout=LONG)
    pool.write("")
    pool.parked()
    assert pool.serving[0] in script.workers()
    assert script.stop() == 0


# -- the end of the pool ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGQUIT, 1)])
def test_a_stop_ends_it(pool: Pool, number: int, status: int) -> None:
    script = pool.start(2)
    standby = pool.known()
    assert script.stop(number) == status
    script.tree_gone()
    assert re.search(rf"standby \(pid {standby}\) exited with status (0|137 \(SIGKILL\))$", script.log(), re.MULTILINE)


def test_a_pool_that_drains_still_takes_it(pool: Pool) -> None:
    script = pool.start(1, drain_delay=LONG)
    standby = pool.known()
    script.signal(signal.SIGTERM)
    script.wait_log("received signal TERM")
    pool.kill(pool.serving[0])
    assert pool.next() == standby
    script.signal(signal.SIGQUIT)
    assert script.wait(LONG) == 1
    script.tree_gone()


def test_a_stop_waits_until_it_is_gone(run_script: Run, tmp_path: Path) -> None:
    """What the application does at an exit is done in it as well, and no stop kills it meanwhile."""
    script = run_script(
        """
import atexit, os, time
from fcgi_procmanager import *
from harness.inside import idle, say

def at_exit():
    while os.getpid() not in serving and not os.path.exists("go"):
        time.sleep(0.005)
    say("at exit", os.getpid())

serving = []

class Manager(ProcManager):
    def server_init(self):
        atexit.register(at_exit)

manager = Manager(1, standby=1, process_name="worker")
if manager.manage():
    serving.append(os.getpid())
    say(os.getpid())
    idle(manager)
""",
        cwd=tmp_path,
    )
    server = int(script.line(LONG))
    (standby,) = wait_until(lambda: [pid for pid in script.workers() if "standby" in cmdline(pid)], LONG)
    script.signal(signal.SIGTERM)
    script.wait_log(rf"sending TERM to PIDs, {server} {standby}$", timeout=LONG)
    assert script.line(LONG) == f"at exit {server}"
    script.wait_log(rf"server \(pid {server}\) exited with status 0$", timeout=LONG)
    wait_asleep(script.pid, LONG)
    (tmp_path / "go").touch()
    assert script.line(LONG) == f"at exit {standby}"
    assert script.wait(LONG) == 0


def test_it_leaves_when_its_manager_is_killed(pool: Pool) -> None:
    script = pool.start(2, standby=2)
    pool.parked(2)
    script.signal(signal.SIGKILL)
    script.wait(LONG)
    script.tree_gone(LONG)


# -- reloads ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["plain", "rolling"])
def test_a_reload_renews_it(pool: Pool, mode: str) -> None:
    """None that has booted the old code ever serves after it."""
    script = pool.start(2, reload=mode)
    old = pool.known()
    pool.write("new")
    script.signal(signal.SIGHUP)
    for _ in range(2):
        pid, code = script.line(LONG).split()
        assert (int(pid) != old, code) == (True, "new")
    wait_dead(old, LONG)
    (new,) = wait_until(lambda: (found := pool._parked()) and old not in found and found, LONG)
    for server in pool.serving:  # it may be there before the last of them has left
        wait_dead(server, LONG)
    wait_asleep(script.pid, LONG)
    pool.kill(next(pid for pid in script.workers() if pid != new))
    assert script.line(LONG).split() == [str(new), "new"]
    assert script.stop() == 0


def test_a_worker_that_dies_in_a_reload_is_not_replaced_by_old_code(pool: Pool) -> None:
    """The new ones hang while they start: an old one dies meanwhile, and one with old code stands by."""
    script = pool.start(2, reload="rolling", reload_slice=1)
    old = pool.known()
    pool.write("wait")
    script.signal(signal.SIGHUP)
    script.wait_log(r"server \(pid \d+\) started$", 3, LONG)
    pool.kill(pool.serving[0])
    script.wait_log(rf"server \(pid {pool.serving[0]}\) exited with status 137 \(SIGKILL\)$", timeout=LONG)
    wait_asleep(script.pid, LONG)
    assert pool._parked() == [old]
    pool.write("")
    assert old not in (pool.next(), pool.next())
    wait_dead(old, LONG)
    assert f"standby (pid {old}) serves" not in script.log()
    assert script.stop() == 0


def test_a_reload_that_fails_keeps_it(pool: Pool) -> None:
    """As it keeps the workers: their old code cannot be had back."""
    script = pool.start(2, reload="rolling")
    old = pool.known()
    pool.write("refuse")
    script.signal(signal.SIGHUP)
    script.wait_log("reload failed: no such module; 2 old servers go on", timeout=LONG)
    pool.write("")
    pool.kill(pool.serving[0])
    assert pool.next() == old
    assert script.stop() == 0


def test_a_plain_reload_does_not_wait_for_the_start_of_the_last(pool: Pool) -> None:
    """One old worker is long in leaving. The new standby is there before that, and takes its place."""
    script = pool.start(2, reload="plain")
    old = pool.known()
    slow = pool.serving[1]
    script.signal(signal.SIGSTOP, slow)
    script.signal(signal.SIGHUP)
    pool.next()
    (new,) = wait_until(lambda: (found := pool._parked()) and old not in found and found, LONG, pool._story)
    wait_asleep(script.pid, LONG)
    script.signal(signal.SIGCONT, slow)
    assert pool.next() == new
    pool.parked()
    assert script.stop() == 0


class Rolling:
    """A rolling reload of three workers, held at the moment in which one is new, another one boots, and a new standby is there."""

    def __init__(self, pool: Pool) -> None:
        self.script = pool.start(3, reload="rolling", reload_slice=1)
        self.old = pool.known()
        pool.write("only")
        self.script.signal(signal.SIGHUP)
        first = self._started("server", 4)
        pool.write(f"only {first}")
        assert pool.next() == first
        self.second, self.standby = self._started("server", 5), self._started("standby", 2)
        pool.write(f"only {first} {self.standby}")
        wait_dead(self.old, LONG)
        assert pool.known() == self.standby

    def _started(self, kind: str, number: int) -> int:
        pattern = rf"{kind} \(pid (\d+)\) started$"
        self.script.wait_log(pattern, number, LONG)
        return int(re.findall(pattern, self.script.log(), re.MULTILINE)[number - 1])


def test_a_rolling_reload_is_shorter_by_one_start(pool: Pool) -> None:
    """As soon as one has shown that the new code starts, a standby boots beside the next, and takes the place after that."""
    reload = Rolling(pool)
    pool.write("new")
    assert {pool.next(), pool.next()} == {reload.second, reload.standby}
    pool.parked()
    reload.script.wait_workers(4, LONG)
    assert not {*pool.serving, reload.old} & {*reload.script.workers()}
    assert reload.script.stop() == 0


def test_one_that_dies_in_its_place_does_not_fail_the_reload(pool: Pool) -> None:
    """It was booted: its death says nothing of the new code."""
    reload = Rolling(pool)
    reload.script.signal(signal.SIGSTOP, reload.standby)
    wait_until(lambda: process_state(reload.standby) == "T", LONG)
    pool.write("new")
    reload.script.wait_log(rf"standby \(pid {reload.standby}\) serves from now on$", timeout=LONG)
    pool.kill(reload.standby)
    assert pool.next() == reload.second
    pool.next()
    pool.parked()
    reload.script.wait_workers(4, LONG)
    assert "reload failed" not in reload.script.log()
    assert reload.script.stop() == 0


# -- moments ------------------------------------------------------------------------------------------------------------


def spin(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def moment(rng: random.Random) -> float:
    """From the kill of a worker to the word and the first wait of the standby go some 2 ms."""
    return rng.random() * rng.choice([0.0003, 0.001, 0.003, 0.01])


@pytest.mark.parametrize("name", ["KILL", "TERM", "HUP"])
def test_one_that_ends_in_the_moment_in_which_it_is_told_to_serve(pool: Pool, sock_path: str, name: str) -> None:
    """Whoever is faster: no place stays empty, and the next one is not waited for."""
    script, rng = pool.start(2, sock_path), random.Random(name)
    for _ in range(25 * FACTOR):
        standby = pool.known()
        server = next(pid for pid in script.workers() if pid != standby)
        pool.kill(server)
        spin(moment(rng))
        if alive(standby):
            script.signal(getattr(signal, f"SIG{name}"), standby)
        wait_dead(standby, LONG)
        wait_until(lambda gone=standby: (found := pool._parked()) and found != [gone] and found, LONG, pool._story)
        script.wait_workers(3, LONG)
        assert _answer(sock_path)
    assert script.stop() == 0
    assert "servers in a row failed" not in script.log()
    script.tree_gone()


def test_one_that_dies_before_it_has_heard_the_word(pool: Pool) -> None:
    """It cannot run when it is told to serve. It was booted, so its death is not the failure of a start: nobody waits."""
    script = pool.start(1)
    for number in range(1, 6):
        standby = pool.known()
        (server,) = {*script.workers()} - {standby}
        script.signal(signal.SIGSTOP, standby)
        wait_until(lambda pid=standby: process_state(pid) == "T", LONG)
        pool.kill(server)
        script.wait_log(r"standby \(pid \d+\) serves from now on$", number, LONG)
        pool.kill(standby)
        script.wait_log(rf"server \(pid {standby}\) exited with status 137 \(SIGKILL\)$", timeout=LONG)
        pool.next()
    assert script.stop() == 0
    assert "in a row failed" not in script.log()


@pytest.mark.parametrize("mode", ["plain", "rolling"])
def test_a_reload_in_the_moment_in_which_it_is_told_to_serve(pool: Pool, sock_path: str, mode: str) -> None:
    """It takes the place first, and is replaced as a worker; or the reload is first, and it goes as a standby. At the end all have
    the new code."""
    script, rng = pool.start(2, sock_path, reload=mode), random.Random(mode)
    for _ in range(15 * FACTOR):
        standby = pool.known()
        old = set(script.workers())
        pool.kill(next(pid for pid in old if pid != standby))
        spin(moment(rng))
        script.signal(signal.SIGHUP)
        wait_until(lambda old=old: not old & set(script.workers()) and pool._parked(), LONG, pool._story)
        script.wait_workers(3, LONG)
        assert _answer(sock_path) not in old
    assert script.stop() == 0
    assert set(re.findall(r"exited with status (.*)$", script.log(), re.MULTILINE)) <= {"0", "137 (SIGKILL)"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_end_of_the_manager_in_the_moment_in_which_it_tells_it_to_serve(
    run_script: Run, tmp_path: Path, number: int
) -> None:
    rng = random.Random(number)
    for _ in range(6 * FACTOR):
        pool = Pool(run_script, tmp_path)
        script = pool.start(2)
        pool.known()
        pool.kill(pool.serving[0])
        spin(moment(rng))
        script.signal(number)
        assert script.wait(LONG) == (0 if number == signal.SIGTERM else -signal.SIGKILL)
        script.tree_gone(LONG)


def test_a_script_that_gives_sigpipe_its_default_back(pool: Pool) -> None:
    """To speak to a standby that is dead, and not reaped, must not end the manager."""
    script = pool._run(
        "import signal\nsignal.signal(signal.SIGPIPE, signal.SIG_DFL)\n" + POOL,
        args=[1, {"standby": 1}],
        cwd=pool._place,
    )
    pool.script, pool.serving = script, [int(script.line(LONG).split()[0])]
    for _ in range(5):
        standby = pool.known()
        server = next(pid for pid in script.workers() if pid != standby)
        script.signal(signal.SIGSTOP)  # the manager finds both dead
        for pid in (standby, server):
            pool.kill(pid)
            wait_dead(pid, LONG)
        script.signal(signal.SIGCONT)
        pool.next()
    assert script.stop() == 0


def _answer(path: str) -> int:
    """The worker that answers."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(LONG)
        sock.connect(path)
        return int(b"".join(iter(lambda: sock.recv(64), b"")) or b"0")


def _switches(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return sum(map(int, re.findall(r"ctxt_switches:\s+(\d+)", status)))


def _sockets(pid: int) -> set[str]:
    return {target for target in open_fds(pid).values() if target.startswith("socket:")}
