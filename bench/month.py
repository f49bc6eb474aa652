"""A month of a large site, written straight into the ledger: what `hpccarbon summary` is measured on.

python -m bench.month DIR [JOBS]     1,000,000 jobs of 500 users on 500 nodes
"""

from __future__ import annotations

import json
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from hpccarbon import schema
from hpccarbon.site import index
from hpccarbon.site.engine import connect

CLUSTER = "large"
FIRST = datetime(2026, 10, 1, tzinfo=timezone.utc)
HOURS = 31 * 24
JOBS = 1_000_000
USERS, ACCOUNTS, PARTITIONS, NODES = 500, 40, ("batch", "gpu", "long", "debug"), 500
CONFIG = """
cluster = "large"
[paths]
shared_dir = "{shared}"
[slurm]
accounting = "none"
[report]
timezone = "Europe/Berlin"
[carbon]
zone = "DE"
pue = 1.25
"""
Ints = npt.NDArray[np.int64]


def build(shared: Path, jobs: int = JOBS, seed: int = 1, *, records: bool = False) -> Path:
    """Write the month below `shared`, with job records where asked; returns the configuration file beside it."""
    rng = np.random.default_rng(seed)
    start = rng.integers(0, HOURS, jobs)
    length = np.minimum(rng.geometric(0.5, jobs), HOURS - start)
    user = (USERS * rng.power(0.6, jobs)).astype(np.int64)
    node, cores = rng.integers(0, NODES, jobs), rng.integers(1, 65, jobs)
    for hour in range(HOURS):
        here = np.flatnonzero((start <= hour) & (hour < start + length)).astype(np.int64)
        _write_hour(shared, FIRST + timedelta(hours=hour), here, user, node, cores, rng)
    if records:
        _write_records(shared, start, length, user, node, cores)
    # What the aggregator leaves beside the ledger, so that no file is opened to learn what it was made of.
    index.write(shared, CLUSTER, index.known(lambda: connect(1), shared, CLUSTER)[0])
    config = shared.parent / "large.toml"
    config.write_text(CONFIG.format(shared=shared))
    return config


def _write_hour(
    shared: Path, hour: datetime, here: Ints, user: Ints, node: Ints, cores: Ints, rng: np.random.Generator
) -> None:
    count, others = len(here), 3 * NODES
    total = count + others
    names = [f"node{number:04d}" for number in range(NODES)]
    holder = np.concatenate([np.zeros(count, np.int64), np.repeat([1, 2, 3], NODES)])
    is_job = holder == 0
    at_node = np.concatenate([node[here], np.tile(np.arange(NODES), 3)])
    cpu_uj = rng.integers(10**8, 10**12, total)
    stamp = pa.array([hour] * total, pa.timestamp("s", tz="UTC"))

    def word(index: Ints, values: list[str], known: npt.NDArray[np.bool_] | None = None) -> pa.DictionaryArray:
        mask = None if known is None else ~known
        return pa.DictionaryArray.from_arrays(pa.array(index.astype(np.int32), mask=mask), pa.array(values))

    def of_jobs(values: Ints) -> Ints:
        return np.concatenate([values, np.zeros(others, np.int64)])

    who = of_jobs(user[here])
    held = of_jobs(cores[here])
    columns = {
        "hour": stamp,
        "node": word(at_node, names),
        "holder": word(holder, ["job", "system", "unallocated", "meter"]),
        "job_id": pa.array(of_jobs(here + 1), mask=~is_job),
        "run": word(holder * 0, ["0.b00t"], is_job),
        "meter": word(holder * 0, ["rapl/intel-rapl:0"], holder == 3),
        "uid": pa.array(who + 1000, mask=~is_job),
        "user": word(who, [f"user{number:03d}" for number in range(USERS)], is_job),
        "account": word(who % ACCOUNTS, [f"account{number:02d}" for number in range(ACCOUNTS)], is_job),
        "partition": word(who % len(PARTITIONS), list(PARTITIONS), is_job),
        "cpu_uj": cpu_uj,
        "dram_uj": cpu_uj // 10,
        "gpu_uj": pa.nulls(total, pa.int64()),
        "other_uj": pa.nulls(total, pa.int64()),
        "idle_uj": cpu_uj // 3,
        "modelled_uj": np.zeros(total, np.int64),
        "cpu_time_us": held * 3_600_000_000 // 2,
        "present_ms": np.full(total, 3_600_000),
        "covered_ms": np.full(total, 3_590_000),
        "alloc_cores": pa.array(held.astype(np.int32), mask=~is_job),
        "alloc_gpus": pa.nulls(total, pa.int32()),
        "first_bucket": stamp,
        "last_bucket": stamp,
    }
    made_of = {"digest": "bench", "shards": NODES, "rows": total, "first_job": None, "last_job": None, "set_aside": []}
    if count:
        made_of |= {"first_job": int(here.min()) + 1, "last_job": int(here.max()) + 1}
    keys = {"schema": "ledger", "version": str(schema.LEDGER_VERSION), "cluster": CLUSTER, "hour": hour.isoformat()}
    wanted = schema.arrow_schema(schema.LEDGER, keys | {"made_of": json.dumps(made_of)})
    path = shared / "ledger" / CLUSTER / f"date={hour:%Y-%m-%d}" / f"hour={hour:%H}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns, schema=wanted), path, compression="zstd")


def _write_records(shared: Path, start: Ints, length: Ints, user: Ints, node: Ints, cores: Ints) -> None:
    """Jobs that began at some minute of their first hour and ended with their last."""
    count = len(start)
    began_s = int(FIRST.timestamp()) + 3600 * start + 60 * (np.arange(count) % 60)
    ended_s = int(FIRST.timestamp()) + 3600 * (start + length)
    stamp = pa.timestamp("s", tz="UTC")
    told = {
        "job_id": pa.array(np.arange(count) + 1),
        "restart": pa.array(np.zeros(count, np.int32)),
        "name": pa.array([f"work{number % 5000}" for number in range(count)]),
        "user": pa.array([f"user{number:03d}" for number in user]),
        "account": pa.array([f"account{number:02d}" for number in user % ACCOUNTS]),
        "partition": pa.array([PARTITIONS[number] for number in user % len(PARTITIONS)]),
        "state": pa.array(["COMPLETED"] * count),
        "submit": pa.array(began_s, pa.int64()).cast(stamp),
        "start": pa.array(began_s, pa.int64()).cast(stamp),
        "end": pa.array(ended_s, pa.int64()).cast(stamp),
        "elapsed_s": pa.array(ended_s - began_s),
        "alloc_nodes": pa.array(np.ones(count, np.int32)),
        "alloc_cores": pa.array(cores.astype(np.int32)),
        "nodelist": pa.array([f"node{number:04d}" for number in node]),
    }
    wanted = schema.arrow_schema(
        schema.JOBS, {"schema": "jobs", "version": str(schema.JOBS_VERSION), "cluster": CLUSTER}
    )
    columns = [told.get(field.name, pa.nulls(count)).cast(field.type) for field in wanted]
    folder = shared / "jobs" / CLUSTER
    folder.mkdir(parents=True)
    pq.write_table(pa.table(columns, schema=wanted), folder / f"month={FIRST:%Y-%m}.parquet", compression="zstd")


if __name__ == "__main__":
    print(build(Path(sys.argv[1]).resolve() / "shared", *map(int, sys.argv[2:3])))
