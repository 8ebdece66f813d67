"""The status of the pool for web servers, by FastCGI, answered by the manager itself: `/status`, `/metrics`, `/ping`.

Runs in the manager. Whoever reaches this address sees which requests are in hand: what a web server publishes of it is its
operator's decision. The last part of a path decides, so it may be published below any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Callable

from ..errors import ConfigError
from ..fastcgi import protocol
from ..status import jsonform, metrics, page
from ..status.snapshot import PoolStatus
from ..status.verdict import verdict
from .answers import Answers, Conversation

if TYPE_CHECKING:
    from .census import Census

_PLAIN = "text/plain; charset=utf-8"


class StatusPage(Answers):
    kind = "status page"  # what it leaves to the manager's next image

    def __init__(self, address: str, census: Census) -> None:
        super().__init__(address)
        self._census = census

    def converse(self) -> Conversation:
        return _Request(self._census)


class _Request(Conversation):
    def __init__(self, census: Census) -> None:
        self._census = census
        self._parser = protocol.Parser()

    def hear(self, data: bytes) -> bytes | None:
        parser = self._parser
        parser.feed(data)
        if parser.close_after:
            return parser.unsent
        if parser.head is None or not parser.stdin_ended:
            parser.stdin.clear()  # nobody wants a body
            return None
        reply = respond(self._census, parser.head)
        records = protocol.stream_records(protocol.STDOUT, parser.request_id, reply)
        end = protocol.end_of_stream(protocol.STDOUT, parser.request_id) + protocol.end_request(parser.request_id)
        return b"".join((parser.unsent, *records, end))


def respond(census: Census, params: Mapping[str, str]) -> bytes:
    """A whole CGI reply."""
    path = params.get("SCRIPT_NAME", "") + params.get("PATH_INFO", "") or params.get("REQUEST_URI", "").partition("?")[0]
    answer = _ANSWERS.get(path.rstrip("/").rpartition("/")[2])
    method = params.get("REQUEST_METHOD", "GET")
    if method not in ("GET", "HEAD"):
        status, kind, body = "405 Method Not Allowed", _PLAIN, b"GET is all that there is here\n"
    elif answer is None:
        status, kind, body = "404 Not Found", _PLAIN, b"there is /status, /metrics and /ping\n"
    else:
        words = {word for word in params.get("QUERY_STRING", "").replace(";", "&").split("&") if word}
        try:
            status, kind, body = answer(census, words)
        except ConfigError as error:  # a library that is not installed
            status, kind, body = "501 Not Implemented", _PLAIN, f"{error}\n".encode()
    head = f"Status: {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nCache-Control: no-store\r\n"
    safe = "X-Content-Type-Options: nosniff\r\nContent-Security-Policy: default-src 'none'; style-src 'unsafe-inline'\r\n\r\n"
    return (head + safe).encode() + (b"" if method == "HEAD" else body)


def _status(census: Census, words: set[str]) -> tuple[str, str, bytes]:
    found = census.take("full" in words)
    if "json" in words:
        return "200 OK", jsonform.CONTENT_TYPE, jsonform.render(found, "full" in words)
    return "200 OK", page.CONTENT_TYPE, page.render(found)


def _metrics(census: Census, words: set[str]) -> tuple[str, str, bytes]:
    return "200 OK", metrics.CONTENT_TYPE, metrics.render([census.take("full" in words)])


def _ping(census: Census, words: set[str]) -> tuple[str, str, bytes]:
    judged = verdict(census.take())
    answer = "pong" if judged.http_status.startswith("200") else str(judged)
    return judged.http_status, _PLAIN, f"{answer}\n".encode()



_ANSWERS: dict[str, Callable[[Census, set[str]], tuple[str, str, bytes]]] = {
    "status": _status,
    "metrics": _metrics,
    "ping": _ping,
}
