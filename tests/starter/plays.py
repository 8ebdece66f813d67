"""The cases of test_formats_and_messages.py: one scenario, played on each side, and what is known to differ."""

from __future__ import annotations

import itertools
import re
from signal import SIGINT, SIGKILL, SIGTERM
from typing import Callable, NamedTuple

from harness.process import free_port, wait_until
from starter.sides import CEILING, Superdaemon, descriptors_hidden, write_over


class Case(NamedTuple):
    play: Callable[[Play], None]
    options: tuple[str, ...]
    words: tuple[str, ...]
    differences: tuple[tuple[str, str, str], ...]
    env: dict[str, str]


class Play:
    """One side of a case while it runs, and the facts that it notes."""

    def __init__(self, daemon: Superdaemon) -> None:
        self.daemon = daemon
        self.facts: list[str] = []

    def note(self, *words: object) -> None:
        self.facts.append("fact: " + " ".join(map(str, words)).replace(self.daemon.sock, "SOCK"))

    def note_file(self, name: str) -> None:
        """The bytes of a file, in which pids are known by their names."""
        text = self.daemon.file(name).read_bytes().decode()
        workers = {str(pid): f"WORKER{number}" for number, pid in self.daemon.status().items()}
        names = {str(self.daemon.pid): "SUPER", **workers}
        self.note(name, repr(re.sub(r"\d+", lambda found: names.get(found[0], found[0]), text)))

    def hup(self, *generations: int) -> None:
        self.daemon.hup()
        self.daemon.wait_status(*generations)

    def hold(self) -> None:
        """Old workers stay until `release`. What they are asked to leave after would be over before a busy test looks."""
        self.daemon.file("hold").touch()

    def release(self, old: int, new: int) -> None:
        """Both are there, and the old one may leave when it has been asked to."""
        self.daemon.wait_status(old, new)
        self.daemon.wait_event(rf"got TERM {old} \d+")
        self.daemon.file("hold").unlink()
        self.daemon.wait_status(new)

    def end(self, *number: int) -> None:
        self.note("status", self.daemon.end(*number))

    def story(self) -> list[str]:
        """The facts and the log; workers may die in any order."""
        runs = itertools.groupby(self.daemon.log(), key=lambda line: bool(DEATH.match(line)))
        return [*self.facts, *(line for deaths, run in runs for line in (sorted(run) if deaths else run))]


CASES: dict[str, Case] = {}

DEATH = re.compile(r"(old )?worker \w+ died, status:")

HELD = ("hold=DIR/hold",)

FORCED = "new worker is now running, sending TERM to old workers:"
NO_FOLDER = "failed to read envdir:DIR/missing:No such file or directory: going on without it"


Player = Callable[[Play], None]


def case(
    *options: str,
    words: tuple[str, ...] = (),
    differs: tuple[tuple[str, str, str], ...] = (),
    **env: str,
) -> Callable[[Player], Player]:
    """Register a case. A difference is the line of Perl, ours (either may be empty for none), and the reason."""

    def register(play: Player) -> Player:
        CASES[play.__name__] = Case(play, options, words, differs, env)
        return play

    return register


@case("--path=SOCK", "--pid-file=DIR/pid")
def start_and_term(play: Play) -> None:
    play.daemon.wait_status(1)
    play.note_file("pid")
    play.note_file("status")
    play.end()
    play.note("files left:", sorted(path.name for path in play.daemon.folder.iterdir() if path.is_file()))


@case("--path=SOCK")
def start_and_int(play: Play) -> None:
    play.daemon.wait_status(1)
    play.end(SIGINT)


@case("--path=SOCK", "--signal-on-term=usr1", "--signal-on-hup", "SIGUSR2", words=HELD)
def hup_and_signals_by_name(play: Play) -> None:
    play.hold()
    play.daemon.wait_status(1)
    play.hup(1, 2)
    play.daemon.wait_event(r"got USR2 1 \d+")
    play.note_file("status")
    play.daemon.file("hold").unlink()
    play.daemon.wait_status(2)
    play.end()
    play.note(play.daemon.wait_event(r"got (\S+) 2 \d+")[0][1])


