"""What workers write to their standard output and standard error, in the log as whole lines."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import zlib
from pathlib import Path
from typing import Any, Callable

import pytest

from harness.fcgi import fetch
from harness.pools import Pool
from harness.process import TESTS, Script, children, open_fds, wait_until

Run = Callable[..., Script]

SITE = """
import logging, os, random, subprocess, sys, threading, time, zlib
from fcgi_procmanager import *

def fill(stream, seed, count, longest):
    chance = random.Random(seed)
    for number in range(count):
        text = bytes(chance.choices(b"abcdefghijklmnopqrstuvwxyz ", k=64)) * (chance.randrange(longest + 1) // 64)
        stream.write(f"line {os.getpid()} {number} {zlib.crc32(text)} {text.decode()}.\\n")

def app(environ, start_response):
    path, _, argument = environ["PATH_INFO"][1:].partition("/")
    if path == "fill":
        count, longest = map(int, argument.split("/"))
        both = [threading.Thread(target=fill, args=(stream, os.getpid(), count, longest)) for stream in (sys.stdout, sys.stderr)]
        for thread in both: thread.start()
        for thread in both: thread.join()
    if path == "say":
        print("out", argument)
        print("err", argument, file=sys.stderr)
    if path == "die":
        sys.stderr.write("last words")
        sys.stderr.flush()
        os._exit(3)
    if path == "half":
        os.write(1, b"half a ")
    if path == "rest":
        os.write(1, b"line " + argument.encode() + b"\\n")
    if path == "child":
        subprocess.Popen(["sh", "-c", "while [ ! -e go ]; do sleep 0.01; done; echo of the child"])
    if path == "raise":
        raise ValueError("no good")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]

{more}
WSGIServer(app, manager=PoolManager({arguments}), bindAddress=sys.argv[1]).run()
"""


@pytest.fixture
def pool(run_script: Run, sock_path: str) -> Pool:
    return Pool(run_script, sock_path, SITE)


def records(script: Script) -> list[dict[str, Any]]:
    """What is whole so far of a log in JSON."""
    whole, _, _ = script.log().rpartition("\n")
    return [json.loads(line) for line in whole.splitlines()]


def said(script: Script, **wanted: Any) -> list[dict[str, Any]]:
    return [one for one in records(script) if all(one[key] == value for key, value in wanted.items())]


def test_each_line_has_a_time_and_a_level(pool: Pool) -> None:
    script = pool.start("1, log_format='plain'", 1)
    pid = pool.pid_of("/say/a")
    stamp = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d "
    script.wait_log(rf"{stamp}INFO FastCGI: server \(pid {pid}\) stdout: out a$")
    script.wait_log(rf"{stamp}WARNING FastCGI: server \(pid {pid}\) stderr: err a$")
    assert script.stop() == 0
    assert len(re.findall(stamp, script.log(), re.MULTILINE)) == len(script.log().splitlines())
    assert re.search(r"INFO FastCGI: manager \(pid \d+\): dying: safe exit from signal TERM\n\Z", script.log())


def test_json_names_all_that_is_known(pool: Pool) -> None:
    script = pool.start("1, log_format='json', pool_name='shop'", 1)
    pid = pool.pid_of("/say/a")
    wait_until(lambda: len(said(script, pid=pid)) == 3, 60)
    pool.settle()  # one that is told to leave before it is idle says so
    assert script.stop() == 0
    found = [(one["level"], one["stream"], one["message"]) for one in records(script) if one["pid"] == pid]
    assert sorted(found) == [
        ("INFO", "log", "initialized"),
        ("INFO", "stdout", "out a"),
        ("WARNING", "stderr", "err a"),
    ]
    assert {one["pool"] for one in records(script)} == {"shop"}
    assert {one["process"] for one in records(script)} == {"manager", "server"}


LATER = """
class Later(PoolManager):
    def __init__(self, *values):
        super().__init__(*values)
        self.log_format, self.pool_name = "json", "shop"

