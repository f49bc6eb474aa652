"""Reports as JSON, CSV and Parquet: every figure in full, its unit in its name. Formats only; writes no file."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import msgspec

from hpccarbon.report.figures import CarbonOf, Figures
from hpccarbon.report.job import JobReport, StepPart
from hpccarbon.report.render.inert import cell
from hpccarbon.report.usage import UsageReport
from hpccarbon.units import kwh

if TYPE_CHECKING:
    import pyarrow as pa

Report = JobReport | UsageReport
_FIGURES = Figures.__struct_fields__
_TYPES: dict[str, type] = {
    **dict.fromkeys(("job_id", "array_job_id", "array_task_id", "het_job_id", "het_offset", "restart"), int),
    **dict.fromkeys(("elapsed_s", "alloc_nodes", "alloc_cores", "alloc_gpus", "jobs", "nodes"), int),
    **dict.fromkeys(("low_uj", "high_uj"), int),
    **dict.fromkeys(("energy_uj", "cpu_uj", "dram_uj", "gpu_uj", "other_uj", "static_uj", "modelled_uj"), int),
    "cpu_time_us": int,
    **dict.fromkeys(("idle_cores_uj", "job_uj", "system_uj", "unallocated_uj"), int),
    **dict.fromkeys(("energy_kwh", "covered_percent", "measured_percent", "share_percent", "co2e_g"), float),
    **dict.fromkeys(("node_hours", "unseen_node_hours", "core_hours", "cpu_hours", "cpu_used_percent"), float),
    **dict.fromkeys(("pue", "node_factor", "intensity_g_per_kwh"), float),
    **dict.fromkeys(("submit", "start", "end", "first", "last"), datetime),
}
"""Types of the columns that are no text."""


def json_text(report: msgspec.Struct) -> str:
    """A report as one JSON document, in plain ASCII: what could be obeyed by a terminal is written as `\\u....`."""
    text = msgspec.json.format(msgspec.json.encode(report), indent=2).decode()
    return re.sub(r"[^\n\x20-\x7e]", _escaped, text) + "\n"


def _escaped(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be")
    return "".join(f"\\u{units[place]:02x}{units[place + 1]:02x}" for place in range(0, len(units), 2))


def records(report: Report) -> list[dict[str, Any]]:
    """The report as flat rows: one per run of a job (one per step, where these were asked for), or one per line of the
    table (without the total)."""
    if isinstance(report, JobReport):
        return list(_step_records(report) if _by_step(report) else _job_records(report))
    return list(_usage_records(report))


def flat(figures: Figures) -> dict[str, Any]:
    """Figures as columns, and their energy in kWh."""
    row: dict[str, Any] = {"energy_kwh": None if figures.energy_uj is None else kwh(figures.energy_uj)}
    return row | {name: getattr(figures, name) for name in _FIGURES}


def method_of(carbon: Iterable[CarbonOf]) -> dict[str, Any]:
    """What the grams were made with, as columns."""
    methods = [one.method for one in carbon]

    def only(values: Iterable[Any]) -> Any:
        """What all places have in common; null where they differ."""
        different = set(values)
        return different.pop() if len(different) == 1 else None

    return {
        "carbon_zone": "; ".join(dict.fromkeys(method.zone for method in methods if method.zone)) or None,
        "carbon_basis": only(method.basis for method in methods),
        "intensity_g_per_kwh": only(method.intensity_g_per_kwh for method in methods),
        "carbon_sources": "; ".join(source for method in methods for source in method.sources) or None,
        "pue": only(method.pue for method in methods),
        "node_factor": only(method.node_factor for method in methods),
    }


_JOB_FACTS = ("job", "job_id", "array_job_id", "array_task_id", "het_job_id", "het_offset", "name", "user", "account")
_JOB_HELD = ("partition", "qos", "alloc_nodes", "alloc_cores", "alloc_gpus", "submit")


def _job_records(report: JobReport) -> Iterator[dict[str, Any]]:
    for job in report.jobs:
        facts = {name: getattr(job, name) for name in (*_JOB_FACTS, *_JOB_HELD)}
        for run in job.runs:
            of_run = {"restart": run.restart, "state": run.state, "start": run.start, "end": run.end}
            elapsed = {"elapsed_s": run.elapsed_s}
            yield {"cluster": report.cluster} | facts | of_run | elapsed | flat(run.figures) | method_of(report.carbon)


_STEP = ("step", "energy_kwh", *(name for name in StepPart.__struct_fields__ if name != "step"))


def _by_step(report: JobReport) -> bool:
    return any(job.steps is not None for job in report.jobs)


def _step_records(report: JobReport) -> Iterator[dict[str, Any]]:
    for job in report.jobs:
        facts = {name: getattr(job, name) for name in (*_JOB_FACTS, *_JOB_HELD)}
        for step in job.steps or ():
            used = {name: getattr(step, name) for name in StepPart.__struct_fields__}
            energy = {"energy_kwh": kwh(step.energy_uj)}
            yield {"cluster": report.cluster} | facts | used | energy | method_of(report.carbon)


def _usage_records(report: UsageReport) -> Iterator[dict[str, Any]]:
    for row in report.rows:
        keys = dict(zip(report.by, row.key or [None] * len(report.by), strict=True))
        counted = {"holder": row.holder, "jobs": row.jobs, "share_percent": row.share_percent}
        if "job" in report.by:
            keys |= {"name": row.name, "job_user": row.user}
        yield {"cluster": report.cluster} | keys | counted | flat(row.figures) | method_of(report.carbon)


def columns(report: Report) -> list[str]:
    """The names of the flat rows' columns, also where there are no rows."""
    figures = ["energy_kwh", *_FIGURES]
    method = list(method_of(report.carbon))
    if isinstance(report, JobReport) and _by_step(report):
        return ["cluster", *_JOB_FACTS, *_JOB_HELD, *_STEP, *method]
    if isinstance(report, JobReport):
        return ["cluster", *_JOB_FACTS, *_JOB_HELD, "restart", "state", "start", "end", "elapsed_s", *figures, *method]
    job = ["name", "job_user"] if "job" in report.by else []
    return list(dict.fromkeys(["cluster", *report.by, *job, "holder", "jobs", "share_percent", *figures, *method]))


