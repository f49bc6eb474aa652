"""What will be said and done about a submission: its estimate, its grams, its start. Reads files, submits nothing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from math import fsum
from typing import Annotated

import msgspec

from hpccarbon.carbon import foresight
from hpccarbon.carbon.footprint import NO_ZONE, Factor, Factors
from hpccarbon.carbon.foresight import HOUR
from hpccarbon.carbon.places import Places
from hpccarbon.config import Carbon, Config
from hpccarbon.site import habits
from hpccarbon.slurm import times
from hpccarbon.submit.choose import Choice, choose, latest_start
from hpccarbon.submit.estimate import Estimate, Span, estimate, expected_length
from hpccarbon.submit.request import Request
from hpccarbon.units import UJ_PER_KWH

Means = msgspec.Meta
FEWEST_PERCENT = 0.5
"""Less than this is no reason to wait."""


class Wish(msgspec.Struct, frozen=True):
    """What the user asked of us. `moved` lets a job be delayed that has a start or a dependency of its own."""

    green: bool
    max_delay: timedelta
    moved: bool = False


class Coming(msgspec.Struct, frozen=True):
    """One hour of those to come."""

    start: datetime
    g_per_kwh: float


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is told before a job is submitted. `notes` says what is not known, and why nothing was moved."""

    zone: str | None
    estimate: Annotated[Estimate | None, Means(description="null: no history says anything")]
    length_s: Annotated[float | None, Means(description="how long it is expected to run, by history, else its limit")]
    co2e_g: Annotated[Span | None, Means(description="begun now; null where energy or intensity is not known")]
    co2e_then_g: Annotated[Span | None, Means(description="begun at `begin`")]
    begin: Annotated[datetime | None, Means(description="when the job is to begin; null: as soon as it can")]
    choice: Annotated[Choice | None, Means(description="the starts that were weighed; null: --green was not asked")]
    coming: Annotated[list[Coming], Means(description="the hours that the starts touch")]
    notes: list[str]


def make(config: Config, wanted: Request, wish: Wish, uid: int, now: datetime) -> Plan:
    """Estimate a job and, if wished, choose its start.

    Args:
        uid: whose history counts. now: aware, in the zone in which the user writes times.

    Raises: HpcCarbonError, where the configured zone is not known.
    """
    own = habits.own(config, uid)
    expected = estimate(wanted, own.jobs if own else [], habits.partitions(config))
    length = expected_length(wanted, expected)
    series_dir = config.shared("intensity")
    # Which nodes it will get nobody knows yet; the partition may tell where they stand.
    factors = Places(config.carbon, series_dir).of(None, wanted.partition or None)
    carbon = factors.carbon
    energy_uj = expected.energy_uj if expected else None
    notes: list[str] = []
    choice, coming = None, []
    if wish.green:
        window, why = _window(wanted, wish, length, now)
        if window is None or length is None:
            notes.append(f"--green: submitted as it is: {why}")
        else:
            earliest, latest = window
            hours = foresight.foreseen(carbon, series_dir, earliest, latest + length, factors=factors)
            coming = [Coming(hour.start.astimezone(now.tzinfo), hour.g_per_kwh) for hour in hours]
            choice = choose(hours, earliest, latest, length)
            if choice is None:
                notes.append(f"--green: submitted as it is: {_unforeseen(carbon)}")
            elif choice.delay and choice.saved_percent < FEWEST_PERCENT:
                notes.append(f"--green: submitted as it is: no start within reach saves {FEWEST_PERCENT:g} %")
    later = choice is not None and choice.delay and choice.saved_percent >= FEWEST_PERCENT
    begin = choice.best.start.astimezone(now.tzinfo) if choice and later else None
    if factors.zone is None and (wish.green or energy_uj is not None):
        notes.append(NO_ZONE)
    now_g, then_g = _grams(factors, energy_uj, now, length, choice)
    return Plan(
        zone=factors.zone,
        estimate=expected,
        length_s=length.total_seconds() if length else None,
        co2e_g=now_g,
        co2e_then_g=then_g if begin else None,
        begin=begin,
        choice=choice,
        coming=coming,
        notes=notes,
    )


def _window(
    wanted: Request, wish: Wish, length: timedelta | None, now: datetime
) -> tuple[tuple[datetime, datetime] | None, str]:
    """The earliest and the latest start that are allowed, or None and why the job is left alone."""
    if wanted.only_asks:
        return None, "no job comes of it"
    if wanted.begin and not wish.moved:
        return None, "it has a --begin of its own (--move delays it all the same)"
    if wanted.dependency and not wish.moved:
        return None, "it waits for another job (--move delays it all the same)"
    if wanted.held:
        return None, "it is held"
    if length is None:
        return None, "how long it will run is not known: give --time"
    told = {"--begin": wanted.begin, "--deadline": wanted.deadline}
    read = {name: times.moment(text, now) for name, text in told.items() if text}
    for name, when in read.items():
        if when is None:
            return None, f"{name}={told[name]} was not understood; write 2026-03-01T14:30"
    begin, deadline = read.get("--begin"), read.get("--deadline")
    earliest = max(now, begin) if begin else now
    # Slurm removes a job that cannot end before its deadline by its limit, however short it was before.
    return (earliest, latest_start(earliest, wanted.limit or length, max_delay=wish.max_delay, deadline=deadline)), ""


def _unforeseen(carbon: Carbon) -> str:
    if not carbon.zone:
        return "no hours are foreseen without a grid zone"
    return f"the coming hours of {carbon.zone} are not foreseen (`hpccarbon intensity fetch` brings them)"


def _grams(
    factors: Factors, energy_uj: Span | None, now: datetime, length: timedelta | None, choice: Choice | None
) -> tuple[Span | None, Span | None]:
    """Grams of the energy drawn evenly, begun now and at the chosen start; the second is None without a choice.

    The range is the energy's, widened by the intensity's spread.
    """
    if energy_uj is None or length is None:
        return None, None
    found = _factors(factors, now, length)
    if not found:
        return None, None
    total_s = sum(part for _, part in found)
    spread = fsum(one.spread * part for one, part in found) / total_s
    to_grid = fsum(one.metered_to_grid * part for one, part in found) / total_s
    if choice is None:
        return _of(energy_uj, fsum(one.factor * part for one, part in found) / total_s, spread), None
    now_g, then_g = (_of(energy_uj, one.g_per_kwh * to_grid, spread) for one in (choice.now, choice.best))
    return now_g, then_g


def _of(energy_uj: Span, factor: float, spread: float) -> Span:
    middle = energy_uj.middle / UJ_PER_KWH * factor
    if energy_uj.low is None or energy_uj.high is None:
        return Span(middle)
    low, high = energy_uj.low / UJ_PER_KWH * factor, energy_uj.high / UJ_PER_KWH * factor
    return Span(middle, low * max(0.0, 1 - spread), high * (1 + spread))


def _factors(factors: Factors, begin: datetime, length: timedelta) -> Sequence[tuple[Factor, float]]:
    """The factor of each hour of the run with the seconds that fall into it; [] where one is not known."""
    end = begin + length
    found = []
    at = begin
    while at < end:
        factor = factors.at(at)
        if factor is None:
            return []
        until = min(end, factor.hour + HOUR)
        found.append((factor, (until - at).total_seconds()))
        at = until
    return found
