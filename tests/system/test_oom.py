"""Whether the system has killed processes of ours for want of memory, by what the kernel counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from fcgi_procmanager.system.oom import MemoryKills


def test_each_is_used_up_once(tmp_path: Path) -> None:
    file = tmp_path / "memory.events"
    file.write_text("low 0\noom 9\noom_kill 3\noom_group_kill 1\n")
    kills = MemoryKills(str(file))
    assert not kills.take()
    file.write_text("low 0\noom 12\noom_kill 5\noom_group_kill 1\n")
    assert [kills.take() for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize("text", ["", "oom_kill\n", "oom_kill many\n", "oom 3\n"])
def test_what_is_not_known(tmp_path: Path, text: str) -> None:
    file = tmp_path / "memory.events"
    file.write_text(text)
    assert not MemoryKills(str(file)).take()
    assert not MemoryKills(str(tmp_path / "none")).take()


def test_of_this_process_it_fails_never() -> None:
    assert MemoryKills().take() in (True, False)
