"""A worker that fails at each start does not hold up the others: what they leave is filled at once, whatever its delay."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Callable

import pytest

from harness.process import Script

Run = Callable[..., Script]

# Seconds: of the delay that is in force when the three leave. Who waits for it comes too late, however slow the machine is.
DELAY = 100.0

# Three licences for four workers. Each is a lock that its holder has until it is gone, so that three are healthy at any
# time, whichever these are, and the next one fails.
HEAD = f"""
import fcntl, os, sys
from harness.inside import say
from fcgi_procmanager import *
from fcgi_procmanager.children import respawn
from fcgi_procmanager.limits import Limits

respawn.FIRST_DELAY = respawn.MAX_DELAY = {DELAY}

class Manager(Limits):
    def server_init(self):
        super().server_init()
        for number in range(3):
            self.licence = os.open(f"licence{{number}}", os.O_RDWR | os.O_CREAT)
            try:
                return fcntl.flock(self.licence, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(self.licence)
        raise RuntimeError("no licence left")
"""

POOL = (
    HEAD
    + """
manager = Manager(4, max_requests=1)
manager.manage()
say(os.getpid())
os.set_blocking(0, False)
manager._gate.add(0)
while not manager.leaving:
    manager._gate.wait()
    try:
        request = os.read(0, 1)
    except BlockingIOError:
        continue  # a sibling was faster
    manager.pre_dispatch()
    manager.post_dispatch()
manager.exit(manager.leave_reason)
"""
)


@pytest.mark.parametrize("how", ["HUP to the manager", "TERM to each", "KILL to each", "max_requests"])
def test_who_leaves_a_healthy_place_is_replaced_at_once(run_script: Run, tmp_path: Path, how: str) -> None:
    with open_pipe() as (requests, stdin):
        script = run_script(POOL, cwd=tmp_path, stdin=stdin)
        workers = [int(line) for line in script.lines(3)]
        script.wait_log(f"the next one starts in {DELAY} s")
        if how == "HUP to the manager":
            script.signal(signal.SIGHUP)
        elif how == "max_requests":
            requests.write(b"xxx")
        else:
            for worker in workers:
                script.signal(signal.Signals[f"SIG{how.split(maxsplit=1)[0]}"], worker)
        successors = [int(line) for line in script.lines(3)]
        assert not set(workers) & set(successors)
        assert script.stop() == 0


@contextmanager
def open_pipe() -> Iterator[tuple[io.FileIO, io.FileIO]]:
    """A pipe as its (writer, reader)."""
    read_end, write_end = os.pipe()
    with open(write_end, "wb", buffering=0) as writer, open(read_end, "rb", buffering=0) as reader:
        yield writer, reader
