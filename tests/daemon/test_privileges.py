"""A user and a group, looked up by name or number; and given up for good, with the supplementary groups of root."""

from __future__ import annotations

import grp
import os
import pwd
from typing import Any, Callable

import pytest

from fcgi_procmanager import ConfigError
from fcgi_procmanager.system import privileges
from fcgi_procmanager.system.privileges import Identity
from harness.process import Script

Run = Callable[..., Script]

NOBODY = pwd.getpwnam("nobody")
ITS_GROUP = grp.getgrgid(NOBODY.pw_gid).gr_name
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

DROP = """
    import os, sys
    from fcgi_procmanager.system import privileges
    from harness.inside import say
    os.setgroups([0, 4, 6])
    user, group = (None if text == "-" else text for text in sys.argv[1:])
    found = privileges.find(user, group)
    privileges.drop(found)
    say(*os.getresuid(), *os.getresgid(), sorted(os.getgroups()), os.environ.get("HOME"), os.environ.get("USER"))
    for attempt in (lambda: os.setuid(0), lambda: os.seteuid(0), lambda: os.setgid(0), lambda: os.setgroups([0])):
        try:
            attempt()
            say("back")
        except PermissionError:
            say("refused")
"""


@as_root
@pytest.mark.parametrize("user", ["nobody", str(NOBODY.pw_uid)])
def test_user_group_and_supplementary_groups_are_given_up_for_good(run_script: Run, user: str) -> None:
    script = run_script(DROP, args=(user, "-"))
    uid, gid = NOBODY.pw_uid, NOBODY.pw_gid
    groups = sorted(set(os.getgrouplist("nobody", gid)))
    assert script.line() == f"{uid} {uid} {uid} {gid} {gid} {gid} {groups} {NOBODY.pw_dir} nobody"
    assert script.lines(4) == ["refused"] * 4
    assert script.wait() == 0


@as_root
def test_a_number_without_an_account_has_the_group_that_is_given_and_no_other(run_script: Run) -> None:
    script = run_script(DROP, args=("54321", "54322"))
    assert script.line().startswith("54321 54321 54321 54322 54322 54322 [54322]")
    assert script.lines(4) == ["refused"] * 4
    assert script.wait() == 0


@as_root
def test_a_group_alone_leaves_the_user(run_script: Run) -> None:
    script = run_script(DROP, args=("-", ITS_GROUP))
    gid = NOBODY.pw_gid
    assert script.line().startswith(f"0 0 0 {gid} {gid} {gid} [{gid}]")
    script.kill()


@pytest.mark.parametrize(
    ("user", "group", "words"),
    [
        ("no-such-user", None, "Can't find user no-such-user: give"),
        ("nobody", "no-such-group", "Can't find group no-such-group: give"),
        ("54321", None, "user 54321 has no account"),
        ("99999999999", "0", "Can't find user 99999999999"),
        ("4294967295", "0", "Can't find user 4294967295"),
        ("", None, "Can't find user :"),
        ("-1", None, "Can't find user -1"),
        ("a\0b", None, "Can't find user"),
    ],
)
def test_what_is_not_there_is_one_line(user: Any, group: Any, words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        privileges.find(user, group)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_nobody_named_is_nobody() -> None:
    assert privileges.find(None, None) is None


def test_who_is_that_user_already_needs_no_root() -> None:
    ours = privileges.find(os.geteuid(), os.getegid())
    assert ours is not None
    assert ours.is_ours
    assert not Identity(os.geteuid() + 1, os.getegid()).is_ours


@as_root
def test_somebody_else_is_refused_without_root(run_script: Run) -> None:
    script = run_script("""
        import os
        from fcgi_procmanager.errors import ConfigError
        from fcgi_procmanager.system import privileges
        from harness.inside import say
        os.setgid(54322), os.setuid(54321)
        for option, user, group in (("--user", "root", None), ("--group", None, "0")):
            try:
                privileges.check_possible(privileges.find(user, group), option)
            except ConfigError as error:
                say(error)
    """)
    assert script.line() == "--user needs root: start this as root, or leave the option out"
    assert script.line() == "--group needs root: start this as root, or leave the option out"
    assert script.wait() == 0
