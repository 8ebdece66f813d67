"""Programs that others wrote: libfcgi's client, and the spawner of lighttpd's authors."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
from typing import Any, Callable

import pytest

from harness import fcgi
from harness.process import TESTS, Script, alive, free_port, wait_dead, wait_until
from harness.tools import require

Run = Callable[..., Script]

SITE = """
    import hashlib, os, sys
    from wsgiref.validate import validator
    from fcgi_procmanager import ProcManager, WSGIServer

    @validator
    def application(environ, start_response):
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start_response("200 OK", [("Content-Type", "text/plain")])
        size = int(environ["QUERY_STRING"] or 0)
        return [f"{environ['PATH_INFO']} {len(body)} {hashlib.sha1(body).hexdigest()}".encode(), b"x" * size]

    manager = ProcManager(n_processes=2, die_timeout=60, pidfile=sys.argv[2])
    WSGIServer(application, manager=manager, bindAddress=sys.argv[1] or None, drain_timeout=60).run()
"""


def ask(address: str, path: str = "/", body: bytes = b"", query: int = 0) -> bytes:
    """The reply that libfcgi's `cgi-fcgi` prints, headers and body."""
    variables = fcgi.cgi_params(f"{path}?{query}", body)
    done = subprocess.run(
        [require("cgi-fcgi"), "-bind", "-connect", address],
        input=body,
        env=variables,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == b""
    return done.stdout


def expected(path: str = "/", body: bytes = b"", query: int = 0) -> bytes:
    text = f"{path} {len(body)} {hashlib.sha1(body).hexdigest()}".encode() + b"x" * query
    return b"Content-Type: text/plain\r\nStatus: 200 OK\r\n\r\n" + text


@pytest.mark.parametrize("size", [0, 1, 8191, 65535, 65536, 1_000_000])
def test_libfcgi(run_script: Run, sock_path: str, tmp_path: Any, size: int) -> None:
    require("cgi-fcgi")
    script = run_script(SITE, args=[sock_path, tmp_path / "pid"])
    script.wait_ready(2)
    body = bytes(range(256)) * (size // 256) + b"o" * (size % 256)
    assert ask(sock_path, "/a", body, size) == expected("/a", body, size)
    assert script.stop() == 0


def test_libfcgi_over_tcp(run_script: Run, tmp_path: Any) -> None:
    require("cgi-fcgi")
    port = free_port()
    script = run_script(SITE, args=[f"127.0.0.1:{port}", tmp_path / "pid"])
    script.wait_ready(2)
    assert ask(f"127.0.0.1:{port}", "/tcp", b"body") == expected("/tcp", b"body")
    assert script.stop() == 0


def test_many_processes_at_once(run_script: Run, sock_path: str, tmp_path: Any) -> None:
    """Clients that share nothing, while the workers are replaced."""
    tool = require("cgi-fcgi")
    script = run_script(SITE, args=[sock_path, tmp_path / "pid"])
    script.wait_ready(2)
    for _ in range(3):
        started = [
            subprocess.Popen(
                [tool, "-bind", "-connect", sock_path],
                env=fcgi.cgi_params(f"/{number}?{number * 1000}"),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for number in range(12)
        ]
        script.signal(signal.SIGHUP)
        for number, process in enumerate(started):
            out, err = process.communicate(timeout=60)
            assert (out, err) == (expected(f"/{number}", b"", number * 1000), b"")
    assert script.stop() == 0


def test_spawned_on_descriptor_zero(sock_path: str, tmp_path: Any) -> None:
    """The script is what spawn-fcgi starts: it serves there, and stops when it is told."""
    spawner = require("spawn-fcgi")
    pidfile = tmp_path / "pid"
    path = tmp_path / "site.py"
    path.write_text(textwrap.dedent(SITE))
    wrapper = tmp_path / "start"
    wrapper.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{path}" "" "{pidfile}" 2>"{tmp_path}/log"\n')
    wrapper.chmod(0o755)
    done = subprocess.run(
        [spawner, "-s", sock_path, "-P", str(tmp_path / "spawned"), "--", str(wrapper)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{TESTS}:{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pid = int(wait_until(lambda: pidfile.exists() and pidfile.read_text()))
    try:
        assert int((tmp_path / "spawned").read_text()) == pid
        assert wait_until(lambda: fcgi.fetch(sock_path, "/spawned?3")).stdout == expected("/spawned", b"", 3)
    finally:
        os.kill(pid, signal.SIGTERM)
        wait_dead(pid)
    assert not alive(pid)
    assert not pidfile.exists()
    os.unlink(sock_path)  # the spawner made it
