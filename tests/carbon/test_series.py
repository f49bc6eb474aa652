"""Series: what is fetched is kept as it was, and a missing hour is answered by the best rung there is."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpccarbon.carbon import series
from hpccarbon.carbon.footprint import Factors
from hpccarbon.carbon.intensity import RUNGS
from hpccarbon.carbon.series import Kind, Origin, Point
from hpccarbon.config import Carbon
from hpccarbon.errors import CarbonError

T0 = datetime(2026, 3, 1, tzinfo=timezone.utc)
NOW = datetime(2026, 4, 2, 12, tzinfo=timezone.utc)
BASE = int(T0.timestamp())
HERE = Origin("energy_charts", "Energy-Charts (Fraunhofer ISE)", "CC-BY-4.0", "lifecycle")
DE = Carbon(zone="DE", pue=1.2)


def hours(values: dict[int, float], kind: Kind = "measured") -> list[Point]:
    return [Point(BASE + 3600 * at, BASE + 3600 * (at + 1), value, kind) for at, value in values.items()]


def put(room: Path, points: Iterable[Point], at: datetime = NOW, origin: Origin = HERE) -> series.Appended:
    return series.append(room, "DE", points, origin, at)


def rung(room: Path, hour: int, as_of: datetime | None = None, carbon: Carbon = DE) -> tuple[str, float]:
    factor = Factors(carbon, room, as_of).at(T0 + timedelta(hours=hour))
    assert factor is not None
    return factor.rung, factor.g_per_kwh


def test_an_hour_that_was_fetched_is_used_with_its_source(tmp_path: Path) -> None:
    assert put(tmp_path, hours({0: 250.5, 1: 260})) == series.Appended(2, 0, 0)
    factor = Factors(DE, tmp_path).at(T0)
    assert factor is not None
    assert (factor.rung, factor.g_per_kwh, factor.source, factor.estimated) == ("measured", 250.5, HERE.source, False)
    assert "CC BY 4.0" in Factors(DE, tmp_path).describe([T0]).notices[0]


def test_finer_steps_are_averaged_to_the_hour_by_time() -> None:
    quarter = [Point(BASE, BASE + 900, 100, "measured"), Point(BASE + 900, BASE + 3600, 200, "estimated")]
    assert series.to_hours(quarter) == {BASE: (175.0, 3600, "estimated")}
    across = [Point(BASE + 1800, BASE + 5400, 100, "measured")]
    assert series.to_hours(across) == {BASE: (100.0, 1800, "measured"), BASE + 3600: (100.0, 1800, "measured")}


def test_less_than_half_of_an_hour_is_not_the_hour(tmp_path: Path) -> None:
    assert put(tmp_path, [Point(BASE, BASE + 900, 100, "measured")]) == series.Appended(0, 0, 0)
    assert rung(tmp_path, 0)[0] == "year"


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 8), st.integers(0, 1000)), min_size=1, max_size=20))
def test_points_of_any_length_keep_their_weight(steps: list[tuple[int, int, int]]) -> None:
    """However points are cut and repeated, an hour's mean lies between its points and covers no more than there is."""
    points = [Point(BASE + at * 900, BASE + (at + length) * 900, value, "measured") for at, length, value in steps]
    made = series.to_hours(points)
    values = [point.g_per_kwh for point in points]
    for mean, covered, _ in made.values():
        assert min(values) - 1e-9 <= mean <= max(values) + 1e-9 and 0 < covered <= 3600
    assert series.to_hours([*points, *points]) == made


@pytest.mark.parametrize("value", [float("nan"), -1.0, 5001.0, float("inf")])
def test_an_impossible_value_is_refused_by_name(tmp_path: Path, value: float) -> None:
    with pytest.raises(CarbonError, match="2026-03-01T00:00Z"):
        put(tmp_path, hours({0: value}))


def test_a_true_zero_is_a_zero_and_a_missing_hour_is_not(tmp_path: Path) -> None:
    put(tmp_path, hours({0: 0.0}))
    assert rung(tmp_path, 0) == ("measured", 0.0)
    assert rung(tmp_path, 2)[1] > 100


def test_the_ladder_rung_by_rung(tmp_path: Path) -> None:
    put(tmp_path, hours({0: 100, 6: 160}))
    assert rung(tmp_path, 2) == ("interpolated", 120)
    assert rung(tmp_path, 7)[0] == "year"  # nothing after it: not extrapolated
    put(tmp_path, hours({72: 300, 120: 500}))
    assert rung(tmp_path, 96) == ("neighbour_days", 400)
    assert rung(tmp_path, 144) == ("neighbour_day", 500)
    put(tmp_path, hours({24 * day + 5: 10.0 * day for day in range(6, 20)}))
    assert rung(tmp_path, 24 * 28 + 5) == ("month_hour", 125)
    assert rung(tmp_path, 24 * 28 + 9)[0] == "year"
    put(tmp_path, hours({24 * day + hour: 200 for day in range(6, 20) for hour in range(12, 24)}))
    assert rung(tmp_path, 24 * 28 + 9)[0] == "month"
    assert rung(tmp_path, 24 * 400)[0] == "year"


