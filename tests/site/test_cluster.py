"""The synthetic cluster of the benchmarks: seeded, shaped as its source says, and its truth is what the ledger says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from bench import cluster
from hpccarbon.site.aggregate import aggregate
from hpccarbon.site.executor import open_crew
from hpccarbon.site.ledger import Ledger, Selection
from hpccarbon.site.verify import verify

SITE = cluster.Site(nodes=20, hours=3, seed=4, faults=cluster.Faults(0.05, 0.05, 0.1, 0.1, 0.2))


def run(shared: Path) -> None:
    with open_crew() as crew:
        outcome = aggregate(shared, SITE.cluster, crew)
    assert (outcome.set_aside, outcome.failed) == ((), ())


def test_the_ledger_tells_the_truth_of_every_job_once_all_shards_are_there(tmp_path: Path) -> None:
    truth = pq.read_table(cluster.build(SITE, tmp_path)).to_pylist()
    run(tmp_path)
    assert cluster.deliver(tmp_path) > 0
    run(tmp_path)
    rows = {row.key[0]: row for row in Ledger(tmp_path).energy(Selection(holders=("job",)), by=("job_id",))}
    told = {job["job_id"]: job for job in truth if job["minutes"]}
    assert rows.keys() == told.keys()
    assert len(told) > 50
    for job_id, job in told.items():
        row = rows[job_id]
        known = (row.cpu_uj or 0, row.dram_uj or 0, row.gpu_uj or 0, row.cpu_time_us, row.present_ms)
        assert known == tuple(job[name] for name in ("cpu_uj", "dram_uj", "gpu_uj", "cpu_time_us", "present_ms"))
    assert verify(tmp_path, SITE.cluster).faults == ()


def test_the_same_seed_is_the_same_site_however_many_processes(tmp_path: Path) -> None:
    for name, processes in (("one", 1), ("two", 2)):
        cluster.build(SITE, tmp_path / name, processes)
    one, two = (
        {
            path.relative_to(tmp_path / name): pq.read_table(path, partitioning=None)
            for path in (tmp_path / name).rglob("*.parquet")
        }
        for name in ("one", "two")
    )
    assert len(one) > 50
    assert one.keys() == two.keys()
    assert [path for path, table in one.items() if not table.equals(two[path])] == []


def test_jobs_are_as_the_model_says() -> None:
    rng = np.random.default_rng(2)
    sizes = cluster.sizes(rng, 20_000, 512)
    assert 0.24 < np.mean(sizes == 1) < 0.33  # a few of the smallest parallel jobs round to one node
    assert np.mean(np.log2(sizes) % 1 == 0) > 0.8
    assert sizes.max() <= 512
    seconds = cluster.run_times_s(rng, np.ones(20_000, np.int64))
    assert np.median(seconds) < 300 < 3_000 < np.mean(seconds)  # most jobs are short, most time is in long ones
    jobs = cluster.workload(SITE)
    assert np.all(np.diff(jobs.submit_s) >= 0)
    assert np.all(jobs.start_s >= jobs.submit_s)
    # No node is promised more cores than it has.
    for node in range(SITE.nodes):
        held = jobs.at_job[jobs.at_node == node]
        moments = np.sort(jobs.start_s[held])
        busy = [jobs.cores[held][(jobs.start_s[held] <= at) & (at < jobs.end_s[held])].sum() for at in moments]
        assert max(busy, default=0) <= cluster.CORES


def test_users_submit_as_those_of_the_source_do() -> None:
    users = cluster.workload(cluster.Site(nodes=400, hours=24)).user
    counts = np.sort(np.bincount(users, minlength=cluster.USERS))[::-1].cumsum() / len(users)
    told = {0.0212: 0.70, 0.0375: 0.80, 0.2932: 0.99}
    assert {part: counts[round(part * cluster.USERS) - 1] for part in told} == pytest.approx(told, abs=0.05)
