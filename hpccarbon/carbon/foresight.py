"""What the coming hours of a zone will probably be, and how far off that may be. Never enters a total of a report.

A forecast that was fetched goes first. Hours without one are guessed from the zone's own last two weeks: the mean of
the same hour of those days, drawn towards the mean of all hours by as much as chance can have parted them, and on top
what the last known hour was above or below its own, fading by the hour. The day before alone is a worse guide to the
cleanest hour: the chances of that day look like a pattern. What was measured: docs/advise.md, "Without a forecast".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from math import fsum, sqrt
from pathlib import Path
from typing import NamedTuple

import msgspec

from hpccarbon.carbon import tables, zones
from hpccarbon.carbon.footprint import Factor, Factors, hour_of
from hpccarbon.carbon.intensity import DECIMALS
from hpccarbon.config import Carbon

HOURLY = frozenset(("measured", "estimated", "forecast", "interpolated", "fixed"))
"""Rungs that tell one hour from another; a mean says the same of all and is no reason to move."""
GUESSED = "recent_days"
"""Where the ladder has no hour of its own: not one of its rungs, because no total is made of it."""
DAYS = 14
"""How many days the mean of an hour is made of."""
FADE = 0.95
"""What is left after an hour of a departure from the mean."""
PERSISTENCE = 0.93
"""How far the errors of two neighbouring hours go together, and how soon what is known now says nothing more."""
MIN_SPARE = 24
"""Of less than two days of hours no scatter can be told: the measured error of a single day stands for it."""
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


class Known(NamedTuple):
    """What is known or guessed of one hour, and one sigma of it that other hours do not share."""

    g_per_kwh: float
    sigma_g_per_kwh: float
    rung: str


class Foreseen(msgspec.Struct, frozen=True, kw_only=True):
    """What is expected of a time to come, one sigma of it, and the marginal signal where one is stored."""

    start: datetime
    end: datetime
    g_per_kwh: float
    rung: str
    sigma_g_per_kwh: float = 0.0
    marginal_g_per_kwh: float | None = None


def foreseen(
    carbon: Carbon,
    series_dir: Path | None,
    begin: datetime,
    end: datetime,
    *,
    as_of: datetime | None = None,
    factors: Factors | None = None,
) -> list[Foreseen]:
    """The hours from the one `begin` lies in to `end`, in order; an hour of which nothing is known is left out.

    Args:
        series_dir: `config.shared("intensity")`.
        begin, end: aware. Guesses are made from what was before `begin`.
        as_of: what was fetched later is not seen, see `Intensity`.
        factors: those of all this, where the caller has them: the series is then read once.

    Raises: CarbonError, if the zone is not known.
    """
    first = hour_of(begin)
    factors = factors or Factors(carbon, series_dir, as_of)
    hours = [first + number * HOUR for number in range(-24 * (DAYS + 1), -(-(end - first) // HOUR))]
    factors.mapping(hours)
    known = {hour: one for hour in hours if (one := _known(factors.at(hour))) is not None}
    marginal = marginal_hours(carbon, series_dir, as_of)
    return [
        msgspec.structs.replace(one, marginal_g_per_kwh=marginal.get(int(one.start.timestamp())))
        for one in expect(known, first, end, factors.zone or "")
    ]


def expect(known: Mapping[datetime, Known], first: datetime, end: datetime, zone: str) -> list[Foreseen]:
    """What `foreseen` says, of hours that are at hand already.

    Args:
        known: UTC hour -> what is known of it; of the past and, where there is a forecast, of the time to come.
        first: the full hour to begin with.
        zone: whose measured errors count, where the past is too short to show its own.
    """
    guess = _Guess(known, first, zone)
    found = []
    for number in range(-(-(end - first) // HOUR)):
        hour = first + number * HOUR
        one = known.get(hour)
        if one is not None:
            guess.saw(hour, one)
        else:
            one = guess.of(hour)
        if one is not None:
            value, sigma, rung = one
            found.append(Foreseen(start=hour, end=hour + HOUR, g_per_kwh=value, rung=rung, sigma_g_per_kwh=sigma))
    return found


def marginal_hours(carbon: Carbon, series_dir: Path | None, as_of: datetime | None) -> Mapping[int, float]:
    """The zone's marginal series by hour, whichever basis it has; empty where none is stored."""
    if series_dir is None or not carbon.zone:
        return {}
    found: dict[int, float] = {}
    for basis in ("direct", "lifecycle"):
        place = series_dir / zones.require(carbon.zone, series_dir) / f"marginal.{basis}"
        if zones.has_directory(place):
            from hpccarbon.carbon import series

            loaded = series.load(place, series.months_of(place), as_of)
            return {hour: value.g_per_kwh for hour, value in loaded.hours.items()}
    return found


