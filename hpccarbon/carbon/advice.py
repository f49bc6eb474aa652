"""What a job would have cost at other hours and in other zones. Compares, and never enters a total.

It takes the average intensity, the one that totals are made of: hours with a cleaner mix, not hours in which less
would have been burnt because of the move. Moving by the average can raise real emissions (night wind with coal on the
margin); where a marginal series is stored, its answer stands beside.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from math import fsum
from pathlib import Path
from typing import Annotated

import msgspec

from hpccarbon.carbon import zones
from hpccarbon.carbon.footprint import Factors, hour_of
from hpccarbon.carbon.foresight import HOUR, HOURLY, foreseen, marginal_hours
from hpccarbon.config import Carbon

Means = msgspec.Meta
SIGNAL_NOTE = (
    "by average intensity: it compares the mix of the hours, not what would have been burnt less; "
    "average and marginal signals often disagree"
)

NO_SERIES = "no hourly series covers the job's hours: `hpccarbon intensity fetch` brings one"


class Shift(msgspec.Struct, frozen=True, kw_only=True):
    """The same energy, begun so many hours later (negative: earlier)."""

    shift_h: int
    start: datetime
    co2e_g: float
    saved_percent: Annotated[float, Means(description="against when it ran; negative: it would have cost more")]
    marginal_g: Annotated[float | None, Means(description="the same by the marginal signal; null where none is stored")]


class Elsewhere(msgspec.Struct, frozen=True, kw_only=True):
    """The same energy in the same hours in another zone, with this site's PUE."""

    zone: str
    name: str
    co2e_g: float
    saved_percent: float
    rungs: Annotated[list[str], Means(description="what the value stands on: a yearly mean is less sure than hours")]


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """A job of some length, begun at this hour: its mean intensity if it draws the same power throughout."""

    start: datetime
    g_per_kwh: float
    saved_percent: Annotated[float, Means(description="against beginning now; negative: it would cost more")]
    rungs: Annotated[list[str], Means(description="forecast, or `recent_days`: a guess from the last two weeks")]
    marginal_g_per_kwh: Annotated[
        float | None, Means(description="the same by the marginal signal, where one is stored")
    ]


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """Other times and places; lists are empty where nothing can be said, and `notes` says why."""

    co2e_g: float | None
    times: Annotated[list[Shift], Means(description="every shift that could be computed, cleanest first")]
    zones: Annotated[list[Elsewhere], Means(description="cleanest first")]
    notes: list[str]


def other_times(
    carbon: Carbon,
    energy_uj: Mapping[datetime, int],
    series_dir: Path | None,
    *,
    shifts: Sequence[int] = range(-84, 85),
    as_of: datetime | None = None,
) -> Advice:
    """The job's energy moved whole by each number of hours of a week around it.

    Args:
        energy_uj: UTC hour -> metered energy of the job.
        shifts: hours to try, in order, the week around it by itself. One of which an hour is known by a mean only is
            left out.
    """
    factors = Factors(carbon, series_dir, as_of)
    used = {hour_of(hour): energy for hour, energy in energy_uj.items() if energy}
    grams = factors.grams(used)
    if not used or grams is None:
        return Advice(co2e_g=grams, times=[], zones=[], notes=factors.describe(used).notes)
    if any((factor := factors.at(hour)) is None or factor.rung not in HOURLY for hour in used):
        return Advice(co2e_g=grams, times=[], zones=[], notes=[NO_SERIES])
    factors.mapping(hour + timedelta(hours=shift) for hour in used for shift in (shifts[0], shifts[-1]))
    marginal = marginal_hours(carbon, series_dir, as_of)
    start = min(used)
    found: list[Shift] = []
    for shift in shifts:
        moved = {hour + timedelta(hours=shift): energy for hour, energy in used.items()}
        if not all((factor := factors.at(hour)) is not None and factor.rung in HOURLY for hour in moved):
            continue
        cost = factors.grams(moved)
        if cost is not None:
            found.append(
                Shift(
                    shift_h=shift,
                    start=start + timedelta(hours=shift),
                    co2e_g=cost,
                    saved_percent=100 * (grams - cost) / grams if grams else 0.0,
                    marginal_g=_marginal_grams(marginal, moved, factors),
                )
            )
    found.sort(key=lambda one: (one.co2e_g, abs(one.shift_h)))
    return Advice(co2e_g=grams, times=found, zones=[], notes=[SIGNAL_NOTE])


