"""A synthetic cluster: writes the shards that the daemons of N nodes would write, and beside them the truth per job.

python -m bench.cluster DIR [--nodes N] [--hours H] [--seed S] [--processes P]

Job sizes, run times and the daily cycle of arrivals follow U. Lublin and D. G. Feitelson, "The workload on parallel
supercomputers: modeling the characteristics of rigid jobs", J. Parallel Distrib. Comput. 63(11), 2003, with the
parameters of its "whole sample" (model lublin99 of the Parallel Workloads Archive, https://www.cs.huji.ac.il/labs/
parallel/workload/). How many jobs each user submits follows the cluster Kelvin2 (Queen's University Belfast, "User
behaviour on Kelvin2 HPC", 2026-05-01, https://blogs.qub.ac.uk/dipsa/?p=3889): 2.12 % of the users 70 % of the jobs,
3.75 % 80 %, 29.3 % 99 %; Zipf's law with exponent 1.5 gives 73, 81 and 96 %. Users share accounts by number, so that
accounts differ as users do. Assumed, not taken from a source: how many users and accounts, and that 70 % of the nodes
run whole-node jobs, 20 % serial jobs side by side, 10 % have four GPUs. Nodes are identical: 64 cores, 100 W idle, 4 W
per busy core.

What goes wrong on a real site goes wrong here, seldom and by the seed: see `Faults`. Energy is drawn first and then
added up into meters, so every shard conserves it exactly.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from hpccarbon import schema
from hpccarbon.node.seal import encode
from hpccarbon.units import HOUR_S

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

FIRST = datetime(2026, 3, 2, tzinfo=timezone.utc)
CLUSTER = "synth"
CORES, GPUS = 64, 4
IDLE_W, CORE_W, DRAM_IDLE_W, DRAM_CORE_W, GPU_IDLE_W, GPU_BUSY_W = 100, 4.0, 8, 0.5, 50, 250.0
USERS, ACCOUNTS = 300, 40
USERS_EXPONENT = 1.5
PARTITIONS = ("batch", "shared", "gpu")
HOLDERS = ("job", "meter", "system", "unallocated")
CPU_METERS = ("rapl/intel-rapl:0", "rapl/intel-rapl:1")
DRAM_METERS = ("rapl/intel-rapl:0:0", "rapl/intel-rapl:1:0")
METERS = (*CPU_METERS, *DRAM_METERS, *(f"nvml/GPU-{number}" for number in range(GPUS)))
_SHARED_LANES = (16, 16, 8, 8, 4, 4, 2, 2, 1, 1, 1, 1)
"""How a node of the shared partition is cut into places of so many cores: together 64."""
_WARM_UP_S = 12 * HOUR_S
_WALL_LIMIT_S = 48 * HOUR_S
_NO_JOB = 2**62


class Faults(NamedTuple):
    """How often, per node and hour (skew: per node), things go wrong."""

    silent: float = 0.002
    """No daemon: there is no shard. The job ran all the same."""
    rebooted: float = 0.002
    """The node came up anew at half past: two shards of two boots, five minutes that nobody saw."""
    gap: float = 0.005
    """For ten minutes the DRAM counters could not be read: null, and not covered."""
    late: float = 0.005
    """The shard reaches the shared directory only with `deliver`."""
    skew: float = 0.01
    """The node's clock is two minutes ahead: its rows lie two minutes late, some in the next hour."""


class Site(NamedTuple):
    """What to build. `jobs_before` is the first job id minus one."""

    nodes: int
    hours: int
    seed: int = 1
    load: float = 0.85
    first: datetime = FIRST
    cluster: str = CLUSTER
    jobs_before: int = 1_000_000
    faults: Faults = Faults()


class Jobs(NamedTuple):
    """All jobs of a site, one entry each; seconds count from the site's first hour and may be negative."""

    submit_s: Ints
    start_s: Ints
    end_s: Ints
    nodes: Ints
    cores: Ints
    gpus: Ints
    user: Ints
    partition: Ints
    load: Floats
    at_job: Ints
    """With `at_node`: which job held which node, ordered by node."""
    at_node: Ints


