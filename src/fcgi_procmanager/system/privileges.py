"""From root to the user that a service runs as: looked up by name or number, and given up for good.

Looked up in the process that was typed, so that a mistake is its one line; given up in the process that serves, after what only
root may do and before any code of the application is loaded. Must never leave a way back.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
from typing import NamedTuple

from ..errors import ConfigError

__all__ = ["Identity", "check_possible", "drop", "find"]

_HIGHEST = 2**32 - 2  # of a uid_t; the one above means "leave it as it is"


class Identity(NamedTuple):
    """uid, gid: numbers; None leaves that one as it is. name: of the account, empty if it has none. home: its directory."""

    uid: int | None
    gid: int
    name: str = ""
    home: str = ""

    @property
    def is_ours(self) -> bool:
        """This process is that user, in that group, already."""
        return self.uid in (None, os.geteuid()) and self.gid == os.getegid()


def find(user: str | int | None, group: str | int | None) -> Identity | None:
    """Whom these name: accounts by name or by number; None for nobody. Without a group, the one of the user's account. Raises
    ConfigError when there is no such account."""
    gid = None if group is None else _group(str(group))
    if user is not None:
        return _user(str(user), gid)
    return None if gid is None else Identity(None, gid)


def check_possible(identity: Identity, option: str) -> None:
    """Raises ConfigError when this process may not become that user. option: by what name a person chooses."""
    if not identity.is_ours and os.geteuid() != 0:
        raise ConfigError(f"{option} needs root: start this as root, or leave the option out")


def drop(identity: Identity) -> None:
    """Become that user: group and supplementary groups first, the user last. HOME, USER and LOGNAME name it from now on. Raises
    ConfigError when the system refuses."""
    try:
        if os.geteuid() == 0:
            _become(identity)
    except OSError as error:
        who = identity.name or identity.uid
        raise ConfigError(f"user {who}, group {identity.gid}: the system refuses: {error.strerror}") from None
    _check_final(identity)
    if identity.name:
        os.environ.update(HOME=identity.home, USER=identity.name, LOGNAME=identity.name)


def _become(identity: Identity) -> None:
    # Those of root would stay otherwise: who may read what the group `disk` or `shadow` may read has not given up much.
    if identity.name:
        os.initgroups(identity.name, identity.gid)
    else:
        os.setgroups([identity.gid])
    os.setgid(identity.gid)
    if identity.uid is not None:
        os.setuid(identity.uid)


def _check_final(identity: Identity) -> None:
    """That there is no way back, asked of the system: a set-user-ID left over would be one."""
    if hasattr(os, "getresuid"):
        users, groups = set(os.getresuid()), set(os.getresgid())
    else:
        users, groups = {os.getuid(), os.geteuid()}, {os.getgid(), os.getegid()}
    if groups != {identity.gid} or (identity.uid is not None and users != {identity.uid}):
        raise ConfigError(f"user {identity.uid}, group {identity.gid} did not take effect: start this as root itself")
    if identity.uid:
        for attempt in (os.setuid, os.seteuid):
            with contextlib.suppress(OSError):
                attempt(0)
                raise ConfigError(f"user {identity.uid} could become root again: the system keeps its capabilities")


def _user(name: str, gid: int | None) -> Identity:
    try:
        entry = pwd.getpwnam(name)
    except (KeyError, ValueError):
        return _user_by_number(name, gid)
    return Identity(entry.pw_uid, entry.pw_gid if gid is None else gid, entry.pw_name, entry.pw_dir)


def _user_by_number(name: str, gid: int | None) -> Identity:
    uid = _number(name)
    if uid is None:
        raise ConfigError(f"Can't find user {name}: give the name or the number of an account")
    with contextlib.suppress(KeyError):
        entry = pwd.getpwuid(uid)
        return Identity(uid, entry.pw_gid if gid is None else gid, entry.pw_name, entry.pw_dir)
    if gid is None:
        raise ConfigError(f"user {name} has no account, and so no group: give --group as well")
    return Identity(uid, gid)


def _group(name: str) -> int:
    with contextlib.suppress(KeyError, ValueError):
        return grp.getgrnam(name).gr_gid
    gid = _number(name)
    if gid is None:
        raise ConfigError(f"Can't find group {name}: give the name or the number of a group")
    return gid


def _number(text: str) -> int | None:
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        return None
    return int(text) if int(text) <= _HIGHEST else None
