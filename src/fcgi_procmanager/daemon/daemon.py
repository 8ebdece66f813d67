"""`Daemon`: a program in the background, alone by its PID file, as another user than root.

Two processes run this: the one that was typed, in which `run()` returns when the daemon has started or could not, and the daemon.
After App::Base::Daemon 0.08.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from ..basics import exits, log
from ..errors import ConfigError, PidFileError, ProcManagerError
from ..system import privileges, signals
from ..system.atfork import AtFork
from ..system.commandline import command
from ..system.detach import Detached, fork_away, leave_streams
from ..system.image import logical_directory
from ..system.pidfile import PidFile, claim
from ..system.privileges import Identity
from ..system.running import found
from ..system.signals import Signals
from ..system.stdio import open_missing
from . import options
from .ending import ERROR, Ending
from .invitation import Invitation, taken

__all__ = ["Daemon"]

_PID_DIRECTORY = "APP_BASE_DAEMON_PIDDIR"
_SILENCE = "ended before it had started: run it with --no-fork to see why"


class Daemon:
    """Define `daemon_run()`, and `handle_shutdown()` for what is to be done at TERM, INT and QUIT.

    no_fork: stay in the foreground. pid_file: path, by default the name of the class with `.pid`, in APP_BASE_DAEMON_PIDDIR or
    /var/run. no_pid_file: none, and no look whether another copy runs. no_warn: say nothing. user, group: whom to run as, names or
    numbers; with root only.

    Class attributes, for subclasses: `user` and `group` for when none is given; `directory` and `umask` of the daemon in the
    background, None to keep them; `return_value`, the exit status after `daemon_run()`; `can_do_hot_reload`, whether a second
    start is to send USR2 to the first (see `Supervisor`). After `main`, `options` are those of the command line and `arguments`
    the rest of it. Raises ConfigError. Source: App::Base::Daemon 0.08.
    """

    user: str | int | None = None
    group: str | int | None = None
    directory: str | None = "/"
    umask: int | None = 0o022
    return_value = exits.OK
    can_do_hot_reload = False

    _role = "daemon"  # in the log

    def __init__(
        self,
        *,
        no_fork: bool = False,
        pid_file: str | os.PathLike[str] | None = None,
        no_pid_file: bool = False,
        no_warn: bool = False,
        user: str | int | None = None,
        group: str | int | None = None,
    ) -> None:
        self.no_fork = no_fork
        self.no_pid_file = no_pid_file
        self.no_warn = no_warn
        if user is not None:
            self.user = user
        if group is not None:
            self.group = group
        self.pid_file: str = os.path.abspath(os.fspath(pid_file) if pid_file is not None else self._default_pid_file())
        self.options: options.Options = options.Options()
        self.arguments: list[str] = []
        self._signals = Signals()
        self._ending = Ending(self.handle_shutdown)
        self._held: PidFile | None = None
        self._detached: Detached | None = None
        self._command: list[str] = []
        self._started_in = ""
        _at_fork.add(self)

    # -- what a program calls -----------------------------------------------------------------------------------------

    @classmethod
    def main(cls, argv: Sequence[str] | None = None) -> NoReturn:
        """The process that was typed: read the command line (without the program's name; by default that of the process), `run()`, and end the process: by
        SystemExit, with the status of `run()`, or 2 and one line for a mistake. `--help` is status 0."""
        open_missing()
        parser = options.make(cls.__doc__)
        cls.add_arguments(parser)
        given, arguments = options.parse(parser, argv)
        owner = os.getpid()
        try:
            daemon = cls(
                no_fork=given.no_fork,
                pid_file=given.pid_file,
                no_pid_file=given.no_pid_file,
                no_warn=given.no_warn,
                user=given.user,
                group=given.group,
            )
            daemon.options, daemon.arguments = given, arguments
            status = daemon.run()
        except ProcManagerError as error:
            if os.getpid() != owner:
                raise
            parser.exit(exits.USAGE, f"{parser.prog}: {' '.join(str(error).split())}\n")
        raise SystemExit(status)

    @classmethod
    def add_arguments(cls, parser: options.Parser) -> None:
        """The process that was typed: for a program's own options: `parser` is an argparse.ArgumentParser. They are found in `self.options`, and what is no
        option in `self.arguments`."""

    def run(self) -> int:
        """The process that was typed: returns 0 when the daemon has started, or when a running one was told to reload; else its
        exit status, its last words being on standard error. In the daemon it never returns: it ends by SystemExit. With `no_fork`
        it is one process, and what is returned is the exit status. Raises ConfigError and PidFileError. Source: `run` of
        App::Base::Script, which returns 0 whatever happens."""
        self._command, self._started_in = command(), logical_directory() or _directory()
        self._check()
        invitation = taken()
        if invitation is not None and not self.can_do_hot_reload:
            invitation.line.close()
            invitation = None
        self._held = None if self.no_pid_file else PidFile(self.pid_file, "--pid-file")
        identity = None
        if invitation is None:
            identity = self._identity()
            if self._held is not None and self._is_told_to_reload():
                return exits.OK
            if not self.no_fork:
                away = self._fork_away()
                if isinstance(away, int):
                    return away
                self._detached = away
        status = self._live(identity, invitation)
        if self.no_fork:
            return status
        raise SystemExit(status)  # what follows `run()` in the program is for the one who typed it

    def error(self, *words: object) -> None:
        """Daemon: say `Shutting down: …`, call the hook, and end with status 255: by SystemExit, or, in a thread, by a signal to
        the main one."""
        text = "".join(map(log.text, words))
        if self._detached is not None:
            self._detached.tell(ERROR, f"{self._name}: {text}")
        self.notify(f"Shutting down: {text}")
        self._ending.leave(ERROR)

    def notify(self, message: str) -> None:
        """Either: one line, to standard error, which in the background leads nowhere, or through `logging` when the application
        configured the logger `fcgi_procmanager`. Overridable."""
        if not self.no_warn:
            log.write(f"{self._name}: {self._role} (pid {os.getpid()}): {message}", exact=True)

    # -- hooks --------------------------------------------------------------------------------------------------------

    def daemon_run(self) -> None:
        """Daemon: what it does. When it returns, the daemon ends with `return_value`; an exception is an `error`."""
        raise NotImplementedError(f"{type(self).__name__} must define daemon_run()")

    def handle_shutdown(self) -> int | None:
        """Daemon, in the handler of TERM, INT or QUIT, and at an `error`: clean up. Returns the exit status, None for 0. Called
        once; further signals wait for its end."""
        return None

    # -- the beginning ------------------------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _default_pid_file(self) -> str:
        return os.path.join(os.environ.get(_PID_DIRECTORY, "/var/run"), f"{self._name}.pid")

    def _check(self) -> None:
        """Raises ConfigError for attributes that cannot be."""

    def _identity(self) -> Identity | None:
        """Whom to become. Raises ConfigError."""
        identity = privileges.find(self.user, self.group)
        if identity is None or identity.is_ours:
            return None
        if os.geteuid() != 0:
            self.notify("Not running as root, can't setuid/setgid")
            return None
        return identity

    def _is_told_to_reload(self) -> bool:
        """Another copy runs, and was told. Raises PidFileError when it runs and cannot be told."""
        if not claim(self.pid_file).locked:
            return False
        if not self.can_do_hot_reload:
            raise self._busy()
        try:
            with found(self.pid_file, locked_only=True) as running:
                if running is None:
                    return False
                running.send(signal.SIGUSR2)
        except ProcManagerError as error:
            words = "Neither could lock pid file nor send USR2 to already running daemon."
            raise PidFileError(f"{words} {error}") from None
        self.notify("Daemon is already running, initiated hot reload")
        return True

    def _busy(self) -> PidFileError:
        return PidFileError(
            f"Couldn't lock {self.pid_file}. Is another copy of this daemon already running? Stop it first, or give another "
            "--pid-file"
        )

    def _fork_away(self) -> Detached | int:
        try:
            return fork_away(f"{self._name}: {_SILENCE}")
        except OSError as error:
            raise ConfigError(f"Can't fork child process: {error.strerror}: try again when there is room") from None

    # -- the daemon ---------------------------------------------------------------------------------------------------

    def _live(self, identity: Identity | None, invitation: Invitation | None) -> int:
        owner = os.getpid()
        try:
            self._install_handlers()
            if invitation is None:
                self._settle(identity)
            return self._work(invitation)
        except ProcManagerError as error:
            if os.getpid() != owner or self._detached is None:
                raise
            self._detached.tell(exits.USAGE, f"{self._name}: {error}")
            raise SystemExit(exits.USAGE) from None
        finally:
            if os.getpid() == owner:
                self._undo()

    def _install_handlers(self) -> None:
        # Before the PID file is there: who reads it may send a signal at once.
        self._signals.install(signals.DAEMON_SIGNALS, self._ending.by_signal)

    def _settle(self, identity: Identity | None) -> None:
        """What only root may do comes first."""
        if self._held is not None:
            self._acquire(self._held)
        if identity is not None:
            if self._held is not None:
                self._held.give_to(-1 if identity.uid is None else identity.uid, identity.gid)
            privileges.drop(identity)
        if self._detached is not None:
            self._leave_surroundings()

    def _acquire(self, pid_file: PidFile) -> None:
        try:
            pid_file.acquire()
        except PidFileError:
            if claim(self.pid_file).pid is None:
                raise
            raise self._busy() from None

    def _leave_surroundings(self) -> None:
        """Of whoever typed the command."""
        if self.directory is not None:
            try:
                os.chdir(self.directory)
            except OSError as error:
                raise ConfigError(
                    f"directory {self.directory}: {error.strerror}: set one that can be entered"
                ) from None
        if self.umask is not None:
            os.umask(self.umask)
        leave_streams()

    def _work(self, invitation: Invitation | None) -> int:
        self._tell_started()
        try:
            self.daemon_run()
        except Exception as error:
            self._crashed(error)
        return self.return_value

    def _crashed(self, error: Exception) -> None:
        if not self.no_warn:
            log.write_traceback(error, exact=True)
        self.error(f"{type(error).__name__}: {error}")

    def _tell_started(self) -> None:
        if self._detached is not None:
            self._detached.tell(exits.OK)

    def _undo(self) -> None:
        if self._held is not None:
            self._held.release()
        if self._detached is not None:
            self._detached.close()
        if self._signals.open:
            atexit.register(signals.ignore_late)
            self._signals.take()  # what has come asked for the end
            self._signals.close()

    def _forked_by_application(self) -> None:
        """In a child that the application has forked: the lock is its parent's."""
        if self._held is not None:
            self._held.abandon()
        if self._detached is not None:
            self._detached.close()


_at_fork = AtFork(Daemon._forked_by_application)


def _directory() -> str:
    try:
        return os.getcwd()
    except OSError:  # it has been removed
        return os.path.dirname(os.path.abspath(sys.argv[0]))
