"""What objects do in a child that the application forks. Real forks."""

from __future__ import annotations

from typing import Callable

from harness.process import Script

Run = Callable[..., Script]

HEAD = """
import os, sys
from fcgi_procmanager.system import atfork
from harness.inside import say

class Thing:
    def __init__(self, name):
        self.name = name
        things.add(self)
    def act(self):
        say(self.name, os.getpid() == parent)
        if self.name == "bad":
            raise LookupError("not whole")

things = atfork.AtFork(Thing.act)
parent = os.getpid()

def fork(how=os.fork):
    pid = how()
    if pid == 0:
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(pid, 0)
"""


def test_each_object_acts_in_the_child_alone(run_script: Run) -> None:
    script = run_script(HEAD + "one, two = Thing('one'), Thing('two')\nfork()\nsay('over')\n")
    assert script.lines(3) == ["one False", "two False", "over"]


def test_one_that_fails_does_not_keep_the_others(run_script: Run) -> None:
    """Another thread may be in the middle of making it."""
    source = """
more = atfork.AtFork(lambda thing: say("more", thing.name))
one, bad, two = Thing("one"), Thing("bad"), Thing("two")
more.add(two)
atfork.around(lambda: say("before"), lambda: say("after", os.getpid() == parent))
fork()
"""
    script = run_script(HEAD + source)
    assert script.wait() == 0
    said = script.output().splitlines()
    assert said[0] == "before"
    assert [line for line in said if line != "after True"][1:] == [
        "one False",
        "bad False",
        "two False",
        "more two",
        "after False",
    ]
    assert script.log().count("LookupError: not whole") == 1


def test_a_fork_of_ours_concerns_nobody(run_script: Run) -> None:
    source = """
atfork.around(lambda: say("before"), lambda: say("after"))
one = Thing("one")
fork(lambda: atfork.by_us(os.fork))
say("over")
fork()
"""
    script = run_script(HEAD + source)
    assert script.wait() == 0
    said = script.output().splitlines()
    assert said[:2] == ["over", "before"]
    assert sorted(said[2:]) == ["after", "after", "one False"]


def test_what_is_gone_does_nothing(run_script: Run) -> None:
    script = run_script(HEAD + "import gc\none = Thing('one')\ndel one\ngc.collect()\nfork()\nsay(things.any)\n")
    assert script.lines(1) == ["False"]
