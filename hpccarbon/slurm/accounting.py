"""Asks Slurm's accounting for job records, through `sacct` or, as an extra, pyslurm. Stores nothing.

`sacct --parsable --format` is the one road that is the same from Slurm 22.05 to 26.05: the versions of `--json` that
these releases speak have no member in common, and pyslurm is built for one release each.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta, timezone

from hpccarbon.config import Config, Slurm
from hpccarbon.errors import SlurmError
from hpccarbon.slurm import command
from hpccarbon.slurm.record import JobRecord

__all__ = ["JobRecord", "fetch", "fetch_window", "parse_sacct", "parse_time_us", "source", "started"]

FIELDS = (
    "JobIDRaw",
    "JobID",
    "User",
    "UID",
    "Account",
    "Partition",
    "QOS",
    "State",
    "ExitCode",
    "Submit",
    "Start",
    "End",
    "ElapsedRaw",
    "AllocNodes",
    "AllocCPUS",
    "AllocTRES",
    "TotalCPU",
    "ConsumedEnergyRaw",
    "NodeList",
    "JobName",
)
"""What is asked of sacct: fields that every release from 22.05 to 26.05 has."""
MAX_IDS = 1_000
"""Job ids per command line."""
_CHUNK = timedelta(days=1)
_INT32, _INT64 = 2**31, 2**63
_ABSENT = frozenset(("", "Unknown", "None", "N/A", "None assigned", "(null)", "INVALID"))
_CPU_TIME = re.compile(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+)(?:\.(\d{1,6}))?", re.ASCII)
_DAYS_HOURS = re.compile(r"(\d+)-(\d+)(?::(\d+))?", re.ASCII)
_JOB_ID = re.compile(r"(\d+)(?:_(\d+)|\+(\d+))?", re.ASCII)

Source = Callable[..., list[JobRecord]]


def source(config: Config) -> Source | None:
    """Who answers: a function of (settings, job_ids=, window=), or None where accounting is switched off or absent.

    Raises: SlurmError, if the configuration insists on a source that is not there.
    """
    wanted, settings = config.slurm.accounting, config.slurm
    if wanted == "none":
        return None
    has_sacct = shutil.which("sacct", path=command.environment(settings)["PATH"]) is not None
    if wanted == "sacct" or (wanted == "auto" and has_sacct):
        return ask_sacct
    from hpccarbon.slurm import bindings

    if wanted == "pyslurm" or bindings.installed():
        return bindings.ask
    return None


def fetch(config: Config, job_ids: Iterable[int]) -> list[JobRecord]:
    """The records of these jobs (raw ids) and all their runs, by job id and run; one that waits has no start.

    For a job too young to be in the stored records. Bounded: at most `slurm.timeout_s` per 1,000 jobs.
    Raises: SlurmError. Where accounting is switched off or absent, there are no records.
    """
    ask = source(config)
    ids = sorted(set(job_ids))
    if ask is None or not ids:
        return []
    records: list[JobRecord] = []
    for at in range(0, len(ids), MAX_IDS):
        records += ask(config.slurm, job_ids=ids[at : at + MAX_IDS])
    known = {record.job_id for record in records} | {record.array_job_id for record in records}
    if unknown := [job_id for job_id in ids if job_id not in known][:MAX_IDS]:
        records += ask_squeue(config.slurm, unknown)
    return numbered(records)


def fetch_window(config: Config, since: datetime, until: datetime) -> Iterator[list[JobRecord]]:
    """The records of all jobs that ran at any time in [since, until), a day at a time: a job that ran for longer comes
    again, with the same content; one that never started is left out. Raises: SlurmError."""
    ask = source(config)
    if ask is None:
        return
    begin = since
    while begin < until:
        end = min(begin + _CHUNK, until)
        yield numbered(started(ask(config.slurm, window=(begin, end))))
        begin = end


def ask_sacct(
    settings: Slurm, *, job_ids: Sequence[int] = (), window: tuple[datetime, datetime] | None = None
) -> list[JobRecord]:
    """Run sacct once. The text between fields is drawn anew each time: job names hold any character, newlines too."""
    delimiter = f"\x1f{os.urandom(8).hex()}\x1f"
    argv = ["sacct", "--allusers", "--duplicates", "--noheader", "--parsable", f"--delimiter={delimiter}"]
    argv.append("--format=" + ",".join(FIELDS))
    if job_ids:
        argv.append("--jobs=" + ",".join(map(str, job_ids)))
    if window is not None:
        # sacct reads times in TZ, which `command` sets to UTC, and to the second.
        begin, end = (moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S") for moment in window)
        argv += [f"--starttime={begin}", f"--endtime={end}"]
    return parse_sacct(command.run(settings, argv), delimiter)


def ask_squeue(settings: Slurm, job_ids: Sequence[int]) -> list[JobRecord]:
    """The waiting ones of these jobs: accounting does not show a job before it could start, held ones never.

    A cluster without squeue, and an id that slurmctld has forgotten, has none waiting.
    """
    delimiter = f"\x1f{os.urandom(8).hex()}\x1f"
    fields = "".join(code + delimiter for code in ("%A", "%F", "%K", "%u", "%U", "%a", "%P", "%q", "%T", "%V", "%j"))
    argv = ["squeue", "--noheader", "--states=PENDING", f"--jobs={','.join(map(str, job_ids))}", f"--format={fields}"]
    try:
        values = command.run(settings, argv).split(delimiter)[:-1]
    except SlurmError:
        return []
    return [_waiting([value.lstrip("\n") for value in values[at : at + 11]]) for at in range(0, len(values) - 10, 11)]


def _waiting(values: Sequence[str]) -> JobRecord:
    job_id, array, task, user, uid, account, partition, qos, state, submit, name = values
    return JobRecord(
        job_id=int(job_id),
        array_job_id=None if task in _ABSENT else int(array),
        array_task_id=int(task) if task.isdecimal() else None,
        name=name or None,
        user=_word(user),
        uid=_integer(uid),
        account=_word(account),
        partition=_word(partition),
        qos=_word(qos),
        state=_word(state),
        submit=parse_moment(submit),
    )


def parse_sacct(text: str, delimiter: str) -> list[JobRecord]:
    """Job records from what sacct printed with `--parsable --noheader`: FIELDS, each followed by the delimiter.

    Steps are skipped: their CPU time and energy stand in the job's row already. A job that never started has no start.
    Raises: SlurmError, if the text is not of that shape.
    """
    values = text.split(delimiter)
    if values.pop().strip("\n") or len(values) % len(FIELDS):
        raise SlurmError(
            "sacct: its output has not the fields that were asked for (does the same command work in a shell?)"
        )
    records = []
    for at in range(0, len(values), len(FIELDS)):
        row = dict(zip(FIELDS, values[at : at + len(FIELDS)], strict=True))
        row["JobIDRaw"] = row["JobIDRaw"].lstrip("\n")  # the newline that ended the row before
        if "." in row["JobIDRaw"]:
            continue
        record = _record(row)
        if 0 <= record.job_id < _INT64:
            records.append(record)
    return records


def started(records: Iterable[JobRecord]) -> list[JobRecord]:
    """Those that began to run: the others used nothing, and are not kept."""
    return [record for record in records if record.start is not None]


def _record(row: Mapping[str, str]) -> JobRecord:
    try:
        job_id = int(row["JobIDRaw"])
        start, end = parse_moment(row["Start"]), parse_moment(row["End"])
        array, task, het, offset = _family(row["JobID"])
        return JobRecord(
            job_id=job_id,
            array_job_id=array,
            array_task_id=task,
            het_job_id=het,
            het_offset=offset,
            name=row["JobName"] or None,
            user=_word(row["User"]),
            uid=_integer(row["UID"]),
            account=_word(row["Account"]),
            partition=_word(row["Partition"]),
            qos=_word(row["QOS"]),
            state=(_word(row["State"]) or "").split(" ")[0] or None,  # "CANCELLED by 1001"
            exit_code=_word(row["ExitCode"]),
            submit=parse_moment(row["Submit"]),
            start=start,
            end=end,
            elapsed_s=_integer(row["ElapsedRaw"]),
            alloc_nodes=_integer(row["AllocNodes"], _INT32),
            alloc_cores=_integer(row["AllocCPUS"], _INT32),
            alloc_tres=_word(row["AllocTRES"]),
            total_cpu_us=parse_time_us(row["TotalCPU"]),
            # Without an energy plugin Slurm prints 0: it does not know, and no job uses nothing.
            consumed_energy_j=_energy(row["ConsumedEnergyRaw"]),
            nodelist=_word(row["NodeList"]),
        )
    except (ValueError, OverflowError, OSError) as err:  # the last two: a time that no calendar has
        raise SlurmError(f"sacct: row of job {row['JobIDRaw'][:20]!r}: {err} (please report this release)") from err


def _family(job_id: str) -> tuple[int | None, int | None, int | None, int | None]:
    """(array, task, heterogeneous job, component) from `123`, `123_4` or `123+1`."""
    found = _JOB_ID.fullmatch(job_id)
    if not found:
        array = job_id.partition("_[")[0] if "_[" in job_id else ""  # tasks that wait: 123_[5-9]
        return (int(array) if array else None), None, None, None
    leader, task, offset = found.groups()
    if task is not None:
        return int(leader), int(task), None, None
    return (None, None, None, None) if offset is None else (None, None, int(leader), int(offset))


def _word(text: str) -> str | None:
    return None if text in _ABSENT else text


def _integer(text: str, limit: int = _INT64) -> int | None:
    """A number; None where there is none, or one that no machine has: one odd job must not stop all others."""
    value = -1 if text in _ABSENT else int(text)
    return value if 0 <= value < limit else None


def _energy(text: str) -> int | None:
    """Joules; None for 0, and for what an unsigned difference below zero makes of a failed reading (about 2**64)."""
    joules = _integer(text.partition(".")[0])
    return joules if joules is not None and 0 < joules < 2**62 else None


def parse_moment(text: str) -> datetime | None:
    """A time that sacct printed under SLURM_TIME_FORMAT=%s and TZ=UTC: seconds since the epoch, else ISO in UTC."""
    if text in _ABSENT:
        return None
    if text.isascii() and text.isdigit():
        return datetime.fromtimestamp(int(text), timezone.utc) if int(text) else None
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)


def parse_time_us(text: str) -> int | None:
    """Microseconds of a CPU time as sacct prints it, `[DD-[HH:]]MM:SS[.mmm]`; None where it knows none.

    Raises: ValueError for any other text.
    """
    if text in _ABSENT:
        return None
    found = _CPU_TIME.fullmatch(text)
    if found:
        days, hours, minutes, seconds = (int(part or 0) for part in found.groups()[:4])
        fraction = (found.group(5) or "").ljust(6, "0")
    else:
        rough = _DAYS_HOURS.fullmatch(text)
        if not rough:
            raise ValueError(f"{text!r} is no time like [DD-[HH:]]MM:SS")
        days, hours, minutes, seconds = int(rough.group(1)), int(rough.group(2)), int(rough.group(3) or 0), 0
        fraction = "0"
    whole = (((days * 24 + hours) * 60 + minutes) * 60 + seconds) * 1_000_000 + int(fraction)
    return whole if whole < _INT64 else None


def numbered(records: Iterable[JobRecord]) -> list[JobRecord]:
    """Records by job id and run, each with its place among the known runs of its job as `restart`.

    sacct has no restart count before 24.11; a requeue gets a new submit time, which orders the runs.
    """
    import msgspec

    runs: dict[int, dict[datetime | None, JobRecord]] = {}
    for record in records:
        runs.setdefault(record.job_id, {})[record.submit] = record
    return [
        record if record.restart == place else msgspec.structs.replace(record, restart=place)
        for _, known in sorted(runs.items())
        for place, (_, record) in enumerate(sorted(known.items(), key=lambda run: (run[0] is None, run[0])))
    ]
