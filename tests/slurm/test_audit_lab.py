"""The month's cross-check against real Slurm: jobs that no daemon saw or not on all nodes, CPU time beside theirs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from hpccarbon.site import jobs
from hpccarbon.site.audit import audit
from hpccarbon.site.ledger import Ledger
from tests.lab import Lab

pytest_plugins = ("tests.lab.fixture",)
pytestmark = pytest.mark.lab
BURN = "exec python3 -c 'import time\nwhile time.process_time() < {}: pass'"


@pytest.fixture
def half(lab: Lab) -> Iterator[Lab]:
    """A lab with a daemon on its first node and none on its second."""
    lab.start_daemon(lab.names[0])
    yield lab
    lab.stop_daemon(lab.names[0])


def test_what_slurm_knows_and_the_shards_do_not(half: Lab, tmp_path: Path) -> None:
    seen, unseen = half.names[:2]
    begun = datetime.now(timezone.utc).replace(minute=0, second=0, microsecond=0)
    metered = half.submit(BURN.format(3), "-n1", f"-w{seen}", user="hcalice")
    nowhere = half.submit("sleep 3", "-n1", f"-w{unseen}", user="hcbob")
    both = half.submit("srun sleep 3", "-N2", "-n2", f"-w{seen},{unseen}", user="hcbob")
    half.wait([metered, nowhere, both], 60)
    for job in (metered, nowhere, both):
        half.sacct(job, "TotalCPU")
    half.stop_daemon(seen)
    half.run(["hpccarbon", "aggregate"])
    # Whole hours are compared, once all of them can have arrived: two hours later, in a copy.
    shared = tmp_path / "shared"
    shutil.copytree(half.dir / "shared", shared)
    later = begun + timedelta(hours=3)
    jobs.write_cursor(shared, half.cluster, later)
    told = audit(Ledger(shared, half.cluster), begun, later, later, largest=1000)
    causes = {cause.name: {one.job_id: one for one in cause.largest} for cause in told.causes}
    assert nowhere in causes["unseen"]
    assert causes["some_nodes"][both].nodes == [unseen]
    blamed = {name for name, found in causes.items() if metered in found}
    assert not blamed, "sacct's TotalCPU and ours agree on the job that was metered from end to end"
    assert told.cpu_agree >= 1
