"""`hpccarbon report`: asks the ledger and accounting, applies carbon, and hands rows to a renderer. Adds nothing up."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timezone, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import click

from hpccarbon.cli.common import config_option, demo_option, listed, my_name, parse_month, parse_time, reader_zone, warn
from hpccarbon.cli.output import emit, kind_of, screen_of

if TYPE_CHECKING:
    from hpccarbon.carbon.advice import Advice
    from hpccarbon.config import Config
    from hpccarbon.report.applied import Applied, Per
    from hpccarbon.report.figures import CarbonOf
    from hpccarbon.report.job import Hint, JobPart, JobReport, PowerPoint, Wanted
    from hpccarbon.report.render.text import Screen
    from hpccarbon.report.usage import UsageReport
    from hpccarbon.site.ledger import EnergyRow, Ledger
    from hpccarbon.slurm.record import JobRecord

Word = TypeVar("Word")
Parsed = TypeVar("Parsed")
Format = Literal["text", "json", "csv", "parquet"]
FORMATS: tuple[Format, ...] = ("text", "json", "csv", "parquet")
DEFAULT_SINCE = "30d"
MAX_MINUTE_HOURS = 6
MAX_MINUTE_SHARDS = 256
"""Power by the minute opens a shard per node and hour: a longer or wider job is drawn by the hour, from the ledger."""

EXAMPLES = """
\b
Examples:
  hpccarbon report --job 4711                one job: energy, carbon, hints
  hpccarbon report --job 4711 --steps        what each srun of it used
  hpccarbon report --job 4800_3,4800_7       two tasks of an array, their sum
  hpccarbon report --me --month last         my jobs of the last month
  hpccarbon report --by account --since 7d   who used how much
  hpccarbon report --by user,month --since 2026-01-01 -o usage.parquet
