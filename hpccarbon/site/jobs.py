"""Keeps job records, one Parquet file per month of submission: a record is replaced when its job moves on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from hpccarbon import schema
from hpccarbon.errors import ShardError
from hpccarbon.site.engine import quoted, reason
from hpccarbon.slurm.record import JobRecord

if TYPE_CHECKING:
    import duckdb

_TIMES = frozenset(column.name for column in schema.JOBS if column.type == "second")
_SQL_TYPES = {"int64": "BIGINT", "int32": "INTEGER", "word": "VARCHAR", "text": "VARCHAR", "second": "TIMESTAMPTZ"}
_DECLARED = ", ".join(f'"{column.name}" {_SQL_TYPES[column.type]}' for column in schema.JOBS)
_SELECTED = ", ".join(
    f'epoch_us("{column.name}")' if column.name in _TIMES else f'"{column.name}"' for column in schema.JOBS
)
UNKNOWN_MONTH = "unknown"
"""Where records without a submit time lie."""


class Cursor(msgspec.Struct, frozen=True):
    """How far accounting was read: every job that ended before `until_s` is recorded as it ended."""

    until_s: int


def job_files(shared: Path, cluster: str) -> list[str]:
    """The files of job records of a cluster, in order of time."""
    folder = shared / "jobs" / cluster
    try:
        names = os.listdir(folder)  # noqa: PTH208
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as err:
        raise ShardError(folder, f"{err.strerror} (may this user read job records?)") from err
    return [str(folder / name) for name in sorted(names) if name.startswith("month=") and name.endswith(".parquet")]


def read_cursor(shared: Path, cluster: str) -> datetime | None:
    """Up to when accounting was read; None if never, or if the note of it is damaged."""
    try:
        text = (shared / "jobs" / cluster / ".cursor.json").read_bytes()
        return datetime.fromtimestamp(msgspec.json.decode(text, type=Cursor).until_s, timezone.utc)
    except (OSError, msgspec.ValidationError, msgspec.DecodeError, OverflowError, ValueError):
        return None


def write_cursor(shared: Path, cluster: str, until: datetime) -> None:
    """Note up to when accounting was read. Only after the records themselves were written."""
    path = shared / "jobs" / cluster / ".cursor.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(".cursor.json.new")
    temporary.write_bytes(msgspec.json.encode(Cursor(int(until.timestamp()))))
    temporary.replace(path)


def read(con: duckdb.DuckDBPyConnection, files: Sequence[str], where: str = "true") -> list[JobRecord]:
    """The records in `files` for which the SQL condition `where` holds, by job id and run.

    Raises: ShardError naming the first file that cannot be read.
    """
    import duckdb

    if not files:
        return []
    source = "read_parquet($files, hive_partitioning = false)"
    sql = f"SELECT {_SELECTED} FROM {source} WHERE {where} ORDER BY job_id, restart"  # noqa: S608
    try:
        rows = con.execute(sql, {"files": list(files)}).fetchall()
    except duckdb.Error as err:
        for file in files if len(files) > 1 else ():
            read(con, [file], where)
        raise ShardError(files[0], f"{reason(err)} (remove it and run `hpccarbon aggregate --since` again)") from err
    timed = [column.name in _TIMES for column in schema.JOBS]
    return [_record([_moment(v) if t else v for t, v in zip(timed, row, strict=True)]) for row in rows]


def _record(values: list[Any]) -> JobRecord:
    return JobRecord(*values)


def _moment(epoch_us: int | None) -> datetime | None:
    return None if epoch_us is None else datetime.fromtimestamp(epoch_us / 1e6, timezone.utc)


def month_of(record: JobRecord) -> str:
    """The file a record lies in: by its submit time, which no requeue of the same run changes."""
    return f"{record.submit.astimezone(timezone.utc):%Y-%m}" if record.submit else UNKNOWN_MONTH


def merge(con: duckdb.DuckDBPyConnection, shared: Path, cluster: str, records: Iterable[JobRecord]) -> int:
    """Add records to the files of their months, replacing the same (job id, restart); returns how many differ.

    A month in which nothing differs is not written. Raises: ShardError, if a file cannot be read or written.
    """
    months: dict[str, dict[tuple[int, int], JobRecord]] = {}
    for record in records:
        months.setdefault(month_of(record), {})[record.job_id, record.restart] = record
    changed = 0
    for month, news in sorted(months.items()):
        path = shared / "jobs" / cluster / f"month={month}.parquet"
        stored = read(con, [str(path)]) if path.exists() else []
        merged = {(one.job_id, one.restart): one for one in stored}
        differing = sum(merged.get(key) != record for key, record in news.items())
        if differing:
            _put(con, path, cluster, [(merged | news)[key] for key in sorted(merged | news)])
            changed += differing
    return changed


def _put(con: duckdb.DuckDBPyConnection, path: Path, cluster: str, records: Sequence[JobRecord]) -> None:
    con.execute(f"CREATE OR REPLACE TEMP TABLE records ({_DECLARED})")
    columns = {
        column.name: [
            value.timestamp() if isinstance(value := getattr(record, column.name), datetime) else value
            for record in records
        ]
        for column in schema.JOBS
    }
    unnested = ", ".join(
        f"to_timestamp(unnest(${name}::DOUBLE[]))" if name in _TIMES else f"unnest(${name})" for name in columns
    )
    con.execute(f"INSERT INTO records SELECT {unnested}", columns)
    keys = {"schema": "jobs", "version": str(schema.JOBS_VERSION), "cluster": cluster}
    pairs = ", ".join(f"{quoted(f'{schema.PRODUCED_BY}.{key}')}: {quoted(value)}" for key, value in keys.items())
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        con.execute(
            f"COPY (FROM records ORDER BY job_id, restart) TO {quoted(str(temporary))} (FORMAT parquet,"
            f" COMPRESSION zstd, ROW_GROUP_SIZE 8192, KV_METADATA {{{pairs}}})"
        )
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as err:
        raise ShardError(path, f"{err.strerror} (may this user write job records?)") from err
    finally:
        temporary.unlink(missing_ok=True)
