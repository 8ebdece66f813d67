"""USR2: a canary tries the new code, then the manager executes itself, keeps its PID and adopts its workers."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Callable

import pytest

from harness import fcgi
from harness.interpreter import cpython_only
from harness.process import Script, children, cmdline, open_fds, session, titled, wait_dead, wait_until

Run = Callable[..., Script]

LONG = 60  # seconds: a renewal starts Python twice, and those in a row as often as they are

# The application is imported by the manager, as scripts have it.
SCRIPT = """
import os, sys
from fcgi_procmanager import ProcManager, WSGIServer
from code import release, application, Manager, workers, options

manager = Manager(workers, pidfile="pid", **options)
manager.listen(sys.argv[1])
WSGIServer(application, manager=manager).run()
"""

CODE = """
import os, time
from fcgi_procmanager import BootError, ProcManager
release, workers, options = "{release}", 2, {{}}

def application(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        print(f"in request {{os.getpid()}}", flush=True)
        time.sleep(0.6)
    start_response("200 OK", [])
    return [f"{{release}} {{os.getpid()}} {{os.getppid()}}".encode()]

class Manager(ProcManager):
    pass
"""


class Pool:
    def __init__(self, place: Path, run: Run, sock_path: str) -> None:
        self.place = place
        self.socket = sock_path
        self.python = [sys.executable]
        self._run = run
        place.mkdir()
        (place / "serve.py").write_text(SCRIPT)

    def install(self, release: str, more: str = "") -> None:
        aside = self.place / "code.new"
        aside.write_text(CODE.format(release=release) + more)
        os.rename(aside, self.place / "code.py")

    def start(self, more: str = "") -> Script:
        self.install("r0", more)
        env = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self.script = self._run([*self.python, "serve.py", self.socket], cwd=self.place, env=env)
        self.script.wait_ready(2)
        return self.script

    def ask(self, path: str = "/") -> tuple[str, int]:
        """The release that answers, and the worker."""
        release, pid, manager = fcgi.fetch(self.socket, path, timeout=20).text.split()
        assert int(manager) == self.script.pid
        return release, int(pid)

    def renew(self) -> None:
        self.script.signal(signal.SIGUSR2)

    def workers(self) -> list[int]:
        """A canary has a session of its own."""
        return [pid for pid in children(self.script.pid) if session(pid) not in (pid, None)]

    def settled(self, old: set[int]) -> bool:
        now = self.workers()
        return len(now) == 2 and not old & {*now}


@pytest.fixture
def pool(tmp_path: Path, run_script: Run, sock_path: str) -> Pool:
    return Pool(tmp_path / "place", run_script, sock_path)


def test_the_process_stays_and_the_code_is_new(pool: Pool) -> None:
    script = pool.start()
    old = {*pool.workers()}
    assert pool.ask()[0] == "r0"
    pool.install("r1")
    pool.renew()
    wait_until(lambda: pool.settled(old), LONG)
    assert pool.ask()[0] == "r1"
    assert (pool.place / "pid").read_text() == f"{script.pid}\n"
    log = script.log()
    assert "canary (pid" in log
    assert "adopted 2 servers" in log
    assert script.stop() == 0
    assert sorted(path.name for path in pool.place.iterdir()) == ["code.py", "serve.py"]
    assert not os.path.exists(pool.socket)


def test_a_request_in_progress_is_answered_by_its_worker(pool: Pool) -> None:
    script = pool.start()
    old = {*pool.workers()}
    replies: list[tuple[str, int]] = []
    slow = threading.Thread(target=lambda: replies.append(pool.ask("/slow")))
    slow.start()
    busy = int(script.line().split()[-1])
    pool.install("r1")
    pool.renew()
    slow.join(LONG)
    assert replies == [("r0", busy)]
    wait_until(lambda: pool.settled(old), LONG)
    assert script.stop() == 0


def test_nothing_is_added_from_image_to_image(pool: Pool) -> None:
    """No descriptor, no process, no file."""
    script = pool.start()

    def renew() -> None:
        old = {*pool.workers()}
        pool.renew()
        wait_until(lambda: pool.settled(old), LONG)

    renew()
    before = open_fds(script.pid)
    for number in range(1, 6):
        pool.install(f"r{number}")
        renew()
        assert pool.ask()[0] == f"r{number}"
    assert len(open_fds(script.pid)) == len(before)
    assert len(children(script.pid)) == 2
    assert script.stop() == 0


BROKEN = {
    "syntax": ("this is no Python", "exited with status 1"),
    "import": ("import no_such_module", "exited with status 1"),
    "missing name": ("del application", "exited with status 1"),
    "exits": ("raise SystemExit(7)", "exited with status 7"),
    "killed": ("os.kill(os.getpid(), 9)", "SIGKILL"),
    "hangs": ("time.sleep(100)", "was not ready in 10 s"),
    "no workers": ("workers = 0", "asks for no worker"),
    "manager_init": ("Manager.manager_init = lambda self: 1 / 0", "exited with status 1"),
    "server_init": ("Manager.server_init = lambda self: 1 / 0", "exited with status 1"),
    "BootError": ("def boot(self): raise BootError('no database')\nManager.server_init = boot", "no database"),
    "never manages": ("Manager.manage = lambda self: os._exit(0)", "exited with status 0 before it was ready"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_code_that_cannot_start_changes_nothing(pool: Pool, what: str) -> None:
    code, reason = BROKEN[what]
    script = pool.start(f"options = {{'boot_timeout': {10 if what == 'hangs' else 60}}}")
    old = pool.workers()
    pool.install("r1", code)
    pool.renew()
    script.wait_log("reload failed: .*" + reason, timeout=LONG)
    assert {pool.ask()[0] for _ in range(4)} == {"r0"}
    assert pool.workers() == old
    assert titled(script.pid, "reload 1 failed")
    wait_until(lambda: children(script.pid) == old)
    pool.install("r2")
    pool.renew()
    wait_until(lambda: pool.settled({*old}), LONG)
    assert pool.ask()[0] == "r2"
    assert "failed" not in cmdline(script.pid)
    assert script.stop() == 0


def test_an_interpreter_that_is_gone_at_the_exec_changes_nothing(pool: Pool) -> None:
    """The canary proves the code, and takes the interpreter away."""
    link = pool.place / "python"
    os.symlink(os.path.realpath("/proc/self/exe"), link)
    pool.python = ["./python"]
    script = pool.start()
    old = pool.workers()
    pool.install("r1", "Manager.server_init = lambda self: os.unlink('python')")
    pool.renew()
    script.wait_log("reload failed: ./python cannot be run: No such file")
    assert pool.workers() == old
    assert pool.ask()[0] == "r0"
    assert script.stop() == 0


def test_new_code_that_fails_only_in_the_manager_keeps_the_old_workers(pool: Pool) -> None:
    """What a canary cannot find: `manager_init` works there, and fails after the exec."""
    script = pool.start()
    old = pool.workers()
    pool.install(
        "r1",
        """
def init(self):
    if os.path.exists("tried"):
        raise RuntimeError("only here")
    open("tried", "w").close()
Manager.manager_init = init
""",
    )
    pool.renew()
    script.wait_log("reload failed: RuntimeError: only here", timeout=LONG)
    assert pool.workers() == old
    assert pool.ask()[0] == "r0"
    script.signal(signal.SIGKILL, old[0])
    wait_until(lambda: len(pool.workers()) == 2 and old[0] not in pool.workers())
    assert script.stop() == 0
    os.unlink(pool.place / "tried")


def test_several_at_once_are_merged(pool: Pool) -> None:
    # So that the first canary is still there when the last one is asked for.
    held = "while os.path.exists('hold'): time.sleep(0.005)"
    script = pool.start(held)
    old = {*pool.workers()}
    (pool.place / "hold").touch()
    pool.renew()
    script.wait_log("canary .* started")
    pool.install("r1", held)
    for _ in range(20):
        pool.renew()
        time.sleep(0.002)  # a signal that waits already is not counted twice by the system
    (pool.place / "hold").unlink()
    wait_until(lambda: pool.settled(old) and pool.ask()[0] == "r1", LONG)
    script.wait_log("adopted")
    assert len(script.wait_log("canary .* started")) <= 3
    assert script.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_a_stop_while_a_canary_tries(pool: Pool, number: int) -> None:
    script = pool.start()
    pool.install("r1", "time.sleep(60)")
    pool.renew()
    match = script.wait_log(r"canary \(pid (\d+)\) started")[0]
    assert script.stop(number) == (0 if number == signal.SIGTERM else 1)
    wait_dead(int(match[1]))
    script.tree_gone()


@pytest.mark.leaves_socket
def test_a_canary_does_not_outlive_a_manager_that_is_killed(pool: Pool) -> None:
    script = pool.start()
    pool.install("r1", "time.sleep(60)")
    pool.renew()
    match = script.wait_log(r"canary \(pid (\d+)\) started")[0]
    script.kill()
    wait_dead(int(match[1]))
    script.tree_gone()
    os.unlink(pool.place / "pid")


def test_a_stop_that_is_put_off_ends_the_trial(pool: Pool) -> None:
    """The new code would know nothing of it."""
    script = pool.start("options = {'drain_delay': 8}")  # in which all of the following has to happen
    old = pool.workers()
    pool.install("r1", "time.sleep(60)")
    pool.renew()
    match = script.wait_log(r"canary \(pid (\d+)\) started")[0]
    script.signal(signal.SIGTERM)
    script.wait_log("reload failed: the pool is about to end")
    wait_dead(int(match[1]))
    assert pool.ask()[0] == "r0"
    assert pool.workers() == old
    assert script.wait(30) == 0
    assert "executing" not in script.log()


def test_a_pid_file_that_cannot_be_is_one_line(pool: Pool) -> None:
    """Found when the old workers have no other manager any more."""
    script = pool.start()
    old = pool.workers()
    source = (pool.place / "serve.py").read_text()
    (pool.place / "serve.py").write_text(source.replace('"pid"', '"nowhere/pid"'))
    pool.renew()
    why = "nowhere/pid cannot be used as a PID file: No such file or directory"
    script.wait_log(f"reload failed: .*{why}", timeout=LONG)
    assert "Traceback" not in script.log()
    assert pool.workers() == old
    assert pool.ask()[0] == "r0"
    assert script.stop() == 0


def test_what_a_canary_has_started_ends_with_it(pool: Pool) -> None:
    script = pool.start()
    old = {*pool.workers()}
    pool.install(
        "r1",
        """
import subprocess
def init(self):
    if os.getsid(0) == os.getpid():
        print(subprocess.Popen(["sleep", "1000"]).pid, flush=True)
Manager.server_init = init
""",
    )
    pool.renew()
    helper = int(script.line())
    wait_until(lambda: pool.settled(old), LONG)
    wait_dead(helper)
    assert script.stop() == 0


def test_a_worker_that_dies_during_the_exec_is_replaced(pool: Pool) -> None:
    script = pool.start()
    old = pool.workers()
    # The canary is the first to read this, and the next image waits until the worker is dead.
    pool.install(
        "r1",
        "while os.path.exists('tried') and not os.path.exists('dead'): time.sleep(0.005)\nopen('tried', 'w').close()",
    )
    pool.renew()
    script.wait_log("executing the new code")
    script.signal(signal.SIGKILL, old[0])
    (pool.place / "dead").touch()
    wait_until(lambda: pool.settled({*old}), LONG)
    script.wait_log(rf"server \(pid {old[0]}\) exited with status 137 \(SIGKILL\)")
    assert script.stop() == 0


def test_an_address_that_the_new_code_does_not_want_is_left(pool: Pool, sock_path: str) -> None:
    script = pool.start()
    old = {*pool.workers()}
    other = sock_path + "2"
    source = (pool.place / "serve.py").read_text()
    (pool.place / "serve.py").write_text(source.replace("sys.argv[1]", repr(other)))
    pool.renew()
    wait_until(lambda: pool.settled(old), LONG)
    assert not os.path.exists(sock_path)
    pool.socket = other
    assert pool.ask()[0] == "r0"
    assert script.stop() == 0
    assert not os.path.exists(other)


def test_a_program_of_the_application_is_not_taken_for_the_next_image(pool: Pool) -> None:
    """What it inherits is not for it."""
    script = pool.start()
    old = {*pool.workers()}
    look = "print(sorted(name for name in os.environ if 'HANDOVER' in name))"
    pool.install("r1", f"import sys, subprocess; subprocess.run([sys.executable, '-c', {('import os; ' + look)!r}])")
    source = (pool.place / "serve.py").read_text()
    (pool.place / "serve.py").write_text(source.replace("from code", "ProcManager()\nfrom code"))
    pool.renew()
    wait_until(lambda: pool.settled(old), LONG)
    assert script.lines(2) == ["[]", "[]"]
    assert script.stop() == 0


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["TERM", "HUP"])
def test_a_signal_at_any_moment_of_it_is_not_lost(pool: Pool, run_script: Run, name: str) -> None:
    """From the USR2 to the end of it: 0 to 0.6 s. TERM stops all in order, HUP leaves a whole pool."""
    for step in range(30):
        script = pool.start()
        pool.renew()
        end = time.monotonic() + step * 0.02
        while time.monotonic() < end:
            pass
        script.signal(getattr(signal, f"SIG{name}"))
        if name == "HUP":
            wait_until(lambda: pool.ask()[0] == "r0" and len(pool.workers()) >= 2, LONG)
            script.signal(signal.SIGTERM)
        assert script.wait(LONG) == 0
        script.tree_gone()
        assert not (pool.place / "pid").exists()
        assert not os.path.exists(pool.socket)


@cpython_only("no title says that a reload has failed")
@pytest.mark.leaves_socket
@pytest.mark.timeout(900)
def test_it_is_whole_afterwards_or_gone_in_order(pool: Pool) -> None:
    """Under load, with KILL to a random process of it at a random moment in half of the rounds. FCGI_PROCMANAGER_ROUNDS: how many."""
    rng, failures = random.Random(5), 0
    script = pool.start()
    for number in range(int(os.environ.get("FCGI_PROCMANAGER_ROUNDS", "20"))):
        pool.install(f"r{number}")
        with Asking(pool.socket) as asking:
            pool.renew()
            wait_until(lambda: "failed" not in cmdline(pool.script.pid), LONG)
            victim = 0
            if rng.random() < 0.5:
                time.sleep(rng.random() * 0.5)
                victim = rng.choice([script.pid, *children(script.pid)])
                try:
                    script.signal(signal.SIGKILL, victim)
                except ProcessLookupError:
                    victim = 0  # it was an old one, or the canary, and has just left
            if victim == script.pid:
                script.tree_gone()
            else:
                wait_until(partial(whole, pool, f"r{number}"), LONG, lambda script=script: script.log()[-3000:])
        if victim == script.pid:
            for left in (pool.place / "pid", Path(pool.socket)):
                left.unlink(missing_ok=True)
            script, failures = pool.start(), 0
        elif "failed" in cmdline(script.pid):
            assert victim, "nobody had killed the canary"
            # The victim may have been the second of the new ones, before it was ready: then the first one serves.
            failures += 1
            old = int(script.wait_log(r"reload failed: .*; (\d) old servers go on$", failures)[-1][1])
            assert old == 1 or pool.ask()[0] != f"r{number}"
        else:
            assert pool.ask()[0] == f"r{number}"
        if not victim:
            assert asking.failures == []
    assert script.stop() == 0


class Asking:
    """Requests without a pause."""

    def __init__(self, address: str) -> None:
        self.failures: list[str] = []
        self._address = address
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Asking:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.001):
            try:
                assert fcgi.fetch(self._address, timeout=20).ended
            except (AssertionError, EOFError, OSError) as error:
                self.failures.append(repr(error))


def whole(pool: Pool, release: str) -> bool:
    """Two workers and nobody else, each of them of the new code; or the reload has failed."""
    failed, before = "failed" in cmdline(pool.script.pid), children(pool.script.pid)
    new = failed or {pool.ask() for _ in range(20)} == {(release, pid) for pid in before}
    return new and len(before) == 2 and children(pool.script.pid) == before
