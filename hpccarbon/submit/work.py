"""A period's jobs as columns of numbers, and the intensities they meet where they run. Reads no ledger."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from hpccarbon.carbon.footprint import hour_of
from hpccarbon.carbon.foresight import DAY, DAYS, HOUR, HOURLY
from hpccarbon.carbon.places import Places
from hpccarbon.submit import replay
from hpccarbon.submit.columns import numbers, seconds
from hpccarbon.units import HOUR_S

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    Numbers = npt.NDArray[np.float64]
    Integers = npt.NDArray[np.int64]
    Truths = npt.NDArray[np.bool_]
    Words = npt.NDArray[np.object_]

MAX_LENGTH = timedelta(days=7)
"""A longer job meets clean and dirty hours whenever it begins."""
MAX_WISHES = 12
"""How many starts of a job are tried where nodes are few."""


class Series(NamedTuple):
    """What came in one place: where hours are told from another; by any rung; and the grid's own, for guesses."""

    told: replay.Hours
    any_rung: replay.Hours
    known: dict[datetime, float]


class Group(NamedTuple):
    """The jobs of one place, by their lines, and what was expected and what came for each of them."""

    lines: Integers
    expected: replay.Mean
    actual: replay.Mean


class Work:
    """The jobs' columns as numbers. Seconds count from `first`; a line of the table stays a line of every column.

    Args:
        jobs: `site.jobtable.job_table`, with grams.
        reach: the longest delay that will be asked for.

    Raises: CarbonError, if a zone is not known or a series cannot be read.
    """

    def __init__(self, jobs: pa.Table, places: Places, since: datetime, until: datetime, reach: timedelta) -> None:
        import numpy as np

        self.jobs, self.places = jobs, places
        self.first = hour_of(since) - (DAYS + 2) * DAY
        self.begin_s, end_s = seconds(jobs["start"], self.first), seconds(jobs["end"], self.first)
        self.length_s = end_s - self.begin_s
        begin, end = ((moment - self.first).total_seconds() for moment in (since, until))
        self.held_s = np.where(np.isnan(end_s), end, end_s) - self.begin_s
        """How long it held its nodes within the period; as `length_s`, but for a job that still runs."""
        self.energy_uj, self.grams = numbers(jobs["energy_uj"]), numbers(jobs["co2e_g"])
        self._whole: Truths = (self.begin_s >= begin) & (end_s <= end) & (self.length_s > 0)
        self._short: Truths = self._whole & (self.length_s <= MAX_LENGTH.total_seconds())
        # The energy of a requeued job is that of all its runs, its start and end are those of the last.
        self._once: Truths = self._short & ~(numbers(jobs["restart"]) > 0)
        self._fit: Truths = self._once & (self.energy_uj > 0) & (self.grams > 0)
        self._place = _places_of(jobs, places)
        names = sorted({"", *places.carbon.places}) if places.several else [""]
        self._came = {name: self._series(name, -(-(until + reach - self.first) // HOUR)) for name in names}
        self._groups = [
            self._group(name, lines, reach) for name in names if len(lines := self._lines(self._place == name))
        ]
        self.at_once: Numbers = np.full(jobs.num_rows, np.nan)
        for group in self._groups:
            self.at_once[group.lines] = group.actual(self.begin_s[group.lines])
        self.weighed: Truths = ~np.isnan(self.at_once)
        """The jobs that everything is known of."""
        self.weighed_g = float(self.grams[self.weighed].sum())

    def moved(self, delay_h: float) -> replay.Moved:
        """Every job with so many hours of delay; not a number, where it was not weighed."""
        import numpy as np

        columns = [np.full(self.jobs.num_rows, np.nan) for _ in replay.Moved._fields]
        for lines, expected, actual in self._groups:
            answer = replay.move(self.begin_s[lines], self.length_s[lines], expected, actual, delay_h * HOUR_S)
            for column, values in zip(columns, answer, strict=True):
                column[lines] = values
        return replay.Moved(*columns)

    def wishes(self, lines: Integers, delay_h: float) -> list[list[float]]:
        """The starts to try for some of the jobs, in the order of `lines`; see `replay.wishes`."""
        import numpy as np

        found: list[list[float]] = [[] for _ in range(len(lines))]
        rank = np.full(self.jobs.num_rows, -1)
        rank[lines] = np.arange(len(lines))
        for name in self._came:
            some = self._lines((self._place == name) & (rank >= 0))
            if len(some):
                _, expected, actual = self._group(name, some, timedelta(hours=delay_h))
                begin_s, length_s = self.begin_s[some], self.length_s[some]
                lists = replay.wishes(begin_s, length_s, expected, actual, delay_h * HOUR_S, MAX_WISHES)
                for number, starts in zip(rank[some].tolist(), lists, strict=True):
                    found[number] = starts
        return found

    def paid(self, start_s: Numbers) -> Numbers:
        """The mean intensities of the jobs, begun at these times."""
        import numpy as np

        found: Numbers = np.full(self.jobs.num_rows, np.nan)
        for lines, _, actual in self._groups:
            found[lines] = actual(start_s[lines])
        return found

    def saved_g(self, paid: Numbers) -> Numbers:
        """What of the billed grams is not emitted at other mean intensities; 0 for jobs that were not weighed."""
        import numpy as np

        share = np.divide(self.at_once - paid, self.at_once, out=np.zeros_like(paid), where=self.at_once > 0)
        return np.where(self.weighed, np.nan_to_num(self.grams * share), 0.0)

    def left_out(self) -> list[tuple[int, str]]:
        """Every job that was not weighed, once: how many, and why."""
        reasons = {
            "not wholly in the period, or accounting has no start and end": ~self._whole,
            f"ran for more than {MAX_LENGTH.days} days": self._whole & ~self._short,
            "ran more than once": self._short & ~self._once,
            "no energy or no grams are known": self._once & ~self._fit,
            "an hour of theirs is known by a mean only": self._fit & ~self.weighed,
        }
        return [(int(which.sum()), why) for why, which in reasons.items() if which.any()]

    def elsewhere(self) -> list[tuple[str, int, float, float]]:
        """All jobs in each place that is not theirs: the place, how many, their grams, and their grams there."""
        import numpy as np

        here = np.full(self.jobs.num_rows, np.nan)
        for name, came in self._came.items():
            lines = self._lines(self._place == name)
            here[lines] = came.any_rung.mean(self.begin_s[lines], self.length_s[lines])
        found = []
        for name, came in self._came.items() if self.places.several else ():
            lines = self._lines((self._place != name) & (here > 0))
            there = came.any_rung.mean(self.begin_s[lines], self.length_s[lines])
            lines, there = lines[~np.isnan(there)], there[~np.isnan(there)]
            grams = self.grams[lines]
            if len(lines):
                found.append((name, len(lines), float(grams.sum()), float((grams * there / here[lines]).sum())))
        return found

    def _lines(self, which: Truths) -> Integers:
        import numpy as np

        return np.flatnonzero(self._fit & which)

    def _series(self, name: str, count: int) -> Series:
        """The place's g per metered kWh of each hour, as billed."""
        import numpy as np

        hours = [self.first + number * HOUR for number in range(count)]
        factors = self.places.factors(name)
        factors.mapping(hours)
        told, any_rung, known = np.full(count, np.nan), np.full(count, np.nan), {}
        for number, hour in enumerate(hours):
            factor = factors.at(hour)
            if factor is not None:
                any_rung[number] = factor.factor
                if factor.rung in HOURLY:
                    told[number], known[hour] = factor.factor, factor.g_per_kwh
        return Series(replay.Hours(told), replay.Hours(any_rung), known)

    def _group(self, name: str, lines: Integers, reach: timedelta) -> Group:
        import numpy as np

        came, length_s = self._came[name], self.length_s[lines]
        reach_h = -(-(reach + timedelta(seconds=float(length_s.max()))) // HOUR) + 1
        starts_h = (self.begin_s[lines] // HOUR_S).astype(np.int64)
        zone = self.places.factors(name).zone or ""
        thought, row = replay.expected_of(came.known, self.first, starts_h, reach_h, zone)
        return Group(
            lines, lambda starts: thought.mean(starts, length_s, row), lambda starts: came.told.mean(starts, length_s)
        )


def _places_of(jobs: pa.Table, places: Places) -> Words:
    """Each job's place: that of its first node, else of its partition."""
    import numpy as np

    if not places.several:
        return np.full(jobs.num_rows, "", dtype=object)
    from hpccarbon.hostlist import expand

    known: dict[tuple[str | None, str | None], str] = {}
    found = []
    for pair in zip(jobs["nodelist"].to_pylist(), jobs["partition"].to_pylist(), strict=True):
        if pair not in known:
            nodelist, partition = pair
            try:
                node = next(iter(expand(nodelist or "")), None)
            except ValueError:
                node = None
            known[pair] = places.place_of(node, partition)
        found.append(known[pair])
    return np.array(found, dtype=object)
