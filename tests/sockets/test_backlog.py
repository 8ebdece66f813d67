"""How many connections wait: real queues, and systems that do not tell."""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fcgi_procmanager.sockets import backlog
from fcgi_procmanager.sockets.backlog import Backlog, Backlogs, answered, is_reply, question
from harness.interpreter import cpython_only
from harness.process import Script, wait_until

Run = Callable[..., Script]

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="tells only whether there is anything")
lets_one_wait = cpython_only("listen(0) is listen(1) there")

KINDS = ["unix", "abstract", "v4", "v6"]
NOTHING_KNOWN = Backlog(0, 0, False)


class Queue:
    """A listener, and clients that nobody accepts."""

    def __init__(self, stack: ExitStack, kind: str, folder: Path, size: int = 16) -> None:
        self.stack = stack
        family = {"v4": socket.AF_INET, "v6": socket.AF_INET6}.get(kind, socket.AF_UNIX)
        address = {"v4": ("127.0.0.1", 0), "v6": ("::1", 0), "abstract": f"\0pm-test-{os.getpid()}-{id(self)}"}
        self.listener = stack.enter_context(socket.socket(family))
        try:
            self.listener.bind(address.get(kind, str(folder / f"{id(self)}.sock")))
        except OSError as error:
            pytest.skip(f"no {kind} here: {error}")
        self.listener.listen(size)
        self.listener.setblocking(False)
        self.clients: list[socket.socket] = []

    def connect(self, count: int = 1) -> None:
        for _ in range(count):
            client = self.stack.enter_context(socket.socket(self.listener.family))
            client.settimeout(60)
            client.connect(self.listener.getsockname())
            self.clients.append(client)

    def fill(self) -> None:
        """As many as it takes; what comes after them is not let in."""
        for _ in range(50):
            client = self.stack.enter_context(socket.socket(self.listener.family))
            client.setblocking(False)
            client.connect_ex(self.listener.getsockname())

    def accept(self) -> None:
        accepted, _ = self.listener.accept()
        accepted.close()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def backlogs() -> Iterator[Backlogs]:
    with contextlib.closing(Backlogs()) as backlogs:
        yield backlogs


@pytest.fixture
def queue(stack: ExitStack, tmp_path: Path) -> Callable[..., Queue]:
    return lambda kind="unix", size=16: Queue(stack, kind, tmp_path, size)


def becomes(backlogs: Backlogs, listener: socket.socket, expected: Backlog) -> None:
    """The last part of a TCP handshake may be a moment behind the client's `connect`."""
    wait_until(lambda: backlogs.of(listener) == expected, what=lambda: f"{expected}, not {backlogs.of(listener)}")


@linux
@pytest.mark.parametrize("kind", KINDS)
def test_what_waits_is_counted(kind: str, queue: Callable[..., Queue], backlogs: Backlogs) -> None:
    one = queue(kind)
    assert backlogs.of(one.listener) == Backlog(0, 16, True)
    for count in (1, 2, 3):
        one.connect()
        becomes(backlogs, one.listener, Backlog(count, 16, True))
    one.accept()
    becomes(backlogs, one.listener, Backlog(2, 16, True))
    one.accept()
    one.accept()
    becomes(backlogs, one.listener, Backlog(0, 16, True))


@linux
@pytest.mark.parametrize("kind", KINDS)
def test_a_full_queue_has_one_more_than_its_limit(kind: str, queue: Callable[..., Queue], backlogs: Backlogs) -> None:
    one = queue(kind, 3)
    one.fill()
    becomes(backlogs, one.listener, Backlog(4, 3, True))


@lets_one_wait
@pytest.mark.parametrize("kind", KINDS)
def test_a_queue_for_one(kind: str, queue: Callable[..., Queue], backlogs: Backlogs) -> None:
    one = queue(kind, 0)
    assert backlogs.of(one.listener) == NOTHING_KNOWN
    one.connect()
    becomes(backlogs, one.listener, Backlog(1, 0, False))


@linux
def test_a_client_that_has_gone_still_waits(queue: Callable[..., Queue], backlogs: Backlogs) -> None:
    """The worker that accepts it finds out."""
    one = queue()
    one.connect()
    one.clients[0].close()
    assert backlogs.of(one.listener).waiting == 1


@linux
def test_another_descriptor_of_the_same_socket_tells_the_same(queue: Callable[..., Queue], backlogs: Backlogs) -> None:
    one = queue()
    one.connect(2)
    with socket.socket(fileno=os.dup(one.listener.fileno())) as copy:
        assert backlogs.of(copy) == Backlog(2, 16, True)


@linux
def test_many_other_sockets_do_not_matter(queue: Callable[..., Queue], backlogs: Backlogs, stack: ExitStack) -> None:
    others = [queue(size=5) for _ in range(20)]
    for other in others:
        other.connect(3)
    for _ in range(150):
        for end in socket.socketpair():
            stack.enter_context(end)
    one = queue(size=7)
    one.connect(2)
    assert backlogs.of(one.listener) == Backlog(2, 7, True)
    assert {backlogs.of(other.listener) for other in others} == {Backlog(3, 5, True)}


