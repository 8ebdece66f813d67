"""nginx by the words of the example and of the README, typed as they stand by root, who has nothing but the packages of Debian.

The words name /run and port 8080. So that both are there and are nobody else's, the commands run in namespaces of their own.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Callable

import pytest

from harness.process import Script
from harness.tools import require

Run = Callable[..., Script]

TOP = Path(__file__).resolve().parents[2]
SITES = "/etc/nginx/sites-enabled"  # what Debian's nginx.conf includes

# Once both listen it asks once: a 502 is not tried again.
INSIDE = """
import fcntl, json, os, signal, socket, struct, subprocess, sys, time, urllib.error, urllib.request

commands, path, site, config = sys.argv[1:]
with socket.socket() as any_socket:  # the loopback of a new namespace is down
    up = struct.pack("16sh", b"lo", 1)
    fcntl.ioctl(any_socket, 0x8914, up)
subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"], check=True)
if site:
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", site], check=True)
    with open(site + "/app", "w") as file:
        file.write(config)

def listens(family, address):
    with socket.socket(family) as client:
        return client.connect_ex(address) == 0

signal.signal(signal.SIGTERM, lambda *_: None)
shell = subprocess.Popen(["sh", "-c", commands])
until = time.monotonic() + 60
while not (os.path.exists(path) and listens(socket.AF_UNIX, path) and listens(socket.AF_INET, ("127.0.0.1", 8080))):
    if time.monotonic() > until or shell.poll() is not None:
        sys.exit("they do not listen")
    time.sleep(0.01)
try:
    with urllib.request.urlopen("http://127.0.0.1:8080/some/page", timeout=60) as reply:
        print(json.dumps([reply.status, reply.read().decode()]))
except urllib.error.HTTPError as error:
    with error:
        print(json.dumps([error.code, ""]))
os.killpg(0, signal.SIGTERM)
shell.wait()
"""


@pytest.fixture
def follow(run_script: Run, tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """`follow(commands, socket, folder, server)`: what a browser gets; `server` is nginx configuration for Debian's own."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    require("nginx")
    unshare = [require("unshare"), "--mount", "--net"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False, timeout=20).returncode:
        pytest.skip("no namespaces here")
    programs = tmp_path / "bin"
    programs.mkdir()
    installed = programs / "fcgi-procmanager"
    installed.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m fcgi_procmanager "$@"\n')
    installed.chmod(0o755)
    path = os.pathsep.join([str(programs), os.environ.get("PATH", os.defpath), "/usr/sbin"])
    more = {"PATH": path, "PYTHONPATH": os.environ.get("PYTHONPATH", "")}

    def follow(commands: str, socket: str, folder: Path, server: str = "") -> tuple[int, str]:
        site = [SITES, server] if server else ["", ""]
        script = run_script([*unshare, sys.executable, "-c", INSIDE, commands, socket, *site], cwd=folder, env=more)
        status, text = json.loads(script.line())
        assert script.wait() == 0, script.log()
        script.tree_gone()
        return status, text

    return follow


def test_the_example(follow: Callable[..., tuple[int, str]]) -> None:
    examples = TOP / "examples"
    typed = re.findall(r"^#     (.*)$", (examples / "nginx.conf").read_text(), re.MULTILINE)
    assert len(typed) == 3
    status, text = follow("\n".join(typed), "/run/app/app.sock", examples)
    assert (status, text.splitlines()[1]) == (200, "GET |/some/page?")


def test_the_readme(follow: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    if not os.path.isdir(SITES):
        pytest.skip("nginx is not Debian's")
    section = (TOP / "README.md").read_text().partition("\n## nginx\n")[2].partition("\n## ")[0]
    (location,) = re.findall(r"^```nginx\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    (serve,) = re.findall(r"^```sh[^\n]*\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    (tmp_path / "myapp.py").write_text(
        textwrap.dedent("""
            def app(environ, start_response):
                start_response("200 OK", [("Content-Type", "text/plain")])
                return [environ["PATH_INFO"].encode()]
        """)
    )
    server = f"server {{\nlisten 127.0.0.1:8080;\n{location}}}\n"
    assert follow(f"{serve.strip()} &\nnginx -g 'daemon off;'", "/run/app.sock", tmp_path, server) == (
        200,
        "/some/page",
    )
