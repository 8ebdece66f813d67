"""USR2, or a second start: the new code beside the old, which leaves when the new one is ready, and goes on when it fails."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Callable

import pytest

from daemon.programs import holder, only_child, replace, serving, supervisor, words
from fcgi_procmanager.system.pidfile import claim
from harness.process import Script, alive, children, open_fds, parent, wait_asleep, wait_dead, wait_until

Run = Callable[..., Script]


# The old process does not end before somebody has opened the gate.
HELD = """
    def supervised_shutdown(self):
        say("shutdown", os.getpid())
        if self.generation == 1:
            open({gate!r}).read()
    """


@pytest.fixture
def pid_file(tmp_path: Path) -> Path:
    return tmp_path / "feed.pid"


@pytest.fixture
def start(run_script: Run, pid_file: Path) -> Callable[..., Script]:
    def start(changes: str = "", before: str = "", *options: object) -> Script:
        return run_script(supervisor(changes, before), args=options or ("--no-fork", "--pid-file", pid_file))

    return start


def reload(script: Script, pid: int | None = None) -> None:
    os.kill(pid or script.pid, signal.SIGUSR2)


def stop(script: Script, pid_file: Path, pid: int = 0) -> None:
    os.kill(pid or holder(pid_file), signal.SIGTERM)
    script.tree_gone()
    assert not pid_file.exists()


# -- it succeeds ----------------------------------------------------------------------------------------------------------


def test_the_new_code_takes_over(start: Callable[..., Script], pid_file: Path) -> None:
    script = start()
    old = serving(script)
    replace(script, supervisor(before="VERSION = 2\n").replace('say("ready"', 'say("version", VERSION); say("ready"'))
    reload(script)
    new, generation = words(script, "process")
    assert generation == "2"
    # In this order: the old one is gone before the new one is told that it has the place.
    assert words(script, "shutdown") == [str(old)]
    assert words(script, "version") == ["2"]
    assert words(script, "ready") == [new, "2"]
    assert not alive(old)
    assert script.wait() == 0
    successor = holder(pid_file)
    assert parent(int(new)) == successor
    assert claim(pid_file).proven
    stop(script, pid_file)


def test_one_after_the_other(start: Callable[..., Script], pid_file: Path) -> None:
    script = start()
    serving(script)
    for generation in range(2, 6):
        reload(script, holder(pid_file))
        words(script, "process")
        words(script, "shutdown")
        assert words(script, "ready")[1] == str(generation)
        assert claim(pid_file).proven
    stop(script, pid_file)


def test_the_old_process_gets_the_time_that_it_needs(
    start: Callable[..., Script], pid_file: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    changes = "    die_timeout = 100\n    hot_reload_timeout = 8" + HELD.format(gate=str(gate))
    script = start(changes)
    old = serving(script)
    asked = time.monotonic()
    reload(script)
    words(script, "process")
    words(script, "shutdown")
    # Longer than the new one would have had to become ready: it has become so.
    time.sleep(max(0, asked + 8.5 - time.monotonic()))
    assert alive(old)
    assert holder(pid_file) == script.pid
    gate.write_text("go")
    words(script, "ready")
    stop(script, pid_file)


def test_an_old_process_that_does_not_leave_is_killed(start: Callable[..., Script], pid_file: Path) -> None:
    changes = """
    die_timeout = 3
    def supervised_shutdown(self):
        say("shutdown", os.getpid())
        if self.generation == 1:
            time.sleep(1000)
    """
    script = start(changes)
    old = serving(script)
    reload(script)
    words(script, "process")
    words(script, "shutdown")
    words(script, "ready")
    script.wait_log(rf"Supervised process {old} exited with status 137 \(SIGKILL\)")
    stop(script, pid_file)


def test_without_a_pid_file(start: Callable[..., Script]) -> None:
    script = start("", "", "--no-fork", "--no-pid-file")
    old = serving(script)
    reload(script)
    new = int(words(script, "process")[0])
    assert words(script, "shutdown") == [str(old)]
    words(script, "ready")
    successor = parent(new)
    assert successor is not None
    script.wait()
    os.kill(successor, signal.SIGTERM)
    script.tree_gone()


def test_a_second_start_is_a_hot_reload(start: Callable[..., Script], pid_file: Path) -> None:
    script = start()
    serving(script)
    second = start()
    assert second.wait() == 0
    assert "Daemon is already running, initiated hot reload" in second.log()
    words(script, "process")
    words(script, "shutdown")
    words(script, "ready")
    stop(script, pid_file)


def test_a_process_that_is_started_again_has_the_place(start: Callable[..., Script], pid_file: Path) -> None:
    script = start()
    serving(script)
    reload(script)
    words(script, "process")
    words(script, "shutdown")
    new, _ = words(script, "ready")
    os.kill(int(new), signal.SIGKILL)
    assert words(script, "process")[1] == "2"
    words(script, "ready")
    stop(script, pid_file)


def test_a_new_process_that_dies_while_it_waits_for_the_place_is_started_again_and_gets_it(
    start: Callable[..., Script], pid_file: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    changes = HELD.format(gate=str(gate))
    script = start(changes)
    serving(script)
    reload(script)
    new, _ = words(script, "process")
    words(script, "shutdown")
    os.kill(int(new), signal.SIGKILL)
    words(script, "process")
    gate.write_text("go")
    words(script, "ready")
    stop(script, pid_file)


def test_nothing_gathers_from_generation_to_generation(start: Callable[..., Script], pid_file: Path) -> None:
    script = start()
    counts = []
    pid = serving(script)
    for _ in range(3):
        counts.append((len(open_fds(holder(pid_file))), len(open_fds(pid))))
        reload(script, holder(pid_file))
        words(script, "process")
        words(script, "shutdown")
        pid = int(words(script, "ready")[0])
    assert counts[0][1] == counts[1][1] == counts[2][1]
    assert counts[1] == counts[2]
    environment = Path(f"/proc/{pid}/environ")
    assert not environment.exists() or environment.read_bytes().count(b"FCGI_PROCMANAGER_RELOAD") <= 1
    stop(script, pid_file)


def test_a_listening_socket_of_the_starter_goes_from_generation_to_generation(run_script: Run, pid_file: Path) -> None:
    changes = """
    def supervised_process(self):
        say("sockets", os.environ.get("LISTEN_FDS"), os.environ.get("LISTEN_PID") == str(os.getppid()), os.fstat(FD).st_ino)
        self.ready_to_take_over()
        say("ready", os.getpid(), self.generation)
        time.sleep(1000)
    """
    read, write = os.pipe()
    before = f"import os; FD = {read}; os.environ.setdefault('LISTEN_FDS', '1'); os.environ.setdefault('LISTEN_PID', str(os.getpid()))\n"
    script = run_script(supervisor(changes, before), args=("--no-fork", "--pid-file", pid_file), pass_fds=(read,))
    os.close(read), os.close(write)
    first = words(script, "sockets")
    assert first[:2] == ["1", "True"]
    words(script, "ready")
    reload(script)
    assert words(script, "sockets") == first
    words(script, "shutdown")
    words(script, "ready")
    stop(script, pid_file)


# -- it fails: the old one goes on, and the next reload is not refused ------------------------------------------------------


def assert_goes_on(script: Script, pid_file: Path, old: int) -> None:
    """The old one serves, has the PID file, and can reload."""
    assert alive(old)
    assert holder(pid_file) == script.pid
    assert claim(pid_file).proven
    wait_until(lambda: children(script.pid) == [old], 60, "the end of what is left of the new generation")
    replace(script, supervisor())
    reload(script)
    words(script, "process")
    assert words(script, "shutdown") == [str(old)]
    words(script, "ready")
    stop(script, pid_file)


@pytest.mark.parametrize(
    ("source", "status"),
    [
        ("import no_such_module\n", "1"),
        ("def broken(:\n", "1"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)\n", r"137 \(SIGKILL\)"),
        ("raise SystemExit(0)\n", "0"),
    ],
)
def test_a_new_generation_that_dies_at_import_is_noticed_at_once(
    start: Callable[..., Script], pid_file: Path, source: str, status: str
) -> None:
    script = start("hot_reload_timeout = 1000")
    old = serving(script)
    replace(script, source)
    reload(script)
    script.wait_log(
        rf"the new generation \(pid \d+\) exited with status {status} before it had taken over: the old gener"
    )
    assert_goes_on(script, pid_file, old)


def test_a_new_generation_that_cannot_be_executed(start: Callable[..., Script], pid_file: Path, tmp_path: Path) -> None:
    """Neither the old supervisor nor its process becomes something else."""
    before = "import sys; sys.executable = '/no/such/python'\n"
    script = start(before=before)
    old = serving(script)
    reload(script)
    script.wait_log("Couldn't exec: /no/such/python: No such file or directory")
    assert alive(old)
    reload(script)
    script.wait_log("Couldn't exec: ", count=2)
    stop(script, pid_file)


def test_one_that_never_says_that_it_is_ready_is_given_up_after_the_time_limit(
    start: Callable[..., Script], pid_file: Path
) -> None:
    script = start("hot_reload_timeout = 8")
    old = serving(script)
    silent = 'def supervised_process(self): say("silent", os.getpid()); time.sleep(1000)'
    replace(script, supervisor(silent))
    asked = time.monotonic()
    reload(script)
    pid = int(words(script, "silent")[0])
    reload(script)
    script.wait_log("Received USR2, but hot reload is already in progress")
    script.wait_log("Hot reloading timed out, cancelling: the old generation goes on")
    assert time.monotonic() - asked >= 8
    assert words(script, "shutdown") == [str(pid)]
    assert_goes_on(script, pid_file, old)


def test_one_that_hangs_at_import_is_given_up_after_the_time_limit(
    start: Callable[..., Script], pid_file: Path
) -> None:
    script = start("hot_reload_timeout = 8")
    old = serving(script)
    replace(script, "import time; time.sleep(1000)\n")
    reload(script)
    script.wait_log("Hot reloading timed out, cancelling: the old generation goes on")
    assert_goes_on(script, pid_file, old)


def test_one_whose_process_keeps_dying_is_given_up_after_the_time_limit(
    start: Callable[..., Script], pid_file: Path
) -> None:
    script = start("hot_reload_timeout = 8")
    old = serving(script)
    replace(
        script, supervisor('def supervised_process(self): raise ValueError("new")\ndef supervised_shutdown(self): pass')
    )
    reload(script)
    script.wait_log("Hot reloading timed out, cancelling: the old generation goes on")
    assert_goes_on(script, pid_file, old)


def test_a_new_supervisor_that_is_killed_before_it_is_ready(start: Callable[..., Script], pid_file: Path) -> None:
    script = start("hot_reload_timeout = 1000")
    old = serving(script)
    replace(script, supervisor('def supervised_process(self): say("silent", os.getpid()); time.sleep(1000)'))
    reload(script)
    pid = int(words(script, "silent")[0])
    wait_asleep(pid)  # a signal that comes just before Python sleeps would be acted on after it
    successor = parent(pid)
    assert successor is not None
    os.kill(successor, signal.SIGKILL)
    words(script, "shutdown")
    wait_dead(pid)
    script.wait_log(r"the new generation .* exited with status 137 \(SIGKILL\) before it had taken over")
    assert_goes_on(script, pid_file, old)


def test_a_new_supervisor_that_is_killed_half_way(start: Callable[..., Script], pid_file: Path, tmp_path: Path) -> None:
    """The old process is gone already: the old supervisor starts one again."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    changes = HELD.format(gate=str(gate))
    script = start(changes)
    serving(script)
    reload(script)
    new = int(words(script, "process")[0])
    words(script, "shutdown")
    successor = parent(new)
    assert successor is not None
    os.kill(successor, signal.SIGKILL)
    script.wait_log(r"exited with status 137 \(SIGKILL\) before it had taken over: the old generation goes on")
    gate.write_text("go")
    lines = sorted(script.lines(3))
    assert [line.split()[0] for line in lines] == ["process", "ready", "shutdown"]
    again = only_child(script.pid)
    assert holder(pid_file) == script.pid
    replace(script, supervisor())
    reload(script)
    words(script, "process")
    wait_until(lambda: not alive(again) or _write(gate), 60)
    script.wait_log("took over from the previous generation")
    stop(script, pid_file)


