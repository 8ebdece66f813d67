"""The servers that are measured side by side. Each serves the same small application on a unix socket with so many workers."""

from __future__ import annotations

import os
import subprocess
import sys
from abc import ABC, abstractmethod
from functools import cache
from importlib import metadata
from pathlib import Path

from common import APPLICATIONS, Failed, find, output, perl_version
from fcgi_procmanager.basics.accelerator import VARIABLE, told

BACKLOG = "1024"


class Peer(ABC):
    """One server. `name` is what tables and `--peers` call it."""

    name: str
    http = False  # speaks HTTP instead of FastCGI
    bodies = True  # reads request bodies

    @abstractmethod
    def version(self) -> str:
        """What is measured, in words; empty when it is not installed."""

    @property
    def needs(self) -> str:
        """What to install when it is missing."""
        return self.name

    @abstractmethod
    def command(self, place: Path, socket: Path, workers: int) -> list[str]:
        """The command line. Files that it needs are made in `place`."""


class PythonPeer(Peer):
    script: str

    def command(self, place: Path, socket: Path, workers: int) -> list[str]:
        return [sys.executable, str(APPLICATIONS / self.script), str(socket), str(workers)]


class Ours(PythonPeer):
    name = "ours"
    script = "ours.py"

    def version(self) -> str:
        return f"fcgi-procmanager {installed('fcgi-procmanager')}, WSGIServer, {told}"


class OursInPython(Ours):
    name = "ours-pure"

    def version(self) -> str:
        return "the same without the accelerator"

    def command(self, place: Path, socket: Path, workers: int) -> list[str]:
        return ["env", f"{VARIABLE}=0", *super().command(place, socket, workers)]


class OursLoop(PythonPeer):
    name = "ours-loop"
    script = "ours_loop.py"

    def version(self) -> str:
        return f"fcgi-procmanager {installed('fcgi-procmanager')}, a hand-written loop"


class Flup(PythonPeer):
    name = "flup"
    script = "flup_alone.py"

    def version(self) -> str:
        found = installed("flup")
        return found and f"flup {found}, its single-process server twice"


class Bare(PythonPeer):
    """The floor: no parser, no manager, one buffer."""

    name = "bare"
    script = "bare.py"
    bodies = False

    def version(self) -> str:
        return "accept, recv, send, close in plain Python; no protocol, no manager"


class Gunicorn(Peer):
    name = "gunicorn"
    http = True

    def version(self) -> str:
        found = installed("gunicorn")
        return found and f"gunicorn {found}, sync workers, HTTP"

    def command(self, place: Path, socket: Path, workers: int) -> list[str]:
        quiet = ["--log-level", "error", "--backlog", BACKLOG, "--no-control-socket"]
        served = ["--chdir", str(APPLICATIONS), "--bind", f"unix:{socket}", "--workers", str(workers)]
        return [sys.executable, "-m", "gunicorn", "--worker-class", "sync", *served, *quiet, "wsgi:app"]


class Uwsgi(Peer):
    name = "uwsgi"

    def version(self) -> str:
        program = find("uwsgi")
        found = output(program, "--version") if program else ""
        return found and f"uWSGI {found}, FastCGI socket"

    def command(self, place: Path, socket: Path, workers: int) -> list[str]:
        program = find("uwsgi")
        assert program
        served = ["--fastcgi-socket", str(socket), "--listen", BACKLOG, "--master", "--processes", str(workers)]
        loaded = ["--pythonpath", str(APPLICATIONS), "--module", "wsgi:app", "--need-app", "--virtualenv", sys.prefix]
        return [program, *served, *loaded, "--disable-logging", "--die-on-term"]


class PerlProcManager(Peer):
    name = "perl"
    needs = "FCGI and FCGI::ProcManager of Perl"

    def version(self) -> str:
        fcgi, manager = perl_version("FCGI"), perl_version("FCGI::ProcManager")
        return f"FCGI.pm {fcgi} with FCGI::ProcManager {manager}" if fcgi and manager else ""

    def command(self, place: Path, socket: Path, workers: int) -> list[str]:
        return [find("perl") or "", str(APPLICATIONS / "procmanager.pl"), str(socket), str(workers)]


class PhpFpm(Peer):
    name = "php-fpm"

    CONFIGURATION = """\
[global]
error_log = {place}/error.log
daemonize = no

[www]
{user}listen = {socket}
listen.backlog = {backlog}
listen.mode = 0666
pm = static
pm.max_children = {workers}
pm.max_requests = 0
"""

    def version(self) -> str:
        program = self._program()
        found = output(program, "-v") if program else ""
        return found and f"php-fpm {found.split()[1]}, static"

    def command(self, place: Path, socket: Path, workers: int) -> list[str]:
        root = os.getuid() == 0
        user = "user = root\ngroup = root\n" if root else ""
        configuration = place / "php-fpm.conf"
        configuration.write_text(
            self.CONFIGURATION.format(place=place, user=user, socket=socket, backlog=BACKLOG, workers=workers)
        )
        return [self._program() or "", "--nodaemonize", "-y", str(configuration), *(["-R"] if root else [])]

    @staticmethod
    def _program() -> str | None:
        return find("php-fpm", *(f"php-fpm8.{minor}" for minor in range(5, -1, -1)))


class Libfcgi(Peer):
    name = "libfcgi"
    needs = "gcc and the headers of libfcgi"

    def version(self) -> str:
        return "libfcgi in C, -O2" if self._compiles() else ""

    def command(self, place: Path, socket: Path, workers: int) -> list[str]:
        program = place / "libfcgi"
        source = str(APPLICATIONS / "libfcgi.c")
        done = subprocess.run(
            [find("gcc") or "", "-O2", "-o", str(program), source, "-lfcgi"], capture_output=True, text=True
        )
        if done.returncode:
            raise Failed(done.stderr)
        return [str(program), str(socket), str(workers)]

    @staticmethod
    @cache
    def _compiles() -> bool:
        gcc = find("gcc")
        return gcc is not None and bool(output(gcc, "-E", "-include", "fcgiapp.h", "-x", "c", os.devnull))


def installed(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


OURS, PURE = Ours(), OursInPython()
PEERS: list[Peer] = [
    OURS,
    PURE,
    OursLoop(),
    Flup(),
    Gunicorn(),
    Uwsgi(),
    PerlProcManager(),
    PhpFpm(),
    Libfcgi(),
    Bare(),
]
