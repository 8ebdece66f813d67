"""FCGI::Engine::ProcManager 0.22 by its own names: PID file objects, the pid table, `augment`, and the one with limits.

The core is a port of this very class, so that little is left to do here; run by the same processes as the core. This module must
never do the core's work a second time.
"""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Mapping
from typing import Any, Callable, NoReturn

from .basics import checks, exits, log
from .basics.clock import monotonic
from .basics.states import Role
from .children.registry import Children
from .errors import ConfigError, PidFileError
from .limits import KB, Limits, environment_number
from .manager.procmanager import ProcManager as Core
from .system import signals
from .system.pidfile import PidFile as LockedFile
from .system.pidfile import UnusablePidFile, holder, read_pid

__all__ = ["Constrained", "PidFile", "PlackProcManager", "ProcManager", "augment"]


class augment:
    """A hook without its `super()` line: `@augment def server_init(self): ...` is called last, after all of its parents'."""

    def __init__(self, inner: Callable[[Any], None]) -> None:
        self.inner = inner

    def __set_name__(self, owner: type, name: str) -> None:
        @functools.wraps(self.inner)
        def hook(manager: Any) -> None:
            getattr(super(owner, manager), name)()
            self.inner(manager)

        setattr(owner, name, hook)


class PidFile(LockedFile):
    """MooseX::Daemonize::Pid::File: a PID file as an object. Locked and put in place atomically, as all of ours are."""

    def __init__(self, file: str | os.PathLike[str]) -> None:
        super().__init__(file)

    @property
    def file(self) -> str:
        return self.path

    @property
    def pid(self) -> int:
        """The number in the file; ours, if there is none."""
        return read_pid(self.path) or os.getpid()

    def write(self) -> None:
        """Raises PidFileError when a living process holds the file."""
        self.acquire()

    def remove(self) -> bool:
        """Remove it if it is ours. Whether it is gone."""
        self.release()
        return not self.does_file_exist()

    def is_running(self) -> bool:
        """Whether a living process holds it."""
        return holder(self.path) is not None

    def does_file_exist(self) -> bool:
        return os.path.lexists(self.path)


def _path_or_object(name: str, value: Any) -> Any:
    if value is not None and not isinstance(value, (str, os.PathLike)) and not hasattr(value, "write"):
        raise ConfigError(f"{name} must be a path or an object with write and remove, not {value!r}")
    return value


class ProcManager(Core):
    """The object of FCGI::Engine: the core with `pidfile` as an object, too, and the names of the original's pid table.

    Parameters as a dict, as keyword arguments, or both. `pidfile` is a path, a `PidFile`, or any object with `write` and
    `remove`. One that cannot be used is announced and done without; one that a living process holds is refused.
    """

    _says_more = False

    def __init__(self, parameters: Mapping[str, Any] | None = None, **more: Any) -> None:
        given: dict[str, Any] = {"process_name": "perl-fcgi", "manager_process_name": "perl-fcgi-pm"}
        given.update(parameters or {}, **more)
        pidfile, role = given.pop("pidfile", None), given.pop("role", Role.MANAGER)
        super().__init__(**given)
        self.pidfile = pidfile
        self._before_manage = Children()
        self._written: Any = None  # a foreign PID file object that we have asked to write
        self.role = role

    pidfile: Any = checks.Parameter[Any](_path_or_object)

    def write_pid_file(self) -> None:
        try:
            if isinstance(self.pidfile, LockedFile):
                self._hold(self.pidfile)
            elif hasattr(self.pidfile, "write"):
                self.pidfile.write()
                self._written = self.pidfile
            else:
                super().write_pid_file()
        except Exception as error:
            if isinstance(error, PidFileError) and not isinstance(error, UnusablePidFile):
                raise
            self.notify(f"Could not write the PID file because: {error}")

    def remove_pid_file(self) -> None:
        super().remove_pid_file()
        written, self._written = self._written, None
        if written is None:
            return
        try:
            if written.remove() is False:
                self.notify("Could not remove PID file")
        except Exception as error:
            self.notify(f"Could not remove PID file: {error}")

    def notify(self, message: object = "") -> None:
        super().notify(log.text(message))

    def die(self, message: object = "", status: int = exits.OK) -> NoReturn:
        super().die(log.text(message), status)

    def exit(self, message: object = "", status: int = exits.OK) -> NoReturn:
        super().exit(log.text(message), status)

    def abort(self, message: object = "") -> NoReturn:
        super().abort(log.text(message))

    def received_signal(self, name: str | None = None, received: object = False) -> Any:
        """How often a signal came, or a dict of all; with a true `received`, note that it has come once more."""
        if name is not None and received:
            super().server_sig_handler(name)
        return super().received_signal(name)

    @property
    def signals_received(self) -> dict[str, int]:
        return dict(self._received)

    # -- the pid table ------------------------------------------------------------------------------------------------

    def add_pid(self, pid: int) -> None:
        """Manager: count this child, which the application has forked, as a worker."""
        self._workers.add(pid, monotonic())

    def remove_pid(self, pid: int) -> None:
        self._workers.remove(pid)

    def forget_all_pids(self) -> None:
        self._workers.clear()

    @property
    def server_pids(self) -> list[int]:
        return self._workers.pids

    @property
    def _workers(self) -> Children:
        return self._half.registry.workers if self._half is not None else self._before_manage

    def get_all_pids(self) -> list[int]:
        return self.server_pids

    def has_pids(self) -> bool:
        return bool(self.server_pids)

    def pid_count(self) -> int:
        return len(self.server_pids)

    # -- handlers: the core sets them, but for who wants to do without for a while ------------------------------------

    def setup_signal_actions(self, with_sa_restart: bool = False) -> None:
        """Put SA_RESTART on TERM and HUP, or take it off."""
        if self._signals.open:
            self._signals.restart(with_sa_restart)

    def setup_signal_handler(self) -> None:
        """TERM and HUP are heard again."""
        if self._signals.open:
            self._signals.install(signals.LEAVE_SIGNALS, self._on_worker_signal if self.role is Role.SERVER else None)

    def clear_signal_handler(self) -> None:
        """TERM and HUP do nothing from now on."""
        if self._signals.open:
            for name in signals.LEAVE_SIGNALS:
                signal.signal(signals.number(name), signal.SIG_IGN)


