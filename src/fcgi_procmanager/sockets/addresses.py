"""Addresses to listen on, as people write them. Pure: parses and describes, and never asks the system.

Runs in any process.
"""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import dataclass
from typing import Optional, Union

from ..errors import ConfigError

AddressLike = Optional[Union[str, tuple[object, ...]]]

SUN_PATH_MAX = 107 if sys.platform == "linux" else 103  # sun_path without its final NUL

_FORMS = "give /path.sock, host:port, :port, [v6]:port, fd:N, or nothing for descriptor 0"


@dataclass(frozen=True)
class Address:
    """Where to listen: `kind` is 'unix', 'tcp' or 'fd', and only the fields of that kind mean anything."""

    kind: str
    path: str = ""
    host: str = ""
    port: int = 0
    number: int = 0

    def describe(self) -> str:
        """The address as an operator would write it; `parse_address` reads it back."""
        if self.kind == "unix":
            return self.path
        if self.kind == "fd":
            return f"fd:{self.number}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_address(value: AddressLike) -> Address:
    """The `Address` that a string, a tuple as flup takes it, or nothing at all stands for."""
    if value is None or value == "":
        return Address("fd", number=0)
    if isinstance(value, tuple):
        return _parse_tuple(value)
    if isinstance(value, str):
        return _parse_text(value)
    raise _not_understood(value)


def _parse_text(value: str) -> Address:
    if value.startswith("fd:"):
        return Address("fd", number=_parse_number(value[3:], value))
    if "/" in value or value.endswith(".sock"):
        return _unix_address(value)
    if ":" in value:
        return _parse_tcp(value)
    if value.isdigit():
        raise ConfigError(f"address {value!r} is a bare number: write ':{value}' for a port, 'fd:{value}' otherwise")
    return _unix_address(value)


def _unix_address(path: str) -> Address:
    if "\0" in path:
        raise _not_understood(path)
    length = len(os.fsencode(path))
    if length > SUN_PATH_MAX:
        raise ConfigError(f"address {path!r} is {length} bytes long, a socket path may have {SUN_PATH_MAX}: shorten it")
    return Address("unix", path=path)


def _parse_tcp(value: str) -> Address:
    host, _, port = value.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = _check_v6(host[1:-1], value)
    elif ":" in host or "[" in host or "]" in host:
        raise _not_understood(value)
    return Address("tcp", host=host, port=_check_port(_parse_number(port, value), value))


def _parse_tuple(value: tuple[object, ...]) -> Address:
    if not 2 <= len(value) <= 4:
        raise _not_understood(value)
    host, port, scope = value[0], value[1], value[3] if len(value) == 4 else 0
    if not isinstance(host, str) or not isinstance(port, int) or isinstance(port, bool):
        raise _not_understood(value)
    if scope and "%" not in host:
        host = f"{host}%{scope}"
    if ":" in host:
        _check_v6(host, value)
    return Address("tcp", host=host, port=_check_port(port, value))


def _check_v6(host: str, value: AddressLike) -> str:
    try:
        socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    except (OSError, ValueError):
        raise _not_understood(value) from None
    return host


def _check_port(port: int, value: AddressLike) -> int:
    if not 0 <= port <= 65535:
        raise ConfigError(f"address {value!r} has port {port}: a port is a number from 0 to 65535")
    return port


def _parse_number(text: str, value: AddressLike) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise _not_understood(value)
    return int(text)


def _not_understood(value: object) -> ConfigError:
    return ConfigError(f"address {value!r} is not understood: {_FORMS}")
