"""The functions in C beside those of Python: the same for the same bytes, or nothing where Python is to do it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import Any, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fcgi_procmanager.basics import accelerator
from fcgi_procmanager.errors import ProtocolError
from fcgi_procmanager.fastcgi import protocol, response
from fcgi_procmanager.fastcgi.connection import Connection, Limits
from harness import fcgi

accelerated = pytest.importorskip("fcgi_procmanager.basics._accelerator", reason="the accelerator is not built")
reference = accelerator.reference
often = settings(max_examples=int(os.environ.get("FCGI_PROCMANAGER_ROUNDS", "300")), deadline=None)

LIMITS = Limits((1, 2, 3), {}, 60, 60)
ROLES = [(1,), (1, 2, 3), (), [3], {1, 2}]

byte = st.integers(0, 255)
number = st.one_of(st.sampled_from([0, 1, 2, 255, 256, 65535]), st.integers(0, 65535))
known = st.sampled_from([b"", b"REQUEST_METHOD", b"PATH_INFO", b"HTTP_COOKIE", b"HTTP_HOST", b"CONTENT_LENGTH"])
word = st.one_of(known, st.binary(max_size=20), st.sampled_from([b"x" * 127, b"y" * 128, b"z" * 300, b"\xff" * 40]))
pairs = st.lists(st.tuples(word, word), max_size=12)


def in_four_bytes(name: bytes, value: bytes) -> bytes:
    """The longer way to write short lengths."""
    return (len(name) | 1 << 31).to_bytes(4, "big") + (len(value) | 1 << 31).to_bytes(4, "big") + name + value


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Mostly a request as web servers send it; now and then each of its numbers is another one."""

    def rarely(strategy: st.SearchStrategy[Any], usual: Any) -> Any:
        return draw(strategy) if draw(st.integers(0, 19)) == 0 else usual

    request_id, role = draw(number), draw(st.sampled_from([1, 1, 1, 2, 3, 4]))
    content = b"".join(
        in_four_bytes(*pair) if draw(st.integers(0, 9)) == 0 else fcgi.encode_params([pair]) for pair in draw(pairs)
    )
    content = rarely(st.just(content[:-1]), content) + rarely(st.binary(max_size=9), b"")
    padding, body = draw(st.sampled_from([0, 0, 1, 7, 255])), draw(st.sampled_from([b"", b"", b"x", b"body" * 50]))
    stream = fcgi.begin(request_id, role, rarely(byte, 0))
    stream += fcgi.record(fcgi.PARAMS, rarely(number, request_id), content, padding)
    stream += fcgi.record(rarely(byte, fcgi.PARAMS), request_id)
    if body:
        stream += fcgi.record(fcgi.STDIN, request_id, body, padding)
    stream += rarely(st.just(b""), fcgi.record(fcgi.STDIN, rarely(number, request_id)))
    stream += rarely(st.binary(max_size=24), b"")
    for _ in range(rarely(st.integers(1, 3), 0)):
        place = draw(st.integers(0, len(stream) - 1))
        stream = stream[:place] + bytes([draw(byte)]) + stream[place + 1 :]
    return stream


@often
@given(requests(), st.sampled_from(ROLES), st.data())
def test_the_first_bytes_of_a_connection(stream: bytes, roles: Any, data: st.DataObject) -> None:
    for received in (stream, stream[: data.draw(st.integers(0, len(stream)))]):
        found, expected = accelerated.opening(received, roles), reference["opening"](received, roles)
        assert (found and tuple(found)) == (expected and tuple(expected))
        if found is not None:
            assert list(found.params) == list(expected.params), "in the same order"
            assert found[:4] == (found.params, found.request_id, found.role, found.keep)
            assert found[4:] == (found.body, found.behind)
            assert [*map(type, found)] == [*map(type, expected)]


@often
@given(st.binary(max_size=100))
def test_any_bytes(received: bytes) -> None:
    assert accelerated.opening(received, (1,)) is reference["opening"](received, (1,)) is None


def heard(opening: Callable[..., Any], pieces: list[bytes]) -> object:
    """What a connection makes of these bytes as they come, whichever function is in force."""
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol, "opening", opening)
        connection = Connection(ours, LIMITS)
        try:
            for piece in pieces:
                if piece:
                    theirs.send(piece)
                    if connection.poll():
                        break
            opened = connection.opened
            body = opened and opened.body
            if opened is not None and body is None:
                body = connection.whole_body(protocol.STDIN)
        except ProtocolError as error:
            return str(error)
        return opened and tuple(opened)[:4], body, connection.dead, connection.spoken


@often
@given(requests(), st.lists(st.integers(0, 400), max_size=3))
def test_a_connection_whole_and_split(stream: bytes, cuts: list[int]) -> None:
    for edges in ([0, len(stream)], [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]):
        pieces = [stream[start:stop] for start, stop in zip(edges, edges[1:])]
        assert heard(accelerated.opening, pieces) == heard(reference["opening"], pieces)