"""


@click.command("report", epilog=EXAMPLES)
@click.option("-j", "--job", "jobs", multiple=True, metavar="ID", help="Job 123, array task 123_4, component 123+1.")
@click.option("-u", "--user", "users", multiple=True, metavar="NAME", help="Only jobs of this user.")
@click.option("--me", is_flag=True, help="Only my own jobs.")
@click.option("-A", "--account", "accounts", multiple=True, metavar="NAME", help="Only jobs of this account.")
@click.option("-p", "--partition", "partitions", multiple=True, metavar="NAME", help="Only jobs in this partition.")
@click.option("-w", "--node", "nodes", multiple=True, metavar="NAME", help="Only energy of this node.")
@click.option(
    "-S", "--since", metavar="TIME", help=f"From this time on: a date, a time, 7d, today. [default: {DEFAULT_SINCE}]"
)
@click.option("-E", "--until", metavar="TIME", help="Up to this time, not included. [default: now]")
@click.option("-m", "--month", metavar="MONTH", help="One month: 2026-03, this or last.")
@click.option(
    "-b",
    "--by",
    metavar="WORDS",
    help="Lines of the table: user, account, partition, job, node, hour, day, month, holder; several with commas.",
)
@click.option("--steps", is_flag=True, help="With --job: what each step used, where the nodes keep that.")
@click.option("--explain", is_flag=True, help="With --job: the whole arithmetic from joules to grams, line by line.")
@click.option("--as-of", metavar="TIME", help="With the carbon data of this time: an older report again.")
@click.option("--per", metavar="'N UNIT'", help="What the job produced, for its SCI: '40 simulated years'.")
@click.option("--elsewhere", multiple=True, metavar="ZONE", help="The same energy in these zones, for comparison.")
@click.option("--other-times", is_flag=True, help="The same energy at other hours of that week, for comparison.")
@click.option(
    "--top", type=click.IntRange(0), default=40, metavar="N", help="Lines shown as text; 0: all. [default: 40]"
)
@click.option(
    "--budget",
    is_flag=True,
    help="The site's budgets and how much is used; exit status 3: one is nearly used up, 4: used up.",
)
@click.option("--cluster", metavar="NAME", help="Another cluster of the shared directory.")
@click.option("-f", "--format", "format_", type=click.Choice(FORMATS), help="Default: by -o FILE's ending, else text.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write to FILE.")
@demo_option
@config_option
@click.pass_context
def command(
    ctx: click.Context,
    jobs: tuple[str, ...],
    users: tuple[str, ...],
    me: bool,
    accounts: tuple[str, ...],
    partitions: tuple[str, ...],
    nodes: tuple[str, ...],
    since: str | None,
    until: str | None,
    month: str | None,
    by: str | None,
    steps: bool,
    explain: bool,
    as_of: str | None,
    per: str | None,
    elsewhere: tuple[str, ...],
    other_times: bool,
    top: int,
    budget: bool,
    cluster: str | None,
    format_: Format | None,
    output: Path | None,
    config_path: Path | None,
) -> None:
    """Energy and carbon of jobs, or of users, accounts, partitions, nodes, days and months.

    With --job: a page for one job, a line each for several, an array or a heterogeneous job. Without: a table of the
    last 30 days. Options that take a NAME or ID can be repeated or given several with commas between. Times are in the
    zone of report.timezone.
    """
    from hpccarbon import config as configuration
    from hpccarbon.site.access import ledger_of

    config = configuration.load(config_path)
    format_ = format_ or kind_of(output, FORMATS, "text")
    if format_ == "parquet" and output is None and sys.stdout.isatty():
        raise click.UsageError("Parquet is no text: name a file with -o FILE, or pipe it somewhere")
    zone, now = reader_zone(config), datetime.now(timezone.utc)
    ledger = ledger_of(config, cluster)
    if explain and not jobs:
        raise click.UsageError("--explain shows the arithmetic of jobs: name them with --job")
    if steps and not jobs:
        raise click.UsageError("--steps shows the steps of jobs: name them with --job")
    if steps and explain:
        raise click.UsageError("--explain shows the arithmetic of whole jobs; leave out --steps")
    asked = Asked(
        applied=_applied(config, None if as_of is None else parse_time(as_of, zone, now)),
        per=_per(per),
        zones=listed(elsewhere) or (),
        times=other_times,
        steps=steps,
    )
    if budget:
        narrowed = {"--job": jobs, "--user": users, "--me": me, "--account": accounts, "--partition": partitions}
        narrowed |= {"--node": nodes, "--by": by, "--since": since, "--until": until, "--month": month}
        if clash := [name for name, value in narrowed.items() if value]:
            raise click.UsageError(f"--budget shows what the configuration says; leave out {', '.join(clash)}")
        ctx.exit(_budgets(config, ledger, now, format_, output, zone))
    if jobs:
        given = {"--user": users, "--me": me, "--account": accounts, "--partition": partitions, "--node": nodes}
        given |= {"--by": by, "--since": since, "--until": until, "--month": month}
        if clash := [name for name, value in given.items() if value]:
            raise click.UsageError(f"--job shows a job whole; it does not go together with {', '.join(clash)}")
        from hpccarbon.report.job import parse_wanted

        wanted = _usable(parse_wanted, jobs)
        of_jobs = job_report(config, ledger, wanted, now, asked)
        if explain:
            ctx.exit(_explain(of_jobs, asked, format_, output, zone))
        report: JobReport | UsageReport = of_jobs
    else:
        from hpccarbon.report.usage import Filters, parse_by

        if month is not None and (since or until):
            raise click.UsageError("--month is a period of its own; leave out --since and --until")
        if month is not None:
            begin, end = parse_month(month, zone, now)
        else:
            begin = parse_time(since or DEFAULT_SINCE, zone, now)
            end = parse_time(until, zone, now) if until else now
        if begin >= end:
            raise click.UsageError(f"the period ends ({end:%Y-%m-%d %H:%M}) before it begins ({begin:%Y-%m-%d %H:%M})")
        who = listed([*users, *([my_name()] if me else [])])
        names = (who, listed(accounts), listed(partitions), listed(nodes))
        filters = Filters(
            **{
                key: list(value)
                for key, value in zip(("users", "accounts", "partitions", "nodes"), names, strict=True)
                if value is not None
            }
        )
        words = _usable(parse_by, by or ("job" if who else "user"))
        many = top if format_ == "text" else 0
        report = usage_report(
            config, ledger, words, filters, begin, None if until is None and month is None else end, many, asked
        )
    for fault in report.set_aside:
        warn(f"set aside, in no figure: {fault.path}: {fault.reason}")
    failed = _emit(report, format_, output, zone, top)
    ctx.exit(1 if failed else 0)


class Asked(NamedTuple):
    """What was asked of carbon beyond grams."""

    applied: Applied
    per: Per | None = None
    zones: tuple[str, ...] = ()
    times: bool = False
    steps: bool = False


def _applied(config: Config, as_of: datetime | None = None) -> Applied:
    from hpccarbon.report.applied import Applied

    return Applied(config, as_of)


def _per(text: str | None) -> Per | None:
    """`40 simulated years`, or `samples` for one of them."""
    if text is None:
        return None
    from hpccarbon.report.applied import Per

    number, _, unit = text.strip().partition(" ")
    try:
        units = float(number)
    except ValueError:
        units, unit = 1.0, text.strip()
    if not 0 < units < float("inf") or not unit.strip():
        raise click.BadParameter(f"{text!r}: write a number and what it counts, as in '40 simulated years'")
    return Per(units, unit.strip())


def _usable(parse: Callable[[Word], Parsed], given: Word) -> Parsed:
    """What was typed, parsed; what cannot be is wrong usage."""
    from hpccarbon.errors import HpcCarbonError

    try:
        return parse(given)
    except HpcCarbonError as err:
        raise click.UsageError(str(err)) from err


# ---- jobs -----------------------------------------------------------------------------------------------------------


def job_report(
    config: Config, ledger: Ledger, wanted: Sequence[Wanted], now: datetime, asked: Asked | None = None
) -> JobReport:
    """All that is known of these jobs. `now` (aware) tells what cannot have been sealed yet."""
    from hpccarbon.report import job as build
    from hpccarbon.report.applied import Per
    from hpccarbon.report.figures import set_aside
    from hpccarbon.site.ledger import Selection

    records, unasked = _records(config, ledger, wanted)
    plain = {one.job_id for one in wanted if one.task is None and one.het is None}
    job_ids = tuple(sorted(plain | {record.job_id for record in records}))
    selection = Selection(job_ids=job_ids, holders=("job",))
    asked = asked or Asked(_applied(config))
    rows, carbon = asked.applied.of_jobs(ledger.energy(selection, build.BY))
    by_job: dict[int, list[EnergyRow]] = {}
    for row in rows:
        by_job.setdefault(int(str(row.key[0])), []).append(row)
    of_job: dict[int, list[JobRecord]] = {}
    for record in records:
        of_job.setdefault(record.job_id, []).append(record)

    rhythm = build.Rhythm(ledger.cluster or "", config.daemon.seal_s, config.daemon.seal_after_job_s)
    chosen: dict[int, None] = {}
    missing = []
    for one in wanted:
        mine = [record for record in records if build.belongs(record, one)]
        ids = sorted({record.job_id for record in mine} | ({one.job_id} & plain if one.task is None else set()))
        if any(job_id in by_job for job_id in ids):
            # A task that ran and was not metered is part of its array, with a hole where its energy should be.
            ran = {record.job_id for record in mine if record.elapsed_s}
            chosen.update(dict.fromkeys(job_id for job_id in ids if job_id in by_job or job_id in ran))
        else:
            missing.append(build.why_missing(one, mine, unasked, rhythm, now))
    parts = [build.job_part(job_id, by_job.get(job_id, []), of_job.get(job_id, [])) for job_id in chosen]
    parts.sort(
        key=lambda part: (part.array_job_id or part.het_job_id or part.job_id, part.array_task_id or 0, part.job_id)
    )
    if asked.steps:
        of_steps = ledger.steps(chosen)
        parts = [
            build.with_steps(
                part, by_job.get(part.job_id, []), [one for one in of_steps if one.energy.job_id == part.job_id]
            )
            for part in parts
        ]
    used = [row for job_id in chosen for row in by_job.get(job_id, [])]
    total = build.total_of(parts, used, of_job)
    single = parts[0] if len(parts) == 1 else None
    power, step_s = _power(ledger, single, used) if single else ([], None)
    asked.applied.narrow(used)
    return build.JobReport(
        cluster=ledger.cluster or "",
        timezone=config.report.timezone,
        group=build.group_of(wanted, parts) if parts else "several",
        jobs=parts,
        total=total,
        carbon=carbon,
        statement=asked.applied.statement(total, asked.per or Per(max(1, len(parts)), "job")),
        advice=_advice(asked),
        power_step_s=step_s,
        power=power,
        hints=_hints(ledger, single, of_job, asked, carbon) if single else [],
        missing=missing,
        set_aside=set_aside(ledger.faults),
    )


def _records(config: Config, ledger: Ledger, wanted: Sequence[Wanted]) -> tuple[list[JobRecord], str | None]:
    """The records of the jobs: the stored ones, and from Slurm those that are not stored or were not final.

    Returns: the records; and why Slurm was not asked, where it was not or could not be.
    """
    from hpccarbon.report.job import MAX_HET, belongs, is_running

    plain = [one.job_id for one in wanted if one.task is None and one.het is None]
    components = [job_id for one in wanted if one.het is not None for job_id in range(one.job_id, one.job_id + MAX_HET)]
    tasks = [(one.job_id, one.task) for one in wanted if one.task is not None]
    stored = ledger.jobs(job_ids=[*plain, *components], array_ids=plain, array_tasks=tasks)
    leaders = {record.het_job_id for record in stored if record.het_job_id in plain}
    if leaders:
        stored += ledger.jobs(
            job_ids=[job_id for first in leaders for job_id in range(first, first + MAX_HET) if first]
        )
    known = {(r.job_id, r.restart): r for r in stored if any(belongs(r, one) for one in wanted)}
    stale = [
        one
        for one in wanted
        if not (mine := [record for record in known.values() if belongs(record, one)])
        or any(is_running(record) or record.end is None for record in mine)
    ]
    unasked: str | None = None
    if stale:
        from hpccarbon.errors import SlurmError
        from hpccarbon.slurm import accounting

        try:
            if ledger.cluster != config.cluster:
                # Its job ids mean other jobs here.
                unasked = f"the accounting to be had here is that of cluster {config.cluster}"
            elif accounting.source(config) is None:
                unasked = f"accounting is not to be had here (slurm.accounting = {config.slurm.accounting!r})"
            else:
                fresh = accounting.fetch(config, [one.job_id for one in stale])
                known |= {(r.job_id, r.restart): r for r in fresh if any(belongs(r, one) for one in wanted)}
        except SlurmError as err:
            unasked = str(err)
            warn(f"names and states may be missing or old: {err}")
    return [known[key] for key in sorted(known)], unasked


def _hints(
    ledger: Ledger, job: JobPart, of_job: dict[int, list[JobRecord]], asked: Asked, carbon: Sequence[CarbonOf]
) -> list[Hint]:
    """What would make the next one cheaper; other hours are looked at where the job's own are known by the hour."""
    from hpccarbon.report.job import hints_of, waited_hours

    rungs = {rung.rung for one in carbon for rung in one.method.rungs}
    later = at_submit = None
    if rungs and not rungs & {"year", "country", "world", "fixed"}:
        from hpccarbon.carbon.advice import other_times
        from hpccarbon.report.applied import energy_by_hour

        applied = asked.applied
        waited_h = waited_hours(job)
        shifts = other_times(
            applied.config.carbon,
            energy_by_hour(applied.used),
            applied.config.shared("intensity"),
            shifts=sorted({-waited_h, *range(25)}),
            as_of=applied.as_of,
        ).times
        later = next((shift for shift in shifts if shift.shift_h >= 0), None)
        at_submit = next((shift for shift in shifts if shift.shift_h == -waited_h), None) if waited_h else None
    return hints_of(job, _silent(job, of_job), _unreadable(ledger, job), later, at_submit)


