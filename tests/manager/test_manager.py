"""The manager and its workers: hooks, attributes, log lines, and what a worker inherits and what not."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import pytest

from fcgi_procmanager import ConfigError, ProcManager
from harness.interpreter import cpython_only
from harness.process import (
    O_ACCMODE,
    Names,
    Script,
    alive,
    cmdline,
    context_switches,
    open_fds,
    patient,
    process_state,
    wait_asleep,
    wait_dead,
    wait_until,
)

Run = Callable[..., Script]

HEAD = """
import os, signal, sys, time
from harness.inside import idle, say
from fcgi_procmanager import *
"""


# One process


def test_with_0_processes_nothing_changes(run_script: Run, tmp_path: Path) -> None:
    script = run_script(
        HEAD
        + """
def look():
    wakeup = signal.set_wakeup_fd(-1)
    handlers = [(n, signal.getsignal(n)) for n in signal.Signals if n not in (signal.SIGKILL, signal.SIGSTOP)]
    files = sorted(os.listdir("."))
    return handlers, wakeup, signal.pthread_sigmask(signal.SIG_BLOCK, []), os.listdir("/proc/self/fd"), files
def show():
    with open("/proc/self/cmdline") as file:
        return file.read()
class Manager(ProcManager):
    manager_init = server_init = notify = change_process_name = lambda *_: say("a hook was called")
manager = Manager(0, pidfile="pid")
before, title = look(), show()
say(manager.manage(), manager.manage())
for _ in range(3):
    manager.pre_dispatch()
    manager.post_dispatch()
say(before == look(), title == show(), manager.server_pids, manager.leaving)
say(manager.role.value, manager.wait(), manager.received_signal())
""",
        cwd=tmp_path,
    )
    assert script.lines(3) == ["False False", "True True [] False", "manager None {}"]
    assert script.wait() == 0
    assert (script.output(), script.log()) == ("", "")


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        *[("n_processes", value) for value in (-1, 1.0, "4", None, True)],
        *[("die_timeout", value) for value in (-1, "60", None, True, float("inf"), float("nan"))],
        *[("start_delay", value) for value in (-0.1, "1", None, False, float("inf"))],
        *[("no_signals", value) for value in (0, 1, None, "yes")],
        *[("pidfile", value) for value in (3, True, b"x", ["x"])],
        *[("process_name", value) for value in (None, 1, b"x", "a\0b")],
        *[("manager_process_name", value) for value in (None, 1, b"x", "a\0b")],
    ],
)
def test_a_wrong_parameter_is_named(parameter: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^{parameter} must ") as caught:
        ProcManager(**{parameter: value})
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)


def test_an_unknown_parameter_is_refused() -> None:
    with pytest.raises(TypeError, match="n_proceses"):
        ProcManager(n_proceses=4)  # type: ignore[call-arg]


def test_every_parameter_is_an_attribute(tmp_path: Path) -> None:
    defaults = ProcManager()
    assert (defaults.n_processes, defaults.pidfile, defaults.die_timeout, defaults.start_delay) == (0, None, 60, 0)
    assert (defaults.no_signals, defaults.process_name) == (False, "python-fcgi")
    assert defaults.manager_process_name == "python-fcgi-pm"
    values: dict[str, Any] = {
        "pidfile": tmp_path,
        "die_timeout": 0.5,
        "start_delay": 1,
        "no_signals": True,
        "process_name": "w",
        "manager_process_name": "m",
    }
    manager = ProcManager(3, **values)
    assert {name: getattr(manager, name) for name in values} == values
    assert (manager.n_processes, manager.role.value, manager.manager_pid) == (3, "manager", os.getpid())
    assert manager.server_pids == []


def test_a_negative_number_set_later_is_refused() -> None:
    manager = ProcManager(1)
    manager.n_processes = -1
    with pytest.raises(ConfigError, match="n_processes"):
        manager.manage()


def test_in_a_thread_it_is_refused_and_undone(run_script: Run, tmp_path: Path) -> None:
    script = run_script(
        HEAD
        + """
import threading
manager = ProcManager(1, pidfile="pid")
def run():
    try:
        manager.manage()
    except ConfigError as error:
        say(error)