PoolManager = Later
"""


def test_a_format_that_is_set_later_is_in_force_when_the_pool_begins(pool: Pool) -> None:
    script = pool.start("1", 1, more=LATER)
    pid = pool.pid_of("/say/a")
    wait_until(lambda: said(script, pid=pid, stream="stdout", message="out a", pool="shop"), 60, script.log)
    assert script.stop() == 0


@pytest.mark.timeout(900)
@pytest.mark.parametrize("format", ["plain", "json"])
def test_every_line_is_whole_and_there(pool: Pool, format: str) -> None:
    """Four workers, both streams of each at once. FCGI_PROCMANAGER_LINES: how many lines of 0 to 64 KiB each of them writes."""
    count = int(os.environ.get("FCGI_PROCMANAGER_LINES", "300"))
    script = pool.start(f"4, log_format={format!r}", 4)
    asked = pool.at_once([f"/fill/{count}/65536"] * 4)
    writers = {int(one.result().text) for one in asked}
    assert script.stop(timeout=60) == 0
    seen: dict[tuple[str, str], list[int]] = {}
    with open(script.log_path, encoding="utf-8") as log:
        for line in log:
            if format == "json":
                record = json.loads(line)
                stream, text = record["stream"], record["message"]
            else:
                *_, stream, text = re.fullmatch(r"\S+ [A-Z]+ FastCGI: \w+ \(pid \d+\)( \w+)?: (.*)\n", line).groups()  # type: ignore[union-attr]
            if text.startswith("line "):
                _, pid, number, check, rest = text.split(" ", 4)
                assert rest.endswith(".")
                assert zlib.crc32(rest[:-1].encode()) == int(check)
                seen.setdefault((pid, stream.strip()), []).append(int(number))
    written = {str(pid): sum(len(numbers) for (who, _), numbers in seen.items() if who == str(pid)) for pid in writers}
    assert sum(written.values()) == 4 * 2 * count
    for numbers in seen.values():
        assert numbers == [*range(count)] * (len(numbers) // count)


LOOKS_LIKE_OURS = """
LOOKS = ["a\\x1e" + "[" * 50_000, "b\\x1e1"], ["1" * 5000, "\u0661"]
plain = app
def app(environ, start_response):
    for text in LOOKS[0]: print("FastCGI: x (pid 1):", text, file=sys.stderr)
    for number in LOOKS[1]: print(f"FastCGI: x (pid {number}): a", file=sys.stderr)
    return plain(environ, start_response)
"""


def test_what_only_looks_like_a_line_of_ours_ends_nobody(pool: Pool) -> None:
    script = pool.start("1, log_format='json'", 1, LOOKS_LIKE_OURS)
    pool.pid_of()
    wait_until(lambda: len(said(script, pid=1)) == 2, 60)
    wait_until(lambda: len(said(script, stream="stderr")) == 2, 60)
    assert [one["message"] for one in said(script, pid=1)] == ["a\x1e" + "[" * 50_000, "b\x1e1"]
    assert script.stop() == 0


def test_what_a_worker_says_last_comes_before_its_end(pool: Pool) -> None:
    script = pool.start("2, log_format='json'", 2)
    for _ in range(20):
        assert not fetch(pool.address, "/die").ended
    ended = wait_until(lambda: found if len(found := said(script, stream="stderr")) == 20 else None, 60)
    assert script.stop() == 0
    lines = records(script)
    for last in ended or []:
        assert last["message"] == "last words"
        at = lines.index(last)
        assert any(
            one["message"] == f"server (pid {last['pid']}) exited with status 3"
            and one["level"] == "WARNING"
            and lines.index(one) > at
            for one in lines
        )


def test_a_traceback_is_an_error(pool: Pool) -> None:
    script = pool.start("1, log_format='json'", 1)
    assert pool.ask("/raise").status == 500
    (told,) = wait_until(lambda: said(script, stream="log", level="ERROR"), 60)
    assert told["message"] == "exception in GET /raise: ValueError: no good"
    assert (told["process"], told["method"], told["path"]) == ("server", "GET", "/raise")
    assert told["exception"].startswith("Traceback (most recent call last):\n")
    assert told["exception"].endswith("\nValueError: no good")
    assert script.stop() == 0


def test_the_manager_executes_itself_in_the_middle_of_a_line(pool: Pool) -> None:
    script = pool.start("1, log_format='json', reload_timeout=20", 1)
    pid = pool.pid_of("/half")
    script.signal(signal.SIGUSR2)
    wait_until(lambda: [one for one in records(script) if "adopted 1 server" in one["message"]], 60)
    wait_until(lambda: len(now := children(script.pid)) == 1 and now != [pid], 60)
    wait_until(lambda: said(script, stream="stdout", pid=pid, message="half a "), 60)  # it has left, and that was all
    assert [one["level"] for one in said(script, process="canary")] == []
    second = pool.pid_of("/half")
    pool.ask("/rest/here")
    wait_until(lambda: said(script, stream="stdout", pid=second, message="half a line here"), 60)
    assert script.stop() == 0


def test_what_the_canary_writes_comes_with_its_name(pool: Pool) -> None:
    more = "import os\nif os.getsid(0) == os.getpid() and os.path.exists('renewed'): print('I try', flush=True)"
    script = pool.start("1, log_format='json'", 1, more=more, cwd=os.path.dirname(pool.address))
    place = Path(pool.address).with_name("renewed")
    place.touch()
    try:
        script.signal(signal.SIGUSR2)
        wait_until(lambda: said(script, process="canary", stream="stdout", message="I try"), 60)
        wait_until(lambda: [one for one in records(script) if "adopted 1 server" in one["message"]], 60)
    finally:
        place.unlink()
    assert script.stop() == 0


def test_children_of_the_application_are_read_to_their_end(pool: Pool, tmp_path: Path) -> None:
    script = pool.start("1, log_format='json'", 1, cwd=tmp_path)
    pid = pool.pid_of("/child")
    script.signal(signal.SIGHUP)
    wait_until(lambda: len(now := children(script.pid)) == 1 and now != [pid], 60)
    (tmp_path / "go").touch()
    wait_until(lambda: said(script, pid=pid, stream="stdout", message="of the child"), 60)
    assert script.stop() == 0


def test_reloads_leave_no_pipe(pool: Pool) -> None:
    script = pool.start("3, log_format='plain'", 3)

    def reload() -> None:
        old = {*children(script.pid)}
        script.signal(signal.SIGHUP)
        wait_until(lambda: len(now := {*children(script.pid)}) == 3 and not now & old, 60)
        wait_until(lambda: pipes() == 6 + own, 60)

    def pipes() -> int:
        return sum(target.startswith("pipe:") for target in open_fds(script.pid).values())

    own = pipes() - 6
    for _ in range(5):
        reload()
    worker = children(script.pid)[0]
    # The latest one may not have come to let go of what it has from its manager.
    wait_until(lambda: sum(target.startswith("pipe:") for target in open_fds(worker).values()) <= 2 + own, 60)
    assert script.stop() == 0


def test_the_logger_of_the_application_has_the_lines(pool: Pool) -> None:
    more = """
