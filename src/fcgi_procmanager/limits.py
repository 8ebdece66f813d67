"""`Limits`: a worker that has served enough requests, or has grown too large, leaves and is replaced.

Runs in the worker, after each request; under the Perl names also in a single process, as there. It must never end a worker
that still owes an answer: it only says that this worker is to leave, and the core lets it go when everything it has
accepted is answered.

Sizes are real memory, in KB: the resident set (RSS), or on request the proportional one (PSS), which counts a page
that n processes share as 1/n of a page. Virtual size, which the Perl originals take, says nothing about memory.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import psutil

from .basics import checks
from .basics.states import Role
from .errors import ConfigError
from .manager.procmanager import ProcManager

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .manager.parameters import Parameters

__all__ = ["Limits"]

KB = 1024
MB = 1024 * KB


class Limits(ProcManager):
    """A `ProcManager` whose workers have limits. To be mixed in: `class Manager(Limits, ...)`. Each limit works alone; 0 means none.

    max_requests: requests after which a worker leaves.
    max_size: KB of memory above which it leaves.
    sizecheck_num_requests: the size is looked at after every so many requests.
    size_of: "rss", or "pss" where the system knows it (Linux). RSS costs some 40 microseconds; for PSS the system walks all
        pages, milliseconds for each 100 MB: look every so many requests.

    n_processes, rest: as of `ProcManager`. `request_count` is how many requests this worker has served. For subclasses: `size_unit`,
    the unit of max_size in words and in bytes, and `limits_single_process`, whether a single process leaves at its limits, too. Raises
    ConfigError.
    """

    size_unit: tuple[str, int] = ("KB", KB)
    limits_single_process = False  # whether a single process leaves, too: who started it must start it again

    def __init__(
        self,
        n_processes: int = 0,
        *,
        max_requests: int = 0,
        max_size: int = 0,
        sizecheck_num_requests: int = 1,
        size_of: str = "rss",
        **rest: Unpack[Parameters],
    ) -> None:
        super().__init__(n_processes, **rest)
        self.max_requests: int = checks.count("max_requests", max_requests)
        self.max_size: int = checks.count("max_size", max_size)
        self.sizecheck_num_requests: int = checks.count("sizecheck_num_requests", sizecheck_num_requests)
        self.size_of: str = measure("size_of", size_of)
        self.request_count: int = 0
        self._process: psutil.Process | None = None

    def server_init(self) -> None:
        super().server_init()
        self.request_count = 0
        self._process = psutil.Process()  # this one, not the manager it was forked from

    def post_dispatch(self) -> None:
        alone = self.limits_single_process and not self._worker.managed
        if alone or self.role is Role.SERVER:
            self.request_count += 1
            reached = self.limit_reached()
            if reached:
                self.retire_self(reached)
        super().post_dispatch()
        if alone and self._worker.leaving.retired and not self._worker.busy:
            self.exit(self.leave_reason)

    def limit_reached(self) -> str:
        """Worker: which limit is reached, as the words of its last line; empty for none. To be extended."""
        if 0 < self.max_requests <= self.request_count:
            return self.requests_message()
        if self.sizecheck_num_requests and self.request_count % self.sizecheck_num_requests == 0:
            return self.size_limit_reached()
        return ""

    def size_limit_reached(self) -> str:
        """Worker: the same, of the size alone; asked after every so many requests."""
        size = self.process_size() if self.max_size else 0
        return self.size_message("max_size", self.max_size, size) if size > self.max_size * self.size_unit[1] else ""

    def process_size(self) -> int:
        """Worker: its memory now, in bytes."""
        process = self._process or psutil.Process()
        if self.size_of == "pss":
            return int(process.memory_full_info().pss)
        return int(process.memory_info().rss)

    def unshared_size(self) -> int:
        """Worker: the part of its memory that nobody else has, in bytes: what its end would set free."""
        return int((self._process or psutil.Process()).memory_full_info().uss)

    def requests_message(self) -> str:
        """Worker: what it says when it leaves for max_requests. To be overridden."""
        served = "" if self.request_count == self.max_requests else f": {self.request_count} requests"
        return f"safe exit after max_requests ({self.max_requests}){served}"

    def size_message(self, limit: str, value: int, size: int) -> str:
        """Worker: what it says when it leaves for `limit`, which is `value` units; `size` is in bytes. To be overridden."""
        unit, factor = self.size_unit
        return (
            f"safe exit due to memory limits exceeded after {self.request_count} requests: "
            f"{-(-size // factor)} {unit}, {limit} {value} {unit}"
        )


def environment_number(variable: str) -> int:
    """A limit from the environment, 0 when it is not set. Raises ConfigError."""
    text = os.environ.get(variable) or "0"
    try:
        return checks.count(variable, int(text))
    except ValueError:
        raise ConfigError(f"{variable} must be a whole number from 0 up, not {text!r}") from None


def measure(name: str, value: object) -> str:
    if value not in ("rss", "pss"):
        raise ConfigError(f"{name} must be 'rss' or 'pss', not {value!r}")
    if value == "pss" and not hasattr(psutil.Process().memory_full_info(), "pss"):
        raise ConfigError(f"{name}='pss' is known on Linux only")
    return str(value)
