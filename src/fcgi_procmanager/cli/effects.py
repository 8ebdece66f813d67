"""Options of `serve` that would have no effect beside the others: one line says what is missing; or, where -n 0 outranks them, they are
dropped. Pure.

Runs before the manager starts, and in `check`. Must never refuse what a class of the application may have a use for (`--manager`).
"""

from __future__ import annotations

from ..basics.states import PLAIN, ROLLING
from ..children.sizing import DYNAMIC, PER_REQUEST, STATIC
from ..errors import ConfigError
from .arguments import Options
from .pooloptions import STANDARD_ERROR
from .sources import PREFIX

__all__ = ["check_effects", "drop_outranked", "needs_worker"]

_BESIDE = (
    ("request_grace", "request_timeout"),
    ("slow_log", "slow_after"),
    ("access_format", "access_log"),
    ("memory_measure", "max_memory"),
    ("emergency_restart_interval", "emergency_restart_threshold"),
)
_SPARES = ("start_servers", "min_spare", "max_spare")
_OF_WORKERS = (
    *("web", "watch", "daemon", "log_file", "preload", "pool", *_SPARES, "process_idle_timeout", "reload_mode"),
    *("pidfile", "standby", "touch", "control", "status_listen"),
    *("die_timeout", "drain_delay", "reload_timeout", "boot_timeout", "reload_slice", "start_delay"),
    *("process_name", "manager_process_name"),
    *("max_requests", "max_memory", "memory_measure", "max_age", "babysit"),
    *("emergency_restart_threshold", "emergency_restart_interval"),
    *("request_timeout", "request_grace", "slow_after", "slow_log"),
)
_AS_IF_NOT_GIVEN = (None, False, 0, STATIC, ROLLING, STANDARD_ERROR)
_UNLIMITED_BY_0 = ("die_timeout", "boot_timeout")


def drop_outranked(options: Options) -> None:
    """-n 0 on the command line, or in a variable, may overrule a file that is for a pool: what that says of workers does not count."""
    if options.processes == 0:
        for name in _OF_WORKERS:
            if _rank(options, name) < _rank(options, "processes"):
                setattr(options, name, ROLLING if name == "reload_mode" else None)


def check_effects(options: Options) -> None:
    """Raises ConfigError."""
    if options.manager is None:
        _check_pool(options)
        for name, other in _BESIDE:
            if getattr(options, name) is not None and not getattr(options, other):
                raise ConfigError(
                    f"{_typed(name)} has no effect without {_typed(other)}: give that too, or leave it out"
                )
    if options.reload_slice and options.reload_mode == PLAIN:
        raise ConfigError(
            "--reload-slice has no effect with --reload-mode plain, which replaces all at once: leave it out"
        )
    if options.processes == 0:
        _check_single(options)


def _check_pool(options: Options) -> None:
    pool = options.pool or STATIC
    for name in _SPARES:
        if getattr(options, name) is not None and pool != DYNAMIC:
            raise ConfigError(
                f"{_typed(name)} has no effect while --pool is {pool}: give --pool dynamic, or leave it out"
            )
    if options.process_idle_timeout is not None and pool == STATIC:
        raise ConfigError(
            "--process-idle-timeout has no effect while --pool is static: give --pool dynamic or ondemand, or leave it out"
        )
    if options.max_requests and pool == PER_REQUEST:
        raise ConfigError(
            "--max-requests has no effect while --pool is per-request, whose workers serve one each: leave it out"
        )


def _check_single(options: Options) -> None:
    """Without a worker there is nobody to look after."""
    for name in _OF_WORKERS:
        value = getattr(options, name)
        if value not in _AS_IF_NOT_GIVEN or (name in _UNLIMITED_BY_0 and value is not None):
            raise needs_worker(_typed(name))


def needs_worker(option: str) -> ConfigError:
    return ConfigError(f"{option} needs a worker process: give -n 1 or more")


def _rank(options: Options, name: str) -> int:
    """How much where it comes from counts."""
    values = getattr(options, "values", None)
    if values is None:
        return 0  # a file that is only looked at
    origin = values[name.replace("_", "-")].origin
    return 3 if origin == "command line" else 2 if origin.startswith(PREFIX) else 0 if origin == "default" else 1


def _typed(name: str) -> str:
    return "--" + name.replace("_", "-")
