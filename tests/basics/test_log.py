"""One line of the log at a time, to standard error or through `logging`."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Callable

import pytest

from fcgi_procmanager.basics import log
from harness.process import Script

Run = Callable[..., Script]

FULL = """
import os, signal, sys
from fcgi_procmanager.basics import log

read, write = os.pipe()
found = os.dup(2)
os.dup2(write, 2)

def fill(room):
    os.set_blocking(2, False)
    try:
        while True: os.write(2, b"x" * 4096)
    except BlockingIOError: pass
    os.set_blocking(2, True)
    while room: room -= len(os.read(read, room))

def rest():
    os.set_blocking(read, False)
    data = b""
    try:
        while True: data += os.read(read, 1 << 16)
    except BlockingIOError: return data.lstrip(b"x")

signal.alarm(60)  # who waits for ever ends by it
"""


@pytest.mark.parametrize("letter", ["y", "\u00e9", "\U0001f600", "\udcff"])
def test_a_long_record_waits_for_nobody(run_script: Run, letter: str) -> None:
    script = run_script(f"""
        {FULL.replace(chr(10), chr(10) + " " * 8)}
        fill(8192)
        log.write({letter!a} * 20000)
        assert 0 < len(rest()) <= 8192
        log.write("next")
        assert rest() == b"\\nnext\\n"
        log.write({letter!a} * 3000)
        assert rest().decode().count("\\n") == 1
        print("done", flush=True)
    """)
    assert script.line() == "done"
    assert script.wait() == 0


@pytest.mark.parametrize("letter", ["y", "\u00e9"])
def test_a_long_record_is_whole_where_there_is_room(run_script: Run, letter: str) -> None:
    script = run_script(f"""
        {FULL.replace(chr(10), chr(10) + " " * 8)}
        log.write({letter!a} * 20000)
        assert rest().decode() == {letter!a} * 20000 + "\\n"
        print("done", flush=True)
    """)
    assert script.line() == "done"
    assert script.wait() == 0


def test_a_level_of_the_root_logger_counts_whenever_it_is_set(run_script: Run) -> None:
    script = run_script("""
        import logging
        logging.basicConfig(level=logging.WARNING, format="root %(message)s")
        from fcgi_procmanager.basics import log
        log.write("one")
        logging.getLogger().setLevel(logging.INFO)
        log.write("two")
        logging.disable(logging.INFO)
        log.write("three")
        logging.disable(logging.NOTSET)
        log.write("four")
    """)
    assert script.wait() == 0
    assert script.log().splitlines() == ["root two", "root four"]


def test_a_traceback_has_no_command_to_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    text = "a\x9b31m\x1b[0m\x85b\u2028\u2029\x7f\r"
    log.write_traceback(ValueError(text + "\u00e9\tc\nd"), exact=True)
    shown = capsys.readouterr().err
    assert shown == r"ValueError: a\x9b31m\x1b[0m\x85b\u2028\u2029\x7f\r" + "\u00e9\tc\nd\n"


def test_a_handler_of_our_own_gets_all_that_an_application_writes() -> None:
    logger = logging.Logger("fcgi_procmanager")
    logger.addHandler(logging.NullHandler())
    assert not log.is_wanted(logger, logging.DEBUG)
    assert log.is_wanted(logger, logging.DEBUG, ours=False)
    logger.setLevel(logging.INFO)
    assert not log.is_wanted(logger, logging.DEBUG, ours=False)


ROOT = "import logging; logging.basicConfig(format='root %(levelname)s %(message)s')"


def test_the_root_logger_is_nothing_to_a_daemon(run_script: Run) -> None:
    script = run_script(f"""
        {ROOT}
        from fcgi_procmanager import Daemon
        class Clock(Daemon):
            def daemon_run(self):
                self.notify("hello")
                raise ValueError("no")
        Clock(no_fork=True, no_pid_file=True).run()
    """)
    assert script.wait() == 255
    first, second, *_, last = script.log().splitlines()
    assert re.fullmatch(r"Clock: \w+ \(pid \d+\): hello", first)
    assert second == "Traceback (most recent call last):"
    assert re.fullmatch(r"Clock: \w+ \(pid \d+\): Shutting down: ValueError: no", last)


def test_the_root_logger_is_nothing_to_a_superdaemon(run_script: Run, sock_path: str) -> None:
    script = run_script(f"""
        {ROOT}
        from fcgi_procmanager.starter import start_server
        start_server(exec=["sleep", "600"], path={sock_path!r}, interval=0.1)
    """)
    script.wait_log(r"^start_server \(pid:\d+\) starting now\.\.\.$")
    script.wait_log(r"^starting new worker \d+$")
    script.stop()
    assert script.log().splitlines()[-1] == "exiting"
    assert "root" not in script.log()


def test_a_worker_says_nothing_of_a_log_file_in_a_handler(run_script: Run, tmp_path: Path) -> None:
    script = run_script(
        """
        import os
        from fcgi_procmanager.children.registry import Registry
        from fcgi_procmanager.events.logfile import LogFile
        os.mkdir("gone")
        said = []
        file = LogFile(os.path.abspath("gone/log"), Registry(), said.append)
        file.open(detached=False)
        os.rename("gone", "elsewhere")
        pid = os.fork()
        file.reopen()
        if not pid:
            os._exit(len(said))
        assert len(said) == 1, said
        assert os.waitpid(pid, 0)[1] == 0
    """,
        cwd=tmp_path,
    )
    assert script.wait() == 0
