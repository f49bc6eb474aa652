"""Steps on a real Slurm: `srun`s of a job, told apart by the groups that slurmstepd makes for them."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from hpccarbon.site.ledger import Ledger
from tests.lab import Lab
from tests.test_main_job import CPU_BURN

pytestmark = pytest.mark.lab
pytest_plugins = ("tests.lab.fixture",)


def test_each_srun_of_a_job_pays_for_what_it_used(lab: Lab) -> None:
    node = lab.names[0]
    lab.start_daemon(node)
    try:
        time.sleep(2)
        # A long step, an idle one, thirty too short for any tick, and the batch script's own work.
        burn, own = CPU_BURN.format(seconds=4), CPU_BURN.format(seconds=1)
        script = f"srun {burn}\nsrun sleep 2\nfor i in $(seq 8); do srun true; done\n{own}"
        job = lab.submit(script, "-n1", f"-w{node}", user="hcbob")
        lab.wait(job, 90)
        time.sleep(1.5)
    finally:
        lab.stop_daemon(node)
    ledger = Ledger(lab.dir / "shared", lab.cluster)
    used: dict[str, float] = {}
    for row in ledger.steps([job]):
        used[row.energy.step] = used.get(row.energy.step, 0) + row.energy.cpu_time_us / 1e6
    print(f"\nCPU seconds by step: {used}")
    assert ledger.faults == []
    assert used["0"] == pytest.approx(4, abs=0.35)
    assert used["batch"] == pytest.approx(1, abs=0.35)
    assert used.get("1", 0) < 0.3
    assert {str(number) for number in range(2, 10)} <= used.keys()
    report = [
        sys.executable,
        "-m",
        "hpccarbon",
        "report",
        "--config",
        str(lab.node_config(node)),
        "--job",
        str(job),
        "--steps",
    ]
    said = subprocess.run([*report, "-f", "json"], capture_output=True, text=True, check=True)
    (shown,) = json.loads(said.stdout)["jobs"]
    assert sum(step["energy_uj"] for step in shown["steps"]) == shown["figures"]["energy_uj"]
    assert shown["steps"][0]["step"] == "0"
    page = subprocess.run(report, capture_output=True, text=True, check=True).stdout
    assert f"{job}.0" in page and f"{job}.batch" in page
