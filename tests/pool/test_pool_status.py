"""What the manager says of its pool, whatever the workers do: on the control socket, and to web servers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Callable

import pytest

from harness.fcgi import cgi_params, fetch, request_bytes
from harness.pools import Pool, Steady, facts, status
from harness.process import (
    Script,
    children,
    context_switches,
    open_fds,
    patient,
    process_state,
    wait_settled,
    wait_until,
)

Run = Callable[..., Script]
COMMAND = [sys.executable, "-m", "fcgi_procmanager"]


@pytest.fixture
def pool(run_script: Run, sock_path: str) -> Pool:
    return Pool(run_script, sock_path)


@pytest.fixture
def control(tmp_path: Path) -> Path:
    return tmp_path / "app.control"


def is_at_rest(pid: int) -> bool:
    """Whether it sleeps whenever it is looked at."""
    states = []
    for _ in range(20):
        states.append(process_state(pid))
        time.sleep(0.01)
    return states.count("S") > 15


def idle(control: Path, count: int) -> None:
    """A reply comes before its worker is idle again."""
    wait_until(lambda: facts(control)["idle processes"] == count, 60, f"{count} idle workers")


def test_a_table_for_a_person(pool: Pool, control: Path) -> None:
    script = pool.start(f"3, control={str(control)!r}", 3)
    assert pool.ask().status == 200
    idle(control, 3)
    done = status(control)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("ok: 3 of 3 workers idle")
    assert max(map(len, lines)) <= 80
    for pid in script.workers():
        assert any(line.split()[:1] == [str(pid)] for line in lines)
    assert script.stop() == 0
    assert not control.exists()


def test_the_pid_file_says_where_it_is(pool: Pool, tmp_path: Path) -> None:
    script = pool.start(f"2, pidfile={str(tmp_path / 'run.pid')!r}", 2)
    done = subprocess.run(
        [*COMMAND, "status", "--pidfile", str(tmp_path / "run.pid")],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0
    assert (tmp_path / "run.control").stat().st_mode & 0o777 == 0o600
    assert script.stop() == 0
    assert sorted(os.listdir(tmp_path)) == ["script1"]


def test_json_has_the_keys_of_php_fpm(pool: Pool, control: Path, tmp_path: Path) -> None:
    script = pool.start(f"3, control={str(control)!r}, max_requests=500, pool_name='web'", 3)
    for _ in range(5):
        pool.ask()
    gate = tmp_path / "gate"
    asked = pool.at_once([f"/wait/{gate}"])
    wait_until(lambda: list(tmp_path.glob("gate.*")), 60)
    idle(control, 2)
    found = facts(control, "--full")
    assert found["pool"] == "web"
    assert found["process manager"] == "static"
    assert found["accepted conn"] == 6
    assert (found["idle processes"], found["active processes"], found["total processes"]) == (2, 1, 3)
    assert found["listen queue"] == 0
    assert found["listen queue len"] == 1024
    assert found["limits"]["n processes"] == 3
    assert found["limits"]["max requests"] == 500
    busy = [one for one in found["processes"] if one["state"] == "Running"]
    assert [(one["request method"], one["request uri"]) for one in busy] == [("GET", f"/wait/{gate}")]
    assert sum(one["requests"] for one in found["processes"]) == 6
    assert all(one["last request memory"] > 1 << 20 for one in found["processes"])
    if os.path.exists("/proc/self/smaps_rollup"):
        assert all(0 < one["memory pss"] <= one["last request memory"] for one in found["processes"])
    assert abs(found["start time"] - time.time()) < 60
    gate.touch()
    asked[0].result()
    assert script.stop() == 0


def test_it_answers_while_all_workers_are_busy_and_connections_wait(pool: Pool, control: Path, tmp_path: Path) -> None:
    script = pool.start(f"2, control={str(control)!r}", 2)
    gate = tmp_path / "gate"
    asked = pool.at_once([f"/wait/{gate}"] * 7)
    wait_until(lambda: len(list(tmp_path.glob("gate.*"))) == 2, 60)
    wait_until(lambda: facts(control)["listen queue"] == 5, 60)
    done = status(control)
    assert done.returncode == 0
    assert done.stdout.startswith("busy: all 2 workers are in a request, 5 connections wait")
    found = facts(control)
    assert found["max active processes"] == 2
    assert found["max listen queue"] == 5
    gate.touch()
    for future in asked:
        assert future.result().status == 200
    assert script.stop() == 0


def test_it_answers_while_workers_are_stopped(pool: Pool, control: Path) -> None:
    script = pool.start(f"2, control={str(control)!r}", 2)
    for pid in script.workers():
        script.signal(signal.SIGSTOP, pid)
    assert facts(control)["total processes"] == 2
    for pid in script.workers():
        script.signal(signal.SIGCONT, pid)
    assert script.stop() == 0


def test_counters_are_exact_with_kills_in_between(pool: Pool, control: Path) -> None:
    """Each request that was sent is counted once: served, or killed with its worker."""
    script = pool.start(f"4, control={str(control)!r}", 4)
    sent = killed = 0
    for number in range(400):
        sent += 1
        if number % 40 == 39:
            assert not pool.ask("/kill/KILL").ended
            killed += 1
        else:
            assert pool.ask().ended
    wait_until(lambda: facts(control)["worker deaths"] == killed, 60, "the last death")
    wait_until(lambda: facts(control)["accepted conn"] == sent, 60, "all to be counted")
    found = facts(control)
    assert found["deadly requests"] == [{"request method": "GET", "request uri": "/kill/KILL", "deaths": killed}]
    assert script.stop() == 0


def test_a_stop_and_a_reload_are_seen(pool: Pool, control: Path, tmp_path: Path) -> None:
    script = pool.start(f"2, control={str(control)!r}", 2)
    gate = tmp_path / "gate"
    asked = pool.at_once([f"/wait/{gate}"])
    wait_until(lambda: list(tmp_path.glob("gate.*")), 60)
    script.signal(signal.SIGHUP)
    wait_until(lambda: facts(control)["leaving processes"] == 1, 60)
    assert facts(control)["reloads"] == 1
    script.signal(signal.SIGTERM)
    script.wait_log("received signal TERM")
    done = status(control)
    assert done.returncode == 1
    assert done.stdout.startswith("stopping: ")
    gate.touch()
    assert asked[0].result().status == 200
    assert script.wait() == 0


def test_the_counters_go_over_a_renewal(pool: Pool, control: Path) -> None:
    script = pool.start(f"2, control={str(control)!r}", 2)
    for _ in range(7):
        pool.ask()
    before = facts(control)
    script.signal(signal.SIGUSR2)
    script.wait_log("adopted 2 servers")

    def generations() -> list[int]:
        return [one["generation"] for one in facts(control, "--full")["processes"]]

    wait_until(lambda: generations() == [1, 1], 60, "others")
    found = facts(control)
    assert found["reloads"] == 1
    assert found["accepted conn"] == 7
    assert found["start time"] == before["start time"]
    assert found["total processes"] == 2
    assert script.stop() == 0
    assert not control.exists()


@pytest.mark.parametrize("said", [b"", b"x" * 200, b"nonsense\n", b"status", b"\0\xff\n"])
def test_nonsense_does_not_disturb_it(pool: Pool, control: Path, said: bytes) -> None:
    script = pool.start(f"1, control={str(control)!r}", 1)
    wait_until(lambda: is_at_rest(script.pid), 60, "the manager to be at rest")
    before = open_fds(script.pid)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(control))
        client.sendall(said)
        client.shutdown(socket.SHUT_WR)
        client.settimeout(60)
        assert client.recv(100) == b""
    assert facts(control)["total processes"] == 1
    wait_until(lambda: open_fds(script.pid) == before, 60, "its descriptors")
    assert script.stop() == 0


def test_those_who_ask_and_say_nothing_are_let_go(pool: Pool, control: Path) -> None:
    """Sixteen at a time; the others wait, and get their turn when the first ones have had their time."""
    script = pool.start(f"1, control={str(control)!r}", 1, "answers._PATIENCE = 5\n")
    silent = [socket.socket(socket.AF_UNIX) for _ in range(20)]
    for client in silent:
        client.connect(str(control))
    silent[0].settimeout(60)
    assert silent[0].recv(1) == b""
    assert facts(control)["total processes"] == 1
    for client in silent:
        client.close()
    assert script.stop() == 0


def test_without_a_descriptor_left_the_manager_waits_and_answers_later(pool: Pool, control: Path) -> None:
    more = (
        "class Poor(PoolManager):\n    def manager_sig_handler(self, name):\n"
        "        if name not in ('TTIN', 'TTOU'):\n            return super().manager_sig_handler(name)\n"
        "        kept.extend(taken()) if name == 'TTIN' else [os.close(kept.pop()) for _ in tuple(kept)]\n"
        "        say(name)\n"
        "def taken():\n"
        "    while True:\n"
        "        try:\n            yield os.dup(0)\n"
        "        except OSError:\n            return\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))\n"
    )
    script = pool.start(f"1, control={str(control)!r}", 1, more, "Poor")
    script.signal(signal.SIGTTIN)
    assert script.line() == "TTIN"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(control))
        client.sendall(b"status\n")
        wait_until(lambda: is_at_rest(script.pid), 60, "the manager to be at rest")
        script.signal(signal.SIGTTOU)
        assert script.line() == "TTOU"
        client.settimeout(60)
        assert client.recv(100)
    assert script.stop() == 0


def test_a_mistake_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, words in (("nothing", "not running: nobody listens on"), ("file", "not running: nobody listens on")):
        done = status(tmp_path / path)
        assert done.returncode == 2
        assert words in done.stderr
        assert done.stderr.count("\n") == 1


def test_threads_of_a_worker_are_counted_together(pool: Pool, control: Path, tmp_path: Path) -> None:
    more = (
        f"manager = PoolManager(1, control={str(control)!r}, max_requests=1000)\n"
        "WSGIServer(app, manager=manager, bindAddress=sys.argv[1], threads=3).run()\n"
    )
    script = pool.start("1", 1, more)
    gate = tmp_path / "gate"
    asked = pool.at_once([f"/wait/{gate}"] * 3)
    wait_until(lambda: len(list(tmp_path.glob("gate.*"))) == 1, 60)  # one file: they are of one worker
    wait_until(lambda: facts(control)["accepted conn"] == 3, 60, "all threads at work")
    assert facts(control)["active processes"] == 1
    asked += pool.at_once(["/"] * 5)
    gate.touch()
    for future in asked:
        assert future.result().status == 200
    with Steady(pool, 6) as load:
        load.wait(100)
    assert load.failures == []
    idle(control, 1)
    assert facts(control)["accepted conn"] == 8 + load.done
    assert script.stop() == 0


# -- for web servers ------------------------------------------------------------------------------------------------------


@pytest.fixture
def page(tmp_path: Path) -> str:
    return str(tmp_path / "status.sock")


def test_the_page_for_people_and_for_programs(pool: Pool, page: str) -> None:
    script = pool.start(f"2, status_listen={page!r}", 2)
    pool.ask("/<script>alert(1)</script>")
    wait_until(lambda: b"2 of 2 workers idle" in fetch(page, "/status").body, 60)
    html = fetch(page, "/status")
    assert html.headers["content-type"] == "text/html; charset=utf-8"
    assert b"<script>alert" not in html.body
    found = json.loads(fetch(page, "/status?json&full").body)
    assert found["total processes"] == 2
    assert len(found["processes"]) == 2
    wait_until(lambda: fetch(page, "/ping").status == 200, 60)
    ping = fetch(page, "/ping")
    assert (ping.status, ping.body) == (200, b"pong\n")
    assert fetch(page, "/nothing").status == 404
    assert fetch(page, "/status", body=b"x" * 1000).status == 405
    head = fetch(page, "/status", REQUEST_METHOD="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert script.stop() == 0
    assert not os.path.exists(page)


def test_metrics_are_read_by_the_parser_of_prometheus(pool: Pool, page: str) -> None:
    parser = pytest.importorskip("prometheus_client.openmetrics.parser")
    script = pool.start(f"2, status_listen={page!r}, pool_name='a\"b'", 2)
    for _ in range(3):
        pool.ask()
    reply = fetch(page, "/metrics")
    families = {family.name: family for family in parser.text_string_to_metric_families(reply.text)}
    (requests,) = families["fcgi_procmanager_requests"].samples
    assert (requests.value, requests.labels) == (3, {"pool": 'a"b'})
    assert script.stop() == 0


def test_ping_says_no_while_it_drains(pool: Pool, page: str) -> None:
    script = pool.start(f"1, status_listen={page!r}, drain_delay=30", 1)
    wait_until(lambda: fetch(page, "/ping").status == 200, 60)
    script.signal(signal.SIGTERM)
    script.wait_log("received signal TERM")
    wait_until(lambda: fetch(page, "/ping").status == 503, 60)
    assert pool.ask().status == 200
    script.signal(signal.SIGQUIT)
    assert script.wait() == 1


def test_a_kept_connection_and_one_in_pieces(pool: Pool, page: str) -> None:
    script = pool.start(f"1, status_listen={page!r}", 1)
    data = request_bytes(cgi_params("/ping"), b"", keep=True, path="/ping")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(page)
        for at in range(len(data)):
            client.sendall(data[at : at + 1])
        client.settimeout(60)
        said = b""
        while piece := client.recv(1000):
            said += piece
    assert b"pong" in said
    assert script.stop() == 0


def test_it_answers_soon_under_load(pool: Pool, control: Path) -> None:
    """A look at the pool takes the manager milliseconds, whatever the workers do."""
    script = pool.start(f"4, control={str(control)!r}", 4)
    times = []
    with Steady(pool, 4) as load:
        load.wait(50)
        for _ in range(20):
            began = time.monotonic()
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(control))
                client.sendall(b"status\n")
                client.settimeout(60)
                while client.recv(1 << 16):
                    pass
            times.append(time.monotonic() - began)
    assert load.failures == []
    print(f"a status in {sorted(times)[10] * 1000:.1f} ms")  # pytest -rP
    assert sorted(times)[10] < patient(1)
    assert script.stop() == 0


def test_the_manager_is_not_woken_by_a_pool_that_nobody_looks_at(pool: Pool, control: Path) -> None:
    script = pool.start(f"2, control={str(control)!r}", 2)
    pool.ask()

    wait_settled(script.pid, *script.workers())
    before = context_switches(script.pid)
    threading.Event().wait(1)  # in which nothing may happen
    assert context_switches(script.pid) == before
    assert len(children(script.pid)) == 2
    assert script.stop() == 0
