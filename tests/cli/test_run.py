"""`run` keeps every pool of a file: one manager for each, started, kept, told, and ended together."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable

import pytest

from cli.programs import open_gate, plain
from harness import fcgi
from harness.process import Script, alive, children, wait_until

Run = Callable[..., Script]

COMMAND = [sys.executable, "-m", "fcgi_procmanager"]
APP = """
import os

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    path = environ["PATH_INFO"]
    if path == "/held":
        print("in hand", flush=True)
        open(os.environ["GATE"]).close()
    if path.startswith("/env/"):
        return [os.environ.get(path[5:], "is not set").encode()]
    return [str(os.getppid()).encode()]
"""
WEB = """
[pool.web]
application = "myapp"
processes = 1
listen = "/SOCK.web"
{}
"""
MAPS = """
[pool.maps]
command = [{program}]
processes = 1
listen = "/SOCK.maps"
{more}
"""


class Place:
    """A folder with an application, a program and a file of options, `pools.toml`; `/SOCK` in that file is the beginning of a socket."""

    def __init__(self, folder: Path, run: Run, sock_path: str) -> None:
        self.folder, self.sock = folder, sock_path
        self._run = run
        folder.mkdir()
        os.mkfifo(folder / "gate")
        (folder / "myapp.py").write_text(APP)

    def write(self, *pools: str) -> None:
        """At once, so that nobody reads half of it."""
        aside = self.folder / "aside"
        aside.write_text("".join(pools).replace("/SOCK", self.sock))
        os.rename(aside, self.folder / "pools.toml")

    def command(self, *words: object, env: dict[str, str] | None = None, **more: Any) -> Script:
        merged = {"GATE": str(self.folder / "gate"), **(env or {})}
        return self._run([*COMMAND, *map(str, words)], env=merged, **{"cwd": self.folder, **more})

    def run(self, *words: object, ready: Sequence[str] = ("web", "maps"), **more: Any) -> Script:
        """The parent, once these pools are ready."""
        script = self.command("run", "--config", "pools.toml", "--pidfile", "run.pid", *words, **more)
        for name in ready:
            script.wait_log(rf"pool {name} is ready$")
        return script

    def ask(self, pool: str, path: str = "/") -> str:
        return fcgi.fetch(f"{self.sock}.{pool}", path, timeout=20).text


def manager(script: Script, pool: str) -> int:
    """The one that was started last."""
    return int(re.findall(rf"manager of pool {pool} \(pid (\d+)\) started$", script.log(), re.MULTILINE)[-1])


def web(more: str = "") -> str:
    return WEB.format(more)


def maps(more: str = "", program: Sequence[str] = ()) -> str:
    words = program or plain(Path())
    return MAPS.format(program=", ".join(f'"{word}"' for word in words), more=more)


def ended(script: Script, status: int = 0) -> None:
    """With this status, and with nobody left who has its standard output."""
    assert script.wait(30) == status, script.log()
    assert script.output() == ""


def stop(script: Script) -> None:
    script.signal(signal.SIGTERM)
    ended(script)


@pytest.fixture
def place(tmp_path: Path, run_script: Run, sock_path: str) -> Place:
    return Place(tmp_path / "place", run_script, sock_path)


# -- one manager for each pool --------------------------------------------------------------------------------------------


def test_every_pool_of_the_file_serves_and_a_stop_leaves_nothing(place: Place) -> None:
    place.write(web(), maps())
    script = place.run()
    assert int(place.ask("web")) == manager(script, "web")
    assert int(place.ask("maps")) in children(manager(script, "maps"))
    assert (place.folder / "run.pid").read_text() == f"{script.pid}\n"
    stop(script)
    assert {*os.listdir(place.folder)} - {"__pycache__"} == {"gate", "myapp.py", "pools.toml"}


def test_each_is_in_a_session_of_its_own_and_the_parent_loads_no_application(place: Place) -> None:
    place.write(web("preload = true"), maps())
    script = place.run()
    for pool in ("web", "maps"):
        assert os.getsid(manager(script, pool)) == manager(script, pool)
    assert "myapp" not in Path(f"/proc/{script.pid}/maps").read_text()
    script.signal_group(signal.SIGINT)  # control-C: the parent alone gets it
    ended(script)
    assert "interrupted" not in script.log()


def test_variables_that_are_meant_for_one_pool_reach_none(place: Place) -> None:
    place.write(web(), maps())
    env = {"FCGI_PROCMANAGER_PROCESSES": "3", "FCGI_PROCMANAGER_POOL_NAME": "web", "OTHER": "kept"}
    script = place.run(env=env)
    for pool in ("web", "maps"):
        assert len(children(manager(script, pool))) == 1
        assert place.ask(pool, "/env/FCGI_PROCMANAGER_PROCESSES") == "is not set"
        assert place.ask(pool, "/env/OTHER") == "kept"
    stop(script)


# -- signals --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["TERM", "INT"])
def test_a_stop_is_gentle_and_each_manager_is_asked_once(place: Place, name: str) -> None:
    place.write(web(), maps())
    script = place.run()
    with fcgi.Client(f"{place.sock}.web", timeout=20) as client:
        client.send(fcgi.request_bytes(path="/held"))
        assert script.line() == "in hand"
        script.signal(getattr(signal, f"SIG{name}"))
        script.wait_log(r"manager of pool maps .* exited with status 0$")
        open_gate(place.folder)
        reply = client.read_reply()
        assert reply.ended
        assert reply.text == str(manager(script, "web"))
    ended(script)
    assert len(re.findall(rf"manager \(pid {manager(script, 'web')}\): received signal TERM", script.log())) == 1


@pytest.mark.parametrize("insist", [False, True])
def test_quit_ends_all_at_once(place: Place, insist: bool) -> None:
    """Also after a TERM that somebody holds up."""
    place.write(web(), maps())
    script = place.run()
    with fcgi.Client(f"{place.sock}.web", timeout=20) as client:
        client.send(fcgi.request_bytes(path="/held"))
        assert script.line() == "in hand"
        if insist:
            script.signal(signal.SIGTERM)
            script.wait_log("pool maps .* exited with status 0$")
        script.signal(signal.SIGQUIT)
        ended(script, 1)


def test_a_manager_that_does_not_end_is_killed_with_all_that_it_has(place: Place) -> None:
    """Its own limit is over, and the margin."""
    place.write(web("die-timeout = 0.1"), maps())
    script = place.run()
    (worker,) = children(manager(script, "web"))
    os.kill(manager(script, "web"), signal.SIGSTOP)
    script.signal(signal.SIGTERM)
    ended(script, 1)
    assert not alive(worker)
    for left in (f"{place.sock}.web", place.folder / "run.web.control"):
        os.unlink(left)  # nobody else could


def test_usr1_opens_the_logs_anew_and_harms_nobody(place: Place) -> None:
    """One that has no log file gets that of the parent, since else it would write to the file that was moved."""
    place.write(web(), maps('log-file = "maps.log"'))
    script = place.command("run", "--config", "pools.toml", "--log-file", "run.log")
    log, own = place.folder / "run.log", place.folder / "maps.log"
    wait_until(lambda: log.exists() and log.read_text().count(" is ready") == 2, 20, script.log)
    for path in (log, own):
        os.rename(path, f"{path}.old")
    script.signal(signal.SIGUSR1)
    wait_until(lambda: log.exists() and own.exists(), 20, "new files")
    script.signal(signal.SIGHUP)
    wait_until(lambda: "sending TERM" in log.read_text() and "sending TERM" in own.read_text(), 30, log.read_text)
    stop(script)
    assert script.log() == ""


@pytest.mark.parametrize("name", ["USR1", "TTIN", "TTOU"])
def test_what_is_not_for_a_parent_changes_nothing(place: Place, name: str) -> None:
    place.write(web(), maps())
    script = place.run()
    script.signal(getattr(signal, f"SIG{name}"))
    if name != "USR1":
        script.wait_log(f"received signal {name}: ignored: send it to the manager of one pool$")
    assert [int(place.ask("web")), *children(script.pid)] == [
        manager(script, "web"),
        *sorted((manager(script, "web"), manager(script, "maps"))),
    ]
    stop(script)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the system tells nobody of the death of a parent")
def test_a_parent_that_is_killed_takes_its_pools_along_gently(place: Place) -> None:
    place.write(web(), maps())
    script = place.run()
    script.signal(signal.SIGKILL)
    ended(script, -signal.SIGKILL)
    assert script.log().count("dying: safe exit from signal TERM") == 2
    again = place.run()  # over what it has left
    stop(again)


# -- those that die -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_manager_that_ends_is_started_again(place: Place, number: signal.Signals) -> None:
    place.write(web(), maps())
    script = place.run()
    for pool in ("web", "maps"):
        before = manager(script, pool)
        os.kill(before, number)
        script.wait_log(rf"pool {pool} is ready$", 2)
        assert manager(script, pool) != before
        assert place.ask(pool)
    stop(script)


def test_one_that_goes_on_dying_is_started_later_each_time(place: Place) -> None:
    place.write(web(), maps())
    script = place.run()
    for count in range(1, 5):
        os.kill(manager(script, "web"), signal.SIGKILL)
        script.wait_log(r"manager of pool web \(pid \d+\) started$", count + 1)
    delays = script.wait_log(r"pool web: its manager exited with status 137 \(SIGKILL\); next attempt in ([\d.]+) s$")
    assert [float(match[1]) for match in delays][-1] > 0
    script.wait_log("pool web is ready$", 2)
    assert place.ask("maps")
    stop(script)


@pytest.mark.parametrize(
    ("pool", "line"),
    [
        (web('chdir = "nowhere"'), "--chdir .*nowhere: No such file or directory: name a directory that can be entered"),
        (web().replace('"myapp"', '"nosuch"'), "there is no module 'nosuch' in "),
        (maps(program=["/no/such/program"]).replace("[pool.maps]", "[pool.web]"), "/no/such/program: no such program: check its path"),
    ],
    ids=["folder", "module", "program"],
)  # fmt: skip
def test_a_mistake_at_the_first_start_ends_all(place: Place, pool: str, line: str) -> None:
    place.write(maps(), pool.replace("SOCK.maps", "SOCK.web"))
    script = place.command("run", "--config", "pools.toml", "--pidfile", "run.pid")
    ended(script, 2)
    assert re.search(rf"^fcgi-procmanager: {line}", script.log(), re.MULTILINE), script.log()
    assert script.log().splitlines()[-1] == "fcgi-procmanager: pool web cannot be started: its manager says why"
    assert not (place.folder / "run.pid").exists()


def test_one_that_never_becomes_ready_ends_all_with_1(place: Place) -> None:
    (place.folder / "dies.py").write_text("import os; os._exit(3)\n")
    place.write(maps(), web().replace('"myapp"', '"dies"'))
    script = place.command("run", "--config", "pools.toml")
    assert script.wait(90) == 1, script.log()
    assert script.output() == ""
    last = "fcgi-procmanager: pool web cannot be started: its manager says why"
    assert script.log().splitlines()[-1] == last


def test_a_mistake_later_rests_until_a_reload(place: Place) -> None:
    place.write(web('chdir = "."'), maps())
    script = place.run()
    os.rename(place.folder / "myapp.py", place.folder / "aside.py")
    os.kill(manager(script, "web"), signal.SIGTERM)
    script.wait_log("pool web has a mistake, of which its manager says more: it rests until the next reload$")
    assert children(script.pid) == [manager(script, "maps")]
    os.rename(place.folder / "aside.py", place.folder / "myapp.py")
    script.signal(signal.SIGHUP)
    script.wait_log("pool web is ready$", 2)
    assert place.ask("web")
    stop(script)