def test_each_rung_is_less_sure_than_the_one_above(tmp_path: Path) -> None:
    put(tmp_path, hours({0: 100, 6: 160, 72: 300, 120: 500}))
    factors = Factors(DE, tmp_path)
    spreads = []
    for at in (0, 2, 96, 24 * 60):
        factor = factors.at(T0 + timedelta(hours=at))
        assert factor is not None
        spreads.append(factor.spread)
    assert spreads == sorted(spreads) and spreads[0] < spreads[-1]


def test_seven_hours_apart_is_too_far_to_interpolate(tmp_path: Path) -> None:
    put(tmp_path, hours({0: 100, 7: 160}))
    assert rung(tmp_path, 3)[0] == "year"


def test_a_forecast_stands_until_a_measured_value_comes_and_is_nothing_to_interpolate_from(tmp_path: Path) -> None:
    put(tmp_path, hours({0: 90, 4: 95}, "forecast"))
    assert rung(tmp_path, 0) == ("forecast", 90) and rung(tmp_path, 2)[0] == "year"
    put(tmp_path, hours({0: 120}), NOW + timedelta(hours=1))
    put(tmp_path, hours({0: 91}, "forecast"), NOW + timedelta(hours=2))
    assert rung(tmp_path, 0) == ("measured", 120)


def test_as_of_makes_an_older_report_again(tmp_path: Path) -> None:
    put(tmp_path, hours({0: 100}), NOW)
    put(tmp_path, hours({0: 110}), NOW + timedelta(days=1))
    assert rung(tmp_path, 0)[1] == 110
    assert rung(tmp_path, 0, NOW)[1] == 100
    assert rung(tmp_path, 0, NOW - timedelta(seconds=1))[0] == "year"


