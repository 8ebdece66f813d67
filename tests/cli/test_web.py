"""`--web` and `demo`: browsers served by a Caddy that lives and ends with the manager."""

from __future__ import annotations

import http.client
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable

import pytest

from harness import fcgi
from harness.process import Script, children, cmdline, open_fds, patient, wait_dead, wait_until
from harness.tools import require

Command = Callable[..., Script]

APPLICATION = """
import os
from harness.inside import say

def application(environ, start_response):
    path = environ["PATH_INFO"]
    body = environ["wsgi.input"].read()
    if path == "/held":
        say("in hand", os.getpid())
        open(os.environ["GATE"]).close()
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    names = ("REQUEST_METHOD", "SCRIPT_NAME", "PATH_INFO", "QUERY_STRING", "REQUEST_URI", "CONTENT_LENGTH", "HTTP_X_A")
    return ["".join(f"{name}={environ.get(name, '')}\\n" for name in names).encode("latin-1"), b"%d bytes" % len(body)]
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    require("caddy")
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "pages.py").write_text(APPLICATION)
    os.mkfifo(folder / "gate")
    return folder


@pytest.fixture
def scratch(sock_path: str) -> Path:
    """Where temporary files go; nothing may be left there."""
    return Path(sock_path).parent


@pytest.fixture
def command(run_script: Callable[..., Script], app: Path, scratch: Path) -> Command:
    def run(*args: object, program: tuple[str, ...] = ("-m", "fcgi_procmanager"), **kw: Any) -> Script:
        settings = {"cwd": app, "env": {"GATE": str(app / "gate"), "TMPDIR": str(scratch)}, **kw}
        return run_script([sys.executable, *program, *map(str, args)], **settings)

    return run


@pytest.fixture
def serve(command: Command) -> Command:
    def run(*args: object, **kw: Any) -> Script:
        return command("serve", "pages", "--web", "127.0.0.1:0", "--pidfile", "pid", *args, **kw)

    return run


@pytest.fixture
def demo(command: Command) -> Command:
    def run(*args: object, **kw: Any) -> Script:
        return command("demo", "--web", "127.0.0.1:0", "--pidfile", "pid", *args, **kw)

    return run


def port_of(script: Script) -> int:
    """The port of the URL that `serve --web` puts into its log."""
    return int(script.wait_log(r"serving http://127\.0\.0\.1:(\d+)/; its status")[0][1])


def greeting(script: Script) -> int:
    """The port of the URL in the one line that `demo` prints."""
    found = re.fullmatch(
        r"http://127\.0\.0\.1:(\d+)/ is served by (\d+) workers; its status: http://127\.0\.0\.1:\d+/-/status; reload: kill -HUP (\d+); stop: Ctrl-C",
        script.line(),
    )
    assert found is not None
    assert int(found[3]) == script.pid
    return int(found[1])


def caddy_of(script: Script) -> int:
    """The pid of its Caddy, once it is one."""
    return wait_until(lambda: next((pid for pid in children(script.pid) if is_caddy(pid)), 0), 60, "a Caddy")


def is_caddy(pid: int) -> bool:
    return cmdline(pid).split()[:1] == [require("caddy")]


def workers(script: Script) -> set[int]:
    return {pid for pid in script.workers() if cmdline(pid).startswith("python-fcgi")}


def wait_gone(script: Script, *caddies: int) -> None:
    for caddy in caddies:
        wait_dead(caddy)
    script.tree_gone()


@contextmanager
def connection(port: int) -> Iterator[http.client.HTTPConnection]:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        yield client
    finally:
        client.close()


def get(port: int, path: str = "/", **kw: Any) -> tuple[int, str]:
    with connection(port) as client:
        client.request("GET", path, **kw)
        reply = client.getresponse()
        return reply.status, reply.read().decode()


# What the application sees


def test_the_application_is_at_the_root(serve: Command) -> None:
    script = serve()
    port = port_of(script)
    caddy = caddy_of(script)
    status, text = get(port, "/a%20b/c.php/d?x=1&y", headers={"X-A": "b"})
    assert status == 200
    assert text.splitlines() == [
        "REQUEST_METHOD=GET",
        "SCRIPT_NAME=",
        "PATH_INFO=/a b/c.php/d",
        "QUERY_STRING=x=1&y",
        "REQUEST_URI=/a%20b/c.php/d?x=1&y",
        "CONTENT_LENGTH=0",
        "HTTP_X_A=b",
        "0 bytes",
    ]
    assert script.stop() == 0
    wait_gone(script, caddy)
    assert "ERROR" not in script.log()


@pytest.mark.parametrize("size", [0, 1, 65536, 3_000_000])
def test_bodies_arrive_whole(serve: Command, size: int) -> None:
    script = serve()
    with connection(port_of(script)) as client:
        client.request("POST", "/", body=bytes(size))
        assert client.getresponse().read().endswith(b"\n%d bytes" % size)
        client.request("POST", "/", body=iter([bytes(size // 3), b"x"]), encode_chunked=True)
        assert client.getresponse().read().endswith(b"\n%d bytes" % (size // 3 + 1))
    assert script.stop() == 0


def test_with_an_address_of_its_own_it_is_served_there_too(serve: Command, sock_path: str) -> None:
    script = serve("--listen", sock_path)
    assert get(port_of(script))[0] == 200
    assert fcgi.fetch(sock_path).status == 200
    assert script.stop() == 0


def test_nothing_is_written_but_in_a_private_directory(
    serve: Command, app: Path, scratch: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    script = serve(env={"GATE": "", "TMPDIR": str(scratch), "HOME": str(home), "NOTIFY_SOCKET": "/no/such/socket"})
    port = port_of(script)
    assert get(port)[0] == 200
    (private,) = scratch.iterdir()
    assert private.stat().st_mode & 0o777 == 0o700
    assert script.stop() == 0
    assert list(home.iterdir()) == []
    assert list(scratch.iterdir()) == []


# Stopping


def test_a_stop_finishes_what_is_in_flight(serve: Command, app: Path) -> None:
    script = serve()
    port, caddy = port_of(script), caddy_of(script)
    with connection(port) as client:
        client.request("GET", "/held")
        script.line()
        script.signal(signal.SIGTERM)
        script.wait_log("received signal TERM")
        (app / "gate").open("w").close()
        reply = client.getresponse()
        assert reply.status == 200
        assert reply.read().endswith(b"0 bytes")
    assert script.wait() == 0
    wait_gone(script, caddy)


def test_a_second_signal_stops_at_once(serve: Command, app: Path) -> None:
    script = serve()
    port, caddy = port_of(script), caddy_of(script)
    with connection(port) as client:
        client.request("GET", "/held")
        script.line()
        script.signal(signal.SIGTERM)
        script.wait_log("received signal TERM")
        time.sleep(3)  # a span in which nothing may happen: a second TERM within it is the same one
        script.signal(signal.SIGTERM)
        assert script.wait(10) == 1
    wait_gone(script, caddy)


def test_quit_stops_at_once(serve: Command) -> None:
    script = serve()
    caddy = caddy_of(script)
    port_of(script)
    assert script.stop(signal.SIGQUIT) == 1
    wait_gone(script, caddy)


def test_the_time_limit_is_one_for_the_whole_stop(serve: Command, app: Path) -> None:
    script = serve("--die-timeout", "1")
    port, caddy = port_of(script), caddy_of(script)
    with connection(port) as client:
        client.request("GET", "/held")
        script.line()
        began = time.monotonic()
        assert script.stop() == 1
        assert time.monotonic() - began < patient(10)
    wait_gone(script, caddy)


def test_control_c_stops_gently(serve: Command, app: Path) -> None:
    script = serve()
    port, caddy = port_of(script), caddy_of(script)
    with connection(port) as client:
        client.request("GET", "/held")
        script.line()
        script.signal_group(signal.SIGINT)
        script.wait_log("received signal INT")
        (app / "gate").open("w").close()
        assert client.getresponse().status == 200
    assert script.wait() == 0
    wait_gone(script, caddy)


def test_a_killed_manager_takes_all_with_it(serve: Command, scratch: Path) -> None:
    script = serve()
    caddy = caddy_of(script)
    assert get(port_of(script))[0] == 200
    script.signal(signal.SIGKILL)
    wait_gone(script, caddy)
    assert list(scratch.rglob("*")) == [], "the last worker removes the private directory"


def test_a_request_in_flight_survives_its_manager(serve: Command, app: Path) -> None:
    script = serve()
    port, caddy = port_of(script), caddy_of(script)
    with connection(port) as client:
        client.request("GET", "/held")
        script.line()
        script.signal(signal.SIGKILL)
        script.wait()
        (app / "gate").open("w").close()
        assert client.getresponse().status == 200
    wait_gone(script, caddy)


def test_a_refusal_leaves_no_caddy_behind(command: Command, app: Path, scratch: Path) -> None:
    (app / "pages.py").write_text("broken(\n")
    script = command("serve", "pages", "--web", "127.0.0.1:0")
    assert script.wait() == 2
    assert script.log().startswith("fcgi-procmanager: pages.py:1: SyntaxError")
    assert len(script.log().splitlines()) == 1
    script.tree_gone()
    assert list(scratch.iterdir()) == []


# Reloading


@pytest.mark.parametrize("preload", [[], ["--preload"]], ids=["each", "preloaded"])
def test_a_reload_under_load_fails_no_request(serve: Command, command: Command, preload: list[str]) -> None:
    """Preloaded, the manager executes itself, and keeps its Caddy."""
    script = serve("-n", "3", *preload)
    port, before, caddy = port_of(script), workers(script), caddy_of(script)
    over, wrong, replies = threading.Event(), [], []

    def ask() -> None:
        while not over.is_set():
            try:
                status, text = get(port)
            except (OSError, http.client.HTTPException) as error:
                wrong.append(error)
            else:
                (replies if status == 200 else wrong).append((status, text))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            enough = len(replies) + 20
            wait_until(lambda: wrong or len(replies) >= enough, 60, "replies")  # noqa: B023
            assert command("reload", "--pidfile", "pid").wait(60) == 0
    finally:
        over.set()
        for thread in threads:
            thread.join(30)
    assert wrong == []
    assert not before & workers(script)
    assert caddy_of(script) == caddy
    assert ("executing the new code" in script.log()) == bool(preload)
    script.signal(signal.SIGKILL, caddy)
    script.wait_log("starting it again")
    assert get(port)[0] == 200
    assert script.stop() == 0
    wait_gone(script, caddy)


# Caddy itself


# A Go program catches a SIGSEGV that is sent to it, says where it was, and exits.
@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, r"137 \(SIGKILL\)"), (signal.SIGSEGV, "2")])
def test_a_caddy_that_dies_is_started_again(serve: Command, number: signal.Signals, status: str) -> None:
    script = serve()
    port, caddy = port_of(script), caddy_of(script)
    began = time.monotonic()
    while time.monotonic() - began < 1.2:  # one that is younger than a second is not started again
        assert get(port)[0] == 200
    script.signal(number, caddy)
    script.wait_log(rf"manager .*: web server \(pid {caddy}\) exited with status {status}$")
    script.wait_log(rf"web server \(pid {caddy}\) ended after .* s: starting it again")
    assert get(port)[0] == 200, "the socket was the manager's all the time"
    another = caddy_of(script)
    assert another != caddy
    assert script.stop() == 0
    wait_gone(script, another)


def run_patched(command: Command, patch: str, *args: object) -> Script:
    """The command with something of its web server replaced."""
    code = f"import sys; from fcgi_procmanager.cli import main, web; {patch}; sys.exit(main(sys.argv[1:]))"
    return command(*args, program=("-c", code))


def test_a_caddy_that_dies_at_once_ends_all(command: Command, scratch: Path) -> None:
    script = run_patched(command, "web.find_caddy = lambda: '/bin/false'", "demo", "--web", "127.0.0.1:0")
    assert script.wait() == 1
    script.wait_log("the web server ended at once: what it said is above")
    assert "Traceback" not in script.log()
    script.tree_gone()
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ("web.shutil.which = lambda *_, **__: None", "--web needs the web server Caddy: install fcgi-procmanager[web]"),
        ("web.find_caddy = lambda: '/etc/passwd'", "/etc/passwd cannot be run ("),
    ],
)
def test_a_caddy_that_cannot_be_run_is_one_line(command: Command, patch: str, message: str) -> None:
    script = run_patched(command, patch, "demo", "--web", "127.0.0.1:0")
    assert script.wait() == 2
    (line,) = script.log().splitlines()
    assert line.startswith(f"fcgi-procmanager: {message}")


def test_a_worker_does_not_keep_the_web_address(serve: Command) -> None:
    script = serve()
    script.wait_ready(2)
    listening = {fd: target for fd, target in open_fds(script.pid).items() if target.startswith("socket:")}
    for worker in workers(script):
        held = [target for target in open_fds(worker).values() if target.startswith("socket:")]
        assert len(held) == 1, "the FastCGI socket only"
        assert held[0] in listening.values()
    assert script.stop() == 0


# The demonstration


def test_the_demo_shows_which_worker_answered(demo: Command) -> None:
    script = demo()
    port = greeting(script)
    with connection(port) as client:
        client.request("GET", "/")
        reply = client.getresponse()
        page = reply.read().decode()
    assert reply.status == 200
    assert reply.getheader("Content-Type") == "text/html; charset=utf-8"
    assert reply.getheader("Status") is None
    worker = re.search(r"<h1>Worker <b>(\d+)</b> answered</h1>", page)
    assert worker is not None
    assert int(worker[1]) in workers(script)
    assert f"<code>kill -HUP {script.pid}</code>" in page
    assert not re.search(r"(src|href)=\"?https?:", page), "no external assets"
    status, text = get(port, "/plain")
    assert status == 200
    assert re.fullmatch(rf"worker \d+\nrequests \d+\nuptime \d+\.\d s\nmanager {script.pid}\n", text)
    assert script.stop() == 0


def test_the_demo_counts_its_requests(demo: Command) -> None:
    script = demo("-n", "1")
    port = greeting(script)
    assert [get(port, "/plain")[1].splitlines()[1] for _ in range(3)] == ["requests 1", "requests 2", "requests 3"]
    assert script.stop() == 0


@pytest.mark.parametrize("query", ["sleep=-1", "sleep=nan", "sleep=x", "sleep", "sleep=0&sleep=0", "%00"])
def test_the_demo_sleeps_only_for_numbers(demo: Command, query: str) -> None:
    script = demo("-n", "1")
    assert get(greeting(script), f"/plain?{query}")[0] == 200
    assert script.stop() == 0


def test_the_demo_has_nothing_elsewhere(demo: Command) -> None:
    script = demo("-n", "1")
    with connection(greeting(script)) as client:
        client.request("GET", "/<script>alert(1)</script>?<b>")
        reply = client.getresponse()
        assert reply.status == 404
        assert reply.getheader("Content-Type", "").startswith("text/plain")
        assert reply.getheader("X-Content-Type-Options") == "nosniff"
        reply.read()
        client.request("HEAD", "/")
        reply = client.getresponse()
        assert (reply.status, reply.read()) == (200, b"")
        client.request("GET", "/plain")
        assert client.getresponse().status == 200
    assert script.stop() == 0


def test_a_reload_changes_the_workers_of_the_demo(demo: Command, command: Command) -> None:
    script = demo()
    port = greeting(script)
    script.wait_ready(3)
    before, caddy = workers(script), caddy_of(script)
    script.signal(signal.SIGHUP)
    wait_until(lambda: len(now := workers(script)) == 3 and not now & before, 60, "new workers")
    assert int(get(port, "/plain")[1].split()[1]) in workers(script)
    assert caddy_of(script) == caddy
    assert command("reload", "--pidfile", "pid").wait(60) == 0
    assert script.stop() == 0


def test_a_stop_of_the_demo_waits_for_a_sleeping_request(demo: Command, command: Command) -> None:
    script = demo("-n", "1")
    port, caddy = greeting(script), caddy_of(script)
    script.wait_ready()
    (worker,) = workers(script)
    idle = sockets(worker)
    with connection(port) as client:
        client.request("GET", "/plain?sleep=4")
        wait_until(lambda: sockets(worker) != idle, 60, "the request to reach its worker")
        stop = command("stop", "--pidfile", "pid")
        reply = client.getresponse()
        assert reply.status == 200
        assert reply.read().startswith(b"worker %d\n" % worker)
    assert stop.wait() == 0
    assert script.wait() == 0
    wait_gone(script, caddy)


def test_the_demo_without_a_web_server(command: Command, sock_path: str) -> None:
    script = command("demo", "--listen", sock_path)
    assert script.line().startswith(f"{sock_path} is served by 3 workers; ")
    assert fcgi.fetch(sock_path, "/plain").text.startswith("worker ")
    assert not any(map(is_caddy, script.workers()))
    assert script.stop() == 0


def sockets(pid: int) -> set[str]:
    return {target for target in open_fds(pid).values() if target.startswith("socket:")}
