"""The start that is chosen costs least of all starts there are, and nothing is chosen where nothing is known."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpccarbon.carbon.foresight import Foreseen
from hpccarbon.submit.choose import choose, latest_start

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
MIDNIGHT = datetime(2026, 3, 29, tzinfo=timezone.utc)
"""The night in which clocks change in Europe: UTC does not care, and neither may the choice."""


def hours(*values: float | None, sigma: float = 0.0, step: timedelta = HOUR) -> list[Foreseen]:
    """Periods from midnight on; None: not foreseen."""
    return [
        Foreseen(
            start=MIDNIGHT + number * step,
            end=MIDNIGHT + (number + 1) * step,
            g_per_kwh=value,
            rung="forecast",
            sigma_g_per_kwh=sigma * value,
        )
        for number, value in enumerate(values)
        if value is not None
    ]


def mean_by_minutes(known: list[Foreseen], start: datetime, minutes: int) -> float | None:
    """The same mean, one minute at a time: slow, and not to be doubted."""
    total = 0.0
    for number in range(minutes):
        moment = start + number * MINUTE
        value = next((one.g_per_kwh for one in known if one.start <= moment < one.end), None)
        if value is None:
            return None
        total += value
    return total / minutes


@given(
    values=st.lists(st.none() | st.integers(0, 900), min_size=1, max_size=9),
    step=st.sampled_from((15, 30, 60)),
    begin=st.integers(0, 90),
    delay=st.integers(0, 300),
    minutes=st.integers(1, 200),
)
def test_no_start_on_any_minute_costs_less(
    values: list[int | None], step: int, begin: int, delay: int, minutes: int
) -> None:
    known = hours(*values, step=step * MINUTE)
    now = MIDNIGHT + begin * MINUTE
    means = {at: mean_by_minutes(known, now + at * MINUTE, minutes) for at in range(delay + 1)}
    found = choose(reversed(known), now, now + delay * MINUTE, minutes * MINUTE)
    if means[0] is None:
        assert found is None
        return
    assert found is not None
    possible = [mean for mean in means.values() if mean is not None]
    assert found.best.g_per_kwh == pytest.approx(min(possible))
    assert found.now.g_per_kwh == pytest.approx(means[0])
    earliest = next(at for at, mean in means.items() if mean == pytest.approx(min(possible), abs=1e-7, rel=1e-12))
    assert found.delay == earliest * MINUTE
    assert all(means[(one.start - now) // MINUTE] is not None for one in found.candidates)
    assert [one.start for one in found.candidates] == sorted({one.start for one in found.candidates})
    assert found.low_percent <= found.saved_percent <= found.high_percent


def test_a_job_is_laid_around_the_clean_hours_to_the_minute() -> None:
    known = hours(400, 400, 300, 100, 100, 200, 400, 400)
    found = choose(known, MIDNIGHT + 20 * MINUTE, MIDNIGHT + 5 * HOUR, 150 * MINUTE)
    assert found is not None
    assert (
        found.best.start == MIDNIGHT + 3 * HOUR
    )  # two clean hours, and the half after them rather than the one before
    assert found.best.g_per_kwh == pytest.approx((100 + 100 + 200 / 2) / 2.5)
    assert found.delay == 160 * MINUTE
    ended = choose(hours(400, 400, 200, 100, 300), MIDNIGHT, MIDNIGHT + 3 * HOUR, 90 * MINUTE)
    assert ended is not None and ended.best.start == MIDNIGHT + 150 * MINUTE  # its end is on the edge


def test_equal_starts_are_equal_and_the_first_is_taken() -> None:
    found = choose(hours(*[0.1 + 0.2] * 3, *[0.3] * 9), MIDNIGHT, MIDNIGHT + 9 * HOUR, 3 * HOUR)
    assert found is not None and found.delay == timedelta() and found.saved_percent == 0.0
    assert found.low_percent == found.high_percent == 0.0  # the same job is not unsure of itself


def test_what_is_not_foreseen_is_neither_zero_nor_a_start() -> None:
    known = hours(300, 200, None, 100, 250)
    found = choose(known, MIDNIGHT, MIDNIGHT + 4 * HOUR, HOUR)
    assert found is not None and found.best.start == MIDNIGHT + 3 * HOUR
    assert [one.start.hour for one in found.candidates] == [0, 1, 3, 4]
    assert choose(known, MIDNIGHT, MIDNIGHT + 4 * HOUR, 3 * HOUR) is None
    assert choose([], MIDNIGHT, MIDNIGHT, HOUR) is None
    zero = choose(hours(0, 0), MIDNIGHT, MIDNIGHT + HOUR, HOUR)
    assert zero is not None and zero.saved_percent == 0.0 and zero.delay == timedelta()


def test_the_range_of_a_saving_comes_from_the_hours_that_differ() -> None:
    far = choose(hours(400, 400, 200, 200, sigma=0.2), MIDNIGHT, MIDNIGHT + 2 * HOUR, 2 * HOUR)
    near = choose(hours(400, 300, 200, sigma=0.2), MIDNIGHT, MIDNIGHT + HOUR, 2 * HOUR)
    assert far is not None and near is not None
    assert far.saved_percent == 50 and far.low_percent < 50 < far.high_percent <= 100
    wide, narrow = far.high_percent - far.saved_percent, near.high_percent - near.saved_percent
    assert narrow < wide  # one hour of two is the same at both starts


def test_a_start_is_never_later_than_delay_and_deadline_allow() -> None:
    half = timedelta(hours=12)
    assert latest_start(MIDNIGHT, HOUR, max_delay=half, deadline=None) == MIDNIGHT + half
    assert latest_start(MIDNIGHT, HOUR, max_delay=half, deadline=MIDNIGHT + 5 * HOUR) == MIDNIGHT + 4 * HOUR
    assert latest_start(MIDNIGHT, 9 * HOUR, max_delay=half, deadline=MIDNIGHT + 5 * HOUR) == MIDNIGHT


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="no job of"):
        choose(hours(1), MIDNIGHT, MIDNIGHT, timedelta())
    with pytest.raises(ValueError, match="no job of"):
        choose(hours(1), MIDNIGHT, MIDNIGHT - HOUR, HOUR)
    with pytest.raises(ValueError, match="overlap"):
        choose([*hours(1, 2), *hours(3)], MIDNIGHT, MIDNIGHT, HOUR)
