"""One line of the log at a time: to standard error, or through `logging` where the application has configured it.

Runs in every process, never in a signal handler. A log that nobody can read is no reason to stop serving.
"""

from __future__ import annotations

import os
import select
import stat
import sys
import time
from collections.abc import Mapping
from typing import Any, Callable

from . import levels, records
from .levels import INFO, NUMBERS
from .printable import printable
from .records import BARE, EXCEPTION, JOURNAL, PLAIN, Line

NAME = "fcgi_procmanager"  # of our logger

_PATIENCE = 100  # milliseconds
_WIDEST = 10  # bytes of a character, where it is written as an escape
# To a terminal, and what some take for the end of a line.
_COMMANDS = frozenset(map(chr, (*range(32), *range(127, 160), 0x2028, 0x2029))) - {"\n", "\t"}
_stalled = False  # the last line found no room
_is_torn = False  # of the last record only the first part was written

_sink: Callable[[Line], object] | None = None
_form = ""  # one of records.FORMATS, or JOURNAL; "" until one is chosen: bare
_is_asked_for = False  # somebody has asked for this form
_pool = ""
_least = 0  # the number of the level below which our own lines are left out; 0 until one is chosen: that of INFO


# -- what somebody chooses -----------------------------------------------------------------------------------------------


def choose(form: str | None, level: str | None = None, pool: str = "") -> None:
    """The form of the lines of this process and of those that it forks, and which of its own lines there are. None: nobody has asked:
    a time and a level for each line, which the journal has already; and INFO."""
    global _form, _is_asked_for, _pool
    _form = form or (JOURNAL if _journal_reads() else PLAIN)
    _is_asked_for = form is not None
    _pool = pool
    choose_level(level)


def choose_level(level: str | None) -> None:
    """Of our own lines, whatever the level of the root logger is. None: as it is."""
    global _least
    if level is not None:
        _least = NUMBERS[level.upper()]


def is_chosen() -> bool:
    return bool(_form)


def send_to(sink: Callable[[Line], object] | None) -> None:
    """From now on each line of this process is for `sink`; None: for standard error, or the application's logger."""
    global _sink
    _sink = sink


def _journal_reads() -> bool:
    """Whether standard error is the stream that systemd's journal has named."""
    try:
        found = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


# -- writing -------------------------------------------------------------------------------------------------------------


def write(text: str, level: str | None = None, *, exact: bool = False, at: float | None = None) -> None:
    """level: None for what the words say. exact: nothing may stand before these words, and only our own logger may have them. at: when
    it was said (seconds since the epoch); None for now."""
    if _writes_words_only(exact):
        write_plainly(text)
        return
    _write(records.own(time.time() if at is None else at, text, os.getpid(), level), exact)


def write_exception(text: str, error: BaseException, **more: str) -> None:
    """A line, and the traceback that belongs to it, as one record. more: what a program wants to know of it."""
    more[EXCEPTION] = _traceback(error)
    _write(records.own(time.time(), text, os.getpid(), levels.ERROR, more), error=error)


def write_traceback(error: BaseException, exact: bool = False) -> None:
    """Of code of the application, where the line that says so comes later."""
    more = {EXCEPTION: _traceback(error)}
    text = "" if _sink is None and _is_bare(exact) and _logger(exact) is None else story(error)
    _write(Line(time.time(), levels.ERROR, "", os.getpid(), "log", text, more), exact, error)


def shows(level: str) -> bool:
    """Whether a line of this level would be seen by somebody: for one that costs something."""
    logger = _logger(False) if _sink is None else None
    return _is_shown(NUMBERS[level]) if logger is None else is_wanted(logger, NUMBERS[level])


def _write(line: Line, exact: bool = False, error: BaseException | None = None) -> None:
    number = NUMBERS[line.level]
    logger = _logger(exact) if _sink is None else None
    if logger is not None:
        if is_wanted(logger, number):
            hand_over(logger, line, {"role": line.process}, error)
    elif not _is_shown(number):
        return
    elif _sink is not None:
        _sink(line)
    else:
        name = BARE if _is_bare(exact) else _form
        write_plainly(records.form(line, name, _pool).decode().removesuffix("\n"))


def _writes_words_only(exact: bool) -> bool:
    """Nobody asks for the level: a line of DEBUG is not even made then."""
    is_chosen = _sink is not None or _least > NUMBERS[INFO] or configured_logger() is not None
    return _is_bare(exact) and not is_chosen and _logger(exact) is None


def _is_bare(exact: bool) -> bool:
    return _form in ("", BARE) or (exact and not _is_asked_for)


def write_plainly(line: str) -> None:
    """To standard error, whatever the application configured. What nobody takes is left out, of a long record the rest."""
    global _is_torn
    text, _is_torn = ("\n" if _is_torn else "") + line + "\n", False
    written = 0
    try:
        for piece in _pieces(sys.stderr, text):
            if not _has_room(sys.stderr):
                break
            sys.stderr.write(piece)
            sys.stderr.flush()
            written += len(piece)
        _is_torn = 0 < written < len(text)
    except (AttributeError, OSError, ValueError):
        pass  # None, closed, or a pipe without a reader


