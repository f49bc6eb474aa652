"""A run directory without room, where the hooks write: jobs start as ever, and are known by their cgroups."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpccarbon.units import NS_PER_S
from tests.node.virtual import Node, tick

HOOKS = Path(__file__).resolve().parents[2] / "slurm_scripts"
pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small tmpfs")]


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 64 KiB at the node's run directory, with a file that leaves no room."""
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(run_dir)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs to mount here: {mounted.stderr.decode().strip()}")
    with (run_dir / "ballast").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))
    yield run_dir
    subprocess.run(["umount", "-l", str(run_dir)], check=True)


def hook(run_dir: Path, kind: str, job: int) -> float:
    """Run a real hook as slurmd does; how many seconds it took."""
    settings = run_dir.parent / "hooks.env"
    settings.write_text(f"HPCCARBON_RUN_DIR={run_dir}\n")
    env = {
        "HPCCARBON_HOOKS_ENV": str(settings),
        "SLURM_JOB_ID": str(job),
        "SLURM_JOB_UID": "1000",
        "SLURM_JOB_USER": "ada",
        "SLURM_JOB_CPUS_PER_NODE": "2",
        "SLURM_JOB_NODELIST": "n1",
        "SLURMD_NODENAME": "n1",
    }
    begun = time.perf_counter()
    subprocess.run([HOOKS / f"{kind}.sh"], env=env, check=True, timeout=10)
    return time.perf_counter() - begun


def test_a_full_run_dir_delays_no_job_and_hides_none(tmp_path: Path, full: Path) -> None:
    node = Node(tmp_path, dram=False, make_run_dir=False)
    sampler = node.sampler()
    tick(sampler, node)
    assert hook(full, "prolog", 7) < 1, "exit 0 at once: a prolog that fails drains the node"
    node.start(7, hooks=False)
    tick(sampler, node)
    for _ in range(5):
        node.run(NS_PER_S, {7: 1.0})
        tick(sampler, node)
    (full / "ballast").unlink()
    assert hook(full, "prolog", 8) < 1
    node.start(8, hooks=False)
    tick(sampler, node)
    node.run(NS_PER_S, {7: 1.0, 8: 1.0})
    tick(sampler, node)
    sampler.settle()
    runs = {run.job_id: run for run in sampler.pending.runs.values()}
    cpu_s = {holder[0]: share.cpu_time_ns / NS_PER_S for (_b, holder), share in sampler.pending.shares.items()}
    assert (cpu_s[7], cpu_s[8]) == (6.0, 1.0)
    assert (runs[7].uid, runs[7].user) == (1000, None), "its user id is known by its cgroup, its name by nobody"
    assert (runs[8].user, runs[8].alloc_cores) == ("ada", 2)
    sampler.close()
