"""Every file of examples/ is run as its reader would run it. (The web servers' configurations: test_webservers.py.)"""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Callable

import pytest

from harness import fcgi
from harness.notify import Notified
from harness.process import Script, listening, wait_until
from harness.tools import find, require

Run = Callable[..., Script]

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
COMMAND = [sys.executable, "-m", "fcgi_procmanager"]


def test_each_file_is_described() -> None:
    text = (EXAMPLES / "README.md").read_text()
    files = [path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.rglob("*") if path.is_file()]
    for name in files:
        if name != "README.md" and "__pycache__" not in name:
            assert f"[{name}]({name})" in text, f"examples/README.md does not mention {name}"


# The three ways to serve


@pytest.mark.parametrize(
    ("script", "options"),
    [("wsgi_server", ()), ("adopted", ()), ("adopted", ("threaded",)), ("loop", ())],
    ids=["WSGIServer", "adopt", "adopt-threaded", "loop"],
)
def test_the_three_ways(run_script: Run, sock_path: str, script: str, options: tuple[str, ...]) -> None:
    path = EXAMPLES / "three_ways" / f"{script}.py"
    server = run_script([sys.executable, path, sock_path, *options])
    server.wait_ready(2)
    before = set(server.wait_workers(2))
    for number in range(5):
        assert fcgi.fetch(sock_path, f"/{number}").text == f"hello from /{number}\n"

    server.signal(signal.SIGHUP)
    wait_until(lambda: len(now := server.workers()) == 2 and not before & set(now), 60, "new workers")
    assert fcgi.fetch(sock_path, "/again").text == "hello from /again\n"
    assert server.stop() == 0


@pytest.mark.parametrize("script", ["three_ways/wsgi_server.py", "three_ways/loop.py", "fcgid.py"])
def test_a_spawner_hands_over_descriptor_0(run_script: Run, inherited: socket.socket, script: str) -> None:
    server = run_script([sys.executable, EXAMPLES / script], stdin=inherited)
    assert fcgi.fetch(inherited.getsockname(), "/x", timeout=20).text == "hello from /x\n"
    if script == "fcgid.py":  # one process, and it waits once it has answered
        assert server.workers() == []
    assert server.stop() == 0


def test_spawn_fcgi(run_script: Run, sock_path: str) -> None:
    spawn = require("spawn-fcgi")
    server = run_script([spawn, "-n", "-s", sock_path, "--", sys.executable, EXAMPLES / "fcgid.py"])
    wait_until(lambda: listening(sock_path), 60, "the socket")
    client = find("cgi-fcgi")
    if client:
        parameters = {"REQUEST_METHOD": "GET", "PATH_INFO": "/x", "SCRIPT_NAME": "", "QUERY_STRING": ""}
        done = subprocess.run(
            [client, "-bind", "-connect", sock_path], env=parameters, capture_output=True, check=False, timeout=20
        )
        assert done.stdout.endswith(b"\r\n\r\nhello from /x\n"), done
    assert fcgi.fetch(sock_path, "/x").text == "hello from /x\n"
    assert server.stop() == 0
    os.unlink(sock_path)  # made by spawn-fcgi


# Hooks and a database


def test_each_worker_has_a_database_handle_of_its_own(run_script: Run, sock_path: str, tmp_path: Path) -> None:
    database = tmp_path / "visits.db"
    server = run_script([sys.executable, EXAMPLES / "database.py", sock_path, database])
    server.wait_ready(2)
    first = set(server.wait_workers(2))
    assert fcgi.fetch(sock_path).text == "1 visits, counted by 1 workers\n"
    server.signal(signal.SIGHUP)
    wait_until(lambda: len(now := server.workers()) == 2 and not first & set(now), 60, "new workers")
    assert fcgi.fetch(sock_path).text == "2 visits, counted by 2 workers\n"
    assert server.stop() == 0


def test_the_application_that_shows_its_request(run_script: Run, sock_path: str) -> None:
    server = run_script([*COMMAND, "serve", "app:application", "--listen", sock_path, "-n", "1"], cwd=EXAMPLES)
    server.wait_log("server .*initialized")
    lines = fcgi.fetch(sock_path, "/a?b=c", body=b"12345").text.splitlines()
    assert lines == [f"worker {server.workers()[0]}", "POST |/a?b=c", "a body of 5 bytes"]
    assert server.stop() == 0


# systemd


@pytest.fixture
def inherited(sock_path: str) -> Iterator[socket.socket]:
    """A listening socket, made by somebody else than the server."""
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(sock_path)
        listener.listen(64)
        yield listener
        os.unlink(sock_path)


@pytest.fixture
def notified() -> Iterator[Notified]:
    """Where systemd hears how a service is."""
    with closing(Notified()) as one:
        yield one


# What systemd does between its fork and the exec.
LAUNCHER = """
import os, sys
given = int(sys.argv[1])
if given != 3:
    os.dup2(given, 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[2], sys.argv[2:])
"""


