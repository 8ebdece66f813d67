"""The log of requests of real pools: a whole line for each request, whatever happens to the workers and to the file."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

from fcgi_procmanager import PoolManager
from fcgi_procmanager.errors import ConfigError
from harness.fcgi import Client, abort, begin, cgi_params, params_records, request_bytes
from harness.pools import Pool, Steady
from harness.process import Script, listening, open_fds, wait_until
from harness.web import WEBS, Site

Run = Callable[..., Script]

FORMAT = "%m %r%Q%q %s %b %p"

APP = """
import os, sys, time
from fcgi_procmanager import *
from fcgi_procmanager.fastcgi.response import FileWrapper

FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "file")
with open(FILE, "wb") as file:
    file.write(bytes(100_000))

def app(environ, start_response):
    path = environ["PATH_INFO"]
    plain = [("Content-Type", "text/plain")]
    if path == "/missing":
        start_response("404 Not Found", plain)
        return [b"not here"]
    if path == "/moved":
        start_response("302 Found", [("Location", "http://elsewhere/"), ("X-Why", 'it "is"')])
        return []
    if path == "/stream":
        start_response("200 OK", plain)
        return (bytes(1000) for _ in range(100))
    if path == "/write":
        write = start_response("201 Created", plain)
        write(b"12345")
        return [b"678"]
    if path == "/file":
        start_response("200 OK", plain)
        return environ.get("wsgi.file_wrapper", FileWrapper)(open(FILE, "rb"))
    if path == "/large":
        start_response("200 OK", plain)
        return [bytes(200_000)]
    if path == "/nothing":
        start_response("204 No Content", [])
        return []
    if path == "/broken":
        raise ValueError("on purpose")
    if path == "/halfway":
        write = start_response("200 OK", plain)
        write(b"12345")
        raise ValueError("on purpose")
    if path == "/body":
        environ["wsgi.input"].read()
    if path == "/stderr":
        print("an error", file=environ["wsgi.errors"])
    if path == "/fork":
        pid = os.fork()
        if not pid:
            start_response("200 OK", plain)
            return [b"of the child"]
        os.waitpid(pid, 0)
    if path == "/spin":
        until = time.thread_time() + 0.1
        while time.thread_time() < until:
            pass
    start_response("200 OK", plain)
    return [str(os.getpid()).encode()]
"""

WSGI = "\nWSGIServer(app, manager=PoolManager({arguments}), bindAddress=sys.argv[1]{more}).run()\n"
ADOPTED = """
from flup.server.fcgi_single import WSGIServer as Flup
adopt(Flup(app, bindAddress=sys.argv[1]), PoolManager({arguments})).run()
"""

LOOP = """
import sys
from fcgi_procmanager import *

manager = PoolManager({arguments})
listener = manager.listen(sys.argv[1])
manager.manage()
fcgi = FastCGI(listener, manager=manager)
while request := fcgi.accept():
    manager.pre_dispatch()
    path = request.params["PATH_INFO"]
    if path == "/plain":
        request.stdout.write("Content-Type: text/plain\\n\\nhello")
    elif path == "/status":
        request.stdout.write(b"status:  410 Gone\\r\\nContent-Type: text/plain\\r\\n")
        request.stdout.flush()
        request.stdout.write(b"\\r")
        request.stdout.flush()
        request.stdout.write(b"\\ngo")
        request.stdout.flush()
        request.stdout.write(b"ne")
    elif path == "/moved":
        request.stdout.write(b"Location: http://elsewhere/\\r\\n\\r\\n")
    elif path == "/abandoned":
        request.stdout.write(b"Content-Type: text/plain\\r\\n\\r\\nhel")
        request.abandon("on purpose")
    elif path == "/unfinished":
        request.stdout.write(b"Content-Type: text/plain\\r\\n\\r\\nlost")
        request.drop()
    request.finish()
    manager.post_dispatch()
