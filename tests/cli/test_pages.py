"""What is written from the parser: docs/OPTIONS.md, the manual pages, the completions of shells."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from commands import pages
from fcgi_procmanager.cli import command_parser
from fcgi_procmanager.cli.described import Command, commands_of, start_server
from fcgi_procmanager.cli.start_server import variables
from harness.tools import require

TOP = Path(__file__).resolve().parents[2]
DOCS = TOP / "docs"
PAGES = pages()
WRITE = "write it by 'python docs/generate'"


def everything() -> list[Command]:
    (found,) = (one for one in command_parser()._actions if isinstance(one, argparse._SubParsersAction))
    return [*commands_of(found), start_server()]


@pytest.mark.parametrize("name", PAGES)
def test_what_is_written_is_what_the_parser_says(name: str) -> None:
    assert (DOCS / name).read_text() == PAGES[name], f"{name} is older than the options: {WRITE}"


@pytest.mark.parametrize("name", PAGES)
def test_each_command_and_option_is_in_it(name: str) -> None:
    text = PAGES[name].replace("\\-", "-")
    for command in everything():
        if name.endswith(".md") or (command.name == "fcgi-start-server") == ("start-server" in name):
            assert command.name in text
            for option in command.options:
                assert all(one in text for one in option.names), option


def test_the_options_of_the_superdaemon_are_those_of_its_help() -> None:
    told = {name[2:] for option in start_server().options for name in option.names if name.startswith("--")}
    prefix = "FCGI_PROCMANAGER_SUPERDAEMON_"
    known = {name[len(prefix) :].lower().replace("_", "-") for name in variables()}
    assert told == (known - {"command"}) | {"restart", "stop", "help", "version"}


@pytest.mark.parametrize("name", [name for name in PAGES if name.endswith(".1")])
@pytest.mark.parametrize("tool", ["groff -man -ww -z", "man --warnings -E UTF-8 -l -Tutf8 -Z"])
def test_a_manual_page_has_no_warnings(name: str, tool: str) -> None:
    program, *words = tool.split()
    done = subprocess.run(
        [require(program), *words, str(DOCS / name)], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_wheel_has_the_manual_pages() -> None:
    project = (TOP / "pyproject.toml").read_text()
    assert '"share/man/man1" = ["docs/man/*.1"]' in project
    assert sorted(path.name for path in (DOCS / "man").iterdir()) == [
        "fcgi-procmanager.1",
        "fcgi-start-server.1",
    ]


# Completion

ASK = """
eval "$(cat completion)"
COMP_WORDS=({words})
COMP_CWORD={at}
{function}
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def completion(shell: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "fcgi_procmanager", "completion", shell],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("completion")
    (folder / "completion").write_text(completion("bash"))
    (folder / "my file").touch()
    (folder / "my folder").mkdir()
    return folder


def offered(place: Path, *words: str) -> list[str]:
    """What Tab offers behind the last word."""
    script = ASK.format(
        words=" ".join(map(shlex.quote, words)), at=len(words) - 1, function="_" + words[0].replace("-", "_")
    )
    done = subprocess.run(
        [require("bash"), "--norc", "-c", script], cwd=place, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [line for line in done.stdout.splitlines() if line]


OURS, STARTER = "fcgi-procmanager", "fcgi-start-server"


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ((OURS, "s"), ["serve", "stop", "status"]),
        ((OURS, "--v"), ["--version"]),
        ((OURS, "serve", "--max-"), ["--max-spare", "--max-requests", "--max-memory", "--max-age"]),
        ((OURS, "serve", "myapp", "--pool", ""), ["static", "dynamic", "ondemand", "per-request"]),
        ((OURS, "serve", "--pool", "=", "on"), ["ondemand"]),
        ((OURS, "serve", "--pool", "="), ["static", "dynamic", "ondemand", "per-request"]),
        ((OURS, "serve", "--log-file", "my"), ["my file", "my folder"]),
        ((OURS, "serve", "--chdir", "my"), ["my folder"]),
        ((OURS, "serve", "-n", ""), []),
        ((OURS, "check", "--tr"), ["--traceback"]),
        ((OURS, "config", "serve", "--stand"), ["--standby"]),
        ((OURS, "exec", "--listen", "s", "--", "my"), ["my file", "my folder"]),
        ((OURS, "completion", "z"), ["zsh"]),
        ((STARTER, "--drain"), ["--drain-timeout", "--drain-limit"]),
        ((STARTER, "--pid-file", "my f"), ["my file", "my folder"]),
    ],
)
def test_bash_completes(place: Path, words: tuple[str, ...], found: list[str]) -> None:
    assert sorted(offered(place, *words)) == sorted(found)


def test_bash_offers_every_option(place: Path) -> None:
    for command in everything():
        words = (command.name, "-") if command.name == STARTER else (OURS, command.name, "-")
        names = {name for option in command.options for name in option.names if name.startswith("-")}
        assert names <= {*offered(place, *words)}, command.name


def test_zsh_understands_its_own() -> None:
    text = completion("zsh")
    assert text.startswith("#compdef fcgi-procmanager fcgi-start-server\n")
    zsh = shutil.which("zsh")
    if zsh is None:
        pytest.skip("there is no zsh")
    subprocess.run([zsh, "-f", "-n"], input=text, text=True, check=True, timeout=60, env={"PATH": os.environ["PATH"]})
