"""Which functions are in C. Those of Python are the reference: the C ones give the same, or nothing where Python is to do it.

The extension is there if a compiler was when this package was installed. FCGI_PROCMANAGER_ACCELERATOR=0 leaves it alone.
"""

from __future__ import annotations

import os
import sys
from typing import Any, Callable, TypeVar

VARIABLE = "FCGI_PROCMANAGER_ACCELERATOR"

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _load() -> tuple[Any, str]:
    """The module, or None, and how that is said."""
    if os.environ.get(VARIABLE) == "0":
        return None, f"pure Python: the accelerator is switched off by {VARIABLE}=0"
    if sys.implementation.name != "cpython":
        return None, "pure Python: the accelerator in C is for CPython"
    try:
        from . import _accelerator
    except ImportError:
        return None, "pure Python: the accelerator in C was not built when this package was installed"
    return _accelerator, "the accelerator in C is in force"


told: str  # in words, which
_module, told = _load()
in_force: bool = _module is not None
reference: dict[str, Callable[..., Any]] = {}  # the functions of Python by name, whichever is in force


def accelerated(function: _Function) -> _Function:
    """The function of the same name in C, if it is in force; else this one."""
    reference[function.__name__] = function
    stand_in: _Function = getattr(_module, function.__name__, function)
    return stand_in
