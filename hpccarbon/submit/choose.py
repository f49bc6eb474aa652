"""When to begin a job so that its expected grams are least. Reads no file and no clock, and submits nothing.

    latest = latest_start(now, length, max_delay=timedelta(hours=12), deadline=None)
    hours = foresight.foreseen(carbon, series_dir, now, latest + length)
    choice = choose(hours, now, latest, length)  # None: the hours from now on are not foreseen, begin now

A job of constant power has the mean intensity of the time it runs. As a function of its start that mean is a straight
line between two starts at which its beginning or its end crosses from one period into the next. So the least one is at
such a start, at `now` or at `latest`, to the second: no grid of starts is tried, and none between would be better.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from datetime import datetime, timedelta
from itertools import islice, pairwise, takewhile
from math import fsum
from typing import Annotated, NamedTuple

import msgspec

from hpccarbon.carbon.foresight import Foreseen, error_of_sum

Means = msgspec.Meta
SECOND = timedelta(seconds=1)
_MICROSECOND = timedelta(microseconds=1)
_UNITS_PER_G = 10_000
"""Intensities carry four decimals: sums of them are integers here, and two starts that cost the same are equal."""


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A start, and the mean intensity of the job if it begins then and draws the same power throughout."""

    start: datetime
    g_per_kwh: float
    marginal_g_per_kwh: Annotated[
        float | None, Means(description="the same by the marginal signal; null where one of the hours has none")
    ]


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """The starts that were weighed, in order of time, and the best of them; of equal ones the earliest."""

    now: Candidate
    best: Candidate
    candidates: list[Candidate]
    saved_percent: Annotated[float, Means(description="expected, against beginning now; never negative")]
    low_percent: Annotated[float, Means(description="one sigma below; negative: it may cost more than now")]
    high_percent: Annotated[float, Means(description="one sigma above")]
    rungs: Annotated[
        list[str], Means(description="what the hours of both stand on: forecast, or `recent_days`, a guess")
    ]

    @property
    def delay(self) -> timedelta:
        """How long the job waits; 0: begin now, without `--begin`."""
        return self.best.start - self.now.start


def latest_start(now: datetime, length: timedelta, *, max_delay: timedelta, deadline: datetime | None) -> datetime:
    """The last start that is allowed; `now`, where the deadline cannot be met even so.

    Args:
        length: how long the job is expected to run; to be safe with a deadline, its time limit.
        deadline: when it must have ended.
    """
    last = now + max_delay
    if deadline is not None:
        last = min(last, deadline - length)
    return max(now, last)


def choose(foreseen: Iterable[Foreseen], now: datetime, latest: datetime, length: timedelta) -> Choice | None:
    """The start from `now` to `latest` at which a job of `length` has the least mean intensity.

    Args:
        foreseen: periods of any length that do not overlap, in any order. A start of which a moment is in none of them
            is left out.
        now, latest: aware.
        length: parts of a second count as a whole one.

    Returns: None where the time from `now` on is not foreseen: there is nothing to compare with.
    Raises: ValueError, if periods overlap, the length is not positive or `latest` lies before `now`.
    """
    if length <= timedelta() or latest < now:
        raise ValueError(f"no job of {length} between {now} and {latest}")
    whole = -(-length // SECOND) * SECOND
    periods = sorted(foreseen, key=lambda one: one.start)
    if any(before.end > after.start for before, after in pairwise(periods)):
        raise ValueError("foreseen periods overlap")
    found = [job for start in _turns(periods, now, latest, whole) if (job := _job(periods, start, whole)) is not None]
    if not found or found[0].start != now:
        return None
    first, best = found[0], min(found, key=lambda job: job.cost)  # of equal ones min takes the first
    begun_now, chosen = first.candidate(), best.candidate()
    one = begun_now.g_per_kwh or 1.0  # where nothing is emitted nothing is saved
    saved = (begun_now.g_per_kwh - chosen.g_per_kwh) / one
    error = _error_of_difference(first, best) / one
    return Choice(
        now=begun_now,
        best=chosen,
        candidates=[job.candidate() for job in found],
        saved_percent=100 * saved,
        low_percent=100 * (saved - error),
        high_percent=min(100 * (saved + error), 100.0),
        rungs=list(dict.fromkeys(period.rung for period, _ in (*first.parts, *best.parts))),
    )


class _Job(NamedTuple):
    """A job begun at `start`: the periods it touches, and how many microseconds of each."""

    start: datetime
    parts: list[tuple[Foreseen, int]]

    @property
    def cost(self) -> int:
        """Its mean intensity times its length, which all starts share: an integer, so that equal ones are equal."""
        return sum(round(period.g_per_kwh * _UNITS_PER_G) * span for period, span in self.parts)

    def candidate(self) -> Candidate:
        """The start as it is shown."""
        length = sum(span for _, span in self.parts)
        marginal = [(period.marginal_g_per_kwh, span) for period, span in self.parts]
        told = [(value, span) for value, span in marginal if value is not None]
        return Candidate(
            start=self.start,
            g_per_kwh=self.cost / (length * _UNITS_PER_G),
            marginal_g_per_kwh=fsum(v * span for v, span in told) / length if len(told) == len(marginal) else None,
        )


def _turns(periods: list[Foreseen], now: datetime, latest: datetime, length: timedelta) -> list[datetime]:
    """The starts at which the mean may turn: its beginning or its end at the edge of a period, `now` and `latest`."""
    edges = {edge for period in periods for edge in (period.start, period.end)}
    return sorted({now, latest} | {start for edge in edges for start in (edge, edge - length) if now < start < latest})


def _job(periods: list[Foreseen], start: datetime, length: timedelta) -> _Job | None:
    """A job begun at `start`; None where a moment of it is not foreseen."""
    end = start + length
    first = bisect_right(periods, start, key=lambda period: period.end)
    touched = takewhile(lambda period: period.start < end, islice(periods, first, None))
    parts = [(period, (min(period.end, end) - max(period.start, start)) // _MICROSECOND) for period in touched]
    return _Job(start, parts) if sum(span for _, span in parts) == length // _MICROSECOND else None


def _error_of_difference(first: _Job, other: _Job) -> float:
    """One sigma of the difference of two mean intensities, in g/kWh. What the two have in common cancels."""
    weights: dict[Foreseen, int] = {}
    for sign, job in ((1, first), (-1, other)):
        for period, span in job.parts:
            weights[period] = weights.get(period, 0) + sign * span
    length = sum(span for _, span in first.parts)
    ordered = sorted(weights.items(), key=lambda one: one[0].start)
    return error_of_sum((period.start, period.sigma_g_per_kwh * span / length) for period, span in ordered)
