"""Requests a second and CPU per request behind nginx, beside every other server that is installed.

All servers are up during the whole run, each with two workers. A round measures each case on each server, one after the other, and
the order turns from round to round; what counts is the ratio of two servers in the same round.
"""

from __future__ import annotations

import http.client
import json
import os
import resource
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import common
from common import Aim, Failed, Figure, Program, Stage, figure, progress, ratios
from load import generator, load
from peers import OURS, PEERS, PURE, Peer

WORKERS = 2
NGINX_WORKERS = 1
KIB = 1024


@dataclass(frozen=True)
class Case:
    """What clients ask for. `kept`: nginx keeps its connections to the server."""

    reply: int = 12
    body: int = 0
    clients: int = 16
    kept: bool = False

    @property
    def name(self) -> str:
        body = f", body of {_size(self.body)}" if self.body else ""
        clients = "1 client" if self.clients == 1 else f"{self.clients} clients"
        return f"{_size(self.reply)}{body}, {clients}{', kept' if self.kept else ''}"


def _size(count: int) -> str:
    return f"{count} B" if count < KIB else f"{count // KIB} KB" if count < KIB * KIB else f"{count // KIB // KIB} MB"


BASE = Case()
TEN_KB = Case(reply=10 * KIB)
BASE_KEPT = Case(kept=True)
TEN_KB_KEPT = Case(reply=10 * KIB, kept=True)
BODY_TEN_KB, BODY_ONE_MB = Case(body=10 * KIB), Case(body=KIB * KIB)
CASES = [
    BASE,
    Case(clients=1),
    Case(clients=64),
    TEN_KB,
    Case(reply=KIB * KIB),
    BODY_TEN_KB,
    BODY_ONE_MB,
    BASE_KEPT,
    Case(clients=1, kept=True),
    Case(clients=64, kept=True),
    TEN_KB_KEPT,
]
MANY = Case(clients=256)
NEW, KEPT = [BASE, TEN_KB], [BASE_KEPT, TEN_KB_KEPT]
JUDGED = [*NEW, *KEPT]
AIMS: list[tuple[str, str, list[Case], float]] = [  # which of ours, over whom, in which cases, at least
    (OURS.name, "uwsgi", NEW, 1.1),
    (PURE.name, "uwsgi", NEW, 1.0),
    (OURS.name, "uwsgi", KEPT, 1.2),
    (OURS.name, "uwsgi", [BODY_TEN_KB], 1.0),
    (OURS.name, "uwsgi", [BODY_ONE_MB], 0.9),
    (OURS.name, PURE.name, JUDGED, 1.15),
    (OURS.name, "php-fpm", JUDGED, 1.3),
    (OURS.name, "libfcgi", JUDGED, 1.3),
    (OURS.name, "perl", JUDGED, 1.5),
    (OURS.name, "flup", JUDGED, 2.5),
]


@dataclass
class Sample:
    """One case on one server in one round."""

    round: int
    case: str
    peer: str
    rate: float  # requests a second
    cpu: float  # microseconds of the server's processes per request
    chain: float  # the same of the server, nginx and the load together
    p99: float  # milliseconds
    worst: float
    failed: int


# -- nginx --------------------------------------------------------------------------------------------------------------

CONFIGURATION = """\
daemon off;
{user}worker_processes {workers};
pid {place}/pid;
error_log {place}/error.log error;
events {{ worker_connections 2048; }}
http {{
    access_log off;
    default_type text/plain;
    client_body_temp_path {place}/body;
    fastcgi_temp_path {place}/fastcgi;
    proxy_temp_path {place}/proxy;
    uwsgi_temp_path {place}/uwsgi;
    scgi_temp_path {place}/scgi;

    # Bodies and replies stay in memory: no disk is measured.
    client_max_body_size 8m;
    client_body_buffer_size 2m;
    fastcgi_buffers 128 16k;
    fastcgi_max_temp_file_size 0;
    proxy_buffers 128 16k;
    proxy_max_temp_file_size 0;
    keepalive_requests 100000000;

    upstream server {{
        server unix:{socket} fail_timeout=0;
{keepalive}    }}
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        location / {{
{location}        }}
    }}
}}
"""

