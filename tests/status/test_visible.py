"""Strings of strangers: nothing of them moves a cursor, and their width is known."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcgi_procmanager.status.visible import columns, cut, padded, visible, without_surrogates
from status.pools import HOSTILE, PATIENT

ANYTHING = st.text(st.characters(), max_size=40) | st.sampled_from(list(HOSTILE.values()))


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("/a?b=c&d=%20", "/a?b=c&d=%20"),
        ("\x1b[2J\x07", "\\x1b[2J\\x07"),
        ("a\r\nb\tc", "a\\x0d\\x0ab\\x09c"),
        ("\x9b31m\x85", "\\x9b31m\\x85"),
        ("\u202egnp\ufeff", "\\u202egnp\\ufeff"),
        ("\udcff\ud800", "\\xff\\ud800"),
        ("e\u0301", "e\\u0301"),
        ("é 漢", "é 漢"),
        ("\xa0\u3000", "\\xa0\\u3000"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_what_does_more_than_show_is_escaped(raw: str, shown: str) -> None:
    assert visible(raw) == shown


@PATIENT
@given(ANYTHING, st.integers(1, 60))
def test_it_is_harmless_and_fits(raw: str, limit: int) -> None:
    for shown in (visible(raw), visible(raw, limit), cut(visible(raw), limit)):
        assert shown.isprintable()
        assert not any(unicodedata.category(char)[0] in "CM" for char in shown)
        shown.encode()
    assert columns(visible(raw, limit)) <= limit
    assert columns(padded(visible(raw), limit)) == limit
    assert visible(raw, 20_000) == visible(raw)
    without_surrogates(raw).encode()


@PATIENT
@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_an_ordinary_one_stays_as_it_is(raw: str) -> None:
    assert visible(raw) == without_surrogates(raw) == raw


def test_a_wide_character_is_not_cut_in_two() -> None:
    assert cut("漢字漢字", 8) == "漢字漢字"
    assert cut("漢字漢字", 7) == "漢字漢…"
    assert cut("漢字漢字", 6) == "漢字…"
    assert cut("漢字", 1) == "…"
    assert padded("漢", 4) == "漢  "
    assert padded("ab", 4, right=True) == "  ab"
