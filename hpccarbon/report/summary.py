"""A month of a cluster as one value: what is known and how well, totals, tables, days and hours. Reads no file.

These structs are the JSON that `hpccarbon summary` writes (docs/report_json.md is made from them).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, tzinfo
from math import fsum
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from hpccarbon.carbon.footprint import RUNG_WORDS
from hpccarbon.carbon.statement import Statement
from hpccarbon.report.budget import BudgetLine
from hpccarbon.report.figures import JSON_VERSION, CarbonOf, Figures, Means, SetAside, added_groups, percent
from hpccarbon.report.job import base_state, job_name

if TYPE_CHECKING:
    from hpccarbon.site.groups import Group
    from hpccarbon.site.ledger import JobRecord

HOLDERS = ("job", "system", "unallocated")
_HOURLY = frozenset(("fixed", "measured", "estimated", "forecast", "interpolated"))
"""Rungs of the intensity's ladder that speak of the hour itself."""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """What one user, account, partition, node or holder used."""

    name: Annotated[str | None, Means(description="null: nobody told; hostile until escaped")]
    jobs: Annotated[int, Means(description="how many jobs, those that Slurm alone knows among them")]
    share_percent: Annotated[float | None, Means(description="of the cluster's energy in the month")]
    idle_cores_uj: Annotated[int, Means(description="static energy of cores that jobs held and did not use")]
    figures: Figures


class NodeLine(msgspec.Struct, frozen=True, kw_only=True):
    """What one node used, and for whom."""

    node: str
    share_percent: float | None
    job_uj: int
    system_uj: int
    unallocated_uj: int
    figures: Figures


class JobLine(msgspec.Struct, frozen=True, kw_only=True):
    """One of the jobs that used most. Strings that a user chose are given as they are: hostile until escaped."""

    job: str
    job_id: int
    name: str | None
    user: str | None
    account: str | None
    state: str | None
    share_percent: float | None
    idle_cores_uj: int
    figures: Figures


class Day(msgspec.Struct, frozen=True, kw_only=True):
    """One day of the reader's zone."""

    day: date
    job_uj: int
    system_uj: int
    unallocated_uj: int
    co2e_g: float | None
    intensity_g_per_kwh: Annotated[float | None, Means(description="mean over the day's hours, not by energy")]
    intensity_low_g_per_kwh: Annotated[float | None, Means(description="the day's greenest hour")]
    intensity_high_g_per_kwh: Annotated[float | None, Means(description="the day's dirtiest hour")]


class HourOfDay(msgspec.Struct, frozen=True, kw_only=True):
    """One hour of the day, over all days of the month."""

    hour: int
    power_w: Annotated[float | None, Means(description="mean power of jobs, over the hours with data")]
    intensity_g_per_kwh: float | None


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """The total of an earlier month beside this one's. Changes are null where either is not known."""

    label: Literal["month before", "year before"]
    month: str
    energy_uj: int | None
    co2e_g: float | None
    energy_change_percent: float | None
    co2e_change_percent: float | None


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """How well the month is known. Comes first: no figure below is better than this."""

    hours: Annotated[int, Means(description="hours of the month that have begun")]
    hours_with_data: int
    nodes: int
    covered_percent: float | None
    measured_percent: float | None
    hourly_percent: Annotated[float | None, Means(description="energy whose intensity is that of its own hour")]
    intensity: Annotated[list[str], Means(description="which intensities were used for how much, most first")]
    pue: float | None
    unseen_jobs: Annotated[int, Means(description="jobs that Slurm knows and no daemon saw: in no figure")]
    unseen_node_hours: Annotated[float, Means(description="time on nodes that Slurm knows of and no daemon saw")]
    files_set_aside: int
    low_g: Annotated[float | None, Means(description="grams one sigma below the total")]
    high_g: Annotated[float | None, Means(description="grams one sigma above the total")]
    notes: Annotated[list[str], Means(description="what the reader must know before using a figure")]


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """`summary-YYYY-MM.json` of `hpccarbon summary`."""

    schema_version: int = JSON_VERSION
    kind: Literal["summary"] = "summary"
    cluster: str
    timezone: Annotated[str, Means(description="zone in which days and months begin; times are UTC")]
    month: str
    since: datetime
    until: Annotated[datetime, Means(description="not included")]
    complete: Annotated[bool, Means(description="false: the month has not ended")]
    quality: Quality
    total: Line
    holders: list[Line]
    compared: list[Compared]
    budgets: list[BudgetLine]
    accounts: Annotated[list[Line], Means(description="most energy first")]
    users: list[Line]
    partitions: list[Line]
    nodes: list[NodeLine]
    jobs: Annotated[list[JobLine], Means(description="those with most energy, of the month's part of them")]
    wasted: Annotated[list[Line], Means(description="users whose idle cores used most static energy")]
    days: list[Day]
    hours_of_day: list[HourOfDay]
    statement: Annotated[
        Statement | None, Means(description="hardware, market-based total, water; null without a zone")
    ]
    carbon: list[CarbonOf]
    set_aside: list[SetAside]


