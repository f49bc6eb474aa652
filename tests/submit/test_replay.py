"""A million jobs at once are moved to where the choice for one would put each."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpccarbon.carbon.foresight import HOUR, Foreseen, Known, expect
from hpccarbon.submit.choose import choose
from hpccarbon.submit.replay import Hours, expected_of, move

FIRST = datetime(2026, 3, 1, tzinfo=timezone.utc)
NAN = float("nan")


def foreseen(values: list[float]) -> list[Foreseen]:
    return [
        Foreseen(start=FIRST + number * HOUR, end=FIRST + (number + 1) * HOUR, g_per_kwh=value, rung="measured")
        for number, value in enumerate(values)
    ]


@given(
    values=st.lists(st.integers(1, 900).map(float), min_size=30, max_size=30),
    begin_min=st.integers(0, 400),
    length_min=st.integers(1, 600),
    delay_min=st.integers(0, 700),
)
def test_one_way_by_columns_and_another_by_one_job_choose_the_same(
    values: list[float], begin_min: int, length_min: int, delay_min: int
) -> None:
    begin, length = np.array([60.0 * begin_min]), np.array([60.0 * length_min])
    hours = Hours(np.array(values))

    def mean(starts: np.typing.NDArray[np.float64]) -> np.typing.NDArray[np.float64]:
        return hours.mean(starts, length)

    moved = move(begin, length, mean, mean, 60.0 * delay_min)
    now = FIRST + timedelta(minutes=begin_min)
    latest, whole = now + timedelta(minutes=delay_min), timedelta(minutes=length_min)
    one = choose(foreseen(values), now, latest, whole)
    assert one is not None
    assert moved.at_once[0] == pytest.approx(one.now.g_per_kwh)
    assert [moved.chosen[0], moved.best[0]] == pytest.approx([one.best.g_per_kwh] * 2)
    assert moved.wait_s[0] == pytest.approx(one.delay.total_seconds(), abs=1e-3)


def test_what_is_not_known_is_no_answer_and_no_start() -> None:
    hours = Hours(np.array([300.0, 200.0, NAN, 100.0, 50.0]))
    length = np.array([3600.0, 3600.0, 7200.0, 3600.0])
    begin = np.array([0.0, 7200.0, 3600.0, 10_800.0])

    def mean(starts: np.typing.NDArray[np.float64]) -> np.typing.NDArray[np.float64]:
        return hours.mean(starts, length)

    moved = move(begin, length, mean, mean, 6 * 3600.0)
    assert np.isnan(moved.at_once).tolist() == [False, True, True, False]
    assert moved.chosen[[0, 3]].tolist() == [50.0, 50.0]  # the last hour that is known, and none beyond it
    assert moved.wait_s.tolist() == [4 * 3600.0, 0.0, 0.0, 3600.0]
    assert np.isnan(moved.best).tolist() == [False, True, True, False]


def test_a_choice_is_by_what_was_foreseen_and_paid_by_what_came() -> None:
    length = np.array([3600.0])
    came, thought = Hours(np.array([300.0, 400.0, 100.0])), Hours(np.array([300.0, 200.0, 250.0]))
    moved = move(
        np.array([0.0]), length, lambda starts: thought.mean(starts, length), lambda s: came.mean(s, length), 7200.0
    )
    assert (moved.at_once[0], moved.chosen[0], moved.best[0]) == (300.0, 400.0, 100.0)


def test_each_job_sees_what_was_known_in_the_hour_it_began() -> None:
    known = {FIRST + number * HOUR: 100.0 + 7 * (number % 24) + number % 5 for number in range(24 * 20)}
    starts = np.array([24 * 16, 24 * 16 + 5, 24 * 16])
    series, row = expected_of(known, FIRST, starts, 10, "DE")
    assert row.tolist() == [0, 1, 0]
    for line, start_h in enumerate([24 * 16, 24 * 16 + 5]):
        now = FIRST + start_h * HOUR
        past = {hour: Known(value, 0.0, "measured") for hour, value in known.items() if hour < now}
        for one in expect(past, now, now + 10 * HOUR, "DE"):
            at = np.array([(one.start - FIRST).total_seconds()])
            assert series.mean(at, np.array([3600.0]), line)[0] == pytest.approx(one.g_per_kwh)
    assert np.isnan(series.mean(np.array([0.0]), np.array([3600.0]), 0))[0]
