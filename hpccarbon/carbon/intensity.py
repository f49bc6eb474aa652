"""What a kWh of a zone's electricity emitted in one hour, by the best data there is for it. Never mixes two bases.

The ladder: the hour itself (measured, estimated or forecast) -> interpolated between hours at most 6 apart -> the mean
of the same hour of the days before and after, or the one of them that is known -> its month's mean at that hour of the
day -> its month's mean -> the zone's yearly value -> the country's -> the world's. Each rung carries how far it may be
off (docs/carbon.md, "The ladder").
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from math import fsum, hypot
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from hpccarbon.carbon import tables, zones
from hpccarbon.config import Carbon
from hpccarbon.errors import CarbonError
from hpccarbon.units import HOUR_S

if TYPE_CHECKING:
    from hpccarbon.carbon.series import Hour

Rung = Literal[
    "fixed",
    "measured",
    "estimated",
    "forecast",
    "interpolated",
    "neighbour_days",
    "neighbour_day",
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
    "neighbour_day",
    "month_hour",
    "month",
    "year",
    "country",
    "world",
)
"""From the best to the last."""
DECIMALS = 4
"""Of an intensity in g/kWh."""
DAY_S = 24 * HOUR_S
MAX_BETWEEN_H = 6
"""How far apart two hours may be for those between to be interpolated."""
MIN_DAYS = 10
"""Fewer values of an hour of the day are no month's mean of it."""
MIN_MONTH_HOURS = 168
"""Less than a week of hours is no month's mean."""
YEAR_DISTANCE_POWER = 0.68
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
        self._as_of = as_of
        place = series_dir / zone / f"average.{settings.basis}" if series_dir is not None else None
        # The series' module is loaded where there is a series: without one a report pays for a look at a directory.
        self._room = place if place is not None and zones.has_directory(place) else None
        self._present: set[str] | None = None
        self._loaded: set[str] = set()
        self._hours: dict[int, Hour] = {}
        self._months: dict[str, dict[int, list[Hour]]] = {}
        self.faults: list[CarbonError] = []
        self._years: dict[int, Value | None] = {}

    def prepare(self, hours: Iterable[datetime]) -> None:
        """Read at once what these UTC hours need: their months, and those of the days before and after."""
        if self._room is None or self._settings.fixed_g_per_kwh:
            return
        from hpccarbon.carbon import series

        stamps = [int(hour.timestamp()) for hour in hours]
        months = {series.month_of(stamp + near) for stamp in stamps for near in (-DAY_S, 0, DAY_S)}
        if self._present is None:
            self._present = set(series.months_of(self._room))
        wanted = (months - self._loaded) & self._present
        self._loaded |= months
        if wanted:
            loaded = series.load(self._room, wanted, self._as_of, self._settings.provider)
            self._hours.update(loaded.hours)
            self.faults += loaded.faults

    def at(self, hour: datetime) -> Value | None:
        """The value of the UTC hour that begins at `hour` (aware); None where no rung has one in this basis.

        Raises: CarbonError, if the series' directory cannot be read. A file of it that cannot is set aside in `faults`.
        """
        value = self._best(hour)
        # Rounded once, here, far finer than any source is: what a report prints is then what it computed with.
        return value._replace(g_per_kwh=round(value.g_per_kwh, DECIMALS)) if value is not None else None

    def _best(self, hour: datetime) -> Value | None:
        if self._settings.fixed_g_per_kwh:
            return self._fixed()
        self.prepare((hour,))
        if self._hours:
            stamp = int(hour.timestamp())
            found = self._itself(stamp) or self._between(stamp) or self._days(stamp) or self._month(stamp)
            if found is not None:
                return found
        return self._yearly(hour.year)

    def _itself(self, stamp: int) -> Value | None:
        hour = self._hours.get(stamp)
        if hour is None:
            return None
        band = tables.bands()[hour.kind]
        return self._value(hour.g_per_kwh, hour.kind, [hour], hour.kind != "measured", band.relative, band.floor_g)

    def _between(self, stamp: int) -> Value | None:
        """Between two hours at most `MAX_BETWEEN_H` apart; a forecast is nothing to interpolate from."""
        for width in range(2, MAX_BETWEEN_H + 1):
            for back in range(1, width):
                before = self._settled(stamp - back * HOUR_S)
                after = self._settled(stamp + (width - back) * HOUR_S)
                if before is not None and after is not None:
                    g_per_kwh = before.g_per_kwh + (after.g_per_kwh - before.g_per_kwh) * back / width
                    return self._stand_in(g_per_kwh, "interpolated", [before, after])
        return None

    def _days(self, stamp: int) -> Value | None:
        days = [day for day in (self._settled(stamp - DAY_S), self._settled(stamp + DAY_S)) if day is not None]
        if not days:
            return None
        g_per_kwh = fsum(day.g_per_kwh for day in days) / len(days)
        return self._stand_in(g_per_kwh, "neighbour_days" if len(days) == 2 else "neighbour_day", days)

    def _month(self, stamp: int) -> Value | None:
        """The month's mean at this hour of the day, else over all its hours; None where too few are known."""
        from hpccarbon.carbon import series

        month = series.month_of(stamp)
        if month not in self._months:
            its = [
                (at, hour)
                for at, hour in self._hours.items()
                if hour.kind != "forecast" and series.month_of(at) == month
            ]
            by_hour: dict[int, list[Hour]] = {}
            for at, hour in its:
                by_hour.setdefault(at % DAY_S, []).append(hour)
            self._months[month] = by_hour
        by_hour = self._months[month]
        same = by_hour.get(stamp % DAY_S, [])
        whole = [hour for hours in by_hour.values() for hour in hours]
        rung: Rung = "month_hour" if len(same) >= MIN_DAYS else "month"
        used = same if rung == "month_hour" else whole
        if rung == "month" and len(whole) < MIN_MONTH_HOURS:
            return None
        return self._stand_in(fsum(hour.g_per_kwh for hour in used) / len(used), rung, used)

    def _settled(self, stamp: int) -> Hour | None:
        hour = self._hours.get(stamp)
        return hour if hour is not None and hour.kind != "forecast" else None

    def _stand_in(self, g_per_kwh: float, rung: Rung, used: list[Hour]) -> Value:
        error = tables.standin(rung, self.zone)
        band = tables.bands()["measured" if all(hour.kind == "measured" for hour in used) else "estimated"]
        return self._value(g_per_kwh, rung, used, True, band.relative, band.floor_g, error.sigma if error else 0.0)

    def _value(
        self,
        g_per_kwh: float,
        rung: Rung,
        used: list[Hour],
        estimated: bool,
        common: float,
        floor_g: float,
        own: float = 0.0,
    ) -> Value:
        def joined(name: str) -> str:
            return " and ".join(dict.fromkeys(str(getattr(hour, name)) for hour in used))

        return Value(
            g_per_kwh,
            rung,
            joined("source"),
            joined("licence"),
            None,
            joined("edition"),
            self.basis,
            estimated,
            common,
            own,
            floor_g,
            self.zone,
        )

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
    drift = bands["year_distance"].relative * years**YEAR_DISTANCE_POWER
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
