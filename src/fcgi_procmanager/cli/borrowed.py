"""Options as people know them from gunicorn and uvicorn: those that mean the same are taken, of others one line says what to do here.

Runs before anything is started. Must never take an option that means something else here: a wrong guess is worse than an error.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection

from .arguments import Parser
from .pooloptions import an_address

__all__ = ["ELSEWHERE", "SAME", "add_borrowed_options", "said_of_key"]

SAME = {
    "-w": "--processes",
    "--workers": "--processes",
    "-b": "--listen",
    "--bind": "--listen",
    "-c": "--config",
    "-D": "--daemon",
    "-e": "--env",
    "-g": "--group",
    "-m": "--umask",
    "-p": "--pidfile",
    "--pid": "--pidfile",
    "-u": "--user",
    "--error-logfile": "--log-file",
    "--reload": "--watch",
}

_TLS = (
    *("--certfile", "--keyfile", "--ca-certs", "--cert-reqs", "--ciphers", "--do-handshake-on-connect"),
    "--suppress-ragged-eofs",
    *("--ssl-certfile", "--ssl-keyfile", "--ssl-keyfile-password", "--ssl-version", "--ssl-cert-reqs"),
    *("--ssl-ca-certs", "--ssl-ciphers"),
)

_HTTP = (
    *("--permit-obsolete-folding", "--permit-unconventional-http-method", "--permit-unconventional-http-version"),
    *("--strip-header-spaces", "--casefold-http-method", "--header-map", "--http-parser", "--http-protocols"),
    *("--http2", "--http2-cleartext", "--http2-max-concurrent-streams", "--http2-initial-window-size"),
    *("--http2-max-frame-size", "--http2-max-header-list-size"),
)

ELSEWHERE: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("--timeout", "-t"),
        "is --request-timeout here: the request gets 504, and a worker that does not come back is killed",
    ),
    (
        ("--graceful-timeout", "--timeout-graceful-shutdown"),
        "is --die-timeout at a stop and --reload-timeout at a reload",
    ),
    (
        ("--max-requests-jitter", "--limit-max-requests-jitter"),
        "is not needed: --max-requests is shortened by up to a tenth, by chance",
    ),
    (("--limit-max-requests",), "is --max-requests here"),
    (("--worker-class", "-k"), "is not needed: a worker serves one request at a time, or as many as --threads says"),
    (("--worker-connections",), "is --threads here: requests that a worker serves at a time"),
    (("--limit-concurrency",), "is -n times --threads here; as many as --backlog says may wait"),
    (
        ("--timeout-worker-healthcheck",),
        "is not needed: a worker that dies is seen at once; --babysit finds those that hang",
    ),
    (("--worker-tmp-dir",), "is not needed: no file shows that a worker lives"),
    (("--reuse-port",), "is not needed: all workers share one socket"),
    (("--no-sendfile", "--sendfile"), "is not needed: sendfile is for wsgi.file_wrapper only"),
    (("--protocol", "--uwsgi-allow-from"), "is not needed: this speaks FastCGI"),
    (("--control-socket",), "is --control here, for the commands 'status' and 'top'"),
    (("--enable-backlog-metric",), "is not needed: 'status' and --status-listen show how many wait"),
    (
        ("--host", "--port"),
        "is part of an address here: --web HOST:PORT for browsers, --listen HOST:PORT for a web server",
    ),
    (("--uds",), "is --listen /path.sock here, for a web server that speaks FastCGI"),
    (("--fd",), "is --listen fd:N here, for a web server that speaks FastCGI"),
    (("--factory",), "is part of the name here: MODULE:NAME() calls NAME"),
    (("--app-dir",), "is --chdir here, where the application also runs"),
    (
        ("--pythonpath",),
        "is the variable PYTHONPATH here, set before the command; the folder of --chdir is searched anyway",
    ),
    (("--paste", "--paster", "--paste-global"), "is not there: name a module that makes the application by loadapp()"),
    (("--env-file",), "is not there: give --env NAME=VALUE, or let systemd read the file (EnvironmentFile=)"),
    (("--initgroups",), "is not needed: --user has the groups of its account"),
    (("--name", "--proc-name"), "is --process-name for workers and --manager-process-name for the manager"),
    (("--access-logfile",), "is --access-log here; what its lines say is --access-format"),
    (("--access-logformat",), "is --access-format here, with the codes of php-fpm"),
    (("--no-access-log",), "is not needed: there is none without --access-log"),
    (("--capture-output", "--enable-stdio-inheritance", "-R"), "is not needed: what workers write goes to the log"),
    (
        ("--log-config", "--log-config-json", "--log-config-dict", "--logger-class"),
        "is not there: the application sets up its logging; the manager uses the logger fcgi_procmanager if it has a handler",
    ),
    (
        (
            *("--log-syslog", "--log-syslog-to", "--log-syslog-prefix", "--log-syslog-facility"),
            "--disable-redirect-access-to-syslog",
        ),
        "is not there: the log is standard error, which systemd takes, and so does '2>&1 | logger'",
    ),
    (("--use-colors", "--no-use-colors"), "is not needed: the log has no colours"),
    (
        ("--statsd-host", "--statsd-prefix", "--dogstatsd-tags"),
        "is not there: --status-listen answers /metrics (OpenMetrics)",
    ),
    (
        (
            *(
                "--forwarded-allow-ips",
                "--proxy-headers",
                "--no-proxy-headers",
                "--proxy-protocol",
                "--proxy-allow-from",
            ),
            "--forwarder-headers",
        ),
        "is not needed: by FastCGI the web server says who the client is",
    ),
    (
        ("--keep-alive", "--timeout-keep-alive"),
        "is for browsers, whose connections the web server keeps; of its own to here it is --idle-timeout",
    ),
    (("--root-path",), "is not needed: the web server says it as SCRIPT_NAME"),
    (
        (
            *("--limit-request-line", "--limit-request-fields", "--limit-request-field_size"),
            "--h11-max-incomplete-event-size",
        ),
        "is for the web server to limit",
    ),
    (
        ("--header", "--server-header", "--no-server-header", "--date-header", "--no-date-header"),
        "is for the web server, which writes the head of a reply",
    ),
    (_HTTP, "is for the web server, which speaks HTTP"),
    (_TLS, "is for the web server, where TLS ends"),
    (
        (
            *("--loop", "--http", "--interface", "--lifespan", "--asgi-loop", "--asgi-lifespan"),
            *("--asgi-disconnect-grace-period", "--websocket-max-message-size", "--ws", "--ws-max-size"),
            *("--ws-max-queue", "--ws-ping-interval", "--ws-ping-timeout", "--ws-per-message-deflate"),
        ),
        "is for ASGI applications: this serves WSGI applications by FastCGI",
    ),
    (
        (
            *("--reload-dir", "--reload-include", "--reload-exclude", "--reload-delay", "--reload-engine"),
            "--reload-extra-file",
        ),
        "is not there: --watch looks at the Python files here and below; --touch FILE reloads for any other",
    ),
    (("--check-config",), "is the command 'fcgi-procmanager check' here, with the same words"),
    (("--print-config",), "is the command 'fcgi-procmanager config serve' here, with the same words"),
)


def add_borrowed_options(parser: Parser) -> None:
    """The parser has its own options by now."""
    known = parser._option_string_actions
    for theirs, ours in SAME.items():
        if ours != "--listen":
            known[theirs] = known[ours]
    parser.add_argument(
        *(theirs for theirs, ours in SAME.items() if ours == "--listen"),
        dest="listen",
        action="append",
        type=_bind,
        default=argparse.SUPPRESS,
        metavar="ADDRESS",
        help=argparse.SUPPRESS,
    )
    parser.elsewhere = {name: told for names, told in ELSEWHERE for name in names}


def said_of_key(key: str, known: Collection[str]) -> str:
    """The same for a key of a file, beside those that there are; empty if nobody brings it."""
    ours = SAME.get(f"--{key}", "")[2:]
    if ours in known:
        return f"is {ours} here"
    if "application" not in known:
        return ""
    return next((told for names, told in ELSEWHERE if f"--{key}" in names), "")


def _bind(text: str) -> str:
    """gunicorn takes a bare word for a host, where we take it for a socket file."""
    if not re.search(r"[:/]|\.sock$", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not understood: give unix:/path.sock, HOST:PORT or fd://N")
    return an_address(text)
