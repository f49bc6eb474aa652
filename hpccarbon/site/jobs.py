"""Keeps job records, one Parquet file per month of submission: a record is replaced when its job moves on."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from hpccarbon import schema
from hpccarbon.config import Config
from hpccarbon.errors import ShardError
from hpccarbon.site.engine import connect, quoted, reason, write_parquet
from hpccarbon.site.lock import exclusive
from hpccarbon.site.shards import hour_dirs
from hpccarbon.slurm.record import JobRecord

if TYPE_CHECKING:
    import duckdb

_TIMES = frozenset(column.name for column in schema.JOBS if column.type == "second")
OVERLAP = timedelta(hours=2)
"""How far back each update asks again: slurmctld hands records over late when slurmdbd was away."""
FIRST_LOOK = timedelta(days=7)
ROW_GROUP_ROWS = 32_768
"""Rows per row group: a job is found by its group's smallest and largest id; more groups are a longer footer."""
_SQL_TYPES = {"int64": "BIGINT", "int32": "INTEGER", "word": "VARCHAR", "text": "VARCHAR", "second": "TIMESTAMPTZ"}
_DECLARED = ", ".join(f'"{column.name}" {_SQL_TYPES[column.type]}' for column in schema.JOBS)
_TYPES = {column.name: _SQL_TYPES[column.type] for column in schema.JOBS}
_SELECTED = ", ".join(
    f'epoch_us("{column.name}")' if column.name in _TIMES else f'"{column.name}"' for column in schema.JOBS
)
_BOUNDS = ".bounds.json"
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


class Bounds(msgspec.Struct, frozen=True, array_like=True):
    """The smallest and largest id in a file of records, of jobs and arrays, while it has this size and time."""

    size: int
    mtime_ns: int
    first: int
    last: int


def holding(files: Sequence[str], ids: Iterable[int]) -> list[str]:
    """The files that can hold one of these jobs or arrays: a year's footers take longer to read than one month's rows.

    Only a cache beside the files (`.bounds.json`): one that is not in it, or has changed since, can hold any.
    """
    wanted = sorted(set(ids))
    known = {folder: _bounds(folder) for folder in {Path(file).parent for file in files}}
    found = []
    for file in files:
        bounds = known[Path(file).parent].get(Path(file).name)
        if bounds is not None and not any(bounds.first <= one <= bounds.last for one in wanted):
            status = os.stat(file)  # noqa: PTH116 - a str all the way
            if (status.st_size, status.st_mtime_ns) == (bounds.size, bounds.mtime_ns):
                continue
        found.append(file)
    return found


def _bounds(folder: Path) -> dict[str, Bounds]:
    try:
        return msgspec.json.decode((folder / _BOUNDS).read_bytes(), type=dict[str, Bounds])
    except (OSError, msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError):
        return {}


