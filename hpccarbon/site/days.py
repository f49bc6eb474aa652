"""Packs the hours of a closed day of the ledger into one file, sorted so that a job lies in one place. Sums nothing.

    ledger/CLUSTER/date=YYYY-MM-DD/hour=HH.parquet    an hour, as `aggregate` wrote it
    ledger/CLUSTER/date=YYYY-MM-DD/day.parquet        the day; an hour that has a file of its own is read from that

A late shard makes its hour's file again beside the day; the next packing takes it in. A day is a function of its hours,
as an hour is of its shards: the same bytes, whichever came last.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from hpccarbon import schema
from hpccarbon.errors import ShardError
from hpccarbon.site import index
from hpccarbon.site.engine import connect, reason, write_parquet
from hpccarbon.site.shards import hour_entries

if TYPE_CHECKING:
    import duckdb

PACK_AFTER = timedelta(hours=48)
"""How long after its end a day is packed: nodes have sealed their last hour, and most late shards have come."""
ROW_GROUP_ROWS = 8_192
"""Rows per row group: a day of 2,000 nodes has some twenty, and one job lies in one or two of them."""
_MEMORY_MIB = 256
_SQL_TYPES = {
    **dict.fromkeys(("word", "text"), "VARCHAR"),
    **dict.fromkeys(("hour", "minute"), "TIMESTAMPTZ"),
    "int64": "BIGINT",
    "int32": "INTEGER",
}
_DECLARED = ", ".join(f'"{column.name}" {_SQL_TYPES[column.type]}' for column in schema.LEDGER)
_ORDER = ", ".join(
    f'"{name}" NULLS LAST'
    for name in ("holder", "job_id", "run", "node", "meter", "hour", "uid", "user", "account", "partition")
)
"""A job's hours lie together, node by node: what differs little stands next to itself, and compresses."""


def closed(shared: Path, cluster: str, now: datetime, after: timedelta = PACK_AFTER) -> list[datetime]:
    """The days (their starts, UTC) that ended at least `after` ago and have hours of their own to pack."""
    hours = hour_entries(str(shared / "ledger" / cluster), "hour=", None, now - after, ".parquet")
    days = sorted({hour.replace(hour=0) for hour in hours})
    return [day for day in days if day + timedelta(days=1) + after <= now]


def pack(shared: Path, cluster: str, days: Sequence[datetime]) -> list[ShardError]:
    """Pack these days, one after the other; returns what went wrong: such a day stays as it was.

    The caller holds the aggregator's lock. Memory is bounded: what does not fit is sorted on disk.
    """
    faults = []
    for day in days:
        try:
            _pack_day(shared, cluster, day)
        except ShardError as fault:
            faults.append(fault)
    return faults


def _pack_day(shared: Path, cluster: str, day: datetime) -> None:
    from hpccarbon.duck import duckdb

    target = index.day_path(shared, cluster, day)
    with tempfile.TemporaryDirectory(prefix="hpccarbon-") as spill, contextlib.closing(connect(1)) as con:
        con.execute(f"SET memory_limit = '{_MEMORY_MIB}MiB'")
        con.execute(f"SET temp_directory = '{spill}'")
        held, faults = index.known(lambda: con, shared, cluster, day, day + timedelta(days=1))
        if faults:
            raise faults[0]
        files = {hour: index.path_of(shared, cluster, hour, one) for hour, one in held.items()}
        try:
            write_day(con, index.source(files), target, cluster, day, held)
        except duckdb.Error as err:
            raise ShardError(target, f"cannot pack the day: {reason(err)}") from err
        except OSError as err:
            raise ShardError(target, f"{err.strerror} (may this user write the ledger?)") from err
        status = target.stat()
    entries = {
        hour: msgspec.structs.replace(one, packed=True, size=status.st_size, mtime_ns=status.st_mtime_ns)
        for hour, one in held.items()
    }
    index.write(shared, cluster, entries)
    # Only now: whoever looks in between finds the hours twice, and reads each from its own file.
    for hour, one in held.items():
        if not one.packed:
            index.ledger_path(shared, cluster, hour).unlink(missing_ok=True)


def write_day(
    con: duckdb.DuckDBPyConnection,
    source: str,
    target: Path,
    cluster: str,
    day: datetime,
    held: Mapping[datetime, index.HourEntry],
) -> None:
    """Write the rows of the SQL `source` (columns `schema.LEDGER`) as the packed file of a day that holds these hours.

    Raises: duckdb.Error, OSError.
    """
    made_of = {one.hour_s: written(one) for _, one in sorted(held.items())}
    keys = {
        "schema": "ledger",
        "version": str(schema.LEDGER_VERSION),
        "cluster": cluster,
        "day": f"{day:%Y-%m-%d}",
        "units": "uJ,us,ms",
        "made_of": msgspec.json.encode(made_of).decode(),
    }
    # Through a declared table: read straight from files, a column is "never null" or not depending on how many files.
    con.execute(f"CREATE OR REPLACE TEMP TABLE day ({_DECLARED})")
    con.execute(f"INSERT INTO day BY NAME FROM {source}")
    write_parquet(con, f"FROM day ORDER BY {_ORDER}", target, keys, ROW_GROUP_ROWS)


def written(one: index.HourEntry) -> index.Written:
    """What a file says of an hour, from its entry."""
    return index.Written(one.digest, one.shards, one.rows, one.first_job, one.last_job, one.set_aside)
