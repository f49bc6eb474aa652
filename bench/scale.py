"""What aggregator and ledger cost on the synthetic cluster (bench/cluster.py) and on a year of jobs (bench/year.py).

Data lie in a temporary folder, or, to be used again, in the one that $HPCCARBON_BENCH_DIR names. Each figure is taken
in a process of its own: CPU time is user + system time of that process, memory its largest resident size.

python -m bench.scale TASK ...     what those processes run
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

from bench import year
from bench.cluster import CLUSTER, CORE_W, CORES, DRAM_CORE_W, FIRST, Site, build, deliver
from bench.result import Cost, Result, cost
from hpccarbon import schema

DAY_NODES, BIG_NODES, MANY_SHARDS = 2_000, 10_000, 100_000
ROUNDS = 5
_SUMS = ", ".join(f"sum({name})" for name in schema.SUM_COLUMNS)
_KEYS = ", ".join(f'"{name}"' for name in schema.KEY_COLUMNS)


@contextlib.contextmanager
def folder(name: str) -> Iterator[Path]:
    """Where a benchmark's data lie: removed afterwards unless $HPCCARBON_BENCH_DIR keeps them."""
    kept = os.environ.get("HPCCARBON_BENCH_DIR")
    if kept:
        (Path(kept) / name).mkdir(parents=True, exist_ok=True)
        yield Path(kept) / name
        return
    with tempfile.TemporaryDirectory(prefix="hpccarbon-bench-") as made:
        yield Path(made)


def site(shared: Path, nodes: int, hours: int) -> Path:
    """A site's shards, made if they are not there."""
    if not (shared / "truth.parquet").exists():
        build(Site(nodes, hours), shared, processes=os.cpu_count() or 1)
    return shared


def task(*words: object) -> tuple[Cost, dict[str, Any]]:
    """Run one of TASKS in a process of its own: what it cost, and what it said."""
    taken = cost([sys.executable, "-m", "bench.scale", *map(str, words)])
    said: dict[str, Any] = json.loads(taken.out.splitlines()[-1])
    return taken, said


# ---- what the processes run: each returns what it has to say --------------------------------------------------------


def _used() -> float:
    return sum(os.times()[:2])


def do_engine(engine: str, shared: str) -> dict[str, float]:
    """The group-by alone, on the same files: no listing, no judging, nothing written. CPU and wall seconds."""
    files = [str(path) for path in sorted(Path(shared, "shards").rglob("*.parquet"))]
    if engine == "duckdb":
        import duckdb

        sql = (
            f"SELECT filename, {_KEYS}, {_SUMS}, max(alloc_cores), max(alloc_gpus), min(epoch_us(bucket)),"
            " max(epoch_us(bucket)) FROM read_parquet($files, filename = true, hive_partitioning = false) GROUP BY ALL"
        )
        start, used = time.perf_counter(), _used()
        con = duckdb.connect()
        con.execute(f"CREATE TEMP TABLE result AS {sql}", {"files": files})
        con.close()  # as ours does: it gives back what 2,000 footers took, a twentieth of the time
    else:
        import polars as pl

        start, used = time.perf_counter(), _used()
        pl.scan_parquet(files, include_file_paths="filename", hive_partitioning=False).group_by(
            "filename", *schema.KEY_COLUMNS
        ).agg(
            pl.col(*schema.SUM_COLUMNS).sum(),
            pl.col(*schema.MAX_COLUMNS).max(),
            pl.col("bucket").min().alias("first"),
            pl.col("bucket").max().alias("last"),
        ).collect(engine="streaming")
    return {"cpu_s": _used() - used, "wall_s": time.perf_counter() - start}


def do_hour(shared: str, threads: str = "", order: str = "sorted") -> dict[str, Any]:
    """One whole hour as the aggregator does it: list, judge, merge, write. CPU and wall seconds, the bytes' hash."""
    from hpccarbon.site import shards
    from hpccarbon.site.aggregate import aggregate_hour

    with tempfile.TemporaryDirectory() as made:
        target = Path(made) / "hour.parquet"
        ((hour, directory),) = list(shards.hour_dirs(Path(shared), CLUSTER).items())[:1]
        import hpccarbon.duck  # noqa: F401 - loading the engine is no part of the work

        start, used = time.perf_counter(), _used()
        files = shards.list_hour(directory)
        if order == "shuffled":
            random.Random(1).shuffle(files)
        aggregate_hour(files, CLUSTER, hour, target, int(threads) if threads else None)
        said = {"cpu_s": _used() - used, "wall_s": time.perf_counter() - start}
        return said | {"sha256": hashlib.sha256(target.read_bytes()).hexdigest(), "shards": len(files)}


