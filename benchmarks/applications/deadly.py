"""The application of wsgi.py, and one address that kills the process that answers it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from typing import Any, Callable

import wsgi


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/deadly":
        os.kill(os.getpid(), signal.SIGSEGV)  # what a defect in a C library does
    return wsgi.app(environ, start_response)