@linux
@lets_one_wait
def test_all_of_a_pool_together(queue: Callable[..., Queue], backlogs: Backlogs) -> None:
    first, second, third = queue("unix", 3), queue("v4", 4), queue("unix", 0)
    first.connect(2)
    second.connect()
    becomes(backlogs, second.listener, Backlog(1, 4, True))
    assert backlogs.total([first.listener, second.listener]) == Backlog(3, 7, True)
    third.connect()
    assert backlogs.total([first.listener, second.listener, third.listener]) == Backlog(4, 0, False)
    assert backlogs.total([]) == Backlog(0, 0, True)


def test_what_is_no_listener_has_no_queue(backlogs: Backlogs, queue: Callable[..., Queue]) -> None:
    one = queue()
    one.listener.close()
    assert backlogs.of(one.listener) == NOTHING_KNOWN
    for family in (socket.AF_UNIX, socket.AF_INET):
        with socket.socket(family, socket.SOCK_DGRAM) as other:
            assert not backlogs.of(other).exact
    near, far = socket.socketpair()
    with near, far:
        assert backlogs.of(near) == NOTHING_KNOWN


@linux
def test_a_socket_may_begin_to_listen_after_a_look(tmp_path: Path, backlogs: Backlogs) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(tmp_path / "s"))
        assert not backlogs.of(one).exact
        one.listen(5)
        assert backlogs.of(one) == Backlog(0, 5, True)


# ---- Where the system does not tell ----


@pytest.mark.parametrize("kind", KINDS)
def test_elsewhere_there_is_something_or_nothing(
    kind: str, queue: Callable[..., Queue], backlogs: Backlogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "_LINUX", False)
    one = queue(kind)
    assert backlogs.of(one.listener) == NOTHING_KNOWN
    one.connect(3)
    becomes(backlogs, one.listener, Backlog(1, 0, False))
    assert backlogs._netlink is None


PROGRAM = """
import ctypes, errno, os, resource, socket, struct, sys
from fcgi_procmanager.sockets.backlog import Backlogs
from harness.inside import say

libc = ctypes.CDLL(None, use_errno=True)

def checked(result):
    if result:
        say("skip", os.strerror(ctypes.get_errno()))
        sys.exit()

def queue(path, size=9):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(size)
    for _ in range(2):
        client = socket.socket(socket.AF_UNIX)
        client.connect(path)
        kept.append(client)
    return listener

kept = []
backlogs = Backlogs()
one = queue("one")
"""


def outcome(script: Script) -> list[str]:
    assert script.wait() == 0, script.log()
    lines = script.output().splitlines()
    if lines and lines[0].startswith("skip"):
        pytest.skip(lines[0])
    return lines


AUDIT_AND_SOCKET = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}

# What systemd does for RestrictAddressFamilies=AF_UNIX: a filter that lets no other family be opened.
SECCOMP = """
audit, number = map(int, sys.argv[1:])
filter = [
    (0x20, 0, 0, 4), (0x15, 0, 4, audit),  # another kind of program than this: allowed
    (0x20, 0, 0, 0), (0x15, 0, 2, number),  # another call than socket(): allowed
    (0x20, 0, 0, 16), (0x15, 1, 0, socket.AF_NETLINK),
    (0x06, 0, 0, 0x7FFF0000),
    (0x06, 0, 0, 0x00050000 | errno.EAFNOSUPPORT),
]
code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in filter))
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
program = Program(len(filter), ctypes.addressof(code))
zero = ctypes.c_ulong(0)
checked(libc.prctl(38, ctypes.c_ulong(1), zero, zero, zero))
checked(libc.prctl(22, ctypes.c_ulong(2), ctypes.byref(program), zero, zero))
"""


@linux
def test_netlink_is_refused(run_script: Run, tmp_path: Path) -> None:
    if platform.machine() not in AUDIT_AND_SOCKET:
        pytest.skip("the numbers of this machine's system calls are not known here")
    source = (
        PROGRAM
        + SECCOMP
        + """
inet = socket.socket()
inet.bind(("127.0.0.1", 0))
inet.listen(7)
for _ in range(2):
    say(*backlogs.of(one))
say(*backlogs.of(inet))
say(backlogs._netlink)
"""
    )
    script = run_script(source, args=AUDIT_AND_SOCKET[platform.machine()], cwd=tmp_path)
    assert outcome(script) == ["1 0 False"] * 2 + ["0 7 True", "None"]


