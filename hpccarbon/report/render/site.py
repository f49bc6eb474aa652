"""The pages of a static site: its months, its index, a page for each account and user. Writes no file."""

from __future__ import annotations

from collections.abc import Sequence

from hpccarbon.report.publish import Page, path_of
from hpccarbon.report.render import charts, html, words
from hpccarbon.report.render.text import ENERGY_UNITS, GRAM_UNITS, unit_of
from hpccarbon.report.summary import Summary


def month_page(summary: Summary) -> str:
    """A month's page, with links to the pages of accounts and users and to the index."""
    known = {
        "account": {line.name for line in summary.accounts},
        "user": {line.name for line in summary.users},
    }

    def link(kind: str, name: str | None) -> str | None:
        if kind == "index":
            return "index.html"
        return path_of(kind, name) if name is not None and name in known.get(kind, ()) else None

    return html.month_page(summary, link, data="data/")


def index_page(cluster: str, summaries: Sequence[Summary], pages: Sequence[Page]) -> str:
    """All months, accounts and users."""
    largest = max((one.total.figures.energy_uj or 0 for one in summaries), default=0)
    unit = unit_of(largest, ENERGY_UNITS, 3)
    values = [
        (one.month, (one.total.figures.energy_uj or 0) / unit.scale, f"{one.month}: {_energy(one)}")
        for one in summaries
    ]
    rows = charts.rows("month", "value", "tip", values=values)
    chart = html.twice(charts.months, rows, f"energy per month ({unit.name})", "jobs") if rows else ""
    return html.render(
        "index.html.j2",
        cluster=cluster,
        summaries=list(reversed(summaries)),
        chart=chart,
        kinds=[(kind, [page for page in pages if page.kind == kind]) for kind in ("account", "user")],
        path_of=path_of,
    )


def _energy(summary: Summary) -> str:
    return words.energy(summary.total.figures.energy_uj)


def person_page(cluster: str, page: Page) -> str:
    """All months of one account or user."""
    figures = [entry.line.figures for entry in page.entries]
    units = {
        "energy": unit_of(max((one.energy_uj or 0 for one in figures), default=0), ENERGY_UNITS, 3),
        "grams": unit_of(max((one.co2e_g or 0.0 for one in figures), default=0.0), GRAM_UNITS, 3),
    }
    largest = max((one.energy_uj or 0 for one in figures), default=0) or 1
    return html.render("person.html.j2", cluster=cluster, page=page, units=units, largest=largest)