FASTCGI = """\
            fastcgi_pass server;
            fastcgi_param QUERY_STRING $query_string;
            fastcgi_param REQUEST_METHOD $request_method;
            fastcgi_param CONTENT_TYPE $content_type;
            fastcgi_param CONTENT_LENGTH $content_length;
            fastcgi_param SCRIPT_FILENAME {php};
            fastcgi_param SCRIPT_NAME "";
            fastcgi_param PATH_INFO $fastcgi_script_name;
            fastcgi_param REQUEST_URI $request_uri;
            fastcgi_param DOCUMENT_URI $document_uri;
            fastcgi_param DOCUMENT_ROOT $document_root;
            fastcgi_param SERVER_PROTOCOL $server_protocol;
            fastcgi_param REQUEST_SCHEME $scheme;
            fastcgi_param GATEWAY_INTERFACE CGI/1.1;
            fastcgi_param SERVER_SOFTWARE nginx/$nginx_version;
            fastcgi_param REMOTE_ADDR $remote_addr;
            fastcgi_param REMOTE_PORT $remote_port;
            fastcgi_param SERVER_ADDR $server_addr;
            fastcgi_param SERVER_PORT $server_port;
            fastcgi_param SERVER_NAME $server_name;
            fastcgi_param REDIRECT_STATUS 200;
"""

FASTCGI_KEPT = """\
            fastcgi_keep_conn on;
"""

HTTP = """\
            proxy_pass http://server;
            proxy_set_header Host $http_host;
"""

HTTP_KEPT = """\
            proxy_http_version 1.1;
            proxy_set_header Connection "";
"""


