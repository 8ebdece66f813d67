"""A process manager for FastCGI applications: forks workers, keeps them alive, stops and replaces them gently.

The names below are the public interface. Each is imported when it is first asked for: `server_ports()` needs none of them, and
flup is not needed by all.
"""

TYPE_CHECKING = False  # as `typing` has it, which takes longer to import than `starter`
if TYPE_CHECKING:
    from .basics.states import Role
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
    from .fastcgi import FastCGI, Request, WSGIServer, adopt
    from .manager.procmanager import ProcManager
    from .pool.poolmanager import PoolManager
    from .sockets.listener import Listener

__version__ = "0.1.0"

__all__ = [
    "BootError",
    "ConfigError",
    "ControlError",
    "Daemon",
    "FastCGI",
    "ListenError",
    "Listener",
    "PidFileError",
    "PoolManager",
    "ProcManager",
    "ProcManagerError",
    "ProtocolError",
    "Request",
    "RequestTimeout",
    "Role",
    "Supervisor",
    "WSGIServer",
    "adopt",
]

# Where each is, if not in `errors`.
_MODULES = {
    "Daemon": "daemon.daemon",
    "FastCGI": "fastcgi",
    "Listener": "sockets.listener",
    "PoolManager": "pool.poolmanager",
    "ProcManager": "manager.procmanager",
    "Request": "fastcgi",
    "Role": "basics.states",
    "Supervisor": "daemon.supervisor",
    "WSGIServer": "fastcgi",
    "adopt": "fastcgi",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = __import__(f"{__name__}.{_MODULES.get(name, 'errors')}", fromlist=[name])
    found: object = getattr(module, name)
    globals()[name] = found  # once: afterwards it is an attribute like any other
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
