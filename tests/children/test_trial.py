"""When a program that was started is good."""

from __future__ import annotations

import pytest

from fcgi_procmanager.children.trial import Trial, Verdict


@pytest.mark.parametrize(
    ("interval", "now", "verdict"),
    [(1.0, 10.0, Verdict.WAIT), (1.0, 10.9, Verdict.WAIT), (1.0, 11.0, Verdict.GOOD), (0.0, 10.0, Verdict.GOOD)],
)
def test_without_an_announcement_it_has_to_live_so_long(interval: float, now: float, verdict: Verdict) -> None:
    assert Trial(10.0, interval, None).verdict(now) is verdict


def test_with_one_its_age_does_not_count() -> None:
    trial = Trial(10.0, 1.0, 5.0)
    assert trial.next_at == 15.0
    assert trial.verdict(14.9) is Verdict.WAIT
    assert trial.verdict(15.0) is Verdict.LATE
    trial.announced = True
    assert trial.verdict(10.0) is Verdict.GOOD
    assert trial.verdict(15.0) is Verdict.GOOD  # it came while nobody looked
