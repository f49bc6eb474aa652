"""What a person asks about jobs: one with its runs and nodes, an array, or several and their sum. Reads no file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from math import fsum
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import msgspec

from hpccarbon.carbon.advice import Advice, Shift
from hpccarbon.carbon.statement import Statement
from hpccarbon.errors import HpcCarbonError
from hpccarbon.report.figures import JSON_VERSION, CarbonOf, Figures, Means, SetAside, added, percent
from hpccarbon.schema import GPUS_IN_TRES
from hpccarbon.site.unseen import TOLERANCE_MS
from hpccarbon.units import HOUR_S

if TYPE_CHECKING:
    from hpccarbon.site.ledger import EnergyRow, JobRecord
    from hpccarbon.site.steps import StepRow

BY = ("job_id", "run", "node", "user", "account", "partition", "hour")
"""What the energy rows of a job report are grouped by: enough for every line of the page, and for its grams."""
MIN_ADVICE_S = 60
"""Shorter jobs get no advice: starting up is not how they would use their cores."""
MIN_WAITED = 0.01
"""Of the grams: what a wait changed by less is not worth a line."""
MAX_WAIT_H = 336
"""Who waited for longer than two weeks waited for something else."""
MIN_SAVED_PERCENT = 10.0
"""A later start that saves less is within the error of the hours."""
MAX_HET = 128
"""Components of a heterogeneous job have consecutive job ids, and Slurm allows this many."""
_SPEC = re.compile(
    r"(?P<job>\d{1,18})(?:_(?:(?P<task>\d{1,9})|\[(?P<range>[\d,-]{1,200})\])|\+(?P<het>\d{1,3}))?", re.ASCII
)
_LIVE = frozenset(("RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "STAGE_OUT", "SIGNALING", "STOPPED"))
_WAITING = frozenset(("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESIZING"))
Key = TypeVar("Key", bound=Hashable)
Row = TypeVar("Row")


class Wanted(msgspec.Struct, frozen=True):
    """What a user typed: `123`, `123_4`, `123+1`. `text` is how it is named in messages."""

    text: str
    job_id: int
    task: int | None = None
    het: int | None = None


def parse_wanted(texts: Iterable[str]) -> list[Wanted]:
    """The jobs that were asked for, each once. Words may hold several with commas between, tasks as `123_[1-3,7]`.

    Raises: HpcCarbonError naming the word that is none, and what is allowed.
    """
    wanted: dict[Wanted, None] = {}
    for word in (part.strip() for text in texts for part in re.split(r",(?![^\[]*\])", text)):
        # A step (`123.0`, `123.batch`) is shown with its whole job.
        found = _SPEC.fullmatch(word.partition(".")[0])
        if not found:
            raise HpcCarbonError(f"{word!r} is no job id: write 123, an array's task 123_4, or a component 123+1")
        job_id = int(found["job"])
        if found["range"]:
            wanted.update((Wanted(f"{job_id}_{task}", job_id, task), None) for task in _tasks(found["range"], word))
        else:
            task, het = (None if found[name] is None else int(found[name]) for name in ("task", "het"))
            wanted[Wanted(found[0], job_id, task, het)] = None
    return list(wanted)


def _tasks(text: str, word: str) -> list[int]:
    tasks: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise HpcCarbonError(f"{word!r} is no list of tasks: write 123_[1-3,7]")
        low, high = int(first), int(last or first)
        if high - low > 100_000:
            raise HpcCarbonError(f"{word!r} names too many tasks; write 123 for the whole array")
        tasks += range(low, high + 1)
    return tasks


class RunPart(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a job: a requeued job has several."""

    restart: Annotated[int | None, Means(description="0 for the first run, counted up by each requeue")]
    state: str | None
    start: datetime | None
    end: datetime | None
    elapsed_s: int | None
    figures: Figures


class NodePart(msgspec.Struct, frozen=True):
    """What a job used on one node."""

    node: str
    figures: Figures


