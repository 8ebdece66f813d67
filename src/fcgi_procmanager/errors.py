"""The errors of this package, by whose move it is.

Every message is one line that says what to do. Runs in every process; must never import another module of the package.
"""

from __future__ import annotations


class ProcManagerError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigError(ProcManagerError, ValueError):
    """The caller's move: a parameter has a wrong type or value. The message names the parameter."""


class ListenError(ProcManagerError):
    """The operator's move: an address cannot be bound, or a descriptor is not a listening socket."""


class PidFileError(ProcManagerError):
    """The operator's move: the PID file is held by a living process, or cannot be written."""


class BootError(ProcManagerError):
    """A worker cannot be prepared, and trying again would not help (no such module, no such attribute)."""


class ControlError(ProcManagerError):
    """The operator's move: nothing is running that could be told, or it has not done what it was told."""


class RequestTimeout(BaseException):
    """Raised in the code of the application when the time of its request is up (`PoolManager.request_timeout`). No Exception: code
    that goes on after any of these would go on after this one."""


class ProtocolError(ProcManagerError):
    """The peer's move: bytes that are not FastCGI, or more of them than the limits allow; a status that is none."""
