"""Turns hours of the store into Parquet shards. A short-lived child: it alone loads pyarrow and sees the shared disk.

    python -m hpccarbon.node.seal CONFIG NODE

It reads what is unsealed while it still is root, becomes `daemon.seal_user` (shared file systems squash root), writes
each shard under a temporary name, fsyncs, renames, and prints one line `BOOT HOUR VERSION` per shard for its parent.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec

from hpccarbon import __version__
from hpccarbon import config as configuration
from hpccarbon.errors import HpcCarbonError
from hpccarbon.node import lock
from hpccarbon.node.store import Hour, MeterRow, Row, StepRow, Store
from hpccarbon.node.usage.steps import UNNAMED, StepUse
from hpccarbon.records import STEPS, StepEnergy
from hpccarbon.schema import SHARD, SHARD_VERSION, arrow_schema
from hpccarbon.units import HOUR_S, NS_PER_US

if TYPE_CHECKING:
    import pyarrow as pa

STORE_NAME = "store.sqlite"
EARLIER_WAIT_S = 10.0
"""How long a child waits for one that a killed daemon left behind; shorter than the daemon's wait at its end."""
NICENESS = 5
"""A seal takes a second of a CPU however nice it is. Where jobs hold every CPU, which is what nodes are for, 19 made a
minute of that second, and a stopping daemon does not wait so long; 5 makes it five seconds."""
MOST_STEPS = 10_000
"""What a shard names of an hour's steps, those with the most energy; the others of a job are one without a name."""
_VARIED = ("bucket", "cpu_uj", "dram_uj", "gpu_uj", "idle_uj", "cpu_time_us")
"""Columns whose values seldom come twice in a shard."""


def shard_path(shards: Path, cluster: str, node: str, boot_id: str, hour: int) -> Path:
    """Where the shard of one node, boot and hour (hours since the epoch, UTC) lies."""
    start = datetime.fromtimestamp(hour * HOUR_S, timezone.utc)
    return shards / cluster / f"date={start:%Y-%m-%d}" / f"hour={start:%H}" / f"{node}.{boot_id}.parquet"


def shard_table(rows: list[Row], meters: list[MeterRow], metadata: dict[str, str]) -> pa.Table:
    """The rows of one shard as an Arrow table with columns `schema.SHARD`, sorted by (job_id, bucket)."""
    import pyarrow as pa

    columns: dict[str, list[Any]] = {column.name: [] for column in SHARD}
    records = [_share_record(row) for row in rows] + [_meter_record(row) for row in meters]
    # null job ids (system, unallocated, meters) come last, so that a job's rows lie together.
    records.sort(
        key=lambda r: (
            r["job_id"] is None,
            r["job_id"] or 0,
            r["run"] or "",
            r["holder"],
            r["meter"] or "",
            r["bucket"],
        )
    )
    for record in records:
        for name, values in columns.items():
            values.append(record[name])
    schema = arrow_schema(SHARD, metadata)
    return pa.table(
        {name: pa.array(values, type=schema.field(name).type) for name, values in columns.items()}, schema=schema
    )


def _share_record(row: Row) -> dict[str, Any]:
    run = row.run
    return {
        "bucket": row.bucket,
        "holder": row.holder,
        "job_id": run.job_id if run else None,
        "run": run.run if run else None,
        "meter": None,
        "uid": run.uid if run else None,
        "user": run.user if run else None,
        "account": run.account if run else None,
        "partition": run.partition if run else None,
        "cpu_uj": row.cpu_uj,
        "dram_uj": row.dram_uj,
        "gpu_uj": row.gpu_uj,
        "other_uj": row.other_uj,
        "idle_uj": row.idle_uj,
        "modelled_uj": row.modelled_uj,
        "cpu_time_us": row.cpu_time_ns // NS_PER_US if row.holder != "unallocated" else None,
        "alloc_cores": row.cores,
        "alloc_gpus": row.gpus,
        "present_ms": _ms(row.present_us),
        "covered_ms": _ms(row.covered_us),
    }


def _meter_record(row: MeterRow) -> dict[str, Any]:
    record: dict[str, Any] = {column.name: None for column in SHARD}
    component = "other_uj" if row.component == "node" else f"{row.component}_uj"
    record.update(
        bucket=row.bucket,
        holder="meter",
        meter=row.channel,
        idle_uj=0,
        modelled_uj=row.energy_uj if row.modelled else 0,
        present_ms=_ms(row.covered_us),
        covered_ms=_ms(row.covered_us),
    )
    record[component] = row.energy_uj
    return record


def _ms(us: int) -> int:
    return (us + 500) // 1000


def encode(table: pa.Table, file: IO[bytes] | Path) -> None:
    """Write a shard's rows as Parquet, the one way all shards are written.

    A shard is small, so what stands in it once per column counts. Without Arrow's copy of the schema, with statistics
    of the one column that anybody looks for, and with energies as differences, not as a dictionary of values that come
    once, it takes 55 % of the space and three quarters of the time to read (docs/scale.md).
    """
    import pyarrow.parquet as pq

    with pq.ParquetWriter(
        file,
        table.schema,
        compression="zstd",
        use_dictionary=[name for name in table.column_names if name not in _VARIED],
        column_encoding=dict.fromkeys(_VARIED, "DELTA_BINARY_PACKED"),
        write_statistics=["job_id"],
        store_schema=False,
    ) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata(table.schema.metadata or {})  # would go with the schema