class StepPart(msgspec.Struct, frozen=True, kw_only=True):
    """What one step of a job used, on all nodes and in all runs."""

    step: Annotated[
        str | None,
        Means(
            description="0, 1, ..., batch, extern; empty: a step too short to be known by name; null: energy of the job"
            " that was not kept by step"
        ),
    ]
    energy_uj: int
    cpu_uj: int | None
    dram_uj: int | None
    gpu_uj: int | None
    other_uj: int | None
    cpu_time_us: int
    co2e_g: float | None
    nodes: int


class JobPart(msgspec.Struct, frozen=True, kw_only=True):
    """One job with all its runs. Strings that a user chose are given as they are: hostile until escaped."""

    job: Annotated[str, Means(description="the job as Slurm shows it: 123, 123_4, 123+1")]
    job_id: Annotated[int, Means(description="raw Slurm job id")]
    array_job_id: int | None
    array_task_id: int | None
    het_job_id: int | None
    het_offset: int | None
    name: str | None
    user: str | None
    account: str | None
    partition: str | None
    qos: str | None
    state: Annotated[str | None, Means(description="Slurm state of the last run; null where Slurm was not asked")]
    exit_code: str | None
    running: Annotated[bool, Means(description="true: the figures are those so far")]
    submit: datetime | None
    start: Annotated[datetime | None, Means(description="start of the first run")]
    end: datetime | None
    elapsed_s: Annotated[int | None, Means(description="run time of all runs together")]
    alloc_nodes: int | None
    alloc_cores: Annotated[int | None, Means(description="Slurm CPUs held on all nodes")]
    alloc_gpus: Annotated[int | None, Means(description="GPUs held on all nodes")]
    figures: Figures
    runs: list[RunPart]
    nodes: list[NodePart]
    steps: Annotated[
        list[StepPart] | None, Means(description="most energy first, together the job's energy; null: not asked for")
    ] = None


class PowerPoint(msgspec.Struct, frozen=True):
    """Mean power over one step of time."""

    at: datetime
    power_w: float


class Hint(msgspec.Struct, frozen=True, kw_only=True):
    """Something worth knowing, with its numbers."""

    kind: Literal["idle_cores", "idle_gpus", "greener_hour", "waited", "earlier_runs", "not_covered", "modelled"]
    energy_uj: int | None
    percent: float | None
    cores: float | None = None
    gpus: int | None = None
    shift_h: Annotated[
        int | None, Means(description="hours later that the job could have begun; of `waited`, that it did begin")
    ] = None
    saved_g: Annotated[
        float | None,
        Means(description="grams CO2e that the later start would have saved, or did; negative: it cost more"),
    ] = None
    nodes: list[str] = []
    sensors: Annotated[
        list[str], Means(description="sensors that are there, could not be read, and were modelled")
    ] = []


class Missing(msgspec.Struct, frozen=True):
    """A job that was asked for and has no energy, with the reason and the next step."""

    job: str
    reason: str


class JobReport(msgspec.Struct, frozen=True, kw_only=True):
    """`hpccarbon report --job ... --format json`."""

    schema_version: int = JSON_VERSION
    kind: Literal["jobs"] = "jobs"
    cluster: str
    timezone: Annotated[str, Means(description="zone of the reader; times in this document are UTC")]
    group: Annotated[
        Literal["job", "array", "het", "several"], Means(description="what the jobs have to do with each other")
    ]
    jobs: list[JobPart]
    total: Annotated[Figures, Means(description="all jobs together")]
    carbon: Annotated[list[CarbonOf], Means(description="one entry per place, most energy first")]
    statement: Annotated[Statement | None, Means(description="all carbon says of the total; null without a zone")] = (
        None
    )
    advice: Annotated[Advice | None, Means(description="other times and zones, where they were asked for")] = None
    power_step_s: Annotated[int | None, Means(description="length of a step of `power`")]
    power: Annotated[list[PowerPoint], Means(description="power of a single job over time")]
    hints: list[Hint]
    missing: list[Missing]
    set_aside: Annotated[list[SetAside], Means(description="files that could not be trusted and are in no figure")]