UNITS = ["fcgi-procmanager.service", "notify-reload/fcgi-procmanager.service"]


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(EXAMPLES / name)
    return parser


@pytest.mark.parametrize("name", UNITS)
def test_the_units_work_as_systemd_runs_them(
    run_script: Run, inherited: socket.socket, notified: Notified, tmp_path: Path, name: str
) -> None:
    """The very ExecStart and ExecReload, with the socket on descriptor 3, notifications and the watchdog."""
    service = unit(name)["Service"]
    runtime = tmp_path / service["RuntimeDirectory"]
    runtime.mkdir()

    def options_of(key: str) -> list[str]:
        program, *options = shlex.split(service[key].replace(f"/run/{runtime.name}/", f"{runtime}/"))
        assert program == "/srv/app/.venv/bin/fcgi-procmanager"
        return options

    options = options_of("ExecStart")
    server = run_script(
        [sys.executable, "-c", LAUNCHER, str(inherited.fileno()), sys.executable, "-m", "fcgi_procmanager", *options],
        pass_fds=[inherited.fileno()],
        cwd=EXAMPLES,
        env={**notified.environment, "WATCHDOG_USEC": str(int(service["WatchdogSec"]) * 1_000_000)},
    )
    # A request that was made before anybody served: it waited in the queue of the socket.
    assert fcgi.fetch(inherited.getsockname(), "/early", timeout=20).text.splitlines()[1] == "GET |/early?"
    ready = notified.wait("READY")
    assert ready["STATUS"] == "4 of 4 servers ready"
    assert ready["MAINPID"] == str(server.pid)
    assert any("WATCHDOG" in message for message in notified.all)
    workers = set(server.workers())
    assert len(workers) == 4

    asked_at = time.monotonic_ns() // 1000
    if service["Type"] == "notify-reload":  # systemd sends the signal by itself
        assert "ExecReload" not in service
        server.signal(signal.Signals[service.get("ReloadSignal", "SIGHUP")])
    else:
        assert service["Type"] == "notify"
        subprocess.run([*COMMAND, *options_of("ExecReload")], check=True, timeout=60)
        assert not workers & set(server.workers())  # it has waited
    assert int(notified.wait("RELOADING")["MONOTONIC_USEC"]) >= asked_at, (
        "systemd takes an earlier one for another reload"
    )
    notified.wait("READY")
    assert not workers & set(server.workers())

    server.signal(signal.SIGTERM)
    assert "EXTEND_TIMEOUT_USEC" in notified.wait("STOPPING")
    assert server.wait() == 0
    server.tree_gone()
    assert os.path.exists(inherited.getsockname())  # it is systemd's
    assert list(runtime.iterdir()) == []


@pytest.mark.parametrize("name", UNITS)
def test_the_units_fit_together(name: str) -> None:
    assert unit(name)["Service"]["KillMode"] == "mixed"
    assert unit(name)["Unit"]["Requires"] == "fcgi-procmanager.socket"
    address = Path(unit("fcgi-procmanager.socket")["Socket"]["ListenStream"])
    # systemd removes that folder when the service stops, and the socket is to stay.
    assert address.parent != Path("/run", unit(name)["Service"]["RuntimeDirectory"])


def test_the_units_differ_in_their_way_to_reload_only() -> None:
    first, second = (dict(unit(name)["Service"]) for name in UNITS)
    assert {key for key in {*first, *second} if first.get(key) != second.get(key)} == {"Type", "ExecReload"}


@pytest.mark.parametrize("name", UNITS)
def test_little_is_left_to_the_units(tmp_path: Path, name: str) -> None:
    analyze = require("systemd-analyze")
    if _systemd_version(analyze) < 250:
        pytest.skip("systemd-analyze security --offline needs systemd 250")
    path = shutil.copy(EXAMPLES / name, tmp_path)
    done = subprocess.run(
        [analyze, "security", "--offline=true", "--no-pager", path],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    exposure = re.search(r"exposure level for \S+: (\d+\.\d)", done.stdout)
    assert exposure, done.stderr
    assert float(exposure[1]) < 3, done.stdout


@pytest.mark.parametrize("name", UNITS)
def test_systemd_accepts_the_units(tmp_path: Path, name: str) -> None:
    analyze = require("systemd-analyze")
    if unit(name)["Service"]["Type"] == "notify-reload" and _systemd_version(analyze) < 253:
        pytest.skip("Type=notify-reload needs systemd 253")
    for file in (name, "fcgi-procmanager.socket"):
        text = (EXAMPLES / file).read_text()
        text = text.replace("/srv/app/.venv/bin/fcgi-procmanager", sys.executable).replace("/srv/app", str(tmp_path))
        (tmp_path / Path(file).name).write_text(text)
    done = subprocess.run(
        [analyze, "verify", "--man=no", "--recursive-errors=no", str(tmp_path / "fcgi-procmanager.service")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def _systemd_version(analyze: str) -> int:
    done = subprocess.run([analyze, "--version"], capture_output=True, text=True, check=True, timeout=20)
    return int(done.stdout.split()[1])
