"""How long after its end a supervised process is started again."""

from __future__ import annotations

from fcgi_procmanager.daemon.delays import Delays


def ends(*cases: tuple[float, bool], delay: float) -> list[float]:
    delays = Delays()
    return [delays.ended(lived, clean, delay) for lived, clean in cases]


def test_the_delay_that_is_wanted() -> None:
    assert ends((100, False), delay=5) == [5]
    assert ends((100, True), delay=0.25) == [0.25]


def test_it_doubles_while_the_process_fails_young_up_to_half_a_minute() -> None:
    assert ends(*[(0, False)] * 6, delay=5) == [5, 10, 20, 30, 30, 30]
    assert ends(*[(0, False)] * 3, delay=40) == [40, 40, 40]


def test_without_a_delay_the_first_one_is_replaced_at_once() -> None:
    assert ends(*[(0, False)] * 4, delay=0) == [0, 0.1, 0.2, 0.4]


def test_one_that_has_lived_ends_the_series() -> None:
    assert ends((0, False), (0, False), (6, False), (0, False), delay=5) == [5, 10, 5, 10]


def test_a_clean_end_is_no_failure_but_never_a_fork_without_end() -> None:
    assert ends(*[(0, True)] * 4, delay=5) == [5, 5, 5, 5]
    assert ends(*[(0, True)] * 4, delay=0) == [0, 0.1, 0.1, 0.1]


def test_a_crash_loop_that_lasts_a_day() -> None:
    assert ends(*[(0, False)] * 5000, delay=0.001)[-1] == 30
