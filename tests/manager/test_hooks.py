"""Who has overridden the hooks around a request: in which way does not matter."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from fcgi_procmanager import PoolManager, ProcManager, perl
from fcgi_procmanager.limits import Limits
from fcgi_procmanager.manager.hooks import overridden


class Plain(ProcManager):
    """With another method."""

    def server_init(self) -> None:
        pass


class Limited(Limits, ProcManager):
    pass


class Early(ProcManager):
    def pre_dispatch(self) -> None:
        super().pre_dispatch()


class Late(Plain):
    @functools.wraps(ProcManager.post_dispatch)
    def post_dispatch(self) -> None:
        super().post_dispatch()


class Below:
    post_dispatch = print


class Mixed(ProcManager, Below):
    pass


class Ported(perl.ProcManager):
    def pm_post_dispatch(self) -> None:
        super().pm_post_dispatch()


@pytest.mark.parametrize("kind", [ProcManager, Plain, Limited, PoolManager, perl.ProcManager])
def test_ours(kind: Any) -> None:
    assert not overridden(kind())


@pytest.mark.parametrize("kind", [Early, Late, Mixed, Ported])
def test_somebody_elses(kind: Any) -> None:
    assert overridden(kind())


def test_on_the_object() -> None:
    manager = ProcManager()
    manager.post_dispatch = lambda: None  # type: ignore[method-assign]
    assert overridden(manager)


def test_in_a_class_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProcManager, "pre_dispatch", lambda self: None)
    assert overridden(PoolManager())
