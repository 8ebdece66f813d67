"""What comes in pieces, as whole lines. No system call. Runs in the manager."""

from __future__ import annotations

LONGEST = 1 << 18  # bytes; a longer line is written in pieces of this size, each of them a line


class Lines:
    """What has been read of a stream, as lines without their ends. rest: the beginning of one that is not whole."""

    def __init__(self, rest: bytes = b"") -> None:
        self.rest: bytes = rest

    def feed(self, data: bytes) -> list[bytes]:
        lines = (self.rest + data).split(b"\n")
        self.rest = lines.pop()
        if len(self.rest) > LONGEST or any(len(line) > LONGEST for line in lines):
            lines = [piece for line in lines for piece in _pieces(line)]
            *more, self.rest = _pieces(self.rest)
            lines += more
        return lines

    def last(self) -> list[bytes]:
        """The stream has ended: a line that lacks its end is one."""
        rest, self.rest = self.rest, b""
        return [rest] if rest else []


def _pieces(line: bytes) -> list[bytes]:
    return [line[at : at + LONGEST] for at in range(0, len(line), LONGEST)] or [line]
