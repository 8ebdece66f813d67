"""The environment of a WSGI application, from the parameters of a FastCGI request, as PEP 3333 wants it.

Runs in a worker, once a request: every line of it is paid for by each of them. Does no input or output.
"""

from __future__ import annotations

import sys
from typing import Any
from urllib.parse import unquote_to_bytes

from .request import Request
from .response import FileWrapper

# What PEP 3333 requires and a broken web server may leave out.
_REQUIRED = {
    "REQUEST_METHOD": "GET",
    "SERVER_NAME": "localhost",
    "SERVER_PORT": "80",
    "SERVER_PROTOCOL": "HTTP/1.0",
}
_METHOD, _NAME, _PORT, _PROTOCOL = _REQUIRED


def common_environ(added: dict[str, Any], multithread: bool, multiprocess: bool) -> dict[str, Any]:
    """What is the same for every request of a server."""
    return {
        **added,
        "wsgi.version": (1, 0),
        "wsgi.errors": sys.stderr,
        "wsgi.url_scheme": "http",
        "wsgi.multithread": multithread,
        "wsgi.multiprocess": multiprocess,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
        "wsgi.file_wrapper": FileWrapper,
    }


def environ_of(request: Request, common: dict[str, Any]) -> dict[str, Any]:
    """The environment of one request: its own parameters, completed."""
    environ: dict[str, Any] = request.params
    environ.update(common)
    environ["wsgi.input"] = request.stdin
    if "HTTPS" in environ and environ["HTTPS"].lower() in ("on", "1"):
        environ["wsgi.url_scheme"] = "https"
    # Web servers send these two headers twice, the second time under names that PEP 3333 forbids.
    environ.pop("HTTP_CONTENT_TYPE", None)
    environ.pop("HTTP_CONTENT_LENGTH", None)
    # The web server has undone the chunks. An application that is told of them would do it a second time.
    environ.pop("HTTP_TRANSFER_ENCODING", None)
    if not environ.get("PATH_INFO") or "QUERY_STRING" not in environ or "SCRIPT_NAME" not in environ:
        _complete_path(environ)
    if _METHOD not in environ or _NAME not in environ or _PORT not in environ or _PROTOCOL not in environ:
        environ.update({**_REQUIRED, **environ})
    return environ


def _complete_path(environ: dict[str, Any]) -> None:
    """SCRIPT_NAME, PATH_INFO and QUERY_STRING for a web server that does not send them, from REQUEST_URI."""
    path, _, query = environ.get("REQUEST_URI", "").partition("?")
    script = environ.setdefault("SCRIPT_NAME", "")
    if not environ.get("PATH_INFO"):
        environ["PATH_INFO"] = "" if path == script else _path_info(path, script)
    if query and not environ.get("QUERY_STRING"):
        environ["QUERY_STRING"] = query
    else:
        environ.setdefault("QUERY_STRING", "")


def _path_info(path: str, script: str) -> str:
    decoded = unquote_to_bytes(path.encode("latin-1")).decode("latin-1") if "%" in path else path
    inside = decoded.startswith(script) and decoded[len(script) : len(script) + 1] in ("", "/")
    return decoded[len(script) :] if inside else decoded
