"""A month's summary as HTML, JSON, CSV or Parquet. Formats only; writes no file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from hpccarbon.report.figures import Figures
from hpccarbon.report.render import files
from hpccarbon.report.summary import Summary

_NAMES = ("section", "name", "user", "account", "job_name", "state", "jobs", "share_percent", "idle_cores_uj")
_HOLDER_UJ = ("job_uj", "system_uj", "unallocated_uj")


def content(summary: Summary, kind: Literal["html", "json", "csv", "parquet"]) -> bytes:
    """The summary in one format."""
    if kind == "html":
        from hpccarbon.report.render.html import month_page

        return month_page(summary).encode()
    if kind == "json":
        return files.json_text(summary).encode()
    rows = list(records(summary))
    names = list(dict.fromkeys(name for row in rows for name in row))
    if kind == "csv":
        return files.rows_as_csv(names, rows).encode()
    metadata = {
        "hpccarbon.schema": "summary",
        "hpccarbon.version": str(summary.schema_version),
        "hpccarbon.cluster": summary.cluster,
        "hpccarbon.timezone": summary.timezone,
    }
    return files.table_as_parquet(files.rows_as_arrow(names, rows, metadata))


def records(summary: Summary) -> Iterator[dict[str, Any]]:
    """The summary as flat rows: `section` says of what (total, holder, account, user, partition, node, job)."""
    for section, lines in {
        "total": [summary.total],
        "holder": summary.holders,
        "account": summary.accounts,
        "user": summary.users,
        "partition": summary.partitions,
    }.items():
        for line in lines:
            told = {name: getattr(line, name) for name in ("name", "jobs", "share_percent", "idle_cores_uj")}
            yield _row(summary, section, told, line.figures)
    for node in summary.nodes:
        told = {"name": node.node, "share_percent": node.share_percent}
        yield _row(summary, "node", told | {name: getattr(node, name) for name in _HOLDER_UJ}, node.figures)
    for job in summary.jobs:
        told = {"name": job.job, "user": job.user, "account": job.account, "job_name": job.name, "state": job.state}
        measures = {"share_percent": job.share_percent, "idle_cores_uj": job.idle_cores_uj}
        yield _row(summary, "job", told | measures, job.figures)


def _row(summary: Summary, section: str, told: dict[str, Any], figures: Figures) -> dict[str, Any]:
    where = {"cluster": summary.cluster, "month": summary.month}
    named = dict.fromkeys((*_NAMES, *_HOLDER_UJ)) | {"section": section} | told
    return where | named | files.flat(figures) | files.method_of(summary.carbon)
