"""Strings that come from strangers, made fit to be looked at.

A method, an address and the reason of a failure are whatever a client or an application sent. On a terminal they could move the
cursor, change colours, or write into the title; on a page they could turn the direction of the text around, or pile marks on each
other until they cover the next line. So whatever does more than take one or two columns is written as an escape. Markup is not
this module's: page.py escapes it. Pure; runs in any process.
"""

from __future__ import annotations

import unicodedata

ELLIPSIS = "…"
_ESCAPED_BYTES = range(0xDC80, 0xDD00)  # how Python keeps a byte that is not UTF-8


def visible(text: str, limit: int | None = None) -> str:
    """`text` in characters that only show something. limit: cut it to so many columns, at least 1; the end of what is cut is an
    ellipsis."""
    if limit is None:
        return "".join(map(_shown, text))
    # No character gets narrower than a column: what is beyond the limit need not be looked at.
    return cut("".join(map(_shown, text[: limit + 1])), limit)


def without_surrogates(text: str) -> str:
    """`text` in characters that every decoder of UTF-8 and JSON takes."""
    return "".join(_escape(char) if "\ud800" <= char <= "\udfff" else char for char in text)


def columns(text: str) -> int:
    """How many columns a visible text takes on a terminal."""
    return len(text) + (0 if text.isascii() else sum(map(_is_wide, text)))


def cut(text: str, limit: int) -> str:
    """A visible text in at most `limit` columns, at least 1."""
    if columns(text) <= limit:
        return text
    kept, left = [], max(limit, 1) - 1
    for char in text:
        left -= 1 + _is_wide(char)
        if left < 0:
            break
        kept.append(char)
    return "".join(kept) + ELLIPSIS


def padded(text: str, width: int, right: bool = False) -> str:
    """A visible text in exactly `width` columns."""
    text = cut(text, width)
    fill = " " * (width - columns(text))
    return fill + text if right else text + fill


def _shown(char: str) -> str:
    if char.isascii():
        return char if char.isprintable() else _escape(char)
    harmless = char.isprintable() and not unicodedata.category(char).startswith("M")
    return char if harmless else _escape(char)


def _escape(char: str) -> str:
    code = ord(char)
    if code in _ESCAPED_BYTES:
        code -= 0xDC00
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _is_wide(char: str) -> bool:
    return unicodedata.east_asian_width(char) in "WF"
