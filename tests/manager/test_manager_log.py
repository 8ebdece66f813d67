"""The lines of the log: their form, how serious they are, and `logging` where the application has configured it."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any, Callable

import pytest

from harness.fcgi import fetch
from harness.process import Script, listening, wait_until

Run = Callable[..., Script]

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d"
SITE = """
import logging, logging.config, sys
import fcgi_procmanager.engine, fcgi_procmanager.perl
from fcgi_procmanager import *

def app(environ, start_response):
    if environ["PATH_INFO"] == "/raise":
        raise ValueError("no \\x1b[31mgood\\n<0>at all")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]

{more}
WSGIServer(app, manager={manager}, bindAddress=sys.argv[1]).run()
"""


@pytest.fixture
def log_of(run_script: Run, sock_path: str) -> Callable[..., list[str]]:
    """The lines that a pool of one worker has written from its start, with one request, to its end."""

    def run(
        manager: str = "ProcManager(1)", more: str = "", path: str = "/", source: Any = None, **kw: Any
    ) -> list[str]:
        site = SITE.replace("{more}", more).replace("{manager}", manager)
        script = run_script(site if source is None else source(site), args=[sock_path], **kw)
        wait_until(lambda: os.path.exists(sock_path) and listening(sock_path), 60, "the socket")
        assert fetch(sock_path, path).status == (200 if path == "/" else 500)
        assert script.stop() == 0
        return script.log().splitlines()

    return run


STARTED = r"server \(pid \d+\) started"
GONE = r"server \(pid \d+\) exited with status 0"


def lines_like(lines: list[str], pattern: str) -> list[str]:
    return [line for line in lines if re.fullmatch(pattern, line)]


# The form


def test_nothing_stands_before_a_line_of_a_script(log_of: Callable[..., list[str]]) -> None:
    lines = log_of()
    assert all(re.match(r"FastCGI: (manager|server) \(pid \d+\): ", line) for line in lines)
    assert lines_like(lines, rf"FastCGI: manager \(pid \d+\): {STARTED}")


def test_a_time_and_a_level_where_a_form_is_chosen(log_of: Callable[..., list[str]]) -> None:
    lines = log_of("ProcManager(1, log_format='plain')")
    assert lines_like(lines, rf"{STAMP} INFO FastCGI: manager \(pid \d+\): {STARTED}")
    assert lines_like(lines, rf"{STAMP} INFO FastCGI: server \(pid \d+\): initialized")
    assert len(lines_like(lines, rf"{STAMP} [A-Z]+ FastCGI: .*")) == len(lines)


def test_a_pool_has_them_anyway(log_of: Callable[..., list[str]]) -> None:
    lines = log_of("PoolManager(1)")
    assert len(lines_like(lines, rf"{STAMP} INFO FastCGI: .*")) == len(lines)
    bare = log_of("PoolManager(1, log_format='bare')")
    assert len(lines_like(bare, r"FastCGI: .*")) == len(bare)


def test_json_without_a_collector(log_of: Callable[..., list[str]]) -> None:
    found = [json.loads(line) for line in log_of("ProcManager(1, log_format='json')", path="/raise")]
    assert all(re.fullmatch(STAMP, one["time"]) for one in found)
    assert {(one["process"], one["stream"]) for one in found} == {("manager", "log"), ("server", "log")}
    (failed,) = [one for one in found if one["level"] == "ERROR"]
    assert failed["message"] == r"exception in GET /raise: ValueError: no \x1b[31mgood\n<0>at all"
    assert (failed["process"], failed["method"], failed["path"]) == ("server", "GET", "/raise")
    assert failed["exception"].startswith("Traceback (most recent call last):\n")
    assert {one["level"] for one in found if one is not failed} == {"INFO"}


def test_the_names_of_the_originals_keep_their_lines(log_of: Callable[..., list[str]]) -> None:
    for manager in (
        "fcgi_procmanager.engine.ProcManager(n_processes=1)",
        "fcgi_procmanager.perl.ProcManager(n_processes=1)",
    ):
        lines = log_of(manager, more="logging.basicConfig(level=logging.DEBUG, format='root %(message)s')")
        assert all(line.startswith("FastCGI: ") for line in lines)
        assert not [line for line in lines if "listening" in line or "is ready after" in line]
        failed = log_of(
            manager, more="logging.basicConfig(level=logging.INFO, format='root %(message)s')", path="/raise"
        )
        assert not [line for line in failed if line.startswith("root")]
        assert "Traceback (most recent call last):" in failed
        assert not [line for line in failed if "exception in" in line]


def test_the_journal_has_the_time_already(log_of: Callable[..., list[str]], tmp_path: Path) -> None:
    site = tmp_path / "site.py"

    def in_journal(source: str) -> list[str]:
        site.write_text(source)
        stream = "JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2)"
        return ["sh", "-c", f'export {stream}; exec "$@"', "sh", sys.executable, str(site)]

    lines = log_of("PoolManager(1)", path="/raise", source=in_journal)
    assert lines_like(lines, rf"<6>FastCGI: manager \(pid \d+\): {STARTED}")
    assert lines_like(lines, r"<3>FastCGI: server \(pid \d+\): exception in GET /raise: .*")
    assert lines_like(lines, r"<3>Traceback .*")
    assert all(re.match(r"<\d>", line) for line in lines)


# Which lines


def test_only_what_is_serious_enough(log_of: Callable[..., list[str]]) -> None:
    lines = log_of("ProcManager(1, log_level='error')", path="/raise")
    assert re.fullmatch(r"FastCGI: server \(pid \d+\): exception in GET /raise: .*", lines[0])
    assert not [line for line in lines if re.search(STARTED, line)]


def test_more_than_usual(log_of: Callable[..., list[str]]) -> None:
    lines = log_of("ProcManager(1, log_level='debug', log_format='plain')")
    assert lines_like(lines, rf"{STAMP} DEBUG FastCGI: manager .*: server \(pid \d+\) is ready after [\d.]+ s")


def test_what_is_no_form_and_no_level(run_script: Run) -> None:
    script = run_script("""
        from fcgi_procmanager import *
        for wrong in ({"log_format": "xml"}, {"log_level": "loud"}, {"log_level": 10}):
            try:
                ProcManager(1, **wrong)
            except ConfigError as error:
                print(error)
    """)
    assert script.lines(3) == [
        "log_format must be 'plain', 'json' or 'bare', not 'xml'",
        "log_level must be 'debug', 'info', 'warning' or 'error', not 'loud'",
        "log_level must be 'debug', 'info', 'warning' or 'error', not 10",
    ]
    assert script.wait() == 0


# `logging`


BASIC = "logging.basicConfig(level=logging.INFO, format='root %(levelname)s %(name)s %(message)s')"
ROOT = """
logging.config.dictConfig({
    "version": 1,
    "formatters": {"short": {"format": "root %(levelname)s %(name)s %(message)s"}},
    "handlers": {"standard": {"class": "logging.StreamHandler", "formatter": "short"}},
    "root": {"level": "INFO", "handlers": ["standard"]},
})
"""
OURS = """
logging.config.dictConfig({
    "version": 1,
    "formatters": {"short": {"format": "ours %(levelname)s %(name)s %(message)s"}},
    "handlers": {"standard": {"class": "logging.StreamHandler", "formatter": "short"}},
    "loggers": {"fcgi_procmanager": {"handlers": ["standard"]}},
})
"""
HANDLER = """
handler = logging.StreamHandler()
handler.setFormatter(logging.Formatter("ours %(levelname)s %(name)s %(message)s"))
logging.getLogger("fcgi_procmanager").addHandler(handler)
"""


@pytest.mark.parametrize(("more", "who"), [(BASIC, "root"), (ROOT, "root"), (OURS, "ours"), (HANDLER, "ours")])
@pytest.mark.parametrize("manager", ["ProcManager(1)", "PoolManager(1)"])
def test_a_logger_that_the_application_has_configured(
    log_of: Callable[..., list[str]], more: str, who: str, manager: str
) -> None:
    lines = log_of(manager, more=more, path="/raise")
    assert lines_like(lines, rf"{who} INFO fcgi_procmanager FastCGI: manager \(pid \d+\): {STARTED}")
    assert lines_like(lines, rf"{who} INFO fcgi_procmanager FastCGI: server \(pid \d+\): initialized")
    assert lines_like(lines, rf"{who} ERROR fcgi_procmanager FastCGI: server \(pid \d+\): exception in GET /raise: .*")
    assert "Traceback (most recent call last):" in lines
    assert not [line for line in lines if re.match(rf"FastCGI|{STAMP}", line)]


def test_what_is_configured_in_a_worker_only(log_of: Callable[..., list[str]]) -> None:
    """As an application does that each worker loads; and its dictConfig disables loggers that it finds."""
    more = "class Manager(PoolManager):\n    def server_init(self):\n        super().server_init()\n"
    lines = log_of("Manager(1)", more=more + "".join(f"        {line}\n" for line in ROOT.splitlines()))
    assert lines_like(lines, rf"{STAMP} INFO FastCGI: manager \(pid \d+\): {STARTED}")
    assert lines_like(lines, r"root INFO fcgi_procmanager FastCGI: server \(pid \d+\): initialized")


def test_the_level_of_the_root_logger_is_honoured(log_of: Callable[..., list[str]]) -> None:
    more = "logging.basicConfig(format='root %(levelname)s %(message)s')"
    lines = log_of("ProcManager(1)", more=more, path="/raise")
    assert lines_like(lines, "root ERROR FastCGI: server .*: exception in .*")
    assert not lines_like(lines, ".*INFO.*|FastCGI.*")
    lines = log_of("ProcManager(1, log_level='info')", more=more)
    assert lines_like(lines, rf"root INFO FastCGI: manager \(pid \d+\): {STARTED}")


def test_a_word_of_logging_in_passing_configures_nothing(log_of: Callable[..., list[str]]) -> None:
    lines = log_of(more="logging.warning('by the way')")
    assert lines[0] == "WARNING:root:by the way"
    assert lines_like(lines, rf"FastCGI: manager \(pid \d+\): {STARTED}")


def test_a_level_without_a_handler_is_a_level(log_of: Callable[..., list[str]]) -> None:
    more = "logging.getLogger('fcgi_procmanager').setLevel('{}')"
    assert lines_like(log_of(more=more.format("DEBUG")), "FastCGI: .* is ready after .* s")
    assert not lines_like(log_of(more=more.format("WARNING")), ".* started")


def test_a_form_that_was_asked_for_comes_before_the_root_logger(log_of: Callable[..., list[str]]) -> None:
    for line in log_of("ProcManager(1, log_format='json')", more=BASIC):
        json.loads(line)


def test_what_a_record_has(log_of: Callable[..., list[str]]) -> None:
    more = """
