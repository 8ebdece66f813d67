"""The word that a manager says to a standby: said, unheard, never said."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fcgi_procmanager.ipc.word import Word
from fcgi_procmanager.system.poll import any_readable


@pytest.fixture
def word() -> Iterator[Word]:
    one = Word()
    yield one
    one.close()


def test_what_was_said_is_heard_even_when_the_speaker_has_gone(word: Word) -> None:
    assert not any_readable(word.fileno())
    assert word.say()
    assert any_readable(word.fileno())
    assert word.heard()


def test_nobody_is_there_to_hear_it(word: Word) -> None:
    word.keep_manager_end()
    assert not word.say()


def test_the_end_is_no_word(word: Word) -> None:
    word.keep_standby_end()
    assert any_readable(word.fileno())
    assert not word.heard()


def test_nothing_was_said_yet(word: Word) -> None:
    """It never waits."""
    assert not word.heard()