@settings(max_examples=15, deadline=None)
@given(data=st.lists(st.dictionaries(st.integers(0, 30), st.integers(1, 900), min_size=1), min_size=1, max_size=30))
def test_packing_keeps_every_revision(data: list[dict[int, int]], tmp_path_factory: pytest.TempPathFactory) -> None:
    room = tmp_path_factory.mktemp("series")
    truth: list[dict[int, int]] = []
    for at, values in enumerate(data):
        put(room, hours({key: float(value) for key, value in values.items()}), NOW + timedelta(hours=at))
        truth.append({**(truth[-1] if truth else {}), **values})
    where = series.room(room, "DE", "lifecycle")
    assert len(list((where / "2026-03").glob("*.parquet"))) < series.PACK_AT
    for at in {0, len(data) // 2, len(data) - 1}:
        known = series.load(where, series.months_of(where), NOW + timedelta(hours=at)).hours
        assert {(hour - BASE) // 3600: value.g_per_kwh for hour, value in known.items()} == truth[at]


def test_what_is_known_already_makes_no_revision(tmp_path: Path) -> None:
    put(tmp_path, hours({0: 100, 1: 110}))
    assert put(tmp_path, hours({0: 100, 1: 115, 2: 5}), NOW + timedelta(hours=1)) == series.Appended(1, 1, 1)
    assert put(tmp_path, hours({0: 100, 1: 115, 2: 5}), NOW + timedelta(hours=2)) == series.Appended(0, 0, 3)
    assert len(list(tmp_path.rglob("*.parquet"))) == 2


def test_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    def work(number: int) -> None:
        for step in range(12):
            put(tmp_path, hours({number * 12 + step: 100.0 + number}), NOW + timedelta(seconds=number * 100 + step))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    where = series.room(tmp_path, "DE", "lifecycle")
    assert len(series.load(where, series.months_of(where)).hours) == 48


def test_a_broken_file_is_named_and_set_aside_and_the_others_count(tmp_path: Path) -> None:
    put(tmp_path, hours({0: 100}))
    broken = series.room(tmp_path, "DE", "lifecycle") / "2026-03" / "20260401T000000000000Z.other.parquet"
    broken.write_bytes(b"PAR1 nothing")
    factors = Factors(DE, tmp_path)
    told = factors.describe([T0])
    assert told.rungs[0].rung == "measured" and any(broken.name in note for note in told.notes)
    assert put(tmp_path, hours({1: 100}), NOW + timedelta(hours=1)).new == 1


def test_a_directory_that_cannot_be_looked_into_is_named_not_passed_over(tmp_path: Path) -> None:
    with pytest.raises(CarbonError, match="cannot look for intensities"):
        Factors(DE, tmp_path / ("x" * 300))
    (tmp_path / "file").write_text("")
    assert rung(tmp_path / "file", 0)[0] == "year"


def test_marginal_values_never_reach_a_total(tmp_path: Path) -> None:
    marginal = Origin("watttime", "WattTime", "contract", "lifecycle", "marginal")
    put(tmp_path, hours({0: 900}), origin=marginal)
    assert rung(tmp_path, 0)[0] == "year"


def test_bases_lie_apart(tmp_path: Path) -> None:
    put(tmp_path, hours({0: 50}), origin=HERE._replace(basis="direct"))
    assert rung(tmp_path, 0)[0] == "year"
    assert rung(tmp_path, 0, carbon=Carbon(zone="DE", basis="direct")) == ("measured", 50)


def test_the_preferred_provider_goes_first(tmp_path: Path) -> None:
    put(tmp_path, hours({0: 100}))
    other = Origin("electricity_maps", "Electricity Maps", "contract", "lifecycle")
    put(tmp_path, hours({0: 140}, "estimated"), NOW + timedelta(hours=1), other)
    assert rung(tmp_path, 0) == ("measured", 100)
    assert rung(tmp_path, 0, carbon=Carbon(zone="DE", provider="electricity_maps")) == ("estimated", 140)


def test_a_zone_of_the_sites_own_is_known_by_its_series(tmp_path: Path) -> None:
    series.append(tmp_path, "campus-chp", hours({0: 211.4}), HERE, NOW)
    factors = Factors(Carbon(zone="campus-chp"), tmp_path)
    assert (factor := factors.at(T0)) is not None and factor.g_per_kwh == 211.4
    later = T0 + timedelta(days=90)
    far = factors.at(later)
    assert far is not None and far.rung == "world"
    (_no_pue, stand_in) = factors.describe([later]).notes
    assert stand_in.startswith("100 % of the energy is at ")
    assert stand_in.endswith("campus-chp has no lifecycle value of its own")


def test_data_under_two_licences_is_attributed_to_both(tmp_path: Path) -> None:
    put(tmp_path, hours({0: 100}), origin=Origin("merged", "Two sources", "ODbL-1.0 and CC-BY-4.0", "lifecycle"))
    first, second = Factors(DE, tmp_path).describe([T0]).notices
    assert first.startswith("Contains information from Electricity Maps")
    assert second.startswith("Two sources, under CC BY 4.0 ")


def test_many_hours_at_once_are_the_same_as_one_by_one(tmp_path: Path) -> None:
    put(tmp_path, hours({at: 100 + at % 50 for at in range(0, 700, 3)}))
    asked = [T0 + timedelta(hours=at) for at in range(-30, 900, 31)]
    at_once = Factors(DE, tmp_path).mapping(asked)
    assert at_once == {hour: Factors(DE, tmp_path).mapping([hour])[hour] for hour in asked}
    assert {share.rung for share in Factors(DE, tmp_path).describe(asked).rungs} <= set(RUNGS)


def test_a_description_says_of_each_rung_how_much_it_was_used_for(tmp_path: Path) -> None:
    """An hour that was fetched, one that was not, and one of another year: every field, by energy and by hours."""
    put(tmp_path, hours({0: 250.0}))
    other = T0.replace(year=2024)
    factors = Factors(Carbon(zone="DE", node_factor=1.1, pue_of_year={"2026": 1.5, "2024": 1.1}), tmp_path)
    kwh = 3_600_000_000_000
    energy = {T0: 5 * kwh, T0 + timedelta(hours=1): 2 * kwh, other: kwh}
    hour, young, old = (factors.at(moment) for moment in energy)
    assert hour and young and old
    assert (hour.rung, young.rung, old.rung) == ("measured", "year", "year")
    assert (young.year, old.year) == (2025, 2024)
    told = factors.describe(energy)
    assert (told.zone, told.zone_name, told.basis, told.node_factor) == ("DE", "Germany", "lifecycle", 1.1)
    assert told.pue == pytest.approx((7 * 1.5 + 1.1) / 8)
    weighted = 5 * 250 + 2 * young.g_per_kwh + old.g_per_kwh
    assert told.intensity_g_per_kwh == pytest.approx(weighted / 8)
    measured, yearly = told.rungs
    assert (measured.rung, measured.source, measured.years, measured.hours) == ("measured", HERE.source, [], 1)
    assert (measured.energy_uj, measured.percent) == (5 * kwh, 62.5)
    assert measured.spread_percent == pytest.approx(100 * hour.spread)
    assert (yearly.rung, yearly.edition, yearly.years, yearly.hours) == ("year", "Ember 2026", [2024, 2025], 2)
    assert (yearly.energy_uj, yearly.percent) == (3 * kwh, 37.5)
    assert yearly.spread_percent == pytest.approx(100 * (young.spread + old.spread) / 2)
    assert (
        told.sources[0]
        == f"hourly, measured, {HERE.source}: 62.5 % of the energy, ± {100 * hour.spread:.2g} % for one hour"
    )
    assert told.sources[1].startswith("the year's mean 2024-2025, Ember (2026)")
    assert ": 37.5 % of the energy, ± " in told.sources[1]
    # Both unfetched hours are more than a week apart; T0 and its neighbour are in one week and err together.
    grams = [5 * 250 * hour.own + 2 * young.g_per_kwh * young.own, old.g_per_kwh * old.own]
    assert told.own_percent == pytest.approx(100 * (grams[0] ** 2 + grams[1] ** 2) ** 0.5 / weighted)
    common = [
        max(weight * one.g_per_kwh * one.common, weight * one.floor_g)
        for one, weight in ((hour, 5), (young, 2), (old, 1))
    ]
    assert told.common_percent == pytest.approx(100 * sum(common) / weighted)

    equal = factors.describe(energy.keys())
    assert equal.pue == pytest.approx((1.5 + 1.5 + 1.1) / 3)
    assert equal.intensity_g_per_kwh == pytest.approx((250 + young.g_per_kwh + old.g_per_kwh) / 3)
    assert [(share.rung, share.energy_uj) for share in equal.rungs] == [("year", 0), ("measured", 0)]
    assert [share.percent for share in equal.rungs] == pytest.approx([200 / 3, 100 / 3])


def test_one_year_is_named_alone() -> None:
    factors = Factors(Carbon(zone="DE"))
    assert factors.describe([T0.replace(year=2024)]).sources[0].startswith("the year's mean 2024, Ember")


def test_a_mean_weighs_what_was_used_and_not_when() -> None:
    """Errors of hours are the same within a week of the epoch (it began on a Thursday), and independent beyond."""
    factors = Factors(DE)
    friday = datetime(2024, 3, 8, tzinfo=timezone.utc)
    one = factors.at(friday)
    assert one is not None
    within = factors.describe({friday: 10**12, friday + timedelta(days=5, hours=23): 10**12})
    assert within.own_percent == pytest.approx(100 * one.own)
    apart = factors.describe({friday: 10**12, friday + timedelta(days=6): 10**12})
    assert apart.own_percent == pytest.approx(100 * one.own / 2**0.5)


def test_hours_without_a_value_are_counted_and_the_advice_is_one_that_helps(tmp_path: Path) -> None:
    factors = Factors(Carbon(zone="DE", basis="direct", pue=1.2), tmp_path)
    told = factors.describe([T0 + timedelta(hours=at) for at in range(3)])
    assert "no direct intensity is known" in told.notes[0]
    assert " in 3 of the hours: " in told.notes[0]
    assert told.notes[0].endswith("or set carbon.basis = lifecycle")
    assert (told.intensity_g_per_kwh, told.own_percent, told.common_percent, told.rungs) == (None, None, None, [])
    assert told.pue == 1.2


def test_a_pue_of_the_hour_wins_over_the_years(tmp_path: Path) -> None:
    path = tmp_path / "pue.csv"
    path.write_text("start,pue\n2026-03-01T00:00Z,1.31\n")
    factors = Factors(Carbon(zone="DE", pue=1.2, pue_of_year={"2026": 1.25}, pue_file=str(path)))
    assert [factors.pue_of(T0 + timedelta(minutes=minutes)) for minutes in (0, 59, 60)] == [1.31, 1.31, 1.25]
    assert factors.pue_of(T0.replace(year=2020)) == 1.2
    assert factors.grid_kwh({T0: 3_600_000_000_000}) == pytest.approx(1.31)
    assert Factors(Carbon(zone="DE")).grid_kwh({T0: 3_600_000_000_000}) == 1.0
    assert Factors(Carbon(zone="DE", pue=1.2, node_factor=1.25)).grid_kwh({T0: 3_600_000_000_000}) == pytest.approx(1.5)
    unknown = Factors(Carbon(zone="DE", node_factor=1.25)).at(T0)
    assert unknown is not None and (unknown.pue, unknown.metered_to_grid, unknown.node_factor) == (None, 1.25, 1.25)
    assert Factors(Carbon(zone="DE", pue=1.4)).describe().pue == 1.4
    assert Factors(Carbon(zone="DE")).describe().pue is None