def lines(groups: Iterable[Group], whole_uj: int | None) -> list[Line]:
    """Lines of groups by ("holder", word), jobs only, most energy first; those nobody is known for at their place."""
    its = [one for one in groups if one.energy.key[0] == "job"]
    its.sort(key=lambda one: (-one.energy.energy_uj, str(one.energy.key[1])))
    return [line(one, None if one.energy.key[1] is None else str(one.energy.key[1]), whole_uj) for one in its]


def line(group: Group, name: str | None, whole_uj: int | None) -> Line:
    """One group as a line."""
    figures = added_groups([group])
    return Line(
        name=name,
        jobs=group.jobs + group.unseen.jobs,
        share_percent=percent(figures.energy_uj, whole_uj),
        idle_cores_uj=group.idle_cores_uj,
        figures=figures,
    )


def holder_lines(groups: Sequence[Group], whole_uj: int | None) -> list[Line]:
    """Jobs, system, unallocated, in this order, from groups by ("holder",)."""
    by_holder = {str(one.energy.key[0]): one for one in groups}
    return [line(by_holder[holder], holder, whole_uj) for holder in HOLDERS if holder in by_holder]


def node_lines(groups: Iterable[Group], whole_uj: int | None) -> list[NodeLine]:
    """Lines of nodes from groups by ("node", "holder"), most energy first."""
    by_node: dict[str, list[Group]] = {}
    for one in groups:
        by_node.setdefault(str(one.energy.key[0]), []).append(one)
    made = []
    for node, its in by_node.items():
        figures = added_groups(its, nodes=1)
        used = {str(one.energy.key[1]): one.energy.energy_uj for one in its}
        made.append(
            NodeLine(
                node=node,
                share_percent=percent(figures.energy_uj, whole_uj),
                **{f"{holder}_uj": used.get(holder, 0) for holder in HOLDERS},
                figures=figures,
            )
        )
    made.sort(key=lambda one: (-(one.figures.energy_uj or 0), one.node))
    return made


def job_lines(groups: Iterable[Group], records: Iterable[JobRecord], whole_uj: int | None) -> list[JobLine]:
    """Lines of jobs from groups by ("job", "user", "account"), most energy first, with what accounting calls them."""
    last = {record.job_id: record for record in sorted(records, key=lambda record: record.restart)}
    by_job: dict[int, list[Group]] = {}
    for one in groups:
        by_job.setdefault(int(str(one.energy.key[0])), []).append(one)
    made = []
    for job_id, its in by_job.items():
        record = last.get(job_id)
        figures = added_groups(its)
        told = [next((str(g.energy.key[at]) for g in its if g.energy.key[at] is not None), None) for at in (1, 2)]
        made.append(
            JobLine(
                job=job_name(job_id, record),
                job_id=job_id,
                name=record.name if record else None,
                user=(record.user if record else None) or told[0],
                account=(record.account if record else None) or told[1],
                state=base_state(record.state) or None if record else None,
                share_percent=percent(figures.energy_uj, whole_uj),
                idle_cores_uj=sum(one.idle_cores_uj for one in its),
                figures=figures,
            )
        )
    made.sort(key=lambda one: (-(one.figures.energy_uj or 0), one.job_id))
    return made


def wasted(users: Sequence[Line], many: int) -> list[Line]:
    """The lines with most energy in idle cores."""
    some = [one for one in users if one.idle_cores_uj]
    return sorted(some, key=lambda one: (-one.idle_cores_uj, one.name or ""))[:many]