class Handler(logging.Handler):
    def emit(self, record):
        words = [record.levelname, record.stream, str(record.worker_pid), record.getMessage()]
        os.write(2, ("handled " + " ".join(words) + "\\n").encode())
logging.getLogger("fcgi_procmanager").addHandler(Handler())
logging.getLogger("fcgi_procmanager").setLevel(logging.INFO)
"""
    script = pool.start("1, log_format='plain'", 1, more=more)
    pid = pool.pid_of("/say/a")
    script.wait_log(rf"^handled INFO stdout {pid} FastCGI: server \(pid {pid}\) stdout: out a$")
    script.wait_log(rf"^handled WARNING stderr {pid} FastCGI: server \(pid {pid}\) stderr: err a$")
    script.wait_log(rf"^handled INFO log {pid} FastCGI: server \(pid {pid}\): initialized$")
    assert script.stop() == 0
    assert all(line.startswith("handled ") for line in script.log().splitlines())


# Whoever reads the log


class Piped:
    """A pool whose standard error is a pipe that we read, or not."""

    def __init__(self, script: Path, address: str) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, sys.path)])}
        self.process = subprocess.Popen(
            [sys.executable, str(script), address], stderr=subprocess.PIPE, env=environment, start_new_session=True
        )
        self.text = b""

    def read(self, until: bytes, count: int = 1) -> None:
        """Until this has been there so many times."""
        assert self.process.stderr is not None
        while self.text.count(until) < count:
            readable, _, _ = select.select([self.process.stderr], [], [], 60)
            piece = os.read(self.process.stderr.fileno(), 1 << 16) if readable else b""
            assert piece, f"no {until!r} in {self.text[-2000:].decode()}"
            self.text += piece

    def close(self) -> None:
        self.process.kill()
        assert self.process.stderr is not None
        self.process.stderr.close()
        self.process.wait()


@pytest.fixture(params=[1])
def piped(request: pytest.FixtureRequest, tmp_path: Path, sock_path: str) -> Any:
    """Its parameter: for how many seconds the manager waits for a reader who takes nothing. A preempted one takes nothing."""
    script = tmp_path / "site.py"
    more = f"from fcgi_procmanager.pool import outlet\noutlet._PATIENCE = {request.param}\n"
    script.write_text(SITE.replace("{more}", more).replace("{arguments}", "2, log_format='json'"))
    found = Piped(script, sock_path)
    yield found
    try:
        os.killpg(found.process.pid, signal.SIGTERM)
    except ProcessLookupError:
        pass
    found.close()


@pytest.mark.leaves_socket
@pytest.mark.parametrize("piped", [60], indirect=True)
def test_a_reader_who_is_slow_gets_every_line(piped: Piped, sock_path: str) -> None:
    piped.read(b'"initialized"', 3)
    asking = threading.Thread(target=fetch, args=(sock_path, "/fill/50/65536"), kwargs={"timeout": 100})
    asking.start()
    piped.read(b'."}\n', 2 * 50)
    asking.join()
    piped.process.terminate()
    piped.read(b"dying")
    assert piped.process.wait(60) == 0
    numbers = [
        record["message"].split()[2]
        for record in map(json.loads, piped.text.splitlines())
        if record["message"].startswith("line ")
    ]
    assert sorted(map(int, numbers)) == sorted([*range(50)] * 2)


@pytest.mark.leaves_socket
def test_nobody_waits_for_a_reader_who_takes_nothing(piped: Piped, sock_path: str) -> None:
    """Twice what all buffers hold is written: requests are answered, and the rest of the log is whole and says what is missing."""
    piped.read(b'"initialized"', 3)
    for _ in range(6):
        assert fetch(sock_path, "/fill/20/65536", timeout=100).status == 200
    assert fetch(sock_path, "/say/a", timeout=100).status == 200
    piped.read(b"lines of the log were left out")
    fetch(sock_path, "/say/again", timeout=100)
    piped.read(b"err again")
    piped.process.terminate()
    piped.read(b"dying")
    assert piped.process.wait(60) == 0
    for line in piped.text.splitlines():
        json.loads(line)
