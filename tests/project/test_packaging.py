"""What a package index shows and hands out. (.ci/run builds the packages, and installs them.)"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]


def shown() -> str:
    spec = importlib.util.spec_from_file_location("setup", TOP / "setup.py")
    assert spec
    assert spec.loader
    setup = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(setup)
    text: str = setup.for_an_index((TOP / "README.md").read_text(encoding="utf-8"))
    return text


def test_no_link_of_the_index_leads_nowhere() -> None:
    """Links to files are their names, and it is said where the files are; all else is as in README.md."""
    text = shown()
    assert re.findall(r"\]\((?!https?:)[^)]*\)", text) == []
    named = re.findall(r"`((?:docs|examples)/[\w./-]+|CHANGELOG\.md)`", text)
    assert len(set(named)) > 10
    assert [name for name in named if not (TOP / name).exists()] == []
    assert text.index("files of the source distribution") < text.index("docs/")
    readme = (TOP / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^#+ .*$", text, re.MULTILINE) == re.findall(r"^#+ .*$", readme, re.MULTILINE)
    assert re.findall(r"```.*?```", text, re.DOTALL) == re.findall(r"```.*?```", readme, re.DOTALL)


@pytest.mark.parametrize("folder", ["docs", "examples", "tests", "benchmarks"])
def test_the_source_distribution_has_what_its_tests_need(folder: str) -> None:
    assert f"graft {folder}\n" in (TOP / "MANIFEST.in").read_text()


def test_the_license_is_an_spdx_expression() -> None:
    project = (TOP / "pyproject.toml").read_text()
    assert '\nlicense = "MIT"\n' in project
    assert "License ::" not in project, "a classifier beside it is refused"
    assert (TOP / "LICENSE").read_text().startswith("MIT License\n")
