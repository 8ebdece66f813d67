"""Options from a file and from variables: who wins, what `check --config` and `config` say, and what a new image of the manager reads."""

from __future__ import annotations

import os
import pwd
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

from cli.programs import plain, wait_started
from daemon.programs import holder, readable_python
from fcgi_procmanager.cli.configcheck import commands
from fcgi_procmanager.cli.sources import variable
from fcgi_procmanager.cli.start_server import variables
from harness import fcgi
from harness.process import Script, children, cmdline, session, wait_dead, wait_until

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Run = Callable[..., Script]

APP = """
import os

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [os.getcwd().encode()]
"""

COMMAND = ("-m", "fcgi_procmanager")
SUPERDAEMON = ("-m", "fcgi_procmanager.starter")
SHELL = ("-c", "import os, sys; os.setuid(int(sys.argv[1])); os.execv(sys.executable, [sys.executable, *sys.argv[2:]])")


class Place:
    """A folder with an application and a file of options, `pools.toml`; `/SOCK` in that file is the socket."""

    def __init__(self, folder: Path, run: Run, sock_path: str) -> None:
        self.folder, self.sock, self.file = folder, sock_path, folder / "pools.toml"
        self._run = run
        folder.mkdir()
        (folder / "myapp.py").write_text(APP)

    def write(self, text: str) -> None:
        """At once, so that nobody reads half of it."""
        aside = self.folder / "aside"
        aside.write_text(text.replace("/SOCK", self.sock))
        os.rename(aside, self.file)

    def command(self, *words: object, program: tuple[str, ...] = COMMAND, **more: Any) -> Script:
        return self._run([sys.executable, *program, *map(str, words)], **{"cwd": self.folder, **more})

    def refusal(self, *words: object, **more: Any) -> str:
        """The one line with which the command ends."""
        script = self.command(*words, **more)
        assert script.wait() == 2, script.log()
        (line,) = script.log().splitlines()
        return line.removeprefix("fcgi-procmanager: ")

    def check(self, text: str, status: int) -> list[str]:
        self.write(text)
        script = self.command("check", "--config", "pools.toml")
        assert script.wait() == status, script.log()
        return [*script.output().splitlines(), *script.log().splitlines()]

    def config(self, *words: object, **more: Any) -> str:
        script = self.command("config", *words, **more)
        assert script.wait() == 0, script.log()
        assert script.log() == ""
        return script.output()

    def origins(self, *words: object, **more: Any) -> dict[str, tuple[str, str]]:
        """Of each option that comes from somewhere: its value, and from where."""
        found = re.findall(r"^([a-z-]+) = (.*?) +# (.*)$", self.config(*words, **more), re.MULTILINE)
        return {key: (value, origin) for key, value, origin in found}

    def serve(self, *words: object, log: Path | None = None, **more: Any) -> Script:
        """With one worker, which is ready."""
        script = self.command("serve", *words, **more)
        if log is None:
            script.wait_ready()
        else:
            told = lambda: log.read_text() if log.exists() else ""  # noqa: E731
            wait_until(lambda: re.search(r"server \(pid \d+\) started$", told(), re.MULTILINE), 20, told)
        return script

    def ready(self, script: Script) -> list[int]:
        return [pid for pid in without_canary(script.pid) if not cmdline(pid).endswith(" (starting)")]

    def ask(self) -> str:
        return fcgi.fetch(self.sock, timeout=20).text


@pytest.fixture
def place(tmp_path: Path, run_script: Run, sock_path: str) -> Place:
    return Place(tmp_path / "place", run_script, sock_path)


# -- who wins -------------------------------------------------------------------------------------------------------------


