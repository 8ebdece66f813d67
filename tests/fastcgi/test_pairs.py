"""Name-value pairs: they survive the round trip, and what a decoder has learned never changes what it returns."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fcgi_procmanager.errors import ProtocolError
from fcgi_procmanager.fastcgi import pairs
from fcgi_procmanager.fastcgi.pairs import Decoder, decode, encode
from harness import fcgi

slow = settings(max_examples=60, deadline=None)
latin = st.text(st.characters(max_codepoint=255), max_size=300)

# What a web server sends: the same names in the same order, few values of which change.
word = st.sampled_from(["", "GET", "/a", "/a/b", "51234", "x" * 130])
request = st.tuples(word, word, word, st.dictionaries(st.sampled_from(["HTTP_A", "HTTP_B", "HTTP_C"]), word))


def content_of(values: tuple[str, str, str, dict[str, str]]) -> bytes:
    method, path, port, headers = values
    return encode(
        {"REQUEST_METHOD": method, "ROOT": "/srv", "NAME": "n", "PATH": path, "ADDRESS": "::1", "PORT": port, **headers}
    )


@slow
@given(st.dictionaries(latin, latin, max_size=20))
def test_round_trip(given: dict[str, str]) -> None:
    assert decode(encode(given)) == given
    encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in given.items()]
    assert fcgi.decode_params(encode(given)) == encoded


@pytest.mark.parametrize("length", [0, 1, 127, 128, 129, 65535, 65536])
def test_round_trip_at_the_edges(length: int) -> None:
    given = {"n" * length: "v" * length}
    assert decode(encode(given)) == given


@settings(max_examples=400, deadline=None)
@given(st.lists(request, max_size=12))
def test_a_decoder_returns_what_decode_returns(requests: list[tuple[str, str, str, dict[str, str]]]) -> None:
    decoder = Decoder()
    for values in requests:
        content = content_of(values)
        assert list(decoder.decode(content).items()) == list(decode(content).items())


@slow
@given(st.lists(st.lists(st.tuples(word, word), max_size=6), max_size=12))
def test_names_that_come_twice(requests: list[list[tuple[str, str]]]) -> None:
    decoder = Decoder()
    for names in requests:
        content = fcgi.encode_params(names)
        assert list(decoder.decode(content).items()) == list(decode(content).items())


@slow
@given(st.lists(st.tuples(request, st.integers(0, 400), st.binary(max_size=4)), max_size=12))
def test_what_is_broken_anywhere(requests: list[tuple[Any, int, bytes]]) -> None:
    """Some bytes are others: the same pairs, or the same error."""
    decoder = Decoder()
    for values, at, others in requests:
        content = content_of(values)
        content = content[:at] + others + content[at + len(others) :]
        try:
            expected = list(decode(content).items())
        except ProtocolError:
            with pytest.raises(ProtocolError):
                decoder.decode(content)
        else:
            assert list(decoder.decode(content).items()) == expected


def test_what_is_returned_is_the_callers() -> None:
    decoder, content = Decoder(), content_of(("GET", "/", "1", {}))
    for _ in range(3):
        found = decoder.decode(content)
        assert found == decode(content)
        found.clear()


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_stream_that_ends_early(cut: int) -> None:
    decoder = Decoder()
    content = content_of(("GET", "/", "1", {"HTTP_A": "x" * 200}))
    for one in (content, content_of(("GET", "/other", "2", {}))):
        decoder.decode(one)
    expected: dict[str, str] | None = None
    try:
        expected = decode(content[:-cut])
    except ProtocolError:
        with pytest.raises(ProtocolError):
            decoder.decode(content[:-cut])
    else:
        assert decoder.decode(content[:-cut]) == expected
    assert decoder.decode(content) == decode(content)


def test_learning_comes_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever comes: each turn of learning leaves less to be compared."""
    decoder, turns = Decoder(), 0
    learn = decoder._learn

    def counted(same: list[bytes | None]) -> None:
        nonlocal turns
        turns += 1
        learn(same)

    monkeypatch.setattr(decoder, "_learn", counted)
    names = [f"N{number}" for number in range(10)]
    for number in range(1000):
        decoder.decode(encode({name: str(number >> place & 1) for place, name in enumerate(names)}))
    assert turns <= 1 + len(names)


def test_it_begins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """One odd request must not slow down all that follow."""
    monkeypatch.setattr(pairs, "_REMEMBERED", 5)
    decoder = Decoder()
    usual, odd = content_of(("GET", "/", "1", {})), encode({"A": "1", "B": "2"})
    for content in (usual, odd):
        decoder.decode(content)
    assert decoder._template.pairs == {}
    for _ in range(10):
        decoder.decode(usual)
    assert decoder._template.rest == usual


def test_lengths_that_are_longer_than_they_need_be() -> None:
    """A short length may be written in four bytes; each may come in either form."""
    decoder, forms = (
        Decoder(),
        [fcgi.encode_params([("A", "1")]), b"\x80\0\0\1\1A1", b"\1\x80\0\0\1A2", b"\x80\0\0\1\x80\0\0\1A3"],
    )
    for content in (*forms, *forms, *reversed(forms)):
        for behind in (b"", b"\1\1B1", b"\1\1B2"):
            assert decoder.decode(content + behind) == decode(content + behind)
