"""Merges an hour's shards into its ledger file: a pure function of the shards, whoever runs it, however often."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from hpccarbon import schema
from hpccarbon.errors import HpcCarbonError, ShardError
from hpccarbon.site import days, index, packs, shards
from hpccarbon.site.engine import connect, reason, write_parquet
from hpccarbon.site.executor import Crew
from hpccarbon.site.lock import exclusive
from hpccarbon.units import NS_PER_S

if TYPE_CHECKING:
    import duckdb

ROW_GROUP_ROWS = 8_192
"""Rows per row group: small enough that one job's rows are found by statistics, large enough to compress."""
_SETTLED_NS = 2 * NS_PER_S
"""A directory that changed within this time before it was listed may change again under the same time stamp."""

_KEYS = ", ".join(f'"{name}"' for name in schema.KEY_COLUMNS)
_ORDER = ", ".join(
    f'"{name}" NULLS LAST'
    for name in ("holder", "job_id", "run", "node", "meter", "uid", "user", "account", "partition")
)
_SUMS = ", ".join(f"sum({name})::BIGINT AS {name}" for name in schema.SUM_COLUMNS)
_MAXIMA = ", ".join(f"max({name}) AS {name}" for name in schema.MAX_COLUMNS)
_MERGE = f"""
CREATE OR REPLACE TEMP TABLE merged AS
SELECT make_timestamptz($hour_us::BIGINT) AS hour, node, {_KEYS}, {_SUMS}, {_MAXIMA},
    make_timestamptz(min(first_us)) AS first_bucket, make_timestamptz(max(last_us)) AS last_bucket
FROM grouped GROUP BY ALL
"""  # noqa: S608 - column names are our own


class HourTask(msgspec.Struct, frozen=True):
    """One hour to merge: everything a worker needs, on this machine or another that sees the same files."""

    shared: str
    cluster: str
    hour: datetime
    directory: str
    threads: int | None = None


class HourResult(msgspec.Struct, frozen=True):
    """What became of one hour: its index entry, and the shards that were set aside as (path, reason)."""

    entry: index.HourEntry
    set_aside: tuple[tuple[str, str], ...]


def aggregate_hour(
    files: Sequence[shards.ShardFile], cluster: str, hour: datetime, target: Path, threads: int | None = None
) -> tuple[index.Written, list[ShardError]]:
    """Write the ledger file of one hour to `target`: rows `schema.LEDGER`, the same bytes for the same shards.

    Args:
        files: the hour's shards, in any order.
        cluster, hour: what every shard must say of itself.
        target: replaced as a whole (temporary name, fsync, rename); its directory is made if need be.
        threads: how many threads the engine may use; the bytes do not depend on it.

    Returns: what the file says it was made of, and the shards that were set aside.
    Raises: ShardError naming the hour, if a sum leaves 64 bits or the file cannot be written.
    """
    from hpccarbon.duck import duckdb

    files = sorted(files)
    refused: dict[str, str] = {}
    while True:
        con = connect(threads)
        try:
            con.execute(f"SET memory_limit = '{shards.MEMORY}'")
            judged = shards.load(con, files, cluster, hour, refused)
            merge(con, hour)
            found = con.execute("SELECT count(*), min(job_id), max(job_id) FROM merged").fetchone()
            rows, first_job, last_job = found or (0, None, None)
            set_aside = tuple((Path(fault.path).name, fault.reason) for fault in judged.faults)
            written = index.Written(shards.digest(files), len(files), rows, first_job, last_job, set_aside)
            _put(con, target, cluster, hour, written)
        except shards.EngineGaveUp as err:
            refused |= err.refused
        except (duckdb.ConversionException, duckdb.OutOfRangeException) as err:
            raise ShardError(target, f"a sum does not fit in 64 bits: {reason(err)}") from err
        except duckdb.Error as err:
            raise ShardError(target, f"the hour cannot be merged: {reason(err)}") from err
        except OSError as err:
            raise ShardError(target, f"{err.strerror} (may this user write the ledger?)") from err
        else:
            return written, judged.faults
        finally:
            con.close()


def merge(con: duckdb.DuckDBPyConnection, hour: datetime) -> None:
    """Make the temporary table `merged`, the hour's ledger rows, from the table `grouped` (`shards.load`).

    Raises: duckdb.ConversionException, duckdb.OutOfRangeException, if a sum leaves 64 bits.
    """
    con.execute(_MERGE, {"hour_us": int(hour.timestamp()) * 1_000_000})


def _put(con: duckdb.DuckDBPyConnection, target: Path, cluster: str, hour: datetime, written: index.Written) -> None:
    """Write the table `merged` as the hour's ledger file."""
    keys = {
        "schema": "ledger",
        "version": str(schema.LEDGER_VERSION),
        "cluster": cluster,
        "hour": hour.isoformat(),
        "units": "uJ,us,ms",
        "made_of": msgspec.json.encode(written).decode(),
    }
    write_parquet(con, f"FROM merged ORDER BY {_ORDER}", target, keys, ROW_GROUP_ROWS)


