"""The keyword parameters that servers pass on to `FastCGI`, and those of `adopt`, for type checkers.

Never loaded at run time. The types are those of `FastCGI.__init__` and `WSGIServer.__init__`, and a test compares them.
"""

from __future__ import annotations

from typing import TypedDict


class Timeouts(TypedDict, total=False):
    """In seconds, see `FastCGI`."""

    head_timeout: float
    idle_timeout: float
    receive_timeout: float
    send_timeout: float
    drain_timeout: float


class Settings(Timeouts, total=False):
    """See `WSGIServer`."""

    body_without_length: str
    body_limit: int
