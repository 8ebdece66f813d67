"""docs/API.md is what the docstrings say, and they say what a script has to know."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import api
from fcgi_procmanager import PoolManager, ProcManager, Supervisor
from fcgi_procmanager.limits import Limits

TOP = Path(__file__).resolve().parents[2]

WHO = re.compile(r"(Manager|Worker|Either|Daemon|Supervised process|Any process|A program|The process)\b[^:]*:")


def described() -> Iterator[Any]:
    """Functions and methods, with their names."""
    for face in api.FACES:
        for name, found in api.public(face).items():
            if not inspect.isclass(found):
                yield pytest.param(found, found, id=name)
                continue
            if not issubclass(found, BaseException) and name != "Role":
                yield pytest.param(found, found, id=name)
            for attribute, member in api.members(found):
                yield pytest.param(found, member, id=f"{name}.{attribute}")


def test_the_page_is_what_is_made_of_the_docstrings() -> None:
    """`python docs/generate` makes it anew."""
    assert (TOP / "docs" / "API.md").read_text(encoding="utf-8") == api.page()


@pytest.mark.parametrize(("owner", "found"), list(described()))
def test_each_description_is_complete(owner: Any, found: Any) -> None:
    """Which process calls it, and each parameter, whose types and defaults are in the signature."""
    text = inspect.getdoc(found) or ""
    if not inspect.isclass(found) and owner.__name__ != "Request":  # of which the class itself says it
        assert WHO.match(text), text
    if isinstance(found, property) or (inspect.isclass(found) and found.__name__ in api._MADE_BY_METHODS):
        return
    inherited = inspect.isclass(found) and found.__init__ is not vars(found).get("__init__")
    for one in () if inherited else api.parameters(found):
        assert one.annotation is not one.empty, one
        if inspect.isclass(found) or found is owner:  # of a method the words often say it without the name
            assert re.search(rf"\b{one.name}\b", text), f"{one.name} is not described"


@pytest.mark.parametrize("make", [ProcManager, PoolManager, Limits, Supervisor])
def test_nothing_of_the_inside_shows(make: Any) -> None:
    """What is neither a parameter nor described has an underscore."""
    described = {name for cls in make.__mro__ for name, _ in api.members(cls)}
    given = {one.name for cls in make.__mro__ if cls is not object for one in api.parameters(cls)}
    named = {name for cls in make.__mro__ for name in re.findall(r"`(\w+)`", cls.__doc__ or "")}
    shown = {name for name in dir(make()) if not name.startswith("_")}
    assert sorted(shown - described - given - named) == []
