"""The status of the pool for web servers, by FastCGI, answered by the manager itself: `/status`, `/metrics`, `/ping`.

Runs in the manager. Whoever reaches this address sees which requests are in hand: what a web server publishes of it is its
operator's decision. The last part of a path decides, so it may be published below any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Callable, NamedTuple

from ..errors import ConfigError
from ..fastcgi import protocol
from .answers import Answers, Conversation

if TYPE_CHECKING:
    from .census import Census

_PLAIN = (
    ("Content-Type", "text/plain; charset=utf-8"),
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
)


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


class _Reply(NamedTuple):
    status: str
    headers: Iterable[tuple[str, str]]
    body: bytes


def respond(census: Census, params: Mapping[str, str]) -> bytes:
    """A whole CGI reply."""
    method = params.get("REQUEST_METHOD", "GET")
    reply = _reply(census, params, method)
    lines = [f"Status: {reply.status}", *(f"{name}: {value}" for name, value in reply.headers)]
    head = "\r\n".join([*lines, f"Content-Length: {len(reply.body)}", "", ""])
    return head.encode("latin-1") + (b"" if method == "HEAD" else reply.body)


def _reply(census: Census, params: Mapping[str, str], method: str) -> _Reply:
    path = (
        params.get("SCRIPT_NAME", "") + params.get("PATH_INFO", "") or params.get("REQUEST_URI", "").partition("?")[0]
    )
    answer = _ANSWERS.get(path.rstrip("/").rpartition("/")[2])
    if method not in ("GET", "HEAD"):
        return _Reply("405 Method Not Allowed", (*_PLAIN, ("Allow", "GET, HEAD")), b"GET is all that there is here\n")
    if answer is None:
        return _Reply("404 Not Found", _PLAIN, b"there is /status, /metrics and /ping\n")
    try:
        return answer(census, set(params.get("QUERY_STRING", "").replace(";", "&").split("&")))
    except ConfigError as error:  # a library that is not installed
        return _Reply("501 Not Implemented", _PLAIN, f"{error}\n".encode())


# What makes the forms is loaded when somebody asks for one: not before the first workers are forked, which would have it too.


def _status(census: Census, words: set[str]) -> _Reply:
    found = census.take("full" in words)
    if "json" in words:
        from ..status import jsonform

        return _Reply(
            "200 OK", (("Content-Type", jsonform.CONTENT_TYPE), *_PLAIN[1:]), jsonform.render(found, "full" in words)
        )
    from ..status import page

    return _Reply("200 OK", page.HEADERS, page.render(found))


def _metrics(census: Census, words: set[str]) -> _Reply:
    from ..status import metrics

    return _Reply(
        "200 OK", (("Content-Type", metrics.CONTENT_TYPE), *_PLAIN[1:]), metrics.render([census.take("full" in words)])
    )


def _ping(census: Census, words: set[str]) -> _Reply:
    from ..status.verdict import verdict

    judged = verdict(census.take())
    answer = "pong" if judged.http_status.startswith("200") else str(judged)
    return _Reply(judged.http_status, _PLAIN, f"{answer}\n".encode())


_ANSWERS: dict[str, Callable[[Census, set[str]], _Reply]] = {"status": _status, "metrics": _metrics, "ping": _ping}
