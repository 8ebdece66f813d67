"""Programs under test that are daemons: a supervisor whose parts a test replaces, and what can be read of one from outside."""

from __future__ import annotations

import os
import sys
import sysconfig
import textwrap
from pathlib import Path

import pytest

import fcgi_procmanager
from fcgi_procmanager.system.pidfile import read_pid
from harness.process import TESTS, Script, alive, children, wait_until

_SUPERVISOR = """
import os, signal, sys, threading, time
from fcgi_procmanager import Supervisor
from harness.inside import say

class Feed(Supervisor):
    can_do_hot_reload = True
    delay_before_respawn = 0.1
    die_timeout = 10
    hot_reload_timeout = 20

    def supervised_process(self):
        say("process", os.getpid(), self.generation)
        self.ready_to_take_over()
        say("ready", os.getpid(), self.generation)
        while True:
            time.sleep(1)  # a signal that comes just before Python sleeps is acted on after it

    def supervised_shutdown(self):
        say("shutdown", os.getpid())

{changes}
if __name__ == "__main__":
    Feed.main()
"""


def supervisor(changes: str = "", before: str = "") -> str:
    """The source of a supervisor. changes: of the class, attributes and methods. before: code in front of it."""
    body = textwrap.indent(textwrap.dedent(changes), "    ")
    return textwrap.dedent(before) + _SUPERVISOR.format(changes=body)


def words(script: Script, *expected: str) -> list[str]:
    """The next line of standard output, which begins so; the rest of its words."""
    found = script.line().split()
    assert found[: len(expected)] == list(expected), f"{found} in place of {expected}\n{script.log()}"
    return found[len(expected) :]


def serving(script: Script, generation: int = 1) -> int:
    """The pid of the supervised process, once it serves."""
    (pid, first), (other, second) = words(script, "process"), words(script, "ready")
    assert (pid, first, second) == (other, str(generation), str(generation))
    return int(pid)


def replace(script: Script, source: str) -> None:
    """New code."""
    (script.directory / "script.py").write_text(source)


def holder(pid_file: Path) -> int:
    """The pid in the file, once there is a living process of that pid."""
    return wait_until(lambda: pid if (pid := read_pid(pid_file)) and alive(pid) else 0, 60, "a living pid in the file")


def only_child(pid: int) -> int:
    """The one child of a process, once there is exactly one."""
    return wait_until(lambda: found[0] if len(found := children(pid)) == 1 else 0, 60, f"one child of {pid}")


def readable_python() -> tuple[str, dict[str, str]]:
    """An interpreter that any user can run, with the environment in which it finds what this one finds; or the test is skipped."""
    found = os.environ.get("PYTHONPATH", "")
    if _is_open(os.path.realpath(sys.executable)):
        return sys.executable, {}
    other = f"/usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}"
    source = Path(fcgi_procmanager.__file__).parents[1]
    paths = [str(TESTS), str(source), *filter(None, found.split(os.pathsep)), sysconfig.get_path("purelib")]
    if not os.path.exists(other) or not all(map(_is_open, paths)):
        pytest.skip("this Python can be run by its owner only, and there is no other")
    return other, {"PYTHONPATH": os.pathsep.join(paths)}


def _is_open(path: str) -> bool:
    """Everybody may go there, and read it."""
    here = Path(path)
    return all(folder.stat().st_mode & 0o001 for folder in here.parents) and bool(here.stat().st_mode & 0o004)
