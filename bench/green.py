"""Jobs of a real year begun when `--green` would begin them, against the best start there was. Decides nothing itself.

What was chosen is priced by the intensities as they were reported (a quarter of an hour in DE, half of one in GB), one
minute at a time, and so is every start that was allowed: the oracle is a search over all minutes, not our own choice.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import Any, NamedTuple

from bench import grid
from hpccarbon.carbon.footprint import hour_of
from hpccarbon.carbon.foresight import DAY, HOUR, Known, expect
from hpccarbon.submit.choose import choose, latest_start

MINUTE = timedelta(minutes=1)
PAST = timedelta(days=16)
Foresight = Callable[[Mapping[datetime, float], datetime, datetime], dict[datetime, Known]]
"""Hours of the year, the full hour it is, and the end of what is asked for -> what is known of them at that time."""


def perfect(hours: Mapping[datetime, float], first: datetime, end: datetime) -> dict[datetime, Known]:
    """A forecast that is right."""
    return _between(hours, first - PAST, end)


def none(hours: Mapping[datetime, float], first: datetime, end: datetime) -> dict[datetime, Known]:
    """No forecast: what was measured until now."""
    return _between(hours, first - PAST, first)


def day_before(hours: Mapping[datetime, float], first: datetime, end: datetime) -> dict[datetime, Known]:
    """The same hour of the last day that is over, as if it were a forecast."""
    coming = [first + number * HOUR for number in range(-(-(end - first) // HOUR))]
    last = {hour: hour - DAY * ((hour - first) // DAY + 1) for hour in coming}
    return {hour: Known(hours[day], 0.0, "forecast") for hour, day in last.items() if day in hours}


class Replay(NamedTuple):
    """Mean intensities over all jobs, in g/kWh, and how many of the delayed ones saved what their range said."""

    jobs: int
    at_once: float
    chosen: float
    oracle: float
    promised: float
    delayed: int
    inside: int

    @property
    def saved_percent(self) -> float:
        """Of the emissions of beginning at once."""
        return 100 * (self.at_once - self.chosen) / self.at_once

    @property
    def oracle_percent(self) -> float:
        """The most that could be saved."""
        return 100 * (self.at_once - self.oracle) / self.at_once

    @property
    def promised_percent(self) -> float:
        """What the jobs were told they would save."""
        return 100 * self.promised / self.at_once

    @property
    def inside_percent(self) -> float:
        """Of the delayed jobs: those whose saving lay in the range of one sigma."""
        return 100 * self.inside / max(1, self.delayed)


def replay(
    zone: str,
    length: timedelta,
    foresight: Foresight,
    *,
    jobs: int,
    max_delay: timedelta = timedelta(hours=12),
    year: int = 2019,
    seed: int = 1,
) -> Replay:
    """So many jobs of one length, submitted at minutes of the year drawn from a seed.

    A minute is drawn again where the year has no value for a time the job could run in.
    """
    hours, (origin, minutes) = grid.hours(zone, year), by_minutes(zone, year)
    draw = random.Random(seed)
    at_once = chosen = oracle = promised = 0.0
    delayed = inside = done = 0
    for _ in range(20 * jobs):
        if done == jobs:
            break
        at = draw.randrange(len(minutes))
        now = origin + at * MINUTE
        latest = latest_start(now, length, max_delay=max_delay, deadline=None)
        means = means_of(minutes, at, length, latest - now)
        first = hour_of(now)
        choice = choose(
            expect(foresight(hours, first, latest + length), first, latest + length, zone), now, latest, length
        )
        if means is None:
            continue
        done += 1
        paid = means[choice.delay // MINUTE] if choice is not None else means[0]
        at_once, chosen, oracle = at_once + means[0], chosen + paid, oracle + means.min()
        if choice is not None and choice.delay:
            promised += choice.saved_percent / 100 * means[0]
            delayed += 1
            inside += choice.low_percent <= 100 * (means[0] - paid) / means[0] <= choice.high_percent
    if done < jobs:
        raise ValueError(f"{zone} in {year}: too many hours are not known")
    return Replay(done, at_once / done, chosen / done, oracle / done, promised / done, delayed, inside)


def table(jobs: int) -> Iterator[str]:
    """The lines of docs/advise.md, "Without a forecast"."""
    yield "| zone | job | best possible | perfect forecast | no forecast | promised | in range | the day before |"
    yield "|---|---|---|---|---|---|---|---|"
    for zone in grid.ZONES:
        for length_h in (1, 4, 12, 24):
            length = timedelta(hours=length_h)
            right, ours, naive = (replay(zone, length, way, jobs=jobs) for way in (perfect, none, day_before))
            yield (
                f"| {zone} | {length_h} h | {ours.oracle_percent:.1f} | {right.saved_percent:.1f} | "
                f"{ours.saved_percent:.1f} | {ours.promised_percent:.1f} | {ours.inside_percent:.0f} | "
                f"{naive.saved_percent:.1f} |"
            )


def _between(hours: Mapping[datetime, float], begin: datetime, end: datetime) -> dict[datetime, Known]:
    count = -(-(end - begin) // HOUR)
    asked = (begin + number * HOUR for number in range(count))
    return {hour: Known(hours[hour], 0.0, "measured") for hour in asked if hour in hours}


@lru_cache
def by_minutes(zone: str, year: int) -> tuple[datetime, Any]:
    """The first minute of the year, and the intensity of each minute; not a number: unknown."""
    import numpy as np

    points = grid.steps(zone, year)
    minutes = np.full((points[-1].end - points[0].start) // 60, np.nan)
    for point in points:
        minutes[(point.start - points[0].start) // 60 : (point.end - points[0].start) // 60] = point.g_per_kwh
    return datetime.fromtimestamp(points[0].start, timezone.utc), minutes


def means_of(minutes: Any, at: int, length: timedelta, delay: timedelta) -> Any:
    """The mean intensity of a job begun at each minute of the delay; None where one of them is not known."""
    import numpy as np

    count, last = length // MINUTE, delay // MINUTE
    window = minutes[at : at + last + count]
    if len(window) < last + count or np.isnan(window).any():
        return None
    sums = np.concatenate([[0.0], np.cumsum(window)])
    return (sums[count:] - sums[: last + 1]) / count


if __name__ == "__main__":
    for line in table(jobs=1000):
        print(line, flush=True)
