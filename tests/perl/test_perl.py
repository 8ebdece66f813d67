"""fcgi_procmanager.perl by itself: the checks of the original's own tests, and those that it never had."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from signal import SIGHUP, SIGKILL, SIGTERM
from typing import Any, Callable

import pytest

from fcgi_procmanager import ConfigError, PidFileError, engine, perl
from fcgi_procmanager.perl import Constrained, MaxRequests, MaxSize, ProcManager
from harness import fcgi
from harness.process import Script, wait_dead, wait_until
from harness.tools import require_perl
from perl.sides import Play, Stage, staged, started

Run = Callable[..., Script]

EXPORTED = [
    "pm_manage",
    "pm_die",
    "pm_wait",
    "pm_write_pid_file",
    "pm_remove_pid_file",
    "pm_pre_dispatch",
    "pm_post_dispatch",
    "pm_change_process_name",
    "pm_received_signal",
    "pm_parameter",
    "pm_warn",
    "pm_notify",
    "pm_abort",
    "pm_exit",
]
PARAMETERS = ["n_processes", "pid_fname", "no_signals", "die_timeout", "role", "start_delay", "pm_title"]


@pytest.fixture
def stage(tmp_path: Path, sock_path: str) -> Iterator[Stage]:
    with staged(tmp_path, sock_path) as set_up:
        yield set_up


@pytest.fixture
def default(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """No default instance yet, and none left behind."""
    monkeypatch.setattr(perl, "_default", None)
    return monkeypatch


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without the variables of the limits."""
    for name in ("PM_MAX_REQUESTS", "PM_MAX_SIZE", "PM_SIZECHECK_NUM_REQUESTS"):
        monkeypatch.delenv(name, raising=False)


# -- what the original's own tests check ------------------------------------------------------------------------------


@pytest.mark.parametrize("made", [ProcManager, Constrained, MaxRequests, MaxSize])
def test_a_new_manager_keeps_the_number_it_is_given(made: type[ProcManager], bare: None) -> None:
    manager = made()
    assert isinstance(manager, ProcManager)
    for number in (100, 2, 0):
        assert manager.pm_parameter("n_processes", number) == number
        assert manager.n_processes == number


@pytest.mark.parametrize("made", [ProcManager, Constrained, MaxRequests, MaxSize])
def test_0_processes_change_nothing(
    made: type[ProcManager], bare: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("it forked"))
    before = [signal.getsignal(number) for number in (SIGTERM, SIGHUP, signal.SIGCHLD)]
    manager = made({"n_processes": 0, "pid_fname": str(tmp_path / "app.pid")})
    assert manager.pm_manage() is False
    manager.pm_pre_dispatch()
    manager.pm_post_dispatch()
    assert [signal.getsignal(number) for number in (SIGTERM, SIGHUP, signal.SIGCHLD)] == before
    assert not os.listdir(tmp_path)
    assert manager.role == "manager"


def test_functions_work_without_an_object(default: pytest.MonkeyPatch) -> None:
    for number in (100, 2, 0):
        assert perl.pm_parameter("n_processes", number) == number
    assert perl.pm_manage() is False
    assert perl.pm_manage(n_processes=0) is False


