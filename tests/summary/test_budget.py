"""Budgets: periods are the reader's, the worst of them is the exit status, and what cannot be known is no 0."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path

import pytest

from hpccarbon import config as configuration
from hpccarbon.config import Budget
from hpccarbon.errors import ConfigError
from hpccarbon.report.budget import BudgetReport, budget_line, exit_status, period_of
from hpccarbon.report.figures import Figures, added
from hpccarbon.report.month import Period, budgets
from hpccarbon.report.render.budgets import content
from hpccarbon.report.render.text import Screen
from hpccarbon.site.ledger import Ledger
from tests.report.golden import check
from tests.summary import year
from tests.summary.conftest import BERLIN
from tests.summary.inside import run

AT = datetime(2026, 3, 20, 12, tzinfo=timezone.utc)
PERIOD = (datetime(2026, 3, 1, tzinfo=BERLIN), datetime(2026, 4, 1, tzinfo=BERLIN))
EMPTY = added([])


def used(kwh: float, co2e_g: float | None = None) -> Figures:
    values = {name: getattr(EMPTY, name) for name in Figures.__struct_fields__}
    return Figures(**(values | {"energy_uj": round(kwh * 3.6e12), "co2e_g": co2e_g}))


@pytest.mark.parametrize(
    ("period", "begin", "end"),
    [
        ("month", "2026-03-01", "2026-04-01"),
        ("quarter", "2026-01-01", "2026-04-01"),
        ("year", "2026-01-01", "2027-01-01"),
    ],
)
def test_a_period_is_the_calendar_s_in_the_reader_s_zone(period: str, begin: str, end: str) -> None:
    budget = Budget(period=period, kwh=1.0)  # type: ignore[arg-type]
    found = period_of(budget, AT, BERLIN)
    assert [f"{one:%Y-%m-%d}" for one in found] == [begin, end]
    assert all(one.tzinfo is BERLIN and one.hour == 0 for one in found)


@pytest.mark.parametrize(
    ("kwh", "state", "status"), [(0, "ok", 0), (79.9, "ok", 0), (80, "near", 3), (99.9, "near", 3), (100, "spent", 4)]
)
def test_the_state_begins_at_80_and_at_100_percent(kwh: float, state: str, status: int) -> None:
    line = budget_line("b", Budget(kwh=100.0), PERIOD, AT, used(kwh))
    assert (line.state, exit_status([line])) == (state, status)


def test_carbon_that_is_not_known_is_not_nothing() -> None:
    unknown = budget_line("b", Budget(kg_co2e=1.0), PERIOD, AT, used(5))
    nothing = budget_line("b", Budget(kg_co2e=1.0), PERIOD, AT, EMPTY)
    known = budget_line("b", Budget(kg_co2e=1.0), PERIOD, AT, used(5, 900.0))
    assert (unknown.used, unknown.state, exit_status([unknown])) == (None, "unknown", 1)
    assert (nothing.used, nothing.state) == (0.0, "ok")
    assert (known.used, known.state) == (0.9, "near")


def test_the_worst_budget_decides() -> None:
    lines = [budget_line("b", Budget(kwh=100.0), PERIOD, AT, used(kwh)) for kwh in (10, 120, 85)]
    assert exit_status(lines) == 4
    assert exit_status([]) == 0


def test_the_period_is_over_by_true_time(site: Path) -> None:
    """March has an hour less where the clock changes."""
    half = datetime.fromtimestamp((PERIOD[0].timestamp() + PERIOD[1].timestamp()) / 2, timezone.utc)
    assert budget_line("b", Budget(kwh=1.0), PERIOD, half, used(0)).elapsed_percent == pytest.approx(50)


@pytest.mark.parametrize("text", ["kwh = 1.0\nkg_co2e = 2.0", "", "kwh = -1.0", 'period = "week"\nkwh = 1.0'])
def test_a_budget_that_contradicts_itself_is_wrong_configuration(text: str) -> None:
    with pytest.raises(ConfigError, match="budgets"):
        configuration.parse(f"[budgets.mine]\n{text}\n")


@pytest.mark.parametrize("kind", ["text", "json", "csv"])
def test_as_reviewed(site: Path, ledger: Ledger, kind: str) -> None:
    lines = budgets(Period(configuration.load(site), ledger, AT, AT), AT, AT)
    report = BudgetReport(cluster="alpha", timezone="Europe/Berlin", at=AT, budgets=lines)
    said = content(report, kind, Screen(80, False, BERLIN))  # type: ignore[arg-type]
    assert isinstance(said, str)
    check(f"budget.{'txt' if kind == 'text' else kind}", said)


def test_the_command_s_exit_status_is_for_cron(site: Path) -> None:
    text = site.read_text()
    path = site.with_name("cron.toml")
    path.write_text(text[: text.index("[budgets")] + "[budgets.tiny]\nkwh = 1e-6\n")
    status, out, _ = run("report", "--budget", "-f", "json", "--config", str(path))
    state = json.loads(out)["budgets"][0]["state"]
    # The year of the site's data may be over when this runs.
    assert (state, status) in (("spent", 4), ("ok", 0))
    assert (datetime.now(timezone.utc).year == year.NOW.year) == (status == 4)


def test_it_goes_with_no_selection_and_needs_a_budget(site: Path) -> None:
    status, _, err = run("report", "--budget", "--me", "--config", str(site))
    assert (status, "leave out --me" in err) == (2, True)
    text = site.read_text()
    site.with_name("none.toml").write_text(text[: text.index("[budgets")])
    status, _, err = run("report", "--budget", "--config", str(site.with_name("none.toml")))
    assert (status, "no budget is configured" in err) == (2, True)
