"""Programs under test that are daemons: a supervisor whose parts a test replaces, and what can be read of one from outside."""

from __future__ import annotations

import textwrap
from pathlib import Path

from fcgi_procmanager.system.pidfile import read_pid
from harness.process import Script, alive, children, wait_until

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
            time.sleep(1000)

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
    return wait_until(lambda: pid if (pid := read_pid(pid_file)) and alive(pid) else 0, 20, "a living pid in the file")


def only_child(pid: int) -> int:
    """The one child of a process, once there is exactly one."""
    return wait_until(lambda: found[0] if len(found := children(pid)) == 1 else 0, 20, f"one child of {pid}")