@case("--path=SOCK", "--signal-on-term=USR1")
def int_is_answered_with_term(play: Play) -> None:
    play.daemon.wait_status(1)
    play.end(SIGINT)
    play.note(play.daemon.wait_event(r"got (\S+) 1 \d+")[0][1])


@case("--path=SOCK", words=HELD)
def term_while_an_old_worker_is_there(play: Play) -> None:
    play.hold()
    play.daemon.wait_status(1)
    play.hup(1, 2)
    play.daemon.script.wait_log("^killing old workers$", timeout=CEILING)
    play.daemon.send(SIGTERM)
    play.daemon.wait_event(r"got TERM 2 \d+")
    play.daemon.file("hold").unlink()
    play.note("status", play.daemon.script.wait(CEILING))


@case("--path=SOCK", "--interval=3", words=("fail=1,3",))
def failing_starts(play: Play) -> None:
    play.daemon.wait_status(2)
    play.note("generation", play.daemon.who()[0])
    play.hup(4)
    play.note("generation", play.daemon.ask("env SERVER_STARTER_GENERATION"))
    play.end()


@case("--path=SOCK")
def worker_that_exits(play: Play) -> None:
    play.daemon.wait_status(1)
    play.daemon.ask("exit 5")
    play.daemon.wait_status(2)
    play.end()


@case("--path=SOCK")
def worker_that_is_killed(play: Play) -> None:
    play.daemon.script.signal(SIGKILL, play.daemon.wait_status(1)[1])
    play.daemon.wait_status(2)
    play.end()


@case("--path=SOCK", "--kill-old-delay=2", words=HELD)
def kill_old_delay(play: Play) -> None:
    play.hold()
    play.daemon.wait_status(1)
    play.daemon.hup()
    play.release(1, 2)
    play.end()


# Restarts by themselves go on, whatever the test does. So the last one that a story tells of makes the interval long.
CALM = "--envdir=DIR/calm"


@case(
    "--path=SOCK",
    "--enable-auto-restart",
    "--auto-restart-interval=4",
    "--kill-old-delay=1",
    CALM,
    words=(*HELD, "calm=2"),
)
def auto_restart(play: Play) -> None:
    play.hold()
    play.release(1, 2)
    play.end()


@case(
    "--path=SOCK",
    "--enable-auto-restart",
    "--auto-restart-interval=3",
    "--kill-old-delay=1",
    CALM,
    words=(*HELD, "calm=3"),
    differs=((FORCED + "B,C", FORCED + "C", "who has been asked already is not asked again"),),
)
def auto_restart_that_is_forced(play: Play) -> None:
    """The old worker of the first one is still there when the second is due."""
    play.hold()
    play.daemon.wait_status(1, 2, 3)
    play.daemon.wait_event(r"got TERM 2 \d+")
    play.daemon.file("hold").unlink()
    play.daemon.wait_status(3)
    play.end()


@case("--path=SOCK", "--envdir=DIR/env", words=HELD)
def envdir_of_the_superdaemon_itself(play: Play) -> None:
    """Its own options are read from there at each turn: the delay of the third generation comes from a new file."""
    play.hold()
    play.daemon.wait_status(1)
    play.daemon.hup()
    play.release(1, 2)
    play.daemon.come_to_rest()
    write_over(play.daemon.file("env") / "KILL_OLD_DELAY", "2\n")
    write_over(play.daemon.file("env") / "COLOUR", "blue")
    play.hold()
    play.daemon.hup()
    play.release(2, 3)
    play.note("generation", play.daemon.who()[0], play.daemon.ask("env KILL_OLD_DELAY"), play.daemon.ask("env COLOUR"))
    play.end()