thread = threading.Thread(target=run)
thread.start()
thread.join()
say(os.listdir("."), manager.server_pids)
""",
        cwd=tmp_path,
    )
    assert "no_signals=True" in script.line()
    assert "'pid'" not in script.line()
    assert script.wait() == 0


# Hooks


def test_hooks_are_called_once_each_in_the_right_process_and_order(run_script: Run, tmp_path: Path) -> None:
    script = run_script(
        HEAD
        + """
class Manager(ProcManager):
    def hook(self, name):
        say(name, self.role.value, os.getpid(), self.manager_pid, os.path.exists(sys.argv[1]))
    def manager_init(self):
        super().manager_init()
        self.hook("manager_init")
    def server_init(self):
        super().server_init()
        self.hook("server_init")
    def pre_dispatch(self):
        super().pre_dispatch()
        self.hook("pre_dispatch")
    def post_dispatch(self):
        self.hook("post_dispatch")
        super().post_dispatch()
manager = Manager(2, pidfile=sys.argv[1])
say(manager.manage())
manager.pre_dispatch()
manager.post_dispatch()
idle(manager)
""",
        args=[tmp_path / "pid"],
    )
    lines = script.lines(9)
    pid = script.pid
    assert lines[0] == f"manager_init manager {pid} {pid} True"
    workers = script.workers()
    script.wait_log("initialized", count=3)
    for worker in workers:
        own = [line.split()[0] for line in lines if f" {worker} " in line]
        assert own == ["server_init", "pre_dispatch", "post_dispatch"]
        assert f"server_init server {worker} {pid} True" in lines
    assert lines.count("True") == 2
    script.signal(signal.SIGHUP)
    assert sorted(line.split()[0] for line in script.lines(8)) == sorted(
        ["server_init", "True", "pre_dispatch", "post_dispatch"] * 2
    )
    assert script.stop() == 0


def test_the_whole_log_of_a_pool(run_script: Run) -> None:
    script = run_script(HEAD + "manager = ProcManager(1)\nmanager.manage()\nidle(manager)\n")
    script.wait_log("server .*: initialized")
    script.signal(signal.SIGHUP)
    script.wait_log("server .*: initialized", count=2)
    assert script.stop() == 0
    names = Names()
    lines = names.apply(script.log().splitlines())
    manager = [line for line in lines if line.startswith("manager A")]
    assert manager == [
        "manager A: initialized",
        "manager A: server (pid B) started",
        "manager A: received signal HUP",
        "manager A: sending TERM to PIDs, B",
        "manager A: server (pid B) exited with status 0",
        "manager A: server (pid C) started",
        "manager A: received signal TERM",
        "manager A: sending TERM to PIDs, C",
        "manager A: server (pid C) exited with status 0",
        "manager A: dying: safe exit from signal TERM",
    ]
    workers = [line for line in lines if line.startswith("server")]
    assert workers == [
        "server B: initialized",
        "server B: safe exit after SIGTERM",
        "server C: initialized",
        "server C: safe exit after SIGTERM",
    ]


def test_notify_is_overridden(run_script: Run) -> None:
    script = run_script(
        HEAD
        + """
class Manager(ProcManager):
    def notify(self, message):
        say(self.role.value, message.split(" (pid")[0])
