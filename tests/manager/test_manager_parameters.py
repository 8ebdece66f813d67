"""Parameters that are set later are looked at when they are set, as those that are given to the constructor."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from fcgi_procmanager import ConfigError, ProcManager
from fcgi_procmanager.basics.states import Role

WRONG = [
    *[("n_processes", value) for value in ("2", 1.0, None, True)],
    *[("die_timeout", value) for value in ("60", -1, None, True, float("inf"), float("nan"))],
    *[("drain_delay", value) for value in ("60", -1, None, True, float("inf"))],
    *[("reload_timeout", value) for value in ("60", -0.1, None, False, float("inf"))],
    *[("start_delay", value) for value in ("1", -0.1, None, float("inf"))],
    *[("standby", value) for value in (-1, "1", 0.5, None, True)],
    *[("no_signals", value) for value in (0, 1, None, "yes")],
    *[("pidfile", value) for value in (3, True, b"x", ["x"], "", "a\0b")],
    *[("process_name", value) for value in (None, 1, b"x", "a\0b")],
    *[("manager_process_name", value) for value in (None, 1, b"x", "a\0b")],
]

RIGHT = [
    ("n_processes", 0),
    ("n_processes", 7),
    ("die_timeout", 0),
    ("die_timeout", 0.5),
    ("drain_delay", 0),
    ("drain_delay", 0.5),
    ("reload_timeout", 0),
    ("reload_timeout", 2),
    ("start_delay", 0.25),
    ("standby", 0),
    ("standby", 2),
    ("no_signals", True),
    ("pidfile", None),
    ("pidfile", "pid"),
    ("pidfile", Path("pid")),
    ("process_name", "w"),
    ("manager_process_name", "m"),
]


class Shop(ProcManager):
    """A subclass has attributes of its own, which are nobody's business."""


@pytest.mark.parametrize("kind", [ProcManager, Shop])
@pytest.mark.parametrize(("parameter", "value"), WRONG)
def test_a_wrong_value_that_is_set_later_is_named_and_changes_nothing(kind: Any, parameter: str, value: Any) -> None:
    manager = kind(3)
    before = getattr(manager, parameter)
    with pytest.raises(ConfigError, match=rf"^{parameter} must "):
        setattr(manager, parameter, value)
    assert getattr(manager, parameter) == before


@pytest.mark.parametrize(("parameter", "value"), RIGHT)
def test_a_right_value_can_be_set_later(parameter: str, value: Any) -> None:
    manager = ProcManager(3)
    setattr(manager, parameter, value)
    assert getattr(manager, parameter) == value
    assert getattr(ProcManager(**{parameter: value}), parameter) == value


def test_a_negative_number_is_no_pool() -> None:
    """Set at run time it ends the pool, as in the original; before, it is a mistake."""
    with pytest.raises(ConfigError, match=r"^n_processes must not be negative"):
        ProcManager(-1)
    manager = ProcManager(3)
    manager.n_processes = -1
    with pytest.raises(ConfigError, match=r"^n_processes must not be negative"):
        manager.manage()


def test_a_reload_has_no_time_limit_unless_it_is_given_one() -> None:
    assert ProcManager().reload_timeout == 0
    assert ProcManager(reload_timeout=1.5).reload_timeout == 1.5


@pytest.mark.parametrize(("parameter", "value"), [given for given in WRONG if given[0] == "reload_timeout"])
def test_a_wrong_reload_timeout_is_named(parameter: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^{parameter} must "):
        ProcManager(**{parameter: value})


@pytest.mark.parametrize("role", list(Role))
def test_a_role_may_be_set_by_its_word(role: Role) -> None:
    """As subclasses of the originals do."""
    manager: Any = ProcManager()
    manager.role = role.value
    assert manager.role is role
    assert (str(manager.role), f"{manager.role}") == (role.value, role.value)
    assert manager.role == role.value


def test_a_subclass_may_have_attributes_of_its_own() -> None:
    manager: Any = Shop()
    manager.database = None
    manager.manager_pid = os.getpid()
    assert manager.database is None
