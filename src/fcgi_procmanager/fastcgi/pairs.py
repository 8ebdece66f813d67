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
_ALL = 1 << 32  # pairs; more than there are
_LEAST_RUN = 2  # pairs; a shorter one costs as much to compare as to decode
_REMEMBERED = 10_000  # requests until a decoder looks again what stays the same


def decode(content: bytes) -> dict[str, str]:
    """The pairs of a whole stream. They are decoded as latin-1, as PEP 3333 has it, which maps each byte to one
    character: so the whole text is decoded once, and cut by the lengths of the bytes. Raises ProtocolError."""
    pairs: dict[str, str] = {}
    _walk(content, content.decode("latin-1"), 0, _ALL, pairs)
    return pairs


def encode(pairs: dict[str, str]) -> bytes:
    parts = []
    for name, value in pairs.items():
        for text in (name, value):
            length = len(text)
            parts.append(bytes([length]) if length < 128 else _LONG.pack(length | 0x80000000))
        parts += (name.encode("latin-1"), value.encode("latin-1"))
    return b"".join(parts)


class _Step(NamedTuple):
    """Decode `skip` pairs; then these bytes should come, and stand for these pairs."""

    skip: int
    run: bytes
    pairs: dict[str, str]


class Decoder:
    """Decodes as `decode` does, in a half or a fifth of the time: a web server sends the same pairs in the same order, and
    most values do not change from one request to the next (its name, its address, the document root, the host).

    *Runs* of neighbouring pairs that were the same in every request looked at are compared in one go. The first request is
    taken for all that ever comes; each one that differs leaves less of it, so that learning comes to an end after as
    many requests as there are pairs, whatever a peer sends. After `_REMEMBERED` requests it begins again.
    """

    def __init__(self) -> None:
        self._same: list[bytes | None] = []  # the pairs in their order; None for one that changes
        self._steps: tuple[_Step, ...] = ()
        self._left = 0

    def decode(self, content: bytes) -> dict[str, str]:
        """The pairs of a whole stream. Raises ProtocolError. May be called by several threads."""
        self._left -= 1
        if self._left < 0:
            return self._begin(content)
        text = content.decode("latin-1")
        pairs: dict[str, str] = {}
        position = 0
        for skip, run, known in self._steps:
            if skip:
                position = _walk(content, text, position, skip, pairs)
            if not content.startswith(run, position):
                _walk(content, text, position, _ALL, pairs)
                self._learn([mine if mine == found else None for mine, found in zip(self._same, _cut(content))])
                return pairs
            pairs.update(known)
            position += len(run)
        if position < len(content):
            _walk(content, text, position, _ALL, pairs)
        return pairs

    def _begin(self, content: bytes) -> dict[str, str]:
        pairs = decode(content)
        self._learn(list(_cut(content)))
        self._left = _REMEMBERED
        return pairs

    def _learn(self, same: list[bytes | None]) -> None:
        self._same, self._steps = same, tuple(_steps(same))


def _steps(same: list[bytes | None]) -> Iterator[_Step]:
    skip, run = 0, list[bytes]()
    for pair in (*same, None):
        if pair is not None:
            run.append(pair)
            continue
        if len(run) >= _LEAST_RUN:
            joined = b"".join(run)
            yield _Step(skip, joined, decode(joined))
            skip = 1
        else:
            skip += len(run) + 1
        run = []


def _walk(content: bytes, text: str, position: int, count: int, pairs: dict[str, str]) -> int:
    """Decode up to `count` pairs from `position` on; where the next one begins."""
    end = len(content)
    try:
        while position < end and count:
            count -= 1
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
    return position


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


def _cut(content: bytes) -> Iterator[bytes]:
    """The bytes of each pair of a stream that is known to be right."""
    position = 0
    while position < len(content):
        start, name_length, value_length = _long_lengths(content, position)
        end = start + name_length + value_length
        yield content[position:end]
        position = end
