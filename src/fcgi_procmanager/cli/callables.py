"""What a callable is by its parameters: a WSGI application, a factory of one, a class, an ASGI application.

Runs where an application is loaded. Must never refuse what may be a WSGI application: what it cannot read it lets pass. Not by
`inspect`, which every worker would load.
"""

from __future__ import annotations

from types import CodeType, FunctionType, MethodType
from typing import Any, NamedTuple

__all__ = ["why_no_application"]

_ARGS, _ASYNC = 0x04, 0x80 | 0x200  # flags of code: *args; a coroutine, an asynchronous generator
_WSGI = 2  # parameters


def why_no_application(found: Any, spec: str) -> str:
    """A line that says what to do, or empty if it may be one."""
    if isinstance(found, type):
        return _of_class(found, spec)
    parameters = _parameters(found)
    if parameters is None:
        return ""
    if parameters.is_async or parameters.needed == 3:
        return _asgi(spec)
    if parameters.takes(_WSGI) and not parameters.is_all_optional:
        return ""
    if parameters.takes(0):
        return f"{spec} can be called without arguments, so it is a factory: name what it returns, as '{spec}()'"
    return f"{spec} takes {parameters.told}, and a WSGI application takes two (environ, start_response): name that"


def _asgi(spec: str) -> str:
    return f"{spec} is an ASGI application, and this serves WSGI: wrap it (a2wsgi.ASGIMiddleware), or run it by an ASGI server"


def _of_class(found: type, spec: str) -> str:
    """One whose objects are replies, as in PEP 3333, is called like any application."""
    if _own(found, "__new__") or _own(type(found), "__call__"):
        return ""  # what a call does is theirs to say
    made = _code_of(found.__init__, 1) if _own(found, "__init__") else _Parameters(0, 0, False, False, False)  # type: ignore[misc]
    if made is None or (made.takes(_WSGI) and not made.is_all_optional):
        return ""
    called = _called(found)
    if called is not None and (called.is_async or called.needed == 3):
        return _asgi(spec)
    return f"{spec} is a class: name an object of it, such as '{spec}()', or a variable that has one"


def _own(found: type, name: str) -> Any:
    """As the class that says so has it, unbound; None where only `object` or `type` does."""
    return next((vars(one)[name] for one in found.__mro__ if one not in (object, type) and name in vars(one)), None)


def _called(found: type) -> _Parameters | None:
    """What an object of it takes."""
    function = _own(found, "__call__")
    return _code_of(function.__func__, 0) if isinstance(function, staticmethod) else _code_of(function, 1)


class _Parameters(NamedTuple):
    """needed: positional ones without a default. most: positional ones. is_environ: the first is called as in WSGI."""

    needed: int
    most: int
    is_open: bool
    is_async: bool
    is_environ: bool

    def takes(self, count: int) -> bool:
        return self.needed <= count and (self.is_open or count <= self.most)

    @property
    def is_all_optional(self) -> bool:
        return not self.needed and not self.is_open and not self.is_environ

    @property
    def told(self) -> str:
        return f"{self.needed} argument{'' if self.needed == 1 else 's'}"


def _parameters(found: Any) -> _Parameters | None:
    """None where they cannot be read: it is in C, or of a kind of its own."""
    if isinstance(found, MethodType):
        return _code_of(found.__func__, 1)
    if isinstance(found, FunctionType):
        return _code_of(found, 0)
    return _called(type(found))


def _code_of(function: Any, bound: int) -> _Parameters | None:
    """bound: how many of its parameters are given already."""
    if not isinstance(function, FunctionType) or not isinstance(function.__code__, CodeType):
        return None
    code = function.__code__
    if code.co_kwonlyargcount > len(function.__kwdefaults__ or ()):
        return None  # nobody can call it as it is
    most = code.co_argcount - bound
    if most < 0:
        return None  # of (*args)
    needed = max(0, most - len(function.__defaults__ or ()))
    names = code.co_varnames[bound : bound + 1] if most else ()
    is_open = bool(code.co_flags & _ARGS)
    return _Parameters(needed, most, is_open, bool(code.co_flags & _ASYNC), bool(names) and names[0].startswith("env"))
