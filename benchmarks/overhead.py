"""What our own code costs on top of the bare system calls, and the two hooks beside those of Perl, in microseconds of CPU.

Everything is measured inside one worker, which plays its own web server between the measurements; see applications/inside.py.
"""

from __future__ import annotations

import json
import socket
import sys

import common
from common import APPLICATIONS, Aim, Failed, Figure, Program, Stage, figure, progress, ratios

HOOKS = 5000
REQUESTS = 200
ON_TOP = 35  # microseconds
OF_PERL = 0.2


def main() -> None:
    parser = common.options(__doc__ or "")
    parser.add_argument("--rounds", type=int, metavar="N", help="100, with --quick 15")
    given = parser.parse_args()
    rounds = given.rounds or (15 if given.quick else 100)
    with Stage() as stage:
        found = _measure(stage, rounds)
    conditions = f"{common.machine()}; {rounds} rounds of {REQUESTS} requests."
    if given.json:
        given.json.write_text(json.dumps({"conditions": conditions, "rounds": found}, indent=1) + "\n")
    common.publish(given.page, "overhead", conditions + "\n\n" + _report(found))
    common.publish(given.page, "overhead aims", Aim.table(_aims(found)))


def _measure(stage: Stage, rounds: int) -> list[dict[str, float]]:
    path = stage.directory / "sock"
    ours = stage.start("ours", [sys.executable, APPLICATIONS / "inside.py", path, REQUESTS], talks=True)
    perl = _perl(stage)
    ours.say("begin")
    ours.until(lambda: common.listens(path), "its socket")
    first = socket.socket(socket.AF_UNIX)
    first.connect(str(path))
    first.send(common.request())
    found = []
    for number in range(-1, rounds):
        ours.say("next")
        measured = json.loads(ours.line())
        if perl is not None:
            perl.say("next")
            measured["perl"] = float(perl.line())
        if number >= 0:  # the first warms up
            found.append(measured)
            progress(f"round {number + 1}  " + "  ".join(f"{what} {value:.2f}" for what, value in measured.items()))
    first.close()
    return found


def _perl(stage: Stage) -> Program | None:
    if not common.perl_version("FCGI::ProcManager"):
        progress("skipped: perl: FCGI::ProcManager of Perl is not installed")
        return None
    return stage.start("perl", [common.find("perl"), APPLICATIONS / "hooks.pl", HOOKS], talks=True)


def _column(found: list[dict[str, float]], what: str) -> list[float]:
    return [one[what] for one in found if what in one]


def _on_top(found: list[dict[str, float]], what: str) -> Figure:
    return figure(one[what] - one["bare"] for one in found)


def _report(found: list[dict[str, float]]) -> str:
    named = [
        ("bare", "accept, recv, send, close in plain Python"),
        ("server", "a request in WSGIServer, with both hooks"),
        ("loop", "a request in a hand-written loop, with both hooks"),
        ("hooks", "pre_dispatch and post_dispatch"),
        ("perl", "pm_pre_dispatch and pm_post_dispatch of Perl"),
        ("swaps", "SA_RESTART on and off for two signals"),
    ]
    rows = []
    for name, what in named:
        values = _column(found, name)
        if values:
            top = _on_top(found, name).text(1) if name in ("server", "loop") else ""
            rows.append((what, figure(values).text(), top))
    return common.table(("what", "µs", "on top of the bare calls, µs"), rows)


def _aims(found: list[dict[str, float]]) -> list[Aim]:
    if not found:
        raise Failed("no round was measured")
    top = _on_top(found, "server")
    aims = [
        Aim("own code on top of the bare calls, WSGIServer, µs", top.text(1), f"at most {ON_TOP}", top.median <= ON_TOP)
    ]
    hooks, perl, swaps = (_column(found, name) for name in ("hooks", "perl", "swaps"))
    if perl:
        ratio = ratios(hooks, perl)
        aims.append(Aim("both hooks, ours / Perl", ratio.text(), f"at most {OF_PERL}", ratio.median <= OF_PERL))
    bare = ratios(hooks, swaps)
    aims.append(Aim("both hooks, ours / two bare swaps", bare.text(), "-", None))
    return aims


if __name__ == "__main__":
    common.run(main)