def test_the_command_line_comes_before_variables_before_the_file(place: Place) -> None:
    place.write("""
        [pool.web]
        application = "myapp"
        processes = 3
        die_timeout = 30
        start-delay = 0.5
        listen = ["one.sock", ":9000"]
        preload = true
        daemon = true
        socket-mode = 0o640
        reload-mode = "plain"
    """)
    words = ("--config", "pools.toml", "-n", "5", "--no-daemon", "--log-file", "log")
    env = {"PROCESSES": "4", "DIE_TIMEOUT": "20", "PRELOAD": "no", "WATCH": "YES", "GROUP": "", "LISTEN": "'a b' fd:7"}
    found = place.origins(*words, env={f"FCGI_PROCMANAGER_{name}": value for name, value in env.items()})
    here = place.folder
    assert found == {
        "application": ('"myapp"', "pools.toml:3"),
        "processes": ("5", "command line"),
        "listen": (f'["{here}/a b", "fd:7"]', "FCGI_PROCMANAGER_LISTEN"),
        "preload": ("false", "FCGI_PROCMANAGER_PRELOAD"),
        "socket-mode": ("0o640", "pools.toml:10"),
        "die-timeout": ("20", "FCGI_PROCMANAGER_DIE_TIMEOUT"),
        "start-delay": ("0.5", "pools.toml:6"),
        "log-file": (f'"{here}/log"', "command line"),
        "daemon": ("false", "command line"),
        "watch": ("true", "FCGI_PROCMANAGER_WATCH"),
        "reload-mode": ('"plain"', "pools.toml:11"),
    }


@pytest.mark.parametrize("how", ["option", "variable"])
def test_a_log_file_of_the_file_is_taken_back(place: Place, how: str) -> None:
    place.write(POOL.format(processes=1, more='log-file = "log"'))
    words, env = (["--log-file", "-"], {}) if how == "option" else ([], {"FCGI_PROCMANAGER_LOG_FILE": "-"})
    origin = "command line" if how == "option" else "FCGI_PROCMANAGER_LOG_FILE"
    assert place.origins("--config", "pools.toml", *words, env=env)["log-file"] == ('"-"', origin)
    script = place.serve("--config", "pools.toml", *words, env=env)
    assert script.stop() == 0
    assert not (place.folder / "log").exists()


def test_the_command_line_takes_back_a_log_file_of_a_variable(place: Place) -> None:
    env = {"FCGI_PROCMANAGER_LOG_FILE": "log"}
    assert place.origins("myapp", "--log-file", "-", env=env)["log-file"] == ('"-"', "command line")


def test_what_config_prints_is_a_file_with_the_same_meaning(place: Place) -> None:
    words = (
        "serve",
        "my\u00e4pp:app",
        "-n",
        "3",
        "--listen",
        's "x".sock',
        "--socket-mode",
        "640",
        "--body-limit",
        "2M",
    )
    printed = place.config(*words, "--drain-delay", "0.25", "--watch", "--process-name", "a\tb\\")
    assert tomllib.loads(printed)["pool"]["main"] == {
        **{
            "application": "my\u00e4pp:app",
            "processes": 3,
            "listen": [f'{place.folder}/s "x".sock'],
            "socket-mode": 0o640,
        },
        **{"body-limit": 2 << 20, "drain-delay": 0.25, "watch": True, "process-name": "a\tb\\"},
    }
    place.write(printed)
    again = place.config("--config", place.file, cwd="/")
    assert tomllib.loads(again) == tomllib.loads(printed)
    assert "# die-timeout = 60 " in printed  # a default is a comment


def test_what_config_prints_of_the_superdaemon_is_a_file_with_the_same_meaning(place: Place) -> None:
    place.write("""
        [superdaemon]
        port = ["127.0.0.1:8080", 8081]
        command = ["./app", "-x"]
        pid-file = "pid"
        socket-mode = 0o600
        interval = 2.5
    """)
    words = ("superdaemon", "--config", "pools.toml", "--interval", "4", "--", "app2", "y")
    printed = place.config(*words, env={"FCGI_PROCMANAGER_SUPERDAEMON_BACKLOG": "64"})
    wanted = {
        "port": ["127.0.0.1:8080", "8081"],
        "command": ["app2", "y"],
        "pid-file": f"{place.folder}/pid",
        "socket-mode": 0o600,
        "interval": 4,
        "backlog": 64,
    }
    assert tomllib.loads(printed) == {"superdaemon": wanted}
    for value, origin in (("backlog = 64", "FCGI_PROCMANAGER_SUPERDAEMON_BACKLOG"), ("interval = 4", "command line")):
        assert re.search(rf"^{value} +# {origin}$", printed, re.MULTILINE)
    assert re.search(r"^socket-mode = 0o600 +# pools.toml:\d+$", printed, re.MULTILINE)
    assert re.search(r"^# die-timeout = 60 +# default$", printed, re.MULTILINE)
    place.write(printed)
    assert tomllib.loads(place.config("superdaemon", "--config", place.file, cwd="/")) == {"superdaemon": wanted}


