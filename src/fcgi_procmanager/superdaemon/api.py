"""What scripts call: `start_server`, `restart_server`, `stop_server`.

Runs in the process that calls; with `daemonize` the superdaemon is another one. Source: Server::Starter 0.35.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from ..basics import exits, log
from ..errors import ProcManagerError
from ..sockets.inherited import take_systemd_sockets
from ..system.detach import Detached, detach
from ..system.stdio import open_missing
from .control import restart_server, stop_server
from .options import DIE_TIMEOUT, Path, Texts, check
from .superdaemon import Superdaemon

__all__ = ["restart_server", "start_server", "stop_server"]


def start_server(
    *,
    exec: Iterable[str] | None = None,
    port: Texts = None,
    path: str | os.PathLike[str] | Iterable[str] | None = None,
    interval: float = 1,
    signal_on_hup: str = "TERM",
    signal_on_term: str = "TERM",
    backlog: int | None = None,
    dir: Path = None,
    pid_file: Path = None,
    status_file: Path = None,
    log_file: Path = None,
    daemonize: bool = False,
    envdir: Path = None,
    enable_auto_restart: bool = False,
    auto_restart_interval: float | None = None,
    kill_old_delay: float | None = None,
    die_timeout: float = DIE_TIMEOUT,
    ready_timeout: float | None = None,
    drain_timeout: float = 0,
    drain_limit: int = 0,
    socket_mode: int | None = None,
    socket_owner: str | None = None,
) -> int:
    """The process that becomes the superdaemon: own sockets and run a program over them, until TERM or INT. Times are seconds.
    Returns the exit status: 0 after a gentle stop, 1 when somebody had to be killed.

    exec: the program and its words. port: `8080`, `host:8080`, `[::1]:8080`, `u53` for UDP, `8080=3` to have it on descriptor 3; or a list. path: socket files.
    interval: a program that lives so long is good. signal_on_hup: what asks an old generation to leave. signal_on_term: what asks
    all of them at a stop. backlog: of the sockets. dir: the program's folder. pid_file: held and locked meanwhile. status_file: a
    line `generation:pid` for each. log_file: a file, or "| command". daemonize: go on in the background; the caller ends by
    SystemExit when the first generation is good, or could not be started. envdir: a folder with a file for each variable.
    enable_auto_restart: a new generation each auto_restart_interval seconds. auto_restart_interval: 360, if it is None. kill_old_delay: old ones serve so long beside the new
    one (0; 5 with enable_auto_restart). die_timeout: until KILL at a stop; 0 for no limit. ready_timeout: the program says that
    it is ready, within so long. drain_timeout: until KILL for old ones; 0 for no limit. drain_limit: how many old ones may go on;
    0 for any. socket_mode: of socket files, 0o660 if it is None. socket_owner: of socket files, "user:group".

    Raises ConfigError, ListenError and PidFileError. Source: start_server of Server::Starter 0.35.
    """
    options = check(
        exec=exec,
        port=port,
        path=path,
        interval=interval,
        signal_on_hup=signal_on_hup,
        signal_on_term=signal_on_term,
        backlog=backlog,
        dir=dir,
        pid_file=pid_file,
        status_file=status_file,
        log_file=log_file,
        daemonize=daemonize,
        envdir=envdir,
        enable_auto_restart=enable_auto_restart,
        auto_restart_interval=auto_restart_interval,
        kill_old_delay=kill_old_delay,
        die_timeout=die_timeout,
        ready_timeout=ready_timeout,
        drain_timeout=drain_timeout,
        drain_limit=drain_limit,
        socket_mode=socket_mode,
        socket_owner=socket_owner,
    )
    open_missing()
    handed_over = take_systemd_sockets()  # which are for this process, not for the one that it becomes
    if not options.daemonize:
        return Superdaemon(options, handed_over).run()
    detached = detach()
    return _run_detached(Superdaemon(options, handed_over, detached), detached)


def _run_detached(superdaemon: Superdaemon, detached: Detached) -> int:
    """Whoever waits is told when everything is undone."""
    try:
        status = superdaemon.run()
    except ProcManagerError as error:
        log.write(str(error), exact=True)
        detached.tell(exits.USAGE, str(error))
        return exits.USAGE
    detached.tell(exits.FAILED, superdaemon.last_failure or "it was stopped before its first generation was good")
    return status
