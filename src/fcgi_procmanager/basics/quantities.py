"""Amounts of memory and of time, as numbers or as people write them. Pure; runs in any process."""

from __future__ import annotations

import re

from ..errors import ConfigError
from . import checks

_SIZES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_TIMES = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def size(name: str, value: object) -> int:
    """Bytes: a whole number, or text as `200M`. Raises ConfigError."""
    if isinstance(value, str):
        number = _number(value.upper().removesuffix("B"), _SIZES)
        if number is None:
            raise ConfigError(f"{name} must be a size such as 200M, not {value!r}")
        return int(number)
    return checks.count(name, value)


def time(name: str, value: object) -> float:
    """Seconds: a number, or text as `1h`. Raises ConfigError."""
    if isinstance(value, str):
        number = _number(value, _TIMES)
        if number is None:
            raise ConfigError(f"{name} must be a time such as 90, 30m or 1h, not {value!r}")
        return number
    return checks.seconds(name, value)


def _number(text: str, units: dict[str, int]) -> float | None:
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)\s*([A-Za-z]?)", text.strip())
    if found is None or found[2] not in units:
        return None
    return float(found[1]) * units[found[2]]