def do_aggregate(shared: str, hours: str, workers: str, scheduler: str = "") -> dict[str, Any]:
    """Aggregate the site's first hours from nothing or from what is there: wall seconds, hours merged."""
    from hpccarbon.site.aggregate import aggregate
    from hpccarbon.site.executor import open_crew
    from hpccarbon.site.remote import dask_crew

    opened = dask_crew(scheduler) if scheduler else open_crew(int(workers))
    with opened as crew:
        start = time.perf_counter()
        outcome = aggregate(Path(shared), CLUSTER, crew, until=FIRST + timedelta(hours=int(hours)))
    return {"wall_s": time.perf_counter() - start, "hours": outcome.hours, "shards": outcome.shards}


def do_dask(shared: str, hours: str, workers: str) -> dict[str, Any]:
    """The same on local Dask workers of one thread each, which are up before the clock runs."""
    import distributed

    start: Any = distributed.LocalCluster
    with start(n_workers=int(workers), threads_per_worker=1, dashboard_address=None, silence_logs=50) as cluster:
        client = cluster.get_client()
        client.run(_load)
        return do_aggregate(shared, hours, workers, cluster.scheduler_address)


def _load() -> None:
    """What a worker loads with its first hour."""
    import hpccarbon.duck
    import hpccarbon.site.aggregate  # noqa: F401


def do_pack(shared: str) -> dict[str, Any]:
    """Pack the site's closed days."""
    from hpccarbon.site import days

    ready = days.closed(Path(shared), CLUSTER, FIRST + timedelta(days=30))
    start = time.perf_counter()
    faults = days.pack(Path(shared), CLUSTER, ready)
    return {"wall_s": time.perf_counter() - start, "days": len(ready), "faults": len(faults)}


TASKS: dict[str, Callable[..., dict[str, Any]]] = {
    "engine": do_engine,
    "hour": do_hour,
    "aggregate": do_aggregate,
    "dask": do_dask,
    "pack": do_pack,
}


def _forget(shared: Path) -> None:
    """Remove the ledger, so that it is made from nothing."""
    import shutil

    shutil.rmtree(shared / "ledger", ignore_errors=True)


# ---- the figures ----------------------------------------------------------------------------------------------------


def run_hour() -> Iterator[Result]:
    """One hour of 2,000 nodes against the bare engines, taking turns; and whether the bytes are always the same."""
    with folder("hour") as shared:
        site(shared, DAY_NODES, 1)
        rounds: dict[str, list[float]] = {"duckdb": [], "polars": [], "ours": []}
        walls: dict[str, list[float]] = {name: [] for name in rounds}
        hashes = set()
        for number in range(ROUNDS):
            for engine in ("duckdb", "polars"):
                _, said = task("engine", engine, shared)
                rounds[engine].append(said["cpu_s"])
                walls[engine].append(said["wall_s"])
            _, said = task("hour", shared, ("", "1", "2")[number % 3], ("sorted", "shuffled")[number % 2])
            rounds["ours"].append(said["cpu_s"])
            walls["ours"].append(said["wall_s"])
            hashes.add(said["sha256"])
        bare = min(("duckdb", "polars"), key=lambda engine: statistics.median(rounds[engine]))
        ours, floor = statistics.median(rounds["ours"]), statistics.median(rounds[bare])
        times = ", ".join(f"{name} {statistics.median(values):.2f} s" for name, values in rounds.items())
        what = f"{said['shards']} shards; CPU time, median of {ROUNDS}: {times}"
        yield Result("an hour / bare engine", ours / floor, "x", 1.5, what)
        wall = statistics.median(walls["ours"]) / min(statistics.median(walls[name]) for name in ("duckdb", "polars"))
        yield Result("the same by the clock", wall, "x", None, "whatever else ran on the machine")
        yield Result("different bytes", len(hashes) - 1, "", 0, "1 thread, 2 threads, sorted and shuffled, every run")