"""


class Logged:
    """A pool with a log of requests in a file of its own."""

    def __init__(self, run: Run, folder: Path, address: str) -> None:
        self._run = run
        self.folder = folder
        self.path = folder / "requests"
        self.pool = Pool(run, address)

    def start(
        self, arguments: str, workers: int, source: str = APP + WSGI, more: str = "", log: str = "", **kw: Any
    ) -> Script:
        arguments += f", access_log={log or str(self.path)!r}"
        text = source.replace("{arguments}", arguments).replace("{more}", more)
        self.pool.script = script = self._run(text, args=[self.pool.address], **kw)
        script.wait_ready(workers)
        return script

    def lines(self, count: int = 0, path: Path | None = None) -> list[str]:
        """All of them, once there are so many: a line is written when the reply has left."""
        path = path or self.path
        wait_until(lambda: path.exists() and path.read_bytes().count(b"\n") >= count, 60, f"{count} lines")
        found = path.read_text()
        assert found == "" or found.endswith("\n")
        return found.splitlines()


@pytest.fixture
def logged(run_script: Run, tmp_path: Path, sock_path: str) -> Logged:
    return Logged(run_script, tmp_path, sock_path)


def said(logged: Logged, path: str, format: str = "", **kw: Any) -> str:
    """The line of one request, without the pid."""
    before = len(logged.lines()) if logged.path.exists() and logged.path.stat().st_size else 0
    logged.pool.ask(path, **kw)
    return logged.lines(before + 1)[-1].rpartition(" ")[0]


# -- whichever way a reply is written -----------------------------------------------------------------------------------

REPLIES = [
    ("/", {}, "GET / 200 {pid}"),
    ("/?a=b", {}, "GET /?a=b 200 {pid}"),
    ("/missing", {}, "GET /missing 404 8"),
    ("/moved", {}, "GET /moved 302 0"),
    ("/stream", {}, "GET /stream 200 100000"),
    ("/write", {}, "GET /write 201 8"),
    ("/file", {}, "GET /file 200 100000"),
    ("/large", {}, "GET /large 200 200000"),
    ("/nothing", {}, "GET /nothing 204 0"),
    ("/", {"REQUEST_METHOD": "HEAD"}, "HEAD / 200 0"),
    ("/file", {"REQUEST_METHOD": "HEAD"}, "HEAD /file 200 0"),
    ("/body", {"body": bytes(300_000)}, "POST /body 200 {pid}"),
    ("/stderr", {}, "GET /stderr 200 {pid}"),
]


@pytest.mark.parametrize(
    ("source", "more"),
    [
        pytest.param(APP + WSGI, "", id="one at a time"),
        pytest.param(APP + WSGI, ", threads=4", id="threads"),
        pytest.param(APP + ADOPTED, "", id="adopted"),
    ],
)
def test_each_reply_is_counted(logged: Logged, source: str, more: str) -> None:
    script = logged.start(f"1, access_format={FORMAT!r}", 1, source, more)
    size = str(len(str(script.workers()[0])))
    for path, kw, line in REPLIES:
        assert said(logged, path, **kw) == line.replace("{pid}", size)
    assert said(logged, "/broken").startswith("GET /broken 500 ")
    assert said(logged, "/halfway") == "GET /halfway 200 5"
    assert len(logged.lines()) == len(REPLIES) + 2
    assert {line.split()[-1] for line in logged.lines()} == {*map(str, script.workers())}
    assert script.stop() == 0


def test_a_child_of_the_application_has_no_line(logged: Logged) -> None:
    script = logged.start(f"1, access_format={FORMAT!r}", 1, more=", threads=1")
    (worker,) = script.workers()
    assert said(logged, "/fork").startswith("GET /fork 200 ")
    said(logged, "/")
    assert [int(line.split()[-1]) for line in logged.lines()] == [worker, worker]
    assert script.stop() == 0


def test_a_loop_of_the_script(logged: Logged) -> None:
    script = logged.start(f"1, access_format={FORMAT!r}", 1, LOOP)
    for path, line in (
        ("/plain", "200 5"),
        ("/status", "410 4"),
        ("/moved", "302 0"),
        ("/abandoned", "200 3"),
        ("/unfinished", "- 0"),
        ("/none", "- 0"),
    ):
        assert said(logged, path) == f"GET {path} {line}"
    assert script.stop() == 0


def test_requests_on_a_kept_connection(logged: Logged) -> None:
    script = logged.start(f"1, access_format={FORMAT!r}", 1)
    with Client(logged.pool.address) as client:
        for number in range(5):
            assert client.request(f"/{number}", keep=True).ended
    assert [line.split()[1] for line in logged.lines(5)] == [f"/{number}" for number in range(5)]
    assert script.stop() == 0


def test_a_peer_that_is_gone(logged: Logged) -> None:
    """The line says what was sent: nothing."""
    script = logged.start(f"1, access_format={FORMAT!r}", 1)
    with Client(logged.pool.address) as client:
        client.send(begin() + params_records(cgi_params("/body", b"12345")))
    assert logged.lines(1)[0].rpartition(" ")[0] == "POST /body - 0"
    with Client(logged.pool.address) as client:
        client.send(begin() + params_records(cgi_params("/body", b"12345")) + abort())
        client.read_reply()
    assert logged.lines(2)[1].startswith("POST /body ")
    assert script.stop() == 0


def test_what_is_no_request_has_no_line(logged: Logged) -> None:
    script = logged.start(f"1, access_format={FORMAT!r}", 1)
    with Client(logged.pool.address) as client:
        client.send(b"GET / HTTP/1.1\r\n\r\n")
        client.at_eof()
    assert said(logged, "/") != ""
    assert len(logged.lines()) == 1
    assert script.stop() == 0


def test_what_a_request_costs(logged: Logged) -> None:
    script = logged.start("1, access_format='%d %C %{user}C %{system}C %M %p'", 1)
    seconds, total, user, system, memory = map(float, said(logged, "/spin").split())
    assert seconds >= 0.1
    assert 0 < total <= 101
    assert abs(total - user - system) < 30
    assert 1 << 20 < memory < 1 << 30
    assert script.stop() == 0


def test_each_of_several_threads_has_its_own_cpu(logged: Logged) -> None:
    script = logged.start("1, access_format='%r %{milliseconds}d %C %p'", 1, more=", threads=4")
    asked = logged.pool.at_once(["/spin"] * 4)
    assert [one.result(100).ended for one in asked] == [True] * 4
    for line in logged.lines(4):
        _, milliseconds, share, _ = line.split()
        assert 80 < float(milliseconds) * float(share) / 100 < 250, line
    assert script.stop() == 0


def test_json_is_an_object_a_line(logged: Logged) -> None:
    script = logged.start("2, pool_name='web', access_format='json'", 2)
    logged.pool.ask('/x"y\n{}?a="b', REMOTE_USER='ann "\\')
    logged.pool.ask("/missing")
    first, second = map(json.loads, logged.lines(2))
    if first["status"] == 404:
        first, second = second, first
    assert (first["uri"], first["query"], first["remote_user"]) == ('/x"y\n{}', 'a="b', 'ann "\\')
    assert (second["status"], second["bytes"], second["method"], second["pool"]) == (404, 8, "GET", "web")
    assert {first["pid"], second["pid"]} <= {*script.workers()}
    assert script.stop() == 0


def test_a_client_forges_nothing(logged: Logged) -> None:
    script = logged.start("1", 1)
    forged = '/x" 200 5 0.1 ms\n127.0.0.1 - - [now] "GET /forged'
    logged.pool.ask("/", REQUEST_URI=forged, REMOTE_USER="a - [then]", HTTP_USER_AGENT="\n")
    (line,) = logged.lines(1)
    assert re.match(r'127\.0\.0\.1 - a\\x20-\\x20\[then\] \[\S+\] "GET /x\\x22 200 5 [^"]*forged" 200 ', line), line
    assert script.stop() == 0


# -- where it goes --------------------------------------------------------------------------------------------------------


def test_standard_error(logged: Logged) -> None:
    script = logged.start(f"1, access_format={'line ' + FORMAT!r}", 1, log="-")
    logged.pool.ask("/")
    script.wait_log(r"^line GET / 200 \d+ \d+$")
    assert script.stop() == 0


@pytest.mark.parametrize("configured", ["addHandler(logging.StreamHandler(sys.stderr))", "setLevel('INFO')"])
def test_the_logger_that_the_application_configured(logged: Logged, configured: str) -> None:
    more = f"""
