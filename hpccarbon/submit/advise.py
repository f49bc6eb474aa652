"""What a period's jobs would have emitted, begun later or run elsewhere, and what waiting it would have cost.

Replays what the ledger and accounting know over the intensities that grams are billed with. Moves no job, and nothing
of it enters a total.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import msgspec

from hpccarbon.carbon.advice import NO_SERIES, SIGNAL_NOTE
from hpccarbon.carbon.footprint import NO_ZONE
from hpccarbon.carbon.foresight import HOUR
from hpccarbon.carbon.places import Places
from hpccarbon.submit import capacity
from hpccarbon.submit.replay import Moved
from hpccarbon.submit.work import Work
from hpccarbon.units import HOUR_S

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    Numbers = npt.NDArray[np.float64]

Means = msgspec.Meta
JSON_VERSION = 1
DELAYS_H = (3, 6, 12, 24)
MAX_PLACED = 200_000
"""How many jobs a cluster's replay tries to move, those with most to save first: seconds, not minutes."""
MIN_RUNS = 3
"""Fewer runs of a name on a partition are no measure of it."""
MAX_NAMES = 10
CONSTANT = "a job is taken to draw the same power throughout"


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """All jobs, if each had waited for the cleanest start within so many hours, with as many nodes as they like."""

    max_delay_h: float
    moved: Annotated[int, Means(description="jobs that would have waited")]
    mean_wait_h: Annotated[float, Means(description="of those that would have waited: the price")]
    saved_g: Annotated[float, Means(description="choosing by what was known when each began, without a forecast")]
    saved_percent: Annotated[float, Means(description="of the grams of all jobs that were weighed")]
    most_g: Annotated[float, Means(description="had every hour to come been known")]
    most_percent: float


class Crowd(msgspec.Struct, frozen=True, kw_only=True):
    """The same on the nodes there are: no job begins where there is no room."""

    max_delay_h: float
    nodes: int
    moved: int
    mean_wait_h: float
    saved_g: float
    saved_percent: float


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """A job that could have begun later."""

    job: str
    name: str | None
    user: str | None
    account: str | None
    partition: str | None
    start: datetime
    elapsed_s: int
    energy_uj: int
    co2e_g: float
    wait_s: int
    saved_g: Annotated[float, Means(description="negative: by what was known it would have begun at a worse time")]
    most_g: float


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """The same energy in the same hours in another place of the cluster, with the PUE of that place."""

    place: str
    zone: str | None
    jobs: Annotated[int, Means(description="that ran elsewhere and are known in both places")]
    co2e_g: Annotated[float, Means(description="as they ran")]
    there_g: float
    saved_percent: float


