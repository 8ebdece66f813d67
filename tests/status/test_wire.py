"""A snapshot goes over a socket and comes back; two releases understand each other; nonsense is an error of one line."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcgi_procmanager.errors import ProtocolError
from fcgi_procmanager.status import jsonform, page, table, wire
from fcgi_procmanager.status.snapshot import Deadly, PoolStatus, Sample, WorkerStatus
from fcgi_procmanager.status.verdict import verdict
from status.pools import HOSTILE, PATIENT, crowded, empty, hostile, pool

NUMBERS = st.floats(-1e18, 1e18)
COUNTS = st.integers(-(2**63), 2**63)
WORKERS = st.builds(
    WorkerStatus, pid=COUNTS, generation=COUNTS, state=st.text(), started=NUMBERS, requests=COUNTS,
    request_started=st.none() | NUMBERS, request_seconds=NUMBERS, method=st.text(), uri=st.text(),
    cpu=st.none() | NUMBERS, memory=st.none() | COUNTS, pss=st.none() | COUNTS, reason=st.text(),
)  # fmt: skip
SAMPLES = st.builds(Sample, NUMBERS, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS)
POOLS = st.builds(
    PoolStatus, name=st.text(), kind=st.text(), phase=st.text(), started=NUMBERS, now=NUMBERS, pid=COUNTS,
    accepted=COUNTS, queue=st.none() | COUNTS, queue_limit=st.none() | COUNTS, queue_is_exact=st.booleans(),
    listeners=st.lists(st.text(), max_size=2).map(tuple), retired=st.dictionaries(st.text(), COUNTS, max_size=2),
    limits=st.dictionaries(st.text(), st.none() | NUMBERS | COUNTS, max_size=3),
    deadly=st.lists(st.builds(Deadly, st.text(), st.text(), COUNTS), max_size=2).map(tuple),
    workers=st.lists(WORKERS, max_size=3).map(tuple), history=st.lists(SAMPLES, max_size=3).map(tuple),
)  # fmt: skip


@pytest.mark.parametrize("given", [pool(), empty(), crowded(), *map(hostile, HOSTILE.values())])
def test_there_and_back(given: PoolStatus) -> None:
    assert wire.decode(wire.encode(given)) == given
    assert b"\n" not in wire.encode(given)


@PATIENT
@given(POOLS)
def test_whatever_comes_over_it_can_be_shown(given: PoolStatus) -> None:
    found = wire.decode(wire.encode(given))
    assert found == given
    assert "\n" not in str(verdict(found))
    table.render(found)
    page.render(found)
    json.loads(jsonform.render(found, full=True))


def test_every_field_is_looked_at() -> None:
    for checks, kind in ((wire.POOL, PoolStatus), (wire.WORKER, WorkerStatus)):
        assert set(checks) == {field.name for field in dataclasses.fields(kind)}
    assert set(wire.SAMPLE) == set(Sample._fields)
    assert set(wire.DEADLY) == set(Deadly._fields)


def test_what_another_release_has_more_is_left_out() -> None:
    said = json.loads(wire.encode(pool()))
    said["of tomorrow"] = {"a": [1]}
    said["workers"][0]["mood"] = "good"
    said["history"][0]["leaving"] = 3
    said["deadly"][0]["signal"] = "SEGV"
    assert wire.decode(json.dumps(said).encode()) == pool()


def test_what_another_release_lacks_has_its_default() -> None:
    assert wire.decode(b"{}") == PoolStatus()
    found = wire.decode(b'{"workers": [{}], "history": [{}], "deadly": [{}]}')
    assert found.workers == (WorkerStatus(),)
    assert found.history == (Sample(0.0),)
    assert found.deadly == (Deadly("", "", 1),)


def test_a_number_that_is_none_is_left_out() -> None:
    found = wire.decode(wire.encode(pool(now=float("nan"), limits={"max_age": float("inf"), "n_processes": 2})))
    assert found.now == 0.0
    assert found.limits == {"n_processes": 2}


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "this is not the status of a pool: b''"),
        (
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            "this is not the status of a pool: b'HTTP/1.1 400 Bad Request\\r\\n\\r\\n'",
        ),
        (b"\xff\xfe\x00", "this is not the status of a pool: b'\\xff\\xfe\\x00'"),
        (b"[" * 100_000, "this is not the status of a pool: b'" + "[" * 60 + "'"),
        (b'{"now": ' + b"9" * 9999 + b"}", None),
        (b"null", "the status must be an object, not None"),
        (b"[1]", "the status must be an object, not [1]"),
        (b'{"name": 5}', "name of the status cannot be 5"),
        (b'{"pid": true}', "pid of the status cannot be True"),
        (b'{"pid": 1.5}', "pid of the status cannot be 1.5"),
        (b'{"pid": 99999999999999999999}', "pid of the status cannot be 99999999999999999999"),
        (b'{"now": NaN}', "now of the status cannot be nan"),
        (b'{"now": 1e999}', "now of the status cannot be inf"),
        (b'{"now": "\\u001b[2J\\n"}', "now of the status cannot be '\\x1b[2J\\n'"),
        (b'{"queue_is_exact": 1}', "queue_is_exact of the status cannot be 1"),
        (b'{"workers": {}}', "workers of the status cannot be {}"),
        (b'{"workers": [3]}', "a worker must be an object, not 3"),
        (b'{"workers": [{"uri": null}]}', "uri of a worker cannot be None"),
        (b'{"history": [{"at": []}]}', "at of a sample cannot be []"),
        (b'{"retired": {"x": "y"}}', "retired of the status cannot be {'x': 'y'}"),
        (b'{"limits": []}', "limits of the status cannot be []"),
    ],
)
def test_nonsense(data: bytes, complaint: str | None) -> None:
    with pytest.raises(ProtocolError) as caught:
        wire.decode(data)
    said = str(caught.value)
    assert complaint in (None, said)
    assert said.isprintable()
    assert len(said) < 200


@PATIENT
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)
    )
)
def test_any_json_is_a_status_or_an_error(value: Any) -> None:
    for said in (value, {"workers": value}, {"workers": [value]}, {"limits": value, "history": [value]}):
        with contextlib.suppress(ProtocolError):
            table.render(wire.decode(json.dumps(said).encode()))
