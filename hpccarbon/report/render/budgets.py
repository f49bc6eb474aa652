"""Budgets as text, JSON, CSV or Parquet. Formats only; writes no file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import tzinfo
from typing import Any, Literal

from hpccarbon.report.budget import BudgetLine, BudgetReport
from hpccarbon.report.render import files, words
from hpccarbon.report.render.inert import inert
from hpccarbon.report.render.text import Heading, Screen, table

STATES: Mapping[str, str] = {
    "ok": "within",
    "near": "nearly used up",
    "spent": "used up",
    "unknown": "not known: an intensity is missing",
}
_HEADINGS = (
    Heading("BUDGET", right=False),
    Heading("ACCOUNTS", right=False, keep=1),
    Heading("PERIOD", right=False, keep=3),
    Heading("USED"),
    Heading("OF"),
    Heading("", keep=8),
    Heading("PERIOD OVER", keep=2),
    Heading("STATE", right=False, keep=7),
)


def content(report: BudgetReport, kind: Literal["text", "json", "csv", "parquet"], screen: Screen) -> str | bytes:
    """The report in one format."""
    if kind == "text":
        return text(report, screen)
    if kind == "json":
        return files.json_text(report)
    rows = [_record(report, line) for line in report.budgets]
    names = ["cluster", *(name for name in BudgetLine.__struct_fields__)]
    if kind == "csv":
        return files.rows_as_csv(names, rows)
    metadata = {"hpccarbon.schema": "report.budget", "hpccarbon.cluster": report.cluster}
    return files.table_as_parquet(files.rows_as_arrow(names, rows, metadata))


def text(report: BudgetReport, screen: Screen) -> str:
    """A line for each budget, most used first."""
    at = report.at.astimezone(screen.zone)
    title = f"Budgets of {inert(report.cluster)}, up to {at:%Y-%m-%d %H:%M %Z}"
    ordered = sorted(report.budgets, key=lambda line: -(line.used_percent or 0))
    lines = [screen.bold(title), "", *table(_HEADINGS, [_cells(line, screen.zone) for line in ordered], screen)]
    return "\n".join(lines) + "\n"


def _cells(line: BudgetLine, zone: tzinfo) -> Sequence[str]:
    return (
        inert(line.name, 30),
        inert(", ".join(line.accounts), 30) or "all, idle nodes too",
        f"{line.period} from {line.since.astimezone(zone):%Y-%m-%d}",
        "-" if line.used is None else f"{line.used:,.1f}",
        f"{line.limit:,.1f} {line.unit}",
        words.percent(line.used_percent),
        words.percent(line.elapsed_percent),
        STATES[line.state],
    )


def _record(report: BudgetReport, line: BudgetLine) -> dict[str, Any]:
    told = {name: getattr(line, name) for name in BudgetLine.__struct_fields__}
    return {"cluster": report.cluster} | told | {"accounts": ",".join(line.accounts)}
