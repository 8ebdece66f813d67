"""Imports go down the table of the design only, and flup is loaded where a server of it is used and nowhere else."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fcgi_procmanager

ROOT = Path(fcgi_procmanager.__file__).parent
DESIGN = Path(__file__).resolve().parents[2] / "docs" / "DESIGN.md"
PACKAGE = "fcgi_procmanager"

TOP = {"__init__", "__main__"}  # the public face and the command: above everything
FLUP = {"fastcgi/wsgi.py", "fastcgi/adopted.py"}
MODULES = sorted(ROOT.rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def layers() -> dict[str, int]:
    """The table of the design, from the lowest layer up: a folder, or a module that stands in the open, and its level."""
    found: dict[str, int] = {}
    folder = ""
    for named, module in rows():
        folder = named or ("" if module in FACES else folder)
        found.setdefault(folder or module, len(found))
    return found


def rows() -> list[tuple[str, str]]:
    return re.findall(r"^\| (?:`(\w+)`)? ?\| (?:`(\w+)`)? ?\| ", DESIGN.read_text(), re.MULTILINE)


def documented() -> set[str]:
    """The modules that the table names, as paths without their ending; of some folders it names no module."""
    found, folder = set(), ""
    for named, module in rows():
        folder = named or ("" if module in FACES else folder)
        found.add("/".join(filter(None, (folder, module))))
    return found


FACES = {path.stem for path in ROOT.glob("*.py")}
LEVEL = layers()


def imported(path: Path) -> list[tuple[str, ...]]:
    """Every module that a file imports, wherever in it, as a dotted path in parts; not what is for type checkers only."""
    tree = ast.parse(path.read_text())
    ignored = {
        id(node)
        for guard in ast.walk(tree)
        if isinstance(guard, ast.If) and "TYPE_CHECKING" in ast.dump(guard.test)
        for statement in guard.body
        for node in ast.walk(statement)
    }
    here = (PACKAGE, *path.relative_to(ROOT).parent.parts)
    found: list[tuple[str, ...]] = []
    for node in ast.walk(tree):
        if id(node) in ignored:
            continue
        if isinstance(node, ast.Import):
            found += [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else ()
            module = (*base, *(node.module or "").split(".")) if node.module else base
            found += [(*module, alias.name) for alias in node.names]
    return found


def own_modules(path: Path) -> set[str]:
    """The modules of this package that a file imports, as paths without their ending."""
    found = set()
    for parts in imported(path):
        if parts[0] != PACKAGE:
            continue
        inside = parts[1:]
        while inside and not (ROOT.joinpath(*inside).is_dir() or ROOT.joinpath(*inside).with_suffix(".py").exists()):
            inside = inside[:-1]
        found.add("/".join(inside) or "__init__")
    return found


def unit(module: str) -> str:
    return module.partition("/")[0]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_up_the_table_only(path: Path) -> None:
    here = unit(name_of(path).removesuffix(".py"))
    if here in TOP:
        return
    assert here in LEVEL, f"{here} has no place in the table of layers"
    # Of the package itself only its version may be asked for, and that by the command only.
    allowed_top = {"__init__"} if here == "cli" else set()
    others = {unit(other) for other in own_modules(path)} - allowed_top
    wrong = {other for other in others if other in TOP or LEVEL[other] > LEVEL[here]}
    assert not wrong, f"{name_of(path)} imports {sorted(wrong)}, which are above it"


def test_no_two_modules_import_each_other() -> None:
    graph = {name_of(path).removesuffix(".py"): own_modules(path) for path in MODULES}
    for start, direct in graph.items():
        seen, todo = set(), set(direct)
        while todo:
            module = todo.pop()
            if module not in seen and unit(start) not in TOP:
                assert module != start, f"{start} imports itself, by way of others"
                seen.add(module)
                todo |= graph.get(module, set())


def test_the_table_names_every_module() -> None:
    whole = {unit(row) for row in documented() if (ROOT / row).is_dir()}
    there = {name_of(path).removesuffix(".py") for path in MODULES if path.stem not in TOP}
    assert documented() - whole == {module for module in there if unit(module) not in whole}


@pytest.mark.parametrize("path", [path for path in MODULES if name_of(path) not in FLUP], ids=name_of)
def test_only_two_modules_import_flup(path: Path) -> None:
    assert not [parts for parts in imported(path) if parts[0] == "flup"]


def test_the_two_do() -> None:
    assert {name_of(path) for path in MODULES if any(parts[0] == "flup" for parts in imported(path))} == FLUP


@pytest.mark.parametrize(
    ("statement", "loaded"),
    [
        ("import fcgi_procmanager", False),
        ("from fcgi_procmanager import ProcManager; ProcManager(0).manage()", False),
        ("from fcgi_procmanager import FastCGI; FastCGI", False),
        ("from fcgi_procmanager import WSGIServer; WSGIServer", True),
        ("from fcgi_procmanager import adopt; adopt", True),
    ],
)
def test_flup_is_loaded_when_it_is_first_asked_for(statement: str, loaded: bool) -> None:
    code = f"{statement}\nimport sys; print('flup' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == str(loaded)


@pytest.mark.parametrize("statement", ["ProcManager; ProcManager(0).manage()", "FastCGI; FastCGI"])
def test_threading_is_not_loaded(statement: str) -> None:
    """Once it is, it costs every new worker a third of a millisecond."""
    code = f"from fcgi_procmanager import {statement}\nimport sys; print('threading' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "False"


def test_every_module_says_what_it_owns() -> None:
    assert [name_of(path) for path in MODULES if not ast.get_docstring(ast.parse(path.read_text()))] == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("from ..manager import x", {"manager"}),
        ("from ..manager.half import x", {"manager/half"}),
        ("from .. import exits, signals", {"exits", "signals"}),
        ("def f():\n    from .wsgi import y", {"fastcgi/wsgi"}),
        ("import fcgi_procmanager.pool", {"pool"}),
        ("if TYPE_CHECKING:\n    from ..manager import x", set()),
    ],
)
def test_the_reader_of_imports_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, found: set[str]
) -> None:
    """A check that never fails proves nothing: it sees every form of import."""
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    for name in ("fastcgi", "manager"):
        (tmp_path / name).mkdir()
    for name in ("manager/half", "fastcgi/wsgi", "exits", "signals", "pool"):
        (tmp_path / f"{name}.py").touch()
    path = tmp_path / "fastcgi" / "loop.py"
    path.write_text(text)
    assert own_modules(path) == found