def _advice(asked: Asked) -> Advice | None:
    """Other times and zones, where they were asked for."""
    if not asked.times and not asked.zones:
        return None
    from hpccarbon.carbon.advice import Advice, other_times, other_zones
    from hpccarbon.report.applied import energy_by_hour

    applied = asked.applied
    carbon, series_dir = applied.config.carbon, applied.config.shared("intensity")
    used = energy_by_hour(applied.used)
    empty = Advice(co2e_g=None, times=[], zones=[], notes=[])
    when = other_times(carbon, used, series_dir, as_of=applied.as_of) if asked.times else empty
    where = other_zones(carbon, used, asked.zones, series_dir, applied.as_of) if asked.zones else empty
    return Advice(
        co2e_g=when.co2e_g if asked.times else where.co2e_g,
        times=when.times,
        zones=where.zones,
        notes=list(dict.fromkeys([*when.notes, *where.notes])),
    )


def _explain(report: JobReport, asked: Asked, format_: Format, output: Path | None, zone: tzinfo) -> int:
    """Print the arithmetic; returns the exit status."""
    from hpccarbon.carbon.explain import explain
    from hpccarbon.report.render.explained import content

    if not report.jobs:
        return _emit(report, format_, output, zone, 0)
    applied = asked.applied
    told = explain(applied.places, applied.used, applied.held.items())
    emit(content(told, report, format_, screen_of(zone, output)), output)
    return int(bool(report.missing))