def sizes(rng: np.random.Generator, count: int, most: int) -> Ints:
    """Nodes of so many jobs: a quarter serial, most others powers of two, by the two-stage uniform distribution."""
    high = math.log2(most)
    low, middle = min(0.8, high), max(min(0.8, high), high - 2.5)
    small = rng.random(count) < 0.86
    exponent = np.where(small, rng.uniform(low, middle, count), rng.uniform(middle, high, count))
    kind = rng.random(count)
    exponent = np.where(kind < 0.244 + 0.576, np.round(exponent), exponent)
    return np.where(kind < 0.244, 1, np.minimum(np.round(2**exponent), most)).astype(np.int64)


def run_times_s(rng: np.random.Generator, nodes: Ints) -> Ints:
    """Run times: e to a mixture of two gammas whose weights depend on the size; cut at the wall-time limit."""
    short = rng.random(len(nodes)) < np.clip(0.78 - 0.0054 * nodes, 0, 1)
    drawn = np.where(short, rng.gamma(4.2, 0.94, len(nodes)), rng.gamma(312, 0.03, len(nodes)))
    return np.clip(np.exp(drawn), 1, _WALL_LIMIT_S).astype(np.int64)


def arrivals_s(rng: np.random.Generator, count: int, span_s: int) -> Ints:
    """Sorted arrivals over a span that begins at midnight: each day the half-hours' gamma, folded at midnight."""
    of_day = (rng.gamma(8.1737, 3.9631, count) * 1800) % 86_400
    days = rng.integers(0, max(1, math.ceil(span_s / 86_400)), count)
    return np.sort((days * 86_400 + of_day).astype(np.int64) % span_s)