@linux
def test_a_listener_of_another_network_namespace(run_script: Run, tmp_path: Path) -> None:
    """Netlink finds none of that name and says so; those of our own are told."""
    source = """
checked(libc.unshare(0x40000000))
two = queue("two")
for _ in range(2):
    say(*backlogs.of(one))
say(*backlogs.of(two))
"""
    script = run_script(PROGRAM + source, cwd=tmp_path)
    assert outcome(script) == ["1 0 False", "1 0 False", "2 9 True"]


@linux
def test_a_lack_of_descriptors_passes(run_script: Run, tmp_path: Path) -> None:
    source = """
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
free = os.dup(0)
os.close(free)
resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
say(*backlogs.of(one))
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
say(*backlogs.of(one))
"""
    assert outcome(run_script(PROGRAM + source, cwd=tmp_path)) == ["1 0 False", "2 9 True"]


# ---- The netlink socket ----


@linux
def test_it_is_opened_when_it_is_needed_and_closed(queue: Callable[..., Queue], backlogs: Backlogs) -> None:
    one, tcp = queue(), queue("v4")
    backlogs.of(tcp.listener)
    assert backlogs._netlink is None
    backlogs.of(one.listener)
    netlink = backlogs._netlink
    assert netlink is not None
    assert not os.get_inheritable(netlink.fileno())
    for _ in range(2):
        backlogs.close()
        assert netlink.fileno() == -1
    one.connect(2)
    assert backlogs.of(one.listener) == Backlog(1, 0, False)
    assert backlogs._netlink is None


@linux
def test_a_child_of_the_application_has_none_of_it(queue: Callable[..., Queue], backlogs: Backlogs) -> None:
    """It would take the answers to its parent's questions."""
    one = queue()
    one.connect(2)
    backlogs.of(one.listener)
    pid = os.fork()
    if pid == 0:
        good = backlogs._netlink is None and backlogs.of(one.listener) == Backlog(1, 0, False)
        os._exit(0 if good else 1)
    assert os.waitpid(pid, 0) == (pid, 0)
    assert backlogs.of(one.listener) == Backlog(2, 16, True)


@linux
def test_old_replies_are_passed_over(queue: Callable[..., Queue], backlogs: Backlogs) -> None:
    one = queue()
    one.connect(2)
    backlogs.of(one.listener)
    netlink = backlogs._netlink
    assert netlink is not None
    inode = os.fstat(one.listener.fileno()).st_ino
    for _ in range(3):
        netlink.send(question(inode, backlog._NO_COOKIE, 999_999))
    assert backlogs.of(one.listener) == Backlog(2, 16, True)
    for _ in range(20):  # too many for one look: the next ones find their own
        netlink.send(question(inode, backlog._NO_COOKIE, 999_999))
    found = [backlogs.of(one.listener) for _ in range(4)]
    assert found[0] == Backlog(1, 0, False)
    assert found[-1] == Backlog(2, 16, True)


@linux
def test_a_socket_of_the_same_inode_number_is_another_one(queue: Callable[..., Queue], backlogs: Backlogs) -> None:
    """The number is used again some day, the cookie is not."""
    one = queue()
    backlogs.of(one.listener)
    netlink = backlogs._netlink
    assert netlink is not None
    inode, cookie = os.fstat(one.listener.fileno()).st_ino, backlog._cookie(one.listener)
    assert answered(backlogs._ask(netlink, inode, cookie), inode) == Backlog(0, 16, True)
    assert answered(backlogs._ask(netlink, inode, cookie + 1), inode) is None


def reply_of(waiting: int, limit: int, inode: int = 77) -> bytes:
    """As the kernel makes it: a byte about shutdown follows."""
    answer = struct.pack("=BBBBIII", socket.AF_UNIX, 1, 10, 0, inode, 0, 0)
    attributes = struct.pack("=HHII", 12, 4, waiting, limit) + struct.pack("=HHB3x", 5, 6, 0)
    return struct.pack("=IHHII", 16 + len(answer + attributes), 20, 0, 5, 1) + answer + attributes


def test_a_reply_is_read() -> None:
    assert answered(reply_of(3, 128), 77) == Backlog(3, 128, True)
    assert answered(reply_of(3, 128), 78) is None
    assert is_reply(reply_of(3, 128), 5)
    assert not is_reply(reply_of(3, 128), 6)
    assert answered(struct.pack("=IHHIIi20x", 40, 2, 0, 5, 1, -2), 77) is None


@settings(deadline=None)  # a loaded machine is no failure
@given(st.binary(max_size=80), st.integers(0, 80))
def test_no_reply_breaks_anything(noise: bytes, at: int) -> None:
    """Cut anywhere, or with other bytes in it, or nothing but noise: it is read as far as it makes sense, and no further."""
    whole = reply_of(3, 128)
    for reply in (noise, whole[:at], whole[:at] + noise, whole[:at] + noise + whole[at + len(noise) :]):
        is_reply(reply, 5)
        found = answered(reply, 77)
        assert found is None or (found.exact and found.waiting >= 0 and found.limit >= 0)