def test_the_command_of_a_pool_is_seen_by_what_it_runs(place: Place) -> None:
    place.write('[pool.maps]\ncommand = ["./maps", "-x"]\nenv = "A=1"\n')
    assert place.config("--config", "pools.toml").startswith("# exec\n[pool.maps]\n")
    found = place.origins("exec", "-n", "4", "--", "maps", "--help")
    assert found == {"command": ('["maps", "--help"]', "command line"), "processes": ("4", "command line")}


def test_every_option_of_a_command_may_come_from_elsewhere() -> None:
    """And no variable has a name that means something else between our own processes."""
    others = {f"FCGI_PROCMANAGER_{name}" for name in ("HANDOVER", "HANDOVER_PID", "RELOAD")}
    for name, command in commands().items():
        typed = {action.dest for action in command.parser._actions}
        keys = {key.replace("-", "_") for key in command.keys}
        assert typed - keys == {"help"}, name
        assert not others & {variable(key) for key in command.keys}
    assert "FCGI_PROCMANAGER_SUPERDAEMON_PID_FILE" in variables()


# -- mistakes -------------------------------------------------------------------------------------------------------------

WRONG = """\
processes = 4
[pool.web]
application = "myapp"
proceses = 4
die_timeot = 30
"listen" = [":9000", ":99999"]
daemon = "yes"
socket-mode = 680
process-name = \"\"\"
pidfile = 3
[pool.no]
\"\"\"
reload-mode = "rollin"
die-timeout = [1,
               2]
start-delay = 1
start_delay = 2
config = "other.toml"
limits.memory = 3
log-file = 2001-01-01
[pool.maps]
command = "maps"
stop-signal = "FOO"
[pool.qgis]
command = ["qgis"]
env = ["A"]
[pool.both]
command = ["qgis"]
application = "myapp"
[pool.dev]
application = "x"
watch = true
processes = 0
[pool.look]
"" = 1
[pool.see]
web = "here"
[superdaemn]
[superdaemon]
prot = 8080
interval = "x"
"""

WHAT_IS_WRONG = """\
1: unknown key processes; options are in [pool.NAME] or [superdaemon]
4: unknown key proceses; did you mean processes?
5: unknown key die_timeot; did you mean die_timeout?
6: listen: address ':99999' has port 99999: a port is a number from 0 to 65535
7: daemon must be true or false, not "yes"
8: socket-mode: '680' is not a file mode: give three octal digits, such as 660
13: reload-mode: 'rollin' is none of rolling, plain; did you mean rolling?
14: die-timeout must be a string or a number, not a list
17: start_delay is given twice, with a dash and with an underscore
18: unknown key config
19: unknown table limits; did you mean body-limit?
20: log-file must be a string or a number, not 2001-01-01
22: command must be a list, such as ["/usr/bin/app", "-x"], not "maps"
26: --env 'A' is not understood: give NAME=VALUE
27: [pool.both] is one pool: it has either an application or a command
32: --watch needs a worker process: give -n 1 or more
35: unknown key ''
37: --web 'here' is not understood: give HOST:PORT, such as 127.0.0.1:8000
38: unknown table superdaemn; did you mean superdaemon?
40: unknown key prot; did you mean port?
41: interval: 'x' is not a number
"""


def test_check_tells_each_mistake_with_its_line(place: Place) -> None:
    assert place.check(WRONG, 2) == [f"pools.toml:{line}" for line in WHAT_IS_WRONG.splitlines()]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[pool.web]\nprocesses = \nlisten = 3\n", r"pools.toml:2: this is not TOML: Invalid value \(column 13\)"),
        ("[pool.web]\na = 1\n\na = 2\n", r"pools.toml:4: this is not TOML: Cannot overwrite a value"),
        ('[pool.web]\napplication = "myapp', r"pools.toml:2: this is not TOML: .*"),
        ("a = " + "[" * 5000, r"pools.toml.*: .*"),
        ("", r"pools.toml: there is nothing in it: write a table \[pool.NAME\]"),
        ("pool = 3", r"pools.toml:1: pool must be a table: write \[pool.NAME\]"),
        ("[[pool]]\nprocesses = 3", r"pools.toml:1: pool must be a table: write \[pool.NAME\]"),
        ("[pool]\nprocesses = 3", r"pools.toml:2: processes is in no pool: pools have names, as in \[pool.NAME\]"),
    ],
)
def test_check_tells_what_is_no_file_of_options(place: Place, text: str, line: str) -> None:
    (found,) = place.check(text, 2)
    assert re.match(line, found)


