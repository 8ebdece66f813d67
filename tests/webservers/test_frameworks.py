"""Flask, Django, Bottle, web.py and hgweb behind each web server: what their users do, in their own words."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

from harness.process import Script
from harness.web import ROOT, WEBS, Site
from webservers.test_conformance import Client

Run = Callable[..., Script]

HERE = Path(__file__).parent
FRAMEWORKS = {"flask": "flask", "django": "django", "bottle": "bottle", "web.py": "web"}
SIZE = 200_000
UPLOAD = bytes(range(256)) * 2000
FRONTS = [name for name in WEBS if not WEBS[name].spawns]


@pytest.fixture
def place() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="pm-web-", dir="/tmp"))
    directory.chmod(0o777 if ROOT else 0o700)
    (directory / "download.bin").write_bytes(bytes(SIZE))
    yield directory
    shutil.rmtree(directory)


def start(front: str, name: str, place: Path, run_script: Run, way: str = "server") -> Site:
    module = FRAMEWORKS.get(name, "mercurial")
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{name} is not installed: it is in the extra `apps`")
    source = (HERE / "frameworks.py").read_text()
    return Site(WEBS[front], place, run_script, source).start(2, more=[way, name])


PAIRS = [*((front, "server") for front in FRONTS), ("nginx", "threads"), ("haproxy", "threads"), ("haproxy", "adopt")]


@pytest.mark.parametrize("name", FRAMEWORKS)
@pytest.mark.parametrize(("front", "way"), PAIRS)
def test_a_framework_behind_a_web_server(front: str, way: str, name: str, place: Path, run_script: Run) -> None:
    site = start(front, name, place, run_script, way)
    with Client(site) as client:
        assert client.ask("/hello?name=you").body == b"hello you"
        form = client.ask("/hello", "POST", b"name=form", Content_Type="application/x-www-form-urlencoded")
        assert (form.status, form.body) == (200, b"hello form")
        for size in (0, 10, len(UPLOAD)):
            body = UPLOAD[:size]
            reply = client.ask("/upload", "POST", body, Content_Type="application/octet-stream")
            assert (reply.status, reply.body.decode()) == (200, f"{size} {hashlib.sha256(body).hexdigest()}")
        moved = client.ask("/moved")
        assert (moved.status, moved.headers["Location"].rpartition("/")[2]) == (303, "hello?name=again")
        assert client.ask("/nowhere").status == 404
        assert client.ask("/fail").status == 500
        download = client.ask("/download")
        assert (download.status, len(download.body), download.whole) == (200, SIZE, True)
        head = client.ask("/hello?name=you", "HEAD")
        assert head.status in (200, 405)
        assert head.body == b""
        assert client.ask("/hello?name=still").body == b"hello still"
    site.stop()


@pytest.mark.parametrize("name", FRAMEWORKS)
@pytest.mark.parametrize("front", ["nginx", "apache"])
def test_a_chunked_upload_reaches_a_framework(front: str, name: str, place: Path, run_script: Run) -> None:
    """Where the web server passes one on."""
    site = start(front, name, place, run_script)
    with Client(site) as client:
        pieces = iter([UPLOAD[:1000], UPLOAD[1000:]])
        reply = client.ask(
            "/upload", "POST", pieces, Transfer_Encoding="chunked", Content_Type="application/octet-stream"
        )
        assert (reply.status, reply.body.decode()) == (200, f"{len(UPLOAD)} {hashlib.sha256(UPLOAD).hexdigest()}")
    site.stop()


def hg(*arguments: str, place: Path) -> None:
    environment = {"HGRCPATH": "", "HGPLAIN": "1", "HOME": str(place), "PATH": os.environ["PATH"]}
    program = os.path.join(os.path.dirname(sys.executable), "hg")
    command = [sys.executable, program, "--config", "ui.username=somebody", *arguments]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, (arguments, done.stdout, done.stderr)


@pytest.mark.parametrize("front", FRONTS)
def test_hgweb_clones_and_takes_a_push(front: str, place: Path, run_script: Run) -> None:
    if importlib.util.find_spec("mercurial") is None:
        pytest.skip("mercurial is not installed: it is in the extra `apps`")
    hg("init", "repository", place=place)
    origin = place / "repository"
    (origin / ".hg" / "hgrc").write_text("[web]\nallow-push = *\npush_ssl = false\n")
    (origin / "file").write_bytes(UPLOAD)
    hg("add", "-R", "repository", "repository/file", place=place)
    hg("commit", "-R", "repository", "-m", "one", place=place)
    site = start(front, "hgweb", place, run_script)
    url = f"http://127.0.0.1:{site.port}/"
    hg("clone", url, "copy", place=place)
    assert (place / "copy" / "file").read_bytes() == UPLOAD
    (place / "copy" / "file").write_bytes(UPLOAD + b"more")
    hg("commit", "-R", "copy", "-m", "two", place=place)
    hg("push", "-R", "copy", url, place=place)
    hg("update", "-R", "repository", place=place)
    assert (origin / "file").read_bytes() == UPLOAD + b"more"
    site.stop()
