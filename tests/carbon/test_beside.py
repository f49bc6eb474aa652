"""What stands beside the grams: scope 2, water, ranges, comparisons, other hours and other zones."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from hpccarbon.carbon import advice, equivalents, series
from hpccarbon.carbon.footprint import Factors
from hpccarbon.carbon.scope2 import scope2, water_l
from hpccarbon.carbon.uncertainty import budget
from hpccarbon.config import Carbon, Market

HOUR = datetime(2026, 3, 10, 12, tzinfo=timezone.utc)
KWH = 3_600_000_000_000


def test_both_totals_of_scope_2_stand_side_by_side() -> None:
    market = Market(contract_share=0.6, contract_g_per_kwh=0, residual_g_per_kwh=500, source="PPA Windpark Nord")
    carbon = Carbon(zone="DE", pue=1.5, node_factor=1.1, market=market)
    both = scope2(carbon, Factors(carbon).grid_kwh({HOUR: 10 * KWH}), 4000.0)
    assert both.location_g == 4000 and both.market_g == pytest.approx(10 * 1.65 * 0.4 * 500)
    assert any("direct" in note for note in both.notes) and any("PPA" in note for note in both.notes)


def test_what_no_contract_covers_needs_the_residual_mix_and_has_no_default() -> None:
    half = Carbon(zone="DE", basis="direct", market=Market(contract_share=0.5, source="PPA"))
    assert scope2(half, 10, 1.0).market_g is None and "residual" in scope2(half, 10, 1.0).notes[0]
    assert scope2(Carbon(zone="DE", basis="direct"), 10, 1.0).market_g is None
    whole = Carbon(zone="DE", basis="direct", market=Market(contract_share=1, source="own hydro"))
    assert scope2(whole, 10, 1.0).market_g == 0


def test_water_only_where_it_is_given() -> None:
    assert water_l(Carbon(), 10) is None
    assert water_l(Carbon(wue_l_per_kwh=1.8, node_factor=1.1, pue=2), 10) == pytest.approx(19.8)


def test_errors_are_added_and_what_is_common_is_kept_apart() -> None:
    told = Factors(Carbon(zone="DE", pue=1.3)).describe({HOUR: KWH})
    measured, modelled = budget(told), budget(told, 100)
    assert measured is not None and modelled is not None
    assert measured.total_percent < modelled.total_percent and measured.pue_percent == 5
    assert measured.common_percent < measured.total_percent and measured.own_percent > 0
    low, high = measured.range_g(100)
    assert 0 < low < 100 < high
    unknown = budget(Factors(Carbon(zone="DE")).describe({HOUR: KWH}))
    assert unknown is not None and unknown.pue_percent is None and unknown.notes
    assert budget(Factors(Carbon()).describe({HOUR: KWH})) is None


def test_the_comparison_is_one_has_a_range_and_a_key_switches_it_off() -> None:
    found = equivalents.car(1000, Carbon())
    assert found is not None and found.text == "4.1 to 5.7 km by an average car" and "EPA" in found.source
    small = equivalents.car(50, Carbon())
    assert small is not None and small.text == "200 to 290 m by an average car"
    large = equivalents.car(2.5e9, Carbon())
    assert large is not None and large.text == "10,000,000 to 14,000,000 km by an average car"
    assert equivalents.car(1000, Carbon(comparisons=False)) is None
    assert equivalents.car(None, Carbon()) is None and equivalents.car(0.2, Carbon()) is None


def fill(room: Path, days: int = 14) -> None:
    """Clean at noon, dirty at night; the marginal signal says the opposite."""
    base = int((HOUR - timedelta(days=days // 2, hours=12)).timestamp())

    def points(clean: float, dirty: float) -> list[series.Point]:
        return [
            series.Point(base + 3600 * at, base + 3600 * (at + 1), clean if 10 <= at % 24 < 15 else dirty, "measured")
            for at in range(24 * days)
        ]

    origin = series.Origin("energy_charts", "Energy-Charts", "CC-BY-4.0", "lifecycle")
    series.append(room, "DE", points(100, 400), origin, HOUR)
    marginal = series.Origin("watttime", "WattTime", "contract", "direct", "marginal")
    series.append(room, "DE", points(900, 500), marginal, HOUR)


def test_other_hours_are_compared_by_hours_that_are_known(tmp_path: Path) -> None:
    fill(tmp_path)
    night = {HOUR.replace(hour=hour): KWH for hour in (1, 2)}
    found = advice.other_times(Carbon(zone="DE", pue=1.2), night, tmp_path)
    best = found.times[0]
    assert found.co2e_g == pytest.approx(2 * 1.2 * 400) and best.co2e_g == pytest.approx(2 * 1.2 * 100)
    assert best.saved_percent == pytest.approx(75) and best.start.hour in range(10, 14)
    assert best.marginal_g == pytest.approx(2 * 1.2 * 900)  # the other signal disagrees, and is shown
    assert "marginal" in found.notes[0]
    here = next(one for one in found.times if one.shift_h == 0)
    assert here.saved_percent == 0 and len(found.times) == 169


def test_without_an_hourly_series_no_hour_is_better_than_another(tmp_path: Path) -> None:
    found = advice.other_times(Carbon(zone="DE"), {HOUR: KWH}, tmp_path)
    assert found.times == [] and "intensity fetch" in found.notes[0]
    assert "[carbon]" in advice.other_times(Carbon(), {HOUR: KWH}, tmp_path).notes[0]
    fill(tmp_path, 1)
    assert all(abs(one.shift_h) < 24 for one in advice.other_times(Carbon(zone="DE"), {HOUR: KWH}, tmp_path).times)


def test_other_zones_say_what_they_stand_on(tmp_path: Path) -> None:
    fill(tmp_path)
    found = advice.other_zones(Carbon(zone="DE", pue=1.2), {HOUR: KWH}, ["SE", "PL", "DE", "SE"], tmp_path)
    assert [one.zone for one in found.zones] == ["SE", "PL"] and found.zones[0].rungs == ["year"]
    assert found.zones[0].saved_percent > 0 > found.zones[1].saved_percent and found.notes == [advice.SIGNAL_NOTE]
    direct = advice.other_zones(Carbon(zone="US-CA", basis="direct"), {HOUR: KWH}, ["SE"], None)
    assert direct.zones == [] and direct.notes == ["SE: no direct value"]


def test_the_best_start_is_foreseen_by_the_forecast_or_by_the_last_two_weeks(tmp_path: Path) -> None:
    fill(tmp_path)
    now = HOUR.replace(hour=20, minute=40)
    known = advice.starts(Carbon(zone="DE"), tmp_path, now, length_h=2)
    assert known[0].g_per_kwh == 100 and known[0].start.hour in range(10, 14) and known[0].saved_percent == 75
    assert known[0].marginal_g_per_kwh == 900 and known[-1].g_per_kwh == 400
    assert len(known) == 25 and min(one.start for one in known) == HOUR.replace(hour=20)
    end = HOUR + timedelta(days=7, hours=-14)  # the last day that is known
    guessed = advice.starts(Carbon(zone="DE"), tmp_path, end, length_h=3, within_h=20)
    assert guessed[0].g_per_kwh == 100 and guessed[0].rungs == ["recent_days"]
    assert advice.starts(Carbon(zone="FR"), tmp_path, now, length_h=2) == []
    assert advice.starts(Carbon(zone="DE"), tmp_path, now + timedelta(days=30), length_h=2) == []
