"""Fixtures of the tests of commands. `app`, where one runs, is of each file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Callable

import pytest

from cli.programs import Folder, plain
from harness.process import Script


@pytest.fixture
def folder(tmp_path: Path, run_script: Callable[..., Script], sock_path: str) -> Folder:
    return Folder(tmp_path / "folder", run_script, sock_path)


@pytest.fixture
def program(tmp_path: Path) -> list[str]:
    return plain(tmp_path)


@pytest.fixture
def command(run_script: Callable[..., Script], app: Path) -> Callable[..., Script]:
    def run(*args: object, **kw: Any) -> Script:
        return run_script([sys.executable, "-m", "fcgi_procmanager", *map(str, args)], **{"cwd": app, **kw})

    return run