class Nginx:
    """In front of one server for one measurement: connections that it kept would pin workers in the next one."""

    def __init__(self, stage: Stage, peer: Peer, socket: Path, kept: bool) -> None:
        self.stage, self.peer, self.socket, self.kept = stage, peer, socket, kept
        self.place = stage.directory / "nginx"
        self.place.mkdir(exist_ok=True)

    def __enter__(self) -> Nginx:
        for attempt in range(3):
            self._configure()
            argv = [common.find("nginx"), "-e", self.place / "error.log", "-c", self.place / "nginx.conf"]
            self.program = self.stage.start("nginx", argv)
            try:
                self.program.until(self._listens, "its port")
                break
            except Failed:  # somebody took the port in the meantime
                self.__exit__()
                if attempt == 2:
                    raise Failed((self.place / "error.log").read_text()[-2000:])
        return self

    def __exit__(self, *_: object) -> None:
        self.program.stop()
        self.stage.programs.remove(self.program)

    def _configure(self) -> None:
        self.port = common.free_port()
        location = HTTP if self.peer.http else FASTCGI.format(php=common.APPLICATIONS / "page.php")
        if self.kept:
            location += HTTP_KEPT if self.peer.http else FASTCGI_KEPT
        (self.place / "nginx.conf").write_text(
            CONFIGURATION.format(
                user="user root;\n" if os.getuid() == 0 else "",
                workers=NGINX_WORKERS,
                place=self.place,
                socket=self.socket,
                keepalive="        keepalive 16;\n" if self.kept else "",
                port=self.port,
                location=location,
            )
        )

    def _listens(self) -> bool:
        try:
            self.fetch(None)
        except ConnectionError:
            return False
        return True

    def fetch(self, case: Case | None) -> tuple[int, bytes]:
        """One request of a case; None for nothing but a connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.connect()
            if case is None:
                return 0, b""
            body = b"y" * case.body
            connection.request("POST" if body else "GET", f"/page?{case.reply}", body or None)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


# -- one run --------------------------------------------------------------------------------------------------------------


class Run:
    """The servers that are up, and what has been measured."""

    def __init__(self, stage: Stage, peers: Iterable[Peer], seconds: int) -> None:
        self.stage = stage
        self.peers = list(peers)
        self.seconds = seconds
        self.servers: dict[Peer, Program] = {}
        self.sockets: dict[Peer, Path] = {}
        self.bodies: dict[int, Path] = {}
        self.samples: list[Sample] = []

    def start(self) -> None:
        for number, peer in enumerate(self.peers):
            place = self.stage.place(f"server{number}")
            socket = self.sockets[peer] = place / "sock"
            server = self.stage.start(peer.name.replace(", ", "-"), peer.command(place, socket, WORKERS))
            server.until(lambda path=socket: common.listens(path), "its socket")  # type: ignore[misc]
            self.servers[peer] = server

    def check(self, cases: Iterable[Case]) -> None:
        """Every server answers every case with the right bytes. Raises Failed."""
        for peer in self.peers:
            for case in self._possible(peer, cases):
                with Nginx(self.stage, peer, self.sockets[peer], case.kept) as nginx:
                    for _ in range(WORKERS * 2):
                        self._check_one(nginx, case)

    def _check_one(self, nginx: Nginx, case: Case) -> None:
        status, body = nginx.fetch(case)
        right = b"%012d" % case.body if case.reply == 12 else b"x" * case.reply
        if status != 200 or body != right:
            raise Failed(f"{nginx.peer.name} answers {case.name!r} with {status}, {len(body)} bytes {body[:80]!r}")

    def round(self, number: int, cases: Iterable[Case]) -> None:
        turn = number % len(self.peers)
        order = self.peers[turn:] + self.peers[:turn]
        for case in cases:
            for peer in order:
                if case in self._possible(peer, [case]):
                    self._measure(number, case, peer)

    @staticmethod
    def _possible(peer: Peer, cases: Iterable[Case]) -> list[Case]:
        return [case for case in cases if peer.bodies or not case.body]

    def _measure(self, number: int, case: Case, peer: Peer) -> None:
        server = self.servers[peer]
        with Nginx(self.stage, peer, self.sockets[peer], case.kept) as nginx:
            before, before_all = common.cpu(server), self._cpu_of_others(nginx)
            found = load(nginx.port, f"/page?{case.reply}", case.clients, self.seconds, self._body(case))
            used = common.cpu(server) - before
            others = self._cpu_of_others(nginx) - before_all
        microseconds = 1e6 / max(1, found.requests)
        cpu = used * microseconds
        chain = (used + others) * microseconds
        rate, waits = found.rate, (found.p99, found.worst)
        self.samples.append(Sample(number, case.name, peer.name, rate, cpu, chain, *waits, found.failed))
        failed = f", {found.failed} FAILED" if found.failed else ""
        progress(
            f"round {number + 1}  {case.name:<32} {peer.name:<10} {found.rate:>9,.0f}/s {cpu:>7,.0f} us"
            f"  p99 {found.p99:.1f} ms, worst {found.worst:.0f} ms{failed}"
        )

    @staticmethod
    def _cpu_of_others(nginx: Nginx) -> float:
        load = resource.getrusage(resource.RUSAGE_CHILDREN)  # has been waited for, unlike the servers
        return common.cpu(nginx.program) + load.ru_utime + load.ru_stime

    def _body(self, case: Case) -> Path | None:
        if not case.body:
            return None
        if case.body not in self.bodies:
            path = self.bodies[case.body] = self.stage.directory / f"body{case.body}"
            path.write_bytes(b"y" * case.body)
        return self.bodies[case.body]


# -- the report -----------------------------------------------------------------------------------------------------------


class Report:
    """What was measured, by case and server, in the order of rounds."""

    def __init__(self, samples: Iterable[Sample], versions: dict[str, str], conditions: str) -> None:
        self.versions = versions
        self.conditions = conditions
        self.found: dict[str, dict[str, list[Sample]]] = defaultdict(dict)
        for sample in samples:
            self.found[sample.case].setdefault(sample.peer, []).append(sample)
        self.peers = [name for name in versions if any(name in row for row in self.found.values())]

    def rates(self, case: str, peer: str) -> list[float]:
        return [sample.rate for sample in self.found[case].get(peer, [])]

    def cpus(self, case: str, peer: str) -> list[float]:
        return [sample.cpu for sample in self.found[case].get(peer, [])]

    def ratio(self, case: str, peer: str, ours: str = OURS.name) -> Figure | None:
        rates, theirs = self.rates(case, ours), self.rates(case, peer)
        return ratios(rates, theirs) if rates and theirs and all(theirs) else None

    def publish(self, page: Path | None) -> None:
        common.publish(page, "servers", self._servers())
        common.publish(page, "throughput aims", Aim.table(self.aims()))
        others = [name for name in self.peers if name != OURS.name]
        common.publish(page, "ratios", self._matrix(others, self._ratio_cell))
        common.publish(page, "requests", self._matrix(self.peers, self._rate_cell))
        common.publish(page, "cpu", self._matrix(self.peers, self._cpu_cell))
        common.publish(page, "chain", self._matrix(self.peers, self._chain_cell))
        common.publish(page, "waits", self._matrix(self.peers, self._wait_cell))
        common.publish(page, "failures", self._failures())

    def aims(self) -> list[Aim]:
        aims = []
        for ours, peer, cases, aim in AIMS:
            found = [(ratio.median, case.name) for case in cases if (ratio := self.ratio(case.name, peer, ours))]
            if found:
                least, case = min(found)
                text = f"{least:.2f} ({case})"
                if len(found) > 1:
                    text += f"; all: {', '.join(f'{value:.2f}' for value, _ in found)}"
                aims.append(Aim(f"throughput, {ours} / {peer}", text, f"{aim:g}", least >= aim))
        for peer in ("php-fpm", "uwsgi"):
            used, theirs = self.cpus(BASE.name, OURS.name), self.cpus(BASE.name, peer)
            if used and theirs and all(theirs):
                ratio = ratios(used, theirs)
                aim, met = ("at most 1", ratio.median <= 1) if peer == "php-fpm" else ("towards 1", None)
                aims.append(Aim(f"CPU per request, ours / {peer}, {BASE.name}", ratio.text(), aim, met))
        return aims

    def _servers(self) -> str:
        rows = [(name, self.versions[name]) for name in self.peers]
        return self.conditions + "\n\n" + common.table(("name", "server"), rows)

    def _matrix(self, peers: Sequence[str], cell: object) -> str:
        rows = [[case, *(cell(case, peer) for peer in peers)] for case in self.found]  # type: ignore[operator]
        return common.table(["case", *peers], rows)

    def _ratio_cell(self, case: str, peer: str) -> str:
        ratio = self.ratio(case, peer)
        return ratio.text() if ratio else "-"

    def _rate_cell(self, case: str, peer: str) -> str:
        rates = self.rates(case, peer)
        return f"{figure(rates).median:,.0f}" if rates else "-"

    def _cpu_cell(self, case: str, peer: str) -> str:
        cpus = self.cpus(case, peer)
        return f"{figure(cpus).median:,.0f}" if cpus else "-"

    def _chain_cell(self, case: str, peer: str) -> str:
        samples = self.found[case].get(peer, [])
        return f"{figure(sample.chain for sample in samples).median:,.0f}" if samples else "-"

    def _wait_cell(self, case: str, peer: str) -> str:
        samples = self.found[case].get(peer, [])
        if not samples:
            return "-"
        return f"{figure(s.p99 for s in samples).median:,.1f} / {max(s.worst for s in samples):,.0f}"

    def _failures(self) -> str:
        failed = [
            f"{peer} at {case}: {count}"
            for case, row in self.found.items()
            for peer, samples in row.items()
            if (count := sum(sample.failed for sample in samples))
        ]
        return "Requests that failed: " + ("; ".join(failed) or "none") + "."


def main() -> None:
    parser = common.options(__doc__ or "")
    parser.add_argument("--rounds", type=int, metavar="N", help="5, with --quick 2")
    parser.add_argument("--seconds", type=int, metavar="S", help="each measurement; 3, with --quick 1")
    parser.add_argument(
        "--peers", metavar="A,B", help=f"of {', '.join(repr(peer.name) for peer in PEERS)}; ours always is"
    )
    parser.add_argument("--many", action="store_true", help="256 clients as well")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw it (needs matplotlib)")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="measure nothing; report what --json has written")
    given = parser.parse_args()
    if given.replay:
        kept = json.loads(given.replay.read_text())
        samples = [Sample(**sample) for sample in kept["samples"]]
        report = Report(samples, kept["versions"], kept["conditions"])
    else:
        rounds = given.rounds or (2 if given.quick else 5)
        seconds = given.seconds or (1 if given.quick else 3)
        peers = _chosen(given.peers)
        samples = _run(peers, [*CASES, *([MANY] if given.many else [])], rounds, seconds)
        conditions = (
            f"{common.machine()}; {rounds} rounds of {seconds} s, load by {generator()}, "
            f"{WORKERS} workers each, nginx with {NGINX_WORKERS}."
        )
        report = Report(samples, {peer.name: peer.version() for peer in peers}, conditions)
    if given.json:
        kept = {"conditions": report.conditions, "versions": report.versions, "samples": [asdict(s) for s in samples]}
        given.json.write_text(json.dumps(kept, indent=1) + "\n")
    report.publish(given.page)
    if given.plot:
        from plot import draw

        draw(report, given.plot)


def _chosen(names: str | None) -> list[Peer]:
    wanted = [name.strip() for name in names.split(",")] if names else [peer.name for peer in PEERS]
    for name in wanted:
        if name not in [peer.name for peer in PEERS]:
            raise Failed(f"there is no server {name!r}")
    chosen = []
    for peer in PEERS:
        if peer is not OURS and peer.name not in wanted:
            continue
        if peer.version():
            chosen.append(peer)
        else:
            progress(f"skipped: {peer.name}: {peer.needs} is not installed")
    return chosen


def _run(peers: list[Peer], cases: list[Case], rounds: int, seconds: int) -> list[Sample]:
    if not common.find("nginx"):
        raise Failed("nginx is not installed")
    with Stage() as stage:
        run = Run(stage, peers, seconds)
        run.start()
        run.check(cases)
        for number in range(rounds):
            run.round(number, cases)
        return run.samples


if __name__ == "__main__":
    common.run(main)