def _pieces(stream: Any, text: str) -> list[str]:
    """A pipe that has room at all takes so much without waiting. Whole where it is short or for a file: others write to it as well."""
    if len(text) * _WIDEST <= select.PIPE_BUF or len(_as_ascii(text)) <= select.PIPE_BUF or _is_file(stream):
        return [text]
    size = select.PIPE_BUF // (1 if text.isascii() else _WIDEST)
    return [text[at : at + size] for at in range(0, len(text), size)]


def _as_ascii(text: str) -> bytes:
    """No encoding is longer."""
    return text.encode("ascii", "backslashreplace")


def _is_file(stream: Any) -> bool:
    try:
        return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except (AttributeError, OSError, ValueError):
        return True  # not one of the system


def _has_room(stream: Any) -> bool:
    """Whether a line can be written without waiting for a reader who may never come; a slow one gets a moment."""
    global _stalled
    poller = select.poll()
    try:
        poller.register(stream.fileno(), select.POLLOUT)
    except (AttributeError, OSError, ValueError):
        return True  # not a file of the system
    _stalled = not poller.poll(0 if _stalled else _PATIENCE)
    return not _stalled


def _traceback(error: BaseException) -> str:
    import traceback

    whole = "".join(traceback.format_exception(type(error), error, error.__traceback__)).rstrip("\n")
    # What the exception quotes may be a peer's, and a terminal would obey it.
    return "".join(ascii(one)[1:-1] if one in _COMMANDS else one for one in whole)


def story(error: BaseException) -> str:
    """An exception in one line."""
    try:
        text = printable(str(error))
    except Exception:
        text = ""  # one of the application that cannot say what it is
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def text(message: object) -> str:
    """A message as Perl makes a string of it: an exception is its words, None is nothing."""
    return "" if message is None else str(message)


def flush_standard_streams() -> None:
    """Before a fork: what is buffered would be written by every child once more."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, RuntimeError, ValueError):
            pass  # RuntimeError: a handler has interrupted that very stream


# -- logging -------------------------------------------------------------------------------------------------------------


def configured_logger(name: str = NAME) -> Any:
    """A logger of the package, if the application gave it a handler or a level. Nothing is imported to find out, and no logger is made:
    dictConfig disables those that it finds and does not name."""
    logging = sys.modules.get("logging")
    if logging is None:
        return None
    logger = logging.Logger.manager.loggerDict.get(name)
    return logger if isinstance(logger, logging.Logger) and (logger.handlers or logger.level) else None


def hand_over(logger: Any, line: Line, more: Mapping[str, str], error: BaseException | None = None) -> None:
    """As a record: a filter or a handler of the application that fails must not end a worker."""
    text = records.head(line)
    extra = {"worker_pid": line.pid, **more, **{key: value for key, value in line.more.items() if key != EXCEPTION}}
    try:
        number = NUMBERS[line.level]
        record = logger.makeRecord(logger.name, number, "(unknown file)", 0, "%s", (text,), None, None, extra)
        record.created, record.msecs = line.at, float(int(line.at % 1 * 1000))
        record.exc_text = line.more.get(EXCEPTION)
        if error is not None:
            record.exc_info = (type(error), error, error.__traceback__)
        logger.handle(record)
    except Exception:
        write_plainly(records.words(line))


def _logger(exact: bool) -> Any:
    """Who gets our lines: our own logger, if it leads somewhere; else, unless a form was asked for, one below a root logger that the
    application has configured. None: standard error."""
    ours = configured_logger()
    if ours is not None and ours.hasHandlers():
        return ours
    root = None if ours is not None or exact or _is_asked_for else _configured_root()
    return _below(root) if root is not None else None


def _configured_root() -> Any:
    """Not one that `logging.warning()` has configured in passing, as `basicConfig()` without an argument does."""
    logging = sys.modules.get("logging")
    if logging is None or not logging.root.handlers:
        return None
    root = logging.root
    first = root.handlers[0]
    is_default = (
        len(root.handlers) == 1
        and type(first) is logging.StreamHandler
        and getattr(first.formatter, "_fmt", None) == logging.BASIC_FORMAT
        and first.level == logging.NOTSET
        and root.level == logging.WARNING
    )
    return None if is_default else root


def _below(root: Any) -> Any:
    """Each time a new one: nobody tells a logger that is in no list to forget the levels that it remembers."""
    logger = sys.modules["logging"].Logger(NAME)
    logger.parent = root
    return logger


def _is_shown(number: int) -> bool:
    """Without a logger that has handlers. One that has only a level says which lines there are."""
    ours = configured_logger()
    level = ours.level if ours is not None else 0
    return number >= max(_least or (0 if level else NUMBERS[INFO]), level)


def is_wanted(logger: Any, number: int, ours: bool = True) -> bool:
    """Our own logger's level, if it has one; else the one that was chosen; else, if it has a handler of its own, INFO, since the
    WARNING of the root logger was not meant for it; else what `logging` says. ours: not a line that an application has written, of
    which such a handler gets all."""
    least = _least if ours else 0
    if number < least:
        return False
    if logger.level or not (least or logger.handlers):
        return bool(logger.isEnabledFor(number))
    return bool(number >= (least or (NUMBERS[INFO] if ours else 0)) and number > logger.manager.disable)
