"""Programs that were written for Perl's `start_server`, under ours: not a request is lost over a change of generations."""

from __future__ import annotations

import http.client
import os
import threading
from contextlib import closing
from pathlib import Path

import pytest

from harness.process import free_port, wait_until
from harness.tools import require, require_perl
from starter.conftest import Launch

APP = 'my $app = sub { [200, ["Content-Type" => "text/plain"], ["$ENV{SERVER_STARTER_GENERATION} $$"]] };'

# Starman may reset a connection that it has accepted when it is asked to leave, under either superdaemon.
LOSES = {"starman"}
PROGRAMS = {
    "starman": ("Starman", ["starman", "--workers", "2", "--preload-app"], "QUIT"),
    "starlet": ("Starlet", ["plackup", "-s", "Starlet", "--max-workers", "2"], "TERM"),
}


def _get(port: int) -> str:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("GET", "/")
        return connection.getresponse().read().decode()


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_perl_server_changes_its_generation_without_losing_a_request(
    launch: Launch, tmp_path: Path, name: str
) -> None:
    module, argv, leave = PROGRAMS[name]
    require_perl(module)
    app = tmp_path / "app.psgi"
    app.write_text(APP)
    port = free_port()
    program = [require(argv[0]), *argv[1:], str(app)]
    options = (f"--port=127.0.0.1:{port}", f"--signal-on-hup={leave}", f"--signal-on-term={leave}")
    daemon = launch(*options, program=program, env={"PERL5LIB": os.environ.get("PERL5LIB", "")})
    daemon.wait_status(1)
    over = threading.Event()
    answers: list[str] = []
    problems: list[Exception] = []

    def visit() -> None:
        while not over.is_set():
            try:
                answers.append(_get(port).split()[0])
            except Exception as problem:
                problems.append(problem)
            over.wait(0.005)

    visitor = threading.Thread(target=visit)
    visitor.start()
    try:
        wait_until(lambda: "1" in answers)
        for number in (2, 3):
            daemon.hup()
            daemon.wait_status(number)
            wait_until(lambda number=number: str(number) in answers)  # type: ignore[misc]
    finally:
        over.set()
        visitor.join()
    assert problems == [] or (name in LOSES and len(problems) < 5)
    assert set(answers) == {"1", "2", "3"}
    assert daemon.end() == 0
