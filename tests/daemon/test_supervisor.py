"""A supervised process: kept alive after a delay, asked, told, ended in order; and it notices the end of its supervisor."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Callable

import pytest

from daemon.programs import holder, only_child, serving, supervisor, words
from harness.process import Script, alive, children, patient, sigcatch, wait_dead, wait_until

Run = Callable[..., Script]
FOREGROUND = ("--no-fork", "--no-pid-file")


@pytest.fixture
def pid_file(tmp_path: Path) -> Path:
    return tmp_path / "feed.pid"


def run_supervisor(run: Run, changes: str = "", *options: object, before: str = "") -> Script:
    return run(supervisor(changes, before), args=options or FOREGROUND)


# -- the checks of the original -------------------------------------------------------------------------------------------


def test_the_original_check(run_script: Run, pid_file: Path, tmp_path: Path) -> None:
    """run returns 0; the PID file holds a living pid, the child writes another; TERM to the child: gone, its hook once; a new one."""
    log = tmp_path / "words"
    changes = f"""
    def supervised_process(self):
        os.write(os.open({str(log)!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND), b"process %d\\n" % os.getpid())
        while True:
            time.sleep(1)

    def supervised_shutdown(self):
        os.write(os.open({str(log)!r}, os.O_WRONLY | os.O_APPEND), b"shutdown %d\\n" % os.getpid())
    """
    script = run_supervisor(run_script, changes, "--pid-file", pid_file)
    assert script.wait() == 0
    supervisor_pid = holder(pid_file)
    wait_until(lambda: log.exists() and log.read_text().endswith("\n"), 60, "the first child")
    first = int(log.read_text().split()[1])
    assert first != supervisor_pid
    assert alive(supervisor_pid)
    asked = time.monotonic()
    os.kill(first, signal.SIGTERM)
    wait_dead(first)
    assert time.monotonic() - asked < patient(3)
    wait_until(lambda: log.read_text().count("process") == 2, 60, "a new child")
    assert time.monotonic() - asked < patient(3)
    assert log.read_text().count(f"shutdown {first}\n") == 1
    os.kill(supervisor_pid, signal.SIGTERM)
    script.tree_gone()
    assert not pid_file.exists()


# -- what becomes of the process ------------------------------------------------------------------------------------------


def test_a_process_that_was_killed_is_started_again_after_the_delay(run_script: Run) -> None:
    script = run_supervisor(run_script, "delay_before_respawn = 0.5")
    first = serving(script)
    killed = time.monotonic()
    os.kill(first, signal.SIGKILL)
    second = serving(script)
    assert second != first
    assert time.monotonic() - killed >= 0.5
    script.wait_log(rf"Supervised process {first} exited with status 137 \(SIGKILL\)$")
    assert script.stop() == 0


def test_a_process_that_returns_is_started_again_too(run_script: Run) -> None:
    script = run_supervisor(run_script, 'def supervised_process(self): say("process", os.getpid())')
    first, second = words(script, "process"), words(script, "process")
    assert first != second
    script.wait_log(f"Supervised process {first[0]} exited with status 0")
    assert script.stop() == 0


def test_one_that_keeps_failing_waits_longer_each_time(run_script: Run) -> None:
    changes = 'def supervised_process(self): say("process", time.monotonic()); os._exit(3)'
    # One that was held up for a second has ended soon all the same.
    before = "from fcgi_procmanager.daemon import delays; delays._YOUNG = 1000\n"
    script = run_supervisor(run_script, changes, before=before)
    times = [float(words(script, "process")[0]) for _ in range(5)]
    gaps = [later - earlier for earlier, later in zip(times, times[1:])]
    for gap, least in zip(gaps, (0.1, 0.2, 0.4, 0.8)):
        assert gap >= least
    script.wait_log("2 have ended soon, one after the other: the next one starts in 0.2 s")
    assert script.stop() == 0


def test_an_exception_is_an_error_with_the_hook_and_status_255(run_script: Run) -> None:
    script = run_supervisor(run_script, 'def supervised_process(self): raise ValueError("no feed")')
    words(script, "shutdown")
    script.wait_log("^ValueError: no feed$")
    script.wait_log("supervised process .*: Shutting down: ValueError: no feed$")
    script.wait_log("Supervised process .* exited with status 255")
    assert script.stop() == 0


def test_a_failing_hook_does_not_keep_the_process(run_script: Run) -> None:
    changes = """
    def supervised_shutdown(self):
        say("shutdown", os.getpid())
        raise ValueError("no end")
    """
    script = run_supervisor(run_script, changes)
    pid = serving(script)
    assert script.stop() == 0
    script.wait_log("^ValueError: no end$")
    script.wait_log(f"Supervised process {pid} exited with status 255")


def test_the_hook_decides_the_exit_status(run_script: Run) -> None:
    script = run_supervisor(run_script, "def supervised_shutdown(self): return 7")
    pid = serving(script)
    os.kill(pid, signal.SIGINT)
    script.wait_log(f"Supervised process {pid} exited with status 7")
    serving(script)
    assert script.stop() == 0


# -- what the process asks ------------------------------------------------------------------------------------------------


def test_ping_is_answered(run_script: Run) -> None:
    changes = """
    def supervised_process(self):
        for _ in range(1000):
            self.ping_supervisor()
        say("pinged", self.is_supervisor)
        time.sleep(1000)
    """
    script = run_supervisor(run_script, changes)
    assert words(script, "pinged") == ["False"]
    assert script.stop() == 0


def test_a_ping_without_a_supervisor_is_an_error(run_script: Run) -> None:
    """Also where nobody hears of the end of the supervisor otherwise."""
    changes = """
    def supervised_process(self):
        signal.signal(signal.SIGIO, signal.SIG_IGN)
        say("process", os.getpid())
        while os.getppid() == int(os.environ["SUPERVISOR"]):
            time.sleep(0.005)
        self.ping_supervisor()
        say("still here")
    """
    before = "import os; os.environ['SUPERVISOR'] = str(os.getpid())\n"
    script = run_supervisor(run_script, changes, before=before)
    (pid,) = words(script, "process")
    script.signal(signal.SIGKILL)
    assert words(script, "shutdown") == [pid]
    script.wait_log("Shutting down: Error reading from supervisor pipe: ")
    script.tree_gone()
    assert script.output() == ""


def test_the_end_of_the_supervisor_is_noticed_without_a_ping(run_script: Run) -> None:
    script = run_supervisor(run_script)
    pid = serving(script)
    script.signal(signal.SIGKILL)
    killed = time.monotonic()
    assert words(script, "shutdown") == [str(pid)]
    script.tree_gone()
    assert time.monotonic() - killed < patient(3)
    script.wait_log(rf"supervised process \(pid {pid}\): the supervisor is gone")


def test_a_supervisor_that_is_killed_at_any_moment_leaves_nobody(run_script: Run) -> None:
    """Before the process listens as well as afterwards."""
    scripts = [run_supervisor(run_script, "delay_before_respawn = 0") for _ in range(6)]
    for number, script in enumerate(scripts):
        pid = only_child(script.pid)
        if number % 2:
            serving(script)
        script.signal(signal.SIGKILL)
        wait_dead(pid)
        script.tree_gone()


def test_commands_by_hand(run_script: Run, tmp_path: Path) -> None:
    """The protocol is lines of text, for programs that speak it themselves; what is unknown is a notice."""
    changes = f"""
    def supervised_process(self):
        pipe = self.supervisor_pipe
        pipe.sendall(b"pi")
        pipe.sendall(b"ng\\nrubbish\\ntakeover\\n")
        answer = b""
        while answer.count(b"\\n") < 2:
            answer += pipe.recv(100)
        say("answers", *answer.decode().split())
        if not os.path.exists({str(tmp_path / "told")!r}):  # the second one is stopped by the test
            os.mkdir({str(tmp_path / "told")!r})
            pipe.sendall(b"shutdown\\n")
        time.sleep(1000)
    """
    script = run_supervisor(run_script, changes)
    assert words(script, "answers") == ["pong", "ok"]
    script.wait_log("Received unknown command from the supervised process: rubbish$")
    script.wait_log(r"Supervised process \d+ exited with status 137 \(SIGKILL\)")
    assert words(script, "answers") == ["pong", "ok"]  # it was started again
    assert script.stop() == 0


def test_who_says_much_and_hears_nothing_holds_nobody_up(run_script: Run) -> None:
    changes = """
    def supervised_process(self):
        say("process", os.getpid())
        while True:
            self.supervisor_pipe.sendall(b"ping\\n" * 1000 + b"x" * 9000)
    """
    script = run_supervisor(run_script, changes)
    words(script, "process")
    script.wait_log("Received unknown command")
    asked = time.monotonic()
    assert script.stop() == 0
    assert time.monotonic() - asked < patient(3)


def test_asking_in_the_supervisor_or_in_a_child_of_the_process(run_script: Run) -> None:
    changes = """
    def supervised_process(self):
        child = os.fork()
        if child == 0:
            try:
                self.ping_supervisor()
            except SystemExit as stop:
                say("child", stop.code)
            os._exit(0)
        os.waitpid(child, 0)
        self.ping_supervisor()
        say("pinged")
        time.sleep(1000)
    """
    script = run_supervisor(run_script, changes)
    words(script, "shutdown")
    assert words(script, "child") == ["255"]
    words(script, "pinged")
    script.wait_log("Supervisor pipe is not defined")
    assert script.stop() == 0


def test_the_death_of_a_process_is_seen_although_its_child_lives(run_script: Run) -> None:
    """The child has its parent's end of the line open."""
    changes = """
    def supervised_process(self):
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(1000)
        say("process", os.getpid(), child)
        os._exit(0)
    """
    script = run_supervisor(run_script, changes)
    first = words(script, "process")
    second = words(script, "process")
    assert first[0] != second[0]
    script.signal(signal.SIGTERM)
    script.wait()
    for pid in {int(first[1]), int(second[1]), *script.tree()}:
        os.kill(pid, signal.SIGKILL)
    script.tree_gone()


# -- signals --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_stop_waits_for_the_process(run_script: Run, pid_file: Path, number: int) -> None:
    changes = """
    def supervised_shutdown(self):
        say("shutdown", os.getpid())
        sys.stdin.readline()
        say("over", os.getpid())
    """
    mouth, hand = os.pipe()
    script = run_script(supervisor(changes), args=("--no-fork", "--pid-file", pid_file), stdin=mouth)
    os.close(mouth)
    pid = serving(script)
    script.signal(number)
    words(script, "shutdown")
    assert alive(script.pid)
    assert holder(pid_file) == script.pid  # while somebody works, nobody else may start
    os.write(hand, b"\n")
    os.close(hand)
    assert words(script, "over") == [str(pid)]
    assert script.wait() == 0
    script.tree_gone()
    assert not pid_file.exists()


# TERM comes again each second: Python may take the first one for one that came before `sleep`, and sleep on.
STUBBORN = """
die_timeout = 5

def supervised_process(self):
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, lambda *_: say("no"))
    say("process", os.getpid())
    while True:
        time.sleep(1000)
"""


def test_who_does_not_leave_is_killed_at_the_time_limit_with_status_1(run_script: Run) -> None:
    script = run_supervisor(run_script, STUBBORN)
    (pid,) = words(script, "process")
    script.signal(signal.SIGTERM)
    words(script, "no")
    assert script.wait() == 1
    script.wait_log(rf"Supervised process {pid} exited with status 137 \(SIGKILL\)")


def test_a_second_stop_is_at_once(run_script: Run) -> None:
    script = run_supervisor(run_script, STUBBORN + "\ndie_timeout = 1000")
    words(script, "process")
    script.signal(signal.SIGTERM)
    words(script, "no")
    script.signal(signal.SIGQUIT)
    assert script.wait() == 1
    script.wait_log("received signal QUIT while stopping: killing what is left")


def test_a_stop_during_the_delay_is_obeyed_at_once(run_script: Run) -> None:
    script = run_supervisor(run_script, "delay_before_respawn = 1000")
    pid = serving(script)
    os.kill(pid, signal.SIGKILL)
    script.wait_log(f"Supervised process {pid} exited")
    asked = time.monotonic()
    assert script.stop() == 0
    assert time.monotonic() - asked < patient(3)


def test_a_repeated_signal_does_not_disturb_the_hook(run_script: Run) -> None:
    """TERM is repeated each second while the process leaves."""
    changes = """
    def supervised_shutdown(self):
        say("shutdown", os.getpid())
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
        say("over", os.getpid())
    """
    script = run_supervisor(run_script, changes)
    pid = serving(script)
    script.signal(signal.SIGTERM)
    assert words(script, "shutdown") == words(script, "over") == [str(pid)]
    assert script.wait() == 0
    assert script.output() == ""


def test_code_that_catches_the_end_is_told_again(run_script: Run) -> None:
    changes = """
    def supervised_process(self):
        try:
            say("process", os.getpid())
            time.sleep(1000)
        except BaseException:
            say("caught")
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        time.sleep(1000)

    def supervised_shutdown(self):
        say("shutdown", os.getpid())
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # the second one could come before the word
    """
    script = run_supervisor(run_script, changes)
    words(script, "process")
    script.signal(signal.SIGTERM)
    words(script, "shutdown")
    words(script, "caught")
    assert script.wait() == 0


def test_signals_at_the_moment_of_the_fork_are_neither_lost_nor_taken_for_the_supervisors(run_script: Run) -> None:
    """The process may be told before it has begun; then it does not begin."""
    script = run_supervisor(run_script, "delay_before_respawn = 0")
    seen: set[int] = set()
    for _ in range(30):
        pid = wait_until(lambda: next(iter(set(children(script.pid)) - seen), 0), 60, "the next process")
        seen.add(pid)
        os.kill(pid, signal.SIGTERM)
        wait_dead(pid)
    assert alive(script.pid)
    assert script.stop() == 0
    assert not script.wait_log("SIGTERM", count=0), "one was killed by the signal, before it had a handler"


def test_a_child_of_the_process_has_the_handlers_that_were_found(run_script: Run) -> None:
    changes = """
    def supervised_process(self):
        child = os.fork()
        if child == 0:
            say("child", os.getpid())
            time.sleep(1000)
            os._exit(0)
        say("status", os.waitpid(child, 0)[1])
        time.sleep(1000)
    """
    script = run_supervisor(run_script, changes)
    child = int(words(script, "child")[0])
    assert signal.SIGTERM not in sigcatch(child)
    os.kill(child, signal.SIGTERM)
    assert words(script, "status") == [str(int(signal.SIGTERM))]
    assert script.stop() == 0


# -- locks ----------------------------------------------------------------------------------------------------------------


def test_the_process_does_not_hold_the_lock(run_script: Run, pid_file: Path) -> None:
    """A killed supervisor leaves a place that can be taken at once, although what it supervised is still there."""
    changes = """
    def supervised_process(self):
        signal.signal(signal.SIGIO, signal.SIG_IGN)
        say("process", os.getpid())
        time.sleep(1000)
    """
    script = run_supervisor(run_script, changes, "--no-fork", "--pid-file", pid_file)
    (pid,) = words(script, "process")
    script.signal(signal.SIGKILL)
    assert script.wait() == -signal.SIGKILL
    assert alive(int(pid))
    other = run_supervisor(run_script, "", "--no-fork", "--pid-file", pid_file)
    serving(other)
    assert holder(pid_file) == other.pid
    assert other.stop() == 0
    os.kill(int(pid), signal.SIGKILL)


def test_wrong_values_are_refused(run_script: Run) -> None:
    script = run_supervisor(run_script, "delay_before_respawn = -1")
    assert script.wait() == 2
    assert script.log() == "script.py: delay_before_respawn must be 0 or more seconds: -1\n"
