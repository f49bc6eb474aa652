"""GPUs that real Slurm hands out, read by the real pynvml from a stub of NVIDIA's library: who pays for which."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from hpccarbon.site.ledger import Ledger, Selection
from tests.lab import Lab, gpus
from tests.lab.fixture import own_lab
from tests.stubs.nvml import build

pytestmark = pytest.mark.lab
POWER_W = (250, 300, 70, 60)
"""Of the four GPUs, constant: what a job draws is then power x time held."""


@pytest.fixture(scope="module")
def gpu_lab() -> Iterator[Lab]:
    """A lab whose second node has four GPUs, listed by the stub in another order than by minor number."""
    with own_lab("g", missing=build.missing(), gpus=True) as lab:
        gpus.start_daemon(lab, POWER_W)
        time.sleep(2)
        yield lab


def test_a_job_pays_for_the_gpus_that_slurm_gave_it(gpu_lab: Lab) -> None:
    node = gpu_lab.names[1]
    two = gpu_lab.submit('echo "$SLURM_JOB_GPUS"; sleep 5', "-n1", f"-w{node}", "--gres=gpu:2", user="hcalice")
    time.sleep(1)
    one = gpu_lab.submit('echo "$SLURM_JOB_GPUS"; sleep 4', "-n1", f"-w{node}", "--gres=gpu:1", user="hcbob")
    none = gpu_lab.submit("sleep 2", "-n1", f"-w{node}", user="hcbob")
    gpu_lab.wait([two, one, none], 60)
    time.sleep(1.5)
    gpu_lab.stop_daemon(node)
    held = {
        job: [int(n) for n in (gpu_lab.dir / "work" / user / f"{job}.out").read_text().strip().split(",")]
        for job, user in ((two, "hcalice"), (one, "hcbob"))
    }
    assert len(held[two]) == 2
    assert len(held[one]) == 1
    ledger = Ledger(gpu_lab.dir / "shared", gpu_lab.cluster)
    found = {row.key[0]: row for row in ledger.energy(Selection(job_ids=(two, one, none)), by=("job_id",))}
    for job, minors in held.items():
        row = found[job]
        power_w = sum(POWER_W[minor] for minor in minors)
        assert row.alloc_gpus == len(minors)
        assert row.gpu_uj == pytest.approx(power_w * row.present_ms * 1000, rel=0.1)
    assert found[none].gpu_uj == 0
    rows = ledger.energy(Selection(holders=("job", "system", "unallocated"), nodes=(node,)))
    meters = ledger.energy(Selection(holders=("meter",), nodes=(node,)))
    assert sum(row.gpu_uj or 0 for row in rows) == sum(row.gpu_uj or 0 for row in meters) > 0
