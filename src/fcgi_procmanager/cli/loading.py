"""Loading what a person named as MODULE:NAME, and saying in one line what is wrong when that fails.

Runs in each worker before it is ready; in the manager for `--preload` and `--manager`; and in `check`. It must never let an
exception of the loaded code escape: whoever sees it here cannot read a traceback in a log of many processes.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.machinery
import os
import pkgutil
import re
import sys
import time
import traceback
import wsgiref
from collections.abc import Iterable
from types import ModuleType
from typing import Any, Callable

from ..errors import BootError
from .callables import why_no_application
from .messages import story

__all__ = ["cache_settled_sources_only", "describe_failure", "load", "load_class", "print_traceback", "search_here"]

DEFAULT_NAME = "application"

_USUAL_NAMES = ("application", "app", "wsgi", "wsgi_app", "main")
_CALLERS = (os.path.dirname(__file__), "<frozen ", *map(os.path.dirname, (importlib.__file__, wsgiref.__file__)))
_SETTLED = 2.0  # seconds; file times are compared by the whole second, and some file systems keep even ones only


def load(spec: str, hint: str = "") -> Callable[..., Any]:
    """The application that `MODULE:NAME` stands for; `MODULE` alone means `MODULE:application`, and `MODULE:NAME(...)` what the
    factory returns. hint: how to see the traceback of a failure. Raises BootError, whose context is that failure."""
    target = _Target(spec, DEFAULT_NAME)
    found = _resolve(target, hint)
    if target.arguments is not None:
        found = _made(found, target, hint)
    if not callable(found):
        raise BootError(f"{spec} is {_described(found)}, which cannot be called: name a WSGI application")
    if why := why_no_application(found, spec if ":" in spec else f"{spec}:{DEFAULT_NAME}"):
        raise BootError(why)
    return found  # type: ignore[no-any-return]


def load_class(spec: str, base: type, hint: str = "") -> type[Any]:
    """The subclass of `base` that `MODULE:CLASS` stands for. Raises BootError."""
    target = _Target(spec, base.__name__)
    if ":" not in spec or target.arguments is not None:
        raise BootError(f"{spec!r} names no class: give MODULE:CLASS")
    found = _resolve(target, hint)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise BootError(f"{spec} is {_described(found)}: name a class that inherits from {base.__name__}")
    return found


def search_here() -> None:
    """Look for modules in the current directory first, as `python -m` does."""
    here = os.getcwd()
    if sys.path[:1] != [here]:
        sys.path.insert(0, here)


def cache_settled_sources_only() -> None:
    """From now on, do not cache the byte code of a source that was changed in the last two seconds.

    Python trusts a cached file when the source still has the size and the time, in whole seconds, that it had. After two
    edits within one second that keep the size, it goes on running the first: a reload would bring old code, and never any
    other. No cache is kept of a source that may change again within its second; later imports keep it as usual.
    """
    loader = importlib.machinery.SourceFileLoader
    keep = loader.set_data

    def set_data(self: importlib.machinery.SourceFileLoader, path: str, data: bytes, **settings: Any) -> None:
        if _is_settled(self.path):
            keep(self, path, data, **settings)

    setattr(loader, "set_data", set_data)  # noqa: B010


def _is_settled(path: str) -> bool:
    try:
        return abs(time.time() - os.stat(path).st_mtime) > _SETTLED
    except OSError:
        return False


class _Target:
    """What MODULE:NAME, or MODULE:NAME(...), says. arguments: of the call; None for no call. Raises BootError."""

    def __init__(self, spec: str, default: str) -> None:
        self.spec = spec
        self.module, colon, text = spec.partition(":")
        _check_module_name(self.module, text, spec)
        self.arguments: tuple[list[Any], dict[str, Any]] | None = None
        if text.endswith(")"):
            text, self.arguments = self._call(text)
        if colon and not _is_dotted_name(text):
            raise BootError(f"{spec!r} is not understood: give MODULE:NAME, such as myapp.web:{default}")
        self.attribute = text or default

    def _call(self, text: str) -> tuple[str, tuple[list[Any], dict[str, Any]]]:
        """Read, never evaluated: what is no plain value is refused."""
        import ast  # not above: few have brackets

        try:
            call = ast.parse(text, mode="eval").body
            if not isinstance(call, ast.Call):
                raise ValueError
            name = ast.unparse(call.func)
            if not _is_dotted_name(name) or any(one.arg is None for one in call.keywords):
                raise ValueError
            given = [ast.literal_eval(one) for one in call.args]
            named = {str(one.arg): ast.literal_eval(one.value) for one in call.keywords}
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            raise BootError(
                f"{self.spec!r} is not understood: give MODULE:NAME(...) with plain values, such as myapp:create_app('production')"
            ) from None
        return name, (given, named)


def _is_dotted_name(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))


def _resolve(target: _Target, hint: str) -> Any:
    return _get_attribute(_import(target.module, hint), target.attribute, target.module, hint)


def _made(factory: Any, target: _Target, hint: str) -> Any:
    """What the factory returns."""
    assert target.arguments is not None
    given, named = target.arguments
    if not callable(factory):
        name = f"{target.module}:{target.attribute}"
        raise BootError(f"{name} is {_described(factory)}, which cannot be called: leave the brackets out")
    try:
        return factory(*given, **named)
    except (Exception, SystemExit) as error:
        raise BootError(f"{target.spec} fails: {describe_failure(error)}{hint}") from None


def _check_module_name(name: str, attribute: str, spec: str) -> None:
    if name.endswith(".py") or "/" in name:
        raise BootError(
            f"{spec!r} names a file: name the module, such as {_module_of_file(name, attribute or DEFAULT_NAME)}"
        )
    # A dash is in no name that Python's own `import` could have, but the machinery below it takes one.
    if not all(re.fullmatch(r"\w+(-\w+)*", part) for part in name.split(".")):
        raise BootError(f"{spec!r} is not understood: give MODULE:NAME, such as myapp.web:{DEFAULT_NAME}")


def _module_of_file(name: str, attribute: str) -> str:
    """The words that load it: a folder with an `__init__.py` is a package, any other is where to look."""
    directory, _, module = name.removesuffix(".py").rpartition("/")
    while os.path.exists(os.path.join(directory, "__init__.py")) and os.path.basename(directory).isidentifier():
        directory, _, package = directory.rpartition("/")
        module = f"{package}.{module}"
    return f"{module}:{attribute}" + (f" with --chdir {directory}" if directory else "")


# -- the module ----------------------------------------------------------------------------------------------------------


def _import(name: str, hint: str) -> ModuleType:
    importlib.invalidate_caches()  # a file that is younger than the list of its directory would not be seen
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if _is_missing_itself(name, error):
            raise BootError(_no_module(name, error)) from None
        raise BootError(describe_failure(error) + hint) from None
    except (Exception, SystemExit) as error:
        raise BootError(describe_failure(error) + hint) from None


def _is_missing_itself(name: str, error: ModuleNotFoundError) -> bool:
    """Whether the module itself or a package around it is missing, rather than one that it imports."""
    outer = error.name is not None and (name + ".").startswith(error.name + ".")
    return outer and not _frames_of_others(error)


def _no_module(name: str, error: ModuleNotFoundError) -> str:
    missing = error.name or name
    parent, _, last = missing.rpartition(".")
    if parent:
        path = getattr(sys.modules.get(parent), "__path__", None)
        if path is None and hasattr(sys.modules.get(parent), last):
            return f"there is no module {missing!r}: did you mean {parent}:{last}?"
        if path is None:
            return f"there is no module {missing!r}: {parent!r} is a module, not a package; check the name"
        return f"there is no module {missing!r}{_similar(last, _modules_in(path), parent + '.')}: check the name"
    here = os.getcwd()
    near = _similar(last, _modules_in([here]))
    return f"there is no module {missing!r} in {here} or on Python's path{near}: check the name, or give --chdir"


def _modules_in(path: Iterable[str]) -> list[str]:
    return [module.name for module in pkgutil.iter_modules(list(path))]


def describe_failure(error: BaseException) -> str:
    """An exception of the application in one line: where, and what; and the first one, if others have come of it."""
    first = _first_cause(error)
    more = f" (caused by {_placed_story(first)})" if first is not error else ""
    return _placed_story(error) + more


def _placed_story(error: BaseException) -> str:
    place = _place(error)
    return f"{place}: {story(error)}" if place else story(error)


def _first_cause(error: BaseException) -> BaseException:
    seen: list[BaseException] = []
    while all(error is not one for one in seen):
        seen.append(error)
        before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if before is None:
            return error
        error = before
    return seen[0]


def print_traceback(error: BaseException) -> None:
    """All of it, on standard error, from the first line of the application on."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None and trace.tb_frame.f_code.co_filename.startswith(_CALLERS):
        trace = trace.tb_next
    traceback.print_exception(type(error), error, trace)