def _silent(job: JobPart, of_job: dict[int, list[JobRecord]]) -> list[str]:
    """The nodes that Slurm gave the job and that reported nothing; not asked where all of the job is covered."""
    if (job.figures.covered_percent or 0) >= 99:
        return []
    from hpccarbon.hostlist import expand

    given: dict[str, None] = {}
    for record in of_job.get(job.job_id, []):
        if record.nodelist and record.elapsed_s:
            try:
                given.update(dict.fromkeys(expand(record.nodelist)))
            except ValueError:
                return []  # only a note would name them
    there = {part.node for part in job.nodes}
    return [node for node in given if node not in there]


def _unreadable(ledger: Ledger, job: JobPart) -> list[str]:
    """Meters on the job's nodes for which a model stood in; not asked where next to nothing was modelled."""
    figures = job.figures
    if figures.modelled_uj * 2 <= (figures.energy_uj or 0) or figures.first is None or figures.last is None:
        return []
    from hpccarbon.records import UNREADABLE
    from hpccarbon.site.ledger import Selection

    nodes = tuple(part.node for part in job.nodes)
    hours = Selection(holders=("meter",), nodes=nodes, since=figures.first, until=figures.last)
    names = [str(row.key[0]) for row in ledger.energy(hours, ("meter",))]
    return sorted({name.partition(UNREADABLE)[2] for name in names if UNREADABLE in name})


