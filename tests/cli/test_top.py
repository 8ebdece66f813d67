"""`fcgi-procmanager top` on a terminal of the test's own."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Callable

import pytest

from harness.pools import Pool
from harness.process import Script

pytest.importorskip("rich")

COMMAND = [sys.executable, "-m", "fcgi_procmanager", "top", "--control"]


def read_until(master: int, words: bytes, timeout: float = 30) -> bytes:
    said, until = b"", time.monotonic() + timeout
    while words not in said:
        assert select.select([master], [], [], max(0, until - time.monotonic()))[0], said
        said += os.read(master, 1 << 16)
    return said


def test_it_shows_the_pool_and_hears_keys(run_script: Callable[..., Script], sock_path: str, tmp_path: Path) -> None:
    pool, control = Pool(run_script, sock_path), str(tmp_path / "control")
    script = pool.start(f"2, control={control!r}", 2)
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    top = subprocess.Popen([*COMMAND, control], stdin=slave, stdout=slave, stderr=slave, env=env)
    said = read_until(master, b"2 of 2 workers idle")
    for pid in script.workers():
        said = said if str(pid).encode() in said else said + read_until(master, str(pid).encode())
    os.write(master, b"m")
    read_until(master, b"memory")
    os.write(master, b"q")
    while top.poll() is None:
        if select.select([master], [], [], 0.05)[0]:
            os.read(master, 1 << 16)
    assert top.returncode == 0
    assert termios.tcgetattr(slave) == before
    os.close(slave)
    os.close(master)
    assert script.stop() == 0


def test_without_a_pool_it_is_one_line(tmp_path: Path) -> None:
    done = subprocess.run([*COMMAND, str(tmp_path / "none")], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
