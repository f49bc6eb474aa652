"""What a kWh of a zone's electricity emitted in one hour, by the best data there is for it. Never mixes two bases.

The ladder: the hour itself (measured, estimated or forecast) -> interpolated between hours at most 6 apart -> the same
hour of the days before and after -> its month's mean at that hour of the day -> its month's mean -> the zone's yearly
value -> the country's -> the world's. Each rung carries how far it may be off (docs/carbon.md, "The ladder").
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from math import hypot
from pathlib import Path
from typing import Literal, NamedTuple

from hpccarbon.carbon import tables, zones
from hpccarbon.config import Carbon

Rung = Literal[
    "fixed",
    "measured",
    "estimated",
    "forecast",
    "interpolated",
    "neighbour_days",
    "month_hour",
    "month",
    "year",
    "country",
    "world",
]
RUNGS: tuple[Rung, ...] = (
    "fixed",
    "measured",
    "estimated",
    "forecast",
    "interpolated",
    "neighbour_days",
    "month_hour",
    "month",
    "year",
    "country",
    "world",
)
"""From the best to the last."""
FIXED_YEAR_DISTANCE = 0.68
"""Power of the years between a yearly value and the hour it stands for (data/uncertainty.csv, `year_distance`)."""


class Value(NamedTuple):
    """The intensity of one hour, where it comes from, and how far it may be off.

    `common` and `own` are one-sigma relative errors: `common` is the same for every hour this source speaks of (it does
    not average out), `own` is this hour's (it does, over days). `floor_g` is what the error is never below, in grams.
    """

    g_per_kwh: float
    rung: Rung
    source: str
    licence: str
    year: int | None
    edition: str
    basis: str
    estimated: bool
    common: float
    own: float
    floor_g: float = 0.0
    zone: str = ""

    @property
    def spread(self) -> float:
        """One-sigma relative error of this hour alone; the floor counts where the value is not zero."""
        floor = self.floor_g / self.g_per_kwh if self.g_per_kwh else 0.0
        return max(hypot(self.common, self.own), floor)


class Intensity:
    """One zone's intensity in one basis. Opens the packaged table at the first question, and nothing before.

    Args:
        zone: a key that `zones.require` knows.
        settings: `[carbon]`: basis, which yearly table goes first, the preferred provider, a fixed value.
        series_dir: where fetched and imported series lie; None: yearly values alone.
        as_of: what was fetched after this moment is not seen, so that an older report can be made again.
    """

    def __init__(
        self, zone: str, settings: Carbon, series_dir: Path | None = None, as_of: datetime | None = None
    ) -> None:
        self.zone = zone
        self.basis: str = settings.basis
        self._settings = settings
        self._series_dir = series_dir / zone if series_dir is not None else None
        self._as_of = as_of
        self._years: dict[int, Value | None] = {}

    def prepare(self, hours: Iterable[datetime]) -> None:
        """Read at once what these hours need, where many are asked for."""

    def at(self, hour: datetime) -> Value | None:
        """The value of the UTC hour that begins at `hour` (aware); None where no rung has one in this basis."""
        if self._settings.fixed_g_per_kwh:
            return self._fixed()
        return self._yearly(hour.year)

    def _fixed(self) -> Value:
        settings = self._settings
        band = tables.bands()["fixed"]
        return Value(
            settings.fixed_g_per_kwh,
            "fixed",
            settings.fixed_source,
            "the site's own",
            None,
            "configuration",
            settings.basis,
            False,
            band.relative,
            0.0,
            band.floor_g,
            self.zone,
        )

    def _yearly(self, year: int) -> Value | None:
        if year not in self._years:
            self._years[year] = yearly_value(self.zone, self._settings, year)
        return self._years[year]


def yearly_value(zone: str, settings: Carbon, year: int) -> Value | None:
    """The zone's yearly value for a year: that year's, else the newest before, else the oldest; then country, world.

    None where no table has a value in this basis (the world's is life cycle only).
    """
    country = zones.parent(zone)
    steps: list[tuple[str, Rung]] = [(zone, "year")]
    steps += [(country, "country")] if country else []
    steps += [(zones.WORLD, "world")]
    for key, rung in steps:
        row = _nearest_year([row for row in tables.yearly(key) if row.basis == settings.basis], settings.yearly, year)
        if row is not None:
            return _of_year(row, rung, zone, year)
    return None


def _nearest_year(rows: list[tables.YearRow], first: str, year: int) -> tables.YearRow | None:
    if not rows:
        return None
    consumption = [row for row in rows if row.licence == "ODbL-1.0"]
    production = [row for row in rows if row.licence != "ODbL-1.0"]
    chosen = (consumption or production) if first == "consumption" else (production or consumption)
    before = [row for row in chosen if row.year <= year]
    return max(before, key=lambda row: row.year) if before else min(chosen, key=lambda row: row.year)


def _of_year(row: tables.YearRow, rung: Rung, zone: str, year: int) -> Value:
    bands = tables.bands()
    error = tables.standin("year", zone)
    years = abs(year - row.year)
    drift = bands["year_distance"].relative * years**FIXED_YEAR_DISTANCE
    level = bands["zone_year"] if rung == "year" else bands[rung]
    return Value(
        row.g_per_kwh,
        rung,
        row.source,
        row.licence,
        row.year,
        row.edition,
        row.basis,
        True,
        hypot(level.relative, drift),
        error.sigma if error else 0.0,
        level.floor_g,
        row.zone,
    )
