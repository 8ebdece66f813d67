"""`PoolManager`: a `ProcManager` whose workers come and go as they are needed, have limits, and are seen from outside.

Two processes run this file, as that of `ProcManager`. What the manager has besides are parts of its loop; what a worker has
besides is its slot on the scoreboard (ipc/scoreboard.py), in which it writes what it does.

Behaviour after POE::Component::Daemon 0.1004 and php-fpm 8, without their clocks and locks (docs/POOL.md).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

from ..basics import checks, log
from ..basics.printable import printable
from ..basics.quantities import size, time
from ..basics.records import JSON, PLAIN
from ..basics.states import ROLLING, Role
from ..children.sizing import DYNAMIC, PER_REQUEST, STATIC, Sizing, spares
from ..errors import RequestTimeout
from ..ipc.channel import BUSY, WORN
from ..ipc.scoreboard import Scoreboard
from ..manager.procmanager import ProcManager
from . import timeouts
from .babysitter import Babysitter
from .census import Census
from .collector import Collector
from .control import Control, path_beside
from .deadlines import Deadlines
from .foreign import Foreign
from .history import History
from .sizer import Sizer
from .workers import PoolWorkers
from .worn import Worn

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..manager.half import ManagerHalf
    from ..manager.parameters import PoolParameters
    from ..manager.parts import PoolPart
    from ..manager.workers import Workers
    from .accesslog import AccessLog


class _Names(NamedTuple):
    pool: str
    n_processes: int
    start_servers: int | None = None
    min_spare: int | None = None
    max_spare: int | None = None


def _from_poe(start_children: int, max_children: int) -> _Names:
    """The kind of pool that these parameters of POE::Component::Daemon mean: spare workers, or one for each request."""
    checks.count("start_children", start_children)
    checks.count("max_children", max_children)
    if not start_children:
        return _Names(PER_REQUEST, max_children)
    return _Names(DYNAMIC, *spares(max_children or None, start_children))


_LIMITS = (
    *(
        "max_requests",
        "max_memory",
        "max_age",
        "request_timeout",
        "slow_after",
        "babysit",
        "emergency_restart_threshold",
    ),
    *("boot_timeout", "die_timeout", "drain_delay", "reload_timeout"),
)


class PoolManager(ProcManager):
    """A `ProcManager` whose workers come and go as they are needed, have limits, and are seen from outside.

    n_processes: how many workers there are at most, in every kind of pool.
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

    log_format: "plain" or "json": each line of the log has a time and a level, and what workers write to standard output and standard
        error comes as such lines. None: each process writes its own lines so, and what an application writes is as it is. "bare": the
        same without a time and a level.
    pool_name: in what is shown of it. control: path of the socket on which the manager answers `fcgi-procmanager status`; None for
        the PID file's with `.control` for `.pid`, and none without a PID file. status_listen: address on which it answers web servers
        by FastCGI: /status (?json, ?full), /metrics, /ping; None for none.

    access_log: file with a line for each request; "-" for the standard error of each worker; None for none. access_format: what it says, in the
        codes of php-fpm's access.format, or "json"; None for a default.

    start_children, max_children, requests: POE's names of start_servers, n_processes and max_requests. With the first the pool is
        dynamic, with the second alone there is a worker for each request, unless `pool` says otherwise; `requests` of 0 is no limit.

    reload: as of `ProcManager`, with another default. rest: as of `ProcManager`. Raises ConfigError, which names the parameter.
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
        pool_name: str = "pool",
        control: str | os.PathLike[str] | None = None,
        status_listen: str | None = None,
        access_log: str | os.PathLike[str] | None = None,
        access_format: str | None = None,
        start_children: int = 0,
        max_children: int = 0,
        requests: int = 0,
        reload: str = ROLLING,
        **rest: Unpack[PoolParameters],
    ) -> None:
        if start_children or max_children:
            names = _from_poe(start_children, max_children or n_processes)
            pool = names.pool if pool == STATIC else pool
            start_servers = names.start_servers if start_servers is None else start_servers
            min_spare = names.min_spare if min_spare is None else min_spare
            max_spare = names.max_spare if max_spare is None else max_spare
            n_processes = names.n_processes
        super().__init__(n_processes, reload=reload, **rest)
        self._sizing = Sizing(
            pool,
            n_processes,
            start_servers,
            min_spare,
            max_spare,
            checks.seconds("process_idle_timeout", process_idle_timeout),
        )
        self.max_requests: int = checks.count("max_requests", max_requests or requests)
        self.max_memory: int = size("max_memory", max_memory)
        self.max_age: float = time("max_age", max_age)
        self.memory_measure: str = checks.one_of("memory_measure", memory_measure, ("rss", "pss"))
        self.request_timeout: float = checks.seconds("request_timeout", request_timeout)
        self.request_grace: float = checks.seconds("request_grace", request_grace)
        self.slow_after: float = checks.seconds("slow_after", slow_after)
        self.slow_log: str | os.PathLike[str] | None = checks.path("slow_log", slow_log)
        self.babysit: float = checks.seconds("babysit", babysit)
        self.emergency_restart_threshold: int = checks.count("emergency_restart_threshold", emergency_restart_threshold)
        self.emergency_restart_interval: float = checks.seconds(
            "emergency_restart_interval", emergency_restart_interval
        )
        self.pool_name: str = checks.text("pool_name", pool_name)
        self._collector: Collector | None = None
        self.control: str | os.PathLike[str] | None = checks.path("control", control)
        self.status_listen: str = checks.text("status_listen", status_listen or "")
        self.access_format = access_format
        self._access = _access_log(self, access_log, access_format)
        self.access_log: str | None = self._access.target if self._access is not None else None
        self._census = Census(self)
        self._foreign = Foreign()
        self._sizer = Sizer(self)
        self._deadlines = Deadlines(self)
        self._worn: Worn | None = None
        self._attending = False

    # -- hooks --------------------------------------------------------------------------------------------------------

    def server_init(self) -> None:
        super().server_init()
        requests = 1 if self._sizing.pool == PER_REQUEST else self.max_requests
        self._worn = Worn(requests, self.max_memory, self.memory_measure)

    def pre_dispatch(self) -> None:
        super().pre_dispatch()
        worker = self._worker
        if worker.slot is not None and not worker.slot.in_request and not worker.in_flight:
            worker.slot.begin("", "")  # a loop that knows nothing of the scoreboard

    def post_dispatch(self) -> None:
        worker = self._worker
        slot = worker.slot
        if slot is not None and slot.in_request and not worker.in_flight:
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

    def _scoreboard(self) -> Scoreboard:
        """Manager: a new one. In a reload there are more workers than n_processes, and TTIN may add some."""
        return Scoreboard(max(64, 4 * self.n_processes))

    def foreign_child(self, pid: int) -> None:
        """Manager: a child that the application has started there. It gets TERM when the pool stops, and its end is not announced. Source:
        POE::Component::Daemon 0.1004."""
        self._foreign.add(checks.count("pid", pid))

    def shutdown(self) -> None:
        """Either, from any thread: the manager stops the pool gently, a worker leaves after the request in hand. Source:
        POE::Component::Daemon 0.1004."""
        if self.role is Role.SERVER:
            self.retire_self("shutdown")
        else:
            signal.raise_signal(signal.SIGTERM)

    def _limits(self) -> dict[str, float | None]:
        """Manager: all that is configured, None where there is no limit."""
        sizing = self._sizing
        found: dict[str, float | None] = {name: getattr(self, name) or None for name in _LIMITS}
        found["n_processes"] = self.n_processes
        if sizing.pool == DYNAMIC:
            found.update(sizing.spares._asdict())
        if sizing.pool != STATIC:
            found["process_idle_timeout"] = sizing.process_idle_timeout
        return found

    def status(self) -> str:
        """Manager: how the pool is, as text. Source: the text of POE::Component::Daemon 0.1004 has the same facts."""
        if self._half is None:
            return f"{self.role} (pid {os.getpid()}): no pool here"
        from ..status import table

        return table.render(self._census.take())

    @property
    def _collects_output(self) -> bool:
        return self.log_format in (PLAIN, JSON)

    @property
    def _make_request(self) -> Callable[..., Any] | None:
        return self._access.request if self._access is not None else None

    def _choose_log(self) -> None:
        if self.log_format is not None or (self._says_more and not log.is_chosen()):
            log.choose(self.log_format, pool=self.pool_name)
        log.choose_level(self.log_level)

    def manage(self) -> bool:
        if self._collects_output and self._collector is None:
            self._collector = Collector(str(self.log_format), self.pool_name)
        if self._collector is not None:
            self._collector.install()
        if not self.n_processes and self._access is not None:
            self._access.open()
        if self.n_processes and not self._attending:
            self._attending = True
            for part in self._own_parts():
                self._attend(part)
        return super().manage()

    def _own_parts(self) -> Iterator[PoolPart]:
        if self._collector is not None:
            yield self._collector
        yield self._census
        yield self._sizer
        yield self._foreign
        if self.slow_after or self.request_timeout:
            yield self._deadlines
        if self._access is not None:
            yield self._access
        if self.babysit:
            yield Babysitter(self)
        if path := self._control_path:
            yield Control(path, self._census, self.notify if self.control is None else None)
        if self.status_listen:
            from .statuspage import StatusPage  # not above: it speaks FastCGI

            yield StatusPage(self.status_listen, self._census)
            yield History(self._census)

    @property
    def _control_path(self) -> str | None:
        """Where the control socket is; None for nowhere."""
        if self.control is not None:
            return os.path.abspath(self.control)
        return path_beside(os.fspath(self.pidfile)) if self.pidfile is not None else None

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


def _access_log(manager: PoolManager, target: object, format: str | None) -> AccessLog | None:
    """What `access_log` means. Raises ConfigError."""
    if format is not None:
        from .accessformat import compile_format

        compile_format(checks.text("access_format", format))
    path = checks.path("access_log", target)
    if path is None:
        return None
    from .accesslog import STANDARD_ERROR, AccessLog  # not above: it speaks FastCGI

    name = os.fsdecode(path)
    return AccessLog(manager, name if name == STANDARD_ERROR else os.path.abspath(name), format)