def test_check_says_what_is_in_a_file_that_is_in_order(place: Place) -> None:
    text = """
        [pool.web]
        application = "no_such_module:app"
        [pool.maps]
        command = ["no-such-program"]
        listen = "maps.sock"
        [superdaemon]
        port = 8080
        command = ["sleep", "1"]
    """
    assert place.check(text, 0) == ["pools.toml is in order: pool web (serve), pool maps (exec), superdaemon"]
    script = place.command("check", "--config", "pools.toml", "myapp", env={"FCGI_PROCMANAGER_PROCESES": "3"})
    assert script.wait() == 0
    assert script.output().splitlines()[1].startswith("myapp answers GET / with 200 OK")
    warning = "warning: the variable FCGI_PROCMANAGER_PROCESES is unknown; did you mean FCGI_PROCMANAGER_PROCESSES?"
    assert script.log() == f"fcgi-procmanager: {warning}\n"


def test_a_file_that_is_not_utf_8(place: Place) -> None:
    place.file.write_bytes(b"[pool.web]\nuser = '\xff'\n")
    assert place.refusal("serve", "--config", "pools.toml") == "pools.toml:2: this is not UTF-8, as TOML has to be"


@pytest.mark.parametrize(
    ("words", "env", "line"),
    [
        ("serve --config no", {}, "no: No such file or directory: name a file that can be read"),
        ("serve", {"CONFIG": "pools.toml"}, "pools.toml: there are several pools, web, maps, bad: choose one by --pool-name NAME"),
        ("serve --config pools.toml --pool-name wbe", {}, "pools.toml: there is no pool 'wbe': it has web, maps, bad; did you mean web?"),
        ("serve --config pools.toml", {"POOL_NAME": "maps"}, "pools.toml:5: [pool.maps] has the key command: run it by 'exec', not by 'serve'"),
        ("exec --config pools.toml --pool-name web", {}, "pools.toml:2: [pool.web] has the key application: run it by 'serve', not by 'exec'"),
        ("serve --config pools.toml --pool-name bad", {}, "pools.toml:7: unknown key proceses; did you mean processes? "
         "(and 1 more: see 'fcgi-procmanager check --config pools.toml')"),
        ("serve --config only.toml", {}, "only.toml:1: [pool.web] has no key application, and the command line names none"),
        ("serve --config none.toml", {}, "none.toml: there is no pool in it: write a table [pool.NAME]"),
        ("serve myapp", {"PROCESSES": "two"}, "FCGI_PROCMANAGER_PROCESSES: 'two' is not a whole number: give one from 0 up"),
        ("serve myapp", {"PRELOAD": "maybe"}, "FCGI_PROCMANAGER_PRELOAD: 'maybe' is neither yes nor no: give 1 or 0"),
        ("serve myapp", {"LISTEN": "'a"}, "FCGI_PROCMANAGER_LISTEN: No closing quotation: give words as in a shell"),
        ("check --config=", {}, "--config: name a file"),
        ("config serve --lisen x", {}, "unknown option '--lisen' (did you mean --listen?); see 'fcgi-procmanager serve --help'"),
        ("check", {}, "the following arguments are required: MODULE:NAME, or --config FILE; see 'fcgi-procmanager check --help'"),
    ],
)  # fmt: skip
def test_what_a_person_can_do_wrong_is_one_line(place: Place, words: str, env: dict[str, str], line: str) -> None:
    place.write(
        '[pool.web]\napplication = "a"\nuser = "x"\n[pool.maps]\ncommand = ["a"]\n[pool.bad]\nproceses = 1\nlog = 2\n'
    )
    (place.folder / "only.toml").write_text("[pool.web]\nprocesses = 1\n")
    (place.folder / "none.toml").write_text("[superdaemon]\n")
    env = {f"FCGI_PROCMANAGER_{name}": value for name, value in env.items()}
    assert place.refusal(*words.split(), env=env) == line


# -- who may write the file -----------------------------------------------------------------------------------------------


def test_what_is_no_regular_file_is_refused_at_once(place: Place) -> None:
    os.mkfifo(place.file)
    expected = "pools.toml is not a regular file: it is read again at a reload, so give one"
    assert place.refusal("serve", "--config", "pools.toml") == expected


