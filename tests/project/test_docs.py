"""What README and docs say is so: every snippet is run or checked, every link leads somewhere, tables and pictures agree with
the source.

A fence is told what to do with it by its language. `no-run: reason` after the language is for what cannot be run at all.
Paths below /run are the test's own directory while a snippet runs, and `myapp` is a module that has an application.
"""

from __future__ import annotations

import enum
import os
import random
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Callable, NamedTuple

import pytest

from fcgi_procmanager import ProcManager
from fcgi_procmanager.basics import states
from fcgi_procmanager.system import signals
from harness import fcgi
from harness.process import Script, listening, wait_until
from harness.tools import require, require_perl

Run = Callable[..., Script]

TOP = Path(__file__).resolve().parents[2]
SOURCE = TOP / "src" / "fcgi_procmanager"
PAGES = [TOP / "README.md", TOP / "CHANGELOG.md", *sorted((TOP / "docs").glob("*.md")), TOP / "examples" / "README.md"]
COMMAND = [sys.executable, "-m", "fcgi_procmanager"]

MYAPP = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"myapp"]

app = application


def create_app():
    return application
"""


class Snippet(NamedTuple):
    page: str
    line: int
    language: str
    excuse: str | None  # why it is not run
    text: str


def _snippets() -> Iterator[Snippet]:
    for page in PAGES:
        inside: list[str] | None = None
        for number, line in enumerate(page.read_text().splitlines(), 1):
            fence = re.match(r"\s*```\s*(.*)", line)
            if not fence:
                if inside is not None:
                    inside.append(line)
            elif inside is None:
                inside, opened = [], (number, fence[1])
            else:
                language, _, rest = opened[1].partition(" ")
                excuse = rest.partition("no-run")[2].lstrip(": ") if "no-run" in rest else None
                text = textwrap.dedent("\n".join(inside)) + "\n"
                yield Snippet(page.relative_to(TOP).as_posix(), opened[0], language, excuse, text)
                inside = None
        assert inside is None, f"{page.name}: a fence is not closed"


SNIPPETS = list(_snippets())


def each(*languages: str) -> pytest.MarkDecorator:
    chosen = [one for one in SNIPPETS if one.language in languages and one.excuse is None]
    return pytest.mark.parametrize("snippet", chosen, ids=[f"{one.page}:{one.line}" for one in chosen])


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that stands for /run, with a name short enough for a socket in it."""
    directory = Path(tempfile.mkdtemp(prefix="pm-doc-", dir="/tmp"))
    (directory / "app").mkdir()
    (directory / "myapp.py").write_text(MYAPP)
    (directory / "mysite").mkdir()  # stands for that of Django; tests/webservers serves real ones
    (directory / "mysite" / "wsgi.py").write_text(MYAPP)
    yield directory
    shutil.rmtree(directory)


def here(text: str, place: Path) -> str:
    return re.sub(r"(?<![\w/])/run/", f"{place}/", text)


def test_every_fence_is_checked_by_something() -> None:
    checked = {"python", "sh", "nginx", "mermaid", "perl", "text", "toml", *EXCERPTS}
    for one in SNIPPETS:
        where = f"{one.page}:{one.line}"
        if one.excuse is None:
            assert one.language in checked, f"{where}: nobody checks {one.language!r}"
        else:
            assert len(one.excuse) > 5, f"{where}: no-run needs a reason"


# Python


@each("python")
def test_python(snippet: Snippet, run_script: Run, place: Path) -> None:
    """One that serves is asked once, at its socket or, without one, at descriptor 0, and then stopped."""
    text = here(snippet.text, place)
    serves = ".run()" in text or ".accept(" in text
    with closing(socket.socket(socket.AF_UNIX)) as given:
        path = str(place / "given.sock")
        given.bind(path)
        given.listen(16)
        found = re.search(rf"{place}/[\w/]+\.sock", text)
        address = found[0] if found else path
        script = run_script(text, stdin=given, cwd=place, env={"PYTHONPATH": _python_path(place)})
        if not serves:
            assert script.wait() == 0, script.log()
            return
        reply = _ask(script, address)
        assert reply.status == 200, script.log()
        assert reply.ended
        assert reply.body
        assert script.stop() == 0, script.log()
    assert address == path or not os.path.exists(address)