manager = Manager(1)
manager.manage()
idle(manager)
"""
    )
    assert script.line() == "manager initialized"
    assert sorted(script.lines(2)) == ["manager server", "server initialized"]
    script.signal(signal.SIGTERM)
    assert script.wait() == 0
    assert "manager dying: safe exit from signal TERM\n" in script.output()
    assert script.log() == ""


@pytest.mark.parametrize(
    ("setup", "stderr", "file"),
    [
        ("logging.getLogger('fcgi_procmanager').addHandler(logging.FileHandler('log'))\n", False, True),
        ("logger.setLevel('INFO'); logging.basicConfig(filename='log', level='INFO')\n", False, True),
        ("logger.setLevel('WARNING'); logging.basicConfig(filename='log', level='INFO')\n", False, False),
        ("logging.basicConfig(filename='log', level='INFO')\n", False, True),
        ("pass\n", True, False),
    ],
    ids=["handler", "level", "quiet", "root only", "nothing"],
)
def test_a_configured_logger_is_used(run_script: Run, tmp_path: Path, setup: str, stderr: bool, file: bool) -> None:
    """Configured is: it has a handler, or it is below one that has. Otherwise the lines go to standard error."""
    script = run_script(
        HEAD
        + "import logging\nlogger = logging.getLogger('fcgi_procmanager')\n"
        + setup
        + "manager = ProcManager(2)\nmanager.manage()\nsay('up')\nidle(manager)\n",
        cwd=tmp_path,
    )
    script.lines(2)
    assert script.stop() == 0
    log = (tmp_path / "log").read_text() if (tmp_path / "log").exists() else ""
    for text, wanted in ((script.log(), stderr), (log, file)):
        assert text.count("initialized") == 3 * wanted
        assert ("dying: safe exit" in text) == wanted


@pytest.mark.parametrize("how", ["closed", "closed at start", "none", "no reader"])
def test_a_broken_standard_error_is_no_reason_to_die(run_script: Run, how: str) -> None:
    break_it = {
        "closed": "sys.stderr.close()",
        "closed at start": "pass",
        "none": "sys.stderr = None",
        "no reader": "r, w = os.pipe(); os.dup2(w, 2); os.close(w); os.close(r)",
    }[how]
    source = HEAD + f"{break_it}\nmanager = ProcManager(1)\nmanager.manage()\nsay(os.getpid())\nidle(manager)\n"
    if how == "closed at start":
        run = 'import os, sys; os.close(2); os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])'
        script = run_script([sys.executable, "-c", run, source])
    else:
        script = run_script(source)
    first = int(script.line())
    script.signal(signal.SIGTERM, first)
    second = int(script.line())
    script.signal(signal.SIGHUP)
    assert int(script.line()) not in (first, second)
    assert script.stop() == 0


@cpython_only("no process titles")
def test_names_are_shown(run_script: Run) -> None:
    script = run_script(
        HEAD
        + """
manager = ProcManager(1, process_name="my worker", manager_process_name="my manager")
manager.manage()
say("up")
idle(manager)
"""
    )
    script.line()
    assert cmdline(script.pid) == "my manager"
    assert [cmdline(worker) for worker in script.workers()] == ["my worker"]
    assert script.stop() == 0


# What a worker inherits


def test_buffered_output_is_not_written_by_each_child(run_script: Run) -> None:
    script = run_script(
        HEAD
        + """
class Manager(ProcManager):
    def manager_init(self):
        super().manager_init()
        sys.stdout.write("twice?")
sys.stdout = open(1, "w", buffering=100000, closefd=False)
sys.stdout.write("once ")
manager = Manager(3)
manager.manage()
say("up")
idle(manager)
"""
    )
    first = script.lines(3)
    assert script.stop() == 0
    assert "".join(first) + script.output() == "once twice?upupup"


def test_random_numbers_differ_between_workers(run_script: Run) -> None:
    script = run_script(
        HEAD
        + """
import random, ssl, uuid
random.seed(1)
manager = ProcManager(4)
manager.manage()
say(random.random(), ssl.RAND_bytes(8).hex(), uuid.uuid4())
idle(manager)
"""
    )
    columns = list(zip(*(line.split() for line in script.lines(4))))
    assert [len(set(column)) for column in columns] == [4, 4, 4]
    assert script.stop() == 0


def test_a_worker_holds_no_descriptor_of_the_manager(run_script: Run, sock_path: str, tmp_path: Path) -> None:
    """Not the PID file, nor the write end of the lifeline, nor the read end of the reports, nor the manager's wakeup pipe."""
    script = run_script(
        HEAD
        + """
manager = ProcManager(2, pidfile=sys.argv[1])
manager.listen(sys.argv[2])
manager.manage()
say("up")
idle(manager)
""",
        args=[tmp_path / "pid", sock_path],
    )
    script.lines(2)
    held = {fd: target for fd, target in open_fds(script.pid).items() if fd > 2}
    ends = {(target, mode(script.pid, fd)) for fd, target in held.items()}
    pipes = [
        {target for target, m in ends if m == access and "pipe" in target} for access in (os.O_RDONLY, os.O_WRONLY)
    ]
    assert len(pipes[0] & pipes[1]) == 4  # lifeline, reports, baton, wakeup
    shared = []
    for worker in script.workers():
        own = {(target, mode(worker, fd)) for fd, target in open_fds(worker).items() if fd > 2}
        assert not any(str(tmp_path / "pid") in target for target, _ in own)
        shared.append({end for end in own & ends if "pipe" in end[0]})
    tree = {end for end in shared[0] if end[0] not in pipes[0] & pipes[1]}
    assert [len(one - tree) for one in shared] == [4, 4]  # lifeline to read, reports to write, both ends of the baton
    own_wakeup = pipes[0] & pipes[1] - {target for target, _ in shared[0]}
    assert len(own_wakeup) == 1
    assert script.stop() == 0


