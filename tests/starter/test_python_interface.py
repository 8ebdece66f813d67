"""`fcgi_procmanager.starter` as a module: the functions, and what it costs to import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from signal import SIGTERM
from typing import Callable

import pytest

from harness.process import Script, wait_until
from starter.sides import WORKER

Run = Callable[..., Script]

PORTS = "from fcgi_procmanager.starter import server_ports; print(server_ports())"


def _ports(env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", PORTS], env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("value", "ports"),
    [
        ("80=3", {"80": 3}),
        ("127.0.0.1:80=4;[::1]:80=5;/run/a=b.sock=6", {"127.0.0.1:80": 4, "[::1]:80": 5, "/run/a=b.sock": 6}),
        ("", {}),
    ],
)
def test_server_ports_tells_the_descriptors(value: str, ports: dict[str, int]) -> None:
    done = _ports({"SERVER_STARTER_PORT": value})
    assert (done.stdout, done.stderr) == (f"{ports}\n", "")


def test_server_ports_fails_without_a_superdaemon() -> None:
    done = _ports({})
    assert done.returncode == 1
    text = "no environment variable SERVER_STARTER_PORT. Did you start the process using server_starter?"
    assert text in done.stderr


def test_the_import_brings_little_with_it() -> None:
    """A program that only asks for its ports must not load the superdaemon, nor the rest of the package."""
    show = "import sys; before = set(sys.modules); import fcgi_procmanager.starter; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True)
    brought = set(done.stdout.split())
    heavy = {
        "argparse",
        "logging",
        "subprocess",
        "socket",
        "select",
        "psutil",
        "flup",
        "inspect",
        "dataclasses",
        "typing",
    }
    assert brought & heavy == set()
    assert len(brought) < 8, brought


FUNCTION = """
import sys
from fcgi_procmanager.starter import start_server
folder, worker, sock = sys.argv[1:]
print("status", start_server(
    path=sock, pid_file=f"{folder}/pid", status_file=f"{folder}/status", interval=0, signal_on_hup="USR1",
    exec=[sys.executable, "-S", worker, folder],
))
"""


def test_start_restart_and_stop_as_functions(run_script: Run, tmp_path: Path, sock_path: str) -> None:
    script = run_script(FUNCTION, args=[tmp_path, WORKER, sock_path])
    status, events = tmp_path / "status", tmp_path / "events"
    wait_until(lambda: status.exists() and events.exists())
    files = f"pid_file={str(tmp_path / 'pid')!r}, status_file={str(status)!r}"
    restart = run_script(f"from fcgi_procmanager.starter import restart_server\nprint(restart_server({files}))")
    restart.wait()
    assert status.read_text().startswith("2:")
    assert "got USR1 1 " in events.read_text()
    stop = run_script(
        f"from fcgi_procmanager.starter import stop_server\nprint(stop_server(pid_file={str(tmp_path / 'pid')!r}))"
    )
    stop.wait()
    assert script.wait() == 0
    assert script.output() == "status 0\n"
    assert not status.exists()


@pytest.mark.parametrize(
    ("keywords", "word"),
    [
        ("", "exec"),
        ("exec=[]", "exec"),
        ("exec='sleep 9'", "exec"),
        ("exec=['sleep', '9'], port=['abc']", "port"),
        ("exec=['sleep', '9'], interval=-1", "interval"),
        ("exec=['sleep', '9'], daemonize=True", "log"),
        ("exec=['sleep', '9'], signal_on_hup='FOO'", "signal_on_hup"),
        ("exec=['sleep', '9'], colour='red'", "colour"),
    ],
)
def test_a_wrong_argument_is_an_exception_that_names_it(run_script: Run, keywords: str, word: str) -> None:
    script = run_script(f"from fcgi_procmanager.starter import start_server\nstart_server({keywords})")
    assert script.wait() == 1
    last = script.log().splitlines()[-1]
    assert word in last
    assert "Error" in last


def test_several_ports_of_the_python_interface(run_script: Run, tmp_path: Path, sock_path: str) -> None:
    show = ["sh", "-c", 'echo "$SERVER_STARTER_PORT"; exec sleep 600']
    source = f"from fcgi_procmanager.starter import start_server\nstart_server(port=[0, '127.0.0.1:0'], path={sock_path!r}, exec={show!r})"
    script = run_script(source)
    assert script.line() == f"0=3;127.0.0.1:0=4;{sock_path}=5"
    assert script.stop(SIGTERM) == 0
