"""`serve`, `stop` and `reload` end to end: real pools, asked through the FastCGI client."""

from __future__ import annotations

import os
import pwd
import re
import signal
import socket
import stat
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any, Callable

import pytest

from harness import fcgi
from harness.inside import say  # noqa: F401 what the applications below use
from harness.process import Script, alive, cmdline, free_port, listening, wait_until

Command = Callable[..., Script]

VERSION = """
import os

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"version %d of " + str(os.getpid()).encode()]
"""

FROZEN = """
import gc

kept = [[] for _ in range(100_000)]

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{gc.get_freeze_count()} {gc.isenabled()}".encode()]
"""

# Says that a request is in hand, then waits until the test opens the other end of the gate.
HELD = """
import os
from harness.inside import say

def application(environ, start_response):
    if environ["PATH_INFO"] == "/held":
        say("in hand", os.getpid())
        open(os.environ["GATE"]).close()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"whole"]
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    folder = tmp_path / "app"
    folder.mkdir()
    write_version(folder, 1)
    (folder / "held.py").write_text(HELD)
    os.mkfifo(folder / "gate")
    return folder


@pytest.fixture
def command(run_script: Callable[..., Script], app: Path) -> Command:
    def run(*args: object, program: tuple[str, ...] = ("-m", "fcgi_procmanager"), **kw: Any) -> Script:
        settings = {"cwd": app, "env": {"GATE": str(app / "gate")}, **kw}
        return run_script([sys.executable, *program, *map(str, args)], **settings)

    return run


@pytest.fixture
def serve(command: Command, sock_path: str) -> Command:
    def run(spec: str, *args: object, workers: int = 2, **kw: Any) -> Script:
        script = command("serve", spec, "--listen", sock_path, "--pidfile", "pid", "-n", workers, *args, **kw)
        wait_ready(script, workers)
        return script

    return run


def write_version(folder: Path, number: int) -> None:
    (folder / "version.py").write_text(VERSION.replace("%d", str(number)))


def wait_ready(script: Script, workers: int) -> None:
    script.wait_ready(workers)
    script.wait_workers(workers)


def open_gate(app: Path) -> None:
    """Let one held request go on. Opening waits for the reader, which is the request."""
    (app / "gate").open("w").close()


def refused(script: Script, status: int) -> str:
    assert script.output() == ""
    assert script.wait() == status, script.log()
    (line,) = script.log().splitlines()
    assert line.startswith("fcgi-procmanager: ")
    return line.partition(": ")[2]


class Load:
    """Clients that ask again and again until told to stop; what went wrong, and how often each reply came."""

    def __init__(self, address: str, clients: int = 3) -> None:
        self.replies: Counter[str] = Counter()
        self.wrong: list[object] = []
        self._address = address
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)

    def wait_more(self, count: int) -> None:
        """Until so many more replies have come."""
        enough = sum(self.replies.values()) + count
        wait_until(lambda: self.wrong or sum(self.replies.values()) >= enough, 60, "replies")

    def _ask(self) -> None:
        while not self._over.is_set():
            try:
                reply = fcgi.fetch(self._address)
            except (OSError, EOFError, AssertionError) as error:
                self.wrong.append(error)
                return
            if not (reply.ended and reply.status == 200):
                self.wrong.append(reply)
            self.replies[reply.text] += 1


# serve


def test_serve_answers_and_ends_without_a_trace(serve: Command, app: Path, sock_path: str) -> None:
    script = serve("version")
    reply = fcgi.fetch(sock_path)
    assert reply.status == 200
    assert reply.text.startswith("version 1 of ")
    assert int(reply.text.split()[-1]) in script.workers()
    assert (app / "pid").read_text() == f"{script.pid}\n"
    assert script.stop() == 0
    assert not (app / "pid").exists()
    assert script.output() == ""


def test_the_log_is_that_of_a_manager(serve: Command) -> None:
    script = serve("version", workers=1)
    script.wait_log("manager .*: server .* started")
    assert script.stop() == 0
    first = [line.partition(": ")[2] for line in script.log_lines()[:4]]
    where = next(line for line in first if line.startswith("listening on /"))
    assert sorted({*first} - {where}) == ["initialized", "server (pid A) started"]


def test_the_names_of_the_processes(serve: Command) -> None:
    script = serve("version", "--process-name", "my worker", "--manager-process-name", "my manager")
    assert cmdline(script.pid) == "my manager"
    assert {cmdline(pid) for pid in script.workers()} == {"my worker"}
    assert script.stop() == 0


@pytest.mark.parametrize("how", ["option", "variable", "file"])
def test_a_standby_takes_the_place_of_a_worker(command: Command, app: Path, sock_path: str, how: str) -> None:
    (app / "pool.toml").write_text(
        f'[pool.web]\napplication = "version"\nlisten = "{sock_path}"\nprocesses = 1\nstandby = 1\n'
    )
    if how == "file":
        script = command("serve", "--config", "pool.toml")
    else:
        more = ("--standby", "1") if how == "option" else ()
        env = {"FCGI_PROCMANAGER_STANDBY": "1"} if how == "variable" else {}
        script = command("serve", "version", "-n", "1", "--listen", sock_path, *more, env=env)
    (standby,) = wait_until(lambda: [pid for pid in script.workers() if cmdline(pid).endswith("(standby)")], 60)
    (server,) = {*script.workers()} - {standby}
    assert int(fcgi.fetch(sock_path).text.split()[-1]) == server
    script.wait_log(rf"server \(pid {standby}\): standing by$")
    script.signal(signal.SIGKILL, server)
    assert fcgi.fetch(sock_path, timeout=60).status == 200
    script.wait_log(rf"server \(pid {server}\) exited")
    assert script.stop() == 0


def test_several_addresses_are_served(command: Command, sock_path: str) -> None:
    port = free_port()
    script = command("serve", "version", "--listen", sock_path, "--listen", f"127.0.0.1:{port}")
    wait_ready(script, 2)
    for address in (sock_path, ("127.0.0.1", port)):
        assert fcgi.fetch(address).status == 200
    assert script.stop() == 0


def test_the_socket_of_a_spawner_is_served(command: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        script = command("serve", "version", stdin=listener)
        wait_ready(script, 2)
        assert fcgi.fetch(listener.getsockname()).status == 200
        assert script.stop() == 0


def test_relative_paths_are_meant_from_where_the_command_was_typed(
    command: Command, app: Path, tmp_path: Path, sock_path: str
) -> None:
    folder = os.path.dirname(sock_path)
    script = command("serve", "version", "--chdir", app, "--listen", "./s", "--pidfile", "pid", cwd=folder)
    wait_ready(script, 2)
    assert os.readlink(f"/proc/{script.workers()[0]}/cwd") == str(app)
    assert fcgi.fetch(sock_path).text.startswith("version 1")
    assert os.path.exists(os.path.join(folder, "pid"))
    assert script.stop() == 0


def test_mode_and_owner_of_the_socket(serve: Command, sock_path: str) -> None:
    owner = pwd.getpwuid(os.getuid()).pw_name
    script = serve("version", "--socket-mode", "600", "--socket-owner", owner)
    assert stat.S_IMODE(os.stat(sock_path).st_mode) == 0o600
    assert script.stop() == 0


def test_one_process_serves_without_workers(command: Command, sock_path: str) -> None:
    script = command("serve", "version", "--listen", sock_path, "-n", "0")
    wait_until(lambda: os.path.exists(sock_path) and listening(sock_path), 60)
    assert fcgi.fetch(sock_path).text == f"version 1 of {script.pid}"
    assert script.workers() == []
    script.signal_group(signal.SIGINT)
    assert script.wait() == 0
    (line,) = script.log().splitlines()
    assert line.endswith(f"INFO FastCGI: manager (pid {script.pid}): listening on {sock_path}")


HOOKS = """
from fcgi_procmanager import ProcManager
from harness.inside import say

