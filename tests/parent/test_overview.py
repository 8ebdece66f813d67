"""The overview of several pools goes over a socket and comes back; nothing else is taken for one."""

from __future__ import annotations

import dataclasses

import pytest

from fcgi_procmanager.errors import ProtocolError
from fcgi_procmanager.parent.overview import Entry, Overview, decode, encode, is_overview
from fcgi_procmanager.parent.wanted import Wanted
from fcgi_procmanager.status import wire
from fcgi_procmanager.status.snapshot import PoolStatus

FULL = Overview(
    7, 2, "pools.toml:3: \udcff ü\n", [Entry("web", "serve", "ready", 8, "/run/web.control", "1 of 1"), Entry("")]
)


@pytest.mark.parametrize("overview", [FULL, Overview()])
def test_it_comes_back_as_it_was(overview: Overview) -> None:
    assert is_overview(encode(overview))
    assert encode(overview).isascii()
    assert decode(encode(overview)) == overview


def test_the_status_of_one_pool_is_none() -> None:
    assert not is_overview(wire.encode(PoolStatus()))
    with pytest.raises(ProtocolError):
        wire.decode(b"[]")


def test_what_another_release_says_more_is_left_out() -> None:
    said = b'{"pid":1,"more":[],"pools":[{"name":"a","more":1}]}'
    assert decode(said) == Overview(pid=1, pools=[Entry("a")])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b"null",
        b'{"pools":null}',
        b'{"pools":[1]}',
        b'{"pools":[{}]}',
        b'{"pools":[{"name":1}]}',
        b'{"pools":[{"name":"a","pid":-1}]}',
        b'{"pools":[{"name":"a","pid":true}]}',
        b'{"pools":[],"reloads":"1"}',
        b"[" * 100_000,
    ],
)
def test_nonsense_is_an_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(data)


def test_a_manager_goes_on_whatever_its_options_unless_the_command_is_another() -> None:
    old = Wanted("web", "serve", ("serve",), {})
    assert dataclasses.replace(old, arguments=("serve", "--control=x"), fixed=1).is_kept_by(old)
    assert not dataclasses.replace(old, command="exec").is_kept_by(old)