def mode(pid: int, fd: int) -> int:
    text = Path(f"/proc/{pid}/fdinfo/{fd}").read_text()
    return int(text.split("flags:")[1].split()[0], 8) & O_ACCMODE


def test_descriptors_stay_the_same_over_50_reloads(run_script: Run, sock_path: str) -> None:
    script = run_script(
        HEAD + "manager = ProcManager(1)\nmanager.listen(sys.argv[1])\nmanager.manage()\nsay('up')\nidle(manager)\n",
        args=[sock_path],
    )
    script.line()
    wait_asleep(script.pid)
    before, worker = open_fds(script.pid), resting_fds(script.workers()[0])
    for _ in range(50):
        script.signal(signal.SIGHUP)
        script.line()
    wait_asleep(script.pid)
    assert open_fds(script.pid) == before
    assert resting_fds(script.wait_workers(1)[0]) == worker
    assert script.stop() == 0


def resting_fds(worker: int) -> int:
    """How many descriptors a worker has once it waits; it makes its wait set when it first does."""
    wait_until(lambda: any("eventpoll" in target for target in open_fds(worker).values()))
    wait_asleep(worker)
    return len(open_fds(worker))


def test_a_child_never_runs_the_code_of_the_manager(run_script: Run, tmp_path: Path) -> None:
    """An application that raises, or exits with a status, in a worker: the PID file and the siblings are left alone."""
    script = run_script(
        HEAD
        + """
manager = ProcManager(2, pidfile=sys.argv[1])
manager.manage()
say(os.getpid())
while not manager.leaving:
    manager._gate.wait()
manager.pre_dispatch()
if os.path.exists(sys.argv[2]):
    os.unlink(sys.argv[2])
    raise ValueError("a defect of the application")
sys.exit(0)
""",
        args=[tmp_path / "pid", tmp_path / "raise"],
    )
    first, second = (int(line) for line in script.lines(2))
    (tmp_path / "raise").touch()
    script.signal(signal.SIGTERM, first)
    third = int(script.line())
    script.wait_log(rf"server \(pid {first}\) exited with status 1$")
    assert "ValueError: a defect of the application" in script.log()
    assert (tmp_path / "pid").read_text() == f"{script.pid}\n"
    assert script.workers() == sorted([second, third])
    assert script.stop() == 0
    assert not (tmp_path / "pid").exists()


def test_workers_are_started_only_when_the_hook_of_the_manager_is_done(run_script: Run, tmp_path: Path) -> None:
    script = run_script(
        HEAD
        + """
class Manager(ProcManager):
    def manager_init(self):
        super().manager_init()
        raise RuntimeError("no database")
manager = Manager(2, pidfile=sys.argv[1])
before = signal.getsignal(signal.SIGTERM), len(os.listdir("/proc/self/fd"))
try:
    manager.manage()
except RuntimeError as error:
    say(error, before == (signal.getsignal(signal.SIGTERM), len(os.listdir("/proc/self/fd"))))
""",
        args=[tmp_path / "pid"],
    )
    assert script.line() == "no database True"
    assert script.wait() == 0
    assert not (tmp_path / "pid").exists()
    assert "started" not in script.log()


# Signals to the manager


def test_more_and_fewer(run_script: Run) -> None:
    script = run_script(HEAD + "manager = ProcManager(2)\nmanager.manage()\nsay('up')\nidle(manager)\n")
    script.lines(2)
    first = script.workers()
    for number, count in ((signal.SIGTTIN, 3), (signal.SIGTTIN, 4), (signal.SIGTTOU, 3), (signal.SIGTTOU, 2)):
        script.signal(number)
        script.wait_workers(count)
    assert not set(first) & set(script.workers())  # the oldest leave
    script.signal(signal.SIGTTOU)
    script.wait_workers(1)
    script.signal(signal.SIGTTOU)  # not below one
    script.wait_log("1 servers", count=2)
    script.signal(signal.SIGKILL, script.workers()[0])
    script.wait_log("server .*: initialized", count=5)
    assert len(script.wait_workers(1)) == 1
    assert script.stop() == 0


