"""Options of `serve` that would have no effect beside the others: one line says what is missing. Pure.

Runs before the manager starts, and in `check`. Must never refuse what a class of the application may have a use for (`--manager`).
"""

from __future__ import annotations

from ..basics.states import PLAIN
from ..children.sizing import DYNAMIC, PER_REQUEST, STATIC
from ..errors import ConfigError
from .arguments import Options
from .sources import PREFIX

__all__ = ["check_effects"]

_BESIDE = (
    ("request_grace", "request_timeout"),
    ("slow_log", "slow_after"),
    ("access_format", "access_log"),
    ("memory_measure", "max_memory"),
    ("emergency_restart_interval", "emergency_restart_threshold"),
)
_SPARES = ("start_servers", "min_spare", "max_spare")
_OF_WORKERS = (
    *("pidfile", "standby", "touch", "control", "status_listen"),
    *("die_timeout", "drain_delay", "reload_timeout", "boot_timeout", "reload_slice", "start_delay"),
    *("process_name", "manager_process_name"),
    *("max_requests", "max_memory", "max_age", "babysit", "emergency_restart_threshold"),
    *("request_timeout", "slow_after"),
)


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
    """Without a worker there is nobody to look after. -n 0 on the command line may overrule a file that is for a pool."""
    for name in _OF_WORKERS:
        if getattr(options, name) and _rank(options, name) >= _rank(options, "processes"):
            raise ConfigError(f"{_typed(name)} needs a worker process: give -n 1 or more")


def _rank(options: Options, name: str) -> int:
    """How much where it comes from counts."""
    values = getattr(options, "values", None)
    if values is None:
        return 0  # a file that is only looked at
    origin = values[name.replace("_", "-")].origin
    return 3 if origin == "command line" else 2 if origin.startswith(PREFIX) else 0 if origin == "default" else 1


def _typed(name: str) -> str:
    return "--" + name.replace("_", "-")
