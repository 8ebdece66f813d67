"""An application in a pool, as the command runs one: where it listens, when it is loaded, and what is said about it.

Runs in the manager, and `server_init` in each worker. In the manager it must never import the application unless it is
told to preload: what the manager has imported, a worker that is started by HUP would inherit instead of the new code.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Callable

from ..basics import exits
from ..basics.clock import FOREVER, monotonic
from ..basics.states import ROLLING, ManagerState, Role
from ..errors import BootError, ConfigError, ListenError, ProcManagerError
from ..manager import handover
from ..manager.half import ManagerHalf
from ..manager.parts import PoolPart
from ..manager.procmanager import ProcManager
from ..pool.poolmanager import PoolManager
from ..sockets.listener import Listener
from .messages import story
from .watch import Watch
from .web import Web

__all__ = ["STARTING", "Application", "Hosting", "Place", "host", "listen", "make_manager"]

WSGI = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

STARTING = " (starting)"  # ends the title of a worker that is not ready yet

_PATIENCE = 20.0  # seconds; a start that takes longer shows its log


class Application:
    """The WSGI application, which is there once it is loaded. preload: in the manager, for all workers."""

    def __init__(self, load: Callable[[], WSGI], preload: bool = False) -> None:
        self.preload = preload
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
    socket. listeners, web_listener: what is bound already."""

    addresses: list[str] = field(default_factory=list)
    mode: int | None = None
    owner: str | None = None
    web: str | None = None
    take_over: bool = False
    backlog: int | None = None
    listeners: list[Listener] = field(default_factory=list)
    web_listener: Listener | None = None

    @property
    def how(self) -> dict[str, Any]:
        """The same for each address, as keywords."""
        given = {"mode": self.mode, "owner": self.owner, "take_over": self.take_over}
        return given if self.backlog is None else {**given, "backlog": self.backlog}


class Hosting(PoolPart):
    """What the command adds to a manager: it loads the application in each worker, and keeps the log back until the first
    worker is ready, so that a mistake is one line and not the last of many."""

    starting_suffix = STARTING

    def __init__(
        self,
        manager: ProcManager,
        application: Application,
        on_ready: Callable[[], None] | None,
        is_outdated: Callable[[], bool],
    ) -> None:
        self._manager = manager
        self._application = application
        self._on_ready = on_ready
        self._is_outdated = is_outdated
        self._half: ManagerHalf | None = None
        self._kept: list[tuple[float, str | None, str]] | None = []  # when, how serious, and what was said
        self.next_at: float = monotonic() + _PATIENCE

    @property
    def refusal(self) -> str | None:
        """Why no worker could be prepared, if that is all that there is to say."""
        return self._kept[-1][-1] if self._kept else None

    @property
    def needs_new_manager(self) -> bool:  # type: ignore[override]
        return self._is_outdated()

    def show_at_once(self) -> None:
        """Keep no line back."""
        self._kept, self.next_at = None, FOREVER

    def begin(self, half: ManagerHalf) -> None:
        self._half = half
        if self._application.preload:
            self._application.load()
            gc.collect()  # what is garbage now would be kept for good: the manager freezes what is there when it forks

    def turn(self, now: float) -> bool:
        if self._half is None or (self._kept is None and self._on_ready is None):
            return False
        if self._half.life.state is ManagerState.RUNNING:
            self._tell_kept()
            if self._on_ready is not None:
                greet, self._on_ready = self._on_ready, None
                greet()
        elif self._half.life.state is not ManagerState.STARTING or now >= self.next_at:
            self._tell_kept()
        return False

    def keeps_back(self, message: str) -> bool:
        if self._kept is None:
            return False
        self._kept.append((time.time(), self._manager._level, message))
        return True

    def last_line(self, status: int) -> None:
        if status != exits.USAGE:
            self._tell_kept()

    def _tell_kept(self) -> None:
        kept, self._kept, self.next_at = self._kept or (), None, FOREVER
        for at, level, message in kept:
            self._manager._notify_as(message, level, at)

    def prepare_worker(self) -> None:
        self._application.load()


def host(
    application: Application,
    place: Place,
    settings: dict[str, Any],
    *,
    base: type[ProcManager] = ProcManager,
    on_ready: Callable[[ProcManager, str | None], None] | None = None,
    limits: dict[str, Any] | None = None,
    reload: str = ROLLING,
    is_outdated: Callable[[], bool] = lambda: False,
    parts: Iterable[PoolPart] = (),
    watch: bool = False,
    prepare: Callable[[ProcManager], None] | None = None,
) -> int:
    """Serve `application` until told to stop. `settings` are for the constructor of `base`, `limits` for the server; `on_ready` is
    called in the manager with the URL, None without a web server, once the first worker is ready. `reload`: what HUP does.
    `watch`: a change of a Python file does it as well. is_outdated: whether a worker that this manager forks would have old code.
    parts: more of the manager's loop. prepare: called with the manager when it is made. Raises ProcManagerError."""
    from .. import WSGIServer  # before the process becomes a user who may not read its files

    manager = make_manager(base, settings)
    manager.reload = reload  # not by the constructor: one of a subclass may not know it
    if prepare is not None:
        prepare(manager)
    web = _open_web(manager, place)
    url = web.url if web is not None else None
    is_first = on_ready is not None and not handover.is_there()
    greet = (lambda: on_ready(manager, url)) if is_first else None  # type: ignore[misc]
    if web is not None and isinstance(manager, PoolManager) and not manager.status_listen:
        manager.status_listen = web.status_socket()
    hosting = Hosting(manager, application, greet, is_outdated)
    for part in (hosting, *parts):
        manager._attend(part)
    if watch:
        hosting.show_at_once()  # who edits reads it, and the pool goes on after a mistake
        manager._attend(Watch(manager))
    if manager.n_processes == 0:
        application.load()
        manager._say_where()
    try:
        WSGIServer(application, manager=manager, **(limits or {})).run()
    except SystemExit as stop:
        if stop.code == exits.USAGE and manager.role is Role.MANAGER and hosting.refusal is not None:
            raise BootError(hosting.refusal) from None
        raise
    finally:
        if web is not None and manager.role is Role.MANAGER:
            web.discard()
    return exits.OK


def make_manager(base: type[ProcManager], settings: dict[str, Any]) -> ProcManager:
    try:
        return base(**settings)
    except ProcManagerError:
        raise
    except Exception as error:
        given = ", ".join(settings)
        raise ConfigError(f"{base.__module__}:{base.__name__} cannot be made with {given}: {story(error)}") from None


def _open_web(manager: ProcManager, place: Place) -> Web | None:
    """Bind what is to be bound. The web address first, since it is the likelier to be in use."""
    if place.web is None:
        listen(manager, place, "--listen ADDRESS or --web HOST:PORT")
        return None
    web = Web(manager, place.web, place.web_listener)
    if not (place.addresses or place.listeners):
        place.addresses.append(web.private_socket())
    web.target = listen(manager, place, "--listen ADDRESS")
    manager._attend(web)
    return web


def listen(manager: ProcManager, place: Place, options: str) -> Listener:
    """The first of the sockets that the manager now listens on. options: which of them name one."""
    if place.listeners:
        manager._add_listeners(place.listeners)
        return manager.listeners[0]
    if place.addresses:
        for address in place.addresses:
            manager.listen(address, **place.how)
        return manager.listeners[0]
    try:
        return manager.listen()
    except ListenError:
        raise ListenError(
            f"there is no address to serve on: give {options}, or let systemd, a superdaemon or a FastCGI spawner start this"
        ) from None