class Hardware(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs of one user and name on one partition, where the same ran on several: medians of its runs."""

    user: str
    name: str
    partition: str
    jobs: int
    energy_uj: int
    elapsed_s: float
    co2e_g: float | None


class LeftOut(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs of which nothing can be said, and why."""

    jobs: int
    why: str


class Advised(msgspec.Struct, frozen=True, kw_only=True):
    """`hpccarbon advise --format json`."""

    schema_version: int = JSON_VERSION
    kind: Literal["advice"] = "advice"
    cluster: str
    since: datetime
    until: datetime
    max_delay_h: Annotated[float, Means(description="of the single jobs and of the cluster's replay")]
    jobs: int
    weighed: Annotated[int, Means(description="jobs of which start, end, energy and every hour are known")]
    energy_uj: Annotated[int, Means(description="of the jobs that were weighed")]
    co2e_g: Annotated[float, Means(description="of the jobs that were weighed, as reports bill them")]
    left_out: list[LeftOut]
    waiting: list[Waiting]
    crowd: Annotated[Crowd | None, Means(description="asked for with --capacity")]
    largest: Annotated[list[Move], Means(description="with --max-delay; what saves most comes first")]
    places: list[Site]
    hardware: list[Hardware]
    notes: list[str]


class Advice(NamedTuple):
    """The answer, and one row per job that was weighed."""

    told: Advised
    table: pa.Table


def advise(
    jobs: pa.Table,
    places: Places,
    cluster: str,
    since: datetime,
    until: datetime,
    *,
    max_delay: timedelta,
    top: int,
    rooms: Sequence[capacity.Room] | None = None,
) -> Advice:
    """Replay the jobs of a period.

    Args:
        jobs: `site.jobtable.job_table`, with grams.
        max_delay: for the single jobs and for the cluster's replay; `DELAYS_H` are told beside it.
        top: how many single jobs are told.
        rooms: the nodes there are; None: no replay with capacity.

    Raises: CarbonError, if a zone is not known or a series cannot be read.
    """
    delay_h = max_delay / HOUR
    work = Work(jobs, places, since, until, timedelta(hours=max(delay_h, *DELAYS_H)))
    waits = {hours: work.moved(hours) for hours in sorted({*DELAYS_H, delay_h})}
    table = _table(work, waits[delay_h])
    largest = table.sort_by([("saved_g", "descending")]).slice(0, top).to_pylist()
    told = Advised(
        cluster=cluster,
        since=since,
        until=until,
        max_delay_h=delay_h,
        jobs=jobs.num_rows,
        weighed=int(work.weighed.sum()),
        energy_uj=sum(table["energy_uj"].to_pylist()),
        co2e_g=work.weighed_g,
        left_out=[LeftOut(jobs=count, why=why) for count, why in work.left_out()],
        waiting=[_waiting(work, hours, moved) for hours, moved in waits.items()],
        crowd=None if rooms is None else _crowd(work, delay_h, rooms, waits[delay_h]),
        largest=[Move(**row) for row in largest if row["saved_g"] > 0],
        places=_sites(work),
        hardware=_hardware(jobs),
        notes=_notes(work),
    )
    return Advice(told, table)


def _waiting(work: Work, delay_h: float, moved: Moved) -> Waiting:
    saved_g, most_g = (float(work.saved_g(paid).sum()) for paid in (moved.chosen, moved.best))
    jobs, mean_wait_h = _price(work, moved.wait_s)
    return Waiting(
        max_delay_h=delay_h,
        moved=jobs,
        mean_wait_h=mean_wait_h,
        saved_g=saved_g,
        saved_percent=_percent(saved_g, work),
        most_g=most_g,
        most_percent=_percent(most_g, work),
    )


def _crowd(work: Work, delay_h: float, rooms: Sequence[capacity.Room], moved: Moved) -> Crowd:
    """The greedy replay of each room."""
    import numpy as np
    import pyarrow as pa

    ran = ~np.isnan(work.begin_s) & (work.held_s > 0)
    room_of = {partition: number for number, room in enumerate(rooms) for partition in room.partitions}
    standing = np.array([room_of.get(partition, -1) for partition in work.jobs["partition"].to_pylist()])
    start_s = work.begin_s.copy()
    worth = np.where(work.weighed, moved.promise * work.energy_uj, 0.0)
    for number, room in enumerate(rooms):
        lines = np.flatnonzero(ran & (standing == number))
        worthy = lines[worth[lines] > 0]
        order = worthy[np.argsort(-worth[worthy], kind="stable")][:MAX_PLACED]
        # Jobs that began before the first hour hold their nodes from there on.
        begin_s = np.maximum(work.begin_s[lines], 0.0)
        start_s[lines] = capacity.place(
            begin_s,
            np.maximum(work.begin_s[lines] + work.held_s[lines] - begin_s, 0.0),
            capacity.needs_of(work.jobs.take(pa.array(lines))),
            room.nodes,
            np.searchsorted(lines, order),
            work.wishes(order, delay_h),
        )
    saved_g = float(work.saved_g(work.paid(start_s)).sum())
    jobs, mean_wait_h = _price(work, start_s - work.begin_s)
    return Crowd(
        max_delay_h=delay_h,
        nodes=sum(room.nodes for room in rooms),
        moved=jobs,
        mean_wait_h=mean_wait_h,
        saved_g=saved_g,
        saved_percent=_percent(saved_g, work),
    )


def _price(work: Work, wait_s: Numbers) -> tuple[int, float]:
    """How many jobs wait, and how many hours each of them."""
    waits_s = wait_s[work.weighed & (wait_s > 0)]
    return len(waits_s), float(waits_s.mean()) / HOUR_S if len(waits_s) else 0.0


def _percent(saved_g: float, work: Work) -> float:
    return 100 * saved_g / work.weighed_g if work.weighed_g else 0.0


def _table(work: Work, moved: Moved) -> pa.Table:
    """One row per job that was weighed."""
    import numpy as np
    import pyarrow as pa

    lines = np.flatnonzero(work.weighed)
    kept = work.jobs.take(pa.array(lines))
    columns = {name: kept[name] for name in Move.__struct_fields__ if name in kept.column_names}
    columns |= {
        "elapsed_s": pa.array(np.round(work.length_s[lines]).astype(np.int64)),
        "wait_s": pa.array(np.round(moved.wait_s[lines]).astype(np.int64)),
        "saved_g": pa.array(work.saved_g(moved.chosen)[lines]),
        "most_g": pa.array(work.saved_g(moved.best)[lines]),
    }
    return pa.table({name: columns[name] for name in Move.__struct_fields__})


def _notes(work: Work) -> list[str]:
    if work.weighed.any():
        return [CONSTANT, SIGNAL_NOTE]
    if not work.jobs.num_rows:
        return ["no job of these used energy in this period"]
    return [NO_SERIES if work.places.factors().zone else NO_ZONE]


def _sites(work: Work) -> list[Site]:
    found = [
        Site(
            place=name,
            zone=work.places.factors(name).zone,
            jobs=jobs,
            co2e_g=grams,
            there_g=there_g,
            saved_percent=100 * (grams - there_g) / grams,
        )
        for name, jobs, grams, there_g in work.elsewhere()
    ]
    return sorted(found, key=lambda one: -one.saved_percent)


def _hardware(jobs: pa.Table) -> list[Hardware]:
    """Names that one user ran on several partitions, most energy first."""
    frame = jobs.select(["user", "name", "partition", "state", "energy_uj", "elapsed_s", "co2e_g"]).to_pandas()
    frame = frame[frame["state"] == "COMPLETED"].dropna(subset=["user", "name", "partition", "energy_uj"])
    groups = frame.groupby(["user", "name", "partition"], observed=True)
    lines = groups.agg(
        jobs=("energy_uj", "size"),
        energy_uj=("energy_uj", "median"),
        elapsed_s=("elapsed_s", "median"),
        co2e_g=("co2e_g", "median"),
        whole=("energy_uj", "sum"),
    ).reset_index()
    lines = lines[lines["jobs"] >= MIN_RUNS]
    by_name = lines.groupby(["user", "name"])
    lines = lines.assign(partitions=by_name["partition"].transform("size"), total=by_name["whole"].transform("sum"))
    lines = lines[lines["partitions"] > 1].sort_values(
        ["total", "user", "name", "energy_uj"], ascending=[False, *[True] * 3]
    )
    names = lines[["user", "name"]].drop_duplicates().head(MAX_NAMES)
    return [
        Hardware(
            user=row.user,
            name=row.name,
            partition=row.partition,
            jobs=int(row.jobs),
            energy_uj=round(row.energy_uj),
            elapsed_s=float(row.elapsed_s),
            co2e_g=None if row.co2e_g != row.co2e_g else float(row.co2e_g),
        )
        for row in lines.merge(names, on=["user", "name"]).itertuples(index=False)
    ]
