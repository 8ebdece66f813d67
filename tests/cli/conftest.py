"""Fixtures of the tests of `exec`."""

from __future__ import annotations

from pathlib import Path
from typing import Callable

import pytest

from cli.programs import Folder, plain
from harness.process import Script


@pytest.fixture
def folder(tmp_path: Path, run_script: Callable[..., Script], sock_path: str) -> Folder:
    return Folder(tmp_path / "folder", run_script, sock_path)


@pytest.fixture
def program(tmp_path: Path) -> list[str]:
    return plain(tmp_path)