import logging
logger = logging.getLogger("fcgi_procmanager.access")
logger.setLevel("INFO")
logging.basicConfig(format="%(levelname)s %(message)s uri=%(uri)s status=%(status)s", level="INFO")
logger.{configured}
"""
    script = logged.start(f"1, access_format={FORMAT!r}", 1, APP + more + WSGI)
    logged.pool.ask("/missing?a")
    script.wait_log(r"^INFO GET /missing\?a 404 8 \d+ uri=/missing status=404$")
    assert logged.path.read_text() == ""
    assert script.stop() == 0


def test_a_logger_that_wants_less_has_none(logged: Logged) -> None:
    more = "\nimport logging\nlogging.getLogger('fcgi_procmanager.access').setLevel('WARNING')\n"
    script = logged.start("1", 1, APP + more + WSGI)
    assert logged.pool.ask("/missing").status == 404
    assert script.stop() == 0
    assert logged.path.read_text() == ""


def test_without_a_pool(logged: Logged) -> None:
    logged.pool.script = script = logged._run(
        (APP + WSGI).replace("{arguments}", f"0, access_log={str(logged.path)!r}").replace("{more}", ""),
        args=[logged.pool.address],
    )
    wait_until(lambda: listening(logged.pool.address), 60)
    assert logged.pool.ask("/").status == 200
    assert '"GET /" 200 ' in logged.lines(1)[0]
    assert script.stop() == 0


def test_nothing_is_measured_where_nobody_asked() -> None:
    assert PoolManager(1)._make_request is None


def test_a_relative_path_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert PoolManager(1, access_log="a/b").access_log == str(tmp_path / "a" / "b")
    assert PoolManager(1, access_log=Path("a")).access_log == str(tmp_path / "a")
    assert PoolManager(1, access_log="-").access_log == "-"
    assert PoolManager(1).access_log is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"access_log": 5}, "access_log must be a path"),
        ({"access_log": ""}, "access_log must be a path"),
        ({"access_format": "%z"}, "access_format: '%z' at character 1"),
        ({"access_format": 5}, "access_format must be a string"),
    ],
)
def test_mistakes_are_found_at_construction(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        PoolManager(1, **arguments)


def test_a_file_that_cannot_be_opened_is_a_mistake_at_the_start(logged: Logged, run_script: Run) -> None:
    text = (APP + WSGI).replace("{arguments}", "1, access_log='/no/such/folder/file'").replace("{more}", "")
    script = run_script(text, args=[logged.pool.address])
    assert script.wait() == 1
    assert "ConfigError: access_log /no/such/folder/file: No such file or directory: name a file" in script.log()
    assert "started" not in script.log()


def test_a_link_of_somebody_else_is_not_followed(logged: Logged) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make a link of somebody else")
    os.symlink(logged.folder / "elsewhere", logged.path)
    os.chown(logged.path, 65534, 65534, follow_symlinks=False)
    manager = PoolManager(0, access_log=logged.path)
    with pytest.raises(ConfigError, match="symbolic link of another user"):
        manager.manage()


def test_the_mode_of_the_file(logged: Logged) -> None:
    script = logged.start("1", 1)
    assert logged.path.stat().st_mode & 0o777 == 0o640
    assert script.stop() == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
def test_a_full_disk_fails_no_request(logged: Logged) -> None:
    script = logged.start("1", 1, log="/dev/full")
    for _ in range(5):
        assert logged.pool.ask("/").status == 200
    found = script.wait_log("access_log /dev/full: No space left on device: lines are lost$")
    assert script.stop() == 0
    assert len(found) == script.log().count("lines are lost") == 1


def test_a_pipe_whose_reader_is_gone_fails_no_request(logged: Logged) -> None:
    os.mkfifo(logged.path)
    with pytest.raises(ConfigError, match="a pipe that nobody reads"):
        PoolManager(0, access_log=logged.path).manage()
    reader = os.open(logged.path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        script = logged.start("1", 1)
        assert logged.pool.ask("/").status == 200
        wait_until(lambda: _read(reader), 60, "a line")
    finally:
        os.close(reader)
    for _ in range(3):
        assert logged.pool.ask("/").status == 200
    script.wait_log("access_log .*: Broken pipe: lines are lost")
    assert script.stop() == 0


def test_a_pipe_that_nobody_empties_makes_nobody_wait(logged: Logged) -> None:
    os.mkfifo(logged.path)
    reader = os.open(logged.path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        script = logged.start("1, access_format='%{HTTP_X}e'", 1)
        for _ in range(200):
            assert logged.pool.ask("/", HTTP_X="x" * 500).status == 200
        script.wait_log("lines are lost")
        received = [_read(reader)]
        logged.pool.ask("/", HTTP_X="y")

        def has_come() -> bool:
            received.append(_read(reader))
            return b"".join(received).endswith(b"\ny\n")

        wait_until(has_come, 60, "the next line")
        assert {*b"".join(received).splitlines()} == {b"x" * 500, b"y"}
        assert script.stop() == 0
    finally:
        os.close(reader)


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1 << 16)
    except BlockingIOError:
        return b""


# -- killed workers -------------------------------------------------------------------------------------------------------


def test_lines_are_whole_whoever_is_killed(logged: Logged) -> None:
    """Four workers, long and short lines; one is killed again and again."""
    script = logged.start(f"4, access_format={'<' + FORMAT + ' %{HTTP_X}e>'!r}", 4)
    with Unlucky(logged.pool, 4, lambda number: {"HTTP_X": "x" * (number * 120)}) as load:
        for _ in range(40):
            load.wait(20)
            kill_one(script)
    assert script.stop() == 0
    lines, torn = whole(logged.path.read_bytes(), rb"<GET /\?\d 200 \d+ \d+ (-|x+)>")
    assert torn == []
    # A worker that is killed between the reply and its line has no line.
    assert load.answered - 40 <= len(lines) <= load.answered + 40


def whole(data: bytes, pattern: bytes) -> tuple[list[bytes], list[bytes]]:
    """The lines that match, and what is left of others: not of one that was cut where a page of the file ends, which a KILL in the
    middle of its write can do."""
    lines, torn, at = [], [], 0
    for line in data.split(b"\n")[:-1]:
        pages = range(-at % mmap.PAGESIZE or mmap.PAGESIZE, len(line), mmap.PAGESIZE)
        for start in (0, *pages):
            if re.fullmatch(pattern, line[start:]):
                lines.append(line[start:])
                break
        else:
            torn.append(line)
        at += len(line) + 1
    assert data.endswith(b"\n") or len(data) % mmap.PAGESIZE == 0
    return lines, torn


class Unlucky:
    """Requests without a pause from `clients` threads, of workers some of whom are killed. answered: those with an end."""

    def __init__(self, pool: Pool, clients: int, params: Callable[[int], dict[str, str]] = lambda number: {}) -> None:
        self._pool, self._params = pool, params
        self._over = threading.Event()
        self._counts = [0] * clients
        self._threads = [threading.Thread(target=self._work, args=(number,)) for number in range(clients)]

    def __enter__(self) -> Unlucky:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    @property
    def answered(self) -> int:
        return sum(self._counts)

    def wait(self, count: int) -> None:
        """So many more."""
        until = self.answered + count
        wait_until(lambda: self.answered >= until, 60, f"{count} requests")

    def _work(self, number: int) -> None:
        while not self._over.is_set():
            try:
                self._counts[number] += self._pool.ask(f"/?{number}", **self._params(number)).ended
            except (OSError, EOFError):
                pass  # its worker was killed


def kill_one(script: Script) -> None:
    workers = script.workers()
    if workers:
        with contextlib.suppress(ProcessLookupError):  # it was about to leave
            os.kill(workers[0], signal.SIGKILL)


# -- a log that is moved away ---------------------------------------------------------------------------------------------


def holders(script: Script, path: Path) -> list[int]:
    """The processes of the pool that have it open."""
    return [pid for pid in script.tree() if str(path) in open_fds(pid).values()]


@pytest.mark.parametrize("more", ["", ", threads=3"])
def test_a_log_that_is_moved_under_load_loses_no_line(logged: Logged, more: str) -> None:
    script = logged.start(f"3, access_format={FORMAT!r}", 3, more=more)
    moved = [logged.folder / f"requests.{number}" for number in range(5)]
    with Steady(logged.pool, 4) as load:
        for path in moved:
            load.wait(50)
            os.rename(logged.path, path)
            script.signal(signal.SIGUSR1)
            wait_until(lambda path=path: not holders(script, path), 60, "everybody to let go of the moved file")
    assert load.failures == []
    assert script.stop() == 0
    lines = [line for path in (*moved, logged.path) for line in logged.lines(path=path)]
    assert len(lines) == load.done
    assert [line for line in lines if not re.fullmatch(r"GET / 200 \d+ \d+", line)] == []


def test_usr1_at_any_moment_of_a_worker(logged: Logged) -> None:
    """While workers are replaced: nobody dies of it, and nobody keeps the file that was moved."""
    script = logged.start(f"3, access_format={FORMAT!r}, reload='rolling', max_requests=15", 3)
    with Unlucky(logged.pool, 2) as load:
        for number in range(60):
            load.wait(3)
            if number % 3 == 0:
                script.signal(signal.SIGHUP)
            else:
                kill_one(script)
            time.sleep(number % 7 * 0.002)  # another moment of the start of a worker each time
            moved = logged.folder / f"moved.{number}"
            os.rename(logged.path, moved)
            script.signal(signal.SIGUSR1)
            wait_until(lambda moved=moved: not holders(script, moved), 60, f"everybody to let go of {moved}")
            wait_until(logged.path.exists, 60)
    assert script.stop() == 0
    assert "USR1" not in script.log()
    assert "status 138" not in script.log()


def test_a_request_in_hand_goes_on_in_the_new_file(logged: Logged) -> None:
    script = logged.start(f"1, access_format={FORMAT!r}", 1)
    with Client(logged.pool.address) as client:
        asked = request_bytes({}, b"12345", path="/body")
        client.send(asked[:-20])  # the worker waits for the rest of the body
        moved = logged.folder / "moved"
        os.rename(logged.path, moved)
        script.signal(signal.SIGUSR1)
        wait_until(lambda: logged.path.exists() and not holders(script, moved), 60, "the new file")
        client.send(asked[-20:])
        assert client.read_reply().ended
    assert logged.lines(1)[0].startswith("POST /body 200 ")
    assert moved.read_text() == ""
    assert script.stop() == 0


def test_a_file_that_cannot_be_opened_anew_goes_on_as_it_was(logged: Logged) -> None:
    folder = logged.folder / "folder"
    folder.mkdir()
    logged.path = folder / "requests"
    script = logged.start(f"1, access_format={FORMAT!r}", 1)
    moved = logged.folder / "moved"
    os.rename(folder, moved)
    script.signal(signal.SIGUSR1)
    script.wait_log(r"manager \(pid \d+\): access_log .*: No such file.*; the former one goes on")
    wait_until(lambda: logged.pool.ask("/").ended and "server" in _said_by(script), 60, "a word of the worker")
    assert logged.lines(1, moved / "requests")
    assert script.stop() == 0


def _said_by(script: Script) -> set[str]:
    return {found[1] for found in re.finditer(r"(\w+) \(pid \d+\): access_log", script.log())}


def test_a_manager_that_executes_itself_opens_it_once_more(logged: Logged) -> None:
    script = logged.start(f"2, access_format={FORMAT!r}", 2)
    before = {*script.workers()}
    fds = len(open_fds(script.pid))
    with Steady(logged.pool, 2) as load:
        load.wait(20)
        script.signal(signal.SIGUSR2)
        wait_until(lambda: len(now := {*script.workers()}) == 2 and not now & before, 60, "other workers")
        load.wait(20)
    assert load.failures == []
    assert list(open_fds(script.pid).values()).count(str(logged.path)) == 1
    assert len(open_fds(script.pid)) <= fds + 1
    moved = logged.folder / "moved"
    os.rename(logged.path, moved)
    script.signal(signal.SIGUSR1)
    wait_until(lambda: not holders(script, moved), 60, "everybody to let go of it")
    assert script.stop() == 0
    # The line of a request that was answered just now may come behind the move.
    assert len(logged.lines(path=moved)) + len(logged.lines()) == load.done


NEWCOMER = """
import os, sys, time
from fcgi_procmanager import *

