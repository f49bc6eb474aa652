"""The tracker beside CodeCarbon 3.3.2: the same program, its import line changed, in one run on one machine.

CodeCarbon lives in an environment of its own, build/codecarbon (made here; $BENCH_CODECARBON names another's Python).
Times are CPU times (user + system) of whole processes or around calls, medians, and taken in turns.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import NamedTuple

VERSION = "3.3.2"
HOME = Path(__file__).parents[1] / "build" / "codecarbon"
ROUNDS = 5

_COMMON = """
import json, os, resource, subprocess, sys, time
def cpu(): return time.process_time()
def rss():
    line = next(l for l in open("/proc/self/status") if l.startswith("VmRSS"))
    return int(line.split()[1]) / 1024
before_import, rss_before = cpu(), rss()
from {package} import OfflineEmissionsTracker
imported = cpu() - before_import
arguments = dict(country_iso_code="DEU", measure_power_secs=1, log_level="error", tracking_mode="process",
                 output_dir=sys.argv[1])
def tracker(**more): return OfflineEmissionsTracker(**{{**arguments, **more}})
"""
_LIFE = """
constructing = cpu(); t = tracker(); constructing = cpu() - constructing
begin = cpu(); t.start(); started = cpu(); time.sleep(0.2)
before = cpu(); t.stop()
print(json.dumps({"import_ms": imported * 1e3, "start_stop_ms": (started - begin + cpu() - before) * 1e3,
                  "construct_ms": constructing * 1e3, "rss_mib": rss() - rss_before}))
"""
_IDLE = """
t = tracker(save_to_file=False); t.start(); time.sleep(2)
begin = cpu(); clock = time.monotonic(); time.sleep(12)
print(json.dumps({"tick_ms": (cpu() - begin) * 1e3 / (time.monotonic() - clock)}))
t.stop()
"""
_CHILDREN = """
t = tracker(save_to_file=False); used = lambda: resource.getrusage(resource.RUSAGE_CHILDREN)
t.start(); before = used(); own = cpu()
for _ in range(30):
    subprocess.run([sys.executable, "-S", "-c", "import time\\nwhile time.process_time() < 0.2: pass"])
after = used(); own = cpu() - own; t.stop()
children = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
data = t.final_emissions_data
print(json.dumps({"kwh": data.cpu_energy, "static_j": getattr(data, "static_joules", 0),
                  "cpu_s": children + own}))
"""
_ONE_CPU = """
t = tracker(save_to_file=False); t.start(); own = cpu()
while cpu() < own + 4: pass
own = cpu() - own; t.stop()
data = t.final_emissions_data
print(json.dumps({"kwh": data.cpu_energy, "static_j": getattr(data, "static_joules", 0),
                  "cpu_s": own}))
"""


class Figure(NamedTuple):
    """One quantity of both."""

    name: str
    ours: float
    theirs: float
    unit: str
    bar: float | None


def codecarbon() -> Path:
    """The Python that has CodeCarbon."""
    given = os.environ.get("BENCH_CODECARBON")
    if given:
        return Path(given)
    python = HOME / "bin" / "python"
    if not python.exists():
        venv.create(HOME, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, f"codecarbon=={VERSION}"], check=True)
    return python


def once(python: Path, package: str, text: str) -> dict[str, float]:
    """Run a program with one of the two trackers."""
    with tempfile.TemporaryDirectory(prefix="hpccarbon-bench-") as folder:
        done = subprocess.run(
            [str(python), "-W", "ignore", "-c", _COMMON.format(package=package) + text, folder],
            env={**{k: v for k, v in os.environ.items() if not k.startswith("SLURM")}, "HOME": folder},
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def figures() -> list[Figure]:
    """Both trackers in turns."""
    sides = (Path(sys.executable), "hpccarbon"), (codecarbon(), "codecarbon")
    lives: tuple[list[dict[str, float]], list[dict[str, float]]] = ([], [])
    for _ in range(ROUNDS):
        for kept, (python, package) in zip(lives, sides, strict=True):
            kept.append(once(python, package, _LIFE))
    ours, theirs = ({key: statistics.median(one[key] for one in kept) for key in kept[0]} for kept in lives)
    tick = [once(*side, _IDLE)["tick_ms"] for side in sides]
    billed = [_billed(once(*side, _CHILDREN), once(*side, _ONE_CPU)) for side in sides]
    return [
        Figure("import", ours["import_ms"], theirs["import_ms"], "ms", 40),
        Figure("first construction", ours["construct_ms"], theirs["construct_ms"], "ms", None),
        Figure("first start + stop, no daemon", ours["start_stop_ms"], theirs["start_stop_ms"], "ms", 60),
        Figure("idle, ticks of 1 s", tick[0], tick[1], "ms/s", 0.5),
        Figure("memory added", ours["rss_mib"], theirs["rss_mib"], "MiB", 15),
        Figure("30 children of 0.2 s: not billed", 100 * (1 - billed[0]), 100 * (1 - billed[1]), "%", 5),
    ]


def _billed(children: dict[str, float], process: dict[str, float]) -> float:
    """Dynamic energy per CPU second of short children, in parts of that of a process that only computes."""
    per_second = [(one["kwh"] * 3.6e6 - one["static_j"]) / one["cpu_s"] for one in (children, process)]
    return per_second[0] / per_second[1]
