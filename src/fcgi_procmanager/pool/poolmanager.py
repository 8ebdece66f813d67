"""`PoolManager`: a `ProcManager` whose workers come and go as they are needed, have limits, and are seen from outside.

Two processes run this file, as that of `ProcManager`. What the manager has besides are parts of its loop; what a worker has
besides is its slot on the scoreboard (ipc/scoreboard.py), in which it writes what it does.

Behaviour after POE::Component::Daemon 0.1004 and php-fpm 8, without their clocks and locks (docs/POOL.md).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ..basics import checks
from ..basics.quantities import size, time
from ..basics.printable import printable
from ..basics.states import ROLLING
from ..children.sizing import KINDS, PER_REQUEST, STATIC, Sizing
from ..errors import RequestTimeout
from ..ipc.channel import BUSY, WORN
from ..ipc.scoreboard import Scoreboard, SharedSlot
from ..manager.procmanager import ProcManager
from . import timeouts
from .babysitter import Babysitter
from .deadlines import Deadlines
from .sizer import Sizer
from .workers import PoolWorkers
from .worn import Worn

if TYPE_CHECKING:
    from ..manager.half import ManagerHalf
    from ..manager.parts import PoolPart
    from ..manager.workers import Workers


class PoolManager(ProcManager):
    """`n_processes` says how many workers there are at most, in every kind of pool.

    pool: "static": always n_processes. "dynamic": as many as are busy, and some to spare. "ondemand": none at rest, after the first
        one has shown that it can start. "per-request": a worker for each request.
    start_servers, min_spare, max_spare: dynamic: how many at the start, how many are idle at least and at most. None: as
        POE::Component::Daemon derives them.
    process_idle_timeout: seconds before a worker that is too many leaves.
    max_requests: a worker serves no more. max_memory: bytes, or text as "200M", above which it is replaced between two requests.
        max_age: seconds, or text as "1h", after which it is. 0 for no limit. Each is shortened by up to a tenth, by chance, and the
        replacement is ready first where there is time.
    memory_measure: "rss" or "pss".
    request_timeout: seconds until `RequestTimeout` is raised in the worker; 0 for none. request_grace: seconds more until it is killed.
    slow_after: seconds after which a request is reported with its stack, once; 0 for never. slow_log: a file for that; None for the log.
    babysit: seconds between two looks for workers that do nothing but use a CPU, or hang while they start; 0 for never.
    emergency_restart_threshold, emergency_restart_interval: so many deaths by SIGSEGV or SIGBUS in so many seconds replace all
        workers; 0 for never.

    start_children, max_children, requests: POE's names of start_servers, n_processes and max_requests.

    Other parameters are those of `ProcManager`; `reload` is "rolling" here. Raises ConfigError, which names the parameter.
    """

    def __init__(
        self,
        n_processes: int = 0,
        *,
        pool: str = STATIC,
        start_servers: int | None = None,
        min_spare: int | None = None,
        max_spare: int | None = None,
        process_idle_timeout: float = 10,
        max_requests: int = 0,
        max_memory: int | str = 0,
        max_age: float | str = 0,
        memory_measure: str = "rss",
        request_timeout: float = 0,
        request_grace: float = 5,
        slow_after: float = 0,
        slow_log: str | None = None,
        babysit: float = 0,
        emergency_restart_threshold: int = 0,
        emergency_restart_interval: float = 60,
        reload: str = ROLLING,
        **rest: Any,
    ) -> None:
        super().__init__(n_processes, reload=reload, **rest)
        self.sizing = Sizing(
            checks.one_of("pool", pool, KINDS),
            n_processes,
            start_servers,
            min_spare,
            max_spare,
            checks.seconds("process_idle_timeout", process_idle_timeout),
        )
        self.max_requests = checks.count("max_requests", max_requests)
        self.max_memory = size("max_memory", max_memory)
        self.max_age = time("max_age", max_age)
        self.memory_measure = checks.one_of("memory_measure", memory_measure, ("rss", "pss"))
        self.request_timeout = checks.seconds("request_timeout", request_timeout)
        self.request_grace = checks.seconds("request_grace", request_grace)
        self.slow_after = checks.seconds("slow_after", slow_after)
        self.slow_log = checks.path("slow_log", slow_log)
        self.babysit = checks.seconds("babysit", babysit)
        self.emergency_restart_threshold = checks.count("emergency_restart_threshold", emergency_restart_threshold)
        self.emergency_restart_interval = checks.seconds("emergency_restart_interval", emergency_restart_interval)
        self.sizer = Sizer(self)
        self.attend(self.sizer)
        if self.slow_after or self.request_timeout:
            self.attend(Deadlines(self))
        if self.babysit:
            self.attend(Babysitter(self))
        self._worn: Worn | None = None

    # -- hooks --------------------------------------------------------------------------------------------------------

    def server_init(self) -> None:
        super().server_init()
        requests = 1 if self.sizing.pool == PER_REQUEST else self.max_requests
        self._worn = Worn(requests, self.max_memory, self.memory_measure)

    def pre_dispatch(self) -> None:
        super().pre_dispatch()
        slot = self._worker.slot
        if slot is not None and not slot.in_request:  # a loop that knows nothing of the scoreboard
            slot.begin("", "")

    def post_dispatch(self) -> None:
        worker = self._worker
        slot = worker.slot
        if slot is not None and slot.in_request:
            slot.end()
        if self._worn is not None and worker.managed:
            self._look_at_limits(self._worn, slot.requests if slot is not None else 0)
        super().post_dispatch()

    def _look_at_limits(self, worn: Worn, requests: int) -> None:
        if why := worn.leaves(requests):
            self.retire_self(why)
        elif why := worn.wears(requests):
            worn.asked = True
            self._worker.report(WORN, why)

    def request_timed_out(self) -> None:
        """Worker, in the code of the application: the time of the request in hand is up. Raises RequestTimeout; a subclass may do
        something before. One that returns gives the request more time, and is called again; `request_grace` is not put off."""
        slot = self._worker.slot
        uri = f" {printable(slot.uri)}" if slot is not None else ""
        raise RequestTimeout(f"the request{uri} took longer than {self.request_timeout:g} s (request_timeout)")

    def _is_late(self) -> bool:
        """It may be another request by now."""
        slot = self._worker.slot
        return slot is not None and slot.in_request and slot.seconds >= self.request_timeout

    def update_status(self, status: str) -> None:
        """Worker: what it does, as POE's: "long" says that the request in hand takes long, and is meant to. "wait", "done" and "req"
        are known here anyway. Raises ConfigError for anything else. Source: POE::Component::Daemon 0.1004."""
        checks.one_of("status", status, ("wait", "done", "req", "long"))
        slot = self._worker.slot
        if slot is not None and status == "long":
            slot.long()

    # -- the two processes --------------------------------------------------------------------------------------------

    def scoreboard(self) -> Scoreboard:
        """Manager: a new one. In a reload there are more workers than n_processes, and TTIN may add some."""
        return Scoreboard(max(64, 4 * self.n_processes))

    def _make_workers(self, half: ManagerHalf) -> Workers:
        return PoolWorkers(self, half)

    def _boot(self, parts: tuple[PoolPart, ...], traced: bool) -> None:
        slot = self._worker.slot
        if slot is not None:
            slot.take()
            slot.tell = partial(self._worker.report, BUSY)
            if self.request_timeout:
                timeouts.listen(self._is_late, self.request_timed_out)
        super()._boot(parts, traced)