def error_of_sum(errors: Iterable[tuple[datetime, float]]) -> float:
    """One sigma of a sum over times in order, of what each term may be off: signed, weighted.

    Weather lasts: the errors of two times go together by `PERSISTENCE` to the power of the hours between them.
    """
    square = carried = 0.0
    before: datetime | None = None
    for at, error in errors:
        carried *= PERSISTENCE ** ((at - before) / HOUR) if before is not None else 0.0
        square += error * error + 2 * error * carried
        carried += error
        before = at
    return sqrt(max(0.0, square))


class _Days:
    """The days before `first`, and what of each hour of them is not the hour's mean."""

    def __init__(self, known: Mapping[datetime, Known], first: datetime) -> None:
        self._plain: dict[int, float] = {}
        self._rests: dict[int, list[float]] = {}
        """Day, counted back -> its hours' departures from their means."""
        for back in range(1, 25):
            hour = first - back * HOUR
            values = {day: known[hour - day * DAY].g_per_kwh for day in range(DAYS) if hour - day * DAY in known}
            if values:
                mean = self._plain[hour.hour] = fsum(values.values()) / len(values)
                for day, value in values.items():
                    self._rests.setdefault(day, []).append(value - mean)
        self._count = sum(map(len, self._rests.values()))

    @property
    def scatter_g(self) -> float | None:
        """One sigma of an hour around its mean; None where the days are too few to tell."""
        spare = self._count - len(self._plain)
        return (
            sqrt(fsum(one * one for day in self._rests.values() for one in day) / spare) if spare >= MIN_SPARE else None
        )

    def means(self) -> dict[int, float]:
        """Hour of the day -> its mean, drawn towards the mean of all.

        Two hours' means differ by their own and by chance: by the scatter within days (a whole day's departure parts no
        hours) over the number of days. Of the variance between hours the part that is not chance is believed, after
        James and Stein.
        """
        if not self._plain:
            return {}
        level = fsum(self._plain.values()) / len(self._plain)
        between = fsum((mean - level) ** 2 for mean in self._plain.values()) / max(1, len(self._plain) - 1)
        spare = self._count - len(self._plain) - len(self._rests) + 1
        within = fsum(_squares(day) for day in self._rests.values()) / spare if spare >= MIN_SPARE else 0.0
        chance = within * len(self._plain) / self._count
        believed = max(0.0, 1 - chance / between) if between else 0.0
        return {hour: level + believed * (mean - level) for hour, mean in self._plain.items()}


def _squares(values: list[float]) -> float:
    """The squared distances from the mean of the values, added up."""
    mean = fsum(values) / len(values)
    return fsum((value - mean) ** 2 for value in values)


class _Guess:
    """The hour's mean over the days before `first`, and how the last known hour departs from its own."""

    def __init__(self, known: Mapping[datetime, Known], first: datetime, zone: str) -> None:
        days = _Days(known, first)
        self._means = days.means()
        self._scatter_g = days.scatter_g
        self._zone = zone
        self._last: tuple[datetime, float] | None = None
        for back in range(24, 0, -1):
            hour = first - back * HOUR
            if hour in known:
                self.saw(hour, known[hour])

    def saw(self, hour: datetime, one: Known) -> None:
        """An hour that is known, or forecast: the guesses of later ones begin at its departure from the mean."""
        mean = self._means.get(hour.hour)
        if mean is not None:
            self._last = (hour, one.g_per_kwh - mean)

    def of(self, hour: datetime) -> Known | None:
        """The guess; None where no day has this hour."""
        mean = self._means.get(hour.hour)
        if mean is None:
            return None
        at, departure = self._last or (hour - DAYS * DAY, 0.0)
        ahead_h = (hour - at) // HOUR
        value = round(max(0.0, mean + departure * FADE**ahead_h), DECIMALS)
        return Known(value, self._scatter(value) * sqrt(1 - PERSISTENCE ** (2 * ahead_h)), GUESSED)

    def _scatter(self, value: float) -> float:
        if self._scatter_g is not None:
            return self._scatter_g
        error = tables.standin("neighbour_day", self._zone)
        return value * error.sigma if error is not None else value


def _known(factor: Factor | None) -> Known | None:
    """What an hour's factor says of the hour itself; None where only a mean of other hours stands for it."""
    if factor is None or factor.rung not in HOURLY:
        return None
    # The level of a source is common to all of its hours and moves no job; a forecast errs by the hour.
    error = factor.common if factor.rung == "forecast" else factor.own
    return Known(factor.g_per_kwh, factor.g_per_kwh * error, factor.rung)