def test_max_requests_comes_from_the_key_or_the_environment(bare: None, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = MaxRequests()
    assert manager.max_requests == 0
    assert manager.pm_parameter("max_requests", 5) == manager.max_requests == 5
    assert MaxRequests({"max_requests": 10}).max_requests == 10
    monkeypatch.setenv("PM_MAX_REQUESTS", "2")
    assert MaxRequests().max_requests == 2
    assert MaxRequests(max_requests=0).max_requests == 0


def test_max_requests_from_end_to_end(run_script: Run) -> None:
    """One worker of two requests, no signals, requests over a pipe: 1 and 2 alike, 3 and 4, and so on."""
    read_end, write_end = os.pipe()
    script = run_script(
        """
        import os
        import sys
        from fcgi_procmanager.perl import MaxRequests
        from harness.inside import say

        manager = MaxRequests(n_processes=1, max_requests=2, no_signals=1)
        manager.pm_manage()
        while os.read(int(sys.argv[1]), 1):
            manager.pm_pre_dispatch()
            say(os.getpid())
            manager.pm_post_dispatch()
        """,
        args=[read_end],
        pass_fds=[read_end],
    )
    os.close(read_end)
    served = []
    for _ in range(5):
        os.write(write_end, b".")
        served.append(script.line())
    assert served[0] == served[1] != served[2] == served[3] != served[4]
    assert "safe exit after max_requests (2)" in script.log()
    script.signal(SIGTERM)
    assert script.wait() == -SIGTERM
    os.close(write_end)  # which ends the last worker
    script.tree_gone()


def test_max_size_comes_from_the_key_or_the_environment(bare: None, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = MaxSize()
    assert manager.max_size == 200
    assert manager.pm_parameter("max_size", 500) == manager.max_size == 500
    assert MaxSize({"max_size": 125}).max_size == 125
    monkeypatch.setenv("PM_MAX_SIZE", "250")
    assert MaxSize().max_size == 250


# -- names ------------------------------------------------------------------------------------------------------------


def test_every_exported_name_is_there_as_function_and_as_method() -> None:
    for name in EXPORTED:
        assert name in perl.__all__
        assert callable(getattr(perl, name))
        assert callable(getattr(ProcManager, name))
    assert sorted(perl.__all__) == perl.__all__


@pytest.mark.parametrize("name", ["managing_init", "handling_init", "sig_manager", "sig_handler", "pm_parameter"])
def test_every_method_is_there(name: str) -> None:
    assert callable(getattr(ProcManager, name))


def test_defaults_are_those_of_the_original() -> None:
    manager = ProcManager()
    values = [manager.pm_parameter(name) for name in PARAMETERS]
    assert values == [0, None, False, 60, "manager", 0, "perl-fcgi-pm"]
    assert values == [getattr(manager, name) for name in PARAMETERS]


def test_dict_and_keywords_are_the_same() -> None:
    given = {"n_processes": 4, "pid_fname": "/run/app.pid", "die_timeout": 5, "no_signals": 1, "pm_title": "app"}
    for manager in (ProcManager(given), ProcManager(**given), ProcManager({"n_processes": 9, **given}, n_processes=4)):
        assert {name: getattr(manager, name) for name in given} == {**given, "no_signals": True}


def test_pm_parameter_reads_with_none_and_sets_with_anything_else() -> None:
    manager = ProcManager(n_processes=3, start_delay=1)
    assert manager.pm_parameter("n_processes", None) == 3
    assert manager.pm_parameter("start_delay", 0) == manager.start_delay == 0
    assert manager.pm_parameter("pid_fname", "x.pid") == manager.pidfile == "x.pid"
    assert manager.pm_parameter("pm_title", "t") == manager.manager_process_name == "t"


def test_a_key_that_is_not_known_is_kept() -> None:
    manager = ProcManager({"flavour": "sweet", "wait": 3, "_life": None}, colour=["red"])
    assert [manager.pm_parameter(key) for key in ("flavour", "colour", "wait", "taste")] == ["sweet", ["red"], 3, None]
    assert callable(manager.wait)
    assert manager.pm_parameter("_life") is None
    assert manager.pm_manage() is False


def test_an_attribute_of_the_core_can_be_set_by_its_name() -> None:
    manager = ProcManager({"process_name": "app worker"})
    assert manager.process_name == manager.pm_parameter("process_name") == "app worker"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("n_processes", -1),
        ("n_processes", "4"),
        ("die_timeout", "x"),
        ("start_delay", -1),
        ("no_signals", "no"),
        ("pid_fname", 3),
        ("pm_title", 3),
        ("role", "master"),
    ],
)
def test_a_wrong_value_is_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=key):
        ProcManager({key: value})
    with pytest.raises(ConfigError, match=key):
        ProcManager().pm_parameter(key, value)
    with pytest.raises(ConfigError, match=key):
        ProcManager().pm_manage(**{key: value})


def test_undef_is_no_time_limit_and_else_the_default() -> None:
    manager = ProcManager(die_timeout=None, n_processes=None, pm_title=None)
    assert (manager.die_timeout, manager.n_processes, manager.pm_title) == (0, 0, "perl-fcgi-pm")


