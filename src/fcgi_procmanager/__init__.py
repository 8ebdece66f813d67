"""A process manager for FastCGI applications: forks workers, keeps them alive, stops and replaces them gently.

The names below are the public interface. Each is imported when it is first asked for: `server_ports()` needs none of them, and
flup is not needed by all.
"""

TYPE_CHECKING = False  # as `typing` has it, which takes longer to import than `starter`
if TYPE_CHECKING:
    from .daemon.daemon import Daemon
    from .daemon.supervisor import Supervisor
    from .errors import (
        BootError,
        ConfigError,
        ControlError,
        ListenError,
        PidFileError,
        ProcManagerError,
        ProtocolError,
        RequestTimeout,
    )
    from .fastcgi import FastCGI, WSGIServer, adopt
    from .manager.procmanager import ProcManager
    from .pool.poolmanager import PoolManager

__version__ = "0.1.0"

__all__ = [
    "BootError",
    "ConfigError",
    "ControlError",
    "Daemon",
    "FastCGI",
    "ListenError",
    "PidFileError",
    "PoolManager",
    "ProcManager",
    "ProcManagerError",
    "ProtocolError",
    "RequestTimeout",
    "Supervisor",
    "WSGIServer",
    "adopt",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in ("FastCGI", "WSGIServer", "adopt"):
        from . import fastcgi as module
    elif name == "ProcManager":
        from .manager import procmanager as module  # type: ignore[no-redef]
    elif name == "PoolManager":
        from .pool import poolmanager as module  # type: ignore[no-redef]
    elif name == "Daemon":
        from .daemon import daemon as module  # type: ignore[no-redef]
    elif name == "Supervisor":
        from .daemon import supervisor as module  # type: ignore[no-redef]
    else:
        from . import errors as module  # type: ignore[no-redef]
    found: object = getattr(module, name)
    globals()[name] = found  # once: afterwards it is an attribute like any other
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
