"""A month as one HTML file that needs nothing else: no network, no script for its tables, light, dark and on paper.

Every string that a user chose passes `inert` and the template's escaping; the page's Content-Security-Policy forbids
whatever might get through both. Writes no file.
"""

from __future__ import annotations

import base64
import calendar
import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from hpccarbon import __version__
from hpccarbon.errors import HpcCarbonError
from hpccarbon.report.render import charts, words
from hpccarbon.report.render.inert import inert
from hpccarbon.report.render.text import ENERGY_UNITS, GRAM_UNITS, Unit, unit_of
from hpccarbon.report.summary import HOLDERS, Day, Summary
from hpccarbon.units import UJ_PER_KWH

if TYPE_CHECKING:
    import jinja2

MAX_LINES = 500
"""Lines of a table in the page; the rest is named, and in the CSV."""
MAX_NAME = 60
SERIES: Mapping[str, tuple[str, str]] = {
    "job": ("jobs", "jobs"),
    "system": ("system", "system"),
    "unallocated": ("unallocated", "unallocated"),
}
"""holder -> (its name, its colour's variable)"""
Link = Callable[[str, str | None], str | None]
"""(kind: user, account, month; name) -> where its page lies, or None where it has none."""


def no_link(kind: str, name: str | None) -> str | None:
    """A page that stands alone links to no other."""
    return None


def month_page(summary: Summary, link: Link = no_link, data: str = "") -> str:
    """The page of a month. Raises: HpcCarbonError, if what draws it is not installed.

    Args:
        data: where the month's CSV, Parquet and JSON files lie, as seen from the page.
    """
    return render(
        "month.html.j2",
        summary=summary,
        month=month_name(summary.month),
        charts=_charts(summary),
        units=_units(summary),
        link=link,
        max_lines=MAX_LINES,
        data=data,
    )


def render(template: str, **values: Any) -> str:
    """A template of this package with the page's style and script in it."""
    style, script = _asset("page.css"), _asset("page.js")
    text: str = (
        _environment()
        .get_template(template)
        .render(style=style, script=script, script_digest=_digest(script), version=__version__, **values)
    )
    return text


def _asset(name: str) -> str:
    return (files("hpccarbon.report.render") / "templates" / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _environment() -> jinja2.Environment:
    try:
        import jinja2
    except ImportError as err:
        raise HpcCarbonError(
            "pages need jinja2, which is not installed (install the extra charts: docs/howto/offline.md)"
        ) from err
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hpccarbon.report.render", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "inert": lambda text: inert(text, MAX_NAME),
        "inert_long": inert,
        "energy": words.energy,
        "grams": words.grams,
        "percent": words.percent,
        "number": words.number,
        "change": change,
        "plain": plain,
        "month_name": month_name,
        "kwh": lambda energy_uj: None if energy_uj is None else energy_uj / UJ_PER_KWH,
    }
    return environment


def plain(value: float | None, digits: int = 1) -> str:
    """`1,234.5`; `<0.1` for what would be written as nothing and is not, `-` for what is not known."""
    if value is None:
        return "-"
    least: float = 10**-digits
    return f"<{least:.{digits}f}" if 0 < value <= least / 2 else f"{value:,.{digits}f}"


def month_name(month: str) -> str:
    """`November 2026`."""
    year, number = month.split("-")
    return f"{calendar.month_name[int(number)]} {year}"


def change(percent: float | None) -> str:
    """`+12 %`, `-3 %`, `±0 %`."""
    if percent is None:
        return "not known"
    return "±0 %" if round(percent) == 0 else f"{percent:+,.0f} %".replace("-", "\N{MINUS SIGN}")