def work(task: HourTask) -> HourResult:
    """Merge one hour: list its shards, write its ledger file, say what became of it. Runs in any worker."""
    shared, hour = Path(task.shared), task.hour
    target = index.ledger_path(shared, task.cluster, hour)
    files = shards.list_hour(task.directory)
    written, faults = aggregate_hour(files, task.cluster, hour, target, task.threads)
    set_aside = tuple((fault.path, fault.reason) for fault in faults)
    return HourResult(index.entry(str(target), hour, written), set_aside)


class Outcome(msgspec.Struct, frozen=True):
    """What one run of the aggregator did. `set_aside` and `failed` are (path, reason); `packed` counts days."""

    hours: int
    shards: int
    set_aside: tuple[tuple[str, str], ...]
    failed: tuple[tuple[str, str], ...]
    packed: int = 0


def aggregate(
    shared: Path,
    cluster: str,
    crew: Crew,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    pack_at: datetime | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Outcome:
    """Bring the ledger up to date: merge every hour whose set of shards differs from the recorded one.

    Args:
        shared: the shared directory, with `shards/` and `ledger/`.
        crew: where hours are merged, one task per hour.
        since, until: only hours that touch [since, until), aware.
        pack_at: the time it is; days that ended long enough before are packed (site/days.py). None packs nothing.
        progress: told the hours done and to do, after each.

    Raises: HpcCarbonError, if another aggregator is at work, or the shared directory cannot be read or written.
        One hour that fails is in `failed` and stops no other.
    """
    with exclusive(shared / "ledger" / cluster / ".lock") as now_ns:
        con = connect(1)
        try:
            recorded, _ = index.known(lambda: con, shared, cluster, since, until)
        finally:
            con.close()
        closed = packs.bring_lost(shared / "shards" / cluster, recorded, since, until)
        directories = shards.hour_dirs(shared, cluster, since, until)
        entries: dict[datetime, index.HourEntry] = {}
        changed_ns: dict[datetime, int] = {}
        stale: dict[datetime, str] = {}
        late: list[ShardError] = []
        for hour, directory in directories.items():
            changed_ns[hour] = _settled(directory, now_ns)
            files = shards.list_hour(directory)
            before = recorded.get(hour)
            if not files:
                continue
            if before is None or before.digest != shards.digest(files):
                day = os.path.dirname(directory)  # noqa: PTH120 - a str all the way
                if day in closed:  # merged now, the hour would be made of what lies beside the pack alone
                    continue
                try:
                    moved = packs.reopen(directory) if before is not None else []
                except ShardError as fault:
                    closed[day] = fault
                    continue
                late += moved
                if not moved:
                    stale[hour] = directory
            elif before.directory_ns != changed_ns[hour]:
                entries[hour] = msgspec.structs.replace(before, directory_ns=changed_ns[hour])
        threads = crew.threads(len(stale))
        tasks = [HourTask(str(shared), cluster, hour, directory, threads) for hour, directory in stale.items()]
        outcome = _run(tasks, crew, progress, entries, changed_ns)
        if entries:
            index.write(shared, cluster, entries)
        ready = days.closed(shared, cluster, pack_at) if pack_at else []
        unpacked = days.pack(shared, cluster, ready)
    set_aside = sorted([*outcome.set_aside, *((fault.path, fault.reason) for fault in late)])
    failed = (*outcome.failed, *((fault.path, str(fault)) for fault in (*closed.values(), *unpacked)))
    packed = len(ready) - len(unpacked)
    return msgspec.structs.replace(outcome, set_aside=tuple(set_aside), failed=failed, packed=packed)


def _run(
    tasks: Sequence[HourTask],
    crew: Crew,
    progress: Callable[[int, int], None],
    entries: dict[datetime, index.HourEntry],
    changed_ns: dict[datetime, int],
) -> Outcome:
    shards_read = 0
    set_aside: list[tuple[str, str]] = []
    failed: list[tuple[str, str]] = []
    futures = {crew.executor.submit(work, task): task for task in tasks}
    for done, future in enumerate(as_completed(futures), 1):
        task = futures[future]
        try:
            result = future.result()
        except HpcCarbonError as err:
            failed.append((_target(task), str(err)))
        except crew.lost as err:
            why = f"its workers were lost ({type(err).__name__}); the next run makes it"
            failed.append((_target(task), f"hour {task.hour:%Y-%m-%d %H:00}: {why}"))
        else:
            entries[task.hour] = msgspec.structs.replace(result.entry, directory_ns=changed_ns[task.hour])
            shards_read += result.entry.shards
            set_aside += result.set_aside
        progress(done, len(tasks))
    return Outcome(len(tasks) - len(failed), shards_read, tuple(sorted(set_aside)), tuple(sorted(failed)))


def _target(task: HourTask) -> str:
    return str(index.ledger_path(Path(task.shared), task.cluster, task.hour))


def _settled(directory: str, now_ns: int) -> int:
    """The directory's modification time, or 0 if it is so young that the next change could bear the same time."""
    try:
        changed_ns = os.stat(directory).st_mtime_ns  # noqa: PTH116 - a str all the way
    except FileNotFoundError:
        return 0
    return changed_ns if changed_ns < now_ns - _SETTLED_NS else 0
