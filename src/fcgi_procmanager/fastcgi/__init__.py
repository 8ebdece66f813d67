"""FastCGI on top of the manager: the only package that imports flup, and that only where a server of it is used.

    adopted -> wsgi -> lanes, environ, response         servers of applications, one request or several at a time
                 |       |
                 |     tracebacks                       an exception of the application, told
                 |
               loop -> listeners, held, cgi             whose turn it is
                 |
       logged -> request -> output -> framing           how long a body is, and who says so
                 |
               connection -> protocol -> pairs

`settings` is for type checkers. Runs in workers, but for the constructors of the servers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .loop import FastCGI
from .request import Request

if TYPE_CHECKING:
    from .adopted import adopt
    from .wsgi import WSGIServer

__all__ = ["FastCGI", "Request", "WSGIServer", "adopt"]


def __getattr__(name: str) -> Any:
    if name == "WSGIServer":
        from .wsgi import WSGIServer

        return WSGIServer
    if name == "adopt":
        from .adopted import adopt

        return adopt
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
