"""A worker that leaves is quick about it, and nothing that Python promises at an exit, or does in practice, is missed."""

from __future__ import annotations

import gzip
import signal
from pathlib import Path

import pytest

from harness.interpreter import CPYTHON, cpython_only
from harness.process import wait_until

SCRIPT = """
    import atexit, os, sys
    atexit.register(lambda: open("before-import", "w").write("ran"))
    import gzip
    import logging
    from fcgi_procmanager import ProcManager
    from fcgi_procmanager.system import fastexit
    from harness.inside import say

    early = open("early", "w")

    class Manager(ProcManager):
        def server_init(self):
            super().server_init()
            global late, zipped
            late = open("late", "wb")
            zipped = gzip.open("zipped", "wb")
            atexit.register(lambda: open("after-fork", "w").write("ran"))

    manager = Manager(n_processes=1)
    listener = manager.listen(sys.argv[1])
    manager.manage()
    early.write("early words")
    late.write(b"late words")
    zipped.write(b"zipped words")
    say("written")
    assert manager.accept(listener) is None
    sys.stdout.write("standard words")
    try:
        if sys.argv[2] == "caught":
            try:
                manager.exit("not yet")
            except SystemExit:
                fastexit.disarm()
        if sys.argv[2] in ("own", "caught"):
            sys.exit(5)
        manager.exit("done", int(sys.argv[2]))
    finally:
        open("finally", "w").write("ran")
"""


@pytest.mark.parametrize(("asked", "status"), [("0", 0), ("3", 3), ("own", 5), ("caught", 5)])
def test_nothing_is_missed(run_script, sock_path, tmp_path, asked, status):
    script = run_script(SCRIPT, args=[sock_path, asked], cwd=tmp_path)
    assert script.line() == "written"
    assert script.stop() == 0
    assert f"exited with status {status}\n" in script.log()
    for name, content in {
        "before-import": "ran",
        "after-fork": "ran",
        "finally": "ran",
        "early": "early words",
        "late": "late words",
    }.items():
        assert (tmp_path / name).read_text() == content, name
    assert unzipped(tmp_path / "zipped", b"zipped words")
    assert "standard words" in script.output()


# Daemon threads that are in the middle of something

# Whoever blocks in a file does so for good, and holds the lock of its buffer.
THREADED = """
    import gzip, os, sys, threading, time
    from fcgi_procmanager import ProcManager
    from harness.inside import say

    def read_bytes():
        with os.fdopen(os.pipe()[0], "rb") as file:
            say("blocks")
            file.read()

    def read_lines():
        with os.fdopen(os.pipe()[0]) as file:
            say("blocks")
            for line in file:
                pass

    def read_both_ways():
        import socket
        here, _there = pair = socket.socketpair()
        with here.makefile("rwb") as file:
            say("blocks")
            file.read(1)

    def write_bytes():
        with os.fdopen(os.pipe()[1], "wb") as file:
            say("blocks")
            file.write(bytes(1 << 20))

    def write_lines():
        with os.fdopen(os.pipe()[1], "w") as file:
            say("blocks")
            while True:
                print("x" * 1000, file=file)

    def write_on():
        with open("log", "a", buffering=1) as file:
            say("blocks")
            while True:
                print("x" * 100, file=file)

    def sleep():
        say("blocks")
        time.sleep(1000)

    class Manager(ProcManager):
        def server_init(self):
            super().server_init()
            pid = os.getpid()
            self.file, self.text, self.zipped = open(f"b{pid}", "wb"), open(f"t{pid}", "w"), gzip.open(f"z{pid}", "wt")
            self.thread = threading.Thread(target=globals()[sys.argv[2]], daemon=True)
            self.thread.start()

    manager = Manager(n_processes=1)
    listener = manager.listen(sys.argv[1])
    manager.manage()
    manager.file.write(b"some bytes")
    manager.text.write("some text")
    manager.zipped.write("zipped text")
    say("ready", os.getpid())
    assert manager.accept(listener) is None
    manager.exit("done")
"""

waits = cpython_only("waits at its end for whoever writes, until it is killed")
BLOCKED = ["read_bytes", "read_lines", "read_both_ways", "sleep"]
WRITING = [pytest.param(name, marks=waits) for name in ("write_bytes", "write_lines")]


@pytest.mark.parametrize("thread", [*BLOCKED, *WRITING, "write_on"])
def test_what_a_daemon_thread_does_with_a_file_neither_aborts_nor_holds_the_end(
    run_script, sock_path, tmp_path, thread
):
    """A file of which the thread holds the lock is left alone, and the others are written out."""
    script = run_script(THREADED, args=[sock_path, thread], cwd=tmp_path)
    worker = ready(script)
    if thread != "write_on":  # in the kernel, with the lock in its hand, once both threads of the worker sleep
        wait_until(lambda: thread_states(worker) == ["S", "S"])
    script.signal(signal.SIGTERM, worker)
    script.wait_log(rf"server \(pid {worker}\) exited with status 0$")
    ready(script)
    script.signal(signal.SIGQUIT)
    assert script.wait() == 1
    assert "Fatal Python error" not in script.log()
    assert "Traceback" not in script.log()
    assert (tmp_path / f"b{worker}").read_bytes() == b"some bytes"
    assert (tmp_path / f"t{worker}").read_text() == "some text"
    assert unzipped(tmp_path / f"z{worker}", b"zipped text")


def unzipped(path, content):
    """PyPy writes out what is buffered at its end, and finishes no archive."""
    return not CPYTHON or gzip.decompress(path.read_bytes()) == content


def ready(script):
    """The next worker, once it has written its files and its thread is about to do what it does."""
    said = dict(line.partition(" ")[::2] for line in script.lines(2))
    assert set(said) == {"blocks", "ready"}
    return int(said["ready"])


def thread_states(pid):
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [(task / "stat").read_text().rpartition(") ")[2][0] for task in tasks]
