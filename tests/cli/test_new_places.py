"""`reload` where the code has moved: a link that leads elsewhere, another virtual environment, a file that is touched."""

from __future__ import annotations

import os
import signal
import sys
import sysconfig
from pathlib import Path
from typing import Callable

import pytest

from harness import fcgi
from harness.process import Script, wait_until

COMMAND = [sys.executable, "-m", "fcgi_procmanager"]

APP = """
try:
    import of_environment
except ImportError:
    of_environment = None

def app(environ, start_response):
    start_response("200 OK", [])
    return [f"RELEASE {getattr(of_environment, 'name', '-')}".encode()]
"""


class Deployed:
    """Releases in folders of their own, and `current`, which leads to one."""

    def __init__(self, place: Path, run: Callable[..., Script], sock_path: str) -> None:
        self.place = place
        self.socket = sock_path
        self._run = run
        self.python = [sys.executable]
        self.env: dict[str, str] = {}
        place.mkdir()

    def install(self, name: str) -> None:
        folder = self.place / name
        folder.mkdir()
        (folder / "app.py").write_text(APP.replace("RELEASE", name))
        self.lead("current", name)

    def lead(self, link: str, name: str) -> None:
        os.symlink(name, self.place / "aside")
        os.rename(self.place / "aside", self.place / link)

    def serve(self, *options: str, cwd: str = ".") -> Script:
        where = str(self.place / cwd)
        command = [*self.python, "-m", "fcgi_procmanager", "serve", "app:app", "-n", "2", "--listen", self.socket]
        pidfile = ["--pidfile", str(self.place / "pid")]
        self.script = self._run([*command, *pidfile, *options], cwd=where, env={"PWD": where, **self.env})
        self.script.wait_ready(2)
        return self.script

    def run_reload(self, *options: str) -> Script:
        return self._run([*COMMAND, "reload", "--pidfile", "pid", *options], cwd=self.place)

    def reload(self, *options: str) -> None:
        with self.run_reload(*options) as done:
            assert done.wait(60) == 0, done.log()

    def ask(self) -> str:
        return fcgi.fetch(self.socket).text


@pytest.fixture
def deployed(tmp_path: Path, run_script: Callable[..., Script], sock_path: str) -> Deployed:
    return Deployed(tmp_path / "place", run_script, sock_path)


@pytest.mark.parametrize("preload", [[], ["--preload"]], ids=["each", "preloaded"])
@pytest.mark.parametrize("how", ["--chdir", "directory"])
def test_a_link_that_leads_to_another_release(deployed: Deployed, how: str, preload: list[str]) -> None:
    deployed.install("r1")
    if how == "--chdir":
        script = deployed.serve("--chdir", "current", *preload)
    else:
        script = deployed.serve(*preload, cwd="current")
    assert deployed.ask() == "r1 -"
    for name in ("r2", "r3"):
        deployed.install(name)
        deployed.reload()
        assert {deployed.ask() for _ in range(4)} == {f"{name} -"}
    assert script.stop() == 0


def test_a_folder_that_is_removed_leaves_the_old_release(deployed: Deployed) -> None:
    deployed.install("r1")
    script = deployed.serve("--chdir", "current", "--preload")
    deployed.lead("current", "nowhere")
    script.signal(signal.SIGUSR2)
    script.wait_log("reload failed: --chdir current: No such file or directory")
    assert deployed.ask() == "r1 -"
    assert script.stop() == 0


def test_another_virtual_environment(deployed: Deployed) -> None:
    """Made by hand, so that it takes no second: what tells an environment is its pyvenv.cfg."""
    for name in ("v1", "v2"):
        packages = deployed.place / name / "lib" / f"python3.{sys.version_info[1]}" / "site-packages"
        packages.mkdir(parents=True)
        (packages / "of_environment.py").write_text(f"name = {name!r}")
        (packages / "others.pth").write_text("\n".join([path for path in sys.path if path and os.path.isdir(path)]))
        (deployed.place / name / "bin").mkdir()
        os.symlink(os.path.realpath(sys.executable), deployed.place / name / "bin" / "python")
        home = sysconfig.get_config_var("BINDIR")
        (deployed.place / name / "pyvenv.cfg").write_text(f"home = {home}\n")
    deployed.install("r1")
    deployed.lead("venv", "v1")
    deployed.python = [str(deployed.place / "venv" / "bin" / "python")]
    script = deployed.serve("--chdir", "current")
    assert deployed.ask() == "r1 v1"
    deployed.lead("venv", "v2")
    deployed.reload()
    assert deployed.ask() == "r1 v2"
    assert script.stop() == 0


