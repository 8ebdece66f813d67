"""The parser, without a socket: every legal stream is understood however it is cut, every illegal one is refused."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fcgi_procmanager.errors import ProtocolError
from fcgi_procmanager.fastcgi import protocol
from fcgi_procmanager.fastcgi.protocol import Parser
from harness import fcgi

CAPABILITY = {"FCGI_MAX_CONNS": "2", "FCGI_MAX_REQS": "2", "FCGI_MPXS_CONNS": "0"}
EVERY_ROLE = (protocol.RESPONDER, protocol.AUTHORIZER, protocol.FILTER)
BODY = bytes(range(256)) * 3
HELD = (1 << 16) + 255 + 8  # the longest record there can be: what may wait for its rest

PAIRS = {"REQUEST_METHOD": "POST", "EMPTY": "", "LONG": "v" * 300, "N" * 200: "name", "BYTES": "\xe9\xff"}
ENCODED = fcgi.encode_params({name: value.encode("latin-1") for name, value in PAIRS.items()})

slow = settings(max_examples=60, deadline=None)


class Peer:
    """A parser and what an application would have taken from it, request after request."""

    def __init__(self, roles: Iterable[int] = EVERY_ROLE) -> None:
        self.parser = Parser(tuple(roles), CAPABILITY)
        self.requests: list[tuple[Any, ...]] = []
        self.answers: list[fcgi.Record] = []
        self._body = b""
        self._data = b""
        self._head: tuple[Any, ...] = ()

    def feed(self, data: bytes) -> Peer:
        self.parser.feed(data)
        while self._settle():
            self.parser.next_request()
            self.parser.resume()
        return self

    def receive(self, data: bytes) -> Peer:
        """As `feed`, but what the parser expects of a body is not shown to it."""
        for kind in (protocol.STDIN, protocol.DATA):
            expected = data[: self.parser.content_due(kind)]
            if expected:
                self.parser.received_elsewhere(len(expected))
                if kind == protocol.STDIN:
                    self._body += expected
                else:
                    self._data += expected
                data = data[len(expected) :]
        return self.feed(data)

    def _settle(self) -> bool:
        """Take all there is. True when the open request has come to its end."""
        parser = self.parser
        self.answers += fcgi.split_records(parser.unsent)
        parser.unsent = b""
        if parser.head is None:
            return False
        self._head = (parser.request_id, parser.role, parser.keep, parser.head)
        self._body += b"".join(parser.stdin)
        self._data += b"".join(parser.data)
        parser.stdin.clear()
        parser.data.clear()
        if not (parser.stdin_ended and (parser.role != protocol.FILTER or parser.data_ended)) and not parser.aborted:
            return False
        self.requests.append((*self._head, self._body, self._data, parser.aborted))
        self._body = self._data = b""
        return True


def request(
    id: int = 1, body: bytes = BODY, role: int = 1, keep: bool = True, padding: int = 0, chunk: int = 100
) -> bytes:
    parts = [
        fcgi.record(fcgi.BEGIN_REQUEST, id, struct.pack("!HB5x", role, int(keep)), padding),
        fcgi.params_records({name: value.encode("latin-1") for name, value in PAIRS.items()}, id, (7, 90), padding),
        fcgi.stdin_records(body, id, chunk, padding),
    ]
    if role == protocol.FILTER:
        parts.append(fcgi.data_records(b"file" * 50, id, 33, padding))
    return b"".join(parts)


def fed(*pieces: bytes) -> Peer:
    peer = Peer()
    for piece in pieces:
        peer.feed(piece)
    return peer


def answered(*pieces: bytes) -> list[tuple[int, int, bytes]]:
    return [(answer.type, answer.id, answer.content) for answer in fed(*pieces).answers]


def end(id: int, status: int) -> tuple[int, int, bytes]:
    return (fcgi.END_REQUEST, id, struct.pack("!IB3x", 0, status))


# What comes out is the same however it is cut


WHOLE = (1, 1, True, PAIRS, BODY, b"", False)


@pytest.mark.parametrize("padding", [0, 1, 255])
def test_split_at_every_offset(padding: int) -> None:
    stream = request(padding=padding)
    for at in range(len(stream) + 1):
        assert fed(stream[:at], stream[at:]).requests == [WHOLE], at


@pytest.mark.parametrize("padding", [0, 7])
def test_byte_by_byte(padding: int) -> None:
    stream = request(padding=padding) + request(2, b"", padding=padding)
    peer = fed(*(stream[at : at + 1] for at in range(len(stream))))
    assert peer.requests == [WHOLE, (2, 1, True, PAIRS, b"", b"", False)]
    assert not peer.answers


def test_params_split_at_every_offset() -> None:
    for at in range(1, len(ENCODED)):
        stream = fcgi.begin() + fcgi.params_records(PAIRS_AS_BYTES, split=[at]) + fcgi.stdin_records()
        assert fed(stream).requests[0][3] == PAIRS, at


PAIRS_AS_BYTES = {name: value.encode("latin-1") for name, value in PAIRS.items()}


def test_params_in_records_of_one_byte() -> None:
    stream = fcgi.begin() + fcgi.params_records(PAIRS_AS_BYTES, split=range(1, len(ENCODED))) + fcgi.stdin_records()
    assert fed(stream).requests[0][3] == PAIRS


def test_lengths_of_four_bytes_for_short_values() -> None:
    pair = struct.pack("!II", 3 | 1 << 31, 2 | 1 << 31) + b"key" + b"ok"
    stream = fcgi.begin() + fcgi.record(fcgi.PARAMS, 1, pair) + fcgi.record(fcgi.PARAMS, 1) + fcgi.stdin_records()
    assert fed(stream).requests[0][3] == {"key": "ok"}


def test_no_parameters_at_all() -> None:
    assert fed(fcgi.begin() + fcgi.params_records({}) + fcgi.stdin_records()).requests[0][3] == {}


def test_a_name_given_twice_has_its_last_value() -> None:
    stream = fcgi.begin() + fcgi.params_records([("A", "1"), ("A", "2")]) + fcgi.stdin_records()
    assert fed(stream).requests[0][3] == {"A": "2"}


@pytest.mark.parametrize("size", [0, 1, 65534, 65535, 65536, 200_000])
def test_body_sizes(size: int) -> None:
    body = b"b" * size
    assert fed(request(body=body, chunk=65535)).requests[0][4] == body


def test_filter_gets_its_file() -> None:
    stream = request(role=protocol.FILTER)
    for at in range(0, len(stream), 5):
        assert fed(stream[:at], stream[at:]).requests == [(1, 3, True, PAIRS, BODY, b"file" * 50, False)]


def test_body_is_available_before_its_end() -> None:
    parser = Parser()
    parser.feed(fcgi.begin() + fcgi.params_records({}) + fcgi.stdin_records(b"first", end=False))
    assert parser.head == {}
    assert list(parser.stdin) == [b"first"]
    assert not parser.stdin_ended
    assert not parser.input_complete
    parser.feed(fcgi.record(fcgi.STDIN, 1))
    assert parser.stdin_ended
    assert parser.input_complete


# Several requests


def test_pipelined_requests_in_order() -> None:
    stream = b"".join(request(number, b"%d" % number) for number in range(1, 50))
    for size in (1, 7, 4096, len(stream)):
        pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
        assert [one[4] for one in fed(*pieces).requests] == [b"%d" % number for number in range(1, 50)]


def test_the_next_request_waits_until_it_is_wanted() -> None:
    parser = Parser()
    parser.feed(request(1, b"one") + request(2, b"two"))
    assert parser.request_id == 1
    assert b"".join(parser.stdin) == b"one"
    assert not parser.input_complete  # the second is behind it
    parser.next_request()
    assert parser.head is None
    assert parser.spoken
    parser.resume()
    assert parser.request_id == 2
    assert b"".join(parser.stdin) == b"two"
    assert parser.input_complete


def test_an_unread_body_is_not_mixed_with_the_next_one() -> None:
    parser = Parser()
    first, second = request(1, b"x" * 5000), request(1, b"y" * 50)
    parser.feed(first[:3000])
    assert parser.head is not None
    parser.next_request()  # answered without reading the body
    parser.feed(first[3000:] + second)
    assert b"".join(parser.stdin) == b"y" * 50
    assert parser.stdin_ended


def test_another_request_while_one_is_open() -> None:
    stream = request(1)
    other = request(2, b"other")
    for at in (0, 1, 2, 5):  # after so many records of the first
        records = fcgi.split_records(stream)
        head = b"".join(fcgi.record(*record[:3]) for record in records[: at + 1])
        tail = b"".join(fcgi.record(*record[:3]) for record in records[at + 1 :])
        peer = fed(head, other, tail)
        assert peer.requests == [WHOLE]
        assert [(answer.type, answer.id, answer.content) for answer in peer.answers] == [end(2, fcgi.CANT_MPX_CONN)]


def test_records_of_unknown_requests_are_dropped() -> None:
    stray = b"".join(fcgi.record(kind, 9, b"stray") for kind in (*range(2, 9), 42))
    records = [fcgi.record(*record[:3]) for record in fcgi.split_records(request())]
    peer = fed(stray + stray.join(records) + stray)
    assert peer.requests == [WHOLE]
    assert not peer.answers


# Roles


@pytest.mark.parametrize("role", [0, 2, 3, 4, 65535])
@pytest.mark.parametrize("keep", [False, True])
def test_role_not_wanted(role: int, keep: bool) -> None:
    peer = Peer(roles=[protocol.RESPONDER]).feed(request(5, role=role, keep=keep))
    assert [(answer.type, answer.id, answer.content) for answer in peer.answers] == [end(5, fcgi.UNKNOWN_ROLE)]
    assert not peer.requests
    assert peer.parser.close_after is not keep
    if keep:
        assert peer.feed(request()).requests == [WHOLE]


# Management records


def test_get_values() -> None:
    (answer,) = fed(fcgi.get_values(["FCGI_MPXS_CONNS", "FCGI_MAX_CONNS", "SOMETHING"])).answers
    assert (answer.type, answer.id) == (fcgi.GET_VALUES_RESULT, 0)
    assert sorted(fcgi.decode_params(answer.content)) == [(b"FCGI_MAX_CONNS", b"2"), (b"FCGI_MPXS_CONNS", b"0")]
    assert answered(fcgi.get_values([])) == [(fcgi.GET_VALUES_RESULT, 0, b"")]


def test_get_values_in_the_middle_of_a_request() -> None:
    records = [fcgi.record(*record[:3]) for record in fcgi.split_records(request())]
    peer = fed(fcgi.get_values(["FCGI_MAX_REQS"]).join(records))
    assert peer.requests == [WHOLE]
    assert len(peer.answers) == len(records) - 1


@pytest.mark.parametrize("kind", [0, 1 + fcgi.UNKNOWN_TYPE, 100, 255, fcgi.STDIN, fcgi.PARAMS, fcgi.GET_VALUES_RESULT])
def test_unknown_management_record(kind: int) -> None:
    assert answered(fcgi.record(kind, 0, b"what")) == [(fcgi.UNKNOWN_TYPE, 0, bytes([kind]) + bytes(7))]


# Abort


@pytest.mark.parametrize("keep", [False, True])
def test_abort_before_the_head(keep: bool) -> None:
    peer = fed(fcgi.begin(3, flags=int(keep)) + fcgi.params_records({"A": "1"}, 3, end=False) + fcgi.abort(3))
    assert [(answer.type, answer.id, answer.content) for answer in peer.answers] == [end(3, fcgi.REQUEST_COMPLETE)]
    assert peer.parser.head is None
    assert peer.parser.close_after is not keep
    if keep:
        assert peer.feed(request()).requests == [WHOLE]


def test_abort_after_the_head_is_told_to_the_application() -> None:
    peer = fed(fcgi.begin(3, flags=1) + fcgi.params_records({"A": "1"}, 3) + fcgi.abort(3))
    assert peer.requests == [(3, 1, True, {"A": "1"}, b"", b"", True)]
    assert not peer.answers  # the request itself answers
    assert peer.feed(request()).requests[1:] == [WHOLE]


def test_abort_of_another_request_changes_nothing() -> None:
    peer = fed(fcgi.begin(1, flags=1), fcgi.abort(2), request()[len(fcgi.begin()) :], fcgi.abort(1))
    assert peer.requests == [WHOLE]
    assert not peer.answers


# Illegal streams


def feed_all(parser: Parser, pieces: Iterable[bytes]) -> None:
    for piece in pieces:
        parser.feed(piece)


def _pair(claimed: int) -> bytes:
    return struct.pack("!BI", 1, claimed | 1 << 31) + b"n"


ILLEGAL = {
    "version": b"\x02" + fcgi.begin()[1:],
    "version 0": bytes(8),
    "garbage": b"GET / HTTP/1.1\r\n\r\n",
    "truncated value": fcgi.begin() + fcgi.record(fcgi.PARAMS, 1, b"\x01\x05nv") + fcgi.record(fcgi.PARAMS, 1),
    "truncated length": fcgi.begin() + fcgi.record(fcgi.PARAMS, 1, b"\x80\x00") + fcgi.record(fcgi.PARAMS, 1),
    "no second length": fcgi.begin() + fcgi.record(fcgi.PARAMS, 1, b"\x01") + fcgi.record(fcgi.PARAMS, 1),
    "second length cut": fcgi.begin() + fcgi.record(fcgi.PARAMS, 1, b"\x01\x80\0\0") + fcgi.record(fcgi.PARAMS, 1),
    "2 GB value": fcgi.begin() + fcgi.record(fcgi.PARAMS, 1, _pair((1 << 31) - 1)) + fcgi.record(fcgi.PARAMS, 1),
    "begin with id 0": fcgi.begin(0),
    "short begin": fcgi.record(fcgi.BEGIN_REQUEST, 1, b"\0\1"),
    "long begin": fcgi.record(fcgi.BEGIN_REQUEST, 1, b"\0\1" + bytes(7)),
    "begun twice": fcgi.begin() + fcgi.begin(),
    "begun again in its body": fcgi.begin()
    + fcgi.params_records({})
    + fcgi.stdin_records(b"x", end=False)
    + fcgi.begin(),
    "body before params": fcgi.begin() + fcgi.stdin_records(b"x"),
    "body inside params": fcgi.begin() + fcgi.params_records({"A": "1"}, end=False) + fcgi.record(fcgi.STDIN, 1),
    "data before params": fcgi.begin(role=3) + fcgi.data_records(b"x"),
    "params after params": fcgi.begin() + fcgi.params_records({}) + fcgi.params_records({"A": "1"}),
    "oversize params": fcgi.begin() + fcgi.params_records({"A": "x" * (protocol.MAX_PARAMS + 1)}),
    "broken GET_VALUES": fcgi.record(fcgi.GET_VALUES, 0, b"\x05\x00ab"),
    "flood of GET_VALUES": fcgi.get_values() * 2000,
    "flood of unknown types": fcgi.record(99, 0) * 8000,
    "flood of other requests": fcgi.begin(1) + b"".join(fcgi.begin(2) for _ in range(8000)),
}


@pytest.mark.parametrize("name", ILLEGAL)
def test_illegal_streams_are_refused(name: str) -> None:
    parser = Parser(EVERY_ROLE, CAPABILITY)
    with pytest.raises(ProtocolError):
        parser.feed(ILLEGAL[name])


@pytest.mark.parametrize("name", [name for name in ILLEGAL if len(ILLEGAL[name]) < 100])
def test_illegal_streams_are_refused_byte_by_byte(name: str) -> None:
    parser = Parser(EVERY_ROLE, CAPABILITY)
    with pytest.raises(ProtocolError):
        feed_all(parser, [ILLEGAL[name][at : at + 1] for at in range(len(ILLEGAL[name]))])


def test_params_up_to_the_limit_are_taken() -> None:
    value = "x" * (protocol.MAX_PARAMS - 6)  # and two lengths, and the name
    assert fed(fcgi.begin() + fcgi.params_records({"A": value}) + fcgi.stdin_records()).requests[0][3] == {"A": value}


def test_params_without_end_are_cut_early() -> None:
    """The limit holds while they come, not when they have all come."""
    parser = Parser()
    parser.feed(fcgi.begin())
    piece = fcgi.record(fcgi.PARAMS, 1, b"x" * 60000)
    with pytest.raises(ProtocolError):
        feed_all(parser, [piece] * (protocol.MAX_PARAMS // 60000 + 1))


# Everything else that somebody may send


def held(parser: Parser) -> int:
    """Bytes that the parser keeps, but for the body, which its reader asked for."""
    return len(parser._buffer) + sum(map(len, parser._params)) + len(parser.unsent)


def survive(pieces: Iterable[bytes]) -> None:
    parser = Parser(EVERY_ROLE, CAPABILITY)
    try:
        for piece in pieces:
            parser.feed(piece)
            assert held(parser) <= HELD + protocol.MAX_PARAMS + protocol.MAX_UNSENT + len(piece)
            parser.unsent = b""
            parser.stdin.clear()
            parser.data.clear()
            if parser.input_complete or parser.aborted:
                parser.next_request()
                parser.resume()
    except ProtocolError:
        pass


@slow
@given(st.lists(st.binary(max_size=400), max_size=20))
def test_random_bytes(pieces: list[bytes]) -> None:
    survive(pieces)


@slow
@given(
    st.lists(
        st.builds(
            fcgi.record,
            st.integers(0, 13),
            st.integers(0, 3),
            st.one_of(st.binary(max_size=40), st.just(struct.pack("!HB5x", 1, 1)), st.just(ENCODED), st.just(b"")),
            st.integers(0, 255),
        ),
        max_size=40,
    )
)
def test_random_records(records: list[bytes]) -> None:
    survive(records)
    survive([b"".join(records)])


@slow
@given(st.data())
def test_mutated_streams(data: st.DataObject) -> None:
    stream = bytearray(request() + fcgi.get_values() + request(2, role=3) + fcgi.abort(2))
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(stream) - 1))
        change = data.draw(st.sampled_from(["set", "delete", "insert", "repeat"]))
        if change == "set":
            stream[at] = data.draw(st.integers(0, 255))
        elif change == "delete":
            del stream[at : at + data.draw(st.integers(1, 20))]
        elif change == "insert":
            stream[at:at] = data.draw(st.binary(min_size=1, max_size=20))
        else:
            stream[at:at] = stream[at : at + 200]
        stream = stream or bytearray(1)
    cut = data.draw(st.integers(0, len(stream)))
    survive([bytes(stream[:cut]), bytes(stream[cut:])])


SEVERAL = request(padding=3) + fcgi.get_values() + request(7, b"", role=2) + request(9, role=3) + request(1, b"z" * 999)


@slow
@given(st.lists(st.integers(0, len(SEVERAL)), max_size=30))
def test_random_splits_change_nothing(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(SEVERAL)]
    peer = fed(*(SEVERAL[start:stop] for start, stop in zip(edges, edges[1:])))
    whole = fed(SEVERAL)
    assert (peer.requests, peer.answers) == (whole.requests, whole.answers)
    assert [one[0] for one in whole.requests] == [1, 7, 9, 1]


@slow
@given(st.lists(st.tuples(st.integers(0, len(SEVERAL)), st.booleans()), max_size=30))
def test_bodies_that_go_past_the_parser(cuts: list[tuple[int, bool]]) -> None:
    """A part of a body may be received by somebody else, at any moment at which the parser expects it."""
    peer, edges = Peer(), [(0, False), *sorted(cuts), (len(SEVERAL), False)]
    for (start, past), (stop, _) in zip(edges, edges[1:]):
        (peer.receive if past else peer.feed)(SEVERAL[start:stop])
    whole = fed(SEVERAL)
    assert (peer.requests, peer.answers) == (whole.requests, whole.answers)


@pytest.mark.parametrize("role", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("body", [b"", b"x", b"abc" * 3000, b"y" * 65535, b"z" * 65536])
def test_an_opening_is_what_the_parser_finds(body: bytes, padding: int, role: int) -> None:
    """However much of a request has come, and whatever follows it: the short way and the long one agree."""
    stream = fcgi.request_bytes({"A": "1"}, body, 7, role=role, padding=padding)
    for stop in {24, 40, 200, len(stream) - 8 - padding, len(stream) - 1, len(stream)}:
        for behind in (b"", fcgi.begin(8)):
            received = stream[:stop] + (behind if stop == len(stream) else b"")
            parser = Parser(EVERY_ROLE)
            parser.feed(received)
            found = protocol.opening(received, EVERY_ROLE)
            if found is None:
                continue
            assert (found.params, found.request_id, found.role, found.keep) == (parser.head, 7, role, False)
            if found.body is not None:
                assert parser.input_complete
                assert found.body == b"".join(parser.stdin)
            else:
                second = Parser(EVERY_ROLE)
                second.open(found)
                assert b"".join(second.stdin) == b"".join(parser.stdin)
                assert second.input_complete == parser.input_complete
    if role == protocol.RESPONDER and len(body) <= protocol.MAX_CONTENT:
        found = protocol.opening(stream, EVERY_ROLE)
        assert found is not None
        assert found.body is not None, "such a request needs no parser"


def test_a_file_that_nobody_asked_for_is_dropped() -> None:
    parser = Parser(EVERY_ROLE)
    parser.feed(fcgi.begin() + fcgi.params_records({}))
    for _ in range(100):
        parser.feed(fcgi.record(fcgi.DATA, 1, b"d" * 60_000))
        parser.feed(fcgi.record(fcgi.DATA, 1, b"d" * 60_000)[:5000])
        parser.feed(fcgi.record(fcgi.DATA, 1, b"d" * 60_000)[5000:])
    assert not parser.data
    parser.feed(fcgi.record(fcgi.STDIN, 1, b"body") + fcgi.record(fcgi.STDIN, 1))
    assert (list(parser.stdin), parser.input_complete) == ([b"body"], True)


@pytest.mark.parametrize("cut", [8, 100, 60_008])
def test_a_file_before_the_end_of_the_body_is_bounded(cut: int) -> None:
    parser = Parser(EVERY_ROLE)
    parser.feed(fcgi.begin(role=fcgi.FILTER) + fcgi.params_records({}))
    record = fcgi.record(fcgi.DATA, 1, b"d" * 60_000)

    def much() -> None:
        for _ in range(100):
            parser.feed(record[:cut])
            parser.feed(record[cut:])

    with pytest.raises(ProtocolError, match="before the end of the body"):
        much()
    assert sum(map(len, parser.data)) <= protocol.MAX_EARLY_DATA


def test_a_file_behind_the_body_is_not_bounded() -> None:
    parser = Parser(EVERY_ROLE)
    parser.feed(fcgi.begin(role=fcgi.FILTER) + fcgi.params_records({}) + fcgi.record(fcgi.STDIN, 1))
    for _ in range(100):
        parser.feed(fcgi.record(fcgi.DATA, 1, b"d" * 60_000, 3))
        parser.data.clear()


def test_an_authorizer_without_a_body_and_the_next_request_behind_it() -> None:
    parser = Parser(EVERY_ROLE)
    parser.feed(fcgi.request_bytes(role=fcgi.AUTHORIZER, keep=True) + fcgi.request_bytes(id=2, keep=True))
    assert (parser.request_id, parser.role, parser.unsent) == (1, fcgi.AUTHORIZER, b"")
    parser.next_request()
    parser.resume()
    assert (parser.request_id, parser.role, parser.input_complete) == (2, fcgi.RESPONDER, True)


@pytest.mark.parametrize("padding", [0, 7])
def test_a_body_is_passed_on_as_it_comes(padding: int) -> None:
    parser = Parser()
    parser.feed(fcgi.begin() + fcgi.params_records({}))
    record = fcgi.record(fcgi.STDIN, 1, b"0123456789", padding)
    parser.feed(record[:12])
    assert list(parser.stdin) == [b"0123"]
    assert (parser.content_due(protocol.STDIN), parser.content_due(protocol.DATA)) == (6, 0)
    assert parser.up_to_next_content == padding + 8
    parser.feed(record[12:])
    assert list(parser.stdin) == [b"0123", b"456789"]
    assert parser.content_due(protocol.STDIN) == 0
    parser.feed(fcgi.record(fcgi.STDIN, 1))
    assert parser.input_complete


def test_the_rest_of_a_body_that_nobody_wants_is_dropped() -> None:
    parser = Parser()
    parser.feed(
        fcgi.begin(flags=fcgi.KEEP_CONN) + fcgi.params_records({}) + fcgi.record(fcgi.STDIN, 1, b"abc" * 9, 5)[:20]
    )
    parser.next_request()
    assert parser.spoken
    assert parser.content_due(protocol.STDIN) == 0
    parser.feed(fcgi.record(fcgi.STDIN, 1, b"abc" * 9, 5)[20:] + fcgi.record(fcgi.STDIN, 1))
    assert not parser.stdin
    assert not parser.spoken
    parser.feed(request(2))
    assert parser.request_id == 2


@pytest.mark.parametrize("length", [0, 1, 65535, 65536, 65537, 200_000])
def test_stream_records(length: int) -> None:
    content = bytes(range(256)) * (length // 256 + 1)
    content = content[:length]
    records = fcgi.split_records(b"".join(protocol.stream_records(protocol.STDOUT, 3, content)))
    assert b"".join(record.content for record in records) == content
    assert all((record.type, record.id) == (fcgi.STDOUT, 3) and record.content for record in records)


@pytest.mark.parametrize("status", [0, 1, 255, (1 << 32) - 1, -1])
def test_end_request(status: int) -> None:
    (record,) = fcgi.split_records(protocol.end_request(65535, status, protocol.OVERLOADED))
    assert (record.type, record.id) == (fcgi.END_REQUEST, 65535)
    assert struct.unpack("!IB3x", record.content) == (status & 0xFFFFFFFF, protocol.OVERLOADED)


def test_no_input_or_output() -> None:
    for name in ("socket", "select", "os"):
        assert not hasattr(protocol, name)
