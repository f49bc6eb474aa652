"""A site with jobacct_gather/linux, and a job that is suspended there: real Slurm, groups that count no CPU time.

The daemon reads this machine's own files (`root = "/"`): processes stand nowhere else. Energy is the model's.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest

from hpccarbon.node.control import Answer, ask, socket_path
from hpccarbon.site.ledger import Ledger, Selection
from tests.lab import Lab
from tests.lab.fixture import own_lab

pytestmark = pytest.mark.lab
IDLE_W = 80
CORES = 4
BURN = "exec python3 -c 'import time\nwhile time.process_time() < {}: pass'"
ASKED_S = 11
"""A suspension is found within ten seconds, and the tick after."""
STEPD_NS = 30_000_000
"""Three ticks of USER_HZ: the job's slurmstepd is in its group, is not stopped with it, and wakes now and then.

What was stopped would have used seconds.
"""


@pytest.fixture(scope="module")
def uncounted() -> Iterator[Lab]:
    with own_lab("u", slurm={"JobAcctGatherType": "jobacct_gather/linux"}) as lab:
        settings = lab.dir / "hpccarbon.toml"
        text = settings.read_text().replace(f'root = "{lab.dir}/nodes/%n/root"', 'root = "/"\ncpus = 8')
        settings.write_text(f"{text}[model]\nidle_power_w = {IDLE_W}\nfull_power_w = 200\n")
        lab.start_daemon(lab.names[0])
        yield lab


def far(lab: Lab, job: int) -> Answer:
    """What the daemon has charged the job with, to the moment."""
    return ask(socket_path(lab.nodes[lab.names[0]].run_dir), job, timeout_s=5)


def test_cpu_time_of_processes_and_a_suspended_job(uncounted: Lab) -> None:
    node = uncounted.names[0]
    assert not Path(f"/sys/fs/cgroup/cpuacct/slurm_{node}").exists(), "this lab's groups count nothing"
    job = uncounted.submit(BURN.format(4), "-n1", f"-c{CORES}", f"-w{node}", user="hcalice")
    time.sleep(5)  # the node's first job: it takes up to four seconds until it is believed that nothing counts
    short = uncounted.submit(BURN.format(2), "-n1", f"-w{node}", user="hcbob")
    uncounted.run(["scontrol", "suspend", str(job)])
    time.sleep(ASKED_S)
    stopped = far(uncounted, job)
    time.sleep(2)
    later = far(uncounted, job)
    assert 0 < stopped.cpu_time_ns <= later.cpu_time_ns <= stopped.cpu_time_ns + STEPD_NS
    assert 0 < stopped.idle_uj == later.idle_uj, "Slurm gives a suspended job's cores to others"
    assert later.present_us > stopped.present_us
    uncounted.run(["scontrol", "resume", str(job)])
    uncounted.wait([job, short], 60)
    time.sleep(1.5)
    doctor = uncounted.run(["hpccarbon", "doctor", "--node", node], check=False).stdout
    assert "added up from the jobs' processes" in doctor
    assert "JobAcctGatherType=jobacct_gather/cgroup" in doctor
    uncounted.stop_daemon(node)
    path, *_ = (uncounted.dir / "shared" / "shards").rglob(f"{node}.*.parquet")  # two where an hour ended meanwhile
    metadata = pq.read_metadata(path).metadata
    about = next(msgspec.json.decode(value) for key, value in metadata.items() if key.endswith(b"about"))
    assert about["cpu_time"] == "processes of freezer groups"
    ledger = Ledger(uncounted.dir / "shared", uncounted.cluster)
    used = {
        row.key[0]: (row.cpu_time_us or 0) / 1e6
        for row in ledger.energy(Selection(job_ids=(job, short)), by=("job_id",))
    }
    # The interpreter's start comes on top; what a step used since the last tick (a second or more) may be missing.
    assert 4 - 1.3 <= used[job] <= 4 + 1.05
    assert 2 - 1.3 <= used[short] <= 2 + 1.05
    print(f"\nCPU time by processes: {used[job]:.2f} s of 4, {used[short]:.2f} s of 2")