@pytest.mark.parametrize("there", [True, False])
def test_a_file_that_is_touched(deployed: Deployed, there: bool) -> None:
    touched = deployed.place / "deploy"
    if there:
        touched.touch()
    deployed.install("r1")
    script = deployed.serve("--chdir", "current", "--touch", "deploy")
    deployed.install("r2")
    touched.touch()
    wait_until(lambda: deployed.ask() == "r2 -", 60)
    touched.unlink()
    assert script.stop() == 0
    assert len(script.wait_log("canary .* started")) == 1


SCRIPT = """
import sys
import app
from fcgi_procmanager import ProcManager, WSGIServer

manager = ProcManager(2, pidfile="../pid")
WSGIServer(app.app, manager=manager, bindAddress=sys.argv[1]).run()
"""


@pytest.fixture
def scripted(deployed: Deployed) -> tuple[Deployed, Script]:
    deployed.install("r1")
    (deployed.place / "r1" / "serve.py").write_text(SCRIPT)
    where = str(deployed.place / "current")
    script = deployed._run([sys.executable, "serve.py", deployed.socket], cwd=where, env={"PWD": where})
    script.wait_ready(2)
    return deployed, script


def test_a_script_starts_again_with_its_new_code(scripted: tuple[Deployed, Script]) -> None:
    deployed, script = scripted
    deployed.install("r2")
    (deployed.place / "r2" / "serve.py").write_text(SCRIPT)
    deployed.reload()
    assert deployed.ask() == "r1 -", "HUP is the original's"
    deployed.reload("--manager")
    assert deployed.ask() == "r2 -"
    deployed.install("r3")
    with deployed.run_reload("--manager") as done:
        assert done.wait(60) == 1
        assert "not reloaded, the old workers go on: the canary (pid " in done.log()
        assert done.log().count("\n") == 1
    assert deployed.ask() == "r2 -"
    assert script.stop() == 0


def test_who_does_not_take_new_code_is_left_alone(deployed: Deployed, run_script: Callable[..., Script]) -> None:
    source = "from fcgi_procmanager import ProcManager\nfrom harness.inside import idle\n"
    source += "manager = ProcManager(1, pidfile='pid', no_signals=True)\nmanager.manage()\nidle(manager)"
    script = run_script(source, cwd=deployed.place)
    (worker,) = script.wait_workers(1)
    with deployed.run_reload("--manager") as done:
        assert done.wait(20) == 2
        assert "does not take new code by SIGUSR2" in done.log()
    assert script.workers() == [worker]
    script.kill()
    (deployed.place / "pid").unlink()


def test_a_pool_in_the_background_executes_its_new_code(deployed: Deployed) -> None:
    """It does not detach again: the process stays."""
    deployed.install("r1")
    log = deployed.place / "log"
    options = ["--daemon", "--log-file", str(log), "--preload", "--chdir", "current"]
    command = [*COMMAND, "serve", "app:app", "-n", "2", "--listen", deployed.socket, *options]
    typed = deployed._run([*command, "--pidfile", str(deployed.place / "pid")], cwd=deployed.place)
    assert typed.wait(60) == 0, typed.log()
    pid = int((deployed.place / "pid").read_text())
    assert deployed.ask() == "r1 -"
    deployed.install("r2")
    deployed.reload()
    assert deployed.ask() == "r2 -"
    assert int((deployed.place / "pid").read_text()) == pid
    os.rename(log, log.with_suffix(".old"))
    os.kill(pid, signal.SIGUSR1)
    wait_until(log.exists, 60)
    deployed.reload()
    assert "executing the new code" in log.read_text()
    stop = deployed._run([*COMMAND, "stop", "--pidfile", "pid"], cwd=deployed.place)
    assert stop.wait(60) == 0, stop.log()
    assert "dying: safe exit" in log.read_text()
    assert not (deployed.place / "pid").exists()