def test_the_number_is_changed_at_run_time(run_script: Run) -> None:
    script = run_script(
        HEAD
        + """
class Manager(ProcManager):
    def manager_sig_handler(self, name):
        if name == "TTIN":
            self.n_processes = 5
        elif name == "TTOU":
            self.n_processes = 1
        else:
            super().manager_sig_handler(name)
manager = Manager(3)
manager.manage()
say("up")
idle(manager)
"""
    )
    for number, count in ((0, 3), (signal.SIGTTIN, 5), (signal.SIGTTOU, 1), (signal.SIGTTIN, 5)):
        script.signal(number)
        script.wait_workers(count)
    assert script.stop() == 0
    assert "exited with status 1" not in script.log()


@pytest.mark.parametrize("busy", [False, True])
def test_a_number_of_0_at_run_time_stops_the_pool_gently(run_script: Run, tmp_path: Path, busy: bool) -> None:
    """As in the originals, whose loop ends when it is to keep nobody."""
    read_end, write_end = os.pipe()
    try:
        script = run_script(
            HEAD
            + """
class Manager(ProcManager):
    def manager_sig_handler(self, name):
        if name == "HUP":
            self.n_processes = 0
        else:
            super().manager_sig_handler(name)
manager = Manager(2, pidfile="pid")
manager.manage()
manager.pre_dispatch()
say("up")
if sys.argv[1] == "True":
    os.read(0, 1)
    say("answered")
manager.post_dispatch()
idle(manager)
""",
            args=[busy],
            cwd=tmp_path,
            stdin=read_end,
        )
        script.lines(2)
        script.signal(signal.SIGHUP)
        script.wait_log("sending TERM to PIDs")
        os.write(write_end, b"xx")
        assert script.wait() == 0
    finally:
        os.close(read_end)
        os.close(write_end)
    script.tree_gone()
    assert script.output() == "answered\n" * 2 * busy
    assert not (tmp_path / "pid").exists()
    assert script.log_lines()[-1].startswith("manager A: dying: ")
    assert script.log().count("exited with status 0") == 2


def test_what_the_manager_has_received_is_not_counted_in_its_workers(run_script: Run) -> None:
    script = run_script(
        HEAD
        + """
manager = ProcManager(1)
manager.manage()
say(manager.received_signal("HUP"), manager.received_signal())
idle(manager)
"""
    )
    assert script.line() == "0 {}"
    for _ in range(2):
        script.signal(signal.SIGHUP)
        assert script.line() == "0 {}"
    assert script.stop() == 0


def test_signals_are_counted(run_script: Run) -> None:
    script = run_script(
        HEAD
        + """
class Manager(ProcManager):
    def manager_sig_handler(self, name):
        say(name, self.received_signal(name), sorted(self.received_signal()))
manager = Manager(1)
manager.manage()
signal.raise_signal(signal.SIGINT)
signal.raise_signal(signal.SIGHUP)
say(manager.received_signal("INT"), manager.received_signal("TERM"), manager.received_signal(), manager.leaving)
time.sleep(0)
signal.pause()
"""
    )
    assert script.line() == "1 0 {'INT': 1, 'HUP': 1} True"
    for count in (1, 2):
        script.signal(signal.SIGHUP)
        assert script.line() == f"HUP {count} ['HUP']"


def test_an_interrupt_from_the_terminal_stops_the_pool_in_order(run_script: Run) -> None:
    """It comes to the workers as well, which leave the decision to their manager."""
    script = run_script(HEAD + "manager = ProcManager(2)\nmanager.manage()\nsay('up')\nidle(manager)\n")
    script.lines(2)
    script.signal_group(signal.SIGINT)
    assert script.wait() == 0
    script.tree_gone()
    assert "KeyboardInterrupt" not in script.log()
    assert script.log().count("exited with status 0") == 2


# At rest


