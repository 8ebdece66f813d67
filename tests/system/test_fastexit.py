"""A worker that leaves is quick about it, and nothing that Python promises at an exit, or does in practice, is missed."""

from __future__ import annotations

import gzip

import pytest

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
    assert gzip.decompress((tmp_path / "zipped").read_bytes()) == b"zipped words"
    assert "standard words" in script.output()
