"""Numbers for people: the unit fits, nothing is scientific, and what is not known is never a number."""

from __future__ import annotations

from datetime import datetime, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpccarbon.report.render import words

J, WH = 10**6, 3_600 * 10**6


@pytest.mark.parametrize(
    ("energy_uj", "said"),
    [
        (None, "not metered"),
        (0, "0 J"),
        (1, "<0.001 J"),
        (420_000, "0.420 J"),
        (156 * J, "156 J"),
        (3_599 * J, "1.00 Wh"),
        (53_700 * WH // 1000, "53.7 Wh"),
        (999_960_000 * 3_600, "1.00 kWh"),
        (12_400 * WH, "12.4 kWh"),
        (12_345_678 * WH, "12.3 MWh"),
        (10**18 * 9, "2.50 GWh"),
    ],
)
def test_energy_has_the_unit_that_fits(energy_uj: int | None, said: str) -> None:
    assert words.energy(energy_uj) == said


@pytest.mark.parametrize(
    ("co2e_g", "said"),
    [
        (None, "not known"),
        (0.0, "0 g"),
        (0.00001, "0.010 mg"),
        (0.05, "50 mg"),
        (412.0, "410 g"),
        (999.6, "1.0 kg"),
        (4711.0, "4.7 kg"),
        (1.2e6, "1.2 t"),
    ],
)
def test_grams_have_two_digits(co2e_g: float | None, said: str) -> None:
    assert words.grams(co2e_g) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "-"),
        (0.0, "0 %"),
        (0.2, "<1 %"),
        (0.9, "<1 %"),
        (97.4, "97 %"),
        (98.7, "99 %"),
        (99.94, "99.9 %"),
        (100.0, "100 %"),
    ],
)
def test_per_cent_is_whole_only_where_it_is(value: float | None, said: str) -> None:
    assert words.percent(value) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (59.7, "1 min"), (65, "1 min 5 s"), (605, "10 min"), (8_820, "2 h 27 min"), (200_000, "2 d 7 h")],
)
def test_a_duration_has_two_units(seconds: float, said: str) -> None:
    assert words.duration(seconds) == said


@given(st.integers(0, 10**19))
def test_no_energy_is_written_scientifically_or_longer_than_a_column(energy_uj: int) -> None:
    said = words.energy(energy_uj)
    number = said.rsplit(" ", 1)[0]
    assert "e" not in number
    assert "inf" not in number
    assert len(said) <= 11


@given(st.integers(0, 10**19))
def test_what_is_written_is_near_what_is(energy_uj: int) -> None:
    number, unit = words.energy(energy_uj).rsplit(" ", 1)
    scale = {"J": J, "Wh": WH, "kWh": 1000 * WH, "MWh": 10**6 * WH, "GWh": 10**9 * WH}[unit]
    if not number.startswith("<"):
        assert float(number.replace(",", "")) * scale == pytest.approx(energy_uj, rel=0.006, abs=600)


def test_a_period_names_its_zone_and_a_second_date_only_where_there_is_one() -> None:
    start, end = datetime(2026, 3, 1, 9, 4, tzinfo=timezone.utc), datetime(2026, 3, 1, 11, 31, tzinfo=timezone.utc)
    berlin = ZoneInfo("Europe/Berlin")
    assert words.period(start, end, berlin) == "2026-03-01 10:04 to 12:31 CET"
    assert words.period(start, end.replace(day=2), timezone.utc) == "2026-03-01 09:04 to 2026-03-02 11:31 UTC"
    assert words.period(start, None, berlin) == "since 2026-03-01 10:04 CET"


def test_a_short_period_has_seconds_and_few_core_hours_are_seconds() -> None:
    start, end = datetime(2026, 3, 1, 9, 4, 5, tzinfo=timezone.utc), datetime(2026, 3, 1, 9, 4, 7, tzinfo=timezone.utc)
    assert words.period(start, end, timezone.utc) == "2026-03-01 09:04:05 to 09:04:07 UTC"
    assert words.core_hours(0.0001, 0.001) == "0.360 of 3.60 core seconds"
    assert words.core_hours(12.34, 40) == "12.3 of 40.0 core hours"