def run_day() -> Iterator[Result]:
    """A whole day of 2,000 nodes: linear in hours, bounded memory; nothing new, one late shard, packing, storage."""
    with folder("day") as shared:
        start = time.perf_counter()
        site(shared, DAY_NODES, 24)
        what = f"{DAY_NODES:,} nodes x 24 h by {os.cpu_count()} processes; next to nothing where they were kept"
        yield Result("making the synthetic day", time.perf_counter() - start, "s", None, what)
        peak, per_hour = 0.0, {}
        for hours in (6, 24):
            _forget(shared)
            taken, said = task("aggregate", shared, hours, 2)
            per_hour[hours] = taken.cpu_ms / said["hours"]
            peak = max(peak, taken.peak_mib)
        what = f"CPU time per hour: {per_hour[24]:.0f} ms of 24 hours, {per_hour[6]:.0f} ms of 6"
        yield Result("a day, per hour / a quarter of it", per_hour[24] / per_hour[6], "x", 1.15, what)
        what = f"{said['shards']} shards, 2 threads, {taken.wall_ms / 1e3:.0f} s"
        yield Result("a day's peak memory", peak, "MiB", 600, what)
        task("aggregate", shared, 25, 2)
        time.sleep(3)  # directories younger than two seconds are looked at again
        task("aggregate", shared, 25, 2)
        taken, said = task("aggregate", shared, 25, 2)
        assert said["hours"] == 0
        yield Result("nothing new, 48,000 shards", said["wall_s"], "s", 2, "a pass of --watch")
        yield from _storage(shared)
        if late := deliver(shared):
            taken, said = task("aggregate", shared, 25, 2)
            each = taken.cpu_ms / max(1, said["hours"])
            yield Result("a late shard / its hour", each / per_hour[24], "x", 1.5, f"{late} in {said['hours']} hours")


def _storage(shared: Path) -> Iterator[Result]:
    import duckdb

    con = duckdb.connect()
    counted = "count(*), count(*) FILTER (holder = 'job')"
    shards = sorted((shared / "shards").rglob("*.parquet"))[::10]
    size = sum(path.stat().st_size for path in shards)
    ((rows, minutes),) = con.execute(
        f"SELECT {counted} FROM read_parquet($files)", {"files": [str(path) for path in shards]}
    ).fetchall()
    marginal = _marginal(con, [str(path) for path in shards])
    floor = _floor_bytes()
    what = f"one more job-minute in a shard, by regression; entropy of what the generator draws: {floor:.1f} B"
    yield Result("a job-minute in a shard", marginal, "B", 16, what)
    yield Result("a shard's row", size / rows, "B", None, "of a whole shard; meters have rows, too")
    yield Result("a shard by its job-minutes", size / minutes, "B", None, "all rows and the footer")
    _, said = task("pack", shared)
    packed = sorted((shared / "ledger").rglob("day.parquet"))
    ((_, hours),) = con.execute(
        f"SELECT {counted} FROM read_parquet($files)", {"files": [str(path) for path in packed]}
    ).fetchall()
    size = sum(path.stat().st_size for path in packed)
    floor = _floor_bytes(60)
    what = f"all rows of {said['days']} days, packed in {said['wall_s']:.1f} s; entropy of a job's sums: {floor:.1f} B"
    yield Result("a job-node-hour, packed", size / hours, "B", 60, what)


def _marginal(con: Any, files: list[str]) -> float:
    """Bytes of one more job-minute: least squares of the sizes over (1, other rows, job rows)."""
    import numpy as np

    rows = con.execute(
        "SELECT filename, count(*) FILTER (holder = 'job'), count(*) FILTER (holder <> 'job')"
        " FROM read_parquet($files, filename = true) GROUP BY filename",
        {"files": files},
    ).fetchall()
    sizes = np.array([Path(name).stat().st_size for name, *_ in rows], float)
    given = np.array([[1, others, jobs] for _, jobs, others in rows], float)
    return float(np.linalg.lstsq(given, sizes, rcond=None)[0][2])


def _floor_bytes(minutes: int = 1) -> float:
    """Entropy of the noise that the generator draws for a whole node's job: no file can hold it in less.

    CPU time, CPU energy and DRAM energy are normal, deviations as in `cluster.node_rows`; h = log2(s sqrt(2 pi e)).
    """
    scale = CORES * 60e6 * math.sqrt(minutes)
    sigmas = (0.05 * scale, 0.01 * 0.8 * CORE_W * scale, 0.03 * 0.8 * DRAM_CORE_W * scale)
    return sum(math.log2(sigma * math.sqrt(2 * math.pi * math.e)) for sigma in sigmas) / 8


