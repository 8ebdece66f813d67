"""A process manager for FastCGI applications: forks workers, keeps them alive, stops and replaces them gently.

The names below are the public interface. Those that need flup are imported when they are first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import BootError, ConfigError, ListenError, PidFileError, ProcManagerError, ProtocolError
from .manager.procmanager import ProcManager

if TYPE_CHECKING:
    from .fastcgi import FastCGI, WSGIServer, adopt

__version__ = "0.1.0"

__all__ = [
    "BootError",
    "ConfigError",
    "FastCGI",
    "ListenError",
    "PidFileError",
    "ProcManager",
    "ProcManagerError",
    "ProtocolError",
    "WSGIServer",
    "adopt",
]


def __getattr__(name: str) -> Any:
    if name in ("FastCGI", "WSGIServer", "adopt"):
        from . import fastcgi

        return getattr(fastcgi, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
