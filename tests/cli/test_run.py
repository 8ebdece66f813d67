"""`run` keeps every pool of a file: one manager for each, started, kept, told, and ended together."""

from __future__ import annotations

import json
import os
import pwd
import re
import signal
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Callable

import pytest

from cli.programs import open_gate, plain
from daemon.programs import readable_python
from harness import fcgi
from harness.notify import Notified
from harness.process import Script, alive, children, wait_until

Run = Callable[..., Script]

COMMAND = [sys.executable, "-m", "fcgi_procmanager"]
APP = """
import json
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
    place.write(web('log-file = "-"'), maps('log-file = "maps.log"'))
    script = place.command("run", "--config", "pools.toml", "--log-file", "run.log")
    log, own = place.folder / "run.log", place.folder / "maps.log"
    wait_until(lambda: log.exists() and log.read_text().count(" is ready") == 2, 20, script.log)
    for path in (log, own):
        os.rename(path, f"{path}.old")
    script.signal(signal.SIGUSR1)
    wait_until(lambda: log.exists() and own.exists(), 60, "new files")
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
    count = 1
    while "next attempt in" not in script.log():
        os.kill(manager(script, "web"), signal.SIGKILL)
        count += 1
        script.wait_log(r"manager of pool web \(pid \d+\) started$", count)
    script.wait_log(r"pool web: its manager exited with status 137 \(SIGKILL\); next attempt in 0\.[1-9] s$")
    # The last one, which leaves nothing: one of those that were killed may have become ready as well.
    script.wait_log(rf"manager of pool web \(pid {manager(script, 'web')}\) started$(?s:.*)pool web is ready$")
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


def test_the_log_file_says_why_all_of_it_ended(place: Place) -> None:
    place.write(maps(), web().replace('"myapp"', '"nosuch"'))
    script = place.command("run", "--config", "pools.toml", "--log-file", "run.log")
    ended(script, 2)
    why = "pool web cannot be started: its manager says why"
    assert script.log() == f"fcgi-procmanager: {why}\n"
    lines = (place.folder / "run.log").read_text().splitlines()
    assert [line for line in lines if why in line and " ERROR FastCGI: parent " in line]


def test_each_line_of_a_log_file_has_its_time_under_the_journal_as_well(place: Place, run_script: Run) -> None:
    place.write(maps())
    started = 'JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2) exec "$@"'
    words = (*COMMAND, "run", "--config", "pools.toml", "--log-file", "run.log")
    script = run_script(["/bin/sh", "-c", started, "sh", *words], cwd=place.folder)
    log = place.folder / "run.log"
    wait_until(lambda: log.exists() and "pool maps is ready" in log.read_text(), 60, script.log)
    stop(script)
    assert all(re.match(r"\d{4}-\S+ [A-Z]+ FastCGI: ", line) for line in log.read_text().splitlines()), log.read_text()


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


# -- a file that has changed ----------------------------------------------------------------------------------------------

OTHER = """
[pool.other]
application = "myapp"
processes = 1
listen = "/SOCK.other"
"""


@pytest.mark.parametrize("name", ["HUP", "USR2"])
def test_a_reload_starts_new_pools_stops_those_that_are_gone_and_tells_the_rest(place: Place, name: str) -> None:
    place.write(web(), maps())
    script = place.run()
    stays, goes = manager(script, "web"), manager(script, "maps")
    (worker,) = children(stays)
    place.write(web(), OTHER)
    script.signal(getattr(signal, f"SIG{name}"))
    script.wait_log("pool maps is gone from the file$")
    script.wait_log(rf"manager of pool maps \(pid {goes}\) exited with status 0$")
    script.wait_log("pool other is ready$")
    script.wait_log(rf"manager \(pid {stays}\): server \(pid {worker}\) exited with status 0$")
    assert place.ask("other")
    assert place.ask("web") == str(stays)
    assert not os.path.exists(f"{place.sock}.maps")
    place.write(web(), maps())  # back again
    script.signal(getattr(signal, f"SIG{name}"))
    script.wait_log("pool maps is ready$", 2)
    assert place.ask("maps")
    stop(script)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[pool.web]\nproceses = 2\n[pool.maps]\nx = 1\n", "pools.toml:2: unknown key proceses; did you mean processes? "
         "(and 1 more: see 'fcgi-procmanager check --config pools.toml')"),
        ("[pool.web\n", "pools.toml:1: this is not TOML: "),
        ("", "pools.toml: there is nothing in it: write a table [pool.NAME]"),
        (None, "pools.toml: No such file or directory: name a file that can be read"),
    ],
    ids=["key", "syntax", "empty", "gone"],
)  # fmt: skip
def test_a_broken_file_is_refused_as_a_whole(place: Place, text: str | None, why: str) -> None:
    place.write(web(), maps())
    script = place.run()
    before = [(pid, children(pid)) for pid in children(script.pid)]
    if text is None:
        os.unlink(place.folder / "pools.toml")
    else:
        place.write(text)
    done = place.command("reload", "--pidfile", "run.pid")
    assert done.wait(30) == 1
    assert done.log().startswith(f"fcgi-procmanager: not reloaded, every pool goes on as it is: {why}")
    assert done.log().count("\n") == 1
    script.wait_log(f"received signal HUP: refused, everything goes on as it is: {re.escape(why)}")
    assert [(pid, children(pid)) for pid in children(script.pid)] == before
    stop(script)


def test_a_pool_that_becomes_another_kind_gets_another_manager(place: Place) -> None:
    place.write(web(), OTHER)
    script = place.run(ready=("web", "other"))
    place.write(web(), maps().replace("maps", "other"))
    script.signal(signal.SIGHUP)
    script.wait_log("pool other needs another manager: it is started when the old one is gone$")
    script.wait_log("pool other is ready$", 2)
    assert int(place.ask("other")) in children(manager(script, "other"))
    stop(script)


def test_a_pool_with_another_name_waits_for_the_address(place: Place) -> None:
    place.write(web(), maps())
    script = place.run()
    with fcgi.Client(f"{place.sock}.web", timeout=20) as client:
        client.send(fcgi.request_bytes(path="/held"))
        assert script.line() == "in hand"
        place.write(web().replace("[pool.web]", "[pool.site]"), maps(), OTHER)
        script.signal(signal.SIGHUP)
        script.wait_log("pool other is ready$")
        assert "manager of pool site" not in script.log()
        open_gate(place.folder)
        assert client.read_reply().ended
    script.wait_log("pool site is ready$")
    assert place.ask("web") == str(manager(script, "site"))
    stop(script)


def test_a_manager_that_is_starting_is_told_when_it_is_ready(place: Place) -> None:
    """It would be the end of one that does not catch the signal yet."""
    (place.folder / "late.py").write_text("open('gate').close()\n" + APP)
    place.write(web().replace('"myapp"', '"late"'), maps())
    script = place.run(ready=("maps",))
    for count in (1, 2):
        script.signal(signal.SIGHUP)
        script.wait_log("received signal HUP: reloading 2 pools$", count)
    open_gate(place.folder)  # the first worker
    script.wait_log("pool web is ready$")
    open_gate(place.folder)  # that of the reload
    script.wait_log(rf"manager \(pid {manager(script, 'web')}\): server \(pid \d+\) exited with status 0$")
    assert place.ask("web") == str(manager(script, "web"))
    stop(script)


def test_options_that_exec_has_read_are_those_of_its_manager(place: Place) -> None:
    place.write(web(), maps())
    script = place.run()
    place.write(web(), maps('env = ["ADDED=yes"]'))
    script.signal(signal.SIGHUP)
    script.wait_log("pool maps has other options: 'exec' reads them when its manager is started again$")
    assert place.ask("maps", "/env/ADDED") == "is not set"
    os.kill(manager(script, "maps"), signal.SIGTERM)
    script.wait_log("pool maps is ready$", 2)
    assert place.ask("maps", "/env/ADDED") == "yes"
    stop(script)


# -- commands -------------------------------------------------------------------------------------------------------------


def test_stop_and_reload_are_over_when_all_of_it_is(place: Place) -> None:
    place.write(web(), maps())
    script = place.run()
    before = {pid for pool in ("web", "maps") for pid in children(manager(script, pool))}
    place.write(web(), maps(), OTHER)
    for options in ([], ["--manager"]):
        done = place.command("reload", "--pidfile", "run.pid", *options)
        assert done.wait(60) == 0, done.log()
        assert done.log() == ""
        after = {pid for pool in ("web", "maps", "other") for pid in children(manager(script, pool))}
        assert len(after) == 3
        assert not before & after
        before = after
    assert place.ask("other")
    done = place.command("stop", "--pidfile", "run.pid")
    assert done.wait(60) == 0
    ended(script)


def test_a_reload_says_which_pool_has_failed(place: Place) -> None:
    place.write(web(), maps())
    script = place.run()
    (place.folder / "myapp.py").write_text("import nosuch\n")
    done = place.command("reload", "--pidfile", "run.pid")
    assert done.wait(60) == 1
    assert done.log().startswith("fcgi-procmanager: pool web: not reloaded, the old workers go on: ")
    assert "No module named 'nosuch'" in done.log()
    place.write(web(), maps(), OTHER)
    (place.folder / "myapp.py").write_text(APP)
    done = place.command("reload", "--pidfile", "run.pid")
    assert done.wait(60) == 0, done.log()
    place.write(web(), maps(), OTHER.replace("myapp", "missing").replace("other", "worse"))
    done = place.command("reload", "--pidfile", "run.pid")
    assert done.wait(60) == 1
    assert done.log() == "fcgi-procmanager: pool worse has a mistake, and is not running: the log says which\n"
    stop(script)


def test_status_shows_every_pool(place: Place) -> None:
    place.write(web(), maps(), OTHER + 'pidfile = "other.pid"')
    script = place.run(ready=("web", "maps", "other"))
    script.wait_ready(2)
    done = place.command("status", "--pidfile", "run.pid")
    assert done.wait() == 0, done.log()
    text = done.output()
    assert re.findall(r"^\[(.*)\]$", text, re.MULTILINE) == ["web", "maps", "other"]
    assert f"ready: 1 of 1 servers ready (exec, manager {manager(script, 'maps')})" in text
    assert text.count("ok: 1 of 1 worker idle") == 2
    done = place.command("status", "--pidfile", "run.pid", "--json", "--full")
    assert done.wait() == 0, done.log()
    found = json.loads(done.output())
    assert {name: (one["pool"], one["command"], one["level"], one["manager pid"]) for name, one in found.items()} == {
        name: (name, command, "ok", manager(script, name))
        for name, command in (("web", "serve"), ("maps", "exec"), ("other", "serve"))
    }
    assert len(found["web"]["processes"]) == 1
    os.kill(manager(script, "web"), signal.SIGSTOP)
    done = place.command("status", "--pidfile", "run.pid")
    assert done.wait() == 0  # for all that is known
    assert "run.web.control: the manager has not answered in 5 s: its log may say why" in done.output()
    os.kill(manager(script, "web"), signal.SIGCONT)
    stop(script)


def test_a_pool_that_rests_is_seen(place: Place) -> None:
    place.write(web(), maps())
    script = place.run()
    place.write(web(), maps(), OTHER.replace("myapp", "missing"))
    script.signal(signal.SIGHUP)
    script.wait_log("pool other has a mistake")
    done = place.command("status", "--pidfile", "run.pid")
    assert done.wait() == 1
    assert "\n[other]\nresting (serve)\n" in done.output()
    stop(script)


# -- surroundings ---------------------------------------------------------------------------------------------------------


def test_systemd_is_told_when_all_are_ready(place: Place) -> None:
    place.write(web(), maps())
    with closing(Notified()) as systemd:
        script = place.run(env=systemd.environment)
        systemd.wait("READY")
        assert systemd.all[-1]["MAINPID"] == str(script.pid)
        assert systemd.all[-1]["STATUS"] == "2 of 2 pools ready"
        place.write(web(), maps(), OTHER)
        script.signal(signal.SIGHUP)
        systemd.wait("RELOADING")
        systemd.wait("READY")
        assert place.ask("other")
        assert place.ask("web", "/env/NOTIFY_SOCKET") == "is not set"
        stop(script)
        systemd.wait("STOPPING")


def test_in_the_background_once_all_are_ready(place: Place) -> None:
    place.write(web(), maps())
    words = ("run", "--config", "pools.toml", "--pidfile", "run.pid", "--log-file", "run.log", "--daemon")
    script = place.command(*words)
    assert script.wait(30) == 0, script.log()
    assert script.log() == ""
    assert place.ask("web")
    assert place.ask("maps")
    parent = int((place.folder / "run.pid").read_text())
    again = place.command(*words)
    assert again.wait(30) == 2
    assert str(parent) in again.log()
    assert place.command("stop", "--pidfile", "run.pid").wait(30) == 0
    assert not alive(parent)


def test_in_the_background_a_mistake_is_told(place: Place) -> None:
    place.write(web().replace('"myapp"', '"nosuch"'), maps())
    script = place.command("run", "--config", "pools.toml", "--log-file", "run.log", "--daemon")
    assert script.wait(30) == 2
    assert script.log() == "fcgi-procmanager: pool web cannot be started: its manager says why\n"
    assert "there is no module 'nosuch'" in (place.folder / "run.log").read_text()


@pytest.mark.parametrize(
    ("pools", "words", "line"),
    [
        (web("daemon = true"), "", "pools.toml:6: [pool.web] cannot go into the background by itself: "
         "take daemon away, and give --daemon to 'run'"),
        (web().replace("processes = 1", "processes = 0"), "", "pools.toml:4: [pool.web] has no manager with 0 processes: give 1 or more"),
        ('[pool.web]\napplication = "myapp"\n', "", "pools.toml:1: [pool.web] has no address: give it a key listen"),
        ('[pool.web]\nlisten = ":9000"\n', "", "pools.toml:1: [pool.web] has no key application"),
        ("[superdaemon]\n", "", "pools.toml: there is no pool in it: write a table [pool.NAME]"),
        (web('pidfile = "run.pid"'), "--pidfile run.pid", "pools.toml:2: [pool.web] has PLACE/run.pid as its pidfile, "
         "which belongs to 'run': choose another"),
        (web(), "--log-file |x", "--log-file '|x': give a file; for a command that reads the log, end the line with '2>&1 | COMMAND'"),
    ],
)  # fmt: skip
def test_what_a_person_can_do_wrong_is_one_line(place: Place, pools: str, words: str, line: str) -> None:
    place.write(pools)
    script = place.command("run", "--config", "pools.toml", *words.split())
    ended(script, 2)
    (said,) = script.log().replace(str(place.folder), "PLACE").splitlines()
    assert re.sub(r" \(and \d+ more.*", "", said) == f"fcgi-procmanager: {line}"


def test_check_finds_pools_that_take_a_place_from_each_other(place: Place) -> None:
    place.write("""
        [pool.one]
        application = "myapp"
        listen = ["sub/../a.sock", ":9000"]
        pidfile = "one.pid"
        [pool.two]
        application = "myapp"
        listen = "./a.sock"
        control = "one.control"
        status_listen = ":9000"
        web = "127.0.0.1:0"
        [pool.three]
        command = ["x"]
        listen = "127.0.0.1:0"
        pidfile = "./one.pid"
    """)
    script = place.command("check", "--config", "pools.toml")
    assert script.wait() == 2
    assert script.log().replace(str(place.folder), "PLACE").splitlines() == [
        "pools.toml:8: [pool.one] has the same place, as its listen: PLACE/a.sock",
        "pools.toml:9: [pool.one] has the same place, as its control: PLACE/one.control",
        "pools.toml:10: [pool.one] has the same place, as its listen: :9000",
        "pools.toml:15: [pool.one] has the same place, as its pidfile: PLACE/one.pid",
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="this is for root")
def test_a_pool_of_another_user(place: Place, run_script: Run, sock_path: str) -> None:
    """It makes no socket beside our PID file, and is ready all the same."""
    os.chmod(os.path.dirname(sock_path), 0o1777)
    python, env = readable_python()
    place.folder = Path(os.path.dirname(sock_path))
    (place.folder / "myapp.py").write_text(APP)
    place.write(web('user = "nobody"\nchdir = "."'), maps())
    words = ("run", "--config", "pools.toml", "--pidfile", "run.pid")
    env = {**env, "PYTHONDONTWRITEBYTECODE": "1"}  # on a slow machine the application is old enough to be cached
    script = run_script([python, "-m", "fcgi_procmanager", *words], env=env, cwd=place.folder)
    script.wait_log("pool web is ready$")
    script.wait_log("pool maps is ready$")
    assert f"\nUid:\t{pwd.getpwnam('nobody').pw_uid}\t" in Path(f"/proc/{manager(script, 'web')}/status").read_text()
    done = place.command("status", "--pidfile", "run.pid")
    assert done.wait() == 0, done.log()
    assert re.search(r"^\[web\]\nready.* \(serve, manager \d+\)$", done.output(), re.MULTILINE)
    stop(script)
    for name in ("myapp.py", "pools.toml"):
        (place.folder / name).unlink()
