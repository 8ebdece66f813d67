"""An application in a pool, as the command runs one: where it listens, when it is loaded, and what is said about it.

Runs in the manager, and `server_init` in each worker. In the manager it must never import the application unless it is
told to preload: what the manager has imported, a worker that is started by HUP would inherit instead of the new code.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Callable, NoReturn

from ..basics import exits
from ..basics.clock import FOREVER, monotonic
from ..basics.states import ManagerState, Role
from ..errors import BootError, ConfigError, ListenError, ProcManagerError
from ..manager.procmanager import ProcManager
from ..sockets.listener import Listener
from ..system.proctitle import set_title
from . import web
from .messages import story

__all__ = ["STARTING", "Application", "Hosting", "Place", "host"]

WSGI = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

STARTING = " (starting)"  # ends the title of a worker that is not ready yet

_PATIENCE = 20.0  # seconds; a start that takes longer shows its log


class Application:
    """The WSGI application, which is there once it is loaded."""

    def __init__(self, load: Callable[[], WSGI]) -> None:
        self._load = load
        self._loaded: WSGI | None = None

    def load(self) -> None:
        """Load it, unless that was done before the fork. Raises BootError."""
        if self._loaded is None:
            self._loaded = self._load()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        assert self._loaded is not None
        return self._loaded(environ, start_response)


@dataclass
class Place:
    """Where to serve. No address at all means what systemd or a FastCGI spawner handed over, or with `web` a private
    socket."""

    addresses: list[str] = field(default_factory=list)
    mode: int | None = None
    owner: str | None = None
    web: str | None = None


class Hosting(ProcManager):
    """What the command adds to a manager class: it loads the application in each worker, and keeps its log back until the
    first worker is ready, so that a mistake is one line and not the last of many."""

    application: Application
    on_ready: Callable[[], None] | None = None
    _kept: list[str] | None = None
    _kept_until = FOREVER
    _prepared = False  # worker: it has loaded the application, and its hooks have been called

    def manage(self) -> bool:
        if self.n_processes == 0:
            self.application.load()
        else:
            self._kept, self._kept_until = [], monotonic() + _PATIENCE
        return super().manage()

    def server_init(self) -> None:
        self.application.load()
        super().server_init()
        self._prepared = True
        self.change_process_name()

    def change_process_name(self) -> None:
        """The title of a worker says while it is starting: that is how `reload` knows when it is ready."""
        if self.role is Role.SERVER and not self._prepared:
            set_title(self.process_name + STARTING)
        else:
            super().change_process_name()

    def notify(self, message: str) -> None:
        if self._kept is not None and self.role is Role.MANAGER:
            self._kept.append(message)
        else:
            super().notify(message)

    def wait(self) -> int | None:
        pid = super().wait()
        if self._life.state is ManagerState.RUNNING and self.on_ready is not None:
            greet, self.on_ready = self.on_ready, None
            self._tell_kept()
            greet()
        elif self._life.state is not ManagerState.STARTING or monotonic() >= self._kept_until:
            self._tell_kept()
        return pid

    def exit(self, message: str, status: int = exits.OK) -> NoReturn:
        if self.role is Role.MANAGER:
            if self._kept is not None and status == exits.USAGE:
                self._refuse(message)
            self._tell_kept()
        super().exit(message, status)

    def _refuse(self, message: str) -> NoReturn:
        """The workers could not be prepared: no log, one line."""
        try:
            super().exit(message, exits.USAGE)
        except SystemExit:
            raise BootError(message) from None

    def _tell_kept(self) -> None:
        kept, self._kept, self._kept_until = self._kept or (), None, FOREVER
        for message in kept:
            self.notify(message)

    def _next_deadline(self) -> float:
        return min(super()._next_deadline(), self._kept_until)


def host(
    application: Application,
    place: Place,
    settings: dict[str, Any],
    *,
    base: type[ProcManager] = ProcManager,
    on_ready: Callable[[ProcManager, str | None], None] | None = None,
) -> int:
    """Serve `application` until told to stop. `settings` are for the constructor of `base`; `on_ready` is called in the
    manager with the URL, None without a web server, once the first worker is ready. Raises ProcManagerError."""
    manager = _make(Hosting if place.web is None else HostingWithWeb, base, settings)
    manager.application = application
    url = _open_web(manager, place)
    if on_ready is not None:
        manager.on_ready = lambda: on_ready(manager, url)
    _serve(application, manager)
    return exits.OK


class HostingWithWeb(web.WithWeb, Hosting):
    """Both."""


def _serve(application: Application, manager: ProcManager) -> None:
    from .. import WSGIServer

    WSGIServer(application, manager=manager).run()


def _make(kind: type[Hosting], base: type[ProcManager], settings: dict[str, Any]) -> Hosting:
    try:
        made: Hosting = type(base.__name__, (kind, base), {"__module__": base.__module__})(**settings)
    except ProcManagerError:
        raise
    except Exception as error:
        given = ", ".join(settings)
        raise ConfigError(f"{base.__module__}:{base.__name__} cannot be made with {given}: {story(error)}") from None
    return made


def _open_web(manager: Hosting, place: Place) -> str | None:
    """Bind what is to be bound; the URL if there is one. The web address first, since it is the likelier to be in use."""
    if place.web is None or not isinstance(manager, web.WithWeb):
        _listen(manager, place)
        return None
    url = manager.open_web(place.web)
    if not place.addresses:
        place.addresses.append(manager.private_socket())
    manager.web_target = _listen(manager, place)
    return url


def _listen(manager: ProcManager, place: Place) -> Listener:
    """The first of the sockets that the manager now listens on."""
    if place.addresses:
        for address in place.addresses:
            manager.listen(address, mode=place.mode, owner=place.owner)
        return manager.listeners[0]
    try:
        return manager.listen()
    except ListenError:
        raise ListenError(
            "there is no address to serve on: give --listen ADDRESS or --web HOST:PORT, "
            "or let systemd or a FastCGI spawner start this"
        ) from None
