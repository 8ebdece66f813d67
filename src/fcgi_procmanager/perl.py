"""FCGI::ProcManager 0.28 by its own names: the `pm_` functions, the methods, and the subclasses with limits.

A thin layer over the core, run by the same processes as the core. Every name of the original that a subclass may
override is the one place where its work is done, and the core's own name leads there: `post_dispatch`, which our servers
call, goes to `pm_post_dispatch`, which goes on to the core. So an override under either name is called exactly once,
whoever calls. This module must never do the work itself a second time.

docs/PORTING.md maps every name and gives the reason of every difference.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Mapping
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Callable, NoReturn

from .basics import checks, exits, log
from .basics.states import PLAIN, Role
from .children.sizing import DYNAMIC, Sizing
from .errors import ConfigError, PidFileError
from .limits import MB, Limits, environment_number, measure
from .manager.procmanager import ProcManager as Core
from .pool.poolmanager import PoolManager
from .system.pidfile import PidFile, UnusablePidFile
from .system.proctitle import set_title

if TYPE_CHECKING:
    from typing import Concatenate, ParamSpec, TypeVar

    P = ParamSpec("P")
    R = TypeVar("R")

__all__ = [
    "Constrained",
    "MaxRequests",
    "MaxSize",
    "ProcManager",
    "default_manager",
    "pm_abort",
    "pm_change_process_name",
    "pm_die",
    "pm_exit",
    "pm_manage",
    "pm_notify",
    "pm_parameter",
    "pm_post_dispatch",
    "pm_pre_dispatch",
    "pm_received_signal",
    "pm_remove_pid_file",
    "pm_wait",
    "pm_warn",
    "pm_write_pid_file",
]


def _switch(name: str, value: object) -> bool:
    """Perl has no True and False: 1 and 0 do as well."""
    return checks.flag(name, bool(value) if value in (0, 1) else value)


def _role(name: str, value: object) -> Role:
    try:
        return Role(value)
    except ValueError:
        raise ConfigError(f"{name} must be 'manager' or 'server', not {value!r}") from None


class ProcManager(Core):
    """The object of FCGI::ProcManager: `ProcManager({"n_processes": 4})`, or the same as keyword arguments.

    Parameters: n_processes, pid_fname, no_signals, die_timeout, role, start_delay, pm_title. Each is an attribute here,
    where the original has a method. A key that is not known is kept for `pm_parameter`.
    """

    PARAMETERS: Mapping[str, Callable[[str, Any], Any]] = {
        "n_processes": checks.count,
        "pid_fname": checks.path,
        "no_signals": _switch,
        "die_timeout": checks.seconds,
        "role": _role,
        "start_delay": checks.seconds,
        "pm_title": checks.text,
    }
    _says_more = False
    DEFAULTS: Mapping[str, Any] = {}
    ENVIRONMENT: Mapping[str, str] = {}  # parameter -> the variable it is taken from when it is not given

    def __init__(self, parameters: Mapping[str, Any] | None = None, **more: Any) -> None:
        super().__init__(process_name="perl-fcgi", manager_process_name="perl-fcgi-pm")
        self._other_parameters: dict[str, Any] = {}
        for key, value in {**self.DEFAULTS, **self._from_environment(), **(parameters or {}), **more}.items():
            if value is not None:
                self._set(key, value)
            elif key == "die_timeout":
                self.die_timeout = 0  # undef: no limit

    @property
    def pid_fname(self) -> str | os.PathLike[str] | None:
        return self.pidfile

    @pid_fname.setter
    def pid_fname(self, value: str | os.PathLike[str] | None) -> None:
        self.pidfile = value

    @property
    def pm_title(self) -> str:
        return self.manager_process_name

    @pm_title.setter
    def pm_title(self, value: str) -> None:
        self.manager_process_name = value

    def pm_parameter(self, key: str, value: Any = None) -> Any:
        """The value of a parameter, after setting it to `value` unless that is None. Raises ConfigError.

        MANAGER_PID is there in a worker, as the original has it.
        """
        if value is not None:
            self._set(key, value)
        if key == "MANAGER_PID":
            return self.manager_pid if self.role is Role.SERVER else None
        return getattr(self, key) if self._is_attribute(key) else self._other_parameters.get(key)

    def _from_environment(self) -> dict[str, int]:
        return {key: environment_number(name) for key, name in self.ENVIRONMENT.items() if os.environ.get(name)}

    def _set(self, key: str, value: Any) -> None:
        if key in self.PARAMETERS:
            value = self.PARAMETERS[key](key, value)
        if self._is_attribute(key):
            setattr(self, key, value)
        else:
            self._other_parameters[key] = value

    def _is_attribute(self, key: str) -> bool:
        return key in self.PARAMETERS or (key in vars(self) and not key.startswith("_"))

    # -- what a script calls ------------------------------------------------------------------------------------------

    def pm_manage(self, /, **parameters: Any) -> bool:
        """Set these parameters, then `manage`. True in a worker, False with 0 processes, SystemExit in the manager."""
        for key, value in parameters.items():
            self.pm_parameter(key, value)
        return super().manage()

    def pm_pre_dispatch(self) -> None:
        """Worker: before each request."""
        super().pre_dispatch()

    def pm_post_dispatch(self) -> None:
        """Worker: after each request; leaves when it is time."""
        super().post_dispatch()

    def pm_wait(self) -> int | None:
        """Manager: reap the next child; its pid, or None when something else came first."""
        return super().wait()

    def pm_die(self, message: object = "", status: int = exits.OK) -> NoReturn:
        """Stop gently, then leave."""
        super().die(log.text(message), status)

    def pm_abort(self, message: object = "", status: int = exits.FAILED) -> NoReturn:
        """Leave at once, with status 1 whatever `status` says."""
        super().abort(log.text(message))

    def pm_exit(self, message: object = "", status: int = exits.OK) -> NoReturn:
        """Leave now; the manager kills and reaps what is left."""
        super().exit(log.text(message), status)

    def pm_notify(self, message: object = "") -> None:
        """One log line."""
        super().notify(log.text(message))

    def pm_warn(self, message: object = "") -> None:
        """One log line."""
        self.pm_notify(message)

    def pm_change_process_name(self, name: str) -> None:
        """The title of this process."""
        set_title(name)

    def pm_received_signal(self, name: str | None = None, received: object = False) -> Any:
        """How often a signal came, or a dict of all; with a true `received`, note that it has come once more."""
        if name is not None and received:
            super().server_sig_handler(name)
        return self.received_signal(name)

    def pm_write_pid_file(self, pid_fname: str | os.PathLike[str] | None = None) -> None:
        """Hold this file, or the one of the parameter. One that cannot be used is announced and done without.

        Raises PidFileError when a living process holds it.
        """
        path = pid_fname or self.pid_fname
        if path is None:
            return
        try:
            self._hold(PidFile(path))
        except UnusablePidFile as error:
            self.pm_notify(f"open: {os.fspath(path)}: {error.reason}")

    def pm_remove_pid_file(self, pid_fname: str | os.PathLike[str] | None = None) -> bool:
        """Remove this file, or the one of the parameter, unless another living process holds it. Whether it is gone."""
        path = pid_fname or self.pid_fname
        if path is None:
            return False
        try:
            os.lstat(path)
            pidfile = self._pidfiles.pop(os.path.abspath(path), None) or PidFile(path)
            pidfile.acquire()  # what we cannot hold is not ours to remove
            pidfile.release()
        except OSError as error:
            reason = error.strerror
        except UnusablePidFile as error:
            reason = error.reason
        except PidFileError:
            reason = "it is not ours"
        else:
            reason = "it is not ours" if os.path.lexists(path) else None
        if reason is not None:
            self.pm_notify(f"unlink: {os.fspath(path)}: {reason}")
        return reason is None

    # -- hooks: override, and call super() ----------------------------------------------------------------------------

    def managing_init(self) -> None:
        """Manager: once, before the first fork."""

    def handling_init(self) -> None:
        """Worker: once, before `pm_manage` returns in it."""

    def sig_manager(self, name: str) -> None:
        """Manager: act on a signal, named without its SIG."""
        super().manager_sig_handler(name)

    def sig_handler(self, name: str) -> None:
        """Worker: note a signal."""
        self.pm_received_signal(name, True)

    # -- the core's names, which lead to those above ------------------------------------------------------------------

    def manage(self) -> bool:
        return self.pm_manage()

    def manager_init(self) -> None:
        super().manager_init()
        self.managing_init()

    def server_init(self) -> None:
        super().server_init()
        self.handling_init()

    def pre_dispatch(self) -> None:
        self.pm_pre_dispatch()

    def post_dispatch(self) -> None:
        self.pm_post_dispatch()

    def manager_sig_handler(self, name: str) -> None:
        self.sig_manager(name)

    def server_sig_handler(self, name: str) -> None:
        self.sig_handler(name)

    def wait(self) -> int | None:
        return self.pm_wait()

    def die(self, message: object, status: int = exits.OK) -> NoReturn:
        self.pm_die(message, status)

    def abort(self, message: object) -> NoReturn:
        self.pm_abort(message)

    def exit(self, message: object, status: int = exits.OK) -> NoReturn:
        self.pm_exit(message, status)

    def notify(self, message: object) -> None:
        self.pm_notify(message)

    def change_process_name(self) -> None:
        self.pm_change_process_name(self.pm_title if self.role is Role.MANAGER else self.process_name)

    def write_pid_file(self) -> None:
        self.pm_write_pid_file()

    def remove_pid_file(self) -> None:
        if self._pidfiles:
            self.pm_remove_pid_file()
        super().remove_pid_file()


class Constrained(ProcManager, Limits):
    """FCGI::ProcManager::Constrained: `max_requests`; and `max_size` in KB, looked at every `sizecheck_num_requests`
    requests. Both 0 by default, which is none."""

    # Limits stands below ProcManager, so that `pm_post_dispatch` leads to it as well as `post_dispatch`.

    PARAMETERS: Mapping[str, Callable[[str, Any], Any]] = {
        **ProcManager.PARAMETERS,
        "max_requests": checks.count,
        "max_size": checks.count,
        "sizecheck_num_requests": checks.count,
        "size_of": measure,
    }
    DEFAULTS: Mapping[str, Any] = {"sizecheck_num_requests": 0}
    ENVIRONMENT: Mapping[str, str] = {
        "max_requests": "PM_MAX_REQUESTS",
        "max_size": "PM_MAX_SIZE",
        "sizecheck_num_requests": "PM_SIZECHECK_NUM_REQUESTS",
    }
    limits_single_process = True


class MaxRequests(ProcManager, Limits):
    """FCGI::ProcManager::MaxRequests: `max_requests`, 0 for no limit."""

    PARAMETERS: Mapping[str, Callable[[str, Any], Any]] = {**ProcManager.PARAMETERS, "max_requests": checks.count}
    ENVIRONMENT: Mapping[str, str] = {"max_requests": "PM_MAX_REQUESTS"}


class MaxSize(ProcManager, Limits):
    """FCGI::ProcManager::MaxSize: `max_size` in MB, looked at after each request; 200 by default, 0 for no limit."""

    PARAMETERS: Mapping[str, Callable[[str, Any], Any]] = {
        **ProcManager.PARAMETERS,
        "max_size": checks.count,
        "size_of": measure,
    }
    DEFAULTS: Mapping[str, Any] = {"max_size": 200}
    ENVIRONMENT: Mapping[str, str] = {"max_size": "PM_MAX_SIZE"}
    size_unit: tuple[str, int] = ("MB", MB)

    def size_message(self, limit: str, value: int, size: int) -> str:
        return f"safe exit after {limit} ({value} MB): {-(-size // MB)} MB"


class Dynamic(ProcManager, PoolManager):
    """FCGI::ProcManager::Dynamic: between `min_nproc` (by default `n_processes`) and `max_nproc` (8) workers, as many as are busy;
    those that have been idle for `delta_time` seconds (5) leave, never in a request. `delta_nproc` is taken and without effect: as many
    are started as connections wait. `max_requests`: none by default. In a loop, `pm_loop()` says whether there is to be another
    request."""

    PARAMETERS: Mapping[str, Callable[[str, Any], Any]] = {
        **ProcManager.PARAMETERS,
        "min_nproc": checks.count,
        "max_nproc": checks.count,
        "delta_nproc": checks.count,
        "delta_time": checks.seconds,
        "max_requests": checks.count,
    }
    min_nproc: int
    max_nproc: int
    delta_time: float
    DEFAULTS: Mapping[str, Any] = {"min_nproc": 0, "max_nproc": 8, "delta_nproc": 5, "delta_time": 5}

    def pm_manage(self, /, **parameters: Any) -> bool:
        for key, value in parameters.items():
            self.pm_parameter(key, value)
        if self.n_processes:
            self._size()
        return super().pm_manage()

    def _size(self) -> None:
        least = self.min_nproc or self.n_processes
        self.n_processes = max(least, self.max_nproc)
        self._sizing = Sizing(DYNAMIC, self.n_processes, least, 1, least, self.delta_time)
        self.reload = PLAIN

    def pm_loop(self) -> bool:
        """Worker: whether it is to accept another request."""
        return not self.leaving

    def pm_notify(self, message: object = "") -> None:
        """One log line, with the date before it."""
        if self._half is None or not self._half.keeps_back(log.text(message)):
            words = f"{self.log_name}: {self.role} (pid {os.getpid()}): {log.text(message).rstrip()}"
            log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} - {words}", exact=True)


# -- the functions, which act on one manager for the whole process ----------------------------------------------------

Default: type[ProcManager] | str = ProcManager  # its class, or the dotted name of one; to be replaced before first use
_default: ProcManager | None = None


def default_manager() -> ProcManager:
    """The manager that the functions act on, made when it is first asked for."""
    global _default
    if _default is None:
        found: type[ProcManager] = resolve_name(Default) if isinstance(Default, str) else Default
        _default = found()
    return _default


def _exported(method: Callable[Concatenate[ProcManager, P], R]) -> Callable[P, R]:
    """A function that calls this method, as its class has it, of the default manager."""

    @functools.wraps(method)
    def function(*args: P.args, **kwargs: P.kwargs) -> R:
        bound: Callable[P, R] = getattr(default_manager(), method.__name__)
        return bound(*args, **kwargs)

    return function


if TYPE_CHECKING:  # what type checkers make of _exported differs

    def pm_manage(**parameters: Any) -> bool: ...

    def pm_die(message: object = "", status: int = exits.OK) -> NoReturn: ...

    def pm_wait() -> int | None: ...

    def pm_write_pid_file(pid_fname: str | os.PathLike[str] | None = None) -> None: ...

    def pm_remove_pid_file(pid_fname: str | os.PathLike[str] | None = None) -> bool: ...

    def pm_pre_dispatch() -> None: ...

    def pm_post_dispatch() -> None: ...

    def pm_change_process_name(name: str) -> None: ...

    def pm_received_signal(name: str | None = None, received: object = False) -> Any: ...

    def pm_parameter(key: str, value: Any = None) -> Any: ...

    def pm_warn(message: object = "") -> None: ...

    def pm_notify(message: object = "") -> None: ...

    def pm_abort(message: object = "", status: int = exits.FAILED) -> NoReturn: ...

    def pm_exit(message: object = "", status: int = exits.OK) -> NoReturn: ...

else:
    pm_manage = _exported(ProcManager.pm_manage)
    pm_die = _exported(ProcManager.pm_die)
    pm_wait = _exported(ProcManager.pm_wait)
    pm_write_pid_file = _exported(ProcManager.pm_write_pid_file)
    pm_remove_pid_file = _exported(ProcManager.pm_remove_pid_file)
    pm_pre_dispatch = _exported(ProcManager.pm_pre_dispatch)
    pm_post_dispatch = _exported(ProcManager.pm_post_dispatch)
    pm_change_process_name = _exported(ProcManager.pm_change_process_name)
    pm_received_signal = _exported(ProcManager.pm_received_signal)
    pm_parameter = _exported(ProcManager.pm_parameter)
    pm_warn = _exported(ProcManager.pm_warn)
    pm_notify = _exported(ProcManager.pm_notify)
    pm_abort = _exported(ProcManager.pm_abort)
    pm_exit = _exported(ProcManager.pm_exit)