HERE = os.path.dirname(os.path.abspath(__file__))

def app(environ, start_response):
    open(os.path.join(HERE, "held"), "w").close()
    while not os.path.exists(os.path.join(HERE, "go")):
        time.sleep(0.005)
    start_response("200 OK", [])
    return []

log = sys.argv[2] if os.path.exists(os.path.join(HERE, "new")) else None
WSGIServer(app, manager=PoolManager(1, access_log=log), bindAddress=sys.argv[1]).run()
"""


def test_a_worker_without_the_log_survives_usr1(logged: Logged, run_script: Run) -> None:
    """New code may bring the log: those of before have no handler for the signal."""
    logged.pool.script = script = run_script(NEWCOMER, args=[logged.pool.address, logged.path])
    script.wait_ready(1)
    (old,) = script.workers()
    held = logged.pool.at_once(["/"])[0]
    wait_until((script.directory / "held").exists, 60, "the request")
    (script.directory / "new").touch()
    script.signal(signal.SIGUSR2)
    wait_until(logged.path.exists, 60, "the new image")
    os.rename(logged.path, logged.folder / "moved")
    script.signal(signal.SIGUSR1)
    wait_until(logged.path.exists, 60, "the new file")
    (script.directory / "go").touch()
    assert held.result(100).ended
    script.wait_log(rf"server \(pid {old}\) exited with status 0$")
    assert script.stop() == 0


# -- the command, and a web server ------------------------------------------------------------------------------------------

COMMAND = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]
"""


