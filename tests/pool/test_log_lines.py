"""Bytes that come in pieces, as whole lines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcgi_procmanager.pool.lines import LONGEST, Lines


@given(st.lists(st.binary(max_size=40).map(lambda data: data.replace(b"\n", b"")), max_size=20), st.data())
def test_lines_are_the_same_however_they_come(written: list[bytes], data: st.DataObject) -> None:
    stream, found, whole = b"".join(line + b"\n" for line in written), Lines(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        whole += found.feed(stream[:size])
        stream = stream[size:]
    assert whole == written
    assert found.last() == []


def test_what_is_not_ended_is_the_last_one() -> None:
    found = Lines()
    assert found.feed(b"a\nb") == [b"a"]
    assert found.rest == b"b"
    assert Lines(found.rest).feed(b"c\n") == [b"bc"]
    assert found.last() == [b"b"]
    assert found.last() == []


@pytest.mark.parametrize("pieces", [1, 7])
def test_a_line_without_an_end_is_not_kept_without_end(pieces: int) -> None:
    text = bytes(97 + at % 26 for at in range(3 * LONGEST + 5))
    found, whole = Lines(), []
    for at in range(0, len(text), -(-len(text) // pieces)):
        whole += found.feed(text[at : at + -(-len(text) // pieces)])
        assert len(found.rest) <= LONGEST
    whole += found.feed(b"\nnext\n")
    assert whole[-1] == b"next"
    assert b"".join(whole[:-1]) == text
    assert max(map(len, whole)) <= LONGEST