def other_zones(
    carbon: Carbon,
    energy_uj: Mapping[datetime, int],
    candidates: Iterable[str],
    series_dir: Path | None,
    as_of: datetime | None = None,
) -> Advice:
    """The job's energy in the same hours in other zones, everything else as it is here.

    Args:
        candidates: zones to compare with; a site names those it could send jobs to.
    """
    grams = Factors(carbon, series_dir, as_of).grams(energy_uj)
    found = []
    notes = []
    for zone in dict.fromkeys(candidates):
        if zone == carbon.zone:
            continue
        there = Factors(msgspec.structs.replace(carbon, zone=zone, fixed_g_per_kwh=0.0), series_dir, as_of)
        cost = there.grams(energy_uj)
        if cost is None or grams is None:
            notes.append(f"{zone}: no {carbon.basis} value")
            continue
        found.append(
            Elsewhere(
                zone=zone,
                name=zones.display_name(zone),
                co2e_g=cost,
                saved_percent=100 * (grams - cost) / grams if grams else 0.0,
                rungs=[share.rung for share in there.describe(energy_uj).rungs],
            )
        )
    found.sort(key=lambda one: (one.co2e_g, one.zone))
    if found:
        notes.append(SIGNAL_NOTE)
    return Advice(co2e_g=grams, times=[], zones=found, notes=notes)


def starts(
    carbon: Carbon,
    series_dir: Path | None,
    now: datetime,
    *,
    length_h: int,
    within_h: int = 24,
    as_of: datetime | None = None,
) -> list[Start]:
    """When to begin a job of `length_h` hours within the next `within_h`: every start that is foreseen, cleanest first.

    Args:
        now: aware; the first start is the hour that has begun.

    Returns: [] where no series tells the hours apart: then no time is better than another.
    Raises: CarbonError, if the zone is not known.
    """
    first = hour_of(now)
    hours = [first + timedelta(hours=number) for number in range(within_h + length_h)]
    known = {one.start: one for one in foreseen(carbon, series_dir, first, hours[-1] + HOUR, as_of=as_of)}
    found: list[Start] = []
    begin_g: float | None = None
    for number in range(within_h + 1):
        parts = [known[hour] for hour in hours[number : number + length_h] if hour in known]
        if len(parts) < length_h:
            continue
        mean = fsum(part.g_per_kwh for part in parts) / length_h
        if number == 0:
            begin_g = mean
        told = [part.marginal_g_per_kwh for part in parts if part.marginal_g_per_kwh is not None]
        found.append(
            Start(
                start=hours[number],
                g_per_kwh=mean,
                saved_percent=100 * (begin_g - mean) / begin_g if begin_g else 0.0,
                rungs=list(dict.fromkeys(part.rung for part in parts)),
                marginal_g_per_kwh=fsum(told) / length_h if len(told) == length_h else None,
            )
        )
    # Without the hour that has begun there is nothing to compare with.
    return sorted(found, key=lambda one: (one.g_per_kwh, one.start)) if begin_g is not None else []


def _marginal_grams(marginal: Mapping[int, float], energy_uj: Mapping[datetime, int], factors: Factors) -> float | None:
    total = 0.0
    for hour, energy in energy_uj.items():
        g_per_kwh = marginal.get(int(hour.timestamp()))
        if g_per_kwh is None:
            return None
        total += factors.grid_kwh({hour: energy}) * g_per_kwh
    return total