def workload(site: Site) -> Jobs:
    """Draw the jobs and place them first come, first served: each takes the places that become free first."""
    rng = np.random.default_rng(site.seed)
    parts, placed, job = [], [], 0
    shared, gpu = max(1, site.nodes // 5), max(1, site.nodes // 10)
    ranges = (range(0, site.nodes - shared - gpu), range(site.nodes - shared - gpu, site.nodes - gpu))
    for partition, members in enumerate((*ranges, range(site.nodes - gpu, site.nodes))):
        kinds = {0: (CORES,), 1: tuple(sorted(set(_SHARED_LANES))), 2: (CORES // GPUS,)}[partition]
        for cores in kinds:
            per_node = {0: 1, 1: _SHARED_LANES.count(cores), 2: GPUS}[partition]
            lanes = [(-_WARM_UP_S, node, lane) for node in members for lane in range(per_node)]
            if lanes:
                drawn, held = _place(rng, site, lanes, whole=partition == 0)
                count = len(drawn["submit"])
                drawn |= {"cores": np.full(count, cores), "partition": np.full(count, partition)}
                parts.append(drawn)
                placed += [(job + number, node) for number, node in held]
                job += count
    merged = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    number = np.argsort(np.argsort(merged["submit"], kind="stable"), kind="stable")  # ids in order of submission
    order = np.argsort(merged["submit"], kind="stable")
    merged = {name: values[order] for name, values in merged.items()}
    count = len(order)
    at = np.array(placed, dtype=np.int64).reshape(-1, 2)
    at = at[np.argsort(at[:, 1], kind="stable")]
    weights = np.arange(1, USERS + 1) ** -USERS_EXPONENT
    rank = rng.choice(USERS, count, p=weights / weights.sum())
    return Jobs(
        merged["submit"],
        merged["start"],
        merged["end"],
        merged["nodes"],
        merged["cores"],
        np.where(merged["partition"] == 2, 1, 0),
        rank.astype(np.int64),
        merged["partition"],
        rng.beta(8, 2, count),
        number[at[:, 0]],
        at[:, 1],
    )


def _place(
    rng: np.random.Generator, site: Site, lanes: list[tuple[int, int, int]], *, whole: bool
) -> tuple[dict[str, Ints], list[tuple[int, int]]]:
    """Jobs for places of one kind, up to the site's load, and the (job, node) pairs they hold."""
    span = site.hours * HOUR_S + _WARM_UP_S
    wanted = site.load * len(lanes) * span
    draw = 64
    while True:
        size = sizes(rng, draw, len(lanes)) if whole else np.ones(draw, np.int64)
        length = run_times_s(rng, size)
        total = np.cumsum(size * np.minimum(length, span))
        if total[-1] >= wanted:
            break
        draw *= 2
    count = int(np.searchsorted(total, wanted)) + 1
    size, length = size[:count], length[:count]
    submit = arrivals_s(rng, count, span) - _WARM_UP_S
    start = np.empty(count, np.int64)
    held: list[tuple[int, int]] = []
    heapq.heapify(lanes)
    for number in range(count):
        taken = [heapq.heappop(lanes) for _ in range(size[number])]
        begin = max(int(submit[number]), taken[-1][0])
        start[number] = begin
        for _, node, lane in taken:
            held.append((number, node))
            heapq.heappush(lanes, (begin + int(length[number]), node, lane))
    return {"submit": submit, "start": start, "end": start + length, "nodes": size}, held


class Rows(NamedTuple):
    """The shard rows of one node over all hours, as plain arrays; -1 in a nullable column is null."""

    minute: Ints
    holder: Ints
    job: Ints
    meter: Ints
    cpu_uj: Ints
    dram_uj: Ints
    gpu_uj: Ints
    idle_uj: Ints
    cpu_time_us: Ints
    cores: Ints
    gpus: Ints
    present_ms: Ints
    covered_ms: Ints

    def where(self, keep: Any) -> Rows:
        """The rows that a mask, an index or a slice chooses."""
        return Rows(*(column[keep] for column in self))


def node_rows(site: Site, jobs: Jobs, node: int, lost: npt.NDArray[np.bool_], blind: npt.NDArray[np.bool_]) -> Rows:
    """What one node used, minute by minute. `lost` minutes were seen by nobody, `blind` ones without DRAM."""
    rng = np.random.default_rng((site.seed, 7, node))
    end_of_all = site.hours * HOUR_S
    here = jobs.at_job[np.searchsorted(jobs.at_node, node) : np.searchsorted(jobs.at_node, node, "right")]
    here = here[(jobs.start_s[here] < end_of_all) & (jobs.end_s[here] > 0)]
    start, end = np.maximum(jobs.start_s[here], 0), np.minimum(jobs.end_s[here], end_of_all)
    first = start // 60
    count = (end - 1) // 60 - first + 1
    of = np.repeat(np.arange(len(here)), count)
    minute = first[of] + np.arange(len(of)) - np.repeat(np.cumsum(count) - count, count)
    present_ms = (np.minimum(end[of], 60 * minute + 60) - np.maximum(start[of], 60 * minute)) * 1000
    job, minutes = here[of], site.hours * 60
    cores, gpus, has_gpus = jobs.cores[job], jobs.gpus[job], node >= site.nodes - max(1, site.nodes // 10)
    load = np.clip(jobs.load[job] + rng.normal(0, 0.05, len(job)), 0.01, 1)
    busy = cores * load * present_ms * 1000 * (1 + rng.normal(0, 0.01, len(job)))  # core-µs, with a job's own power
    held = np.bincount(minute, cores * present_ms, minutes).astype(np.int64)
    held_gpus = np.bincount(minute, gpus * present_ms, minutes).astype(np.int64)
    everything = np.arange(minutes)
    whole = np.full(minutes, 60_000)
    none = np.zeros(minutes, np.int64)
    system_us = rng.integers(50_000, 900_000, minutes)

    def shares(
        holder: int, at: Ints, of_job: Ints, core_ms: Ints, gpu_ms: Ints, busy_us: npt.NDArray[Any], time_us: Ints
    ) -> dict[str, Ints]:
        idle_cpu = IDLE_W * core_ms * 1000 // CORES
        idle_dram = DRAM_IDLE_W * core_ms * 1000 // CORES
        idle_gpu = GPU_IDLE_W * gpu_ms * 1000
        cpu = idle_cpu + (CORE_W * busy_us).astype(np.int64)
        dram = idle_dram + (DRAM_CORE_W * busy_us * (1 + rng.normal(0, 0.03, len(at)))).astype(np.int64)
        draw = np.clip(0.7 + rng.normal(0, 0.1, len(at)), 0, 1) if holder == 0 else np.zeros(len(at))
        gpu = idle_gpu + (GPU_BUSY_W * gpu_ms * 1000 * draw).astype(np.int64) if has_gpus else np.full(len(at), -1)
        return {
            "minute": at,
            "holder": np.full(len(at), holder),
            "job": of_job,
            "meter": np.full(len(at), -1),
            "cpu_uj": cpu,
            "dram_uj": np.where(blind[at], -1, dram),
            "gpu_uj": gpu,
            "idle_uj": idle_cpu + np.where(blind[at], 0, idle_dram) + (idle_gpu if has_gpus else 0),
            "cpu_time_us": time_us,
        }

    def width(values: Ints, **given: Ints) -> dict[str, Ints]:
        present = given.get("present_ms", whole)
        missing = np.full(len(values), -1)
        covered = np.where(blind[values], 0, present)
        return {"cores": missing, "gpus": missing, "present_ms": present, "covered_ms": covered} | given

    of_jobs = shares(
        0, minute, job, cores * present_ms, gpus * present_ms, busy, (cores * load * present_ms * 1000).astype(np.int64)
    )
    of_jobs |= width(
        minute, cores=cores, gpus=gpus if has_gpus else np.zeros(len(job), np.int64), present_ms=present_ms
    )
    of_system = shares(2, everything, none + _NO_JOB, none, none, system_us * 1.0, system_us) | width(everything)
    free_gpus = GPUS * 60_000 - held_gpus if has_gpus else none
    of_nobody = shares(3, everything, none + _NO_JOB, CORES * 60_000 - held, free_gpus, none * 1.0, none - 1)
    of_nobody |= width(everything)
    parts = [of_jobs, of_system, of_nobody]
    shared_rows = {name: np.concatenate([part[name] for part in parts]) for name in Rows._fields}
    parts = [shared_rows, *_meters(shared_rows, minutes, rng, has_gpus=has_gpus)]
    rows = Rows(*(np.concatenate([part[name] for part in parts]) for name in Rows._fields))
    return rows.where(~lost[rows.minute])


def _meters(
    shares: dict[str, Ints], minutes: int, rng: np.random.Generator, *, has_gpus: bool
) -> Iterator[dict[str, Ints]]:
    """Meter rows that add up to the shares: each component's sum, divided among its counters."""
    components = {"cpu_uj": (0, 1), "dram_uj": (2, 3)} | ({"gpu_uj": tuple(range(4, 4 + GPUS))} if has_gpus else {})
    everything = np.arange(minutes)
    for component, meters in components.items():
        known = shares[component] >= 0
        total = np.zeros(minutes, np.int64)
        np.add.at(total, shares["minute"][known], shares[component][known])
        read = np.zeros(minutes, bool)
        read[shares["minute"][known]] = True
        left = total
        for place, meter in enumerate(meters):
            others = len(meters) - place - 1
            part = left if not others else (left * rng.uniform(0.9, 1.1, minutes) / (others + 1)).astype(np.int64)
            left = left - part
            values = {name: np.full(minutes, -1) for name in Rows._fields}
            values |= {"minute": everything, "holder": np.full(minutes, 1), "job": np.full(minutes, _NO_JOB)}
            values |= {"meter": np.full(minutes, meter), component: part, "idle_uj": np.zeros(minutes, np.int64)}
            values |= {"present_ms": np.full(minutes, 60_000), "covered_ms": np.full(minutes, 60_000)}
            yield {name: column[read] for name, column in values.items()}


def _table(site: Site, jobs: Jobs, node: str, boot: str, hour: datetime, rows: Rows) -> pa.Table:
    """The shard of one node, boot and hour: columns `schema.SHARD`."""
    count = len(rows.minute)
    is_job = rows.holder == 0
    of = np.where(is_job, rows.job, 0)
    nothing = pa.nulls(count, pa.int64())

    def number(values: Ints, kind: pa.DataType | None = None) -> pa.Array:
        return pa.array(values, kind or pa.int64(), mask=values < 0)

    def word(codes: Ints, names: Any, known: npt.NDArray[np.bool_] | None = None) -> pa.DictionaryArray:
        used, index = np.unique(codes, return_inverse=True)
        mask = None if known is None else ~known
        values = [names(code) for code in used.tolist()]
        return pa.DictionaryArray.from_arrays(
            pa.array(index.astype(np.int32), mask=mask), pa.array(values, pa.string())
        )

    base = int(site.first.timestamp())
    columns = {
        "bucket": pa.array(base + 60 * rows.minute, pa.int64()).cast(pa.timestamp("s", tz="UTC")),
        "holder": word(rows.holder, lambda code: HOLDERS[code]),
        "job_id": pa.array(site.jobs_before + 1 + of, mask=~is_job),
        "run": word(np.where(is_job, of, -1), lambda code: f"0.{boot[:6]}.{9000 + code}", is_job),
        "meter": word(rows.meter, lambda code: METERS[code], rows.meter >= 0),
        "uid": pa.array(1000 + jobs.user[of], mask=~is_job),
        "user": word(jobs.user[of], lambda code: f"user{code:03d}", is_job),
        "account": word(jobs.user[of] % ACCOUNTS, lambda code: f"account{code:02d}", is_job),
        "partition": word(jobs.partition[of], lambda code: PARTITIONS[code], is_job),
        "cpu_uj": number(rows.cpu_uj),
        "dram_uj": number(rows.dram_uj),
        "gpu_uj": number(rows.gpu_uj),
        "other_uj": nothing,
        "idle_uj": rows.idle_uj,
        "modelled_uj": np.zeros(count, np.int64),
        "cpu_time_us": number(rows.cpu_time_us),
        "alloc_cores": number(rows.cores, pa.int32()),
        "alloc_gpus": number(rows.gpus, pa.int32()),
        "present_ms": rows.present_ms,
        "covered_ms": rows.covered_ms,
    }
    keys = {
        "schema": "shard",
        "version": str(schema.SHARD_VERSION),
        "cluster": site.cluster,
        "node": node,
        "boot_id": boot,
        "hour": hour.isoformat(),
        "daemon_version": "synthetic",
        "idle_power_w": f"{IDLE_W:.1f}",
        "meters": json.dumps(METERS[: 4 + GPUS]),
        "units": "uJ,us,ms",
    }
    return pa.table(columns, schema=schema.arrow_schema(schema.SHARD, keys))


def write_node(site: Site, jobs: Jobs, shared: Path, node: int) -> dict[str, Ints]:
    """Write one node's shards; returns what they hold of each job: job, minutes and the sums of its energy."""
    rng = np.random.default_rng((site.seed, 3, node))
    faults, name = site.faults, f"node{node + 1:05d}"
    drawn = rng.random((4, site.hours))
    silent, rebooted, gap, late = (
        drawn[place] < rate for place, rate in enumerate((faults.silent, faults.rebooted, faults.gap, faults.late))
    )
    skew = 2 if rng.random() < faults.skew else 0
    in_hour = np.tile(np.arange(60), site.hours)
    lost = np.repeat(silent, 60) | (np.repeat(rebooted, 60) & (in_hour >= 30) & (in_hour < 35))
    blind = np.repeat(gap, 60) & (in_hour < 10)
    rows = node_rows(site, jobs, node, lost, blind)
    boots = np.concatenate([[0], np.cumsum(rebooted)])  # boots before the hour; one more after its half
    boot = boots[rows.minute // 60] + (rebooted[rows.minute // 60] & (rows.minute % 60 >= 30))
    rows = rows._replace(minute=rows.minute + skew)
    hour = rows.minute // 60
    order = np.lexsort((rows.minute, rows.meter, rows.holder, rows.job, boot, hour))
    rows, boot, hour = rows.where(order), boot[order], hour[order]
    edges = np.flatnonzero(np.diff(hour * 1_000 + boot)) + 1
    for begin, end in zip([0, *edges], [*edges, len(hour)], strict=True):
        if begin == end:
            continue
        number = int(hour[begin])
        start = site.first + timedelta(hours=number)
        boot_id = f"b{site.seed:03d}{node:05d}{int(boot[begin]):02d}"
        room = "late" if late[min(number, site.hours - 1)] else "shards"
        path = (
            shared / room / site.cluster / f"date={start:%Y-%m-%d}" / f"hour={start:%H}" / f"{name}.{boot_id}.parquet"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        encode(_table(site, jobs, name, boot_id, start, rows.where(slice(begin, end))), path)
    mine = rows.where(rows.holder == 0)
    job, of = np.unique(mine.job, return_inverse=True)
    told: dict[str, Ints] = {"job": job, "minutes": np.bincount(of, minlength=len(job))}
    for column in ("cpu_uj", "dram_uj", "gpu_uj", "cpu_time_us", "present_ms"):
        told[column] = np.zeros(len(job), np.int64)
        np.add.at(told[column], of, np.maximum(getattr(mine, column), 0))
    return told


_task: tuple[Site, Jobs, Path] | None = None


def _begin(site: Site, shared: Path) -> None:
    global _task  # noqa: PLW0603 - drawn once per process: the jobs are a function of the site
    _task = site, workload(site), shared


def _some(nodes: range) -> list[dict[str, Ints]]:
    assert _task is not None
    return [write_node(*_task, node) for node in nodes]


def build(site: Site, shared: Path, processes: int = 1) -> Path:
    """Write all shards below `shared`, and the truth; returns the path of the truth.

    The truth has a row per job that ran: job_id, user, account, partition, nodes, cores, start_s, end_s, and what the
    shards say of it in sum (minutes, cpu_uj, dram_uj, gpu_uj, cpu_time_us, present_ms). `late` shards count.
    """
    chunks = [range(begin, min(begin + 16, site.nodes)) for begin in range(0, site.nodes, 16)]
    if processes == 1:
        _begin(site, shared)
        told = [one for chunk in chunks for one in _some(chunk)]
    else:
        with ProcessPoolExecutor(processes, initializer=_begin, initargs=(site, shared)) as pool:
            told = [one for some in pool.map(_some, chunks) for one in some]
    jobs = workload(site)
    count = len(jobs.submit_s)
    sums = {name: np.zeros(count, np.int64) for name in told[0] if name != "job"}
    for one in told:
        for name, values in sums.items():
            values[one["job"]] += one[name]
    ran = np.flatnonzero((jobs.start_s < site.hours * HOUR_S) & (jobs.end_s > 0))
    truth = {
        "job_id": site.jobs_before + 1 + ran,
        "user": [f"user{user:03d}" for user in jobs.user[ran]],
        "account": [f"account{user % ACCOUNTS:02d}" for user in jobs.user[ran]],
        "partition": [PARTITIONS[partition] for partition in jobs.partition[ran]],
        "nodes": jobs.nodes[ran],
        "cores": jobs.cores[ran],
        "start_s": jobs.start_s[ran],
        "end_s": jobs.end_s[ran],
        **{name: values[ran] for name, values in sums.items()},
    }
    path = shared / "truth.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(truth), path, compression="zstd")
    return path


def deliver(shared: Path) -> int:
    """Let the late shards arrive; returns how many there were."""
    late = sorted((shared / "late").rglob("*.parquet"))
    for path in late:
        target = shared / "shards" / path.relative_to(shared / "late")
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    return len(late)


def main() -> None:
    """Build one from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--hours", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    print(build(Site(given.nodes, given.hours, given.seed), given.directory, given.processes))


if __name__ == "__main__":
    main()
