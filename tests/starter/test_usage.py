"""What both sides say to a wrong command line, and to a start that cannot be: the same words, and our own status."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from signal import SIGKILL

import pytest

from harness.process import free_port
from starter.conftest import Launch
from starter.sides import PLACE, SIDES, run_command

# The command line, and the status of Perl. Ours is always 2.
MISTAKES = [
    ("--bogus -- true", 1),
    ("-bogus=1 -- true", 1),
    ("--st -- true", 1),
    ("--p=1 -- true", 1),
    ("--interval=abc -- true", 1),
    ("--interval abc -- true", 1),
    ("--backlog=x -- true", 1),
    ("--kill-old-delay=x -- true", 1),
    ("--auto-restart-interval=x -- true", 1),
    ("--signal-on-hup= -- true", 1),
    ("--port", 1),
    ("--daemonize=1 --log-file=/dev/null -- true", 1),
    ("--version=3", 1),
    ("--restart=yes", 1),
    ("--no-daemonize -- true", 1),
    ("", 255),
    ("--", 255),
    ("--port=0", 255),
    ("--stop", 255),
    ("--stop --status-file=/nonexistent/status", 255),
    ("--restart", 255),
    ("--restart --pid-file=/nonexistent/pid", 255),
    ("--restart --status-file=/nonexistent/status", 255),
    ("--daemonize -- true", 255),
]


@pytest.fixture
def run_both(tmp_path: Path) -> Iterator[object]:
    """`run_both(*options)`: status, first line of standard output and of standard error of each side, pids hidden."""

    def run(*options: str) -> list[tuple[int, list[str], list[str]]]:
        answers = []
        for side in SIDES:
            status, output, errors = run_command(side, tmp_path / side, *options)
            answers.append((status, output.splitlines(), [PLACE.sub("", line) for line in errors.splitlines()]))
        return answers

    return run


@pytest.mark.parametrize(("line", "status"), MISTAKES)
def test_a_mistake_is_named_with_the_same_words(run_both, line: str, status: int) -> None:  # type: ignore[no-untyped-def]
    perl, ours = run_both(*line.split())
    assert perl[0] == status
    assert ours[0] == 2
    assert ours[2] == perl[2][:1]
    assert ours[1] == []


@pytest.mark.parametrize(
    "line",
    [
        "--port=abc -- true",
        "--port=nosuchhost.invalid:80 -- true",
        "--port=192.0.2.77:80 -- true",
        "--path=/nonexistent/s -- true",
        "--pid-file=/nonexistent/pid -- true",
        "--log-file=/nonexistent/log -- true",
    ],
)
def test_a_start_that_cannot_be_is_explained_with_the_same_words(run_both, line: str) -> None:  # type: ignore[no-untyped-def]
    perl, ours = run_both(*line.split())
    # Ours goes on with what to do about it.
    last = [errors[-1] for _, _, errors in (perl, ours)]
    assert last[1].startswith(last[0])
    assert perl[0] != 0
    assert ours[0] in (1, 2)


@pytest.mark.parametrize("option", ["--version", "--vers", "-version", "-ver"])
def test_the_version_is_one_line_of_standard_output(run_both, option: str) -> None:  # type: ignore[no-untyped-def]
    for status, output, errors in run_both(option):
        assert (status, len(output), errors) == (0, 1, [])


@pytest.mark.parametrize("option", ["--help", "--he", "-help"])
def test_the_help_names_every_option_of_the_original(run_both, option: str) -> None:  # type: ignore[no-untyped-def]
    perl, ours = run_both(option)
    perl[1].remove(next(line for line in perl[1] if "--max-workers" in line))  # an example of Starlet
    names = {word.strip("-:,.").partition("=")[0] for line in perl[1] for word in line.split() if word.startswith("--")}
    assert perl[0] == ours[0] == 0
    assert len(names) > 15
    text = "\n".join(ours[1])
    assert [name for name in sorted(filter(None, names)) if f"--{name}" not in text] == []


@pytest.mark.parametrize("side", SIDES)
def test_options_and_arguments_may_be_mixed(launch_side: Launch, side: str) -> None:
    """What follows `--` belongs to the program, options that look like ours too."""
    show = "import signal, sys; print(sys.argv[1:]); signal.pause()"
    program = ["--dir", "/", "--", "--interval=x", "--", "-v"]
    daemon = launch_side(side, before=["python3"], program=["-Su", "-c", show, *program])
    assert daemon.script.line() == str(program)
    daemon.end()


@pytest.mark.parametrize("side", SIDES)
def test_options_may_follow_the_program(launch_side: Launch, side: str) -> None:
    daemon = launch_side(side, before=["sleep", "--path=SOCK", "60", "--interval=1"], program=[])
    daemon.wait_status(1)
    with closing(socket.socket(socket.AF_UNIX)) as client:
        client.connect(daemon.sock)
    daemon.end()


@pytest.mark.parametrize("side", SIDES)
def test_a_last_option_without_its_value_is_one_word(launch_side: Launch, side: str) -> None:
    port = free_port()
    daemon = launch_side(side, "--port", f"127.0.0.1:{port}", "--path", "SOCK", "--interval", "1")
    daemon.wait_status(1)
    assert daemon.ask("echo me") == daemon.ask("echo me", ("127.0.0.1", port)) == "echo me"
    daemon.end()


@pytest.mark.parametrize("side", SIDES)
def test_an_old_socket_file_is_removed_with_a_warning(launch_side: Launch, side: str, sock_path: str) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as sock:
        sock.bind(sock_path)
    daemon = launch_side(side, "--path=SOCK")
    daemon.wait_event(r"up 1 \d+")
    assert daemon.log()[:2] == ["start_server (pid:A) starting now...", "removing existing socket file:SOCK"]
    daemon.end()


@pytest.mark.parametrize("side", SIDES)
def test_the_file_for_log_lines_is_appended_to(launch_side: Launch, side: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("before\n")
    daemon = launch_side(side, f"--log-file={log}")
    daemon.wait_event(r"up 1 \d+")
    daemon.end()
    assert log.read_text().startswith("before\nstarting new worker ")
    assert daemon.log() == ["start_server (pid:A) starting now..."]


@pytest.mark.parametrize("side", SIDES)
def test_the_log_file_may_be_a_symbolic_link(launch_side: Launch, side: str, tmp_path: Path) -> None:
    """As /dev/stderr is one, which is what a container logs to."""
    link = tmp_path / "log"
    link.symlink_to(tmp_path / "real")
    daemon = launch_side(side, f"--log-file={link}")
    daemon.wait_event(r"up 1 \d+")
    assert daemon.end() == 0
    assert (tmp_path / "real").read_text().endswith("exiting\n")
    assert link.is_symlink()


@pytest.mark.parametrize("side", SIDES)
def test_stop_says_whom_it_stops(launch_side: Launch, side: str, tmp_path: Path) -> None:
    daemon = launch_side(side, "--path=SOCK", "--pid-file=DIR/pid")
    daemon.wait_status(1)
    daemon.come_to_rest()
    status, output, errors = run_command(side, tmp_path / "stop", "--stop", f"--pid-file={daemon.file('pid')}")
    lines = daemon.log(errors or output)
    assert (status, lines) == (0, ["stop_server (pid:A) stopping now (pid:B)..."])
    assert f"(pid:{daemon.pid})..." in errors + output
    assert daemon.script.wait() == 0


@pytest.mark.parametrize("side", SIDES)
def test_restart_returns_when_the_new_generation_is_alone(launch_side: Launch, side: str, tmp_path: Path) -> None:
    daemon = launch_side(side, "--path=SOCK", "--pid-file=DIR/pid")
    daemon.wait_status(1)
    files = (f"--pid-file={daemon.file('pid')}", f"--status-file={daemon.file('status')}")
    daemon.come_to_rest()
    status, output, errors = run_command(side, tmp_path / "restart", "--restart", *files)
    assert (status, output, errors) == (0, "", "")
    assert sorted(daemon.status()) == [2]
    daemon.end()


@pytest.mark.parametrize("side", SIDES)
def test_a_program_that_is_not_there_is_a_failed_start(launch_side: Launch, side: str) -> None:
    daemon = launch_side(side, program=["/nonexistent/program", "argument"])
    daemon.script.wait_log(r"new worker \d+ seems to have failed to start, exit status:65280", 1)
    assert "failed to exec /nonexistent/program" in daemon.script.log()
    daemon.script.signal(SIGKILL)


@pytest.mark.parametrize("side", SIDES)
def test_a_folder_that_is_not_there_is_a_failed_start(launch_side: Launch, side: str) -> None:
    daemon = launch_side(side, "--dir=/nonexistent/folder")
    daemon.script.wait_log(r"^new worker \d+ seems to have failed to start, exit status:\d+$")
    daemon.script.wait_log("^failed to chdir:/nonexistent/folder:No such file or directory")
    daemon.script.signal(SIGKILL)
