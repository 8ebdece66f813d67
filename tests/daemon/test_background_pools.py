"""`serve` and `exec` in the background, as another user, with a log file: who typed the command is told the truth."""

from __future__ import annotations

import json
import os
import pwd
import signal
import socket
import stat
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

from daemon.programs import holder, readable_python
from harness import fcgi
from harness.process import Script, children, open_fds, parent, wait_until
from harness.tools import require

Run = Callable[..., Script]

NOBODY = pwd.getpwnam("nobody")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

APP = """
import os, sys

LOADED_AS = os.getuid()

def application(environ, start_response):
    sys.stderr.write("asked for %s\\n" % environ["PATH_INFO"])
    sys.stderr.flush()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d %d %s" % (LOADED_AS, os.getuid(), os.environ.get("USER", "").encode())]
"""

MANAGER = """
import os
from fcgi_procmanager import ProcManager

LOADED_AS = os.getuid()

class Manager(ProcManager):
    def manager_init(self):
        super().manager_init()
        self.notify(f"loaded as {LOADED_AS}")
"""

PROGRAM = """
import os, socket, sys
print("program", os.getuid(), os.environ.get("USER"), file=sys.stderr, flush=True)
listener = socket.socket(fileno=0)
while True:
    listener.accept()[0].close()
"""


class Place:
    """A folder that everybody can enter and that belongs to the user of the pool, and the commands that run there."""

    def __init__(self, folder: Path, run: Run) -> None:
        self.folder = folder
        self.sock, self.pid_file, self.log_file = str(folder / "s"), folder / "pid", folder / "log"
        (folder / "app.py").write_text(APP)
        (folder / "boss.py").write_text(MANAGER)
        (folder / "program.py").write_text(PROGRAM)
        self.python, self.env = sys.executable, {}
        self._run = run

    def for_nobody(self) -> None:
        self.python, self.env = readable_python()
        os.chown(self.folder, NOBODY.pw_uid, NOBODY.pw_gid)

    def command(self, *args: object, **more: Any) -> Script:
        env = {**self.env, **more.pop("env", {})}
        return self._run([self.python, "-m", "fcgi_procmanager", *map(str, args)], cwd=self.folder, env=env, **more)

    def serve(self, *options: object, spec: str = "app", **more: Any) -> Script:
        where = ("--listen", "s", "--pidfile", "pid", "-n", "2")
        return self.command("serve", spec, *where, *options, **more)

    def ask(self, path: str = "/") -> str:
        return fcgi.fetch(self.sock, path).body.decode()

    def log(self) -> str:
        return self.log_file.read_text() if self.log_file.exists() else ""

    def wait_log(self, text: str, count: int = 1) -> None:
        wait_until(lambda: self.log().count(text) >= count, 60, lambda: f"{count} {text!r} in\n{self.log()}")

    def stop(self, script: Script) -> None:
        assert self.command("stop", "--pidfile", "pid").wait() == 0
        script.tree_gone()


@pytest.fixture
def place(run_script: Run) -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="pool-", dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        yield Place(Path(folder), run_script)


# -- in the background ----------------------------------------------------------------------------------------------------


def test_the_command_ends_with_0_when_the_first_worker_is_ready(place: Place) -> None:
    script = place.serve("--daemon", "--log-file", "log")
    assert script.wait() == 0, script.log()
    assert place.ask() == f"{os.getuid()} {os.getuid()} {os.environ.get('USER', '')}" or place.ask()
    manager = holder(place.pid_file)
    assert parent(manager) != script.pid
    assert os.getsid(manager) not in (manager, script.pid)
    assert os.readlink(f"/proc/{manager}/cwd") == str(place.folder)
    assert script.log() == ""
    assert script.output() == ""  # nobody of the pool has the terminal any more
    place.stop(script)
    assert set(os.listdir(place.folder)) - {"__pycache__"} == {"app.py", "boss.py", "log", "program.py"}


def test_reload_brings_new_code_to_a_daemon(place: Place) -> None:
    script = place.serve("--daemon", "--log-file", "log")
    assert script.wait() == 0
    (place.folder / "app.py").write_text(APP.replace('b"%d %d %s"', 'b"new %d %d %s"'))
    assert place.command("reload", "--pidfile", "pid").wait(60) == 0
    assert place.ask().startswith("new ")
    place.stop(script)


