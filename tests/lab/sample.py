"""`make sample`: a quarter of an hour in the lab becomes the sample ledger of the package, hpccarbon/sample.

Slurm, the jobs, their cgroups and their CPU time are real; the power of CPUs and memory is the lab's virtual meter's,
that of the GPUs a stub's. Nothing is changed afterwards.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.lab import Lab, LabError, gpus
from tests.lab.cluster import unavailable
from tests.stubs.nvml import build

SAMPLE = Path(__file__).resolve().parents[2] / "hpccarbon" / "sample"
SEED = 20261124
JOBS = 48
LASTS_S = 600
GPU_POWER_W = (310, 285, 65, 60)
WORK = "timeout {seconds} sh -c 'while :; do i=0; while [ $i -lt {steps} ]; do i=$((i+1)); done; sleep 0.2; done'"
"""Busy for a part of the time: the lab shares two cores."""
NAMES = ("md-run", "train-small", "train-large", "sweep", "postproc", "cfd-mesh", "assemble")


def submit(lab: Lab, chance: random.Random, number: int) -> int:
    """One job like those a cluster sees: mostly small, some on two nodes, some with GPUs, a few that fail."""
    name = chance.choice(NAMES)
    seconds = min(round(chance.lognormvariate(3.0, 0.9), 1), 180)
    work = WORK.format(seconds=seconds, steps=chance.choice((4_000, 30_000, 60_000)))
    options = [f"-J{name}", "-n1"]
    if name.startswith("train"):
        options = [f"-J{name}", f"-w{lab.names[1]}", "-n1", f"--gres=gpu:{2 if name.endswith('large') else 1}"]
    elif name == "md-run":
        options = ["-Jmd-run", "-N2", "-n2"]
        work = f"srun {work}"
    elif name == "sweep":
        options.append("--array=1-4")
    elif name == "postproc":
        options[1] = "-n4"  # holds four cores and uses one
    ends = "; exit 3" if number % 16 == 15 else " || true"
    return lab.submit(work + ends, *options, user=chance.choice(("hcalice", "hcalice", "hcbob")))


def record(lab: Lab) -> None:
    """The load, to its end; then the shards and the ledger lie in the lab's shared directory."""
    chance = random.Random(SEED)
    lab.up(gpus=True)
    for name in lab.names:
        if name == lab.names[1]:
            gpus.start_daemon(lab, GPU_POWER_W, "NVIDIA A100-SXM4-40GB")
        else:
            lab.start_daemon(name)
    time.sleep(10)  # idle power is learned from the first idle seconds
    jobs = []
    for number in range(JOBS):
        jobs.append(submit(lab, chance, number))
        time.sleep(chance.expovariate(JOBS / LASTS_S))
        print(f"{number + 1} of {JOBS} submitted", end="\r", file=sys.stderr)
    lab.wait(jobs, 900)
    time.sleep(8)
    for name in lab.names:
        lab.stop_daemon(name)
    lab.run([lab.program, "aggregate"])


def main() -> None:
    """Record, and put the result into the package."""
    reason = unavailable() or build.missing()
    if reason:
        sys.exit(f"error: {reason}")
    folder = Path(tempfile.mkdtemp(prefix="hcsample-"))
    folder.chmod(0o755)
    lab = Lab(folder)
    try:
        record(lab)
        shutil.rmtree(SAMPLE / "shared", ignore_errors=True)
        shutil.copytree(folder / "shared", SAMPLE / "shared", ignore=shutil.ignore_patterns("*.lock", "*.tmp"))
    except LabError as err:
        sys.exit(f"error: {err}")
    finally:
        lab.down()
        shutil.rmtree(folder, ignore_errors=True)
    size_kb = sum(file.stat().st_size for file in SAMPLE.rglob("*") if file.is_file()) / 1e3
    print(f"{SAMPLE}: {size_kb:.0f} kB")


if __name__ == "__main__":
    main()
