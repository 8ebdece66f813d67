"""A snapshot as it goes over the control socket: JSON of our own, nothing lost.

The two ends may be of two releases. What the reader does not know is left out, and what the writer did not know has its default.
What is there and cannot be true is an error, so that no form of a status need look at types. Pure; runs in any process.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any, Callable

from ..errors import ProtocolError
from .snapshot import Deadly, PoolStatus, Sample, WorkerStatus

Check = Callable[[Any], Any]

LARGEST = 2**63  # of any number: more than every counter, size and time of a system
_QUOTED = 60  # characters of what is wrong


def encode(pool: PoolStatus) -> bytes:
    """ASCII, one line, without a newline. A number that is none (NaN) is left out."""
    return json.dumps(_plain(dataclasses.asdict(pool)), allow_nan=False, separators=(",", ":")).encode("ascii")


def decode(data: bytes) -> PoolStatus:
    """Raises ProtocolError, which says what is wrong with it in one line."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise ProtocolError(f"this is not the status of a pool: {data[:_QUOTED]!r}") from None
    return _pool(value)


def _plain(value: Any) -> Any:
    """Without numbers that JSON cannot say. Named tuples become objects: a list could not grow in another release."""
    if isinstance(value, (Sample, Deadly)):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items() if not _is_no_number(item)}
    return [_plain(item) for item in value] if isinstance(value, (tuple, list)) else value


def _is_no_number(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _fields(what: str, value: Any, checks: Mapping[str, Check]) -> dict[str, Any]:
    """Those that are known and there, each looked at."""
    if not isinstance(value, dict):
        raise ProtocolError(f"{what} must be an object, not {_quoted(value)}")
    found = {}
    for name, check in checks.items():
        if name in value:
            try:
                found[name] = check(value[name])
            except TypeError:
                raise ProtocolError(f"{name} of {what} cannot be {_quoted(value[name])}") from None
    return found


def _quoted(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= _QUOTED else text[:_QUOTED] + "..."


# What a field may hold. Each raises TypeError at anything else.


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > LARGEST:
        raise TypeError
    return value


def _number(value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) <= LARGEST:
        raise TypeError
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _or_none(check: Check) -> Check:
    return lambda value: None if value is None else check(value)


def _each(check: Check) -> Check:
    def checked(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise TypeError
        return tuple(map(check, value))

    return checked


def _named(check: Check) -> Check:
    def checked(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise TypeError
        return {name: check(item) for name, item in value.items()}

    return checked


WORKER: Mapping[str, Check] = {
    **dict.fromkeys(("pid", "generation", "requests"), _whole),
    **dict.fromkeys(("started", "request_seconds"), _number),
    **dict.fromkeys(("state", "method", "uri", "reason"), _text),
    **dict.fromkeys(("request_started", "cpu"), _or_none(_number)),
    **dict.fromkeys(("memory", "pss"), _or_none(_whole)),
}
SAMPLE: Mapping[str, Check] = {
    "at": _number,
    **dict.fromkeys(("idle", "active", "starting", "queue", "requests"), _whole),
}
DEADLY: Mapping[str, Check] = {"method": _text, "uri": _text, "deaths": _whole}


def _worker(value: Any) -> WorkerStatus:
    return WorkerStatus(**_fields("a worker", value, WORKER))


def _sample(value: Any) -> Sample:
    return Sample(**{"at": 0.0, **_fields("a sample", value, SAMPLE)})


def _deadly(value: Any) -> Deadly:
    return Deadly(**{"method": "", "uri": "", **_fields("a deadly request", value, DEADLY)})


POOL: Mapping[str, Check] = {
    **dict.fromkeys(("name", "kind", "phase", "version", "reload_failure"), _text),
    **dict.fromkeys(("started", "now"), _number),
    **dict.fromkeys(
        ("pid", "accepted", "max_queue", "max_active", "max_children_reached", "slow", "timeouts", "deaths"), _whole
    ),
    **dict.fromkeys(("failed_starts", "failing_starts", "respawns", "reloads", "standby"), _whole),
    **dict.fromkeys(("queue", "queue_limit"), _or_none(_whole)),
    "queue_is_exact": _flag,
    "listeners": _each(_text),
    "retired": _named(_whole),
    "limits": _named(_or_none(_number)),
    "deadly": _each(_deadly),
    "workers": _each(_worker),
    "history": _each(_sample),
}


def _pool(value: Any) -> PoolStatus:
    return PoolStatus(**_fields("the status", value, POOL))
