"""What is foreseen: a forecast as it is, else a guess from the last two weeks, and how far off it may be."""

from __future__ import annotations

import random
from datetime import datetime, timedelta, timezone
from math import sqrt
from pathlib import Path

import pytest

from hpccarbon.carbon import series
from hpccarbon.carbon.foresight import DAYS, FADE, GUESSED, PERSISTENCE, Foreseen, error_of_sum, foreseen
from hpccarbon.config import Carbon

NOW = datetime(2026, 3, 20, 9, 30, tzinfo=timezone.utc)
FIRST = NOW.replace(minute=0)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
ORIGIN = series.Origin("energy_charts", "Energy-Charts", "CC-BY-4.0", "lifecycle")


def store(room: Path, values: dict[datetime, float], kind: series.Kind = "measured") -> None:
    points = [series.Point(int(at.timestamp()), int(at.timestamp()) + 3600, g, kind) for at, g in values.items()]
    series.append(room, "DE", points, ORIGIN, FIRST)


def past(days: int = DAYS, departure: float = 0.0) -> dict[datetime, float]:
    """Cleaner by the hour of the day; the last known hour, 08:00, stands off its mean by `departure`."""
    values = {FIRST - back * HOUR: 200.0 + 10 * (FIRST - back * HOUR).hour for back in range(1, 24 * days + 1)}
    values[FIRST - HOUR] += departure
    return values


def ahead(room: Path, hours: int = 24) -> list[Foreseen]:
    return foreseen(Carbon(zone="DE"), room, NOW, FIRST + hours * HOUR)


def test_without_a_forecast_an_hour_is_the_mean_of_its_days(tmp_path: Path) -> None:
    store(tmp_path, past())
    found = ahead(tmp_path, 48)
    assert [one.start for one in found] == [FIRST + number * HOUR for number in range(48)]
    assert [one.g_per_kwh for one in found] == [200 + 10 * one.start.hour for one in found]
    assert {one.rung for one in found} == {GUESSED}
    assert {one.sigma_g_per_kwh for one in found} == {0.0}  # every day was the same


def test_the_last_hour_s_departure_fades(tmp_path: Path) -> None:
    store(tmp_path, past(departure=140))
    found = ahead(tmp_path)
    off = [one.g_per_kwh - (200 + 10 * one.start.hour) for one in found]
    mean_of_eight = 140 / DAYS  # what the departure did to the mean of its own hour
    assert off[0] == pytest.approx((140 - mean_of_eight) * FADE, abs=2)
    assert off[5] == pytest.approx((140 - mean_of_eight) * FADE**6, abs=2)
    errors = [one.sigma_g_per_kwh for one in found]
    assert errors == sorted(errors) and errors[0] < errors[-1] / 2  # the next hour is surer than tomorrow


def test_a_forecast_goes_first_and_the_guess_goes_on_from_its_end(tmp_path: Path) -> None:
    store(tmp_path, past())
    store(tmp_path, {FIRST + number * HOUR: 1000.0 for number in range(6)}, "forecast")
    found = ahead(tmp_path)
    assert [one.rung for one in found] == ["forecast"] * 6 + [GUESSED] * 18
    assert found[0].g_per_kwh == 1000 and found[0].sigma_g_per_kwh == pytest.approx(200)
    own = 200 + 10 * 14
    assert found[6].g_per_kwh == pytest.approx(200 + 10 * 15 + (1000 - own) * FADE)


def test_one_day_alone_is_a_guess_with_the_measured_error_of_one_day(tmp_path: Path) -> None:
    store(tmp_path, past(days=1))
    found = ahead(tmp_path)
    assert len(found) == 24 and found[3].g_per_kwh == 200 + 10 * 12
    assert 0.1 < found[-1].sigma_g_per_kwh / found[-1].g_per_kwh < 0.4


def test_what_may_be_chance_is_no_pattern(tmp_path: Path) -> None:
    """Hours that differ by the same amount every day are believed, hours that differ by a throw of dice are not."""
    dice = random.Random(1)
    store(tmp_path / "dice", {at: 300 + dice.uniform(-100, 100) for at in past()})
    thrown = [one.g_per_kwh for one in ahead(tmp_path / "dice", 240)][-24:]
    assert max(thrown) - min(thrown) < 25  # the means of 14 throws differ by 100
    store(tmp_path / "sun", {at: value + dice.uniform(-10, 10) for at, value in past().items()})
    believed = [one.g_per_kwh for one in ahead(tmp_path / "sun", 240)][-24:]
    assert max(believed) - min(believed) > 0.95 * 230


def test_what_is_not_known_is_not_foreseen(tmp_path: Path) -> None:
    assert ahead(tmp_path) == []
    store(tmp_path, {at: value for at, value in past().items() if at.hour not in range(11, 18)})
    assert [one.start.hour for one in ahead(tmp_path, 12)] == [9, 10, 18, 19, 20]
    assert foreseen(Carbon(zone="DE"), tmp_path, NOW + 30 * DAY, NOW + 31 * DAY) == []
    assert foreseen(Carbon(zone="DE"), tmp_path, NOW, FIRST) == []


def test_a_guess_sees_nothing_of_its_future(tmp_path: Path) -> None:
    store(tmp_path, past())
    before = ahead(tmp_path)
    store(tmp_path, {FIRST + number * HOUR: 900.0 for number in range(30, 90)})
    assert ahead(tmp_path) == before


def test_errors_that_go_together_add_up_and_opposite_ones_cancel() -> None:
    at = [FIRST + number * HOUR for number in range(3)]
    assert error_of_sum([]) == 0.0
    assert error_of_sum([(at[0], -3.0)]) == 3.0
    assert error_of_sum([(at[0], 1.0), (at[1], 1.0)]) == pytest.approx(sqrt(2 + 2 * PERSISTENCE))
    assert error_of_sum([(at[0], 1.0), (at[2], -1.0)]) == pytest.approx(sqrt(2 - 2 * PERSISTENCE**2))
    assert error_of_sum([(at[0], 1.0), (at[0] + 100 * DAY, 1.0)]) == pytest.approx(sqrt(2))
    halves = [(at[0], 0.5), (at[0] + HOUR / 2, 0.5)]
    assert error_of_sum(halves) == pytest.approx(sqrt(0.5 + 0.5 * PERSISTENCE**0.5))