class Handler(logging.Handler):
    def emit(self, record):
        if record.levelno == logging.ERROR:
            kind, error, trace = record.exc_info
            words = [record.role, record.worker_pid == record.process, record.method, record.path, kind.__name__]
            print("record", *words, file=sys.stderr, flush=True)
logging.getLogger("fcgi_procmanager").addHandler(Handler())
"""
    assert "record server True GET /raise ValueError" in log_of(more=more, path="/raise")


def test_a_handler_that_fails_ends_nobody(log_of: Callable[..., list[str]]) -> None:
    more = """
class Filter(logging.Filter):
    def filter(self, record):
        raise RuntimeError("no")
logging.getLogger("fcgi_procmanager").addHandler(logging.StreamHandler())
logging.getLogger("fcgi_procmanager").addFilter(Filter())
"""
    assert lines_like(log_of(more=more, path="/raise"), "FastCGI: server .*: exception in GET /raise: .*")


# Subclasses


def test_a_subclass_that_takes_the_lines_itself(log_of: Callable[..., list[str]]) -> None:
    more = """
class Mine(PoolManager):
    def notify(self, message):
        print("mine:", message, file=sys.stderr, flush=True)
"""
    lines = log_of("Mine(1)", more=more)
    assert lines_like(lines, rf"mine: {STARTED}")
    assert all(line.startswith("mine: ") for line in lines)


def test_a_subclass_that_adds_to_the_lines(log_of: Callable[..., list[str]]) -> None:
    more = """