def belongs(record: JobRecord, wanted: Wanted) -> bool:
    """Whether a job record is part of what was asked for."""
    if wanted.task is not None:
        return record.array_job_id == wanted.job_id and record.array_task_id == wanted.task
    if wanted.het is not None:
        return record.het_job_id == wanted.job_id and record.het_offset == wanted.het
    return wanted.job_id in (record.job_id, record.array_job_id, record.het_job_id)


def base_state(state: str | None) -> str:
    """The first word of a state: sacct prints `CANCELLED by 1000`."""
    return (state or "").split(" ", 1)[0].upper()


def is_running(record: JobRecord) -> bool:
    """Whether the job still used energy when the record was made."""
    return record.end is None and base_state(record.state) in _LIVE


def restart_of(run: object) -> int | None:
    """The restart count a run's name begins with, the same on every node; None where it does not say."""
    first = str(run or "").partition(".")[0]
    return int(first) if first.isdecimal() else None


def job_part(job_id: int, rows: Sequence[EnergyRow], records: Sequence[JobRecord]) -> JobPart:
    """One job from its energy rows (grouped by `BY`) and the records of its runs, either possibly empty."""
    records = sorted(records, key=lambda record: record.restart)
    last = records[-1] if records else None
    running = last is not None and is_running(last)
    runs = _runs(rows, records, running)
    nodes = _grouped(rows, lambda row: str(row.key[2]))
    expected_ms = 0 if running else sum(map(_node_ms, records))
    figures = added(rows, nodes=len(nodes), expected_ms=expected_ms)
    gpus: dict[str, int] = {}
    for row in rows:
        gpus[str(row.key[2])] = max(gpus.get(str(row.key[2]), 0), row.alloc_gpus or 0)
    cores: dict[str, int] = {}
    for row in rows:
        cores[str(row.key[2])] = max(cores.get(str(row.key[2]), 0), row.alloc_cores or 0)
    start = next((record.start for record in records if record.start), figures.first)
    return JobPart(
        job=job_name(job_id, last),
        job_id=job_id,
        array_job_id=last.array_job_id if last else None,
        array_task_id=last.array_task_id if last else None,
        het_job_id=last.het_job_id if last else None,
        het_offset=last.het_offset if last else None,
        name=last.name if last else None,
        user=(last.user if last else None) or _fact(rows, 3),
        account=(last.account if last else None) or _fact(rows, 4),
        partition=(last.partition if last else None) or _fact(rows, 5),
        qos=last.qos if last else None,
        state=last.state if last else None,
        exit_code=last.exit_code if last else None,
        running=running,
        submit=records[0].submit if records else None,
        start=start,
        end=None if running else (last.end if last else None) or figures.last,
        elapsed_s=_elapsed_s(rows, records, figures, running),
        alloc_nodes=(last.alloc_nodes if last else None) or len(nodes) or None,
        alloc_cores=(last.alloc_cores if last else None) or sum(cores.values()) or None,
        alloc_gpus=(_gpus_of(last) if last else None) or sum(gpus.values()) or None,
        figures=figures,
        runs=runs,
        nodes=[NodePart(node, added(its_rows, nodes=1)) for node, its_rows in sorted(nodes.items())],
    )


