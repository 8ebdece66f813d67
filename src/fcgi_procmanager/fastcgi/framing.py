"""How much of a body a reply may have: what HTTP says of HEAD, of a status without a body, and of Content-Length. Pure.

Runs in a worker. Web servers pass on what they get: one byte more than Content-Length is the beginning of the next reply on a
kept connection, and one byte less makes the client wait.
"""

from __future__ import annotations

NO_BODY = ("1", "204", "304")  # what the status of a reply without a body begins with


class Framing:
    """bodiless: whatever the application sends, nothing is passed on. left: bytes that may still follow; None: any number.
    declared: what the headers say. exceeded: the application had more."""

    __slots__ = ("bodiless", "declared", "exceeded", "left")

    def __init__(self, bodiless: bool, declared: int | None) -> None:
        self.bodiless: bool = bodiless
        self.declared: int | None = declared
        self.left = 0 if bodiless else declared
        self.exceeded: bool = False

    @property
    def full(self) -> bool:
        """Nothing more may follow."""
        return self.left == 0

    @property
    def missing(self) -> int:
        """Bytes that the headers promise and that have not come."""
        return self.left or 0

    @property
    def complaint(self) -> str:
        """What the application did wrong, once it is done; empty when nothing."""
        if self.bodiless:
            return ""
        if self.exceeded:
            return f"a reply was cut at its Content-Length of {self.declared}: the application sent more"
        if self.missing:
            return f"a reply ends {self.missing} bytes short of its Content-Length of {self.declared}: broken off"
        return ""

    def cut(self, data: bytes) -> bytes:
        """As much of `data` as may follow."""
        left = self.left
        if left is None:
            return data
        if len(data) > left:
            self.exceeded = True
            data = data[:left]
        self.left = left - len(data)
        return data

    def cut_all(self, parts: list[bytes]) -> list[bytes]:
        """Likewise, for all of a body."""
        if self.left is None:
            return parts
        if sum(map(len, parts)) == self.left:  # nearly always
            self.left = 0
            return parts
        return [part for part in map(self.cut, parts) if part]

    def passed(self, count: int) -> None:
        """So many bytes have gone another way."""
        if self.left is not None:
            self.left -= count


def bodiless(method: str | None, status: str) -> bool:
    """Whether the reply to this method with this status has no body."""
    return method == "HEAD" or status.startswith(NO_BODY)


def content_length(value: str) -> int:
    """The number in a Content-Length. Raises ValueError."""
    if value.isdigit() and value.isascii() and len(value) < 20:
        return int(value)
    text = value.strip()
    if not (text.isascii() and text.isdigit()) or len(text) > 19:
        raise ValueError(f"a Content-Length must be a number of bytes, not {value!r}")
    return int(text)
