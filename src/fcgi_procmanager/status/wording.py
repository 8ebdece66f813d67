"""Numbers as people read them: short, with a unit, and never longer than a column of a table is wide. Pure; runs in any process."""

from __future__ import annotations

from .snapshot import BYTES, LIMIT_UNITS, SECONDS, Limit

UNKNOWN = "-"
_DAY, _HOUR, _MINUTE = 86400, 3600, 60
_SIZES = "KMGTPE"


def duration(seconds: float) -> str:
    """At most six characters up to 999 days: `0ms`, `350ms`, `2.5s`, `42s`, `3m05s`, `2h07m`, `4d03h`, `120d`."""
    if seconds < 0.9995:
        return f"{max(0, round(seconds * 1000))}ms"
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole}s"
    if whole < _HOUR:
        return f"{whole // _MINUTE}m{whole % _MINUTE:02d}s"
    if whole < _DAY:
        return f"{whole // _HOUR}h{whole % _HOUR // _MINUTE:02d}m"
    days, hours = whole // _DAY, whole % _DAY // _HOUR
    return f"{days}d{hours:02d}h" if days < 100 else f"{days}d"


def size(count: float | None) -> str:
    """In powers of 1024, at most five characters: `0B`, `900K`, `1.5M`, `234M`, `-` when it is not known."""
    if count is None:
        return UNKNOWN
    if count < 1024:
        return f"{max(0, round(count))}B"
    value, power = count / 1024, 0
    while value >= 999.5 and power < len(_SIZES) - 1:
        value, power = value / 1024, power + 1
    return f"{value:.1f}{_SIZES[power]}" if value < 9.95 else f"{value:.0f}{_SIZES[power]}"


def percent(value: float | None) -> str:
    return UNKNOWN if value is None else f"{max(0.0, value):.0f}%"


def number(value: float) -> str:
    """With a comma for each thousand."""
    return f"{value:,.0f}" if value == int(value) else f"{value:g}"


def plural(count: int, noun: str) -> str:
    return f"{number(count)} {noun}" if count == 1 else f"{number(count)} {noun}s"


def limit(name: str, value: Limit) -> str:
    """The value of a limit with its unit; `none` when it is not set."""
    if value is None:
        return "none"
    unit = LIMIT_UNITS.get(name)
    if unit == SECONDS:
        return duration(value) if value >= _MINUTE else f"{value:g}s"
    return size(value) if unit == BYTES else number(value)