def _write(gate: Path) -> bool:
    try:
        descriptor = os.open(gate, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return False
    os.write(descriptor, b"go")
    os.close(descriptor)
    return True


HALF_WAY = """
from fcgi_procmanager.daemon import takeover
succeed = takeover.PidFile.succeed

def late(self):
    {early}
    succeed(self)
    {late}

takeover.Refused = RuntimeError
takeover.PidFile.succeed = late
"""


@pytest.mark.parametrize("where", ["early", "late"])
@pytest.mark.parametrize(
    "deed", ["os.kill(os.getpid(), signal.SIGKILL)", "time.sleep(1000)", "raise takeover.Refused('no')"]
)
def test_a_new_supervisor_that_fails_with_the_pid_file_in_its_hands(
    start: Callable[..., Script], pid_file: Path, where: str, deed: str
) -> None:
    """Whether it has put its number there or not, the old one has the file again, and starts its process again."""
    script = start("hot_reload_timeout = 8")
    serving(script)
    before = "import os, signal, time\n" + HALF_WAY.format(**{"early": "pass", "late": "pass", where: deed})
    # The process that has lost its supervisor says nothing: that could come after all that the old generation says.
    replace(script, supervisor("def supervised_shutdown(self): pass", before))
    reload(script)
    words(script, "process")
    words(script, "shutdown")
    script.wait_log("the old generation goes on")
    old = wait_until(lambda: _ready_in(script), 60)
    assert_goes_on(script, pid_file, old)


def _ready_in(script: Script) -> int:
    """Of the lines until the old generation serves again."""
    while True:
        word, pid, *rest = script.line().split()
        if word == "ready" and rest == ["1"]:
            return int(pid)


# -- the old one fails ----------------------------------------------------------------------------------------------------


def test_an_old_supervisor_that_is_killed_meanwhile_leaves_its_place_to_the_new_one(
    start: Callable[..., Script], pid_file: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    script = start()
    serving(script)
    changes = f"""
    def supervised_process(self):
        say("process", os.getpid())
        open({str(gate)!r}).read()
        self.ready_to_take_over()
        say("ready", os.getpid(), self.generation)
        time.sleep(1000)
    """
    replace(script, supervisor(changes))
    reload(script)
    new = int(words(script, "process")[0])
    script.signal(signal.SIGKILL)
    words(script, "shutdown")
    script.wait_log("the previous generation is gone without a word: taking over")
    gate.write_text("go")
    assert words(script, "ready") == [str(new), "2"]
    assert holder(pid_file) == parent(new)
    stop(script, pid_file)


def test_an_old_supervisor_that_is_stopped_is_killed_after_a_while(
    start: Callable[..., Script], pid_file: Path
) -> None:
    script = start()
    old = serving(script)
    changes = f"""
    die_timeout = 0.1
    def supervised_process(self):
        os.kill({script.pid}, signal.SIGSTOP)
        self.ready_to_take_over()
        say("ready", os.getpid(), self.generation)
        time.sleep(1000)
    """
    replace(script, supervisor(changes, "from fcgi_procmanager.daemon import takeover; takeover._PATIENCE = 2\n"))
    reload(script)
    script.wait_log("Couldn't lock the file. Sending KILL to previous generation process")
    lines = sorted(line.split()[0] for line in script.lines(2))
    assert lines == ["ready", "shutdown"]
    wait_dead(old)
    assert script.wait() == -signal.SIGKILL
    stop(script, pid_file)


def test_a_stop_in_the_middle_stops_both(start: Callable[..., Script], pid_file: Path) -> None:
    script = start()
    serving(script)
    replace(script, supervisor('def supervised_process(self): say("silent", os.getpid()); time.sleep(1000)'))
    reload(script)
    words(script, "silent")
    assert script.stop() == 0
    assert sorted(line.split()[0] for line in script.lines(2)) == ["shutdown", "shutdown"]
    assert not pid_file.exists()


@pytest.mark.timeout(300)
def test_a_stop_at_any_moment_of_a_reload_stops_the_service(start: Callable[..., Script], pid_file: Path) -> None:
    """Also in the moment in which the old one leaves: it passes on what it hears too late."""
    script = start()
    for moment in range(12):
        if moment:
            script = start()
        serving(script)
        reload(script)
        time.sleep(moment * 0.03)  # swept over the whole of it
        os.kill(script.pid if alive(script.pid) else holder(pid_file), signal.SIGTERM)
        script.wait()
        try:
            script.tree_gone(timeout=10)
        except AssertionError:
            if script.process.poll() != 0:
                raise
            os.kill(holder(pid_file), signal.SIGTERM)  # it was a zombie when it was told
            script.tree_gone()
        assert not pid_file.exists()


# -- who is no new generation ---------------------------------------------------------------------------------------------


def test_a_supervisor_that_is_started_from_inside_another_one_is_none(
    start: Callable[..., Script], pid_file: Path, tmp_path: Path
) -> None:
    """Neither by a process of the new generation, nor by its module before it has looked for itself."""
    inner = tmp_path / "inner.py"
    inner.write_text(supervisor('def supervised_process(self): say("inner", self.generation); time.sleep(1000)'))
    before = f"""
    import os, subprocess, sys
    INNER = None
    if os.environ.get("FCGI_PROCMANAGER_RELOAD"):
        INNER = subprocess.Popen([sys.executable, {str(inner)!r}, "--no-fork", "--no-pid-file"])
    """
    changes = f"""
    def supervised_process(self):
        self.ready_to_take_over()
        command = [sys.executable, {str(inner)!r}, "--no-fork", "--no-pid-file"]
        import subprocess
        if self.generation == 2:
            self.inner = subprocess.Popen(command)
        say("ready", self.generation)
        time.sleep(1000)

    def supervised_shutdown(self):
        if self.generation == 2:
            for inner in (self.inner, INNER):
                inner.terminate()
    """
    script = start(changes, before)
    assert words(script, "ready") == ["1"]
    reload(script)
    lines = sorted(script.lines(3))
    assert lines == ["inner 1", "inner 1", "ready 2"]
    stop(script, pid_file)


def test_who_cannot_reload_says_so_and_goes_on(start: Callable[..., Script], pid_file: Path) -> None:
    script = start("can_do_hot_reload = False")
    pid = serving(script)
    reload(script)
    script.wait_log("Received USR2, but this program cannot do a hot reload")
    assert alive(pid)
    second = start("can_do_hot_reload = False")
    assert second.wait() == 2
    assert f"Couldn't lock {pid_file}. Is another copy of this daemon already running?" in second.log()
    assert script.stop() == 0


def test_python_options_modules_and_folders_are_those_of_the_start(
    run_script: Run, pid_file: Path, tmp_path: Path
) -> None:
    """`python -X dev -m package`, started in a folder to which the daemon does not stick."""
    folder = tmp_path / "package"
    folder.mkdir()
    changes = """
    def supervised_process(self):
        say("started", sys.flags.dev_mode, sys.argv[1:], __package__, os.getcwd())
        self.ready_to_take_over()
        say("ready", os.getpid())
        time.sleep(1000)
    """
    (folder / "__init__.py").touch()
    (folder / "__main__.py").write_text(supervisor(changes))
    command = [sys.executable, "-X", "dev", "-m", "package", "--no-fork", "--pid-file", "feed.pid"]
    script = run_script(command, cwd=tmp_path)
    first = script.line()
    assert first.startswith("started True ['--no-fork', '--pid-file', 'feed.pid'] package ")
    words(script, "ready")
    reload(script)
    assert script.line() == first
    words(script, "shutdown")
    words(script, "ready")
    stop(script, tmp_path / "feed.pid")


def test_systemd_is_told_of_the_new_main_process(run_script: Run, pid_file: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        heard.settimeout(20)
        script = run_script(
            supervisor(), args=("--no-fork", "--pid-file", pid_file), env={"NOTIFY_SOCKET": str(tmp_path / "notify")}
        )
        serving(script)
        assert b"READY=1" in heard.recv(100).split(b"\n")
        reload(script)
        told = b""
        while not told.startswith(b"MAINPID="):
            told = heard.recv(100)
        assert int(told.partition(b"=")[2]) == holder(pid_file)
        stop(script, pid_file)
