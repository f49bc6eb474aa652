"""Jobs as CSV, Parquet or the log that Open XDMoD reads: by whole columns, because a million jobs are no loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from hpccarbon.report.render.files import table_as_parquet
from hpccarbon.report.render.inert import cell, inert

if TYPE_CHECKING:
    import pyarrow as pa

Kind = Literal["csv", "parquet", "xdmod"]
KINDS: tuple[Kind, ...] = ("csv", "parquet", "xdmod")
XDMOD = (
    "jobid", "jobidraw", "cluster", "partition", "qos", "account", "group", "gid", "user", "uid", "submit", "eligible",
    "start", "end", "elapsed", "exitcode", "state", "nnodes", "ncpus", "reqcpus", "reqmem", "reqtres", "alloctres",
    "timelimit", "nodelist", "jobname",
)  # fmt: skip
"""Fields of the sacct log that Open XDMoD 11 reads: https://open.xdmod.org/11.0/resource-manager-slurm.html"""
_FROM = {
    "jobid": "job", "jobidraw": "job_id", "exitcode": "exit_code", "nnodes": "alloc_nodes", "ncpus": "alloc_cores",
    "reqcpus": "alloc_cores", "alloctres": "alloc_tres", "jobname": "name",
}  # fmt: skip
"""XDMoD's field -> our column, where the names differ."""


def content(table: pa.Table, kind: Kind) -> bytes:
    """The jobs (`site.jobtable.job_table`) in one format."""
    if kind == "parquet":
        return table_as_parquet(table)
    return csv_bytes(table) if kind == "csv" else xdmod_text(table).encode()


def csv_bytes(table: pa.Table) -> bytes:
    """RFC 4180: times in UTC, unknown is empty, and no string is a formula."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.csv as pv

    columns = []
    for name in table.column_names:
        column = table[name]
        if pa.types.is_timestamp(column.type):
            column = pc.strftime(column.cast(pa.timestamp("s", tz="UTC")), format="%Y-%m-%dT%H:%M:%SZ")
        elif pa.types.is_string(column.type) or pa.types.is_dictionary(column.type):
            column = _mapped(column, cell)
        columns.append(column)
    sink = pa.BufferOutputStream()
    pv.write_csv(pa.table(columns, names=table.column_names), sink, pv.WriteOptions(quoting_style="needed"))
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _mapped(column: pa.ChunkedArray, change: Callable[[str], str]) -> pa.ChunkedArray:
    """A column of strings, each different one changed once."""
    import pyarrow as pa

    encoded = column.cast(pa.string()).combine_chunks().dictionary_encode()
    changed = pa.array([None if text is None else change(text) for text in encoded.dictionary.to_pylist()], pa.string())
    return pa.chunked_array([changed.take(encoded.indices)])


def xdmod_text(table: pa.Table) -> str:
    """The log `xdmod-shredder -f slurm` reads: fields with `|` between, no heading, times in UTC.

    The energy stands in AllocTRES as `energy=JOULES`, Slurm's own name for it; what Slurm did not tell us is empty.
    """
    lines = []
    for row in table.to_pylist():
        if row["end"] is None:
            continue  # the shredder reads jobs that have ended
        row["alloc_tres"] = _with_energy(row["alloc_tres"], row["energy_uj"])
        row["elapsed"] = _clock(row["elapsed_s"] or 0)
        lines.append("|".join(_field(name, row.get(_FROM.get(name, name))) for name in XDMOD) + "\n")
    return "".join(lines)


def _with_energy(tres: str | None, energy_uj: int | None) -> str:
    words = [word for word in (tres or "").split(",") if word and not word.startswith("energy=")]
    return ",".join([*words, *([] if energy_uj is None else [f"energy={round(energy_uj / 1e6)}"])])


def _clock(seconds: int) -> str:
    """`1-02:03:04`, as sacct prints it."""
    days, rest = divmod(seconds, 86_400)
    return f"{f'{days}-' if days else ''}{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"


def _field(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name in ("submit", "start", "end", "eligible"):
        return f"{value:%Y-%m-%dT%H:%M:%S}"
    return inert(str(value)).replace("|", "\\x7c")
