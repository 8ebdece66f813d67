"""docs/OPERATING.md: each line of its table is said somewhere in the source, and has the level that is told; each metric is there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import fcgi_procmanager
from fcgi_procmanager.basics import levels
from fcgi_procmanager.status import metrics

ROOT = Path(fcgi_procmanager.__file__).parent
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "OPERATING.md").read_text()
ROWS = re.findall(r"^\| `(.+?)` \| (DEBUG|INFO|WARNING|ERROR) \|", PAGE, re.MULTILINE)
ANY = "\0"  # in a text of the source, what differs
VALUES = {
    "CPU": "CPU",
    "KILL": "KILL",
    "SECONDS": "0.5",
    "N": "3",
    "P": "7",
    "S": "1",
    "METHOD": "GET",
    "PATH": "/failed",
    "URI": "/failed",
    "REQUEST": "GET /failed",
    "ADDRESSES": "/srv/failed-jobs/app.sock, /srv/refused",
    "COMMAND": "/srv/failed/python cannot refuse",
    "FOLDER": "/srv/could not",
    "REASON": "it cannot be and was refused",
}
OTHERS = [  # that no row of the page has, as they are said
    ("watching FOLDER: a change of a Python file reloads", levels.INFO),
    ("serving FOLDER", levels.INFO),
    ("removing existing socket file:FOLDER", levels.INFO),
    ("the supervisor is gone", levels.WARNING),
    ("WHY Sending KILL to previous generation process", levels.WARNING),
    ("worker P died unexpectedly with status:S, restarting", levels.WARNING),
    ("logger P died, status:S, restarting", levels.WARNING),
    ("fork of a standby: REASON; trying again in SECONDS s", levels.ERROR),
    ("Couldn't fork: REASON; the next attempt is in SECONDS s", levels.ERROR),
    ("no worker could be started in N attempts", levels.ERROR),
    ("Could not write the PID file because: REASON", levels.ERROR),
    ("open: FOLDER: REASON", levels.ERROR),
    ("unlink: FOLDER: REASON", levels.ERROR),
]


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_text, node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    return ANY


def _texts() -> Iterator[str]:
    """All that the source may say, without the name and the number of the process."""
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Constant, ast.JoinedStr, ast.BinOp)):
                text = _text(node).rpartition(f"(pid {ANY}): ")
                yield text[2] if text[0].endswith(f"{ANY}: {ANY} ") else "".join(text)


TEXTS = sorted({text for text in _texts() if len(re.findall("[a-z]", text)) >= 4 and "\n" not in text})


def is_said(line: str) -> bool:
    return any(_says(text, line) for text in TEXTS)


def _says(text: str, line: str) -> bool:
    """As one text that is most of it, or as one that ends in another one."""
    if re.fullmatch(".*".join(map(re.escape, text.split(ANY))), line):
        own = len(re.findall("[a-z]", text))
        if own >= len(re.findall("[a-z]", line)) * 0.5:
            return True
        begin = text.removesuffix(ANY)
        return begin != text and ANY not in begin and is_said(line.removeprefix(begin))
    return False


def example(line: str) -> str:
    return re.sub(
        r"\b[A-Z]+\b", lambda found: VALUES.get(found[0], found[0].lower() if len(found[0]) > 1 else found[0]), line
    )


def test_the_table_is_read() -> None:
    assert len(ROWS) > 40
    assert len({line for line, _ in ROWS}) == len(ROWS)
    assert not is_said("server (pid P) has gone for a walk")
    assert is_said("dying: safe exit from signal SIGNAL")


@pytest.mark.parametrize(("line", "level"), OTHERS)
def test_others_have_their_level_whatever_they_quote(line: str, level: str) -> None:
    assert is_said(line)
    assert levels.of_own(example(line)) == level


@pytest.mark.parametrize(("line", "level"), ROWS)
def test_each_line_is_said_somewhere(line: str, level: str) -> None:
    assert is_said(line)


@pytest.mark.parametrize(("line", "level"), ROWS)
def test_each_line_has_its_level(line: str, level: str) -> None:
    assert levels.of_own(example(line)) == level
    assert levels.of_own(f"dying: {example(line)}") == level or not line.startswith("no server")


def test_each_metric_is_there() -> None:
    there = {gauge.name for gauge in metrics.GAUGES} | {f"{counter.name}_total" for counter in metrics.COUNTERS}
    table = PAGE.partition("## What to watch")[2].partition("\n## ")[0]
    named = {
        name
        for row in re.findall(r"^\| [^|]+ \| ([^|]+) \|", table, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    }
    assert {name for name in named if not name.startswith("limit_")} - {"verdict"} <= there
    assert len(named) > 8