def note_bounds(con: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Note which ids a file holds. Raises: duckdb.Error, OSError."""
    ids = "least(job_id, array_job_id)), max(greatest(job_id, array_job_id)"
    rows = con.execute(f"SELECT min({ids}) FROM read_parquet({quoted(str(path))})").fetchall()  # noqa: S608
    status, ((first, last),) = path.stat(), rows
    noted = _bounds(path.parent) | {path.name: Bounds(status.st_size, status.st_mtime_ns, first or 0, last or 0)}
    temporary = path.with_name(f"{_BOUNDS}.{os.getpid()}.new")
    temporary.write_bytes(msgspec.json.encode(noted))
    temporary.replace(path.with_name(_BOUNDS))


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


def read(con: duckdb.DuckDBPyConnection, files: Sequence[str], *either: str) -> list[JobRecord]:
    """The records in `files` for which one of these SQL conditions holds (without any: all), by job id and run.

    Raises: ShardError naming the first file that cannot be read.
    Method: condition by condition. Joined by OR, none could be held against the row groups' statistics, and a month's
        million rows would be read for one job.
    """
    from hpccarbon.duck import duckdb

    if not files:
        return []
    source = "read_parquet($files, hive_partitioning = false)"
    conditions = either or ("true",)
    parts = [
        " AND ".join([f"({condition})", *(f"({earlier}) IS NOT TRUE" for earlier in conditions[:place])])
        for place, condition in enumerate(conditions)
    ]
    union = " UNION ALL ".join(f"FROM {source} WHERE {part}" for part in parts)
    sql = f"SELECT {_SELECTED} FROM ({union}) ORDER BY job_id, restart"  # noqa: S608
    try:
        rows = con.execute(sql, {"files": list(files)}).fetchall()
    except duckdb.Error as err:
        for file in files if len(files) > 1 else ():
            read(con, [file], *either)
        raise ShardError(files[0], f"{reason(err)} (remove it and run `hpccarbon aggregate --since` again)") from err
    timed = [column.name in _TIMES for column in schema.JOBS]
    return [_record([_moment(v) if t else v for t, v in zip(timed, row, strict=True)]) for row in rows]


def _record(values: list[Any]) -> JobRecord:
    return JobRecord(*values)


def _moment(epoch_us: int | None) -> datetime | None:
    return None if epoch_us is None else datetime.fromtimestamp(epoch_us / 1e6, timezone.utc)


def month_of(record: JobRecord) -> str:
    """The file a record lies in: the month of its submission, which never changes while its state does."""
    return f"{record.submit.astimezone(timezone.utc):%Y-%m}" if record.submit else UNKNOWN_MONTH


def merge(con: duckdb.DuckDBPyConnection, shared: Path, cluster: str, records: Iterable[JobRecord]) -> int:
    """Add records to the files of their months, replacing the same (job id, submit time); returns how many are news.

    A month without news is not written. `restart` is numbered anew, over the runs that the month knows.
    Raises: ShardError, if a file cannot be read or written.
    """
    from hpccarbon.duck import duckdb

    months: dict[str, dict[tuple[int, datetime | None], JobRecord]] = {}
    for record in records:
        months.setdefault(month_of(record), {})[record.job_id, record.submit] = record
    changed = 0
    for month, news in sorted(months.items()):
        path = shared / "jobs" / cluster / f"month={month}.parquet"
        try:
            changed += _merge_month(con, path, cluster, list(news.values()))
        except duckdb.Error as err:
            raise ShardError(path, f"{reason(err)} (remove it and run `hpccarbon aggregate --since` again)") from err
        except OSError as err:
            raise ShardError(path, f"{err.strerror} (may this user write job records?)") from err
    return changed


def _merge_month(con: duckdb.DuckDBPyConnection, path: Path, cluster: str, news: Sequence[JobRecord]) -> int:
    con.execute(f"CREATE OR REPLACE TEMP TABLE news ({_DECLARED})")
    columns = {column.name: [_stored(getattr(record, column.name)) for record in news] for column in schema.JOBS}
    values = ", ".join(
        f"to_timestamp(unnest(${name}::DOUBLE[]))" if name in _TIMES else f"unnest(${name}::{_TYPES[name]}[])"
        for name in columns
    )
    con.execute(f"INSERT INTO news SELECT {values}", columns)
    con.execute(f"CREATE OR REPLACE TEMP TABLE stored ({_DECLARED})")
    if path.exists():
        source = f"read_parquet({quoted(str(path))}, hive_partitioning = false)"
        con.execute(f"INSERT INTO stored BY NAME FROM {source}")
    facts = ", ".join(f'"{name}"' for name in columns if name != "restart")
    found = con.execute(f"SELECT count(*) FROM (SELECT {facts} FROM news EXCEPT SELECT {facts} FROM stored)").fetchone()  # noqa: S608
    changed = int(found[0]) if found else 0
    if changed:
        _put(con, path, cluster)
    return changed


def _stored(value: object) -> object:
    return int(value.timestamp()) if isinstance(value, datetime) else value


def _put(con: duckdb.DuckDBPyConnection, path: Path, cluster: str) -> None:
    """Write `stored` with `news` over it."""
    con.execute(
        "CREATE OR REPLACE TEMP TABLE merged AS SELECT * REPLACE ("
        " (row_number() OVER (PARTITION BY job_id ORDER BY submit NULLS LAST) - 1)::INTEGER AS restart) FROM ("
        " FROM stored ANTI JOIN news ON stored.job_id = news.job_id AND stored.submit IS NOT DISTINCT FROM news.submit"
        " UNION ALL FROM news)"
    )
    keys = {"schema": "jobs", "version": str(schema.JOBS_VERSION), "cluster": cluster}
    write_parquet(con, "FROM merged ORDER BY job_id, restart", path, keys, ROW_GROUP_ROWS)
    note_bounds(con, path)


def update(config: Config, since: datetime | None = None, until: datetime | None = None) -> int:
    """Bring the job records up to date with Slurm's accounting; returns how many are new or changed.

    Args:
        since: from when to ask; None continues where the last update ended, with an overlap for records that reached
            the database late, and begins at the first hour of shards.
        until: up to when; None is now.

    Raises: SlurmError, if accounting does not answer: what was stored stays, and the next run asks again.
    """
    from hpccarbon.slurm import accounting

    shared, cluster = Path(config.paths.shared_dir), config.cluster
    asked = accounting.source(config) is not None
    now = datetime.now(timezone.utc)
    until = min(until or now, now)
    cursor = read_cursor(shared, cluster)
    begin = since or (cursor - OVERLAP if cursor else next(iter(hour_dirs(shared, cluster)), until - FIRST_LOOK))
    with exclusive(shared / "jobs" / cluster / ".lock"), contextlib.closing(connect(1)) as con:
        changed, seen = 0, set()
        for records in accounting.fetch_window(config, begin, until):
            seen |= {record.job_id for record in records}
            changed += merge(con, shared, cluster, records)
        if asked and since is None:
            late = _unfinished(con, shared, cluster, accounting.MAX_IDS) - seen
            changed += merge(con, shared, cluster, accounting.started(accounting.fetch(config, late)))
        if asked and (cursor is None or begin <= cursor < until):
            write_cursor(shared, cluster, until)
    return changed


def _unfinished(con: duckdb.DuckDBPyConnection, shared: Path, cluster: str, limit: int) -> set[int]:
    """Jobs that ran when they were last heard of: the newest, as many as one question may name."""
    files = job_files(shared, cluster)
    if not files:
        return set()
    source = "read_parquet($files, hive_partitioning = false)"
    sql = f'SELECT job_id FROM {source} WHERE "end" IS NULL ORDER BY submit DESC LIMIT {limit}'  # noqa: S608
    return {row[0] for row in con.execute(sql, {"files": files}).fetchall()}
