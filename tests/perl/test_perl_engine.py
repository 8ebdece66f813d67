"""fcgi_procmanager.engine: the object API of FCGI::Engine under its own names."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any, Callable

import pytest

from fcgi_procmanager import ConfigError, engine
from fcgi_procmanager.engine import Constrained, PidFile, PlackProcManager, ProcManager, augment
from harness.process import Script, alive

Run = Callable[..., Script]

ATTRIBUTES = [
    "role",
    "start_delay",
    "die_timeout",
    "n_processes",
    "pidfile",
    "no_signals",
    "signals_received",
    "manager_pid",
    "server_pids",
    "process_name",
    "manager_process_name",
]
METHODS = [
    "manage",
    "wait",
    "notify",
    "die",
    "exit",
    "abort",
    "received_signal",
    "manager_init",
    "server_init",
    "pre_dispatch",
    "post_dispatch",
    "manager_sig_handler",
    "server_sig_handler",
    "change_process_name",
    "setup_signal_actions",
    "setup_signal_handler",
    "clear_signal_handler",
    "add_pid",
    "get_all_pids",
    "remove_pid",
    "has_pids",
    "pid_count",
    "forget_all_pids",
]


def test_the_number_of_processes_is_kept_and_0_is_a_single_process() -> None:
    manager = ProcManager()
    assert manager.n_processes == 0
    for number in (100, 2, 0):
        manager.n_processes = number
        assert manager.n_processes == number
    assert manager.manage() is False


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_every_attribute_is_there(name: str) -> None:
    assert hasattr(ProcManager(), name)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_there(name: str) -> None:
    assert callable(getattr(ProcManager, name))


def test_defaults_are_those_of_the_original() -> None:
    manager = ProcManager()
    assert (manager.role, manager.start_delay, manager.die_timeout, manager.no_signals) == ("manager", 0, 60, False)
    assert (manager.process_name, manager.manager_process_name) == ("perl-fcgi", "perl-fcgi-pm")
    assert manager.pidfile is None


def test_dict_and_keywords_are_the_same() -> None:
    given = {"n_processes": 4, "pidfile": "/run/app.pid", "process_name": "worker", "role": "server"}
    for manager in (ProcManager(given), ProcManager(**given), ProcManager({"n_processes": 9}, **given)):
        assert {name: getattr(manager, name) for name in given} == given


@pytest.mark.parametrize(("key", "value"), [("n_processes", "x"), ("role", "z"), ("pidfile", 3), ("die_timeout", -1)])
def test_a_wrong_value_is_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=key):
        ProcManager({key: value})


def test_the_pid_table() -> None:
    manager = ProcManager()
    assert (manager.has_pids(), manager.pid_count(), manager.get_all_pids()) == (False, 0, [])
    manager.add_pid(5)
    manager.add_pid(7)
    assert (manager.has_pids(), manager.pid_count(), manager.get_all_pids()) == (True, 2, [5, 7])
    manager.remove_pid(5)
    assert manager.server_pids == [7]
    manager.forget_all_pids()
    assert not manager.has_pids()


@pytest.mark.parametrize(("message", "words"), [(ValueError("no ink"), "no ink"), (None, ""), (5, "5")])
@pytest.mark.parametrize(
    ("method", "status", "before"),
    [("notify", None, ""), ("exit", 4, ""), ("abort", 1, ""), ("die", 4, "dying: "), ("pm_exit", 4, "")],
)
def test_a_message_may_be_anything_that_can_be_written(
    message: object, words: str, method: str, status: int | None, before: str, capfd: pytest.CaptureFixture[str]
) -> None:
    manager = PlackProcManager()
    call, more = getattr(manager, method), [] if method in ("notify", "abort") else [4]
    if status is None:
        call(message)
    else:
        with pytest.raises(SystemExit) as end:
            call(message, *more)
        assert end.value.code == status
    line = f"FastCGIEngine: manager (pid {os.getpid()}): {before}{words}"
    assert capfd.readouterr().err.rstrip() == line.rstrip()


def test_signals_are_counted() -> None:
    manager = ProcManager()
    assert manager.signals_received == {}
    assert not manager.received_signal("TERM")
    assert manager.received_signal("TERM", 1) == 1
    assert manager.signals_received == manager.received_signal() == {"TERM": 1}


# -- PID files --------------------------------------------------------------------------------------------------------

POOL = """
    import sys
    from fcgi_procmanager.engine import PidFile, ProcManager

    class Foreign:
        def __init__(self, path):
            self.path = path

        def write(self):
            open(self.path, "w").write("mine")

        def remove(self):
            import os
            os.unlink(self.path)
            return True

    class Broken(Foreign):
        def write(self):
            raise RuntimeError("no ink")

    class Sticky(Foreign):
        def remove(self):
            return False

    class Breaks(Foreign):
        def remove(self):
            raise OSError("no rubber")

    kind, path = sys.argv[1:]
    made = {"text": str, "object": PidFile, "foreign": Foreign, "broken": Broken, "sticky": Sticky, "breaks": Breaks}
    pidfile = made[kind](path)
    ProcManager(n_processes=1, pidfile=pidfile).manage()
    import signal
    signal.pause()
