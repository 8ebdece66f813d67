"""Values that a caller gives, looked at where they are given. Each returns the value or raises ConfigError, which names the
parameter. Pure; runs in any process.
"""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Callable, Generic, TypeVar

from ..errors import ConfigError
from .levels import CHOICES as LEVELS
from .records import FORMATS
from .states import PLAIN, ROLLING, Role

T = TypeVar("T")


class Parameter(Generic[T]):
    """An attribute that is checked whenever it is set. It is read from the object's own dict, as fast as any other. changed: a
    method that is called afterwards, by name."""

    def __init__(self, check: Callable[[str, Any], T], changed: str = "") -> None:
        self._check = check
        self._changed = changed

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __set__(self, instance: object, value: T) -> None:
        instance.__dict__[self._name] = self._check(self._name, value)
        if self._changed:
            getattr(instance, self._changed)()

    if TYPE_CHECKING:  # with a real one, each reading would be a call

        def __get__(self, instance: object, owner: type | None = None) -> T: ...


def number(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigError(f"{name} must be a whole number, not {value!r}")
    return value


def count(name: str, value: object) -> int:
    if number(name, value) < 0:
        raise ConfigError(f"{name} must not be negative: {value}")
    return number(name, value)


def role(name: str, value: object) -> Role:
    try:
        return Role(value)
    except ValueError:
        raise ConfigError(f"{name} must be 'manager' or 'server', not {value!r}") from None


def seconds(name: str, value: object) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise ConfigError(f"{name} must be a number of seconds, not {value!r}")
    if not 0 <= value < math.inf:
        raise ConfigError(f"{name} must be 0 or more seconds: {value}")
    return value


def flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be True or False, not {value!r}")
    return value


def text(name: str, value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ConfigError(f"{name} must be a string without NUL, not {value!r}")
    return value


def one_of(name: str, value: object, choices: Collection[str]) -> str:
    if value not in choices:
        words = [repr(one) for one in choices]
        raise ConfigError(f"{name} must be {', '.join(words[:-1])} or {words[-1]}, not {value!r}")
    return str(value)


def log_format(name: str, value: object) -> str | None:
    return None if value is None else one_of(name, value, FORMATS)


def log_level(name: str, value: object) -> str | None:
    return None if value is None else one_of(name, value, LEVELS)


def reload_mode(name: str, value: object) -> str:
    if value not in (PLAIN, ROLLING):
        raise ConfigError(f"{name} must be {PLAIN!r} or {ROLLING!r}, not {value!r}")
    return str(value)


def signal_name(name: str, value: object) -> str:
    """Without its SIG, in capitals. One that a process can be sent and can obey in its own way."""
    short = value.upper().removeprefix("SIG") if isinstance(value, str) else ""
    if not hasattr(signal, f"SIG{short}") or short.startswith("_") or short in ("KILL", "STOP", ""):
        raise ConfigError(f"{name} must be the name of a signal, such as TERM, not {value!r}")
    return short


def path(name: str, value: object) -> str | os.PathLike[str] | None:
    if value is not None and not isinstance(value, (str, os.PathLike)):
        raise ConfigError(f"{name} must be a path or None, not {value!r}")
    if value is not None and (not os.fspath(value) or "\0" in os.fspath(value)):
        raise ConfigError(f"{name} must be a path that can exist, not {value!r}")
    return value


def timeout(name: str, value: object) -> float:
    """Seconds that must not be 0: something is to be waited for."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ConfigError(f"{name} must be more than 0 seconds, not {value!r}")
    return float(value)
