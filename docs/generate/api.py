"""docs/API.md: every public name, by its signature and its docstring.

A docstring is shown as it is, but for its parameters, which become a list: `name: words`, at the begin of a line or of a sentence.
"""

from __future__ import annotations

import importlib
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Any

FACES = ("fcgi_procmanager", "fcgi_procmanager.limits", "fcgi_procmanager.starter")

_MADE_BY_METHODS = {"Listener", "Request"}  # of ours: nobody calls their constructors
_NOT_FOR_SCRIPTS = "For our servers"  # how the description of a member begins that is left out

_WRITTEN_OUT = {
    "Application": "Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]",
    "Listening": "Listener | socket.socket",
    "Path": "str | os.PathLike[str] | None",
    "Texts": "str | int | Iterable[str | int] | None",
}
_WIDTH = 120

_TOP = """\
# API

The public names, made from their docstrings by `python docs/generate`. What is not here may change with each release. The names that
come from Perl, in `fcgi_procmanager.perl` and `fcgi_procmanager.engine`, are in [PORTING](PORTING.md).

A description begins with who calls it: *Manager*, *Worker*, *Either* of the two, or another process. Times are seconds.
"""


def page() -> str:
    return "\n\n".join(part.strip("\n") for part in _parts()) + "\n"


def public(face: str) -> dict[str, Any]:
    """What a module lists in `__all__`, by name."""
    module = importlib.import_module(face)
    return {name: getattr(module, name) for name in sorted(module.__all__, key=str.lower)}


def members(cls: type) -> Iterator[tuple[str, Any]]:
    """The methods and properties that a class has for scripts, in the order of the source, but those of its parents."""
    for name, member in vars(cls).items():
        known = isinstance(member, (property, classmethod)) or inspect.isfunction(member)
        if known and not name.startswith("_") and not _is_of_a_parent(cls, name):
            found = getattr(cls, name)
            if not (inspect.getdoc(found) or "").startswith(_NOT_FOR_SCRIPTS):
                yield name, found


def parameters(found: Any) -> list[inspect.Parameter]:
    """Those that a caller gives."""
    given = inspect.signature(found).parameters.values()
    return [one for one in given if one.name != "self" and not one.name.startswith("_")]


def _is_of_a_parent(cls: type, name: str) -> bool:
    """An override that has nothing to say of its own."""
    described = [parent for parent in cls.__mro__[1:] if getattr(vars(parent).get(name), "__doc__", None)]
    return bool(described) and not vars(cls)[name].__doc__


def _parts() -> Iterator[str]:
    yield _TOP
    for face in FACES:
        yield f"## {face}"
        yield _words(importlib.import_module(face)).partition("\n\n")[0]
        for name, found in public(face).items():
            yield from _class(name, found) if inspect.isclass(found) else _function(name, found)


def _function(name: str, found: Any) -> Iterator[str]:
    yield f"### {name}"
    yield from _described(name, found)


def _class(name: str, cls: type) -> Iterator[str]:
    yield f"### {name}"
    if issubclass(cls, (BaseException, Enum)) or name in _MADE_BY_METHODS:
        yield _words(cls)
    else:
        yield from _described(name, cls)
    bases = [base for base in cls.__bases__ if base is not object]
    if bases:
        yield f"Derives from {' and '.join(map(_base, bases))}."
    if issubclass(cls, Enum):
        yield "\n".join(f"- `{one.name}`: `{one.value!r}`" for one in cls)
    for attribute, member in members(cls):
        yield f"#### {name}.{attribute}"
        if isinstance(member, property):
            yield _code(f"{attribute}: {member.fget.__annotations__['return']}")
            yield _words(member)
        else:
            yield from _described(attribute, member)


def _base(base: type) -> str:
    ours = base.__module__.startswith("fcgi_procmanager") or base.__module__ == "builtins"
    return f"`{base.__name__}`" if ours else f"`{base.__module__}.{base.__name__}`"


def _described(name: str, found: Any) -> Iterator[str]:
    given = parameters(found)
    returned = "" if inspect.isclass(found) else f" -> {inspect.signature(found).return_annotation}"
    yield _code(_signature(name, list(_as_written(given)), returned))
    yield _words(found, [one.name for one in given])


_STARS: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}


def _as_written(given: Iterable[inspect.Parameter]) -> Iterator[str]:
    before = None
    for one in given:
        if one.kind is one.KEYWORD_ONLY and before not in (one.KEYWORD_ONLY, one.VAR_POSITIONAL):
            yield "*"
        before = one.kind
        stars = _STARS.get(one.kind, "")
        default = "" if one.default is one.empty else f" = {one.default!r}"
        yield f"{stars}{one.name}: {_written_out(one.annotation)}{default}"


def _written_out(annotation: str) -> str:
    return re.sub(r"[A-Z]\w+", lambda name: _WRITTEN_OUT.get(name[0], name[0]), annotation)


def _signature(name: str, given: list[str], returned: str) -> str:
    line = f"{name}({', '.join(given)}){returned}"
    if len(line) <= _WIDTH:
        return line
    return "\n".join([f"{name}(", *(f"    {one}," for one in given), f"){returned}"])


def _code(text: str) -> str:
    return f"```python no-run: a signature\n{text}\n```"


def _words(found: Any, names: Iterable[str] = ()) -> str:
    text = inspect.getdoc(found) or ""
    one_of = "|".join(names)
    if one_of:
        listed = rf"(?:{one_of})(?:, (?:{one_of}))*"
        text = re.sub(rf"(?:^|(?<=\.) +|(?<=\.)\n +)({listed}):(?=\s)", _item, text, flags=re.MULTILINE)
    lines = [_folded(part) for part in re.split(r"\n\n+|\n(?=- )", text) if part]
    return re.sub(r"(?m)^((?:- |  ).*)\n\n(?=- )", r"\1\n", "\n\n".join(lines))


def _item(names: re.Match[str]) -> str:
    return f"\n- {', '.join(f'`{name}`' for name in names[1].split(', '))}:"


def _folded(part: str) -> str:
    indent = "  " if part.startswith("- ") else ""
    return textwrap.fill(
        " ".join(part.split()), _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