def _units(summary: Summary) -> dict[str, Unit]:
    """One unit for each column of the tables: those of their largest values."""
    lines = [one.figures for one in (*summary.accounts, *summary.users, *summary.partitions)]
    others = [one.figures for one in summary.nodes] + [one.figures for one in summary.jobs]
    energy = max((figures.energy_uj or 0 for figures in (*lines, *others)), default=0)
    grams = max((figures.co2e_g or 0.0 for figures in (*lines, *others)), default=0.0)
    return {"energy": unit_of(energy, ENERGY_UNITS, 3), "grams": unit_of(grams, GRAM_UNITS, 3)}


def _charts(summary: Summary) -> dict[str, str]:
    """The page's charts; the wide ones twice, for wide and narrow windows."""
    drawn = {}
    if any(day.job_uj or day.system_uj or day.unallocated_uj for day in summary.days):
        drawn["days"] = twice(charts.stacked_days, *_day_rows(summary.days))
        drawn["power"] = _power_chart(summary)
    known = [day for day in summary.days if day.intensity_g_per_kwh is not None]
    if known:
        rows = charts.rows("day", "value", "low", "high", "tip", values=map(_intensity_row, known))
        drawn["intensity"] = twice(charts.band_days, rows, "g CO2e per kWh of the grid")
        drawn["intensity_hours"] = _intensity_by_hour(summary)
    return drawn


def twice(draw: Callable[..., str], *given: Any) -> str:
    """A chart for wide windows and one for narrow ones; the page's style shows one of them."""
    wide, narrow = draw(*given), draw(*given, charts.NARROW)
    return f'<div class="in-wide">{wide}</div><div class="in-narrow">{narrow}</div>'


def _intensity_by_hour(summary: Summary) -> str:
    values = [
        (one.hour, one.intensity_g_per_kwh, f"{one.hour:02d}:00: {one.intensity_g_per_kwh:,.0f} g CO2e per kWh")
        for one in summary.hours_of_day
        if one.intensity_g_per_kwh is not None
    ]
    return charts.hours_of_day(charts.rows("hour", "value", "tip", values=values), "g CO2e per kWh", "intensity")


def _day_rows(days: Sequence[Day]) -> tuple[list[dict[str, Any]], dict[str, str], str]:
    largest = max(day.job_uj + day.system_uj + day.unallocated_uj for day in days)
    unit = unit_of(largest, ENERGY_UNITS, 3)
    made = []
    for day in days:
        for order, holder in enumerate(HOLDERS):
            energy_uj: int = getattr(day, f"{holder}_uj")
            name, _ = SERIES[holder]
            if energy_uj:
                tip = f"{day.day}: {name} {words.energy(energy_uj)}"
                made.append((day.day.isoformat(), name, energy_uj / unit.scale, order, tip))
            elif order == 0:  # a day without anything keeps its place on the axis
                made.append((day.day.isoformat(), name, 0, order, f"{day.day}: nothing metered"))
    colours = dict(SERIES.values())
    return charts.rows("day", "series", "value", "order", "tip", values=made), colours, f"energy per day ({unit.name})"


def _intensity_row(day: Day) -> tuple[str, float | None, float | None, float | None, str]:
    mean, low, high = day.intensity_g_per_kwh, day.intensity_low_g_per_kwh, day.intensity_high_g_per_kwh
    tip = f"{day.day}: mean {mean:,.0f}, from {low:,.0f} to {high:,.0f} g CO2e per kWh"
    return day.day.isoformat(), mean, low, high, tip


def _power_chart(summary: Summary) -> str:
    known = [one for one in summary.hours_of_day if one.power_w is not None]
    unit = unit_of(max((one.power_w or 0 for one in known), default=0), _POWER_UNITS, 3)
    values = [
        (one.hour, (one.power_w or 0) / unit.scale, f"{one.hour:02d}:00: {words.power(one.power_w or 0)} on average")
        for one in known
    ]
    rows = charts.rows("hour", "value", "tip", values=values)
    return charts.hours_of_day(rows, f"mean power of jobs ({unit.name})", "jobs")


_POWER_UNITS = ((0.001, "mW"), (1.0, "W"), (1_000.0, "kW"), (1_000_000.0, "MW"))