def csv_text(report: Report) -> str:
    """The flat rows as CSV."""
    return rows_as_csv(columns(report), records(report))


def rows_as_csv(names: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as CSV (RFC 4180): times in UTC, unknown is empty, and no string is a formula."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow([_cell(row.get(name)) for name in names])
    return out.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value.astimezone(timezone.utc):%Y-%m-%dT%H:%M:%SZ}"
    if isinstance(value, float):
        return f"{value:.9f}".rstrip("0").rstrip(".")
    return cell(value) if isinstance(value, str) else str(value)


def parquet_table(report: Report) -> pa.Table:
    """The flat rows as an Arrow table; strings as they are, times in UTC."""
    metadata = {
        "hpccarbon.schema": f"report.{report.kind}",
        "hpccarbon.version": str(report.schema_version),
        "hpccarbon.cluster": report.cluster,
        "hpccarbon.timezone": report.timezone,
    }
    return rows_as_arrow(columns(report), records(report), metadata)


def rows_as_arrow(names: Sequence[str], rows: Sequence[Mapping[str, Any]], metadata: Mapping[str, str]) -> pa.Table:
    """Rows as an Arrow table; strings as they are, times in UTC."""
    import pyarrow as pa

    types = {int: pa.int64(), float: pa.float64(), datetime: pa.timestamp("us", tz="UTC")}
    fields = [pa.field(name, types.get(_TYPES.get(name, str), pa.string())) for name in names]
    columns = {name: [row.get(name) for row in rows] for name in names}
    return pa.table(columns, schema=pa.schema(fields, metadata=dict(metadata)))


def parquet_bytes(report: Report) -> bytes:
    """The flat rows as a Parquet file."""
    return table_as_parquet(parquet_table(report))


def table_as_parquet(table: pa.Table) -> bytes:
    """An Arrow table as a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    content: bytes = sink.getvalue().to_pybytes()
    return content
