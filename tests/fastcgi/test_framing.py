"""How much of a body a reply may have. No process, no socket."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcgi_procmanager.fastcgi.framing import Framing, bodiless, content_length


@given(st.integers(0, 40), st.lists(st.binary(max_size=9), max_size=9))
def test_no_more_than_is_declared_whatever_the_pieces(declared: int, pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    one_by_one, at_once = Framing(False, declared), Framing(False, declared)
    assert b"".join(map(one_by_one.cut, pieces)) == b"".join(at_once.cut_all(pieces)) == whole[:declared]
    for framing in (one_by_one, at_once):
        assert framing.missing == max(0, declared - len(whole))
        assert framing.exceeded == (len(whole) > declared)
        assert framing.full == (len(whole) >= declared)
        assert bool(framing.complaint) == (len(whole) != declared)


@given(st.lists(st.binary(max_size=9)))
def test_what_is_not_declared_is_not_limited(pieces: list[bytes]) -> None:
    framing = Framing(False, None)
    assert [framing.cut(piece) for piece in pieces] == framing.cut_all(pieces) == pieces
    assert (framing.missing, framing.full, framing.complaint) == (0, False, "")


@pytest.mark.parametrize(
    ("method", "status"), [("HEAD", "200"), ("GET", "204"), ("POST", "304"), ("GET", "101"), ("HEAD", "500")]
)
@pytest.mark.parametrize("declared", [None, 0, 3, 100])
def test_some_replies_have_no_body_and_nobody_complains(method: str, status: str, declared: int | None) -> None:
    framing = Framing(bodiless(method, status), declared)
    assert (framing.cut(b"xxx"), framing.cut_all([b"a", b""])) == (b"", [])
    assert (framing.missing, framing.full, framing.complaint) == (0, True, "")


@pytest.mark.parametrize(("method", "status"), [("GET", "200"), ("POST", "404"), (None, "500"), ("head", "200")])
def test_all_others_have_one(method: str | None, status: str) -> None:
    assert Framing(bodiless(method, status), None).cut(b"xxx") == b"xxx"


def test_what_went_another_way_counts() -> None:
    framing = Framing(False, 10)
    framing.passed(4)
    assert (framing.missing, framing.cut(b"1234567")) == (6, b"123456")


def test_complaints_say_what_happened_and_what_was_done() -> None:
    short, long = Framing(False, 10), Framing(False, 10)
    short.cut(b"123")
    long.cut(b"12345678901")
    assert short.complaint == "a reply ends 7 bytes short of its Content-Length of 10: broken off"
    assert long.complaint == "a reply was cut at its Content-Length of 10: the application sent more"


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("12", 12), (" 7 ", 7), ("9" * 18, int("9" * 18))])
def test_a_length_is_a_number(text: str, number: int) -> None:
    assert content_length(text) == number


@pytest.mark.parametrize("text", ["", " ", "-1", "+1", "1.0", "0x1", "1 2", "1_0", "²", "१", "9" * 20, "\n"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a Content-Length must be a number of bytes"):
        content_length(text)
