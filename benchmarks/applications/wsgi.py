"""The application that every Python server under measurement runs. The other languages do the same.

The query string is the size of the reply. A body is read to its end, and a reply of 12 bytes says how long it was.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Callable

REPLIES = {str(size): b"x" * size for size in (10240, 1048576)}


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    received = 0
    length = int(environ.get("CONTENT_LENGTH") or 0)
    while received < length:
        chunk = environ["wsgi.input"].read(min(65536, length - received))
        if not chunk:
            break
        received += len(chunk)
    size = environ["QUERY_STRING"]
    body = b"%012d" % received if size == "12" else REPLIES[size]
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", size)])
    return [body]
