"""Budgets of energy or carbon and how much of them is used. Only compares; the periods' sums are the ledger's."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timezone, tzinfo
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from hpccarbon.report.figures import JSON_VERSION, Figures, Means, percent
from hpccarbon.units import UJ_PER_KWH

if TYPE_CHECKING:
    from hpccarbon.config import Budget

NEAR_PERCENT, SPENT_PERCENT = 80.0, 100.0
State = Literal["ok", "near", "spent", "unknown"]
EXIT_STATUS: dict[State, int] = {"ok": 0, "unknown": 1, "near": 3, "spent": 4}
"""What `report --budget` exits with: the worst of its lines. 2 stays wrong usage."""


class BudgetLine(msgspec.Struct, frozen=True, kw_only=True):
    """One budget in the period it was asked for. `limit` and `used` are kWh or kg CO2e, as `unit` says."""

    name: str
    accounts: Annotated[list[str], Means(description="empty: the whole cluster, idle nodes included")]
    period: Literal["month", "quarter", "year"]
    since: datetime
    until: Annotated[datetime, Means(description="not included")]
    unit: Literal["kWh", "kg CO2e"]
    limit: float
    used: Annotated[float | None, Means(description="null: not known, because an intensity is missing")]
    used_percent: float | None
    elapsed_percent: Annotated[float, Means(description="how much of the period is over")]
    state: Annotated[State, Means(description="near from 80 %, spent from 100 % on")]
    covered_percent: float | None


class BudgetReport(msgspec.Struct, frozen=True, kw_only=True):
    """`hpccarbon report --budget --format json`."""

    schema_version: int = JSON_VERSION
    kind: Literal["budget"] = "budget"
    cluster: str
    timezone: Annotated[str, Means(description="zone in which periods begin; times are UTC")]
    at: Annotated[datetime, Means(description="up to when was counted")]
    budgets: list[BudgetLine]


def period_of(budget: Budget, at: datetime, zone: tzinfo) -> tuple[datetime, datetime]:
    """The first midnight of the budget's period around `at`, and that of the next one, in the reader's zone."""
    months = {"month": 1, "quarter": 3, "year": 12}[budget.period]
    local = at.astimezone(zone)
    first = (local.year * 12 + local.month - 1) // months * months
    begin, end = (datetime(n // 12, n % 12 + 1, 1, tzinfo=zone) for n in (first, first + months))
    return begin, end


def budget_line(
    name: str, budget: Budget, period: tuple[datetime, datetime], now: datetime, figures: Figures
) -> BudgetLine:
    """One budget beside what its accounts used in the period."""
    since, until = period
    in_kwh = bool(budget.kwh)
    limit = budget.kwh or budget.kg_co2e
    used: float | None = (figures.energy_uj or 0) / UJ_PER_KWH
    if not in_kwh:
        used = (figures.co2e_g or 0.0) / 1000 if figures.co2e_g is not None or not figures.energy_uj else None
    used_percent = percent(used, limit)
    begin_s, end_s = since.timestamp(), until.timestamp()
    elapsed = (min(max(now.timestamp(), begin_s), end_s) - begin_s) / (end_s - begin_s)
    return BudgetLine(
        name=name,
        accounts=list(budget.accounts),
        period=budget.period,
        since=since.astimezone(timezone.utc),
        until=until.astimezone(timezone.utc),
        unit="kWh" if in_kwh else "kg CO2e",
        limit=limit,
        used=used,
        used_percent=used_percent,
        elapsed_percent=100 * elapsed,
        state=_state(used_percent),
        covered_percent=figures.covered_percent,
    )


def _state(used_percent: float | None) -> State:
    if used_percent is None:
        return "unknown"
    return "spent" if used_percent >= SPENT_PERCENT else "near" if used_percent >= NEAR_PERCENT else "ok"


def exit_status(lines: Iterable[BudgetLine]) -> int:
    """0: all is well; 1: one is not known; 3: one is near its end; 4: one is spent."""
    return max((EXIT_STATUS[line.state] for line in lines), default=0)