def with_steps(job: JobPart, rows: Sequence[EnergyRow], steps: Sequence[StepRow]) -> JobPart:
    """The job with what its steps used.

    Args:
        rows: its energy rows (grouped by `BY`) with their grams; steps: those of this job.
    """
    grams: dict[tuple[Hashable, ...], float | None] = {}
    energies: dict[tuple[Hashable, ...], int] = {}
    for row in rows:
        key = (row.key[1], row.key[2], row.key[6])
        before = grams.get(key, 0.0)
        grams[key] = None if before is None or row.grams is None else before + row.grams
        energies[key] = energies.get(key, 0) + row.energy_uj
    parts: list[StepPart] = []
    for step, its_rows in _grouped(steps, lambda one: one.energy.step).items():
        parts.append(_step_part(step, its_rows, energies, grams))
    left = dict(energies)
    for one in steps:
        left[one.energy.run, one.node, one.hour] -= one.energy.energy_uj
    if rest := sum(left.values()):
        weighed = [None if (g := grams[key]) is None else g * uj / (energies[key] or 1) for key, uj in left.items()]
        known = [g for g in weighed if g is not None]
        parts.append(
            StepPart(
                step=None, energy_uj=rest, cpu_uj=None, dram_uj=None, gpu_uj=None, other_uj=None,
                cpu_time_us=max(0, sum(row.cpu_time_us or 0 for row in rows) - sum(p.cpu_time_us for p in parts)),
                co2e_g=fsum(known) if len(known) == len(weighed) else None,
                nodes=len({key[1] for key, uj in left.items() if uj}),
            )
        )  # fmt: skip
    parts.sort(key=lambda part: (part.step is None, -part.energy_uj, part.step or ""))
    return msgspec.structs.replace(job, steps=parts)


def _step_part(
    step: str,
    rows: Sequence[StepRow],
    energies: Mapping[tuple[Hashable, ...], int],
    grams: Mapping[tuple[Hashable, ...], float | None],
) -> StepPart:
    def whole(name: str) -> int | None:
        known = [value for row in rows if (value := getattr(row.energy, name)) is not None]
        return sum(known) if known else None

    co2e_g: float | None = 0.0
    for row in rows:
        key = (row.energy.run, row.node, row.hour)
        of_job = grams[key]
        part = None if of_job is None else of_job * row.energy.energy_uj / (energies[key] or 1)
        co2e_g = None if co2e_g is None or part is None else co2e_g + part
    return StepPart(
        step=step,
        energy_uj=sum(row.energy.energy_uj for row in rows),
        cpu_uj=whole("cpu_uj"),
        dram_uj=whole("dram_uj"),
        gpu_uj=whole("gpu_uj"),
        other_uj=whole("other_uj"),
        cpu_time_us=sum(row.energy.cpu_time_us for row in rows),
        co2e_g=co2e_g,
        nodes=len({row.node for row in rows}),
    )


def job_name(job_id: int, record: JobRecord | None) -> str:
    """A job as Slurm shows it: `123_4` for an array's task, `123+1` for a component, else its id."""
    if record is not None and record.array_job_id is not None and record.array_task_id is not None:
        return f"{record.array_job_id}_{record.array_task_id}"
    if record is not None and record.het_job_id is not None and record.het_offset is not None:
        return f"{record.het_job_id}+{record.het_offset}"
    return str(job_id)


def _gpus_of(record: JobRecord) -> int | None:
    """GPUs by AllocTRES, where they are there."""
    found = re.search(GPUS_IN_TRES, record.alloc_tres or "")
    return int(found["gpus"]) if found else None


def _elapsed_s(rows: Sequence[EnergyRow], records: Sequence[JobRecord], figures: Figures, running: bool) -> int | None:
    known = [record.elapsed_s for record in records if record.elapsed_s is not None]
    if known and not running:
        return sum(known)
    if figures.first is None or figures.last is None:
        return sum(known) if known else None
    # Present time is exact to the millisecond where the minutes are not; on one node they must agree.
    longest_ms = max(
        sum(row.present_ms for row in its_rows) for its_rows in _grouped(rows, lambda row: row.key[2]).values()
    )
    return round(longest_ms / 1000)


def _node_ms(record: JobRecord) -> int:
    """The node-time that a run had at least."""
    return max(0, (record.elapsed_s or 0) * 1000 - TOLERANCE_MS) * (record.alloc_nodes or 0)