@pytest.mark.skipif(os.geteuid() != 0, reason="this is for root")
def test_root_does_not_believe_what_anybody_may_have_written(place: Place) -> None:
    place.write('[pool.web]\napplication = "myapp"\n')
    place.file.chmod(0o646)
    expected = "pools.toml can be written by anybody, and this is root: take that away with 'chmod o-w'"
    assert place.refusal("serve", "--config", "pools.toml") == expected
    place.file.chmod(0o644)
    place.folder.chmod(0o777)
    assert place.refusal("config", "--config", "pools.toml") == expected.replace("pools.toml", ".")
    place.folder.chmod(0o1777)  # nobody can replace what is another's
    assert place.config("--config", "pools.toml")


@pytest.fixture
def open_place(place: Place) -> Iterator[Place]:
    """One that everybody can enter."""
    folder = Path(os.path.dirname(place.sock))
    place.folder, place.file = folder, folder / "pools.toml"
    folder.chmod(0o755)
    yield place
    place.file.unlink(missing_ok=True)


def test_others_are_warned(open_place: Place, run_script: Run) -> None:
    python, env = readable_python()
    open_place.write('[pool.web]\napplication = "myapp"\n')
    open_place.file.chmod(0o646)
    uid = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else os.geteuid()
    words = [python, *SHELL, uid, *COMMAND, "config", "--config", "pools.toml"]
    script = run_script(list(map(str, words)), cwd=open_place.folder, env=env)
    assert script.wait() == 0, script.log()
    warning = "warning: pools.toml can be written by anybody: take that away with 'chmod o-w'"
    assert script.log() == f"fcgi-procmanager: {warning}\n"
    assert "[pool.web]" in script.output()


# -- pools ----------------------------------------------------------------------------------------------------------------

POOL = """
[pool.web]
application = "myapp"
processes = {processes}
listen = "/SOCK"
pidfile = "pid"
die-timeout = 20
{more}
"""


def test_paths_in_a_file_are_meant_from_its_folder(place: Place, tmp_path: Path) -> None:
    """And the file is found again by the name that was given, wherever the pool runs."""
    place.write(POOL.format(processes=1, more='chdir = "."\nlog-file = "log"'))
    script = place.serve("--config", "place/pools.toml", log=place.folder / "log", cwd=tmp_path)
    assert place.ask() == str(place.folder)
    assert (place.folder / "pid").read_text() == f"{script.pid}\n"
    assert script.stop() == 0


def test_chdir_and_daemon_of_the_command_line(place: Place, tmp_path: Path) -> None:
    place.write(POOL.format(processes=1, more="daemon = true"))
    script = place.command(
        "serve", "--config", "place/pools.toml", "--chdir", "place", "--log-file", "log", cwd=tmp_path
    )
    assert script.wait() == 0, script.log()
    assert script.log() == ""
    manager = holder(place.folder / "pid")
    assert place.ask() == str(place.folder)
    place.write(POOL.format(processes=2, more="daemon = true"))
    os.kill(manager, signal.SIGUSR2)
    wait_until(lambda: len(without_canary(manager)) == 2, 30, (tmp_path / "log").read_text)
    os.kill(manager, signal.SIGTERM)
    wait_dead(manager)
    script.tree_gone()


def without_canary(manager: int) -> list[int]:
    """Its workers. A canary has a session of its own."""
    return [pid for pid in children(manager) if session(pid) not in (pid, None)]


@pytest.mark.parametrize("preload", [False, True])
def test_usr2_reads_the_file_again_and_a_broken_one_changes_nothing(place: Place, preload: bool) -> None:
    more = "preload = true" if preload else ""
    place.write(POOL.format(processes=1, more=more))
    script = place.serve("--config", "pools.toml")
    (old,) = script.workers()
    place.write(POOL.format(processes='"two"', more=more))
    script.signal(signal.SIGUSR2)
    why = "pools.toml:4: processes: 'two' is not a whole number: give one from 0 up"
    script.wait_log(f"ERROR FastCGI: manager .*: reload failed: {why}; 1 old servers go on$")
    assert script.wait_workers(1) == [old]
    assert place.ask() == str(place.folder)
    changed = POOL.format(processes=3, more=more + "\nmanager-process-name = 'renamed'")
    place.write(changed.replace("/SOCK", "/SOCK2"))
    script.signal(signal.SIGUSR2)
    wait_until(lambda: len(place.ready(script)) == 3 and old not in script.workers(), 30, script.log)
    assert cmdline(script.pid).startswith("renamed")
    assert fcgi.fetch(f"{place.sock}2").text == str(place.folder)
    assert not os.path.exists(place.sock)
    assert script.stop() == 0


