"""What a line of the log of requests says: a format with the codes of php-fpm's `access.format`, made ready once. Pure.

Runs in a worker, once a request. What a client has sent must never begin a field or a line of its own: outside of printable ASCII,
and where it is a quote, a backslash or, outside of quotes, a space, it is written as an escape. A line is never longer than what a pipe takes
as a whole.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

from ..basics import localtime
from ..errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..fastcgi.logged import Answered

JSON = "json"
DEFAULT = '%R - %u [%{%Y-%m-%dT%H:%M:%S%z}t] "%m %r%Q%q" %s %b %{milliseconds}d ms %C%% %{kilobytes}M kB %p'

LINE = 4096  # bytes, with the line end
ADDRESS = 2048  # characters as they are written, of a path and its query together
_VALUE = 512  # the same of anything else
_METHOD, _REMOTE = 32, 256

_QUOTED = re.compile(r"[^ !#-\[\]-~]")  # not for the inside of quotes
_PLAIN = re.compile(r"[^!#-\[\]-~]")  # nor for the outside

_CUT = "..."
_NONE = "-"


class Origin(NamedTuple):
    """Where a line comes from. pid: of the worker."""

    pool: str
    manager_pid: int
    pid: int


Get = Callable[["Answered", Origin], object]


class Format:
    """line: for a request, with its line end. measures: what of it is to be measured: letters of C (a CPU), S (its two parts), M
    (memory)."""

    measures: frozenset[str]

    def line(self, answered: Answered, origin: Origin) -> bytes:
        raise NotImplementedError


def compile_format(text: str | None) -> Format:
    """None: the default. Raises ConfigError, which says what is wrong and where."""
    return _Json() if text == JSON else _Text(DEFAULT if text is None else text)


# -- text -----------------------------------------------------------------------------------------------------------------


class _Text(Format):
    def __init__(self, text: str) -> None:
        pieces: list[str] = []
        self._gets: list[Get] = []
        measures = ""
        for literal, code in _joined(_split(text)):
            pieces.append(literal.replace("%", "%%"))
            if code is not None:
                pieces.append("%s")
                unsafe = _QUOTED if _is_quoted(pieces) else _PLAIN
                get, measured = code.getter(unsafe)
                self._gets.append(get)
                measures += measured
        self._template = "".join(pieces)
        self.measures = frozenset(measures)

    def line(self, answered: Answered, origin: Origin) -> bytes:
        return _bounded(self._template % tuple([get(answered, origin) for get in self._gets]))


def _is_quoted(pieces: list[str]) -> bool:
    """Whether what comes next stands inside of double quotes."""
    return sum(piece.count('"') for piece in pieces) % 2 == 1


def _bounded(text: str) -> bytes:
    line = text.encode("utf-8", "backslashreplace")
    if len(line) >= LINE:
        line = line[: LINE - len(_CUT) - 1].decode("utf-8", "ignore").encode() + _CUT.encode()
    return line + b"\n"


class _Code(NamedTuple):
    """A code in a format: what stands in its braces, and its letter. place: counted from 1."""

    argument: str | None
    letter: str
    place: int

    @property
    def written(self) -> str:
        return f"%{self.letter}" if self.argument is None else f"%{{{self.argument}}}{self.letter}"

    def getter(self, unsafe: re.Pattern[str]) -> tuple[Get, str]:
        """How its value is had, and what is to be measured for it. Raises ConfigError."""
        if self.letter in _PLAIN_CODES:
            if self.argument is not None:
                raise self.wrong(f"takes nothing in braces: write %{self.letter}")
            return _PLAIN_CODES[self.letter](unsafe), ""
        if self.letter not in _CODES:
            letters = {*_PLAIN_CODES, *_CODES} - {_WHOLE}
            known = " ".join(f"%{letter}" for letter in sorted(letters, key=lambda one: (one.lower(), one)))
            raise self.wrong(f"is none of {known}: take one of these, or write %% for a percent sign")
        return _CODES[self.letter](self, unsafe)

    def one_of(self, choices: Mapping[str, Any], default: str) -> Any:
        argument = default if self.argument is None else self.argument
        if argument not in choices:
            raise self.wrong(f"has none of {', '.join(choices)} in its braces: take one of these")
        return choices[argument]

    def name(self) -> str:
        if not self.argument:
            raise self.wrong(f"has no name: write %{{NAME}}{self.letter}")
        return self.argument

    def wrong(self, why: str) -> ConfigError:
        return ConfigError(f"access_format: {self.written!r} at character {self.place} {why}")


_WHOLE = "rQq"  # no letter of a format
_ONE_CODE = re.compile(r"%(?:\{([^{}]*)\})?([A-Za-z%])")


def _split(text: str) -> list[tuple[str, _Code | None]]:
    """Literal text, and the code that follows it."""
    if not text.isprintable():
        raise ConfigError(
            "access_format has a character that cannot be printed, such as a line end: a request is one line"
        )
    if not text:
        raise ConfigError("access_format is empty: name what a line is to say, or leave it out")
    found: list[tuple[str, _Code | None]] = []
    literal, at = "", 0
    while (code := text.find("%", at)) >= 0:
        match = _ONE_CODE.match(text, code)
        if match is None:
            raise ConfigError(
                f"access_format: {text[code : code + 20]!r} at character {code + 1} is no code: "
                "write a letter behind %, or %{...} and a letter, or %% for a percent sign"
            )
        literal += text[at:code]
        at = match.end()
        if match[2] == "%" and match[1] is None:
            literal += "%"
        else:
            found.append((literal, _Code(match[1], match[2], code + 1)))
            literal = ""
    found.append((literal + text[at:], None))
    return found


def _joined(found: list[tuple[str, _Code | None]]) -> list[tuple[str, _Code | None]]:
    """With one code in place of %r%Q%q."""
    at = 0
    while at + 2 < len(found):
        three = found[at : at + 3]
        codes = [code for _, code in three if code is not None and code.argument is None]
        if "".join(code.letter for code in codes) == "rQq" and not three[1][0] and not three[2][0]:
            found[at : at + 3] = [(three[0][0], codes[0]._replace(letter=_WHOLE))]
        at += 1
    return found


# -- what a code stands for -----------------------------------------------------------------------------------------------


def _param(name: str, limit: int = _VALUE, missing: str = _NONE) -> Callable[[re.Pattern[str]], Get]:
    def make(unsafe: re.Pattern[str]) -> Get:
        search = unsafe.search

        def get(answered: Answered, origin: Origin) -> object:
            value = answered.params.get(name)
            if not value:
                return missing
            if type(value) is str and len(value) <= limit and search(value) is None:  # nearly always
                return value
            return shown(value, limit, unsafe)

        return get

    return make


def _uri(unsafe: re.Pattern[str]) -> Get:
    return lambda answered, origin: shown(address(answered)[0], ADDRESS, unsafe) or _NONE


def _whole_address(unsafe: re.Pattern[str]) -> Get:
    """%r%Q%q, which is what most formats have, at the cost of one."""
    path, query = _uri(unsafe), _query(unsafe)
    search = unsafe.search

    def get(answered: Answered, origin: Origin) -> object:
        uri = answered.params.get("REQUEST_URI")
        if (
            uri
            and type(uri) is str
            and len(uri) <= ADDRESS
            and uri[-1] != "?"
            and uri[0] != "?"
            and search(uri) is None
        ):
            return uri
        found = query(answered, origin)
        return f"{path(answered, origin)}?{found}" if found else path(answered, origin)

    return get


def _query(unsafe: re.Pattern[str]) -> Get:
    def get(answered: Answered, origin: Origin) -> object:
        path, query = address(answered)
        return shown(query, ADDRESS - len(shown(path, ADDRESS, unsafe)), unsafe) if query else ""

    return get


_PLAIN_CODES: dict[str, Callable[[re.Pattern[str]], Get]] = {
    "m": _param("REQUEST_METHOD", _METHOD),
    "r": _uri,
    _WHOLE: _whole_address,
    "q": _query,
    "Q": lambda unsafe: lambda answered, origin: "?" if address(answered)[1] else "",
    "s": lambda unsafe: lambda answered, origin: answered.status or _NONE,
    "b": lambda unsafe: lambda answered, origin: answered.size,
    "p": lambda unsafe: lambda answered, origin: origin.pid,
    "P": lambda unsafe: lambda answered, origin: origin.manager_pid,
    "n": lambda unsafe: lambda answered, origin: shown(origin.pool, _REMOTE, unsafe),
    "R": _param("REMOTE_ADDR", _REMOTE),
    "u": _param("REMOTE_USER", _REMOTE),
    "l": _param("CONTENT_LENGTH", _METHOD, "0"),
    "f": _param("SCRIPT_FILENAME"),
}


def _duration(code: _Code, unsafe: re.Pattern[str]) -> tuple[Get, str]:
    units = {
        "seconds": lambda answered, origin: f"{answered.seconds:.3f}",
        "milliseconds": lambda answered, origin: f"{answered.seconds * 1e3:.3f}",
        "microseconds": lambda answered, origin: f"{answered.seconds * 1e6:.0f}",
    }
    units.update(milli=units["milliseconds"], micro=units["microseconds"])
    return code.one_of(units, "seconds"), ""


def _cpu(code: _Code, unsafe: re.Pattern[str]) -> tuple[Get, str]:
    parts: dict[str, tuple[Get, str]] = {
        "total": (lambda answered, origin: f"{share(answered, answered.user + answered.system):.2f}", "C"),
        "user": (lambda answered, origin: f"{share(answered, answered.user):.2f}", "S"),
        "system": (lambda answered, origin: f"{share(answered, answered.system):.2f}", "S"),
    }
    found: tuple[Get, str] = code.one_of(parts, "total")
    return found


def _memory(code: _Code, unsafe: re.Pattern[str]) -> tuple[Get, str]:
    unit: int = code.one_of(
        {"bytes": 1, "kilobytes": 1 << 10, "kilo": 1 << 10, "megabytes": 1 << 20, "mega": 1 << 20}, "bytes"
    )
    return (lambda answered, origin: answered.memory // unit if answered.memory else _NONE), "M"


def _param_code(code: _Code, unsafe: re.Pattern[str]) -> tuple[Get, str]:
    return _param(code.name())(unsafe), ""


def _header(code: _Code, unsafe: re.Pattern[str]) -> tuple[Get, str]:
    name = re.escape(code.name().encode("utf-8", "replace"))
    line = re.compile(rb"^" + name + rb":[ \t]*(.*?)[ \t\r]*$", re.IGNORECASE | re.MULTILINE)

    def get(answered: Answered, origin: Origin) -> object:
        found = line.search(answered.head)
        return shown(found[1].decode("latin-1"), _VALUE, unsafe) if found is not None and found[1] else _NONE

    return get, ""


def _time(code: _Code, unsafe: re.Pattern[str]) -> tuple[Get, str]:
    pattern = "%d/%b/%Y:%H:%M:%S %z" if code.argument is None else code.argument
    try:
        time.strftime(pattern, time.gmtime(0))
    except ValueError as error:
        raise code.wrong(f"is no time: {error}: see strftime(3)") from None
    return _Stamp(pattern, code.letter == "t").get, ""


class _Stamp:
    """A time, written once a second."""

    def __init__(self, pattern: str, of_the_start: bool) -> None:
        self._pattern = pattern
        self._of_the_start = of_the_start
        self._kept = (-1, "")  # threads may use this: it is replaced as a whole

    def get(self, answered: Answered, origin: Origin) -> str:
        return self.at(answered.ended_at - answered.seconds if self._of_the_start else answered.ended_at)

    def at(self, seconds: float) -> str:
        second = int(seconds)
        kept, text = self._kept
        if kept != second:
            # A %n in it is a line end.
            text = "".join(one if one.isprintable() else " " for one in localtime.written(self._pattern, second))
            self._kept = second, text
        return text


_CODES: dict[str, Callable[[_Code, re.Pattern[str]], tuple[Get, str]]] = {
    "d": _duration,
    "C": _cpu,
    "M": _memory,
    "t": _time,
    "T": _time,
    "e": _param_code,
    "o": _header,
}


def address(answered: Answered) -> tuple[str, str]:
    """What was asked for: the path, and the query behind it."""
    params = answered.params
    uri = params.get("REQUEST_URI")
    if uri:
        path, _, query = str(uri).partition("?")
        return path, query
    return f"{params.get('SCRIPT_NAME', '')}{params.get('PATH_INFO', '')}", str(params.get("QUERY_STRING", ""))


def share(answered: Answered, used: float) -> float:
    """In percent of one CPU."""
    seconds = answered.seconds
    return 100 * used / seconds if seconds > 0 else 0.0


# -- what a client has sent -----------------------------------------------------------------------------------------------


def shown(value: object, limit: int, unsafe: re.Pattern[str] = _PLAIN) -> str:
    """In characters that need no escape in a line, `limit` of them at most."""
    text = value if type(value) is str else str(value)
    if len(text) <= limit and unsafe.search(text) is None:
        return text
    return _cut(text, limit, unsafe, _escape)


def _cut(text: str, limit: int, unsafe: re.Pattern[str], escape: Callable[[str], str]) -> str:
    pieces: list[str] = []
    size = fits = 0  # characters; pieces that leave room for the mark of a cut
    for one in text[: limit + 1]:
        piece = one if unsafe.match(one) is None else escape(one)
        size += len(piece)
        if size > limit:
            return ("".join(pieces[:fits]) + _CUT)[-limit:] if limit > 0 else ""
        pieces.append(piece)
        if size <= limit - len(_CUT):
            fits = len(pieces)
    return "".join(pieces)


def _escape(one: str) -> str:
    code = ord(one)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


# -- JSON -----------------------------------------------------------------------------------------------------------------


_KEYS = (
    '{"time": "%s", "level": "INFO", "pool": %s, "pid": %d, "remote_addr": %s, "remote_user": %s, "method": %s, "uri": %s, "query": %s, '
    '"status": %s, "bytes": %d, "duration": %.6f, "cpu": %.2f, "memory": %s}\n'
)


class _Json(Format):
    """An object a line, with the keys and values of `fields`; what is not known is null."""

    measures = frozenset("CM")

    def line(self, answered: Answered, origin: Origin) -> bytes:
        params, seconds = answered.params, answered.seconds
        path, query = address(answered)
        path = _json(_fitting(path, ADDRESS))
        text = _KEYS % (
            _iso(answered.ended_at - seconds),
            _json(_fitting(origin.pool, _REMOTE)),
            origin.pid,
            _json(_of(params, "REMOTE_ADDR", _REMOTE)),
            _json(_of(params, "REMOTE_USER", _REMOTE)),
            _json(_of(params, "REQUEST_METHOD", _METHOD)),
            path,
            _json(_fitting(query, ADDRESS - len(path) + 2)) if query else '""',
            int(answered.status) if answered.status else "null",  # 099 is no number there
            answered.size,
            seconds,
            share(answered, answered.user + answered.system),
            answered.memory or "null",
        )
        return text.encode()


def fields(answered: Answered, origin: Origin) -> dict[str, object]:
    """All that is known of a request, for programs: as it is, but cut."""
    params = answered.params
    path, query = address(answered)
    path = _fitting(path, ADDRESS)
    return {
        "pool": _fitting(origin.pool, _REMOTE),
        "pid": origin.pid,
        "remote_addr": _of(params, "REMOTE_ADDR", _REMOTE),
        "remote_user": _of(params, "REMOTE_USER", _REMOTE),
        "method": _of(params, "REQUEST_METHOD", _METHOD),
        "uri": path,
        "query": _fitting(query, ADDRESS - _size(path)),
        "status": int(answered.status) if answered.status else None,
        "bytes": answered.size,
        "duration": round(answered.seconds, 6),
        "cpu": round(share(answered, answered.user + answered.system), 2),
        "memory": answered.memory or None,
    }


def _of(params: Mapping[str, Any], name: str, limit: int) -> str | None:
    value = params.get(name)
    return _fitting(str(value), limit) if value not in (None, "") else None


def _fitting(text: str, limit: int) -> str:
    """As much of it as has `limit` characters with its escapes."""
    if len(text) <= limit and _QUOTED.search(text) is None:
        return text
    if _size(text[: limit + 1]) <= limit:
        return text
    left, kept = limit - len(_CUT), 0
    for one in text[:limit]:
        left -= _size(one)
        if left < 0:
            break
        kept += 1
    return (text[:kept] + _CUT)[:limit] if limit > 0 else ""


def _size(text: str) -> int:
    """Characters that JSON needs for it."""
    return len(text) if _QUOTED.search(text) is None else sum(len(_json_escape(one)) for one in text)


def _json(value: str | None) -> str:
    if value is None:
        return "null"
    return f'"{value}"' if _QUOTED.search(value) is None else f'"{"".join(map(_json_escape, value))}"'


def _json_escape(one: str) -> str:
    if _QUOTED.match(one) is None:
        return one
    code = ord(one)
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 | code >> 10:04x}\\u{0xDC00 | code & 0x3FF:04x}"


_DATE, _OFFSET = _Stamp("%Y-%m-%dT%H:%M:%S", False), _Stamp("%z", False)


def _iso(seconds: float) -> str:
    offset = _OFFSET.at(seconds)
    return f"{_DATE.at(seconds)}.{int(seconds % 1 * 1000):03d}{offset[:3]}:{offset[3:]}"