def _fact(rows: Sequence[EnergyRow], place: int) -> str | None:
    """What the hooks told, from the rows that know."""
    return next((str(row.key[place]) for row in rows if row.key[place] is not None), None)


def _grouped(rows: Iterable[Row], key: Callable[[Row], Key]) -> dict[Key, list[Row]]:
    groups: dict[Key, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def _runs(rows: Sequence[EnergyRow], records: Sequence[JobRecord], running: bool) -> list[RunPart]:
    told = {restart_of(row.key[1]) for row in rows}
    by_restart = _grouped(rows, lambda row: _run_of(row, records, told))
    known = {record.restart: record for record in records}
    if len(known) == 1 and len(by_restart) == 1:
        # One run by all accounts: a node that did not know the restart count does not make it two.
        by_restart = {next(iter(known)): list(rows)}
    parts = []
    for restart in sorted(by_restart.keys() | known.keys(), key=lambda one: -1 if one is None else one):
        its_rows, record = by_restart.get(restart, []), None if restart is None else known.get(restart)
        live = running and record is records[-1]
        nodes = len({row.key[2] for row in its_rows})
        figures = added(its_rows, nodes=nodes, expected_ms=_node_ms(record) if record and not live else 0)
        parts.append(
            RunPart(
                restart=restart,
                state=record.state if record else None,
                start=(record.start if record else None) or figures.first,
                end=None if live else (record.end if record else None) or figures.last,
                elapsed_s=record.elapsed_s if record else None,
                figures=figures,
            )
        )
    # A run that Slurm knows and that used nothing here (it never reached a node) is no line of the bill.
    return [part for part in parts if part.figures.first is not None or (part.elapsed_s or 0) > 0]


def _run_of(row: EnergyRow, records: Sequence[JobRecord], told: Collection[int | None]) -> int | None:
    """Which run a row belongs to: that of the restart count it bears, unless Slurm says that only another was there.

    A job id that was given out twice (slurmctld crashed, or its ids began anew) has two runs of the same count: a run
    whose own count no row bears (`told`) has the rows of its time.
    """
    count = restart_of(row.key[1])
    there = {
        record.restart
        for record in records
        if record.start is not None
        and row.first is not None
        and row.last is not None
        and record.start <= row.last + timedelta(minutes=1)
        and (record.end is None or row.first <= record.end)
    }
    others = there.difference(told)
    return others.pop() if count not in there and len(others) == 1 else count


def group_of(wanted: Sequence[Wanted], jobs: Sequence[JobPart]) -> Literal["job", "array", "het", "several"]:
    """What the jobs have to do with each other."""
    if len(wanted) > 1:
        return "several"
    if any(job.array_job_id == wanted[0].job_id for job in jobs) and wanted[0].task is None:
        return "array"
    if len(jobs) > 1 and any(job.het_job_id == wanted[0].job_id for job in jobs):
        return "het"
    return "job" if len(jobs) == 1 else "several"


def total_of(jobs: Sequence[JobPart], rows: Sequence[EnergyRow], records: Mapping[int, Sequence[JobRecord]]) -> Figures:
    """All jobs together; coverage is of the time Slurm gave them, as for each."""
    expected_ms = 0
    for job in jobs:
        present_ms = round(job.figures.node_hours * 3_600_000)
        told_ms = 0 if job.running else sum(map(_node_ms, records.get(job.job_id, ())))
        expected_ms += max(present_ms, told_ms)
    return added(rows, nodes=len({row.key[2] for row in rows}), expected_ms=expected_ms)


def power_points(rows: Sequence[EnergyRow], step_s: int) -> list[PowerPoint]:
    """Mean power per step, from rows grouped by time alone: energy by the time the job was there.

    A job that was there for a part of a step (its first and last minute) drew its energy in that part.
    """
    points = []
    for row in rows:
        at = row.key[0]
        present_s = row.present_ms / 1000 / max(row.nodes, 1)
        if isinstance(at, datetime) and present_s > 0:
            points.append(PowerPoint(at, row.energy_uj / 1e6 / min(present_s, step_s)))
    return points


def power_by_hour(rows: Sequence[EnergyRow]) -> list[PowerPoint]:
    """The same by the hour, from rows grouped by `BY`."""
    points = []
    for at, its_rows in sorted(_grouped(rows, lambda row: row.key[6]).items(), key=lambda pair: str(pair[0])):
        present_s = sum(row.present_ms for row in its_rows) / 1000 / len({row.key[2] for row in its_rows})
        if isinstance(at, datetime) and present_s > 0:
            points.append(PowerPoint(at, sum(row.energy_uj for row in its_rows) / 1e6 / min(present_s, 3600)))
    return points


def hints_of(
    job: JobPart,
    silent: Sequence[str] = (),
    unreadable: Sequence[str] = (),
    later: Shift | None = None,
    at_submit: Shift | None = None,
) -> list[Hint]:
    """At most three: first what the figures lack, then the advice with the most behind it, last a better hour.

    Args:
        silent: nodes of the job that reported nothing.
        unreadable: meters that are there on its nodes and could not be read, so that a model stood in.
        later: the cleanest start within the day after the job's own, where hourly values are known.
        at_submit: the job begun in the hour of its submission, where it waited and hourly values are known.
    """
    figures = job.figures
    hints: list[Hint] = []
    covered = figures.covered_percent
    if covered is not None and covered < 99:
        hints.append(Hint(kind="not_covered", energy_uj=None, percent=100 - covered, nodes=list(silent)))
    if figures.energy_uj and figures.modelled_uj * 2 > figures.energy_uj:
        modelled = percent(figures.modelled_uj, figures.energy_uj)
        sensors = list(unreadable)
        hints.append(Hint(kind="modelled", energy_uj=figures.modelled_uj, percent=modelled, sensors=sensors))
    advice = [hint for hint in (_idle_cores(job), _idle_gpus(job), _earlier_runs(job)) if hint is not None]
    advice.sort(key=lambda hint: -(hint.energy_uj or 0))
    return (hints[:1] + advice + hints[1:])[:2] + _waited(job, at_submit) + _greener_hour(job, later)


def waited_hours(job: JobPart) -> int:
    """How many hours after its submission the job began, chosen so or not; 0 where nobody knows."""
    if job.submit is None or job.start is None:
        return 0
    return min(max(0, round((job.start - job.submit).total_seconds() / HOUR_S)), MAX_WAIT_H)


def _waited(job: JobPart, at_submit: Shift | None) -> list[Hint]:
    """What the wait between submission and start saved, or cost."""
    grams = job.figures.co2e_g
    if at_submit is None or grams is None or not at_submit.co2e_g:
        return []
    # The job's own grams count every place it ran in; the share saved is that of the place the hours are from.
    share = 1 - 1 / (1 - at_submit.saved_percent / 100)
    if abs(share) < MIN_WAITED:
        return []
    return [
        Hint(
            kind="waited",
            energy_uj=None,
            percent=100 * share,
            shift_h=-at_submit.shift_h,
            saved_g=grams * share / (1 - share),
        )
    ]


def _greener_hour(job: JobPart, later: Shift | None) -> list[Hint]:
    """A later start, where it would have saved enough to be worth the wait."""
    if later is None or not later.shift_h or later.saved_percent < MIN_SAVED_PERCENT or job.figures.co2e_g is None:
        return []
    saved_g = job.figures.co2e_g * later.saved_percent / 100
    return [
        Hint(kind="greener_hour", energy_uj=None, percent=later.saved_percent, shift_h=later.shift_h, saved_g=saved_g)
    ]


def _idle_gpus(job: JobPart) -> Hint | None:
    """GPUs that were held and did next to nothing: all of the job's active energy is small beside what they drew."""
    figures = job.figures
    if not figures.gpu_uj or not job.alloc_gpus or (job.elapsed_s or 0) < MIN_ADVICE_S:
        return None
    active_uj = figures.active_uj or 0
    share = percent(figures.gpu_uj, figures.energy_uj)
    if active_uj * 10 > figures.gpu_uj or share is None or share < 5:
        return None
    return Hint(kind="idle_gpus", energy_uj=figures.gpu_uj, percent=share, gpus=job.alloc_gpus)


def _idle_cores(job: JobPart) -> Hint | None:
    """The static energy of cores held and unused. GPU jobs are left out: their static part is the GPUs' too."""
    figures = job.figures
    used = figures.cpu_used_percent
    if used is None or used >= 75 or figures.gpu_uj or not figures.energy_uj or not job.alloc_cores:
        return None
    if (job.elapsed_s or 0) < MIN_ADVICE_S:
        return None
    wasted_uj = round(figures.static_uj * (1 - used / 100))
    share = percent(wasted_uj, figures.energy_uj)
    cores = job.alloc_cores * (1 - used / 100)
    if share is None or share < 5 or cores < 1:
        return None
    return Hint(kind="idle_cores", energy_uj=wasted_uj, percent=share, cores=cores)


def _earlier_runs(job: JobPart) -> Hint | None:
    earlier = [run.figures.energy_uj or 0 for run in job.runs[:-1]]
    share = percent(sum(earlier), job.figures.energy_uj)
    if not sum(earlier) or share is None or share < 1:
        return None
    return Hint(kind="earlier_runs", energy_uj=sum(earlier), percent=share)


def states(jobs: Iterable[JobPart]) -> list[tuple[str, int]]:
    """How many jobs are in which state, most first."""
    return Counter(base_state(job.state) or "state not known" for job in jobs).most_common()


class Rhythm(msgspec.Struct, frozen=True):
    """How soon energy becomes visible: what the site's configuration says."""

    cluster: str
    seal_s: int
    seal_after_job_s: int


def why_missing(
    wanted: Wanted, records: Sequence[JobRecord], asked_slurm: str | None, rhythm: Rhythm, now: datetime
) -> Missing:
    """Why a job that was asked for has no energy rows, and what to do.

    Args:
        records: what is known of it: its runs, or the tasks of its array.
        asked_slurm: None if Slurm's accounting was asked and answered, else why it was not.
        now: aware.
    """
    return Missing(wanted.text, _reason(records, asked_slurm, rhythm, now))


def _reason(records: Sequence[JobRecord], asked_slurm: str | None, rhythm: Rhythm, now: datetime) -> str:
    if not records:
        if asked_slurm is not None:
            return f"it has no energy rows, and whether Slurm knows it could not be asked: {asked_slurm}"
        return (
            f"neither the ledger nor Slurm's accounting of cluster {rhythm.cluster} knows such a job"
            " (check the id; one that was submitted just now may take a moment)"
        )
    last = max(records, key=lambda record: (record.start is not None, record.restart))
    state = base_state(last.state) or "in an unknown state"
    if last.start is None or (last.end is not None and not last.elapsed_s and last.end <= last.start):
        if state in _WAITING:
            return f"it has not started yet ({state})"
        return f"it never ran ({state}): it used no energy"
    if last.end is None:
        due = _seconds_left(last.start + timedelta(seconds=rhythm.seal_s), now)
        if due:
            return f"it is {state} and its nodes have not sealed yet: try again within {due} s"
    else:
        due = _seconds_left(last.end + timedelta(seconds=rhythm.seal_after_job_s + 60), now)
        if due:
            return f"it ended just now and its nodes have not sealed yet: try again within {due} s"
    where = f"of {last.nodelist}" if last.nodelist else "of its nodes"
    return (
        f"Slurm knows it ({state}), but no shard {where} covers it: "
        "was the daemon running there? (`hpccarbon doctor` on the node tells)"
    )


def _seconds_left(due: datetime, now: datetime) -> int:
    return max(0, round((due - now).total_seconds()))
