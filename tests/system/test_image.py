"""The program that this process executes."""

from __future__ import annotations

import pytest

from fcgi_procmanager.system.image import Image


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("serve shop:app --env PASSWORD=hunter=2 -n 2", "serve shop:app --env PASSWORD=... -n 2"),
        ("serve --env=PASSWORD=hunter2 shop:app --chdir=/a=b", "serve --env=PASSWORD=... shop:app --chdir=/a=b"),
        ("exec --env A=1 --env B=2 -- program --listen=x", "exec --env A=... --env B=... -- program --listen=x"),
        ("serve shop:app --env", "serve shop:app --env"),
        ("serve --env A --env= --env --env=B=1", "serve --env A --env= --env --env=B=..."),
    ],
)
def test_a_log_has_no_value_of_the_environment(typed: str, shown: str) -> None:
    assert Image("python", tuple(typed.split()), None).shown == shown