def write_shard(table: pa.Table, path: Path, root: Path) -> None:
    """Write under a temporary name, fsync, rename: a reader sees the old shard or the new one, never a half.

    Below `root` (`shards/` of the shared directory) no link is followed: whoever else may write there must not lead
    this process to another place. Raises: OSError.
    """
    *folders, name = path.relative_to(root).parts
    temporary = f".{name}.{os.getpid()}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    root.mkdir(parents=True, exist_ok=True)
    folder = _descend(root, folders)
    try:
        try:
            with os.fdopen(os.open(temporary, flags, 0o640, dir_fd=folder), "wb") as file:
                encode(table, file)
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=folder)
        os.fsync(folder)
    finally:
        os.close(folder)


def _descend(root: Path, folders: Sequence[str]) -> int:
    """A descriptor of the directory below `root`, made if need be; a link on the way is refused."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    here = os.open(root, flags)
    for name in folders:
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, dir_fd=here)
            below = os.open(name, flags | os.O_NOFOLLOW, dir_fd=here)
        finally:
            os.close(here)
        here = below
    return here


def hold(state: Path, wait_s: float) -> int | None:
    """The descriptor of the lock that lets one child seal at a time; None if another one held it all the while.

    A child outlives its daemon. If it hung and woke after a younger child had written, its rename would put an older
    version of the hour over a newer one that the store takes for sealed. Raises: OSError.
    """
    descriptor = os.open(state / "seal.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    if lock.taken(descriptor, wait_s):
        return descriptor
    os.close(descriptor)
    return None


def become(user: str) -> None:
    """Drop from root to a service user, for good; nothing where `user` is empty or already who we are.

    Raises: HpcCarbonError when there is no such user or this process may not become it.
    """
    if not user:
        return
    import pwd

    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise HpcCarbonError(
            f"daemon.seal_user: no user {user!r} on this node (create it, or leave the key empty)"
        ) from None
    if os.geteuid() == entry.pw_uid:
        return
    try:
        os.initgroups(user, entry.pw_gid)
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    except PermissionError as err:
        raise HpcCarbonError(
            f"daemon.seal_user: cannot become {user!r}: {err.strerror} (run the daemon as root)"
        ) from err


def _read(config: configuration.Config, node: str) -> list[tuple[Hour, list[Row], list[MeterRow], dict[str, str]]]:
    store = Store(config.state_dir(node) / STORE_NAME, config.cluster, node, readonly=True)
    try:
        hours = store.hours(unsealed=True)
        return [
            (hour, list(store.shares(hour)), list(store.meters(hour)), shard_metadata(config, node, hour, store))
            for hour in hours
        ]
    finally:
        store.close()


def shard_metadata(config: configuration.Config, node: str, hour: Hour, store: Store) -> dict[str, str]:
    """What a shard's file says of itself, keys without the prefix."""
    return {
        "schema": "shard",
        "version": str(SHARD_VERSION),
        "cluster": config.cluster,
        "node": node,
        "boot_id": hour.boot_id,
        "hour": datetime.fromtimestamp(hour.hour * HOUR_S, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "daemon_version": __version__,
        "about": store.get(f"about/{hour.boot_id}") or "{}",
        "units": "energy µJ, CPU time µs, presence ms",
        **_steps(store.steps(hour)),
    }


def _steps(rows: Iterable[StepRow]) -> dict[str, str]:
    """The steps as the file tells them: what `records.StepEnergy` reads. Nothing where none are kept.

    They stand beside the rows and not among them: they are parts of rows, and nobody may add them up with those.
    """
    told: dict[tuple[int, str, str], StepUse] = {}
    for row in rows:
        step = row.step if len(told) < MOST_STEPS else UNNAMED
        told.setdefault((row.job_id, row.run, step), StepUse()).add(row.use)
    if not told:
        return {}
    steps = [
        StepEnergy(*key, use.cpu_uj, use.dram_uj, use.gpu_uj, use.other_uj, use.cpu_time_ns // NS_PER_US)
        for key, use in sorted(told.items())
    ]
    return {STEPS: msgspec.json.encode(steps).decode()}


def main(argv: list[str]) -> int:
    """Seal every hour that is behind. Exit 0 when all are written, 1 when one could not be."""
    os.nice(NICENESS)
    os.umask(0o027)
    try:
        config, node = configuration.load(Path(argv[0]) if argv[0] else None), argv[1]
        if hold(config.state_dir(node), EARLIER_WAIT_S) is None:
            print("seal: an earlier one still writes (is the shared file system away?); the rows stay", file=sys.stderr)
            return 1
        work = _read(config, node)  # after the lock: what is read now is newer than all that was written before
        # Loaded before the drop: the service user may not be able to read where Python is installed.
        import pyarrow.parquet  # noqa: F401

        become(config.daemon.seal_user)
    except (HpcCarbonError, OSError) as err:
        print(f"seal: {err}", file=sys.stderr)
        return 1
    failed, root = False, config.shared("shards")
    for hour, rows, meters, metadata in work:
        path = shard_path(root, config.cluster, node, hour.boot_id, hour.hour)
        try:
            write_shard(shard_table(rows, meters, metadata), path, root)
        except OSError as err:
            print(f"seal: cannot write {path}: {err.strerror or err}", file=sys.stderr)
            failed = True
            continue
        if not _tell(f"{hour.boot_id} {hour.hour} {hour.version}"):
            return 1
    return 1 if failed else 0


def _tell(line: str) -> bool:
    """Say to the daemon that an hour is written; False if it is gone: the next one seals again what nobody heard of."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still in the buffer goes nowhere
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
