"""One reply of a WSGI application: status, headers and body, as PEP 3333 lets an application give them.

Runs in a worker, in the thread that serves the request. Writes to the `Request` only; refuses headers that would begin
another header.
"""

from __future__ import annotations

import os
import stat
import wsgiref.util
from collections.abc import Iterable
from typing import Any, Callable, Optional

from ..basics.accelerator import accelerated
from .framing import NO_BODY, Framing, content_length
from .request import Request

_NAME_SIZE = len("content-length")
_REMEMBERED = 1 << 13  # bytes of headers at most
_SMALL_FILE = 1 << 15  # bytes; below it a read and one send cost less than the calls around sendfile


class FileWrapper(wsgiref.util.FileWrapper):
    """`wsgi.file_wrapper`: a file to be sent; by the kernel if it is a real one."""

    def region(self) -> tuple[int, int, int] | None:
        """Descriptor, offset and length of a regular file that is large enough to gain by it."""
        try:
            file, offset = self.filelike.fileno(), self.filelike.tell()
            status = os.fstat(file)
        except (AttributeError, OSError, ValueError):
            return None
        count = status.st_size - offset
        return (file, offset, count) if stat.S_ISREG(status.st_mode) and count > _SMALL_FILE else None


# Of a reply: its status with the reason; its headers, each with a line end; Content-Length; and all of that as it is sent, or nothing
# where it is not made yet. Where it is, the headers may be left out.
Head = tuple[str, str, Optional[int], bytes]

# One that was remembered, with what it was made of: most applications pass the same again and again. One, so that there is no more
# than one reply had; and replaced as a whole, since threads may be here.
_known: tuple[str, list[tuple[str, str]], Head] = ("", [], ("", "", None, b""))
_misses = _TRIED = 64  # misses: so rarely is another one remembered, since an application may never pass the same again


class Response:
    """What PEP 3333 asks of a server for one reply."""

    __slots__ = ("_begun", "_bodiless", "_declared", "_head", "_made", "_request", "_status", "_whole")

    def __init__(self, request: Request) -> None:
        self._request = request
        self._status = ""  # with its reason
        self._head = ""  # the headers, each with its line end, where `_whole` is not known
        self._declared: int | None = None  # Content-Length
        self._whole = b""  # all of that as it is sent
        self._bodiless = False
        self._made: Framing | None = None
        self._begun = False  # they are written

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], None]:
        if exc_info:
            try:
                if self._request.begun:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # no circle through this frame
            self._request.drop()
            self._begun = False
        elif self._status:
            raise AssertionError("start_response() was called a second time, without exc_info")
        known = _known
        found = known[2] if status == known[0] and headers == known[1] else head(status, headers)
        self._status, self._head, self._declared, self._whole = found or _new_head(status, headers)
        self._bodiless = self._status.startswith(NO_BODY) or self._request.params.get("REQUEST_METHOD") == "HEAD"
        self._made = None
        return self.write

    @property
    def _framing(self) -> Framing:
        """Made when it is needed: most bodies are at hand, and as long as they should be."""
        if self._made is None:
            self._made = self._request.framing = Framing(self._bodiless, self._declared)
        return self._made

    def write(self, data: bytes) -> None:
        """The callable of PEP 3333: transmitted at once."""
        stdout = self._request.stdout
        if not self._begun:
            stdout.write(self._take_head())
        stdout.write(self._framing.cut(_as_bytes(data)))
        stdout.flush()

    def send(self, result: Iterable[bytes]) -> None:
        """All of the reply. What is a list is at hand and goes in as few pieces as it fits; what is produced step by
        step is sent step by step, as PEP 3333 has it, and no longer than somebody reads it."""
        if isinstance(result, (list, tuple)):
            self._send_list(list(result))
        elif not (isinstance(result, FileWrapper) and self._send_file(result)):
            self._send_pieces(result)

    def _send_list(self, parts: list[bytes]) -> None:
        if len(parts) == 1 and not self._begun and type(parts[0]) is bytes and not self._bodiless:  # most replies
            size = len(parts[0])
            if self._declared is None or self._declared == size:
                self._request.reply([self._take_head(size), parts[0]])
                return
        for position, part in enumerate(parts):
            if type(part) is not bytes:
                parts[position] = _as_bytes(part)
        size, begun = sum(map(len, parts)), self._begun
        head = b"" if begun else self._take_head(size if len(parts) <= 1 else None)
        if begun or self._bodiless or (self._declared is not None and size != self._declared):
            parts = self._framing.cut_all(parts)
        if not begun:
            parts.insert(0, head)
        self._request.reply(parts)

    def _send_pieces(self, result: Iterable[bytes]) -> None:
        is_over = _is_file_over if isinstance(result, FileWrapper) else _is_over
        for chunk in result:
            if chunk:
                self.write(chunk)
                if self._request.aborted or is_over(self._framing):
                    return
        if not self._begun:
            self._send_list([])

    def _send_file(self, wrapper: FileWrapper) -> bool:
        """A file that the kernel can send by itself, from where it stands to its end, or as much as the headers say. False for
        anything else."""
        found = wrapper.region()
        if found is None:
            return False
        file, offset, count = found
        stdout = self._request.stdout
        if not self._begun:
            stdout.write(self._take_head(count))
        framing = self._framing
        if framing.left is not None:
            count = min(count, framing.left)
        framing.passed(count)
        if count:
            stdout.send_file(file, offset, count)
        return True

    def _take_head(self, length: int | None = None) -> bytes:
        """The headers, for the one time that they are written. `length`: of the whole body, when it is known; flup
        knows it of a body in one part or none."""
        if not self._status:
            raise AssertionError("the application sent a body before it called start_response()")
        added = self._length_line(length) if length is not None and self._declared is None else ""
        self._begun = True
        if not self._whole:
            return _joined(f"{self._head}{added}", self._status)
        return _with_line(self._whole, added, self._status) if added else self._whole

    def _length_line(self, length: int) -> str:
        """Not for a status that has no body, nor for an empty reply to HEAD: that says nothing of the body that GET would
        have."""
        if self._bodiless and (not length or self._status.startswith(NO_BODY)):
            return ""
        return f"Content-Length: {length}\r\n"