@pytest.mark.parametrize("length", [0, 1, 126, 127, 128, 129, 65000])
def test_pairs_at_the_edges_of_their_lengths(length: int) -> None:
    for pair in ((b"n" * length, b"v"), (b"n", b"\xe9" * length)):
        content = fcgi.encode_params([pair, (b"REQUEST_METHOD", b"GET")])
        stream = fcgi.begin() + fcgi.record(fcgi.PARAMS, 1, content) + fcgi.record(fcgi.PARAMS, 1)
        for end in (b"", fcgi.record(fcgi.STDIN, 1)):
            found = accelerated.opening(stream + end, (1,))
            assert tuple(found) == tuple(reference["opening"](stream + end, (1,)))


@often
@given(number, st.lists(st.one_of(st.binary(max_size=30), st.sampled_from([b"x" * 65535, b"y" * 65500])), max_size=4))
def test_a_reply_with_its_ends(request_id: int, parts: list[bytes]) -> None:
    assert accelerated.reply(request_id, parts) == reference["reply"](request_id, parts)


@pytest.mark.parametrize("part", [bytearray(b"x"), memoryview(b"x"), type("Bytes", (bytes,), {})(b"x"), None])
def test_what_is_no_plain_bytes_is_for_python(part: Any) -> None:
    assert accelerated.reply(1, [b"a", part]) is None


text = st.one_of(
    st.sampled_from(["Content-Length", "CONTENT-LENGTH", "5", "007", "", "a", "Location"]),
    st.text(st.characters(max_codepoint=300), max_size=12),
    st.sampled_from(["\r", "a\nb", "\0", " 5", "5 ", "-1", "1" * 18, "1" * 19, "\xb2", "\u0665", "\xe9" * 100]),
)
status = st.one_of(st.sampled_from(["200 OK", "404 ", "404", "20x OK", "\xb200 OK", "200 \xe9", "200 O\nK"]), text)


@often
@given(status, st.lists(st.tuples(text, text), max_size=4))
def test_the_head_of_a_reply(line: str, headers: list[tuple[str, str]]) -> None:
    found = accelerated.head(line, headers)
    if found is None:
        return
    checked, lines, declared = response._checked(line, headers)
    assert (found[0], found[2]) == (checked, declared)
    assert found[3] == response._joined(lines, checked)
    added = "Content-Length: 7\r\n"
    assert response._with_line(found[3], added, checked) == response._joined(lines + added, checked)


def test_a_usual_head_is_not_left_to_python() -> None:
    found = accelerated.head("200 OK", [("Content-Type", "text/html; charset=utf-8"), ("content-length", "12")])
    whole = b"Content-Type: text/html; charset=utf-8\r\ncontent-length: 12\r\nStatus: 200 OK\r\n\r\n"
    assert found == ("200 OK", "", 12, whole)


@pytest.mark.parametrize(
    "headers",
    [(("A", "b"),), [["A", "b"]], [("A", "b", "c")], [("A",)], [("A", 1)], [(b"A", "b")], None, [("A", "b")] * 65],
)
def test_an_unusual_head_is_for_python(headers: Any) -> None:
    assert accelerated.head("200 OK", headers) is None
    assert accelerated.head(200, [("A", "b")]) is None


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("opening", ("text", (1,))),
        ("opening", (b"",)),
        ("opening", (fcgi.request_bytes({"A": "1"}), 5)),
        ("reply", (1, (b"a",))),
        ("reply", (-1, [b"a"])),
        ("reply", (65536, [b"a"])),
        ("reply", (1 << 70, [b"a"])),
        ("reply", ("1", [b"a"])),
        ("reply", ()),
        ("head", ("200 OK",)),
    ],
)
def test_wrong_arguments_are_an_error(name: str, arguments: tuple[Any, ...]) -> None:
    with pytest.raises((TypeError, OverflowError)):
        getattr(accelerated, name)(*arguments)


def test_nothing_stays_of_what_a_peer_has_sent() -> None:
    """Neither the names, of which a peer can make up any number, nor what was wrong."""

    def ask(number: int) -> None:
        params = {f"HTTP_X_{number}": f"value {number}", "PATH_INFO": f"/{number}"}
        stream = fcgi.request_bytes(params, b"body")
        accelerated.opening(stream, (1,))
        accelerated.opening(stream[:-9], (1,))
        accelerated.opening(fcgi.begin() + fcgi.record(fcgi.PARAMS, 1, b"\x01\x09ab") + stream[-16:], (1,))
        accelerated.head(f"200 {number}", [("X", str(number)), ("Content-Length", str(number))])
        accelerated.head("200 OK", [("X", str(number)), ("Content-Length", "x")])
        accelerated.reply(1, [b"x" * (number % 100)])

    for number in range(100):
        ask(number)
    before = sys.getallocatedblocks()
    for number in range(5000):
        ask(number)
    assert sys.getallocatedblocks() - before < 500


PROGRAM = "from fcgi_procmanager.basics import accelerator as a; print(a.in_force, '|', a.told)"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", "False | pure Python: the accelerator is switched off by FCGI_PROCMANAGER_ACCELERATOR=0"),
        ("1", "True | the accelerator in C is in force"),
    ],
)
def test_it_can_be_switched_off(value: str, expected: str) -> None:
    env = {**os.environ, accelerator.VARIABLE: value}
    found = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, timeout=60)
    assert found.stdout.strip() == expected
