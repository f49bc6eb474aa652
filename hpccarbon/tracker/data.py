"""A row of emissions.csv: CodeCarbon's 38 columns in its order, then ours. Formats what is known; measures nothing."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from hpccarbon import __version__


@dataclass
class EmissionsData:
    """What a run, or a task of it, used. kWh, kg CO2e, W, L, s; energies are metered energy × PUE, as CodeCarbon's.

    The columns from `hpccarbon_version` on are ours: whose energy it is (`scope`: job, process, machine), how it was
    found (`method`: measured, modelled, mixed, none), for which part of the time (`coverage_percent`), the metered
    joules without PUE and their static part, the intensity and its source.
    """

    timestamp: str = ""
    project_name: str = ""
    run_id: str = ""
    experiment_id: str = ""
    duration: float = 0.0
    emissions: float = 0.0
    emissions_rate: float = 0.0
    cpu_power: float = 0.0
    gpu_power: float = 0.0
    ram_power: float = 0.0
    cpu_energy: float = 0.0
    gpu_energy: float = 0.0
    ram_energy: float = 0.0
    energy_consumed: float = 0.0
    water_consumed: float = 0.0
    country_name: str = ""
    country_iso_code: str = ""
    region: str = ""
    cloud_provider: str = ""
    cloud_region: str = ""
    os: str = ""
    python_version: str = ""
    codecarbon_version: str = ""
    cpu_count: int = 0
    cpu_model: str = ""
    gpu_count: int = 0
    gpu_model: str = ""
    longitude: float | None = None
    latitude: float | None = None
    ram_total_size: float = 0.0
    tracking_mode: str = ""
    cpu_utilization_percent: float = 0.0
    gpu_utilization_percent: float = 0.0
    ram_utilization_percent: float = 0.0
    ram_used_gb: float = 0.0
    on_cloud: str = "N"
    pue: float = 1.0
    wue: float = 0.0
    hpccarbon_version: str = __version__
    state: str = "running"
    scope: str = ""
    method: str = ""
    modelled_percent: float = 0.0
    coverage_percent: float = 0.0
    node: str = ""
    job_id: str = ""
    step_id: str = ""
    array_task: str = ""
    rank: str = ""
    section: int = 0
    task_name: str = ""
    cpu_seconds: float = 0.0
    other_energy: float = 0.0
    static_joules: float = 0.0
    intensity_g_per_kwh: float = 0.0
    zone: str = ""
    intensity_source: str = ""
    metrics: str = "{}"
    energy_joules: float = 0.0

    @property
    def values(self) -> dict[str, Any]:
        """Column -> value, in order."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def dynamic_joules(self) -> float:
        """The metered energy that follows the work; the rest is the price of being on."""
        return self.energy_joules - self.static_joules

    def toJSON(self) -> str:
        """The row as JSON (CodeCarbon's name)."""
        import json

        return json.dumps(self.values, indent=4)

    def _repr_html_(self) -> str:
        """What a notebook shows: a small table, every text in it escaped."""
        from html import escape

        whose = {"job": "this job's on this node", "process": "this process and its children", "machine": "everyone's"}
        rows = (
            ("project", self.project_name),
            ("energy", f"{self.energy_joules:,.4g} J, {self.method} ({self.coverage_percent:.0f} % of the time)"),
            ("of it dynamic", f"{self.dynamic_joules:,.4g} J"),
            ("whose", whose.get(self.scope, "")),
            ("CO2e", f"{self.emissions * 1000:,.4g} g at {self.intensity_g_per_kwh:.0f} g/kWh in {self.country_name}"),
            ("time", f"{self.duration:,.2f} s, {self.cpu_seconds:,.2f} s of CPU"),
        )
        body = "".join(
            f"<tr><th style='text-align:left'>{escape(k)}</th><td>{escape(str(v))}</td></tr>" for k, v in rows
        )
        return f"<table>{body}</table>"


SUMS = ("emissions", "cpu_energy", "gpu_energy", "ram_energy", "energy_consumed", "water_consumed",
        "other_energy", "energy_joules", "static_joules", "cpu_seconds")  # fmt: skip
"""Columns that add up, over time and over nodes."""
COLUMNS: tuple[str, ...] = tuple(field.name for field in fields(EmissionsData))
CODECARBON_COLUMNS: tuple[str, ...] = COLUMNS[: COLUMNS.index("hpccarbon_version")]


@cache
def machine() -> dict[str, Any]:
    """The columns that stay the same on one machine."""
    uname = os.uname()
    models = (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name"))
    return {
        "os": "-".join((uname.sysname, uname.release, uname.machine)),
        "python_version": sys.version.split()[0],
        "codecarbon_version": f"hpccarbon {__version__}",
        "cpu_model": next(models, uname.machine),
    }


def memory() -> dict[str, float]:
    """The machine's memory now: GiB there are and in use, and the part in use, as CodeCarbon tells it."""
    import psutil  # loaded late: an import of the tracker shall not wait for it

    now = psutil.virtual_memory()
    return {
        "ram_total_size": round(now.total / (1 << 30), 3),
        "ram_used_gb": round(now.used / (1 << 30), 3),
        "ram_utilization_percent": now.percent,
    }


def slurm() -> dict[str, str]:
    """Which job, step, array task and rank this process is (srun(1), OUTPUT ENVIRONMENT VARIABLES)."""
    get = os.environ.get
    array = f"{get('SLURM_ARRAY_JOB_ID')}_{get('SLURM_ARRAY_TASK_ID')}" if get("SLURM_ARRAY_TASK_ID") else ""
    return {
        "node": get("SLURMD_NODENAME") or os.uname().nodename.split(".")[0],
        "job_id": get("SLURM_JOB_ID", ""),
        "step_id": get("SLURM_STEP_ID", ""),
        "array_task": array,
        "rank": get("SLURM_PROCID", "") if get("SLURM_STEP_ID") else "",
    }


def slurm_number(name: str) -> int | None:
    """A positive number that Slurm puts into the environment; None where it is not there."""
    text = os.environ.get(name, "")
    return int(text) if text.isdigit() and int(text) > 0 else None


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