def _power(ledger: Ledger, job: JobPart, rows: Sequence[EnergyRow]) -> tuple[list[PowerPoint], int | None]:
    """The job's power over time, by the minute where that opens few shards, else by the hour."""
    from hpccarbon.report.job import power_by_hour, power_points
    from hpccarbon.site.ledger import Selection

    figures = job.figures
    if figures.first is None or figures.last is None or (job.elapsed_s or 0) < 120:
        return [], None
    hours = len({row.key[6] for row in rows})
    if hours <= MAX_MINUTE_HOURS and len(job.nodes) * hours <= MAX_MINUTE_SHARDS:
        # The minutes between are known: nobody has to look for them again.
        selection = Selection(job_ids=(job.job_id,), holders=("job",), since=figures.first, until=figures.last)
        points = power_points(ledger.energy(selection, ("bucket",)), 60)
        if len(points) > 1:
            return points, 60
    points = power_by_hour(rows)
    return (points, 3600) if len(points) > 1 else ([], None)


# ---- usage ----------------------------------------------------------------------------------------------------------


def usage_report(
    config: Config,
    ledger: Ledger,
    by: list[str],
    filters: Any,
    since: datetime,
    until: datetime | None,
    top: int,
    asked: Asked | None = None,
) -> UsageReport:
    """A table of energy. Job names are looked up for the first `top` lines (0: all)."""
    import msgspec

    from hpccarbon.report import usage as build
    from hpccarbon.report.figures import set_aside
    from hpccarbon.site.ledger import Selection
    from hpccarbon.site.unseen import unseen_and_counts

    holders = ("job",) if filters.by_job else ("job", "system", "unallocated")
    selection = Selection(
        **{name: tuple(names) for name in filters.__struct_fields__ if (names := getattr(filters, name)) is not None},
        holders=holders,
        since=since,
        until=until,
    )
    words = [build.WORDS[word] for word in by if word != "holder"]
    asked = asked or Asked(_applied(config))
    applied = asked.applied
    rows, carbon = applied.of_selection(ledger, selection, ("holder", *words))
    lacks, whole, counts = unseen_and_counts(ledger, selection, ("holder", *words))
    lines, total = build.usage_rows(by, rows, counts, (lacks, whole))
    applied.hold(ledger, selection)
    if "job" in by:
        place = by.index("job")
        shown = [line.key[place] for line in lines if line.key][: top + 1 if top else None]
        records = ledger.jobs(job_ids=[int(job_id) for job_id in shown if job_id])
        lines = build.named(by, lines, records)
    said = applied.statement(total.figures, asked.per)
    if said is not None and filters == build.Filters():
        now = datetime.now(timezone.utc)
        said = msgspec.structs.replace(said, embodied_unused_g=applied.unused_g(ledger, since, min(until or now, now)))
    return build.UsageReport(
        cluster=ledger.cluster or "",
        timezone=config.report.timezone,
        by=by,
        since=since,
        until=until,
        filters=filters,
        rows=lines,
        total=total,
        carbon=carbon,
        statement=said,
        advice=_advice(asked),
        set_aside=set_aside(ledger.faults),
    )