"""


@pytest.mark.parametrize("kind", ["text", "object", "foreign"])
def test_a_pid_file_as_text_or_object(kind: str, run_script: Run, tmp_path: Path) -> None:
    path = tmp_path / "app.pid"
    script = run_script(POOL, args=[kind, path])
    script.wait_ready()
    assert path.read_text() == ("mine" if kind == "foreign" else f"{script.pid}\n")
    if kind != "foreign":
        assert PidFile(path).is_running()
        assert PidFile(path).pid == script.pid
    script.kill()
    if kind != "foreign":
        assert not PidFile(path).is_running()  # no worker has kept the lock


@pytest.mark.parametrize("kind", ["text", "object", "foreign"])
def test_a_pid_file_is_removed_at_the_end(kind: str, run_script: Run, tmp_path: Path) -> None:
    path = tmp_path / "app.pid"
    script = run_script(POOL.replace("signal.pause()", "sys.exit()"), args=[kind, path])
    script.wait_ready()
    assert script.stop() == 0
    assert not path.exists()


def test_an_object_that_cannot_write_is_done_without(run_script: Run, tmp_path: Path) -> None:
    script = run_script(POOL.replace("signal.pause()", "sys.exit()"), args=["broken", tmp_path / "app.pid"])
    script.wait_log("Could not write the PID file because: no ink")
    script.wait_ready()
    assert script.stop() == 0
    assert "Could not remove" not in script.log()


@pytest.mark.parametrize(
    ("kind", "line"), [("sticky", "Could not remove PID file"), ("breaks", "Could not remove PID file: no rubber")]
)
def test_an_object_that_cannot_remove_its_file_is_named_and_the_stop_goes_on(
    kind: str, line: str, run_script: Run, tmp_path: Path
) -> None:
    script = run_script(POOL.replace("signal.pause()", "sys.exit()"), args=[kind, tmp_path / "app.pid"])
    script.wait_ready()
    assert script.stop() == 0
    assert [found[0] for found in script.wait_log("Could not remove.*$")] == [line]


@pytest.mark.parametrize("kind", ["text", "object"])
@pytest.mark.parametrize("present", ["symlink", "directory"])
def test_a_pid_file_that_is_another_kind_of_file_is_done_without(
    kind: str, present: str, run_script: Run, tmp_path: Path
) -> None:
    path, target = tmp_path / "app.pid", tmp_path / "target"
    target.write_text("precious")
    path.mkdir() if present == "directory" else path.symlink_to(target)
    script = run_script(POOL.replace("signal.pause()", "sys.exit()"), args=[kind, path])
    words = "is not a regular file" if present == "directory" else "is a symbolic link"
    script.wait_log(f"Could not write the PID file because: {path} {words}")
    script.wait_ready()
    assert script.stop() == 0
    assert "Could not remove" not in script.log()
    assert path.is_symlink() or path.is_dir()
    assert target.read_text() == "precious"


@pytest.mark.parametrize("kind", ["text", "object"])
def test_a_pid_file_of_a_living_process_is_refused(kind: str, run_script: Run, tmp_path: Path) -> None:
    held = PidFile(tmp_path / "app.pid")
    held.write()
    script = run_script(POOL, args=[kind, held.file])
    assert script.wait() == 1
    assert f"held by process {os.getpid()}" in script.log()
    assert held.remove() is True


def test_a_pid_file_object(tmp_path: Path) -> None:
    pidfile = PidFile(file=tmp_path / "app.pid")
    assert (pidfile.file, pidfile.pid) == (str(tmp_path / "app.pid"), os.getpid())
    assert not pidfile.does_file_exist()
    assert not pidfile.is_running()
    pidfile.write()
    assert pidfile.does_file_exist()
    assert pidfile.is_running()
    assert Path(pidfile.file).read_text() == f"{os.getpid()}\n"
    assert pidfile.remove()
    assert not pidfile.does_file_exist()


# -- hooks ------------------------------------------------------------------------------------------------------------


def test_an_augmented_hook_runs_last_after_all_of_its_parents() -> None:
    class Parent(ProcManager):
        @augment
        def server_init(self) -> None:
            order.append("parent")

    class Child(Parent):
        @augment
        def server_init(self) -> None:
            """Once in each worker."""
            order.append("child")

    order: list[str] = []
    Child().server_init()
    assert order == ["parent", "child"]
    assert Child.server_init.__doc__ == "Once in each worker."


def test_an_augmented_hook_is_not_reached_when_the_worker_leaves(run_script: Run) -> None:
    script = run_script(
        """
        from fcgi_procmanager.engine import Constrained, augment
        from harness.inside import say

        class Manager(Constrained):
            @augment
            def post_dispatch(self):
                say("after", self.request_count)

        manager = Manager(n_processes=1, max_requests=3)
        manager.manage()
        while True:
            manager.pre_dispatch()
            say("request")
            manager.post_dispatch()
        """
    )
    assert script.lines(6) == ["request", "after 1", "request", "after 2", "request", "request"]
    script.stop()


# -- handlers ---------------------------------------------------------------------------------------------------------


def test_handlers_can_be_cleared_and_set_up_again(run_script: Run) -> None:
    script = run_script(
        """
        import os
        import signal
        from fcgi_procmanager.engine import ProcManager
        from harness.inside import restarts, say

        manager = ProcManager(n_processes=1)
        manager.manage()
        manager.clear_signal_handler()
        os.kill(os.getpid(), signal.SIGTERM)
        say("cleared", manager.received_signal("TERM"), manager.leaving)
        manager.setup_signal_handler()
        manager.setup_signal_actions(with_sa_restart=True)
        say(restarts(signal.SIGTERM))
        manager.setup_signal_actions(with_sa_restart=False)
        say(restarts(signal.SIGTERM))
        os.kill(os.getpid(), signal.SIGTERM)
        say("set up", manager.received_signal("TERM"), manager.leaving)
        manager.post_dispatch()
        """
    )
    assert script.lines(4) == ["cleared 0 False", "True", "False", "set up 1 True"]
    script.wait_log("safe exit after SIGTERM")
    script.stop()


def test_handlers_of_a_single_process_are_left_alone() -> None:
    manager = ProcManager()
    manager.setup_signal_handler()
    manager.setup_signal_actions(with_sa_restart=True)
    manager.clear_signal_handler()


# -- the rest ---------------------------------------------------------------------------------------------------------


def test_one_worker_counts_its_requests_and_term_ends_it(run_script: Run, sock_path: str) -> None:
    script = run_script(
        """
        import sys
        from fcgi_procmanager.engine import ProcManager

        manager = ProcManager(n_processes=1)
        listener = manager.listen(sys.argv[1])
        manager.manage()
        count = 0
        while accepted := manager.accept(listener):
            manager.pre_dispatch()
            count += 1
            accepted[0].sendall(str(count).encode())
            accepted[0].close()
            manager.post_dispatch()
        """,
        args=[sock_path],
    )
    script.wait_ready()
    worker = script.workers()[0]
    replies = []
    for _ in range(5):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(sock_path)
            replies.append(client.recv(10))
    assert replies == [b"1", b"2", b"3", b"4", b"5"]
    assert script.stop() == 0
    assert not alive(worker)


def test_limits_are_read_from_parameters_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PM_MAX_REQUESTS", raising=False)
    manager = Constrained()
    names = ["max_requests", "request_count", "sizecheck_num_requests", "max_process_size", "min_share_size"]
    assert [getattr(manager, name) for name in [*names, "max_unshared_size"]] == [0] * 6
    monkeypatch.setenv("PM_MAX_REQUESTS", "9")
    assert Constrained().max_requests == 9
    assert Constrained({"max_requests": 3}, max_unshared_size=5).max_requests == 3
    with pytest.raises(ConfigError, match="min_share_size"):
        Constrained(min_share_size=-1)


def test_what_plack_calls(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    manager = PlackProcManager(n_processes=0, pid_fname=str(tmp_path / "app.pid"))
    assert manager.pidfile == str(tmp_path / "app.pid")
    assert manager.pm_manage() is False
    manager.pm_pre_dispatch()
    manager.pm_post_dispatch()
    with pytest.raises(SystemExit) as end:
        manager.pm_exit("safe exit with harakiri")
    assert end.value.code == 0
    assert capfd.readouterr().err == f"FastCGIEngine: manager (pid {os.getpid()}): safe exit with harakiri\n"


def test_everything_public_is_exported() -> None:
    assert set(engine.__all__) == {"Constrained", "PidFile", "PlackProcManager", "ProcManager", "augment"}
