"""`serve --watch`: a change of a Python file reloads, whatever became of the last one."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import threading
from pathlib import Path
from typing import Any, Callable

import pytest

from fcgi_procmanager.system.watcher import is_source
from harness import fcgi
from harness.inside import say  # noqa: F401 what the application below uses
from harness.process import Script, alive, children, cmdline, session, wait_dead, wait_until

Command = Callable[..., Script]

APP = """
import os
from harness.inside import say

def application(environ, start_response):
    if environ["PATH_INFO"] == "/held":
        say("in hand", os.getpid())
        open(os.environ["GATE"]).close()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"version %s"]
"""

BROKEN = "import nothing_of_that_name\n"


@pytest.fixture
def app(tmp_path: Path) -> Path:
    folder = tmp_path / "app"
    folder.mkdir()
    os.mkfifo(tmp_path / "gate")
    write(folder, "1")
    return folder


@pytest.fixture
def command(run_script: Callable[..., Script], app: Path) -> Command:
    def run(*args: object, program: tuple[str, ...] = ("-m", "fcgi_procmanager"), **kw: Any) -> Script:
        settings = {"cwd": app, "env": {"GATE": str(app.parent / "gate")}, **kw}
        return run_script([sys.executable, *program, *map(str, args)], **settings)

    return run


@pytest.fixture
def watch(command: Command, sock_path: str) -> Command:
    pytest.importorskip("watchfiles")

    def run(*args: object, workers: int = 2, fails: bool = False) -> Script:
        script = command("serve", "app", "--watch", "--listen", sock_path, "--pidfile", "pid", "-n", workers, *args)
        script.wait_log("watching /.*: a change of a Python file reloads$")
        if not fails:
            script.wait_ready(workers)
        return script

    return run


def write(folder: Path, version: str) -> None:
    """At once, as editors do."""
    aside = folder / ".new"
    aside.write_text({"broken": BROKEN, "also broken": "also = broken\n"}.get(version, APP.replace("%s", version)))
    os.rename(aside, folder / "app.py")


def wait_version(address: str, version: str) -> None:
    def answers() -> bool:
        return os.path.exists(address) and fcgi.fetch(address, timeout=30).text == f"version {version}"

    wait_until(answers, 40, f"version {version}")


def wait_everywhere(script: Script, old: list[int]) -> None:
    wait_until(lambda: not {*old} & {*workers_of(script)} and len(workers_of(script)) == len(old), 60, "new workers")


def watcher_of(script: Script) -> int:
    """Once it is alone: one that was killed may take a while to die."""

    def alone() -> list[int]:
        found = [pid for pid in children(script.pid) if "watcher" in cmdline(pid)]
        return found if len(found) == 1 else []

    return wait_until(alone, 60, "one watcher")[0]


def workers_of(script: Script) -> list[int]:
    return [pid for pid in script.workers() if session(pid) == script.pid]


def ends(script: Script, watcher: int) -> None:
    """Gently, and its watcher with it."""
    assert script.stop() == 0, script.log()
    assert not alive(watcher)


def test_a_change_reloads(watch: Command, app: Path, sock_path: str) -> None:
    script = watch()
    watcher = watcher_of(script)
    for version in ("2", "3"):
        old = workers_of(script)
        write(app, version)
        wait_everywhere(script, old)
        assert fcgi.fetch(sock_path).text == f"version {version}"
    script.wait_log(r"manager .*: app\.py changed: reloading$", 2)
    ends(script, watcher)


def test_after_a_mistake_the_traceback_is_there_and_it_goes_on(watch: Command, app: Path, sock_path: str) -> None:
    script = watch()
    old = workers_of(script)
    write(app, "broken")
    script.wait_log(r"reload failed: .*nothing_of_that_name.*; 2 old servers go on$")
    script.wait_log(r"^Traceback \(most recent call last\):\n(?:  .*\n)*ModuleNotFoundError: .*nothing_of_that_name")
    assert fcgi.fetch(sock_path).text == "version 1"
    write(app, "2")
    wait_everywhere(script, old)
    assert fcgi.fetch(sock_path).text == "version 2"
    ends(script, watcher_of(script))


def test_a_first_start_that_fails_waits_for_a_change(watch: Command, app: Path, sock_path: str) -> None:
    write(app, "broken")
    script = watch(workers=3, fails=True)
    script.wait_log(r"manager .*: app\.py:1: .*nothing_of_that_name.*; waiting for a change$")
    script.wait_log(r"^ModuleNotFoundError: .*nothing_of_that_name")
    wait_until(lambda: workers_of(script) == [], 60, "those who cannot serve to leave")
    write(app, "also broken")
    script.wait_log(r"NameError.*; waiting for a change$")
    wait_until(lambda: workers_of(script) == [], 60, "those who cannot serve to leave")
    write(app, "1")
    wait_version(sock_path, "1")
    wait_until(lambda: len(workers_of(script)) == 3, 60, "the whole pool")
    assert len(script.wait_log("waiting for a change")) == 2, "once for each"
    ends(script, watcher_of(script))


def test_a_first_start_that_crashes_waits_as_well(watch: Command, app: Path, sock_path: str) -> None:
    app.joinpath("app.py").write_text("import os\nos._exit(7)\n")
    script = watch(workers=1, fails=True)
    script.wait_log("no server ever became ready in 5 attempts; waiting for a change$")
    write(app, "1")
    wait_version(sock_path, "1")
    ends(script, watcher_of(script))


def test_a_first_start_that_fails_with_a_manager_of_its_own_waits_as_well(
    watch: Command, app: Path, sock_path: str
) -> None:
    (app / "mine.py").write_text("from fcgi_procmanager import ProcManager\nclass Mine(ProcManager): pass\n")
    write(app, "broken")
    script = watch("--manager", "mine:Mine", fails=True)
    script.wait_log("waiting for a change")
    write(app, "1")
    wait_version(sock_path, "1")
    write(app, "2")
    script.wait_log("executing the new code")
    wait_version(sock_path, "2")
    ends(script, watcher_of(script))


def test_a_preloaded_application_is_loaded_by_a_new_image(watch: Command, app: Path, sock_path: str) -> None:
    write(app, "1")
    script = watch("--preload")
    wait_version(sock_path, "1")
    former = watcher_of(script)
    for version in ("2", "3"):
        write(app, version)
        wait_version(sock_path, version)
    script.wait_log("executing the new code", 2)
    wait_until(lambda: len(children(script.pid)) == 3, 60, "two workers and one watcher")
    assert watcher_of(script) != former
    write(app, "broken")
    script.wait_log("reload failed: app.py:1: .*nothing_of_that_name")
    wait_version(sock_path, "3")
    ends(script, watcher_of(script))


def test_who_waits_for_a_change_can_be_stopped(watch: Command, app: Path) -> None:
    write(app, "broken")
    script = watch(fails=True)
    script.wait_log("waiting for a change")
    ends(script, watcher_of(script))


def test_while_it_waits_hup_tries_again(watch: Command, app: Path, sock_path: str) -> None:
    write(app, "broken")
    script = watch(fails=True)
    script.wait_log("waiting for a change")
    script.signal(signal.SIGHUP)
    script.wait_log("waiting for a change", 2)
    ends(script, watcher_of(script))


def test_a_watcher_that_dies_is_started_again_and_what_it_missed_is_loaded(
    watch: Command, app: Path, sock_path: str
) -> None:
    script = watch()
    old = workers_of(script)
    watcher = watcher_of(script)
    script.signal(signal.SIGKILL, watcher)
    wait_dead(watcher)
    write(app, "2")
    script.wait_log(r"changes are not seen: the watcher starts again in 0\.8 s$")
    script.wait_log("watching /.* from now on: reloading$")
    wait_everywhere(script, old)
    assert fcgi.fetch(sock_path).text == "version 2"
    write(app, "3")
    wait_version(sock_path, "3")
    ends(script, watcher_of(script))


def test_a_watcher_does_not_outlive_its_manager(watch: Command, sock_path: str) -> None:
    script = watch()
    watcher = watcher_of(script)
    script.signal(signal.SIGKILL)
    wait_dead(watcher)
    script.tree_gone()
    os.unlink(sock_path)


def test_what_is_not_the_application_reloads_nothing(watch: Command, app: Path, sock_path: str) -> None:
    script = watch()
    for folder in (".git", "__pycache__", "node_modules"):
        (app / folder).mkdir(exist_ok=True)
        (app / folder / "some.py").write_text("")
    for name in (".#app.py", "app.pyc", "page.html"):
        (app / name).write_text("")
    (app / "later.py").write_text("")
    script.wait_log("later.py changed: reloading$")
    write(app, "2")
    script.wait_log(r"app\.py changed: reloading$")
    assert len(script.wait_log("changed: reloading$")) == 2
    ends(script, watcher_of(script))


def test_a_folder_that_comes_with_its_files_reloads(watch: Command, app: Path, sock_path: str) -> None:
    script = watch()
    (app.parent / "package").mkdir()
    (app.parent / "package" / "__init__.py").write_text("")
    os.rename(app.parent / "package", app / "package")
    script.wait_log("package.* changed: reloading$")
    shutil.rmtree(app / "package")
    ends(script, watcher_of(script))


def test_a_slow_request_holds_nobody_up(watch: Command, app: Path, sock_path: str) -> None:
    script = watch(workers=1)

    def ask() -> None:
        with contextlib.suppress(OSError, EOFError, AssertionError):
            fcgi.fetch(sock_path, "/held")

    client = threading.Thread(target=ask)
    client.start()
    pid = int(script.line().split()[-1])
    write(app, "2")
    wait_version(sock_path, "2")
    wait_dead(pid)
    client.join(20)
    script.wait_log(rf"server \(pid {pid}\) exited with status 137 \(SIGKILL\)$")
    ends(script, watcher_of(script))


def test_the_command_reload_takes_the_watcher_for_no_worker(watch: Command, command: Command, sock_path: str) -> None:
    script = watch()
    old = workers_of(script)
    reload = command("reload", "--pidfile", "pid")
    assert reload.wait(60) == 0, reload.log()
    assert not {*old} & {*workers_of(script)}
    ends(script, watcher_of(script))


def test_a_pool_that_drains_is_not_reloaded(watch: Command, app: Path, sock_path: str) -> None:
    script = watch("--drain-delay", 300)
    old = workers_of(script)
    script.signal(signal.SIGTERM)
    script.wait_log("draining")
    write(app, "2")
    script.wait_log(r"app\.py changed: not reloading a pool that is about to end$")
    script.signal(signal.SIGTTIN)  # which is acted on after it
    wait_until(lambda: len(workers_of(script)) == 3, 60, "one more")
    assert {*old} < {*workers_of(script)}
    assert script.stop(signal.SIGQUIT) == 1


def test_without_workers_nothing_is_watched(command: Command) -> None:
    script = command("serve", "app", "--watch", "--listen", "s", "-n", "0")
    assert script.wait() == 2
    assert script.log() == "fcgi-procmanager: --watch needs a worker process: give -n 1 or more\n"


def test_without_the_library_one_line_says_what_to_install(command: Command) -> None:
    program = "import sys; from importlib import util; util.find_spec = lambda name: None; "
    program += "from fcgi_procmanager.cli import main; sys.exit(main())"
    script = command("serve", "app", "--watch", "--listen", "s", program=("-c", program))
    assert script.wait() == 2
    assert script.log() == (
        "fcgi-procmanager: --watch needs the library watchfiles: pip install 'fcgi-procmanager[watch]'\n"
    )


@pytest.mark.parametrize(
    ("path", "is_one"),
    [
        ("/a/app.py", True),
        ("/a/b/c/app.py", True),
        ("/a/app.pyc", False),
        ("/a/.app.py", False),
        ("/a/.venv/lib/app.py", False),
        ("/a/env/lib/site-packages/app.py", False),
        ("/a/__pycache__/app.py", False),
    ],
)
def test_what_is_a_source_of_the_application(path: str, is_one: bool) -> None:
    assert is_source(path, "/a") is is_one
    assert is_source(path.replace("/a/", "/.hidden/a/"), "/.hidden/a") is is_one, (
        "where the folder itself is does not matter"
    )
