"""The same scenario under Perl's `start_server` and under ours: log lines, files and variables must be equal.

Every difference is listed at its case in plays.py, with its reason; any other fails, and so does one that is not seen.
"""

from __future__ import annotations

import difflib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from starter.conftest import Launch
from starter.plays import CASES, PORTS, Case, Play, with_free_ports
from starter.sides import PERL, SIDES, Superdaemon, command


@pytest.mark.parametrize("name", CASES)
def test_alike_but_for_the_listed_differences(name: str, launch_side: Launch) -> None:
    case = CASES[name]
    command(PERL)
    options = {side: with_free_ports(case.options) for side in SIDES}
    plays = [
        Play(launch_side(side, *options[side], words=case.words, env=case.env, prepare=_with_an_envdir))
        for side in SIDES
    ]
    with ThreadPoolExecutor(len(plays)) as pool:
        list(pool.map(case.play, plays))
    compare(case, *[_ports_hidden(play.story(), options[play.daemon.side], case) for play in plays])


def compare(case: Case, perl: list[str], ours: list[str]) -> None:
    seen = Counter(line for line in difflib.ndiff(perl, ours) if line[0] in "-+")
    listed = Counter(line for one in case.differences for line in (f"- {one[0]}", f"+ {one[1]}") if line[2:])
    if seen != listed:
        head = f"unlisted {seen - listed}, unseen {listed - seen}"
        pytest.fail("\n".join([head, *difflib.ndiff(perl, ours)]), pytrace=False)


def _ports_hidden(story: list[str], options: list[str], case: Case) -> list[str]:
    for before, after in zip(case.options, options):
        found = PORTS.search(before)
        if found:
            head, tail = before[: found.start()], before[found.end() :]
            number = after[len(head) : len(after) - len(tail)]
            story = [line.replace(number, found[0]) for line in story]
    return story


def _with_an_envdir(daemon: Superdaemon) -> None:
    """For the cases that name it; and one that a worker fills."""
    daemon.file("calm").mkdir()
    daemon.file("env").mkdir()
    (daemon.file("env") / "KILL_OLD_DELAY").write_text("1")
    (daemon.file("env") / "COLOUR").write_text("red\n")
