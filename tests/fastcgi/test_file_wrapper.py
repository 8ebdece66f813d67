"""`wsgi.file_wrapper`: files of every size and kind arrive whole, and a slow or absent reader holds nobody for ever."""

from __future__ import annotations

import hashlib
import os

import pytest

from harness.fcgi import Client, fetch, request_bytes

SCRIPT = """
    import io, os, sys
    from fcgi_procmanager import ProcManager, WSGIServer

    def app(environ, start_response):
        name, _, skip = environ["QUERY_STRING"].partition("+")
        if name == "memory":
            source = io.BytesIO(b"m" * 200_000)
        else:
            source = open(name, "rb")
            source.seek(int(skip or 0))
        start_response("200 OK", [("Content-Type", "application/octet-stream")])
        return environ["wsgi.file_wrapper"](source, 8192)

    manager = ProcManager(n_processes=1, die_timeout=60)
    WSGIServer(app, manager=manager, bindAddress=sys.argv[1], send_timeout=float(sys.argv[2])).run()
"""


def make(tmp_path, size):
    path = tmp_path / f"file-{size}"
    path.write_bytes(os.urandom(size))
    return path


@pytest.fixture
def server(run_script, sock_path):
    script = run_script(SCRIPT, args=[sock_path, "30"])
    script.wait_ready()
    yield sock_path
    assert script.stop() == 0


@pytest.mark.parametrize("size", [0, 1, 32768, 32769, 65535, 65536, 131071, 5_000_000])
def test_a_file_arrives_whole(server, tmp_path, size):
    path = make(tmp_path, size)
    reply = fetch(server, QUERY_STRING=str(path))
    assert reply.ended
    assert hashlib.sha256(reply.body).digest() == hashlib.sha256(path.read_bytes()).digest()
    if size > 32768:
        assert reply.headers["content-length"] == str(size)


def test_from_where_the_file_stands(server, tmp_path):
    path = make(tmp_path, 300_000)
    assert fetch(server, QUERY_STRING=f"{path}+123").body == path.read_bytes()[123:]


def test_what_is_no_file_is_sent_block_by_block(server):
    assert fetch(server, QUERY_STRING="memory").body == b"m" * 200_000


def test_on_a_kept_connection(server, tmp_path):
    path = make(tmp_path, 700_000)
    with Client(server) as client:
        for _ in range(3):
            assert client.request(keep=True, QUERY_STRING=str(path)).body == path.read_bytes()


def test_a_pipelined_request_behind_a_file(server, tmp_path):
    path = make(tmp_path, 400_000)
    with Client(server) as client:
        bodies = [client.request(keep=True, QUERY_STRING=query).body for query in (str(path), "memory", str(path))]
    assert bodies == [path.read_bytes(), b"m" * 200_000, path.read_bytes()]


def test_a_reader_that_goes_away_leaves_the_worker_unharmed(server, tmp_path):
    path = make(tmp_path, 5_000_000)
    for _ in range(5):
        with Client(server) as client:
            client.send(request_bytes({"QUERY_STRING": str(path)}))
            client.read_record()
    assert fetch(server, QUERY_STRING=str(path)).body == path.read_bytes()


def test_a_reader_that_does_not_read_is_left_in_time(run_script, sock_path, tmp_path):
    path = make(tmp_path, 5_000_000)
    script = run_script(SCRIPT, args=[sock_path, "0.3"])
    script.wait_ready()
    with Client(sock_path) as lazy:
        lazy.send(request_bytes({"QUERY_STRING": str(path)}))
        small = make(tmp_path, 1000)  # there is room for it, however late it is read
        assert fetch(sock_path, QUERY_STRING=str(small)).body == small.read_bytes()
    assert script.stop() == 0