# ---- budgets --------------------------------------------------------------------------------------------------------


def _budgets(config: Config, ledger: Ledger, now: datetime, format_: Format, output: Path | None, zone: tzinfo) -> int:
    """Show the budgets in their periods around now; returns the exit status, which tells cron of the worst."""
    from hpccarbon.errors import ConfigError
    from hpccarbon.report.budget import BudgetReport, exit_status
    from hpccarbon.report.month import Period, budgets
    from hpccarbon.report.render.budgets import content

    if not config.budgets:
        raise ConfigError("no budget is configured: add a table [budgets.NAME] (docs/reports.md)")
    lines = budgets(Period(config, ledger, now, now), now, now)
    report = BudgetReport(cluster=ledger.cluster or "", timezone=config.report.timezone, at=now, budgets=lines)
    emit(content(report, format_, screen_of(zone, output)), output)
    return exit_status(lines)


# ---- output ---------------------------------------------------------------------------------------------------------


def _emit(report: JobReport | UsageReport, format_: Format, output: Path | None, zone: Any, top: int) -> bool:
    """Write the report where it was asked for, and name what is missing; True if something is."""
    from hpccarbon.report.job import JobReport

    missing = report.missing if isinstance(report, JobReport) else []
    if format_ == "json" or not (isinstance(report, JobReport) and not report.jobs):
        emit(_content(report, format_, screen_of(zone, output), top), output)
    from hpccarbon.report.render.inert import inert

    sys.stdout.flush()
    for one in missing:
        click.echo(f"error: job {inert(one.job)}: {inert(one.reason)}", err=True)
    return bool(missing)


def _content(report: JobReport | UsageReport, format_: Format, screen: Screen, top: int) -> str | bytes:
    from hpccarbon.report.job import JobReport

    if format_ == "text":
        from hpccarbon.report.render import text

        return text.jobs_text(report, screen) if isinstance(report, JobReport) else text.usage_text(report, screen, top)
    from hpccarbon.report.render import files

    if format_ == "json":
        return files.json_text(report)
    return files.csv_text(report).encode() if format_ == "csv" else files.parquet_bytes(report)
