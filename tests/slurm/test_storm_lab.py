"""Jobs as fast as real Slurm starts them, on a node with a daemon: each has its row, and the node's energy adds up."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pyarrow.parquet as pq
import pytest

from hpccarbon.site.ledger import Ledger, Selection
from tests.lab import Lab

pytest_plugins = ("tests.lab.fixture",)
pytestmark = pytest.mark.lab
TASKS = 150


@pytest.fixture
def metered(lab: Lab) -> Iterator[Lab]:
    lab.start_daemon(lab.names[0])
    yield lab
    lab.stop_daemon(lab.names[0])


def test_a_storm_of_jobs_that_do_nothing(metered: Lab) -> None:
    node = metered.names[0]
    begun = time.monotonic()
    array = metered.submit("true", "-n1", f"-w{node}", f"--array=1-{TASKS}", "-o/dev/null", user="hcbob")
    ids: set[int] = set()
    while time.monotonic() - begun < 120:
        told = metered.run(["scontrol", "show", "job", str(array), "-o"]).stdout
        states = dict(re.findall(r"JobId=(\d+) .*?JobState=(\w+)", told))
        ids = {int(job) for job in states}
        if len(ids) == TASKS and set(states.values()) == {"COMPLETED"}:
            break
        time.sleep(0.5)
    took_s = time.monotonic() - begun
    assert len(ids) == TASKS
    time.sleep(1.5)  # the last epilogs
    metered.stop_daemon(node)
    ledger = Ledger(metered.dir / "shared", metered.cluster)
    rows = ledger.energy(Selection(job_ids=tuple(sorted(ids))), by=("job_id", "user"))
    print(f"\n{TASKS} jobs in {took_s:.0f} s: {len(rows)} rows")
    assert {row.key[0] for row in rows} == ids
    assert {row.key[1] for row in rows} == {"hcbob"}
    for path in (metered.dir / "shared" / "shards").rglob(f"{node}.*.parquet"):
        records = pq.read_table(path).to_pylist()
        for column in ("cpu_uj", "dram_uj"):
            sums = {True: 0, False: 0}
            for record in records:
                sums[record["holder"] == "meter"] += record[column] or 0
            assert sums[True] == sums[False]
    assert not list((metered.nodes[node].run_dir / "jobs").iterdir()), "every hook's file was taken and let go"
