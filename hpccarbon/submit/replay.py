"""Jobs that have run, begun again when it would have been cleaner: whole columns at once. Reads no file, moves no job.

A job is its start and its length; it draws the same power throughout. Each is tried at all starts at which the mean
intensity may turn (this is the choice of `submit/choose.py`, for a million jobs), from when it began to the longest
delay. Two answers: what it would have got by what could be foreseen when it began, and the best there was.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from hpccarbon.carbon.foresight import HOUR, Known, expect
from hpccarbon.units import HOUR_S

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Numbers = npt.NDArray[np.float64]
    Places = npt.NDArray[np.int64]
    Mean = Callable[[Numbers], Numbers]
    """Starts, one of each job, in s -> mean intensities of the jobs if they begin then; not a number: not known."""


NOTHING = 1e-6
"""g/kWh: less than this is the arithmetic's, and no reason to wait."""


class Hours:
    """Intensities of consecutive hours, as one sum that any span is a difference of.

    Args:
        values: g/kWh by hour; not a number where an hour is not known. Several rows are several series.
    """

    def __init__(self, values: Numbers) -> None:
        import numpy as np

        rows = np.atleast_2d(values)
        edge = np.zeros((len(rows), 1))
        unknown = np.isnan(rows)
        self._count = rows.shape[1]
        self._sums = np.hstack([edge, np.cumsum(np.where(unknown, 0.0, rows), axis=1)])
        self._gaps = np.hstack([edge, np.cumsum(unknown, axis=1)])

    def mean(self, begin_s: Numbers, length_s: Numbers, row: Places | int = 0) -> Numbers:
        """The mean from `begin_s` (since the first hour) on; not a number where a moment of it is not known.

        Args:
            row: which series counts for which job.
        """
        import numpy as np

        begin_h, end_h = begin_s / HOUR_S, (begin_s + length_s) / HOUR_S
        outside = (begin_h < 0) | (end_h > self._count)
        begin_h, end_h = np.where(outside, 0.0, begin_h), np.where(outside, 0.0, end_h)
        cost = self._until(self._sums, row, end_h) - self._until(self._sums, row, begin_h)
        gaps = self._until(self._gaps, row, end_h) - self._until(self._gaps, row, begin_h)
        hours = np.where(outside, 1.0, end_h - begin_h)
        return np.where(outside | (gaps > 0), np.nan, cost / hours)

    def _until(self, sums: Numbers, row: Places | int, at_h: Numbers) -> Numbers:
        import numpy as np

        whole = np.minimum(at_h.astype(np.int64), self._count - 1)
        before = sums[row, whole]
        found: Numbers = before + (at_h - whole) * (sums[row, whole + 1] - before)
        return found


class Moved(NamedTuple):
    """One value per job. `wait_s` is 0 and all intensities are equal where moving it promised nothing.

    `at_once` is not a number where an hour of the job is not known: then nothing can be said of it.
    """

    at_once: Numbers
    chosen: Numbers
    wait_s: Numbers
    best: Numbers
    promise: Numbers
    """How much less was foreseen at the chosen start than at once."""


def move(begin_s: Numbers, length_s: Numbers, expected: Mean, actual: Mean, max_delay_s: float) -> Moved:
    """Every job begun at the start that promised least, and at the one that was least.

    Args:
        begin_s, length_s: of each job, in s; the lengths positive.
        expected: what was foreseen when each began. actual: what came.
    """
    import numpy as np

    at_once, begun = actual(begin_s), expected(begin_s)
    best, start, promised = at_once.copy(), begin_s.copy(), begun.copy()
    for tried in _turns(begin_s, length_s, max_delay_s):
        came = actual(tried)
        # A start of which it is not known what came of it can be no answer.
        foreseen = np.where(np.isnan(came), np.inf, expected(tried))
        better = (foreseen < promised - NOTHING) | ((foreseen < promised + NOTHING) & (tried < start))
        promised, start = np.where(better, foreseen, promised), np.where(better, tried, start)
        best = np.fmin(best, came)
    return Moved(
        at_once,
        actual(start),
        start - begin_s,
        np.where(np.isnan(at_once), np.nan, best),
        np.nan_to_num(begun - promised),
    )


def wishes(
    begin_s: Numbers, length_s: Numbers, expected: Mean, actual: Mean, max_delay_s: float, count: int
) -> list[list[float]]:
    """For each job the starts that promised less than beginning at once, best first, at most `count` of them."""
    import numpy as np

    tried = np.stack(list(_turns(begin_s, length_s, max_delay_s)))
    foreseen = np.stack([np.where(np.isnan(actual(starts)), np.inf, expected(starts)) for starts in tried])
    useful = np.where(foreseen < expected(begin_s) - NOTHING, foreseen, np.inf)
    order = np.argsort(useful, axis=0, kind="stable")[:count]
    starts, worth = np.take_along_axis(tried, order, 0).T, np.take_along_axis(useful, order, 0).T
    lists = zip(starts.tolist(), np.isfinite(worth).sum(axis=1).tolist(), strict=True)
    return [its[:number] for its, number in lists]


def _turns(begin_s: Numbers, length_s: Numbers, max_delay_s: float) -> Iterator[Numbers]:
    """Starts at which the mean may turn, one of each job at a time, none later than the delay; some come twice."""
    import numpy as np

    latest = begin_s + max_delay_s
    for at in (begin_s, begin_s + length_s):
        edge = np.floor(at / HOUR_S) * HOUR_S - at + begin_s
        for number in range(1, int(max_delay_s // HOUR_S) + 2):
            yield np.minimum(edge + number * HOUR_S, latest)
    yield latest


def expected_of(
    known: Mapping[datetime, float], first: datetime, starts_h: Places, reach_h: int, zone: str
) -> tuple[Hours, Places]:
    """What was foreseen at each hour in which a job began, without a forecast.

    Args:
        known: UTC hour -> g/kWh that came; of an hour later than the start nothing is taken.
        first: what hours are counted from. starts_h: the hour each job began in. reach_h: how far ahead is asked.

    Returns: one series per distinct hour, counted from `first` too, and each job's series.
    """
    import numpy as np

    distinct, row = np.unique(starts_h, return_inverse=True)
    width = int(distinct[-1]) + reach_h if len(distinct) else reach_h
    foreseen = np.full((len(distinct), width), np.nan)
    past: dict[datetime, Known] = {}
    waiting = deque(sorted(known))
    for line, start_h in enumerate(distinct.tolist()):
        now = first + start_h * HOUR
        while waiting and waiting[0] < now:
            hour = waiting.popleft()
            past[hour] = Known(known[hour], 0.0, "measured")
        for one in expect(past, now, now + reach_h * HOUR, zone):
            foreseen[line, (one.start - first) // HOUR] = one.g_per_kwh
    return Hours(foreseen), row
