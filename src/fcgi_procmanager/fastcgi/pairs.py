"""Name-value pairs, the encoding of parameters in FastCGI 1.0, section 3.4: bytes in, a dict out, and back.

Runs in a worker, once a request. Pure. Must never take a pair for granted: what `Decoder` remembers is compared byte by
byte before it is used.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from ..errors import ProtocolError

_LONG = struct.Struct("!I")
_REMEMBERED = 10_000  # requests until a decoder looks again what stays the same


def decode(content: bytes) -> dict[str, str]:
    """The pairs of a whole stream. They are decoded as latin-1, as PEP 3333 has it, which maps each byte to one
    character: so the whole text is decoded once, and cut by the lengths of the bytes. Raises ProtocolError."""
    pairs: dict[str, str] = {}
    _walk(content, content.decode("latin-1"), 0, pairs)
    return pairs


def encode(pairs: dict[str, str]) -> bytes:
    parts: list[bytes] = []
    for name, value in pairs.items():
        parts += (_length(len(name)), _length(len(value)))
        parts += (name.encode("latin-1"), value.encode("latin-1"))
    return b"".join(parts)


def _length(length: int) -> bytes:
    return bytes([length]) if length < 128 else _LONG.pack(length | 0x80000000)


class _Changing(NamedTuple):
    """A pair whose value changes. before: the bytes from the end of the last such pair on, with the length of this name. name, key: the
    same name, as bytes and as text."""

    before: bytes
    name: bytes
    key: str


class _Template(NamedTuple):
    """What a stream is like. pairs: all of it, in order. changing: those whose value is to be put in. rest: the bytes behind the
    last of these."""

    pairs: dict[str, str]
    changing: tuple[_Changing, ...]
    rest: bytes


_NOTHING = _Template({}, (), b"")


class _Seen(NamedTuple):
    """A pair of a stream. length: of its name, as it was written: there are two ways for a short one. pair: all its bytes; empty where
    the value changes."""

    length: bytes
    name: bytes
    pair: bytes


class Decoder:
    """Decodes as `decode` does, in a third of the time or less: a web server sends the same names in the same order, and most values
    do not change from one request to the next (its name, its address, the document root, the host).

    What was the same in every request looked at is compared in one go, and copied. The first request is taken for all that ever
    comes. Each one that differs leaves less of it: a value is found to change, or what is behind a name that is another one is
    forgotten. So learning comes to an end after as many requests as there are pairs, whatever a peer sends. After `_REMEMBERED`
    requests it begins again.
    """

    def __init__(self) -> None:
        self._seen: list[_Seen] = []
        self._template = _NOTHING
        self._left = 0

    def decode(self, content: bytes) -> dict[str, str]:
        """The pairs of a whole stream. Raises ProtocolError. May be called by several threads."""
        self._left -= 1
        if self._left < 0:
            return self._begin(content)
        known, changing, rest = self._template
        text = content.decode("latin-1")
        pairs = known.copy()
        position = 0
        try:
            for before, name, key in changing:
                if not content.startswith(before, position):
                    return self._differs(content)
                position += len(before)
                length = content[position]
                if length < 128:
                    position += 1
                else:
                    length = _LONG.unpack_from(content, position)[0] & 0x7FFFFFFF
                    position += 4
                if not content.startswith(name, position):
                    return self._differs(content)
                start = position + len(name)
                position = start + length
                pairs[key] = text[start:position]
        except (IndexError, struct.error):
            return self._differs(content)
        if not content.startswith(rest, position):  # nor is anything where that position is behind the end
            return self._differs(content)
        position += len(rest)
        if position < len(content):
            _walk(content, text, position, pairs)
        return pairs

    def _begin(self, content: bytes) -> dict[str, str]:
        pairs = decode(content)
        self._learn(list(_cut(content)))
        self._left = _REMEMBERED
        return pairs

    def _differs(self, content: bytes) -> dict[str, str]:
        pairs = decode(content)
        seen: list[_Seen] = []
        for known, found in zip(self._seen, _cut(content)):
            if known[:2] != found[:2]:
                break
            seen.append(known if known.pair == found.pair else known._replace(pair=b""))
        self._learn(seen)
        return pairs

    def _learn(self, seen: list[_Seen]) -> None:
        if len({one.name for one in seen}) < len(seen):
            seen = []  # of names that come twice the last one counts, and who knows which that will be
        self._seen, self._template = seen, _template(seen)


def _template(seen: list[_Seen]) -> _Template:
    pairs: dict[str, str] = {}
    changing: list[_Changing] = []
    before = b""
    for length, name, pair in seen:
        if pair:
            pairs.update(decode(pair))
            before += pair
        else:
            key = name.decode("latin-1")
            pairs[key] = ""  # in its place
            changing.append(_Changing(before + length, name, key))
            before = b""
    return _Template(pairs, tuple(changing), before)


def _walk(content: bytes, text: str, position: int, pairs: dict[str, str]) -> None:
    """Decode all pairs from `position` on."""
    end = len(content)
    try:
        while position < end:
            name_length = content[position]
            value_length = content[position + 1]
            if name_length < 128 and value_length < 128:
                start = position + 2
            else:
                start, name_length, value_length = _long_lengths(content, position)
            middle = start + name_length
            position = middle + value_length
            pairs[text[start:middle]] = text[middle:position]
    except (IndexError, struct.error):
        position = end + 1
    if position > end:
        raise ProtocolError("a name-value pair is longer than the stream it is in")


def _long_lengths(content: bytes, position: int) -> tuple[int, int, int]:
    """Where the name begins, and both lengths, when one of them takes four bytes."""
    lengths = []
    for _ in range(2):
        length = content[position]
        if length < 128:
            position += 1
        else:
            length = _LONG.unpack_from(content, position)[0] & 0x7FFFFFFF
            position += 4
        lengths.append(length)
    return position, lengths[0], lengths[1]


def _cut(content: bytes) -> Iterator[_Seen]:
    """Each pair of a stream that is known to be right."""
    position = 0
    while position < len(content):
        start, name_length, value_length = _long_lengths(content, position)
        length = content[position : position + (1 if content[position] < 128 else 4)]
        end = start + name_length + value_length
        yield _Seen(length, content[start : start + name_length], content[position:end])
        position = end