class Manager(ProcManager):
    def __init__(self, **settings):
        super().__init__(die_timeout=7, **settings)

    def manager_init(self):
        super().manager_init()
        say("manager_init", self.n_processes, self.die_timeout)

    def server_init(self):
        super().server_init()
        say("server_init", self.role.value)
"""


def test_a_body_without_a_length_has_a_limit(serve: Command, app: Path, sock_path: str) -> None:
    script = serve("version", "--body-limit", "2K")
    for size, status in ((2048, 200), (2049, 413)):
        with fcgi.Client(sock_path) as client:
            client.send(fcgi.request_bytes({"REQUEST_METHOD": "POST", "CONTENT_LENGTH": None}, b"b" * size))
            assert client.read_reply().status == status
    assert script.stop() == 0


def test_the_hooks_of_a_manager_class_are_called(serve: Command, app: Path, sock_path: str) -> None:
    (app / "hooks.py").write_text(HOOKS)
    script = serve("version", "--manager", "hooks:Manager", workers=1)
    assert script.lines(2) == ["manager_init 1 7", "server_init server"]
    assert fcgi.fetch(sock_path).status == 200
    assert script.stop() == 0


def test_control_c_stops_gently(serve: Command, app: Path, sock_path: str) -> None:
    script = serve("held")
    with fcgi.Client(sock_path) as client:
        client.send(fcgi.request_bytes(path="/held"))
        script.line()
        script.signal_group(signal.SIGINT)
        script.wait_log("received signal INT")
        open_gate(app)
        assert client.read_reply().text == "whole"
    assert script.wait() == 0
    script.tree_gone()


def test_a_preloaded_application_is_loaded_once_in_the_manager(serve: Command, app: Path, sock_path: str) -> None:
    (app / "loaded.py").write_text("from harness.inside import say\nimport os\nsay(os.getpid())\n" + VERSION)
    script = serve("loaded", "--preload")
    assert script.line() == str(script.pid)
    assert fcgi.fetch(sock_path).status == 200
    assert script.stop() == 0
    assert script.output() == ""


def test_what_is_preloaded_is_frozen_and_so_stays_shared(serve: Command, app: Path, sock_path: str) -> None:
    """A collection in a worker would write to every object, and copy its page."""
    (app / "frozen.py").write_text(FROZEN)
    script = serve("frozen", "--preload")
    frozen, collects = fcgi.fetch(sock_path).text.split()
    assert int(frozen) > 100_000
    assert collects == "True"
    assert script.stop() == 0


# reload


def test_reload_brings_new_code_even_within_a_second_and_of_the_same_size(
    serve: Command, command: Command, app: Path, sock_path: str
) -> None:
    script = serve("version")
    for number in (2, 3, 4):
        before = script.workers()
        write_version(app, number)
        reload = command("reload", "--pidfile", "pid")
        assert reload.wait(60) == 0, reload.log()
        assert reload.log() == ""
        assert not any(map(alive, before))
        assert {fcgi.fetch(sock_path).text.rpartition(" ")[0] for _ in range(5)} == {f"version {number} of"}
    assert script.stop() == 0


def test_reload_under_load_loses_nothing(serve: Command, command: Command, app: Path, sock_path: str) -> None:
    script = serve("version", workers=3)
    with Load(sock_path) as load:
        load.wait_more(20)
        for _ in range(3):
            reload = command("reload", "--pidfile", "pid")
            assert reload.wait(60) == 0, reload.log() + script.log()
            load.wait_more(20)
    assert load.wrong == []
    assert len(load.replies) > 3, "one pid for each worker that answered"
    assert script.stop() == 0


def test_reload_waits_for_the_request_in_hand(serve: Command, command: Command, app: Path, sock_path: str) -> None:
    script = serve("held")
    with fcgi.Client(sock_path) as client:
        client.send(fcgi.request_bytes(path="/held"))
        busy = int(script.line().split()[-1])
        reload = command("reload", "--pidfile", "pid")
        script.wait_log("sending TERM")
        wait_until(lambda: len({*script.workers()} - {busy}) == 2 and busy in script.workers(), 60)
        assert reload.process.poll() is None
        open_gate(app)
        assert client.read_reply().text == "whole"
    assert reload.wait(60) == 0, reload.log()
    assert not alive(busy)
    assert script.stop() == 0


def test_reload_kills_after_the_time_that_is_given(serve: Command, command: Command, app: Path, sock_path: str) -> None:
    script = serve("held", "--reload-timeout", "0.3")
    with fcgi.Client(sock_path) as client:
        client.send(fcgi.request_bytes(path="/held"))
        busy = int(script.line().split()[-1])
        assert command("reload", "--pidfile", "pid").wait(60) == 0
    script.wait_log(rf"server \(pid {busy}\) exited with status 137 \(SIGKILL\)")
    assert script.stop() == 0


def test_reload_that_does_not_end_says_so(serve: Command, command: Command, app: Path, sock_path: str) -> None:
    script = serve("held")
    with fcgi.Client(sock_path) as client:
        client.send(fcgi.request_bytes(path="/held"))
        script.line()
        line = refused(command("reload", "--pidfile", "pid", "--timeout", "0.5"), 1)
        assert re.match(
            r"not reloaded after 0\.5 s: [12] of 2 workers still to be replaced, [012] new ones ready", line
        )
        open_gate(app)
        assert client.read_reply().text == "whole"
    assert script.stop() == 0


@pytest.mark.parametrize("workers", [1, 3])
def test_reload_of_broken_code_says_so_and_the_old_workers_go_on(
    serve: Command, command: Command, app: Path, sock_path: str, workers: int
) -> None:
    script = serve("version", workers=workers)
    before = script.workers()
    (app / "version.py").write_text("broken(\n")
    line = refused(command("reload", "--pidfile", "pid"), 1)
    assert line.startswith("not reloaded, the old workers go on: version.py:1: SyntaxError")
    assert len(script.wait_log(r"reload failed: version\.py:1: SyntaxError")) == 1
    script.wait_log(r"Traceback \(most recent call last\)")
    assert script.wait_workers(workers) == before
    assert fcgi.fetch(sock_path).text.startswith("version 1")
    write_version(app, 2)
    reload = command("reload", "--pidfile", "pid")
    assert reload.wait(60) == 0, reload.log()
    assert fcgi.fetch(sock_path).text.startswith("version 2")
    assert script.stop() == 0


@pytest.mark.parametrize("workers", [1, 3])
def test_a_plain_reload_of_broken_code_says_so(
    serve: Command, command: Command, app: Path, sock_path: str, workers: int
) -> None:
    script = serve("version", "--reload-mode", "plain", workers=workers)
    (app / "version.py").write_text("broken(\n")
    line = refused(command("reload", "--pidfile", "pid"), 1)
    assert line.startswith("the new workers end before they are ready")
    script.wait_log(r"version\.py:1: SyntaxError")
    write_version(app, 2)
    reload = command("reload", "--pidfile", "pid")
    assert reload.wait(60) == 0, reload.log()
    assert fcgi.fetch(sock_path).text.startswith("version 2")
    assert script.stop() == 0


def test_reload_of_a_manager_that_dies_says_so(serve: Command, command: Command, app: Path, sock_path: str) -> None:
    script = serve("held")
    with fcgi.Client(sock_path) as client:
        client.send(fcgi.request_bytes(path="/held"))
        script.line()
        reload = command("reload", "--pidfile", "pid")
        script.wait_log("sending TERM")
        script.signal(signal.SIGKILL)
        assert "ended while it was to reload" in refused(reload, 1)
        open_gate(app)
        assert client.read_reply().text == "whole"
    script.tree_gone()
    os.unlink(sock_path)


def test_reload_when_all_titles_are_equal(serve: Command, command: Command) -> None:
    script = serve("version", "--process-name", "same", "--manager-process-name", "same")
    before = script.workers()
    reload = command("reload", "--pidfile", "pid")
    assert reload.wait(60) == 0, reload.log()
    assert not {*before} & {*script.wait_workers(2)}
    assert script.stop() == 0


# take over


def test_a_new_pool_takes_over_from_the_old_one_and_loses_nothing(
    serve: Command, command: Command, app: Path, sock_path: str
) -> None:
    """The recipe of docs/DEPLOY.md: new code by a new manager, on the same socket and PID file."""
    old = serve("version")
    with Load(sock_path) as load:
        load.wait_more(20)
        write_version(app, 2)
        (app / "pid").rename(app / "old.pid")
        new = serve("version", "--take-over")
        load.wait_more(20)
        assert command("stop", "--pidfile", "old.pid").wait() == 0
        assert old.wait() == 0
        load.wait_more(20)
    assert load.wrong == []
    assert fcgi.fetch(sock_path).text.startswith("version 2")
    assert (app / "pid").read_text() == f"{new.pid}\n"
    assert new.stop() == 0


@pytest.mark.parametrize("what", ["its PID file is held", "its code is broken"])
def test_a_new_pool_that_cannot_start_leaves_the_socket_to_the_old_one(
    serve: Command, command: Command, app: Path, sock_path: str, what: str
) -> None:
    old = serve("version")
    if what == "its code is broken":
        (app / "version.py").write_text("1/0")
        (app / "pid").rename(app / "old.pid")
    refused(command("serve", "version", "--listen", sock_path, "--take-over", "--pidfile", "pid"), 2)
    assert fcgi.fetch(sock_path).text.startswith("version 1")
    assert old.stop() == 0


# stop


def test_stop_waits_until_the_pool_is_gone(serve: Command, command: Command, app: Path) -> None:
    script = serve("version")
    stop = command("stop", "--pidfile", "pid")
    assert stop.wait() == 0
    assert stop.log() == ""
    assert script.wait(0.5) == 0, "gone already"
    script.tree_gone()


def test_stop_waits_for_the_request_in_hand(serve: Command, command: Command, app: Path, sock_path: str) -> None:
    script = serve("held")
    with fcgi.Client(sock_path) as client:
        client.send(fcgi.request_bytes(path="/held"))
        script.line()
        line = refused(command("stop", "--pidfile", "pid", "--timeout", "0.1"), 1)
        assert line.startswith(f"process {script.pid} is still stopping after 0.1 s: wait longer with --timeout")
        open_gate(app)
        assert client.read_reply().text == "whole"
    assert script.wait() == 0


@pytest.mark.parametrize("name", ["stop", "reload"])
def test_who_only_stands_in_the_file_is_not_signalled(
    command: Command, run_script: Callable[..., Script], app: Path, name: str
) -> None:
    sleeper = run_script(["sleep", "600"])
    (app / "pid").write_text(f"{sleeper.pid}\n")
    line = refused(command(name, "--pidfile", "pid"), 2)
    assert line == (
        f"pid names process {sleeper.pid}, which has not locked it and may be anybody: see 'ps -p {sleeper.pid}'; "
        f"if it is the manager, 'kill {sleeper.pid}' stops it, else remove the file"
    )
    assert sleeper.process.poll() is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells who has a lock")
@pytest.mark.parametrize("name", ["stop", "reload"])
@pytest.mark.parametrize("named", ["another", "nobody"])
def test_a_locked_file_with_a_wrong_number_stops_nobody(
    serve: Command, command: Command, run_script: Callable[..., Script], app: Path, name: str, named: str
) -> None:
    script, sleeper = serve("version"), run_script(["sleep", "600"])
    number = str(sleeper.pid) if named == "another" else "gone"
    (app / "pid").write_text(f"{number}\n")
    line = refused(command(name, "--pidfile", "pid"), 2)
    assert line.startswith(f"pid is locked by process {script.pid}, but does not name it: see 'ps -p {script.pid}'")
    assert sleeper.process.poll() is None
    assert script.process.poll() is None
    assert script.stop() == 0


@pytest.mark.parametrize("name", ["stop", "reload"])
@pytest.mark.parametrize("content", [None, "", "no number\n", "4194304\n", "0\n"])
def test_where_nothing_runs(command: Command, app: Path, name: str, content: str | None) -> None:
    if content is not None:
        (app / "pid").write_text(content)
    assert refused(command(name, "--pidfile", "pid"), 1) == "not running: no living process holds pid"


@pytest.mark.parametrize("name", ["stop", "reload"])
def test_a_pid_file_left_by_a_killed_manager_leads_to_nobody(
    serve: Command, command: Command, app: Path, sock_path: str, name: str
) -> None:
    script = serve("version")
    script.signal(signal.SIGKILL)
    script.wait()
    assert refused(command(name, "--pidfile", "pid"), 1) == "not running: no living process holds pid"
    script.tree_gone()
    os.unlink(sock_path)


def test_where_the_system_has_no_process_descriptors(serve: Command, command: Command) -> None:
    script = serve("version")
    before = script.workers()
    without = (
        "import os, signal, sys\n"
        "vars(os).pop('pidfd_open', None), vars(signal).pop('pidfd_send_signal', None)\n"
        "from fcgi_procmanager.cli import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    assert command("reload", "--pidfile", "pid", program=("-c", without)).wait(60) == 0
    assert not {*before} & {*script.workers()}
    stop = command("stop", "--pidfile", "pid", program=("-c", without))
    assert script.wait() == 0
    assert stop.wait() == 0
    assert stop.log() == ""


@pytest.mark.parametrize("options", [[], ["--preload"], ["--manager", "fcgi_procmanager:PoolManager"]])
def test_a_request_that_takes_too_long_is_a_504(serve: Command, sock_path: str, options: list[str]) -> None:
    script = serve("held", "--request-timeout", "0.2", *options, workers=1)
    worker = script.workers()
    assert fcgi.fetch(sock_path, "/held").status == 504
    assert fcgi.fetch(sock_path).text == "whole"
    assert script.workers() == worker
    assert script.stop() == 0