class Constrained(ProcManager, Limits):
    """FCGI::Engine::ProcManager::Constrained. Each limit works alone, 0 is none; sizes in KB, of real memory.

    max_requests: by default the variable PM_MAX_REQUESTS.
    max_process_size, min_share_size, max_unshared_size: looked at every `sizecheck_num_requests` requests. Shared are the
    pages of the resident set that another process has as well.
    """

    max_process_size: int
    min_share_size: int
    max_unshared_size: int

    limits_single_process = True

    def __init__(self, parameters: Mapping[str, Any] | None = None, **more: Any) -> None:
        given = {**(parameters or {}), **more}
        sizes = {name: checks.count(name, given.pop(name, 0)) for name in _SIZES}
        given.setdefault("max_requests", environment_number("PM_MAX_REQUESTS"))
        given.setdefault("sizecheck_num_requests", 0)
        super().__init__(given)
        self.max_process_size, self.min_share_size, self.max_unshared_size = sizes.values()

    def size_limit_reached(self) -> str:
        size = self.process_size() // KB
        if 0 < self.max_process_size < size:
            return self.size_message("max_process_size", self.max_process_size, size * KB)
        if not (self.min_share_size or self.max_unshared_size):
            return ""
        unshared = self.unshared_size() // KB
        if size - unshared < self.min_share_size:
            return self.size_message("min_share_size", self.min_share_size, (size - unshared) * KB)
        if 0 < self.max_unshared_size < unshared:
            return self.size_message("max_unshared_size", self.max_unshared_size, unshared * KB)
        return ""


_SIZES = ("max_process_size", "min_share_size", "max_unshared_size")


class PlackProcManager(ProcManager):
    """Plack::Handler::FCGI::Engine::ProcManager: what Plack calls, under the names by which it calls it."""

    log_name = "FastCGIEngine"

    def __init__(self, parameters: Mapping[str, Any] | None = None, **more: Any) -> None:
        given = {**(parameters or {}), **more}
        if "pid_fname" in given:
            given["pidfile"] = given.pop("pid_fname")
        super().__init__(given)

    def pm_manage(self) -> bool:
        return self.manage()

    def pm_pre_dispatch(self) -> None:
        self.pre_dispatch()

    def pm_post_dispatch(self) -> None:
        self.post_dispatch()

    def pm_exit(self, message: object = "", status: int = exits.OK) -> NoReturn:
        """Which the original lacks, so that a harakiri fails there."""
        self.exit(message, status)
