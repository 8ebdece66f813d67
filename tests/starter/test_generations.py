"""Limits for old generations, releases behind symbolic links, and the duties of process 1."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from signal import SIGHUP, SIGQUIT, SIGTERM

import pytest

from harness.process import alive, children, patient, wait_asleep, wait_dead, wait_until
from harness.tools import require
from starter.conftest import Launch
from starter.sides import WORKER

# -- old generations --------------------------------------------------------------------------------------------------


def test_an_old_generation_has_only_so_long_to_leave(launch: Launch) -> None:
    daemon = launch("--path=SOCK", "--drain-timeout=3", words=["hold=DIR/hold"])  # it is killed later than it says so
    daemon.file("hold").touch()
    old = daemon.wait_status(1)[1]
    begun = time.monotonic()
    daemon.hup()
    daemon.wait_event(r"got TERM 1 \d+")
    daemon.wait_status(2)
    assert 1 + 3 < time.monotonic() - begun < patient(20)  # the survival time of the new one is in it
    assert not alive(old)
    assert daemon.who()[0] == 2
    daemon.file("hold").unlink()
    daemon.end()


def test_the_children_of_an_old_generation_end_with_it(launch: Launch) -> None:
    daemon = launch("--path=SOCK", "--drain-timeout=1", words=["deaf", "family=near"])
    child = int(daemon.wait_event(r"child 1 (\d+)")[0][1])
    daemon.wait_status(1)
    daemon.hup()
    daemon.wait_status(2)
    wait_dead(child)
    daemon.end(SIGQUIT)


def test_only_so_many_old_generations_may_go_on(launch: Launch) -> None:
    """The oldest is the one too many."""
    daemon = launch("--path=SOCK", "--drain-limit=1", words=["hold=DIR/hold"])
    daemon.file("hold").touch()
    old = daemon.wait_status(1)[1]
    daemon.hup()
    daemon.wait_status(1, 2)
    daemon.hup()
    daemon.wait_status(2, 3)
    assert not alive(old)
    daemon.file("hold").unlink()
    daemon.wait_status(3)
    daemon.end()


def test_without_limits_old_generations_go_on(launch: Launch) -> None:
    daemon = launch("--path=SOCK", words=["hold=DIR/hold"])
    daemon.file("hold").touch()
    daemon.wait_status(1)
    for number in (2, 3, 4):
        daemon.hup()
        daemon.wait_status(*range(1, number + 1))
    daemon.wait_event(r"got TERM 3 \d+")
    daemon.file("hold").unlink()
    daemon.wait_status(4)
    assert daemon.end() == 0


# -- releases ---------------------------------------------------------------------------------------------------------

RELEASE = """#!/bin/sh
echo "{name} $(pwd -P) $COLOUR" >> {folder}/seen
exec sleep 600
"""


@pytest.fixture
def releases(tmp_path: Path) -> Path:
    """Two releases, with a program and an environment each, and `current`, which leads to the first."""
    for name, colour in (("one", "red"), ("two", "blue")):
        release = tmp_path / name
        (release / "env").mkdir(parents=True)
        (release / "env" / "COLOUR").write_text(colour)
        (release / "run").write_text(RELEASE.format(name=name, folder=tmp_path))
        (release / "run").chmod(0o755)
    (tmp_path / "current").symlink_to("one")
    return tmp_path


@pytest.mark.parametrize("program", ["absolute", "relative"])
def test_each_generation_finds_the_release_that_is_current(launch: Launch, releases: Path, program: str) -> None:
    """The program, its folder and its environment are looked up anew, also when the old release is gone."""
    current = releases / "current"
    words = [str(current / "run") if program == "absolute" else "./run"]
    daemon = launch(f"--dir={current}", f"--envdir={current}/env", program=words)
    daemon.wait_status(1)
    _seen(releases, 1)
    _switch(current, "two")
    daemon.hup()
    daemon.wait_status(2)
    _seen(releases, 2)
    subprocess.run(["rm", "-r", str(releases / "one")], check=True)
    daemon.hup()
    daemon.wait_status(3)
    assert _seen(releases, 3) == [f"one {releases}/one red", f"two {releases}/two blue", f"two {releases}/two blue"]
    assert daemon.end() == 0


def test_a_release_that_is_broken_does_not_end_the_old_one(launch: Launch, releases: Path) -> None:
    current = releases / "current"
    daemon = launch(f"--dir={current}", program=["./run"])
    first = daemon.wait_status(1)
    _seen(releases, 1)
    _switch(current, "missing")
    daemon.hup()
    daemon.script.wait_log("seems to have failed to start", 2)
    assert daemon.status() == first
    _switch(current, "two")
    wait_until(lambda: 1 not in daemon.status(), 60, "a generation of the second release")
    assert [line.split()[0] for line in _seen(releases, 2)] == ["one", "two"]
    assert daemon.end() == 0


def _seen(releases: Path, count: int) -> list[str]:
    """What so many generations have found: one is accepted at its age, which a busy machine lets pass before it looks."""
    path = releases / "seen"
    wait_until(lambda: path.exists() and path.read_text().count("\n") >= count, 60, f"{count} generations")
    return path.read_text().splitlines()


def _switch(link: Path, target: str) -> None:
    new = link.with_name("new")
    new.symlink_to(target)
    os.replace(new, link)


# -- process 1 --------------------------------------------------------------------------------------------------------

ORPHAN = """
(sh -c 'echo $$ > {0}/orphan.new; mv {0}/orphan.new {0}/orphan; while ! test -e {0}/end; do sleep 0.02; done' &)
exec {1}
"""


def test_process_1_reaps_orphans(launch: Launch) -> None:
    unshare = require("unshare")
    cell = [unshare, "--fork", "--pid", "--mount-proc", "--kill-child"]
    if subprocess.run([*cell, "true"], capture_output=True, check=False).returncode:
        pytest.skip("namespaces are not permitted here")
    worker = f"{sys.executable} -S {WORKER} DIR"
    daemon = launch(
        "--path=SOCK",
        program=["sh", "-c", ORPHAN.format("DIR", worker).strip()],
        launcher=lambda argv: [*cell, *argv],
    )
    daemon.wait_status(1)
    (first,) = children(daemon.pid)
    wait_until(daemon.file("orphan").exists, 60, "the orphan")
    two = wait_until(lambda: len(found := children(first)) == 2 and found, 60, "the worker and the orphan")
    log = daemon.script.log()
    daemon.file("end").touch()
    wait_until(lambda: len(children(first, zombies=True)) == 1, 60, lambda: f"a zombie of {two}")
    (worker_pid,) = children(first)
    wait_asleep(worker_pid)
    assert daemon.script.log() == log, "an orphan is nobody's worker"
    os.kill(first, SIGHUP)
    daemon.wait_status(2)
    os.kill(first, SIGTERM)
    assert daemon.script.wait() == 0
    daemon.script.tree_gone()