@pytest.mark.parametrize(
    ("spec", "options", "status", "words"),
    [
        ("no_such_module", (), 2, "there is no module 'no_such_module'"),
        ("app:nothing", (), 2, "'app' has no attribute 'nothing'"),
        ("app", ("--preload", "--manager", "no_such_module:Manager"), 2, "there is no module 'no_such_module'"),
        ("app", ("--listen", "/no/such/folder/s"), 2, "there is no directory /no/such/folder"),
        ("app", ("--pidfile", "/no/such/folder/pid"), 2, "/no/such/folder/pid cannot be used as a PID file"),
        ("app", ("--log-file", "/no/such/folder/log"), 2, "failed to open log file:/no/such/folder/log"),
        ("app", ("--chdir", "nowhere"), 2, "--chdir nowhere: No such file or directory"),
    ],
)
@pytest.mark.parametrize("log", [(), ("--log-file", "log")])
def test_it_ends_with_the_one_line_that_says_why_not(
    place: Place, spec: str, options: tuple[str, ...], status: int, words: str, log: tuple[str, ...]
) -> None:
    script = place.serve("--daemon", *log, *options, spec=spec)
    assert script.wait() == status
    (line,) = script.log().splitlines()
    assert line.startswith("fcgi-procmanager: ")
    assert words in line
    script.tree_gone()
    assert {"pid", "s"}.isdisjoint(os.listdir(place.folder))


def test_workers_that_never_become_ready(place: Place) -> None:
    (place.folder / "boss.py").write_text(
        "import os\nfrom fcgi_procmanager import ProcManager\n"
        "class Manager(ProcManager):\n    def server_init(self): os._exit(3)\n"
    )
    script = place.serve("--daemon", "--manager", "boss:Manager")
    assert script.wait() == 1
    assert "no server ever became ready" in script.log()
    assert script.log().count("\n") == 1
    script.tree_gone()
    assert {"pid", "s"}.isdisjoint(os.listdir(place.folder))


def test_a_daemon_that_is_stopped_or_killed_before_it_is_ready(place: Place) -> None:
    (place.folder / "slow.py").write_text("import time\ntime.sleep(1000)\n")
    for number, status in ((signal.SIGTERM, 1), (signal.SIGKILL, 1)):
        script = place.serve("--daemon", "--die-timeout", "0.2", spec="slow")
        os.kill(holder(place.pid_file), number)
        assert script.wait() == status
        assert script.log().startswith("fcgi-procmanager: ")
        assert script.log().count("\n") == 1
        script.kill()


def test_a_second_daemon_is_refused_and_disturbs_nobody(place: Place) -> None:
    script = place.serve("--daemon")
    assert script.wait() == 0
    second = place.serve("--daemon", "--listen", "other")
    assert second.wait() == 2
    assert "held by process" in second.log() or "held by a living server" in second.log()
    assert place.ask()
    place.stop(script)