def days(hours: Iterable[Group], intensity: Mapping[datetime, float], zone: tzinfo) -> list[Day]:
    """Day by day, from groups by ("holder", "hour", "place").

    Args:
        intensity: UTC hour -> g CO2e per kWh of the grid.
    """
    used: dict[date, list[Group]] = {}
    for one in hours:
        used.setdefault(_hour(one).astimezone(zone).date(), []).append(one)
    grid: dict[date, list[float]] = {}
    for hour, g_per_kwh in intensity.items():
        grid.setdefault(hour.astimezone(zone).date(), []).append(g_per_kwh)
    made = []
    for day in sorted(used.keys() | grid.keys()):
        its, values = used.get(day, []), grid.get(day, [])
        grams = [one.energy.grams for one in its if one.energy.energy_uj]
        known = [gram for gram in grams if gram is not None]
        energy = {
            f"{holder}_uj": sum(one.energy.energy_uj for one in its if one.energy.key[0] == holder)
            for holder in HOLDERS
        }
        made.append(
            Day(
                day=day,
                **energy,
                co2e_g=fsum(known) if known and len(known) == len(grams) else None,
                intensity_g_per_kwh=fsum(values) / len(values) if values else None,
                intensity_low_g_per_kwh=min(values, default=None),
                intensity_high_g_per_kwh=max(values, default=None),
            )
        )
    return made


def hours_of_day(hours: Iterable[Group], intensity: Mapping[datetime, float], zone: tzinfo) -> list[HourOfDay]:
    """The day's course: mean power of jobs and mean intensity at each hour of the reader's day."""
    energy: dict[int, int] = {}
    seen: dict[int, set[datetime]] = {}
    for one in hours:
        hour = _hour(one)
        at = hour.astimezone(zone).hour
        seen.setdefault(at, set()).add(hour)
        energy[at] = energy.get(at, 0) + (one.energy.energy_uj if one.energy.key[0] == "job" else 0)
    grid: dict[int, list[float]] = {}
    for hour, g_per_kwh in intensity.items():
        grid.setdefault(hour.astimezone(zone).hour, []).append(g_per_kwh)
    return [
        HourOfDay(
            hour=at,
            power_w=energy[at] / 1e6 / 3600 / len(seen[at]) if at in seen else None,
            intensity_g_per_kwh=fsum(grid[at]) / len(grid[at]) if at in grid else None,
        )
        for at in range(24)
    ]


def _hour(group: Group) -> datetime:
    at = group.energy.key[1]
    assert isinstance(at, datetime)
    return at


def compared(label: Literal["month before", "year before"], month: str, before: Figures, now: Figures) -> Compared:
    """An earlier month beside this one."""
    return Compared(
        label=label,
        month=month,
        energy_uj=before.energy_uj,
        co2e_g=before.co2e_g,
        energy_change_percent=_change(before.energy_uj, now.energy_uj),
        co2e_change_percent=_change(before.co2e_g, now.co2e_g),
    )


def _change(before: float | None, now: float | None) -> float | None:
    return None if not before or now is None else 100 * (now / before - 1)


def quality(
    total: Figures,
    carbon: Sequence[CarbonOf],
    *,
    unseen_jobs: int,
    hours: int,
    hours_with_data: int,
    range_g: tuple[float | None, float | None],
    faults: Sequence[SetAside],
) -> Quality:
    """How well the month is known, and what must be said before its figures."""
    whole = sum(share.energy_uj for one in carbon for share in one.method.rungs)
    rungs: dict[tuple[str, str], int] = {}
    for one in carbon:
        for share in one.method.rungs:
            rungs[share.rung, share.source] = rungs.get((share.rung, share.source), 0) + share.energy_uj
    hourly = sum(energy for (rung, _), energy in rungs.items() if rung in _HOURLY)
    known = [one.method.pue for one in carbon]
    notes = dict.fromkeys(note for one in carbon for note in one.method.notes)
    if hours_with_data < hours:
        missing = hours - hours_with_data
        notes[f"{missing} of {hours} hours have no data at all: what was used then is in no figure"] = None
    if total.unseen_node_hours >= 0.05:
        jobs = f", {unseen_jobs:,} job{'s' if unseen_jobs > 1 else ''} as a whole" if unseen_jobs else ""
        text = f"{total.unseen_node_hours:,.1f} node-hours of jobs were seen by no daemon{jobs}"
        notes[f"{text}: their energy is in no figure; `hpccarbon audit` names them"] = None
    return Quality(
        hours=hours,
        hours_with_data=hours_with_data,
        nodes=total.nodes,
        covered_percent=total.covered_percent,
        measured_percent=total.measured_percent,
        hourly_percent=percent(hourly, whole),
        intensity=[
            f"{RUNG_WORDS[rung]}, {source}: {100 * energy / whole:.3g} %"
            for (rung, source), energy in sorted(rungs.items(), key=lambda pair: -pair[1])
            if whole
        ],
        pue=known[0] if len(set(known)) == 1 else None,
        unseen_jobs=unseen_jobs,
        unseen_node_hours=total.unseen_node_hours,
        files_set_aside=len(faults),
        low_g=range_g[0],
        high_g=range_g[1],
        notes=list(notes),
    )
