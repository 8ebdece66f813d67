"""What a CGI script finds, for a loop that prints its reply: standard input, standard output and the environment are the request's.

Runs in a worker, in its main thread. Must never be left in place after a request: what is printed then is for the log.

Source: FCGI.pm 0.82, `FCGI::Request()` with its default handles, and CGI::Fast.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Buffer, Mapping  # type: ignore[attr-defined]

    from .output import Output
    from .request import Request

# A client's header `Proxy` comes under this name, and whatever the script calls would send its own requests there.
_NOT_TRUSTED = "HTTP_PROXY"


class Cgi:
    """Of one loop."""

    def __init__(self) -> None:
        self._before: tuple[TextIO, TextIO] | None = None
        self._given: tuple[io.TextIOWrapper, io.TextIOWrapper] | None = None
        self._environment: dict[bytes, bytes | None] = {}  # what it was before, of what has been changed

    def give(self, request: Request) -> None:
        """Before the script has the request."""
        self._before = sys.stdin, sys.stdout
        printed: Any = _Printed(request.stdout)
        # Bytes that are no UTF-8 come through unchanged, both ways.
        self._given = (
            io.TextIOWrapper(request.stdin, "utf-8", "surrogateescape", newline=""),
            io.TextIOWrapper(printed, "utf-8", "surrogateescape", newline="", write_through=True),
        )
        sys.stdin, sys.stdout = self._given
        self._set_environment(request.params)

    def take_back(self) -> None:
        """When the request is finished. May be called twice. A stream that the script has put in place itself stays."""
        if self._before is None or self._given is None:
            return
        if sys.stdin is self._given[0]:
            sys.stdin = self._before[0]
        if sys.stdout is self._given[1]:
            sys.stdout = self._before[1]
        for stream in self._given:
            with contextlib.suppress(ValueError):  # the script has closed it
                stream.detach()  # else it would close the streams of the request when it is dropped
        self._before = self._given = None
        for name, value in self._environment.items():
            if value is not None:
                os.environb[name] = value
            else:
                os.environb.pop(name, None)
        self._environment.clear()

    def _set_environment(self, params: Mapping[str, str]) -> None:
        for text, value in params.items():
            name = text.encode("latin-1")
            # What an environment cannot hold is left out: it is a peer's, and no reason to fail.
            if not name or b"=" in name or "\0" in text or "\0" in value or text == _NOT_TRUSTED:
                continue
            self._environment[name] = os.environb.get(name)
            os.environb[name] = value.encode("latin-1")


class _Printed(io.RawIOBase):
    """Standard output, on its way into the reply."""

    def __init__(self, reply: Output) -> None:
        self._reply = reply

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer) -> int:
        return self._reply.write(bytes(data))

    def flush(self) -> None:
        if not self._reply.closed:
            self._reply.flush()