@case("--path=SOCK", "--envdir=DIR/missing", differs=(("", NO_FOLDER, "a folder that is not there is said, once"),))
def envdir_that_is_not_there(play: Play) -> None:
    play.daemon.wait_status(1)
    play.hup(2)
    play.end()


@case(
    "--path=SOCK",
    CALM,
    words=(*HELD, "calm=2"),
    ENABLE_AUTO_RESTART="1",
    AUTO_RESTART_INTERVAL="4",
    KILL_OLD_DELAY="1",
)
def options_of_the_environment(play: Play) -> None:
    auto_restart(play)


@case(
    "--path=SOCK",
    "--kill-old-delay=0",
    "--auto-restart-interval=4",
    CALM,
    words=("calm=2",),
    KILL_OLD_DELAY="60",
    AUTO_RESTART_INTERVAL="60",
    ENABLE_AUTO_RESTART="1",
)
def options_before_the_environment(play: Play) -> None:
    play.daemon.wait_status(2)
    play.end()


@case("--path=SOCK", "--kill-old-delay=0", words=HELD, ENVDIR="DIR/env")
def envdir_of_the_environment(play: Play) -> None:
    """It comes before the option."""
    play.hold()
    play.daemon.wait_status(1)
    play.note(play.daemon.ask("env KILL_OLD_DELAY"), play.daemon.ask("env COLOUR"))
    play.daemon.hup()
    play.release(1, 2)
    play.end()


@case(
    "--port=127.0.0.1:PORT1",
    "--path=SOCK",
    "--port=PORT2",
    "--port=[::1]:PORT3",
    "--port=localhost:PORT4",
    "--path=SOCK.2",
)
def ports_of_the_environment(play: Play) -> None:
    play.daemon.wait_status(1)
    play.note(descriptors_hidden(play.daemon.ask("env SERVER_STARTER_PORT")))
    play.end()


@case("--path=SOCK", "--port=127.0.0.1:PORT1=30", "--port=127.0.0.1:uPORT2", "--port=uPORT3=31")
def ports_with_descriptors(play: Play) -> None:
    play.daemon.wait_status(1)
    shown = play.daemon.ask("env SERVER_STARTER_PORT")
    play.note(re.findall(r"=(3[01]);", shown), descriptors_hidden(shown))
    play.end()


@case("--path=SOCK", "--log-file=DIR/log")
def log_file(play: Play) -> None:
    play.daemon.wait_status(1)
    play.daemon.ask("print from the worker")
    play.hup(2)
    play.end()
    play.facts += play.daemon.log(play.daemon.file("log").read_text())


@case("--path=SOCK", "--log-file=| tee DIR/one > DIR/log")
def log_command(play: Play) -> None:
    play.daemon.wait_status(1)
    play.daemon.ask("print from the worker")
    play.hup(2)
    play.end()
    # Nobody waits for the logger.
    log = play.daemon.file("log")
    wait_until(lambda: log.exists() and log.read_text().endswith("exiting\n"), CEILING, "the end of the log")
    play.facts += play.daemon.log(play.daemon.file("log").read_text())


@case("--path=SOCK", "--backlog=17", "-interval", "1", "--kill=0", "-signal-on-h=USR1")
def one_dash_and_prefixes(play: Play) -> None:
    play.daemon.wait_status(1)
    play.hup(2)
    play.note(play.daemon.wait_event(r"got (\S+) 1 \d+")[0][1])
    play.end()


@case("--path=SOCK", "--interval=3")
def survival_time(play: Play) -> None:
    age = play.daemon.age(play.daemon.wait_status(1)[1])
    play.note("not before its time:", age > 2.9, "but then:", age < 30)
    play.end()


PORTS = re.compile(r"PORT(\d)")


def with_free_ports(options: tuple[str, ...]) -> list[str]:
    """PORT1, PORT2... replaced by ports that are free now."""
    ports: dict[str, str] = {}
    return [PORTS.sub(lambda found: ports.setdefault(found[0], str(free_port())), option) for option in options]