def test_reload_brings_new_options_once_the_file_has_changed(place: Place) -> None:
    place.write(POOL.format(processes=1, more=""))
    script = place.serve("--config", "pools.toml")
    place.write(POOL.format(processes=1, more="manager-process-name = 'renamed'"))
    reload = place.command("reload", "--pidfile", "pid")
    assert reload.wait(60) == 0, reload.log() + script.log()
    assert cmdline(script.pid).startswith("renamed")
    place.file.unlink()
    reload = place.command("reload", "--pidfile", "pid")
    assert reload.wait(60) == 1
    assert "pools.toml: No such file or directory" in reload.log()
    assert script.stop() == 0


def test_exec_takes_its_program_from_the_file(place: Place) -> None:
    """And what is said to it is not said to the program."""
    program = ", ".join(f'"{word}"' for word in plain(place.folder))
    place.write(f'[pool.maps]\ncommand = [{program}]\nlisten = "/SOCK"\nenv = ["GIVEN=from the file"]\n')
    env = {"FCGI_PROCMANAGER_PROCESSES": "1", "FCGI_PROCMANAGER_CONFIG": "pools.toml", "OTHER": "kept"}
    script = place.command("exec", env=env)
    wait_started(script, 1)
    answers = {name: fcgi.fetch(place.sock, f"/env/{name}", timeout=20).text for name in (*env, "GIVEN")}
    gone = dict.fromkeys(env, "is not set")
    assert answers == {**gone, "OTHER": "kept", "GIVEN": "from the file"}
    assert script.stop() == 0


# -- the superdaemon ------------------------------------------------------------------------------------------------------


def test_a_superdaemon_by_a_file(place: Place, tmp_path: Path) -> None:
    place.write(f"""
        [superdaemon]
        path = "/SOCK"
        pid-file = "pid"
        status_file = "status"
        interval = 0.1
        command = ["{sys.executable}", "-c", "import signal; signal.pause()"]
    """)
    words, status = ("--config", "place/pools.toml"), place.folder / "status"
    env = {"FCGI_PROCMANAGER_SUPERDAEMON_STATUS_FILE": str(status), "FCGI_PROCMANAGER_SUPERDAEMON_DIE_TIMEOUT": "20"}
    script = place.command(*words, program=SUPERDAEMON, cwd=tmp_path, env=env)
    wait_until(lambda: status.exists() and status.read_text().startswith("1:"), 20, script.log)
    assert (place.folder / "pid").read_text().strip() == str(script.pid)
    restart = place.command("--restart", *words, program=SUPERDAEMON, cwd=tmp_path)
    assert restart.wait(60) == 0, restart.log()
    assert status.read_text().startswith("2:")
    stop = place.command("--stop", *words, program=SUPERDAEMON, cwd=tmp_path)
    assert stop.wait(60) == 0, stop.log()
    assert script.wait() == 0, script.log()


@pytest.mark.parametrize(
    ("text", "env", "line"),
    [
        ("[pool.web]", {}, "pools.toml: there is no superdaemon in it: write a table [superdaemon]"),
        ("[superdaemon]\nprot = 8080", {}, "pools.toml:2: unknown key prot; did you mean port?"),
        ("[superdaemon]\ninterval = 'x'", {}, "pools.toml:2: interval: 'x' is not a number"),
        ("[superdaemon]\nsocket-mode = 999", {}, "pools.toml:2: socket-mode: --socket-mode '999' is not a file mode: "
         "give three octal digits, such as 660"),
        ("[superdaemon]", {"BACKLOG": "1.5"}, "FCGI_PROCMANAGER_SUPERDAEMON_BACKLOG: "
         'Value "1.5" invalid for option backlog (number expected)'),
        ("[superdaemon]", {}, "server program not specified"),
    ],
)  # fmt: skip
def test_what_can_be_wrong_of_a_superdaemon(place: Place, text: str, env: dict[str, str], line: str) -> None:
    place.write(text)
    env = {f"FCGI_PROCMANAGER_SUPERDAEMON_{name}": value for name, value in env.items()}
    assert place.refusal("--config", "pools.toml", program=SUPERDAEMON, env=env) == line