class Mine(ProcManager):
    log_name = "Shop"
    def notify(self, message):
        super().notify(f"[north] {message}")
"""
    lines = log_of("Mine(1, log_format='plain')", more=more, path="/raise")
    assert lines_like(lines, rf"{STAMP} INFO Shop: manager \(pid \d+\): \[north\] {STARTED}")
    assert lines_like(lines, rf"{STAMP} ERROR Shop: server \(pid \d+\): exception in GET /raise: .*")


# What is said


def test_where_it_listens_and_what_it_has_heard(run_script: Run, sock_path: str) -> None:
    script = run_script(
        """
        import sys
        from fcgi_procmanager import *
        from harness.inside import idle
        manager = PoolManager(1)
        manager.listen(sys.argv[1]), manager.listen("127.0.0.1:0")
        manager.manage()
        idle(manager)
    """,
        args=[sock_path],
    )
    script.wait_ready(1)
    script.wait_log(rf"INFO FastCGI: manager .*: listening on {re.escape(sock_path)}, 127\.0\.0\.1:\d+$")
    script.signal(signal.SIGHUP)
    script.wait_log(r"INFO FastCGI: manager .*: received signal HUP$")
    script.wait_ready(2)
    assert script.stop() == 0
    assert script.log().count("listening on") == 1