def test_sockets_of_systemd_are_for_the_one_who_was_started(place: Place) -> None:
    """Its number is not that of the daemon that it becomes."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(place.sock)
        listener.listen()
        code = (
            "import os, sys, fcntl; os.dup2(int(sys.argv[1]), 3, inheritable=True);"
            "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()));"
            "os.execv(sys.executable, [sys.executable, '-m', 'fcgi_procmanager', *sys.argv[2:]])"
        )
        argv = [sys.executable, "-c", code, str(listener.fileno()), "serve", "app", "--pidfile", "pid", "--daemon"]
        script = place._run(argv, cwd=place.folder, pass_fds=(listener.fileno(),))
        assert script.wait() == 0, script.log()
        assert place.ask()
        place.stop(script)


def test_what_cannot_be_combined(place: Place) -> None:
    for options, words in (
        (("-n", "0", "--daemon"), "needs a worker process"),
        (("-n", "0", "--log-file", "log"), "needs a worker process"),
        (("--log-file", "/no/such/folder/log"), "failed to open log file:/no/such/folder/log"),
        (("--log-file", "| cat"), "give a file"),
        (("--log-file", ""), "give a file"),
        (("--user", "no-such-user"), "Can't find user no-such-user"),
        (("--group", "no-such-group"), "Can't find group no-such-group"),
    ):
        script = place.serve(*options)
        assert script.wait() == 2
        assert words in script.log()
        assert script.log().count("\n") == 1


# -- the log file ---------------------------------------------------------------------------------------------------------


def test_usr1_opens_the_log_anew_in_the_manager_and_in_the_workers(place: Place) -> None:
    script = place.serve("--log-file", "log")
    place.wait_log(": initialized", 3)
    place.ask("/before")
    os.rename(place.log_file, place.folder / "old")
    script.signal(signal.SIGUSR1)
    new = str(place.log_file)
    for pid in (script.pid, *children(script.pid)):
        wait_until(lambda pid=pid: (fds := open_fds(pid)).get(1) == fds.get(2) == new, 60, f"the new log in {pid}")
    for number in range(8):
        place.ask(f"/after{number}")
    script.signal(signal.SIGHUP)
    place.wait_log("exited with status 0", 2)
    assert place.log().count("asked for /after") == 8
    assert "asked for /before" in (place.folder / "old").read_text()
    assert "after" not in (place.folder / "old").read_text()
    assert script.stop() == 0
    assert place.log().rstrip().endswith("dying: safe exit from signal TERM")
    assert script.log() == ""


def test_usr1_opens_a_log_anew_that_workers_write_through_the_manager(place: Place) -> None:
    """They have no such file open, and need no signal."""
    script = place.serve("--log-file", "log", "--log-format", "json", "--access-log", "-")
    place.wait_log('"initialized"', 3)
    place.ask("/before")
    place.wait_log("asked for /before")
    os.rename(place.log_file, place.folder / "old")
    script.signal(signal.SIGUSR1)
    wait_until(lambda: open_fds(script.pid).get(2) == str(place.log_file), 60, "the new log")
    for number in range(8):
        place.ask(f"/after{number}")
    place.wait_log("asked for /after", 8)
    assert all(f"{place.folder}/" not in " ".join(open_fds(pid).values()) for pid in children(script.pid))
    assert script.stop() == 0
    records = [json.loads(line) for line in place.log().splitlines()]
    assert sum("asked for /after" in one["message"] for one in records) == 8
    lines = [one for one in records if "/after" in one["message"] and "asked" not in one["message"]]
    assert len(lines) == 8  # of the log of requests
    assert {(one["stream"], one["level"]) for one in lines} == {("stderr", "INFO")}
    assert not any("<6>" in one["message"] for one in records)
    assert script.log() == ""


def test_usr1_at_any_moment_ends_nobody(place: Place) -> None:
    """Not a worker that has just been forked either."""
    script = place.serve("--log-file", "log")
    place.wait_log(": initialized", 3)
    for _ in range(30):
        script.signal(signal.SIGHUP)
        script.signal(signal.SIGUSR1)
    assert place.command("reload", "--pidfile", "pid").wait(60) == 0
    assert place.ask()
    assert script.stop() == 0
    assert "USR1" not in place.log()


def test_a_log_that_cannot_be_opened_anew_goes_on_as_it_was(place: Place) -> None:
    script = place.serve("--log-file", "folder/log", env={}) if (place.folder / "folder").mkdir() is None else None
    assert script is not None
    log = place.folder / "folder" / "log"
    wait_until(lambda: log.exists() and log.read_text().count(": initialized") == 3, 60)
    moved = place.folder / "moved"
    os.rename(place.folder / "folder", moved)
    script.signal(signal.SIGUSR1)
    wait_until(lambda: "failed to open log file:" in (moved / "log").read_text(), 60)
    assert place.ask()
    assert script.stop() == 0


def test_a_mistake_in_the_foreground_is_said_where_it_was_made(place: Place) -> None:
    script = place.serve("--log-file", "log", spec="no_such_module")
    assert script.wait() == 2
    assert "there is no module 'no_such_module'" in script.log()
    assert "there is no module 'no_such_module'" in place.log()


# -- another user ---------------------------------------------------------------------------------------------------------


@as_root
def test_the_pool_and_its_files_are_the_users(place: Place) -> None:
    place.for_nobody()
    script = place.serve("--daemon", "--log-file", "log", "--user", "nobody", "--manager", "boss:Manager")
    assert script.wait() == 0, script.log()
    uid = NOBODY.pw_uid
    assert place.ask() == f"{uid} {uid} nobody"
    place.wait_log(f"loaded as {uid}")
    manager = holder(place.pid_file)
    groups = " ".join(map(str, sorted(set(os.getgrouplist("nobody", NOBODY.pw_gid)))))
    for pid in (manager, *children(manager)):
        status = Path(f"/proc/{pid}/status").read_text()
        assert f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}\n" in status
        assert f"Groups:\t{groups} \n" in status
    for path in (place.sock, place.pid_file, place.log_file):
        assert os.stat(path).st_uid == uid
    assert stat.S_IMODE(os.stat(place.sock).st_mode) == 0o660
    os.rename(place.log_file, place.folder / "old")
    os.kill(manager, signal.SIGUSR1)
    wait_until(place.log_file.exists, 60, "the log anew, by the user")
    place.stop(script)
    assert {"pid", "s"}.isdisjoint(os.listdir(place.folder))


@as_root
def test_what_root_cannot_open_is_a_line_as_any_other(place: Place) -> None:
    place.for_nobody()
    where = ("--listen", "/no/such/folder/s", "--user", "nobody", "--log-file", "log", "--log-format", "json")
    script = place.command("serve", "app", *where)
    assert script.wait() == 2
    (line,) = map(json.loads, place.log().splitlines())
    assert "/no/such/folder/s" in line["message"]
    assert line["level"] == "ERROR"


@as_root
def test_the_owner_of_the_socket_file_can_be_another_one(place: Place) -> None:
    place.for_nobody()
    script = place.serve("--daemon", "--user", "nobody", "--socket-owner", "nobody:root", "--socket-mode", "600")
    assert script.wait() == 0, script.log()
    assert (os.stat(place.sock).st_uid, os.stat(place.sock).st_gid) == (NOBODY.pw_uid, 0)
    place.stop(script)


@as_root
def test_in_folders_of_root_what_cannot_be_removed_is_in_nobodys_way(place: Place) -> None:
    place.for_nobody()
    os.chown(place.folder, 0, 0)
    for _ in range(2):
        script = place.serve("--daemon", "--user", "nobody", "--log-file", "log")
        assert script.wait() == 0, script.log()
        assert place.ask()
        place.stop(script)
        assert place.pid_file.read_text() == ""


@as_root
def test_a_port_that_only_root_may_bind_and_a_browser(place: Place) -> None:
    """The web address is bound before; Caddy runs as the user."""
    place.for_nobody()
    search = {"PATH": os.pathsep.join((os.path.dirname(require("caddy")), os.environ.get("PATH", os.defpath)))}
    script = place.serve("--user", "nobody", "--web", "127.0.0.1:0", env=search)
    (found,) = script.wait_log(r"serving (http://[^\s;]+)")
    url = found[1]
    with urllib.request.urlopen(url, timeout=20) as reply:
        assert reply.read() == f"{NOBODY.pw_uid} {NOBODY.pw_uid} nobody".encode()
    assert {os.stat(f"/proc/{pid}").st_uid for pid in children(script.pid)} == {NOBODY.pw_uid}
    assert script.stop() == 0


@as_root
def test_exec_in_the_background_as_the_user(place: Place) -> None:
    place.for_nobody()
    where = ("--listen", "s", "--pidfile", "pid", "-n", "2", "--interval", "0.1")
    script = place.command(
        "exec", *where, "--daemon", "--log-file", "log", "--user", "nobody", "--", place.python, "program.py"
    )
    assert script.wait() == 0, script.log()
    place.wait_log(f"program {NOBODY.pw_uid} nobody", 2)
    manager = holder(place.pid_file)
    os.rename(place.log_file, place.folder / "old")
    before = children(manager)
    os.kill(manager, signal.SIGUSR1)
    wait_until(place.log_file.exists, 60, "the log anew")
    assert children(manager) == before  # the programs were not told: they would die of it
    assert place.command("reload", "--pidfile", "pid").wait(60) == 0
    place.wait_log(f"program {NOBODY.pw_uid} nobody", 2)
    place.stop(script)


def test_exec_of_what_cannot_be_run_in_the_background(place: Place) -> None:
    (place.folder / "bad").write_text("#!/no/such/interpreter\n")
    (place.folder / "bad").chmod(0o755)
    script = place.command("exec", "--listen", "s", "--pidfile", "pid", "--daemon", "--", "./bad")
    assert script.wait() == 2
    assert "./bad cannot be run" in script.log()
    assert script.log().count("\n") == 1
    script.tree_gone()
    assert {"pid", "s"}.isdisjoint(os.listdir(place.folder))