@pytest.fixture
def command(run_script: Run, tmp_path: Path) -> Callable[..., Script]:
    (tmp_path / "hello.py").write_text(COMMAND)

    def run(*arguments: object) -> Script:
        return run_script([sys.executable, "-m", "fcgi_procmanager", *map(str, arguments)], cwd=tmp_path)

    return run


def test_the_command(command: Callable[..., Script], tmp_path: Path, sock_path: str) -> None:
    options = ("--access-log", "requests", "--access-format", FORMAT)
    script = command("serve", "hello:application", "-n", 2, "--listen", sock_path, *options)
    script.wait_ready(2)
    with Client(sock_path) as client:
        assert client.request("/x").text == "hello"
    wait_until(lambda: (tmp_path / "requests").read_text().startswith("GET /x 200 5 "), 60, "a line")
    assert script.stop() == 0


def test_a_mistake_in_the_format_is_told_by_the_command(command: Callable[..., Script], tmp_path: Path) -> None:
    script = command("serve", "hello:application", "--access-format", "%z")
    assert script.wait() == 2
    assert "--access-format: access_format: '%z' at character 1 is none of" in script.log()
    (tmp_path / "app.toml").write_text(
        '[pool.a]\napplication = "hello:application"\naccess-format = "%z"\naccess-log = "-"\n'
    )
    script = command("check", "--config", "app.toml")
    assert script.wait() == 2
    assert "app.toml:3: access-format: access_format: '%z'" in script.log() + script.output()