def _is_over(framing: Framing) -> bool:
    """Not at the length that the headers say: an application may have something left to do before its end. A body that nobody
    gets may have no end."""
    return framing.exceeded or framing.bodiless


def _is_file_over(framing: Framing) -> bool:
    framing.exceeded = False  # a file that grows is no mistake of the application
    return framing.full


def _joined(lines: str, status: str) -> bytes:
    # The status last: HAProxy makes a 302 of whatever has a Location behind it.
    return f"{lines}Status: {status}\r\n\r\n".encode("latin-1")


def _with_line(whole: bytes, line: str, status: str) -> bytes:
    """One more in front of the status."""
    place = len(whole) - len(_joined("", status))
    return whole[:place] + line.encode("latin-1") + whole[place:]


@accelerated
def head(status: str, headers: list[tuple[str, str]]) -> Head | None:
    """The head of a reply that nothing is unusual in, or None. Python has no shorter way than the one for all."""
    return None


def _new_head(status: str, headers: list[tuple[str, str]]) -> Head:
    """Raises TypeError, ValueError."""
    status, lines, declared = _checked(status, headers)
    _miss(status, headers, lines, declared)
    return status, lines, declared, b""


def _miss(status: str, headers: list[tuple[str, str]], lines: str, declared: int | None) -> None:
    """Another head than the one that is known."""
    global _misses
    _misses += 1
    if _misses >= _TRIED:
        _misses = 0
        _remember(status, headers, lines, declared)


def _remember(status: str, headers: list[tuple[str, str]], lines: str, declared: int | None) -> None:
    """Unless it could be changed by the application later, or be equal to what is not the same."""
    global _known
    if type(status) is not str or type(headers) is not list or len(lines) > _REMEMBERED:
        return
    if any(type(header) is not tuple or [*map(type, header)] != [str, str] for header in headers):
        return
    try:
        _known = status, headers.copy(), (status, lines, declared, _joined(lines, status))
    except UnicodeEncodeError:  # it is told when the reply is sent
        pass


def _checked(status: str, headers: Iterable[tuple[str, str]]) -> tuple[str, str, int | None]:
    """A status, the lines of headers, and their Content-Length. Raises TypeError, ValueError: in the application's own call."""
    lines, length = [], None
    try:
        for name, value in headers:
            lines.append(name + ": " + value + "\r\n")
            if len(name) == _NAME_SIZE and name.lower() == "content-length":
                length = value
        head = "".join(lines)
        whole = head + status
    except TypeError:
        return _checked(_as_text(status), [(_as_text(name), _as_text(value)) for name, value in headers])
    if not status[:3].isdigit() or status[3:4] != " ":
        raise ValueError(f"a status must be three digits, a space and a reason, not {status!r}")
    if not whole.count("\n") == whole.count("\r") == len(lines):
        raise ValueError("a status or header holds a line break: refused, it would begin a header of its own")
    if "\0" in whole:
        raise ValueError("a status or header holds a NUL: refused, web servers cut or drop such a reply")
    return status, head, None if length is None else content_length(length)


def _as_text(value: Any) -> str:
    """flup takes bytes for strings here, so its applications may pass them."""
    if type(value) is str:
        return value
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, str):
        return str(value)
    raise TypeError(f"a status, header name or header value must be a string, not {value!r}")


def _as_bytes(chunk: Any) -> Any:
    """Likewise text for the bytes of a body, as latin-1."""
    return chunk.encode("latin-1") if isinstance(chunk, str) else chunk
