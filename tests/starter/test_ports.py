"""What people write for ports, where the program finds them, and what it is told."""

from __future__ import annotations

import pytest

from fcgi_procmanager.errors import ConfigError
from fcgi_procmanager.sockets import serverports
from fcgi_procmanager.superdaemon import statusfile
from fcgi_procmanager.superdaemon.ports import layout, parse_port


@pytest.mark.parametrize(
    ("text", "spec", "host", "port", "datagrams", "number"),
    [
        ("8080", "8080", "", 8080, False, None),
        (" 8080 ", "8080", "", 8080, False, None),
        ("8080=0", "8080", "", 8080, False, 0),
        ("127.0.0.1:80=7", "127.0.0.1:80", "127.0.0.1", 80, False, 7),
        ("[::1]:80", "[::1]:80", "::1", 80, False, None),
        ("::1:80", "[::1]:80", "::1", 80, False, None),
        ("u53", "53", "", 53, True, None),
        ("localhost:u53=5", "localhost:53", "localhost", 53, True, 5),
    ],
)
def test_a_port(text: str, spec: str, host: str, port: int, datagrams: bool, number: int | None) -> None:
    found = parse_port(text)
    assert (found.spec, found.address.host, found.address.port) == (spec, host, port)
    assert (found.datagrams, found.number) == (datagrams, number)


@pytest.mark.parametrize(
    "text", ["", "abc", "--", "80x", "65536", "host:", ":80", "80=", "80=x", "80=1234567", "8\u0660"]
)
def test_no_port(text: str) -> None:
    with pytest.raises(ConfigError, match="invalid ``port'' value:"):
        parse_port(text)


@pytest.mark.parametrize(
    ("wanted", "numbers", "descriptors", "in_a_row"),
    [
        ((), (), {}, True),
        ((None, None), (3, 4), {3: 0, 4: 1}, True),
        ((0, None), (0, 4), {0: 0, 3: 0, 4: 1}, True),
        ((None, 9), (3, 9), {3: 0, 4: 1, 9: 1}, True),
        ((3, 4), (3, 4), {3: 0, 4: 1}, True),
        ((4, None), (4, 3), {4: 0, 3: 1}, False),
        ((4, 3, None), (4, 3, 5), {4: 0, 3: 1, 5: 2}, False),
    ],
)
def test_where_the_program_finds_them(
    wanted: tuple[int | None, ...], numbers: tuple[int, ...], descriptors: dict[int, int], in_a_row: bool
) -> None:
    assert layout(wanted) == (numbers, descriptors, in_a_row)


def test_two_ports_cannot_have_one_descriptor() -> None:
    with pytest.raises(ConfigError, match="descriptor 7 is asked for twice"):
        layout([7, None, 7])


@pytest.mark.parametrize("ports", [{}, {"8080": 3}, {"127.0.0.1:80": 3, "[::1]:80": 4, "/run/a=b.sock": 5}])
def test_what_is_written_of_the_ports_is_read_again(ports: dict[str, int]) -> None:
    assert serverports.parse(serverports.write(list(ports.items()))) == ports


@pytest.mark.parametrize("text", ["80", "80=", "80=x", "80=-1", "=", "80=3;x"])
def test_a_variable_that_nobody_of_ours_has_written(text: str) -> None:
    with pytest.raises(ValueError, match="SERVER_STARTER_PORT"):
        serverports.parse(text)


def test_the_status_is_sorted_by_number_and_read_again() -> None:
    generations = {10: 4711, 2: 42, 9: 7}
    assert statusfile.write(generations) == "2:42\n9:7\n10:4711\n"
    assert statusfile.parse(statusfile.write(generations)) == generations


def test_what_is_no_status_is_left_out() -> None:
    assert statusfile.parse("1:2\nx\n3\n4:y\n:\n" + "9" * 99 + ":1\n5:6") == {1: 2, 5: 6}
