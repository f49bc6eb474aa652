"""Makes shards for tests: seeded, and consistent as real ones are (jobs + system + unallocated = meters)."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hpccarbon import schema

HOUR = datetime(2026, 3, 1, 10, tzinfo=timezone.utc)
BOOT = "0b3c5d7e9f1a"
CPU_METER = "rapl/intel-rapl:0"
GPU_METER = "nvml/GPU-0"
Row = dict[str, Any]


def row(bucket: datetime, holder: str, **given: Any) -> Row:
    """One shard row: what is not given is null, or 0 where null is not allowed."""
    values: Row = {column.name: None if column.nullable else 0 for column in schema.SHARD}
    values |= {"bucket": bucket, "holder": holder, "present_ms": 60_000, "covered_ms": 60_000}
    return values | given


def job_row(bucket: datetime, job_id: int, **given: Any) -> Row:
    """A row of a job, with a run of its own unless one is given."""
    return row(bucket, "job", job_id=job_id, **({"run": f"{job_id}.0"} | given))


def meter_rows(rows: Iterable[Row]) -> list[Row]:
    """The meter rows that make shares conserve: one per bucket and component that any share knows."""
    totals: dict[tuple[datetime, str], int] = {}
    for share in rows:
        for column in schema.ENERGY_COLUMNS:
            if share[column] is not None:
                key = (share["bucket"], column)
                totals[key] = totals.get(key, 0) + share[column]
    return [
        row(bucket, "meter", meter=f"test/{column.removesuffix('_uj')}:0", **{column: energy_uj})
        for (bucket, column), energy_uj in sorted(totals.items())
    ]


def write(
    shared: Path,
    rows: Sequence[Row],
    *,
    hour: datetime = HOUR,
    node: str = "n1",
    boot: str = BOOT,
    cluster: str = "alpha",
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write one shard where it belongs and return its path; `metadata` overrides single keys."""
    folder = shared / "shards" / cluster / f"date={hour:%Y-%m-%d}" / f"hour={hour:%H}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{node}.{boot}.parquet"
    keys = {
        "schema": "shard",
        "version": str(schema.SHARD_VERSION),
        "cluster": cluster,
        "node": node,
        "boot_id": boot,
        "hour": hour.isoformat(),
        "daemon_version": "0.1.0",
        "idle_power_w": "100.0",
        "meters": json.dumps([CPU_METER]),
        "units": "uJ,us,ms",
    } | dict(metadata or {})
    wanted = schema.arrow_schema(schema.SHARD, keys)
    columns = {column.name: [item[column.name] for item in rows] for column in schema.SHARD}
    pq.write_table(pa.table(columns, schema=wanted), path, compression="zstd")
    return path


def node_hour(
    seed: int,
    *,
    hour: datetime = HOUR,
    job_ids: Sequence[int] = (101, 102, 103),
    minutes: Sequence[int] = range(60),
    gpus: bool = False,
    dram: bool = True,
) -> list[Row]:
    """An hour of one node: each job in each minute, `system`, `unallocated` and the meters, adding up exactly."""
    rng = random.Random(seed)
    rows: list[Row] = []
    for minute in minutes:
        bucket = hour + timedelta(minutes=minute)
        shares = [
            job_row(
                bucket,
                job_id,
                uid=1000 + job_id % 7,
                user=f"user{job_id % 7}",
                account=f"acct{job_id % 3}",
                partition="gpu" if gpus else "batch",
                alloc_cores=1 + job_id % 16,
                alloc_gpus=1 if gpus else 0,
                cpu_time_us=rng.randrange(60_000_000),
            )
            for job_id in job_ids
        ]
        shares += [row(bucket, "system", cpu_time_us=rng.randrange(600_000)), row(bucket, "unallocated")]
        for share in shares:
            share["cpu_uj"] = rng.randrange(2_000_000_000)
            share["dram_uj"] = rng.randrange(200_000_000) if dram else None
            share["gpu_uj"] = rng.randrange(20_000_000_000) if gpus else None
            share["idle_uj"] = share["cpu_uj"] // 3
        rows += shares + meter_rows(shares)
    return rows


def site(
    shared: Path,
    *,
    cluster: str = "alpha",
    hours: int = 3,
    nodes: int = 4,
    first: datetime = HOUR,
    jobs_per_node: int = 3,
    seed: int = 1,
) -> list[Path]:
    """A small site: `nodes` nodes over `hours` hours, each job on one node for all of it."""
    paths = []
    for index in range(hours):
        hour = first + timedelta(hours=index)
        for number in range(nodes):
            ids = [1000 + number * jobs_per_node + job for job in range(jobs_per_node)]
            rows = node_hour(seed + index * nodes + number, hour=hour, job_ids=ids, gpus=number % 2 == 1)
            paths.append(write(shared, rows, hour=hour, node=f"n{number + 1}", cluster=cluster))
    return paths