def run_known() -> Iterator[Result]:
    """Nothing new over 100,000 shards: empty files, all of them set aside, which is more to remember than good ones."""
    with folder("known") as shared:
        for number in range(MANY_SHARDS // DAY_NODES):
            hour = FIRST + timedelta(hours=number)
            room = shared / "shards" / CLUSTER / f"date={hour:%Y-%m-%d}" / f"hour={hour:%H}"
            room.mkdir(parents=True, exist_ok=True)
            for node in range(DAY_NODES):
                (room / f"node{node:05d}.b00t.parquet").touch()
        task("aggregate", shared, 1000, 2)
        time.sleep(3)  # directories younger than two seconds are looked at again
        task("aggregate", shared, 1000, 2)
        taken, said = task("aggregate", shared, 1000, 2)
        assert said["hours"] == 0
        what = f"a pass of --watch; as a new process {taken.wall_ms / 1e3:.2f} s, {taken.peak_mib:.0f} MiB"
        yield Result("nothing new, 100,000 shards", said["wall_s"], "s", 2, what)


def run_dask() -> Iterator[Result]:
    """Two local Dask workers of one thread each against one, on hours of the 2,000 nodes."""
    with folder("day") as shared:
        site(shared, DAY_NODES, 24)
        took: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(3):
            for workers, times in took.items():
                _forget(shared)
                _, said = task("dask", shared, 12, workers)
                times.append(said["wall_s"])
        one, two = (min(values) for values in took.values())
        load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
        what = f"12 hours: {one:.1f} s on one, {two:.1f} s on two, best of 3; {os.cpu_count()} CPUs, load {load}"
        yield Result("1 / speed-up of two workers", two / one, "x", 1 / 1.7, what)
        alone, beside = _side_by_side(shared)
        what = f"two processes, no Dask, one hour each: {beside:.2f} s side by side, one alone {alone:.2f} s, best of 5"
        yield Result("1 / what the machine gives two", beside / (2 * alone), "x", None, what)


def _side_by_side(shared: Path) -> tuple[float, float]:
    """Seconds for an hour by the clock, of one process and of two at once: two CPUs may be one core's halves."""
    alone, beside = [], []
    with ThreadPoolExecutor(2) as pool:
        for _ in range(5):
            alone.append(task("hour", shared, 1)[1]["wall_s"])
            beside.append(max(said["wall_s"] for _, said in pool.map(lambda _: task("hour", shared, 1), range(2))))
    return min(alone), min(beside)


def run_big() -> Iterator[Result]:
    """10,000 nodes: two hours measured, the day and W workers reckoned from them."""
    with folder("big") as shared:
        site(shared, BIG_NODES, 2)
        _forget(shared)
        taken, said = task("aggregate", shared, 2, 1)
        each_s = taken.cpu_ms / 1e3 / said["hours"]
        per_shard_ms = taken.cpu_ms / said["shards"]
        what = f"{said['shards']} shards in {said['hours']} hours; {per_shard_ms:.2f} ms each, {taken.peak_mib:.0f} MiB"
        yield Result("an hour of 10,000 nodes", each_s, "CPU s", None, what)
        for workers in (1, 2, 16):
            rounds = math.ceil(24 / workers)
            yield Result(
                f"their day on {workers} workers", rounds * each_s, "s", None, f"reckoned: {rounds} hours in turn"
            )


def run_year() -> Iterator[Result]:
    """Single questions to 12 million jobs in 12 months."""
    with folder("year") as room:
        config = room / "year.toml"
        if not config.exists():
            year.build(room / "shared")
        size = sum(path.stat().st_size for path in (room / "shared").rglob("*.parquet"))
        program = str(Path(sys.executable).parent / "hpccarbon")
        costs = [cost([program, "report", "--job", "6543210", "--config", str(config)]) for _ in range(7)]
        cpu_ms = statistics.median(one.cpu_ms for one in costs)
        what = f"{size / 1e9:.1f} GB of ledger and records; user + sys, median of 7"
        yield Result("report --job of 12 M jobs", cpu_ms, "ms", 400, what)
        yield Result("its memory", max(one.peak_mib for one in costs), "MiB", 200, "largest resident size")
        arguments = [program, "report", "--by", "user", "--month", "2026-10", "--config", str(config)]
        monthly = [cost(arguments) for _ in range(3)]
        wall_s = statistics.median(one.wall_ms for one in monthly) / 1e3
        peak = max(one.peak_mib for one in monthly)
        what = (
            f"by the clock; {statistics.median(one.cpu_ms for one in monthly) / 1e3:.1f} s of CPU time, {peak:.0f} MiB"
        )
        yield Result("report --by user, 1.02 M jobs", wall_s, "s", 3, what)


BENCHMARKS: dict[str, Callable[[], Iterator[Result]]] = {
    "hour": run_hour,
    "day": run_day,
    "known": run_known,
    "dask": run_dask,
    "big": run_big,
    "year": run_year,
}
QUICK = ("hour", "known")
"""Those that take less than a minute."""


if __name__ == "__main__":
    print(json.dumps(TASKS[sys.argv[1]](*sys.argv[2:])))