def test_a_path_in_a_file_is_meant_from_there(command: Callable[..., Script], tmp_path: Path, sock_path: str) -> None:
    (tmp_path / "etc").mkdir()
    for name, log in (("a", "requests"), ("b", "-")):
        text = f'[pool.{name}]\napplication = "hello:application"\nprocesses = 1\nlisten = "{sock_path}"\naccess-log = "{log}"\n'
        (tmp_path / "etc" / f"{name}.toml").write_text(text)
        script = command("config", "--config", f"etc/{name}.toml")
        assert script.wait() == 0
        expected = "-" if log == "-" else str(tmp_path / "etc" / "requests")
        assert re.search(rf"access-log\W+{re.escape(expected)}\b|access-log.*{re.escape(expected)}", script.output())


@pytest.fixture
def nginx(run_script: Run) -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="site-") as folder:
        os.chmod(folder, 0o755)
        yield Site(WEBS["nginx"], Path(folder), run_script, BEHIND_NGINX)


BEHIND_NGINX = APP + (
    "\nWSGIServer(app, manager=PoolManager(int(sys.argv[1]), access_log='requests', access_format='%R %m %r%Q%q %s %b "
    '"%{HTTP_USER_AGENT}e" %{content-type}o\'), bindAddress=sys.argv[2]).run()\n'
)


def test_behind_nginx(nginx: Site) -> None:
    nginx.start()
    for path in ("/missing?a=%22%0a", "/file", "/stream"):
        nginx.ask(path)
    nginx.ask("/moved", "HEAD")
    requests = nginx.place / "requests"
    wait_until(lambda: requests.read_text().count("\n") >= 4, 60, "four lines")
    assert sorted(requests.read_text().splitlines()) == [
        '127.0.0.1 GET /file 200 100000 "-" text/plain',
        '127.0.0.1 GET /missing?a=%22%0a 404 8 "-" text/plain',
        '127.0.0.1 GET /stream 200 100000 "-" text/plain',
        '127.0.0.1 HEAD /moved 302 0 "-" -',
    ]
    nginx.stop()
