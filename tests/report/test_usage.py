"""Tables add up: lines are the total, the total is the meters', and each job is counted once."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from hpccarbon import schema
from hpccarbon.errors import HpcCarbonError
from hpccarbon.report.render.text import Screen, usage_text
from hpccarbon.report.usage import WORDS, UsageRow, parse_by, usage_rows
from hpccarbon.site.ledger import Ledger, Selection
from tests.report import fixed


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    return Ledger(fixed.build(tmp_path_factory.mktemp("site")), fixed.CLUSTER, "Europe/Berlin")


def lines_of(ledger: Ledger, *by: str) -> tuple[list[UsageRow], UsageRow]:
    words = [WORDS[word] for word in by if word != "holder"]
    by_words = ("holder", *words)
    return usage_rows(by, ledger.energy(Selection(), by_words), ledger.job_counts(Selection(), by_words))


def metered_uj(shared: Path) -> int:
    """What the meters counted, from the shards alone."""
    total = 0
    for path in (shared / "shards").rglob("*.parquet"):
        for row in pq.read_table(path).to_pylist():
            if row["holder"] == "meter":
                total += sum(row[name] or 0 for name in schema.ENERGY_COLUMNS)
    return total


@pytest.mark.parametrize(
    "by", [["user"], ["account", "user"], ["node"], ["day"], ["job"], ["node", "holder"], ["hour"]]
)
def test_the_lines_add_up_to_the_meters(ledger: Ledger, by: list[str]) -> None:
    lines, total = lines_of(ledger, *by)
    whole = metered_uj(ledger.shared)
    assert sum(line.figures.energy_uj or 0 for line in lines) == whole
    assert total.figures.energy_uj == whole
    assert sum(line.share_percent or 0 for line in lines) == pytest.approx(100)


def test_each_job_is_counted_once_in_the_total(ledger: Ledger) -> None:
    jobs = {stay.job_id for stay in fixed.STAYS}
    for by in (["user"], ["node"], ["hour"]):
        lines, total = lines_of(ledger, *by)
        assert total.jobs == len(jobs)
        assert sum(line.jobs for line in lines) >= len(jobs)


def test_most_energy_comes_first_and_the_holders_last(ledger: Ledger) -> None:
    lines, _ = lines_of(ledger, "user")
    jobs = [line for line in lines if line.holder == "job"]
    energies = [line.figures.energy_uj or 0 for line in jobs]
    assert energies == sorted(energies, reverse=True)
    assert [line.holder for line in lines[len(jobs) :]] == ["system", "unallocated"]
    assert None in [line.key[0] for line in jobs], "a job nobody told the user of is a line, not a loss"


def test_times_stand_in_their_order_and_groups_together(ledger: Ledger) -> None:
    hours = [line.key[0] for line in lines_of(ledger, "hour")[0] if line.key]
    assert hours == sorted(hours, key=str)
    nodes = [line.key[0] for line in lines_of(ledger, "node", "holder")[0]]
    assert nodes == [node for node in dict.fromkeys(nodes) for _ in range(nodes.count(node))]


def test_days_are_the_readers(ledger: Ledger) -> None:
    assert [line.key for line in lines_of(ledger, "day")[0] if line.key] == [[str(date(2026, 3, 1))]]


@pytest.mark.parametrize("text", ["", "colour", "user,", "user;drop"])
def test_an_unknown_word_is_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(HpcCarbonError, match="known: user, account"):
        parse_by(text)


def test_words_are_taken_once_each() -> None:
    assert parse_by("User, month,user") == ["user", "month"]


@pytest.mark.parametrize("width", [40, 60, 80, 120])
@pytest.mark.parametrize("by", [["user"], ["account", "user"], ["node", "holder"], ["job"]])
def test_a_table_fits_the_terminal(ledger: Ledger, width: int, by: list[str]) -> None:
    from hpccarbon.carbon.footprint import Factors
    from hpccarbon.config import Carbon
    from hpccarbon.report.figures import CarbonOf
    from hpccarbon.report.usage import Filters, UsageReport

    lines, total = lines_of(ledger, *by)
    report = UsageReport(
        cluster=fixed.CLUSTER,
        timezone="UTC",
        by=by,
        since=None,
        until=None,
        filters=Filters(),
        rows=lines,
        total=total,
        carbon=[CarbonOf(place="", energy_uj=0, method=Factors(Carbon()).describe())],
        set_aside=[],
    )
    text = usage_text(report, Screen(width))
    assert max(map(len, text.splitlines())) <= width
    assert "100 %" in text or width == 40
