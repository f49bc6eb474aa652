"""The summary of a month says what the ledger says, names what is missing, and its data adds up."""

from __future__ import annotations

import csv
import io
from datetime import timedelta
from pathlib import Path
from typing import Literal

import msgspec
import pyarrow.parquet as pq
import pytest

from hpccarbon import config
from hpccarbon.cli.common import parse_month
from hpccarbon.report.month import summary
from hpccarbon.report.render.months import content
from hpccarbon.report.summary import Summary
from hpccarbon.site.ledger import Ledger, Selection
from tests.report.golden import check
from tests.summary import year
from tests.summary.conftest import BERLIN


def energy(lines: object) -> int:
    assert isinstance(lines, list)
    return sum(line.figures.energy_uj or 0 for line in lines)


def test_every_table_adds_up_to_the_meters(march: Summary, ledger: Ledger) -> None:
    meters = ledger.energy(Selection(holders=("meter",), since=march.since, until=march.until))
    whole = meters[0].energy_uj
    assert march.total.figures.energy_uj == whole
    assert energy(march.holders) == energy(march.nodes) == whole
    jobs = next(line.figures.energy_uj for line in march.holders if line.name == "job")
    for lines in (march.accounts, march.users, march.partitions):
        assert energy(lines) == jobs
    assert sum(day.job_uj + day.system_uj + day.unallocated_uj for day in march.days) == whole


def test_grams_add_up_and_have_a_range(march: Summary) -> None:
    grams = march.total.figures.co2e_g
    assert grams is not None
    assert sum(line.figures.co2e_g or 0 for line in march.holders) == pytest.approx(grams)
    assert sum(day.co2e_g or 0 for day in march.days) == pytest.approx(grams)
    assert march.quality.low_g is not None
    assert march.quality.high_g is not None
    assert march.quality.low_g < grams < march.quality.high_g


def test_hardware_market_and_water_stand_beside_the_grams(march: Summary) -> None:
    told = march.statement
    assert told is not None
    assert told.co2e_g == pytest.approx(march.total.figures.co2e_g)
    # Cores × time that jobs held, of 64 cores over five years, of 1,200 kg.
    held_h = march.holders[0].figures.core_hours
    assert held_h is not None
    assert told.embodied_g == pytest.approx(1_200_000 * held_h / (64 * 5 * 365.25 * 24), rel=2e-3)
    assert told.market_g == pytest.approx((march.total.figures.energy_uj or 0) / 3.6e12 * 1.1 * 1.25 * 20)
    page = content(march, "html").decode()
    assert "Making the hardware that jobs held" in page
    nodes = len({line.node for line in march.nodes})
    hours = (march.until - march.since).total_seconds() / 3600
    assert told.embodied_g is not None
    assert told.embodied_unused_g is not None
    assert told.embodied_g + told.embodied_unused_g == pytest.approx(nodes * 1_200_000 * hours / (5 * 8760), rel=1e-9)
    assert "Of hardware that no job held" in page
    assert "market-based" in page
    assert "Water for cooling" in page


def test_the_intensity_that_was_used_is_named_with_its_share(march: Summary) -> None:
    assert march.quality.hourly_percent is not None
    assert 90 < march.quality.hourly_percent < 100  # the last day has no hourly value
    assert "grid operator of the example" in march.quality.intensity[0]
    assert len(march.quality.intensity) == 2


def test_hours_without_data_are_counted(march: Summary) -> None:
    assert march.quality.hours == 31 * 24 - 1, "the clock goes forward in March"
    assert march.quality.hours_with_data == 30 + 3
    assert any("have no data at all" in note for note in march.quality.notes)


def test_earlier_months_are_beside_it(march: Summary) -> None:
    before, year_before = march.compared
    assert (before.month, year_before.month) == ("2026-02", "2025-03")
    for one in march.compared:
        assert one.energy_uj
        assert one.energy_change_percent == pytest.approx(
            100 * ((march.total.figures.energy_uj or 0) / one.energy_uj - 1)
        )


def test_a_month_that_has_not_ended_is_judged_by_what_has_begun(site: Path, ledger: Ledger) -> None:
    month = parse_month("2026-03", BERLIN, year.NOW)
    now = month[0] + timedelta(days=10)
    made = summary(config.load(site), ledger, month, now, BERLIN)
    assert not made.complete
    assert made.quality.hours == 240


def test_a_month_without_data_is_empty_and_says_so(site: Path, ledger: Ledger) -> None:
    month = parse_month("2024-01", BERLIN, year.NOW)
    made = summary(config.load(site), ledger, month, year.NOW, BERLIN)
    assert made.total.figures.energy_uj is None
    assert made.quality.hours_with_data == 0
    page = content(made, "html").decode()
    assert "Nothing was metered in this month" in page


def test_budgets_are_judged_in_their_period(march: Summary) -> None:
    by_name = {line.name: line for line in march.budgets}
    physics = next(line for line in march.accounts if line.name == "physics")
    assert by_name["physics"].used == pytest.approx((physics.figures.energy_uj or 0) / 3.6e12)
    assert {line.state for line in march.budgets} == {"ok", "near", "spent"}
    assert by_name["site"].used == pytest.approx(
        ((march.total.figures.energy_uj or 0) + (march.compared[0].energy_uj or 0)) / 3.6e12
    ), "a year's budget counts February, too"


def test_the_json_reads_back(march: Summary) -> None:
    assert msgspec.json.decode(content(march, "json"), type=Summary) == march


def test_csv_and_parquet_hold_every_line_once(march: Summary) -> None:
    rows = list(csv.DictReader(io.StringIO(content(march, "csv").decode())))
    table = pq.read_table(io.BytesIO(content(march, "parquet"))).to_pylist()
    names = ("holders", "accounts", "users", "partitions", "nodes", "jobs")
    assert len(rows) == len(table) == 1 + sum(len(getattr(march, name)) for name in names)
    users = [row for row in table if row["section"] == "user"]
    assert sum(row["energy_uj"] for row in users) == energy(march.users)
    assert {row["name"] for row in users} == {line.name for line in march.users}


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_the_data_is_as_reviewed(march: Summary, kind: Literal["csv", "json"]) -> None:
    check(f"summary.{kind}", content(march, kind).decode())
