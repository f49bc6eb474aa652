"""What the hooks cost: each script alone, and `srun true` on a cluster with them against one without, taking turns."""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from tests.lab import Lab
from tests.lab.cluster import unavailable

SCRIPTS = Path(__file__).parents[1] / "slurm_scripts"
RUNS = 40


def alone() -> dict[str, float]:
    """Median milliseconds of each root hook run as slurmd runs it: a fresh process with Slurm's variables."""
    took: dict[str, list[float]] = {"prolog": [], "epilog": []}
    with tempfile.TemporaryDirectory(prefix="hpccarbon-bench-") as folder:
        run = Path(folder)
        (run / "jobs").mkdir()
        (run / "daemon.pid").write_text(f"{os.getpid()}\n")
        (run / "hooks.env").write_text(f"HPCCARBON_RUN_DIR={run}\n")
        env = {
            "HPCCARBON_HOOKS_ENV": str(run / "hooks.env"),
            "SLURM_JOB_UID": "1000",
            "SLURM_JOB_USER": "someone",
            "SLURM_JOB_ACCOUNT": "physics",
            "SLURM_JOB_PARTITION": "batch",
            "SLURM_JOB_CPUS_PER_NODE": "8",
            "SLURMD_NODENAME": "n1",
        }
        for number in range(200):
            for kind, times in took.items():
                before = time.perf_counter_ns()
                subprocess.run([SCRIPTS / f"{kind}.sh"], env={**env, "SLURM_JOB_ID": str(number + 1)}, check=True)
                times.append((time.perf_counter_ns() - before) / 1e6)
    return {kind: statistics.median(times) for kind, times in took.items()}


def srun() -> tuple[float, float] | str:
    """(with hooks, without) median ms of `srun true` on two clusters side by side; or why it cannot be measured."""
    reason = unavailable()
    if reason:
        return reason
    took: tuple[list[float], list[float]] = ([], [])
    with tempfile.TemporaryDirectory(prefix="hcb-") as folder:
        Path(folder).chmod(0o755)
        labs = (Lab(Path(folder) / "a"), Lab(Path(folder) / "b"))
        try:
            for lab, prefix in zip(labs, ("bha", "bhb"), strict=True):
                lab.up(prefix=prefix)
            for name in labs[0].nodes:
                labs[0].start_daemon(name)
            conf = labs[1].dir / "slurm.conf"
            lines = conf.read_text().splitlines()
            hooks = ("Prolog=", "Epilog=", "TaskProlog=", "TaskEpilog=")
            conf.write_text("\n".join(line for line in lines if not line.startswith(hooks)) + "\n")
            labs[1].run(["scontrol", "reconfigure"])
            time.sleep(2)
            for number in range(RUNS + 2):
                for lab, times in zip(labs, took, strict=True):
                    before = time.perf_counter_ns()
                    lab.run(["srun", "-n1", f"-w{lab.names[0]}", "true"])
                    if number >= 2:
                        times.append((time.perf_counter_ns() - before) / 1e6)
        finally:
            for lab in labs:
                lab.down()
    return statistics.median(took[0]), statistics.median(took[1])