def _place(error: BaseException) -> str:
    """File and line to look at: the innermost in the directory that is served, else the innermost of all."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_short(error.filename)}:{error.lineno}"
    frames = _frames_of_others(error)
    here = os.path.join(os.getcwd(), "")
    own = [frame for frame in frames if os.path.abspath(frame.filename).startswith(here) and not _installed(frame)]
    for frame in reversed(own or frames):
        return f"{_short(frame.filename)}:{frame.lineno}"
    return ""


def _installed(frame: traceback.FrameSummary) -> bool:
    return f"{os.sep}site-packages{os.sep}" in frame.filename


def _frames_of_others(error: BaseException) -> list[traceback.FrameSummary]:
    """The traceback without the frames of the command, of the import system and of wsgiref, which call the application."""
    frames = traceback.extract_tb(error.__traceback__)
    return [frame for frame in frames if not frame.filename.startswith(_CALLERS)]


def _short(filename: str) -> str:
    """Relative to the current directory, when it is below it."""
    relative = os.path.relpath(filename)
    return filename if relative.startswith(os.pardir) else relative


# -- the attribute -------------------------------------------------------------------------------------------------------


def _get_attribute(module: ModuleType, dotted: str, name: str, hint: str) -> Any:
    found: Any = module
    owner = name
    for part in dotted.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise BootError(_no_attribute(found, owner, part)) from None
        except Exception as error:
            raise BootError(f"{owner}.{part}: {describe_failure(error)}{hint}") from None
        owner = f"{owner}.{part}"
    return found


def _no_attribute(owner: Any, owner_name: str, part: str) -> str:
    names = [name for name in dir(owner) if not name.startswith("_")]
    usual = [name for name in _USUAL_NAMES if callable(getattr(owner, name, None))]
    near = _similar(part, names) or _similar_text(usual)
    return f"{owner_name!r} has no attribute {part!r}{near}: name one that it has, as {owner_name}:NAME"


def _similar(name: str, names: list[str], prefix: str = "") -> str:
    return _similar_text([prefix + near for near in difflib.get_close_matches(name, names, n=3)])


def _similar_text(names: list[str]) -> str:
    return f" (did you mean {' or '.join(map(repr, names))}?)" if names else ""


def _described(found: Any) -> str:
    if isinstance(found, ModuleType):
        return "a module"
    return f"the class {found.__name__!r}" if isinstance(found, type) else f"a value of type {type(found).__name__!r}"