def test_signals_are_counted_and_can_be_added_by_hand() -> None:
    manager = ProcManager()
    assert not manager.pm_received_signal()
    assert not manager.pm_received_signal("TERM")
    assert manager.pm_received_signal("TERM", 1) == 1
    assert manager.pm_received_signal("TERM", True) == 2
    assert manager.pm_received_signal("TERM") == 2
    assert manager.pm_received_signal() == {"TERM": 2}


def test_a_log_line_ends_once(capfd: pytest.CaptureFixture[str]) -> None:
    ProcManager().pm_notify("hello \n\n")
    ProcManager().pm_warn("world")
    expected = f"FastCGI: manager (pid {os.getpid()}): hello\nFastCGI: manager (pid {os.getpid()}): world\n"
    assert capfd.readouterr().err == expected


@pytest.mark.parametrize(("message", "words"), [(ValueError("no ink"), "no ink"), (None, ""), (5, "5")])
@pytest.mark.parametrize(
    ("method", "arguments", "status", "before"),
    [
        ("pm_notify", (), None, ""),
        ("pm_warn", (), None, ""),
        ("pm_exit", (4,), 4, ""),
        ("pm_abort", (4,), 1, ""),
        ("pm_die", (4,), 4, "dying: "),
        ("notify", (), None, ""),
        ("exit", (4,), 4, ""),
        ("abort", (), 1, ""),
        ("die", (4,), 4, "dying: "),
    ],
)
def test_a_message_may_be_anything_that_can_be_written(
    message: object,
    words: str,
    method: str,
    arguments: tuple[Any, ...],
    status: int | None,
    before: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    call = getattr(ProcManager(), method)
    if status is None:
        call(message)
    else:
        with pytest.raises(SystemExit) as end:
            call(message, *arguments)
        assert end.value.code == status
    assert capfd.readouterr().err.rstrip() == f"FastCGI: manager (pid {os.getpid()}): {before}{words}".rstrip()


def test_the_number_of_the_manager_is_for_workers() -> None:
    manager = ProcManager()
    assert manager.pm_parameter("MANAGER_PID") is None
    assert manager.pm_manage() is False
    assert manager.pm_parameter("MANAGER_PID") is None


def test_an_unknown_signal_is_ignored_aloud(capfd: pytest.CaptureFixture[str]) -> None:
    ProcManager().sig_manager("WINCH")
    assert "ignoring signal WINCH" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("method", "arguments", "status"),
    [("pm_exit", ("bye",), 0), ("pm_exit", ("bye", 7), 7), ("pm_abort", ("bye", 7), 1)],
)
def test_exit_statuses(method: str, arguments: tuple[Any, ...], status: int, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        getattr(ProcManager(), method)(*arguments)
    assert end.value.code == status
    assert capfd.readouterr().err.endswith(": bye\n")


def test_pm_wait_without_a_pool_reaps_a_child_of_the_application() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    assert ProcManager().pm_wait() == child.pid
    child.returncode = 0
    assert ProcManager().pm_wait() is None


# -- the default instance ---------------------------------------------------------------------------------------------


class Mine(ProcManager):
    pass


def test_the_default_instance_is_made_once_and_late(default: pytest.MonkeyPatch) -> None:
    default.setattr(perl, "Default", Mine)
    assert isinstance(perl.default_manager(), Mine)
    default.setattr(perl, "Default", ProcManager)
    assert isinstance(perl.default_manager(), Mine)
    perl.pm_parameter("n_processes", 7)
    assert perl.default_manager().n_processes == 7


@pytest.mark.parametrize("name", [f"{__name__}.Mine", f"{__name__}:Mine"])
def test_the_class_of_the_default_instance_may_be_a_name(name: str, default: pytest.MonkeyPatch) -> None:
    default.setattr(perl, "Default", name)
    assert type(perl.default_manager()).__name__ == "Mine"


def test_functions_reach_the_overrides_of_the_class(default: pytest.MonkeyPatch) -> None:
    class Loud(ProcManager):
        def pm_notify(self, message: str = "") -> None:
            heard.append(message)

    heard: list[str] = []
    default.setattr(perl, "Default", Loud)
    perl.pm_notify("one")
    perl.pm_warn("two")
    assert heard == ["one", "two"]


# -- hooks: each once, in the right process, under either name --------------------------------------------------------

HOOKS = """
    import os
    import sys
    from fcgi_procmanager.perl import ProcManager
    from harness.inside import say

    manager_pid = os.getpid()

    def named(name):
        def hook(self, *arguments):
            say(name, "manager" if os.getpid() == manager_pid else "worker", *arguments)
            return getattr(super(Manager, self), name)(*arguments)

        return hook

    class Manager(ProcManager):
        pass

    for name in sys.argv[2].split():
        setattr(Manager, name, named(name))

    manager = Manager(n_processes=1)
    manager.pm_manage()
    for _ in range(2):
        sys.stdin.read(1)
        getattr(manager, sys.argv[1] + "pre_dispatch")()
        getattr(manager, sys.argv[1] + "post_dispatch")()
    manager.pm_exit("enough", 0)
"""


ORIGINAL_HOOKS = "managing_init handling_init pm_pre_dispatch pm_post_dispatch"
CORE_HOOKS = "manager_init server_init pre_dispatch post_dispatch"


@pytest.mark.parametrize(("overridden", "called_as"), [(ORIGINAL_HOOKS, "pm_"), (ORIGINAL_HOOKS, ""), (CORE_HOOKS, "")])
def test_hooks_are_called_once_each_in_the_right_process(overridden: str, called_as: str, run_script: Run) -> None:
    """By a script (pm_post_dispatch) and by our servers (post_dispatch)."""
    script = run_script(HOOKS, args=[called_as, overridden])
    in_manager, *in_worker = overridden.split()
    first, *each_request = [f"{name} worker" for name in in_worker]
    assert script.lines(6) == [f"{in_manager} manager", first, *each_request * 2]
    script.wait_log("exited with status 0")
    script.stop()


def test_the_other_overrides_are_reached_too(run_script: Run) -> None:
    script = run_script(
        """
        import os
        import signal
        from fcgi_procmanager.perl import ProcManager
        from harness.inside import say

        class Manager(ProcManager):
            def sig_manager(self, name):
                say("sig_manager", name)
                super().sig_manager(name)

            def pm_die(self, message="", status=0):
                say("pm_die", message)
                super().pm_die(message, status)

            def pm_exit(self, message="", status=0):
                say("pm_exit", message, status)
                super().pm_exit(message, status)

            def sig_handler(self, name):
                say("sig_handler", name)
                super().sig_handler(name)

            def pm_write_pid_file(self, pid_fname=None):
                say("pm_write_pid_file")

            def pm_change_process_name(self, name):
                say("title", name)

        manager = Manager(n_processes=1)
        manager.pm_manage()
        while manager.pm_received_signal("TERM") < 1:
            signal.pause()
        manager.pm_post_dispatch()
        """
    )
    assert script.lines(3) == ["pm_write_pid_file", "title perl-fcgi-pm", "title perl-fcgi"]
    script.wait_ready()  # it waits for the signal: one that comes before would find it at the door
    assert script.stop() == 0
    assert sorted(script.output().splitlines()) == [
        "pm_die safe exit from signal TERM",
        "pm_exit dying: safe exit from signal TERM 0",
        "pm_exit safe exit after SIGTERM 0",
        "sig_handler TERM",
        "sig_manager TERM",
    ]


def test_a_title_given_in_the_hook_stays(run_script: Run) -> None:
    script = run_script(
        """
        import sys
        from fcgi_procmanager.perl import ProcManager
        from harness.inside import say

        class Manager(ProcManager):
            def handling_init(self):
                super().handling_init()
                self.pm_change_process_name("app worker")

        Manager(n_processes=1).pm_manage()
        say(open("/proc/self/cmdline").read().rstrip("\\0"))
        sys.stdin.read()
        """
    )
    assert script.line().split("\0")[0].strip() == "app worker"


# -- a pool: what no test of the original looks at --------------------------------------------------------------------


def ready(play: Play, count: int) -> Play:
    play.ready(count)
    return play


def test_messages_of_hup_and_term(stage: Stage) -> None:
    play = ready(stage("app.py", "object", "n_processes=2"), 2)
    play.signal(SIGHUP)
    play.ready(4)
    play.end()
    started, ended = "manager: server (pid *) started", "manager: server (pid *) exited with status 0"
    assert play.story() == [
        "fact: return code 0",
        "manager: initialized",
        *[started] * 2,
        "manager: sending TERM to PIDs, * *",
        *[ended] * 2,
        *[started] * 2,
        "manager: received signal TERM",
        "manager: sending TERM to PIDs, * *",
        *[ended] * 2,
        "manager: dying: safe exit from signal TERM",
        "-",
        *["server: initialized", "-"] * 4,
    ]


def test_a_stubborn_worker_is_killed_and_the_status_is_1(stage: Stage) -> None:
    play = ready(stage("app.py", "object", "n_processes=1", "die_timeout=1"), 1)
    play.hold("stubborn")
    play.end()
    assert play.facts == ["return code 1"]
    assert play.story()[-6:-2] == [
        "manager: sending TERM to PIDs, *",
        "manager: server (pid *) exited with status 137 (SIGKILL)",
        "manager: wait timeout",
        "-",
    ]


def test_pid_file_from_start_to_end(stage: Stage) -> None:
    play = ready(stage("app.py", "object", "n_processes=1", "pid_fname=DIR/app.pid"), 1)
    play.note_pid_file("while serving")
    play.signal(SIGHUP)
    play.ready(2)
    play.note_pid_file("after HUP")
    held = play.hold("wait")
    play.signal(SIGTERM)
    play.script.wait_log("received signal TERM")
    play.note_pid_file("while stopping")
    play.finish(held)
    play.wait()
    play.note_pid_file("at the end")
    assert play.facts == [
        "PID file while serving: the manager's number",
        "PID file after HUP: the manager's number",
        "PID file while stopping: the manager's number",
        "return code 0",
        "PID file at the end: none",
    ]


def test_a_pid_file_that_cannot_be_written_is_done_without(stage: Stage) -> None:
    play = ready(stage("app.py", "functions", "n_processes=1", "pid_fname=/nonexistent/app.pid"), 1)
    play.end()
    assert play.facts == ["return code 0"]
    assert play.story()[1] == "manager: open: /nonexistent/app.pid: No such file or directory"


OCCUPIED = {
    "symlink": ("Is a symbolic link", lambda path: path.symlink_to("target")),
    "directory": ("Is a directory", Path.mkdir),
    "fifo": ("Is not a regular file", os.mkfifo),
}


@pytest.mark.parametrize("kind", OCCUPIED)
@pytest.mark.parametrize("style", ["object", "functions"])
def test_a_pid_file_that_is_another_kind_of_file_is_done_without(
    kind: str, style: str, stage: Stage, tmp_path: Path
) -> None:
    reason, make = OCCUPIED[kind]
    path, target = tmp_path / "app.pid", tmp_path / "target"
    target.write_text("precious")
    make(path)
    before = path.lstat()
    play = ready(stage("app.py", style, "n_processes=1", f"pid_fname={path}"), 1)
    play.end()
    assert play.facts == ["return code 0"]
    assert play.story()[1] == f"manager: open: {path}: {reason}"
    assert os.path.samestat(path.lstat(), before)
    assert target.read_text() == "precious"


def test_a_pid_file_that_cannot_be_removed_is_named_with_the_reason(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert ProcManager().pm_remove_pid_file(tmp_path) is False
    assert capfd.readouterr().err.endswith(f": unlink: {tmp_path}: Is a directory\n")


def test_a_pid_file_of_a_living_manager_is_respected(stage: Stage, tmp_path: Path) -> None:
    first = ready(stage("app.py", "object", "n_processes=1", f"pid_fname={tmp_path}/app.pid"), 1)
    second = stage("app.py", "object", "n_processes=1", f"pid_fname={tmp_path}/app.pid")
    second.wait()
    assert second.facts == ["return code 1"]
    assert f"held by process {first.script.pid}" in second.script.log()
    assert (tmp_path / "app.pid").read_text() == f"{first.script.pid}\n"
    first.end()
    assert not (tmp_path / "app.pid").exists()


def test_a_worker_cannot_remove_the_pid_file(stage: Stage) -> None:
    play = ready(stage("app.py", "object", "n_processes=1", "pid_fname=DIR/app.pid"), 1)
    play.ask("pm_remove_pid_file")
    play.note_pid_file("afterwards")
    assert play.facts == ["PID file afterwards: the manager's number"]
    play.end()
    assert "server: unlink: DIR/app.pid: it is not ours" in play.story()


def test_pid_files_by_hand(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    manager = ProcManager()
    manager.pm_write_pid_file()  # no name: nothing to do
    assert manager.pm_remove_pid_file() is False
    path = tmp_path / "app.pid"
    manager.pm_write_pid_file(str(path))
    assert path.read_text() == f"{os.getpid()}\n"
    with pytest.raises(PidFileError, match=f"held by process {os.getpid()}"):
        ProcManager(pid_fname=path).pm_write_pid_file()
    assert ProcManager(pid_fname=path).pm_remove_pid_file() is False
    assert manager.pm_remove_pid_file(path) is True
    assert manager.pm_remove_pid_file(path) is False
    path.write_text("999999999\n")
    assert manager.pm_remove_pid_file(path) is True  # of a dead one
    assert [re.sub(r".*: unlink: ", "", line) for line in capfd.readouterr().err.splitlines()] == [
        f"{path}: it is not ours",
        f"{path}: No such file or directory",
    ]


def test_a_pid_file_that_somebody_else_has_put_there_stays(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "app.pid"
    manager = ProcManager(pid_fname=path)
    manager.pm_write_pid_file()
    path.unlink()
    path.write_text("1\n")
    assert manager.pm_remove_pid_file() is False
    assert path.read_text() == "1\n"
    assert "it is not ours" in capfd.readouterr().err


def test_an_idle_worker_leaves_at_once(stage: Stage) -> None:
    play = ready(stage("app.py", "object", "n_processes=2"), 2)
    worker = play.workers[0]
    play.signal(SIGTERM, worker)
    wait_dead(worker)
    play.ready(3)
    play.end()


@pytest.mark.parametrize(("number", "name"), [(SIGTERM, "SIGTERM"), (SIGHUP, "SIGHUP")])
def test_a_busy_worker_finishes_first_and_names_the_signal(number: int, name: str, stage: Stage) -> None:
    play = ready(stage("app.py", "object", "n_processes=1"), 1)
    held = play.hold("wait")
    play.signal(number, play.workers[0])
    assert play.finish(held) == "done"
    play.ready(2)
    play.end()
    assert f"server: safe exit after {name}" in play.story()


def test_a_worker_of_a_killed_manager_leaves_idle_or_after_its_request(stage: Stage) -> None:
    play = ready(stage("app.py", "object", "n_processes=2"), 2)
    held = play.hold("wait")
    play.signal(SIGKILL)
    wait_until(lambda: len(play.script.tree()) == 1)
    assert play.finish(held) == "done"
    play.script.tree_gone()
    assert "server: safe exit: manager has died" in play.story()


def test_a_status_is_written_as_a_person_reads_it(stage: Stage) -> None:
    play = ready(stage("app.py", "object", "n_processes=1"), 1)
    for count, command in enumerate(["quit 3", "kill", "pm_abort broken"], 2):
        play.ask(command)
        play.ready(count)
    play.end()
    ends = re.findall(r"exited with status (.*)", play.script.log())
    assert ends == ["3", "137 (SIGKILL)", "1", "0"]


def test_workers_draw_different_random_numbers(stage: Stage) -> None:
    play = ready(stage("app.py", "object", "n_processes=3"), 3)
    held = [play.hold("random") for _ in range(3)]
    assert len({one.reply for one in held}) == 3
    for one in held:
        play.finish(one)
    play.end()


def test_start_delay_may_be_a_fraction(run_script: Run) -> None:
    script = run_script(
        """
        import signal
        from fcgi_procmanager.perl import ProcManager

        ProcManager(n_processes=5, start_delay=0.2).pm_manage()
        signal.pause()
        """
    )
    times = sorted(map(started, script.wait_workers(5)))
    pauses = [after - before for before, after in zip(times, times[1:])]
    assert 0.15 < min(pauses) < 0.9, pauses  # whole seconds would be none, or one


def test_two_managers_in_one_process(run_script: Run, sock_path: str) -> None:
    """One that is not used, and a pool inside the worker of a pool: each obeys its own signals."""
    script = run_script(
        """
        import signal
        import sys
        from fcgi_procmanager.perl import ProcManager, pm_manage

        assert not ProcManager().pm_manage()
        pm_manage(n_processes=1, pm_title="outer")
        inner = ProcManager(n_processes=2, pm_title="inner")
        inner.pm_manage()
        while not inner.leaving:
            signal.pause()
        inner.pm_post_dispatch()
        """
    )
    script.wait_ready(3)
    assert script.stop() == 0
    assert len(script.wait_log("dying: safe exit from signal TERM")) == 2
    assert len(script.wait_log("safe exit after SIGTERM")) == 2


def test_what_plack_does_with_a_manager(stage: Stage) -> None:
    play = stage("plack.py", "FCGI::ProcManager", "SOCKET", "DIR/app.pid")
    play.ready()
    play.note_pid_file("while serving")
    play.note_titles()
    play.visit("/bye")
    play.ready(2)
    play.end()
    assert play.facts[:2] == ["PID file while serving: the manager's number", "titles: app manager perl-fcgi"]
    assert play.story().count("server: safe exit with harakiri") == 1
    assert "other: cleanup" in play.story()


PORTING = Path(__file__).parents[2] / "docs" / "PORTING.md"
SYNOPSES = [
    text for text in re.findall(r"(?ms)^```python.*?\n(.*?)^```", PORTING.read_text()) if "while request" in text
]
PRINTING = next(text for text in SYNOPSES if "as_cgi" in text)
SYNOPSES.remove(PRINTING)
PERL_PRINTING = next(
    text for text in re.findall(r"(?ms)^```perl\n(.*?)^```", PORTING.read_text()) if "OpenSocket" in text
)


@pytest.mark.parametrize("number", range(3))
def test_each_synopsis_of_the_port_guide_serves(number: int, run_script: Run, sock_path: str, tmp_path: Path) -> None:
    source = SYNOPSES[number].replace("/run/", f"{tmp_path}/")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(sock_path)
        listener.listen()
        script = run_script(source, stdin=listener)
    script.wait_ready(4)
    with fcgi.Client(sock_path) as client:
        assert client.request().text == "hello"
    assert script.stop() == 0
    os.unlink(sock_path)


def test_a_script_that_prints_and_its_port(run_script: Run, tmp_path: Path) -> None:
    """The pair of the port guide, side by side."""
    path = tmp_path / "app.sock"
    port = run_script(PRINTING.replace("/run/", f"{tmp_path}/"))
    port.wait_ready(4)
    ours = [_reply(str(path), body) for body in (b"", b"body", b"x" * 100_000)]
    assert port.stop() == 0
    (tmp_path / "app.pl").write_text(PERL_PRINTING.replace("/run/", f"{tmp_path}/"))
    interpreter = require_perl("FCGI::ProcManager")
    original = run_script(
        "import os, sys; os.execv(sys.argv[1], sys.argv[1:])", args=[interpreter, tmp_path / "app.pl"]
    )
    original.wait_log("initialized$", 5)
    assert [_reply(str(path), body) for body in (b"", b"body", b"x" * 100_000)] == ours
    assert ours[1] == "POST of 4 bytes\n"
    original.stop()


def _reply(path: str, body: bytes) -> str:
    return fcgi.fetch(path, body=body).text


def test_the_port_guide_has_every_name() -> None:
    guide = PORTING.read_text()
    names = [*EXPORTED, *PARAMETERS, *perl.__all__, *engine.__all__, *(f"P{number}" for number in range(1, 25))]
    assert [name for name in names if not re.search(rf"\b{name}\b", guide)] == []
    assert len(SYNOPSES) == 3


def test_a_port_reads_as_its_original() -> None:
    """Line by line: the two scripts of the differential suite have the same requests and the same hooks."""
    folder = Path(__file__).parent
    original, port = ((folder / name).read_text() for name in ("app.pl", "app.py"))
    commands = re.findall(r"command eq '(\w+)'", original)
    assert commands == re.findall(r'command == "(\w+)"', port)
    assert re.findall(r"sub (\w+) +{.*SUPER", original) == re.findall(r"def (\w+)\(self\)", textwrap.dedent(port))
