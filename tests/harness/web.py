"""Real web servers in front of an application, each with a configuration of examples/.

A configuration is taken as it is, except for its directory, its port and the place of the script, which are made the
test's own. A web server that is not installed skips its tests, and says so.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import sys
import textwrap
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import pytest

from .process import Overdue, Script, listening, wait_until
from .tools import require, require_any

Run = Callable[..., Script]

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ROOT = os.geteuid() == 0

# The user that a web server started by root runs as, if its configuration says so.
WEB_GROUP = "www-data"


@dataclass(frozen=True)
class Web:
    """How one web server is started, in the foreground, with a configuration of examples/."""

    configuration: str
    programs: tuple[str, ...]
    command: Callable[[str, str], list[str]]  # program and configuration -> argv
    gentle: int = signal.SIGTERM  # what stops it after the requests in hand
    spawns: bool = False  # it starts the application itself

    def require(self) -> str:
        program = require_any(*self.programs)
        modules = Path("/usr/lib/apache2/modules")
        if self.configuration.startswith("apache"):
            if not modules.is_dir():
                pytest.skip(f"Apache has no modules in {modules}")
            if self.spawns and not (modules / "mod_fcgid.so").exists():
                pytest.skip("Apache's mod_fcgid is not installed")
        return program


def _nginx(program: str, configuration: str) -> list[str]:
    return [program, "-e", "stderr", "-c", configuration, "-g", "daemon off;"]


WEBS = {
    "caddy": Web("Caddyfile", ("caddy",), lambda program, file: [program, "run", "--config", file]),
    "nginx": Web("nginx.conf", ("nginx",), _nginx, signal.SIGQUIT),
    "lighttpd": Web("lighttpd.conf", ("lighttpd",), lambda program, file: [program, "-D", "-f", file], signal.SIGINT),
    "apache": Web(
        "apache.conf",
        ("apache2", "httpd"),
        lambda program, file: [program, "-f", file, "-DFOREGROUND"],
        signal.SIGWINCH,
    ),
    "fcgid": Web(
        "apache-fcgid.conf",
        ("apache2", "httpd"),
        lambda program, file: [*_able_to_read_all(), program, "-f", file, "-DFOREGROUND"],
        spawns=True,
    ),
    "haproxy": Web("haproxy.cfg", ("haproxy",), lambda program, file: [program, "-db", "-f", file], signal.SIGUSR1),
}


def _able_to_read_all() -> list[str]:
    """Apache started by root runs scripts as another user, to whom this checkout may be closed. So here it is started as
    that user, who may read everything."""
    if not ROOT:
        return []
    setpriv = require("setpriv")
    caps = ["--inh-caps", "-all,+dac_override", "--ambient-caps", "-all,+dac_override"]
    return [setpriv, "--reuid", "65534", "--regid", "65534", "--clear-groups", *caps, "--"]


class Site:
    """An application under a manager, a web server in front of it, and the directory of both."""

    def __init__(self, web: Web, place: Path, run: Run, application: str) -> None:
        """`application`: the source of a script, started with the number of its workers, the path of its socket and the owner
        of that; one that the web server starts itself gets 0 workers and no address."""
        self.web = web
        self._application = application
        self.place = place
        self.release = place / "release"
        self._run = run
        self._program = web.require()
        os.mkfifo(self.release)
        self.port = 0

    @property
    def socket(self) -> str:
        return str(self.place / "app.sock")

    def start(self, workers: int = 2, adapt: Callable[[str], str] = str, more: Sequence[object] = ()) -> Site:
        """`adapt` changes the configuration; `more` are further arguments for the application."""
        if self.web.spawns:
            self._write_script()
        else:
            owner = f":{WEB_GROUP}" if ROOT and self.web.configuration == "apache.conf" else ""
            environment = {"RELEASE": str(self.release)}
            self.app = self._run(
                self._application, args=[workers, self.socket, owner, *more], env=environment, cwd=self.place
            )
            self.app.wait_ready(workers)
        return self.start_front(adapt)

    def start_front(self, adapt: Callable[[str], str] = str) -> Site:
        """The web server alone, for an application that is there already."""
        for _ in range(5):
            self.front = self._start_front(adapt)
            if self._answers():
                return self
        raise Overdue(f"{self.web.configuration} does not start:\n{self.front.log()}")

    def _start_front(self, adapt: Callable[[str], str]) -> Script:
        # Below the ports that the system gives to clients. Nobody else picks the same one but by chance, and then the
        # next attempt has another. Who listens there already would be taken for ours while ours starts.
        self.port = random.randint(10_000, 19_999)  # above are those of `free_port`
        while listening(("127.0.0.1", self.port)):
            self.port = random.randint(10_000, 19_999)
        text = (EXAMPLES / self.web.configuration).read_text()
        for old, new in (("8080", str(self.port)), ("/run/app", str(self.place))):
            assert old in text
            text = text.replace(old, new)
        if ROOT:  # the folders of tests are closed to others; test_as_written.py is nginx as that user
            text = text.replace("user www-data;", "user root;")
        text = adapt(text.replace("/srv/app", str(self.place)))
        configuration = self.place / self.web.configuration
        configuration.write_text(text)
        environment = {"HOME": str(self.place), "RELEASE": str(self.release)}
        return self._run(self.web.command(self._program, str(configuration)), env=environment, cwd=self.place)

    def _answers(self) -> bool:
        def known() -> bool:
            return self.front.process.poll() is not None or listening(("127.0.0.1", self.port))

        wait_until(known, 60, "the web server to listen")
        return self.front.process.poll() is None

    def _write_script(self) -> None:
        text = textwrap.dedent(self._application).replace("sys.argv[1]", "'0'")
        path = [str(Path(__file__).parents[1]), *sys.path]
        header = f"import os, sys\nsys.path[:0] = {path!r}\nos.environ['RELEASE'] = {str(self.release)!r}\n"
        script = self.place / "fcgid.py"
        script.write_text(f"#!{sys.executable}\n{header}{text}")
        script.chmod(0o755)

    def connection(self, timeout: float = 60) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def ask(self, path: str, method: str = "GET", body: bytes | None = None) -> tuple[int, Any, bytes]:
        with closing(self.connection()) as connection:
            connection.request(method, path, body)
            reply = connection.getresponse()
            return reply.status, reply.headers, reply.read()

    def echo(self, path: str, method: str = "GET", body: bytes | None = None) -> dict[str, Any]:
        status, _, content = self.ask(path, method, body)
        assert status == 200, (content, self.front.log())
        found: dict[str, Any] = json.loads(content)
        return found

    def stop(self) -> None:
        """Both, gently and completely: nothing is left of them."""
        self.front.signal(self.web.gentle)
        self.front.wait()
        self.front.tree_gone()
        if not self.web.spawns:
            assert self.app.stop() == 0
            assert not os.path.exists(self.socket)
