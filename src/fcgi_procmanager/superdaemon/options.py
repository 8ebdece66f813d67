"""What a superdaemon is told, looked at before anything is touched. Pure.

The names are those of Server::Starter 0.35; `api.start_server` explains them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Union

from ..basics import checks
from ..errors import ConfigError
from .ports import Port, parse_port

Texts = Union[str, int, Iterable[Union[str, int]], None]
Path = Union[str, "os.PathLike[str]", None]

DIE_TIMEOUT = 60.0  # seconds
RESTART_TIMEOUT = 60.0
BACKLOG = 4096  # the system lowers it to what it allows (SOMAXCONN)


@dataclass(frozen=True)
class Options:
    """Checked. Times are seconds; None for those of which the environment may know."""

    program: tuple[str, ...]
    ports: tuple[Port, ...]
    paths: tuple[str, ...]
    interval: float
    signal_on_hup: str
    signal_on_term: str
    backlog: int
    directory: str | None
    pid_file: str | None
    status_file: str | None
    log_file: str | None
    daemonize: bool
    envdir: str | None
    enable_auto_restart: bool
    auto_restart_interval: float | None
    kill_old_delay: float | None
    die_timeout: float
    ready_timeout: float | None
    drain_timeout: float
    drain_limit: int
    socket_mode: int | None
    socket_owner: str | None


def check(
    *,
    exec: Iterable[str] | str | None,
    port: Texts,
    path: Any,
    interval: float,
    signal_on_hup: str,
    signal_on_term: str,
    backlog: int | None,
    dir: Path,
    pid_file: Path,
    status_file: Path,
    log_file: Path,
    daemonize: bool,
    envdir: Path,
    enable_auto_restart: bool,
    auto_restart_interval: float | None,
    kill_old_delay: float | None,
    die_timeout: float,
    ready_timeout: float | None,
    drain_timeout: float,
    drain_limit: int,
    socket_mode: int | None,
    socket_owner: str | None,
) -> Options:
    """Raises ConfigError, which names what is wrong."""
    if checks.flag("daemonize", daemonize) and log_file is None:
        raise ConfigError(
            "Usage: --log-file option must be specified together with --deamonize"
        )  # the original's words
    return Options(
        program=_program(exec),
        ports=tuple(parse_port(str(one)) for one in _list("port", port)),
        paths=tuple(_socket_path(one) for one in _list("path", path)),
        interval=checks.seconds("interval", interval),
        signal_on_hup=checks.signal_name("signal_on_hup", signal_on_hup),
        signal_on_term=checks.signal_name("signal_on_term", signal_on_term),
        backlog=BACKLOG if backlog is None else checks.count("backlog", backlog),
        directory=_text_of(checks.path("dir", dir)),
        pid_file=_absolute(checks.path("pid_file", pid_file)),
        status_file=_absolute(checks.path("status_file", status_file)),
        log_file=_log_file(checks.path("log_file", log_file)),
        daemonize=daemonize,
        envdir=_absolute(checks.path("envdir", envdir)),
        enable_auto_restart=checks.flag("enable_auto_restart", enable_auto_restart),
        auto_restart_interval=_optional(checks.timeout, "auto_restart_interval", auto_restart_interval),
        kill_old_delay=_optional(checks.seconds, "kill_old_delay", kill_old_delay),
        die_timeout=checks.seconds("die_timeout", die_timeout),
        ready_timeout=_optional(checks.timeout, "ready_timeout", ready_timeout),
        drain_timeout=checks.seconds("drain_timeout", drain_timeout),
        drain_limit=checks.count("drain_limit", drain_limit),
        socket_mode=socket_mode,
        socket_owner=socket_owner,
    )


def _program(exec: Iterable[str] | str | None) -> tuple[str, ...]:
    program = tuple(exec) if isinstance(exec, Iterable) and not isinstance(exec, (str, bytes)) else ()
    if not program:
        raise ConfigError("mandatory option ``exec'' is missing or is not an arrayref")
    return tuple(_string("exec", part) for part in program)


def _list(name: str, value: Any) -> list[Any]:
    """One or several, each a string; of a port a number as well."""
    if value is None:
        return []
    if isinstance(value, (str, int, os.PathLike)):
        value = [value]
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{name} must be a string or a list of them, not {value!r}")
    return [
        checks.number(name, one) if isinstance(one, int) and name == "port" else _string(name, one) for one in value
    ]


def _string(name: str, value: Any) -> str:
    text = checks.text(name, os.fspath(value) if isinstance(value, os.PathLike) else value)
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        raise ConfigError(f"{name} must be a string that the system can take, not {value!r}") from None
    return text


def _socket_path(text: str) -> str:
    if not text:
        raise ConfigError("path must be the path of a socket file, not ''")
    return text


def _optional(check: Any, name: str, value: Any) -> Any:
    return None if value is None else check(name, value)


def _text_of(path: Path) -> str | None:
    return None if path is None else os.fspath(path)


def _absolute(path: Path) -> str | None:
    """Of a file that is looked for again later: this process may have changed its directory by then. Not resolved: a link may lead
    elsewhere by then."""
    return None if path is None else os.path.abspath(os.fspath(path))


def _log_file(path: Path) -> str | None:
    text = _text_of(path)
    return text if text is None or text.lstrip().startswith("|") else _absolute(text)
