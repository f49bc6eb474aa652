"""PrologFlags=RunInJob: the hooks run in the job's own extern step, and the epilog before its cgroup goes. Real Slurm.

Slurm knows the flag from 24.05 on, so Debian 12's 22.05 skips this; `make compat` runs it with 24.11 and 26.05.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator

import pytest

from hpccarbon.site.ledger import Ledger, Selection
from tests.lab import Lab
from tests.lab.fixture import own_lab

pytestmark = pytest.mark.lab
FIRST = (24, 5)


def slurm_version() -> tuple[int, ...]:
    """Of the slurmd that is installed."""
    said = subprocess.run(["slurmd", "-V"], capture_output=True, text=True, check=True, env={"PATH": "/usr/sbin:/sbin"})
    return tuple(map(int, re.findall(r"\d+", said.stdout)[:2]))


@pytest.fixture
def inside() -> Iterator[Lab]:
    if shutil.which("slurmd") and slurm_version() < FIRST:
        pytest.skip(f"Slurm {'.'.join(map(str, slurm_version()))} has no RunInJob; make compat has newer ones")
    with own_lab("r", slurm={"PrologFlags": "Alloc,Contain,RunInJob"}) as lab:
        lab.start_daemon(lab.names[0])
        yield lab


def test_hooks_in_the_job_say_what_hooks_before_it_say(inside: Lab) -> None:
    node = inside.names[0]
    where = inside.dir / "work" / "hooks.cgroups"
    where.touch(mode=0o666)
    for kind in ("prolog", "epilog"):
        hook = inside.dir / "hooks" / f"{kind}.sh"
        hook.write_text(hook.read_text().replace("#!/bin/sh\n", f"#!/bin/sh\ncat /proc/self/cgroup >>{where}\n", 1))
    burn = "exec python3 -c 'import time\nwhile time.process_time() < 1.5: pass'"
    jobs = [inside.submit(burn, "-n1", "-c2", f"-w{node}", user=user) for user in ("hcalice", "hcbob")]
    inside.wait(jobs, 60)
    time.sleep(2)
    inside.stop_daemon(node)
    text = where.read_text()
    for job in jobs:
        assert len(re.findall(rf"/job_{job}(?:/|$)", text, re.MULTILINE)) >= 2, "prolog and epilog ran in the job"
    ledger = Ledger(inside.dir / "shared", inside.cluster)
    rows = ledger.energy(Selection(job_ids=tuple(jobs)), by=("job_id", "user"))
    assert sorted(row.key for row in rows) == sorted(zip(jobs, ("hcalice", "hcbob"), strict=True))
    for row in rows:
        assert (row.cpu_time_us or 0) / 1e6 == pytest.approx(1.8, abs=0.35), "the job and its hooks"
    left = list((inside.nodes[node].run_dir / "jobs").iterdir())
    assert left == [], "both files of each job were read, kept and let go"
