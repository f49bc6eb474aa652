"""What the wrapper adds to a submission: `hpccarbon sbatch` before a program that does nothing, and that alone.

A user with as many names and jobs as are ever kept, and a year of hourly intensities: what a submission reads at most.
The program in sbatch's place is a shell script that ends at once, so that Slurm's own time is not in the figures.
"""

from __future__ import annotations

import math
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import msgspec

from bench.result import Result, cost
from hpccarbon.site.habits import VERSION, Habits, Partitions, Past, Typical
from hpccarbon.site.observe import LAST_JOBS, LAST_NAMES

RUNS = 15
HPCCARBON = Path(sys.executable).parent / "hpccarbon"


def run() -> Iterator[Result]:
    """The wrapper's own time, with and without a choice of the start."""
    with tempfile.TemporaryDirectory(prefix="hpccarbon-bench-") as name:
        folder = Path(name)
        env = _site(folder)
        script = str(folder / "job.sh")
        plain = [str(folder / "bin" / "sbatch"), "--job-name=name7", script]
        said = [str(HPCCARBON), "sbatch", "--job-name=name7", script]
        green = [str(HPCCARBON), "sbatch", "--green", "--max-delay=24h", "--job-name=name7", script]
        took: dict[str, list[float]] = {"plain": [], "said": [], "green": []}
        for _ in range(RUNS):
            for kind, argv in (("plain", plain), ("said", said), ("green", green)):
                took[kind].append(cost(argv, env).wall_ms)
        floor_ms = statistics.median(took["plain"])
        what = f"{LAST_NAMES} names with {LAST_JOBS} jobs, a year of hours; by the clock, median of {RUNS}"
        yield Result("sbatch with an estimate", statistics.median(took["said"]) - floor_ms, "ms", 300, what)
        yield Result("sbatch --green", statistics.median(took["green"]) - floor_ms, "ms", 300, "24 h of delay")


def _site(folder: Path) -> dict[str, str]:
    """A configuration, habits, a series, and a program in sbatch's place; the environment that leads there."""
    (folder / "bin").mkdir()
    program = folder / "bin" / "sbatch"
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    (folder / "job.sh").write_text("#!/bin/sh\n#SBATCH --ntasks=4 --time=4:00:00\ntrue\n")
    config = folder / "hpccarbon.toml"
    config.write_text(f'[paths]\nshared_dir = "{folder}"\n[carbon]\nzone = "DE"\npue = 1.3\n')
    env = {"HPCCARBON_CONFIG": str(config), "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    room = folder / "habits" / "cluster"
    room.mkdir(parents=True)
    jobs = [Past(f"name{n % LAST_NAMES}", "batch", n, 7000 + n, 4, 0, 10**9 + n) for n in range(LAST_JOBS * LAST_NAMES)]
    (room / f"{os.getuid()}.json").write_bytes(msgspec.json.encode(Habits(VERSION, jobs)))
    typical = {f"partition{n}": Typical(1000, 5.0, 6.0, 7.0) for n in range(50)}
    (room / "partitions.json").write_bytes(msgspec.json.encode(Partitions(VERSION, 0.0, 0.0, typical, typical)))
    hour = datetime.now(timezone.utc).replace(minute=0, second=0, microsecond=0)
    lines = ["start,intensity_gco2e_per_kwh"]
    for number in range(-365 * 24, 48):
        at = hour + timedelta(hours=number)
        lines.append(f"{at:%Y-%m-%dT%H:%M:%SZ},{350 - 100 * math.sin(at.hour / 24 * 2 * math.pi):.1f}")
    (folder / "de.csv").write_text("\n".join(lines))
    imported = ["intensity", "import", str(folder / "de.csv"), "--zone=DE", "--basis=lifecycle", "--source=made"]
    cost([str(HPCCARBON), *imported], env)
    return env
