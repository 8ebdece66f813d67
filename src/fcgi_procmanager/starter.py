"""The superdaemon: owns listening sockets and runs a program as generations, each started before the last one is asked to leave.

`server_ports` is for the program that it runs, and loads nothing. The others run, or command, a superdaemon; they are in
superdaemon/. Source: Server::Starter 0.35.
"""

import os

from .sockets import serverports

TYPE_CHECKING = False  # as `typing` has it, which takes longer to import than this
if TYPE_CHECKING:
    from .superdaemon.api import restart_server, start_server, stop_server

__all__ = ["restart_server", "server_ports", "start_server", "stop_server"]


def server_ports() -> dict[str, int]:
    """A program that a superdaemon runs: its listening sockets, `{"127.0.0.1:8080": 3, "/run/app.sock": 4}`: what was asked
    for, and the number of the descriptor. Raises RuntimeError where no superdaemon has started this, and ValueError for a variable
    that it has not written. Source: Server::Starter 0.35."""
    text = os.environ.get(serverports.VARIABLE)
    if text is None:
        raise RuntimeError(
            f"no environment variable {serverports.VARIABLE}. Did you start the process using server_starter?"
        )
    return serverports.parse(text)


def __getattr__(name: str) -> object:
    if name in __all__:
        from .superdaemon import api

        found: object = getattr(api, name)
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


if __name__ == "__main__":
    from .cli.start_server import main

    raise SystemExit(main())
