"""The head of a reply: what is remembered of the latest one never changes what is sent."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcgi_procmanager.basics import accelerator
from fcgi_procmanager.fastcgi import response
from fcgi_procmanager.fastcgi.response import Response


class Asked:
    """What a `Response` needs of a request."""

    begun = False
    framing = None

    def __init__(self, method: str = "GET") -> None:
        self.params = {"REQUEST_METHOD": method}
        self.sent = b""

    def reply(self, parts: list[bytes]) -> None:
        self.sent = b"".join(parts)


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response, "_known", ("", [], ("", "", None, b"")))
    monkeypatch.setattr(response, "_misses", 0)
    monkeypatch.setattr(response, "_TRIED", 1)
    monkeypatch.setattr(response, "head", accelerator.reference["head"])  # it leaves nothing to be remembered


def reply(status: Any, headers: Any, body: bytes = b"hello", method: str = "GET") -> bytes:
    asked = Asked(method)
    found = Response(asked)  # type: ignore[arg-type]
    found.start_response(status, headers)
    found.send([body])
    return asked.sent


value = st.sampled_from(["a", "b", "\xe9", "5"])
head = st.tuples(
    st.sampled_from(["200 OK", "404 Not Found", "204 No Content", "304 Not Modified"]),
    st.lists(st.tuples(st.sampled_from(["A", "Content-Length", "Location"]), value), max_size=2),
    st.sampled_from([b"", b"hello"]),
    st.sampled_from(["GET", "HEAD"]),
)


@given(st.lists(head, max_size=8))
def test_it_is_the_same_whatever_came_before(heads: list[tuple[str, list[tuple[str, str]], bytes, str]]) -> None:
    def answer(one: tuple[str, list[tuple[str, str]], bytes, str]) -> object:
        try:
            return reply(*one)
        except ValueError as error:
            return str(error)

    alone = []
    for one in heads:
        response._known = ("", [], ("", "", None, b""))
        alone.append(answer(one))
    assert [answer(one) for one in heads] == alone


def test_one_that_comes_again_is_known() -> None:
    headers = [("A", "1")]
    first = reply("200 OK", headers)
    assert response._known[:2] == ("200 OK", [("A", "1")])
    assert response._known[1] is not headers
    assert reply("200 OK", [("A", "1")]) == first


def test_a_list_that_is_changed_afterwards() -> None:
    headers = [("A", "1")]
    reply("200 OK", headers)
    headers.append(("B", "2"))
    assert b"B: 2" in reply("200 OK", headers)
    assert b"B: 2" not in reply("200 OK", [("A", "1")])


def test_what_could_be_changed_is_not_remembered() -> None:
    pair = ["A", "1"]
    reply("200 OK", [pair])
    pair[1] = "2"
    assert b"A: 2" in reply("200 OK", [pair])


def test_what_only_equals_it_is_not_taken_for_it() -> None:
    class Text(str):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = str.__hash__

    reply("200 OK", [("A", Text("1"))])
    assert b"A: 2" in reply("200 OK", [("A", "2")])


def test_a_large_one_is_not_kept() -> None:
    reply("200 OK", [("A", "x" * 10_000)])
    assert response._known[0] == ""


def test_what_cannot_be_sent_is_told_when_it_is_sent() -> None:
    for _ in range(3):
        found = Response(Asked())  # type: ignore[arg-type]
        found.start_response("200 OK", [("A", "\u20ac")])
        with pytest.raises(UnicodeEncodeError):
            found.send([b"hello"])


def test_an_application_that_never_repeats_itself_is_tried_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response, "_TRIED", 64)
    for number in range(63):
        reply("200 OK", [("A", str(number))])
    assert response._known[0] == ""
    reply("200 OK", [("A", "63")])
    assert response._known[1] == [("A", "63")]
