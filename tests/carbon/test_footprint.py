"""From energy to grams: what is configured, what is not, and what the reader is told of it."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpccarbon.carbon import tables
from hpccarbon.carbon.explain import explain
from hpccarbon.carbon.footprint import NO_PUE, Factors, hour_of
from hpccarbon.carbon.places import Places
from hpccarbon.config import Carbon
from hpccarbon.errors import CarbonError

HOUR = datetime(2024, 3, 5, 7, tzinfo=timezone.utc)
KWH = 3_600_000_000_000


def test_a_known_zone_gives_its_year_with_source_and_edition() -> None:
    factor = Factors(Carbon(zone="FR", pue=1.2, node_factor=1.1)).at(HOUR)
    assert factor is not None
    row = next(row for row in tables.yearly("FR") if row.year == 2024)
    assert (factor.g_per_kwh, factor.year, factor.rung) == (row.g_per_kwh, 2024, "year")
    assert factor.edition == "Ember 2026" and factor.source == row.source and factor.basis == "lifecycle"
    assert factor.metered_to_grid == pytest.approx(1.32) and factor.factor == factor.g_per_kwh * factor.metered_to_grid


@pytest.mark.parametrize(("year", "used"), [(2024, 2024), (2026, 2025), (2040, 2025), (1999, 2015)])
def test_the_year_is_the_jobs_else_the_newest_before_else_the_oldest(year: int, used: int) -> None:
    factors = Factors(Carbon(zone="DE"))
    factor = factors.at(HOUR.replace(year=year))
    assert factor is not None and factor.year == used
    exact = factors.at(HOUR)
    assert exact is not None and (factor.spread > exact.spread or year == 2024)


def test_no_zone_gives_no_grams_and_says_how_to_set_one() -> None:
    factors = Factors(Carbon())
    assert factors.at(HOUR) is None and factors.mapping([HOUR]) == {} and factors.grams({HOUR: KWH}) is None
    told = factors.describe({HOUR: KWH})
    assert told.zone is None and "[carbon]" in told.notes[0] and "intensity zones --search" in told.notes[0]


def test_an_unknown_pue_is_never_silent() -> None:
    assert NO_PUE in Factors(Carbon(zone="DE")).describe([HOUR]).notes
    assert Factors(Carbon(zone="DE")).describe([HOUR]).pue is None
    assert NO_PUE not in Factors(Carbon(zone="DE", pue=1.0)).describe([HOUR]).notes


def test_a_year_keeps_its_own_pue() -> None:
    carbon = Carbon(zone="DE", pue=1.2, pue_of_year={"2024": 1.5})
    factors = Factors(carbon)
    new = HOUR.replace(year=2025)
    assert (factors.pue_of(HOUR), factors.pue_of(new)) == (1.5, 1.2)
    assert factors.grid_kwh({HOUR: KWH, new: KWH}) == pytest.approx(2.7)
    assert factors.describe({HOUR: KWH}).pue == 1.5 and factors.describe({new: KWH}).pue == 1.2
    assert factors.describe({HOUR: KWH, new: 2 * KWH}).pue == pytest.approx(1.3)
    half = Factors(Carbon(zone="DE", pue_of_year={"2024": 1.5}))
    assert half.describe({HOUR: KWH}).notes == [] and NO_PUE in half.describe({HOUR: KWH, new: KWH}).notes
    grams = factors.grams({HOUR: KWH, new: KWH})
    told = explain(Places(carbon), {"": {HOUR: KWH, new: KWH}})
    assert grams is not None and float(told.co2e_g or 0) == pytest.approx(grams)
    assert [(line.result, line.time) for line in told.lines if line.label == "PUE"] == [
        ("1.5", "2024"),
        ("1.2", "2025"),
    ]


def test_an_unknown_zone_is_an_error_with_the_nearest() -> None:
    with pytest.raises(CarbonError, match="nearest: DE"):
        Factors(Carbon(zone="DEE"))


def test_bases_are_never_mixed() -> None:
    assert Factors(Carbon(zone="DE", basis="direct")).grams({HOUR: KWH}) is None  # packaged: life cycle only
    assert any("direct" in note for note in Factors(Carbon(zone="DE", basis="direct")).describe([HOUR]).notes)
    direct, lifecycle = (Factors(Carbon(zone="US", basis=basis)).at(HOUR) for basis in ("direct", "lifecycle"))
    assert direct is not None and lifecycle is not None
    assert (direct.basis, lifecycle.basis) == ("direct", "lifecycle") and direct.g_per_kwh < lifecycle.g_per_kwh


@given(
    zone=st.sampled_from(["DE", "US", "US-CA", "AU-NSW", "DK-DK1", "CN-GD", "JP-TK", "CF"]),
    year=st.integers(2000, 2040),
)
def test_whatever_the_zone_a_value_has_the_basis_that_was_asked_for(zone: str, year: int) -> None:
    for basis in ("lifecycle", "direct"):
        factor = Factors(Carbon(zone=zone, basis=basis)).at(HOUR.replace(year=year))
        if factor is not None:
            assert factor.basis == basis and factor.g_per_kwh >= 0 and factor.spread > 0 and factor.source


def test_a_part_of_a_country_without_a_value_takes_the_countrys_and_says_so() -> None:
    factors = Factors(Carbon(zone="US-CA", pue=1.1))
    factor = factors.at(HOUR)
    assert factor is not None and (factor.rung, factor.zone) == ("country", "US")
    assert any("US-CA has no lifecycle value of its own" in note for note in factors.describe([HOUR]).notes)


def test_consumption_goes_first_where_it_is_asked_for_and_brings_its_notice() -> None:
    production, consumption = (Factors(Carbon(zone="CH", yearly=kind)) for kind in ("production", "consumption"))
    one, other = production.at(HOUR), consumption.at(HOUR)
    assert one is not None and other is not None
    assert (one.licence, other.licence) == ("CC-BY-4.0", "ODbL-1.0") and one.g_per_kwh != other.g_per_kwh
    assert consumption.describe([HOUR]).notices == [
        "Contains information from Electricity Maps, made available under the Open Database License "
        "(https://opendatacommons.org/licenses/odbl/1-0/)"
    ]
    assert "CC BY 4.0" in production.describe([HOUR]).notices[0]


def test_a_statistic_of_zero_is_said_to_be_one() -> None:
    told = Factors(Carbon(zone="CF", pue=1.1)).describe({HOUR.replace(year=2020): KWH})
    assert told.intensity_g_per_kwh == 0 and any("not free of emissions" in note for note in told.notes)


def test_a_fixed_value_replaces_every_series() -> None:
    factors = Factors(Carbon(zone="DE", fixed_g_per_kwh=50, fixed_source="contract with the dam next door"))
    factor = factors.at(HOUR)
    assert factor is not None and (factor.g_per_kwh, factor.rung) == (50, "fixed") and "dam" in factor.source


@given(st.dictionaries(st.integers(0, 50_000), st.integers(0, 10**14), min_size=1, max_size=30))
def test_grams_are_the_sum_over_hours_and_the_description_covers_all_energy(energy: dict[int, int]) -> None:
    factors = Factors(Carbon(zone="PL", pue=1.3))
    by_hour = {HOUR - timedelta(hours=hours): value for hours, value in energy.items()}
    grams = factors.grams(by_hour)
    mapping = factors.mapping(by_hour)
    assert grams == pytest.approx(sum(value / KWH * mapping[hour] for hour, value in by_hour.items()))
    told = factors.describe(by_hour)
    assert sum(share.energy_uj for share in told.rungs) == sum(by_hour.values())
    assert sum(share.percent for share in told.rungs) == pytest.approx(100)
    assert told.intensity_g_per_kwh is not None and told.intensity_g_per_kwh > 0


def test_errors_in_common_do_not_average_out_and_those_of_hours_do() -> None:
    factors = Factors(Carbon(zone="DE", pue=1.2))
    short = factors.describe({HOUR: KWH})
    long = factors.describe({HOUR + timedelta(hours=hours): KWH for hours in range(0, 8000, 24)})
    assert short.common_percent == pytest.approx(12) and long.common_percent == pytest.approx(12, abs=3)
    assert short.own_percent is not None and long.own_percent is not None
    assert long.own_percent < short.own_percent / 4


def test_hours_are_utc_and_naive_times_are_refused() -> None:
    eastern = timezone(timedelta(hours=5, minutes=30))
    for moment in (
        datetime(2026, 1, 1, 5, 45, tzinfo=eastern),
        datetime(2026, 1, 1, 6, 29, 59, 999_999, tzinfo=eastern),
    ):
        assert hour_of(moment) == datetime(2026, 1, 1, tzinfo=timezone.utc)
        assert hour_of(moment).tzinfo is timezone.utc
    with pytest.raises(ValueError, match="naive"):
        hour_of(datetime(2026, 1, 1))


def test_a_lookup_loads_nothing_heavy() -> None:
    """What it takes is measured by `make bench` (carbon)."""
    code = (
        "import hpccarbon.config as c, datetime as d, sys; from hpccarbon.carbon.footprint import Factors;"
        "h=d.datetime(2025,1,1,tzinfo=d.timezone.utc); f=Factors(c.Carbon(zone='DE'));"
        "f.mapping([h]); f.describe({h:1});"
        "print(sorted({'pandas','pyarrow','duckdb','numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