def test_an_idle_pool_makes_no_wake_ups(run_script: Run, sock_path: str) -> None:
    script = run_script(
        HEAD
        + """
manager = ProcManager(3, start_delay=0.01)
listener = manager.listen(sys.argv[1])
manager.manage()
say("up")
manager.accept(listener)
manager.exit("left")
""",
        args=[sock_path],
    )
    script.lines(3)
    pool = [script.pid, *script.workers()]
    for pid in pool:
        wait_asleep(pid)
    before = rest(pool)
    with subprocess.Popen(["sleep", "2"]) as clock:
        clock.wait()
    assert [context_switches(pid) for pid in pool] == before
    assert script.stop() == 0


def rest(pool: list[int]) -> list[int]:
    """The context switches once two looks 50 ms apart are equal, and everybody sleeps: who waits for a processor counts none."""
    seen: list[list[int]] = [[]]

    def same() -> bool:
        asleep = all(process_state(pid) == "S" for pid in pool)
        seen.append([context_switches(pid) for pid in pool] if asleep else [-len(seen)])
        return len(seen) > 12 and len({tuple(look) for look in seen[-10:]}) == 1

    wait_until(same)
    return seen[-1]


# A manager that dies


def test_idle_workers_leave_at_once_when_their_manager_is_killed(run_script: Run) -> None:
    script = run_script(HEAD + "manager = ProcManager(4)\nmanager.manage()\nsay('up')\nidle(manager)\n")
    script.lines(4)
    workers = script.workers()
    script.signal(signal.SIGKILL)
    script.tree_gone(timeout=patient(3))
    for worker in workers:
        wait_dead(worker)
    assert script.log().count("safe exit: manager has died") == 4


def test_a_busy_worker_answers_first_and_the_next_start_takes_over(
    run_script: Run, sock_path: str, tmp_path: Path
) -> None:
    source = (
        HEAD
        + """
manager = ProcManager(1, pidfile=sys.argv[1])
listener = manager.listen(sys.argv[2])
manager.manage()
while (accepted := manager.accept(listener)) is not None:
    manager.pre_dispatch()
    with accepted[0] as connection:
        connection.sendall(b"begun ")
        connection.recv(100)
        connection.sendall(b"x" * 100000)
    manager.post_dispatch()
manager.exit("left")
"""
    )
    args = [tmp_path / "pid", sock_path]
    script = run_script(source, args=args)
    script.wait_log("server .*: initialized")
    worker = script.workers()[0]
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(sock_path)
        assert sock.recv(6) == b"begun "
        script.signal(signal.SIGKILL)
        script.wait()
        assert alive(worker)
        # The listener is still open in the busy worker, so a living server holds the path.
        refused = run_script(source, args=args)
        assert refused.wait() == 1
        assert "held by a living server" in refused.log()
        sock.sendall(b"go on")
        assert len(b"".join(iter(lambda: sock.recv(65536), b""))) == 100000
    wait_dead(worker)
    script.tree_gone()
    assert (tmp_path / "pid").read_text() == f"{script.pid}\n"
    assert os.path.exists(sock_path)
    second = run_script(source, args=args)
    second.wait_log("server .*: initialized")
    assert (tmp_path / "pid").read_text() == f"{second.pid}\n"
    assert second.stop() == 0
    assert not (tmp_path / "pid").exists()


@pytest.mark.parametrize("how", ["thread", "handler"])
def test_a_new_size_counts_at_once_whoever_sets_it(run_script: Run, how: str) -> None:
    script = run_script(
        HEAD
        + """
import signal, threading
class Manager(ProcManager):
    def manager_init(self):
        super().manager_init()
        if sys.argv[1] == "thread":
            threading.Thread(target=self.listen_to_us, daemon=True).start()
        else:
            signal.signal(signal.SIGUSR1, lambda *_: self.set(os.read(0, 1)))
    def listen_to_us(self):
        while word := os.read(0, 1):
            self.set(word)
    def set(self, word):
        self.n_processes = int(word)
manager = Manager(2)
manager.manage()
say("worker")
idle(manager)
""",
        args=[how],
        stdin=(pipe := os.pipe())[0],
    )
    try:
        assert script.lines(2) == ["worker", "worker"]
        for size in (4, 1, 3, 0):
            os.write(pipe[1], str(size).encode())
            if how == "handler":
                script.signal(signal.SIGUSR1)
            if size:
                script.wait_workers(size)
        assert script.wait() == 0
        assert "dying: n_processes is 0" in script.log()
    finally:
        for end in pipe:
            os.close(end)