def _python_path(place: Path) -> str:
    return os.pathsep.join([str(place), str(TOP / "tests"), os.environ.get("PYTHONPATH", "")])


def _ask(script: Script, address: str) -> fcgi.Reply:
    """Once it is there: a socket that exists and refuses will be there in a moment."""

    def there() -> bool:
        return script.process.poll() is not None or (os.path.exists(address) and listening(address))

    wait_until(there, 60, "the socket of the snippet")
    assert script.process.poll() is None, script.log()
    return fcgi.fetch(address, timeout=20)


# Perl


@each("perl")
def test_perl(snippet: Snippet, tmp_path: Path) -> None:
    modules = re.findall(r"^use ([A-Z]\w*(?:::\w+)*)", snippet.text, re.MULTILINE)
    perl = require_perl(*modules)
    script = tmp_path / "snippet.pl"
    script.write_text("use strict; use warnings;\n" + snippet.text)
    done = subprocess.run([perl, "-c", str(script)], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr


# Shell


@each("sh")
def test_sh(snippet: Snippet, run_script: Run, place: Path) -> None:
    """Commands of ours are run one after the other, against a server that is started when none of them does. What needs a
    network or a virtual environment of its own is read by the shell only."""
    subprocess.run(["sh", "-n", "-c", snippet.text], check=True, timeout=20)
    session = Session(run_script, place)
    for line in here(snippet.text, place).replace("\\\n", " ").splitlines():
        session.do(line)
    session.end()


@each("toml")
def test_a_file_of_options_is_in_order(snippet: Snippet, place: Path) -> None:
    (place / "file.toml").write_text(snippet.text)
    done = subprocess.run(
        [*COMMAND, "check", "--config", "file.toml"], cwd=place, capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 0, done.stderr


class Session:
    """What somebody types who follows a recipe."""

    def __init__(self, run: Run, place: Path) -> None:
        self._run = run
        self._place = place
        self._server: Script | None = None
        self._expected = 0  # exit status of the server

    def do(self, line: str) -> None:
        if line.startswith("fcgi-procmanager serve"):
            self._serve(shlex.split(line)[1:])
        elif line.startswith("fcgi-procmanager check"):
            self._call(shlex.split(line)[1:])
        elif line.startswith("fcgi-procmanager"):
            self._call(shlex.split(line)[1:], server=True)
        elif line.startswith("fcgi-start-server"):
            self._superdaemon(shlex.split(line)[1:])
        elif line.startswith("kill "):
            self._kill(line)
        elif line.startswith("mkdir -p "):
            subprocess.run(shlex.split(line), check=True, timeout=20)
        else:
            assert line.startswith(("python3 -m venv ", "pip ", "#")) or not line, f"nobody runs {line!r}"

    def end(self) -> None:
        if self._server is not None:
            if self._server.process.poll() is None and not self._expected:
                self._server.stop()
            assert self._server.wait() == self._expected, self._server.log()
            self._server.tree_gone()

    def _serve(self, options: list[str]) -> None:
        if "--socket-owner" in options and os.geteuid() != 0:  # only root may give a file away
            at = options.index("--socket-owner")
            del options[at : at + 2]
        script = self._server = self._run([*COMMAND, *options], cwd=self._place)
        address = options[options.index("--listen") + 1]
        assert _ask(script, address).text == "myapp"

    def _superdaemon(self, options: list[str]) -> None:
        """Started when none is there, else told something."""
        command = [sys.executable, "-m", "fcgi_procmanager.starter", *options]
        if self._server is not None:
            subprocess.run(command, cwd=self._place, check=True, timeout=60)
            return
        at = command.index("fcgi-procmanager")
        command[at : at + 1] = COMMAND
        self._server = self._run(command, cwd=self._place)
        assert _ask(self._server, options[options.index("--path") + 1]).text == "myapp"
        status = Path(options[options.index("--status-file") + 1])
        wait_until(status.exists, 60, "the first generation to be good")

    def _need_server(self) -> Script:
        if self._server is None:
            pidfile = str(self._place / "app.pid")
            socket = str(self._place / "app.sock")
            self._serve(["serve", "myapp:app", "-n", "2", "--listen", socket, "--pidfile", pidfile])
        assert self._server is not None
        return self._server

    def _call(self, options: list[str], server: bool = False) -> None:
        before = set(self._need_server().workers()) if server else set()
        done = subprocess.run(
            [*COMMAND, *options], cwd=self._place, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr
        if server:
            assert not before & set(self._need_server().workers())

    def _kill(self, line: str) -> None:
        server = self._need_server()
        workers = server.wait_workers(2)
        subprocess.run(["sh", "-c", line], check=True, timeout=20)
        if "-QUIT" in line:
            self._expected = 1
        elif "-TTIN" in line:
            server.wait_workers(3)
        elif "-TTOU" in line:  # at last one fewer than it was
            wait_until(lambda: workers[0] not in server.workers(), 60, "the oldest worker to leave")
        if "-TTIN" in line:
            subprocess.run(["sh", "-c", line.replace("-TTIN", "-TTOU")], check=True, timeout=20)
            server.wait_workers(2)


def _command_under(heading: str) -> str:
    """As .ci/run finds it."""
    section = (TOP / "README.md").read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1
    lines: list[str] = blocks[0].splitlines()
    assert len(lines) == 1, f"one command line is wanted under {heading!r}"
    return lines[0]


@pytest.mark.parametrize("heading", ["Run it", "Test it"])
def test_the_two_commands_of_the_readme(heading: str) -> None:
    """Each makes its virtual environment, installs with an extra that there is, and runs what was installed."""
    make, install, run = _command_under(heading).split(" && ")
    assert make == "python3 -m venv .venv"
    extra = re.fullmatch(r"\.venv/bin/pip install -q (?:-e )?'\.\[(\w+)\]'", install)
    assert extra
    project = (TOP / "pyproject.toml").read_text()
    assert re.search(rf"^{extra[1]} = \[", project, re.MULTILINE)
    program, *options = shlex.split(run)
    if program.endswith("/python"):
        assert options == ["-m", "pytest"]
    else:
        assert f'\n{Path(program).name} = "fcgi_procmanager.cli:main"\n' in project


def test_the_demo_of_the_readme(run_script: Run) -> None:
    program, *options = shlex.split(_command_under("Run it").split(" && ")[-1])
    assert program == ".venv/bin/fcgi-procmanager"
    url = re.search(r"Open <(http://[^>]+)>", (TOP / "README.md").read_text())
    assert url
    assert url[1] == "http://127.0.0.1:8000/"
    # Another port, since somebody may be looking at a demo of his own just now.
    demo = run_script([*COMMAND, *options, "--web", "127.0.0.1:0"])
    address = re.search(r"http://127\.0\.0\.1:\d+/", demo.line())
    assert address
    with urllib.request.urlopen(address[0], timeout=20) as page:
        text = page.read().decode()
    worker = re.search(r"Worker <b>(\d+)</b> answered", text)
    assert worker
    assert int(worker[1]) in demo.workers()
    assert demo.stop() == 0


# Web servers


@each("nginx")
def test_nginx(snippet: Snippet, place: Path) -> None:
    nginx = require("nginx")
    (place / "fastcgi_params").write_text("fastcgi_param REQUEST_METHOD $request_method;\n")
    temporary = "".join(f"{kind}_temp_path {place}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi"))
    text = here(snippet.text, place)
    if text.startswith("location"):
        text = f"server {{\nlisten 127.0.0.1:{random.randint(10000, 32000)};\n{text}}}\n"
    configuration = place / "nginx.conf"
    configuration.write_text(f"pid {place}/nginx.pid;\nevents {{}}\nhttp {{\naccess_log off;\n{temporary}{text}}}\n")
    done = subprocess.run(
        [nginx, "-t", "-q", "-e", "stderr", "-c", str(configuration)],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr


EXCERPTS = {
    "apache": ("apache.conf", "apache-fcgid.conf"),
    "lighttpd": ("lighttpd.conf",),
    "haproxy": ("haproxy.cfg",),
    "caddyfile": ("Caddyfile",),
    "ini": ("fcgi-procmanager.service", "notify-reload/fcgi-procmanager.service", "fcgi-procmanager.socket"),
}


@each(*EXCERPTS)
def test_an_excerpt_is_part_of_an_example(snippet: Snippet) -> None:
    """And the example is started for real, in test_webservers.py and test_examples.py."""
    excerpt = _bare(snippet.text)
    files = EXCERPTS[snippet.language]
    assert any(excerpt in _bare((TOP / "examples" / name).read_text()) for name in files), f"in none of {files}"


def _bare(text: str) -> str:
    """Without indentation and empty lines."""
    return "".join(f"\n{line.strip()}" for line in text.splitlines() if line.strip()) + "\n"


# Log lines


STORY = """
    import sys
    from fcgi_procmanager import ProcManager, WSGIServer
    WSGIServer(print, manager=ProcManager(n_processes=2), bindAddress=sys.argv[1]).run()
"""


@each("text")
def test_log_lines_are_those_of_a_real_run(snippet: Snippet, run_script: Run, sock_path: str) -> None:
    quoted = [line for line in snippet.text.splitlines() if line.startswith("FastCGI: ")]
    if not quoted:
        assert "(4100)" in snippet.text, "a process tree"
        return
    script = run_script(STORY, args=[sock_path])
    script.wait_ready(2)
    script.signal(1)
    script.wait_ready(4)
    assert script.stop() == 0
    real = {re.sub(r"\d{2,}", "N", line) for line in script.log().splitlines()}
    for line in quoted:
        assert re.sub(r"\d{2,}", "N", line) in real


# Tables and pictures


def diagram(table: Mapping[Any, Any], first: enum.Enum) -> str:
    """A life cycle as a picture, without the events that leave it where it is."""
    lines = ["stateDiagram-v2", f"    [*] --> {first.value}"]
    for (state, event), to in table.items():
        if to is not state:
            lines.append(f"    {state.value} --> {to.value}: {event.value}")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("name", "table", "first"),
    [
        ("manager", states._MANAGER_TABLE, states.ManagerState.IDLE),
        ("worker", states._WORKER_TABLE, states.WorkerState.SPAWNED),
    ],
)
def test_the_life_cycles_are_drawn_from_their_tables(name: str, table: Mapping[Any, Any], first: enum.Enum) -> None:
    """A picture that differs is to be replaced by what this test expects."""
    text = (TOP / "docs" / "DESIGN.md").read_text()
    drawn = re.search(rf"<!-- states: {name} -->\n```mermaid\n(.*?)```\n", text, re.DOTALL)
    assert drawn
    assert drawn[1] == diagram(table, first)


def _signals_of(heading: str, page: str) -> set[str]:
    text = (TOP / page).read_text()
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([A-Z][^|]*?) \|", section, re.MULTILINE)
    rows += re.findall(r"^\| a second ([^|]*?) \|", section, re.MULTILINE)
    return {word for row in rows for word in re.findall(r"\b[A-Z]{3,}[0-9]?\b", row)}


def test_the_tables_of_signals_are_complete() -> None:
    handled = {*signals.MANAGER_SIGNALS, "USR1"}  # which counts with a log file only
    assert set(ProcManager._ON_SIGNAL) == handled - {"CHLD"}
    assert _signals_of("To the manager", "docs/SIGNALS.md") == handled
    assert _signals_of("To a worker", "docs/SIGNALS.md") == {*signals.WORKER_SIGNALS, "KILL"}


# Links


LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^\s*```.*?^\s*```$", "", page.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(TOP).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{target} leads nowhere"
        assert TOP in file.parents, f"{target} leads out of the project"
        assert not anchor or anchor in _anchors(file), f"there is no heading {anchor!r} in {file.name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(TOP).as_posix())
def test_code_paths_that_are_named_exist(page: Path) -> None:
    for path in re.findall(r"`((?:tests|docs|examples|src|benchmarks)/[\w./-]+)`", page.read_text()):
        assert (TOP / path).exists(), f"{path} is named and is not there"
