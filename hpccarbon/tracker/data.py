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

    The columns from `hpccarbon_version` on are ours.
    """

    timestamp: str = ""
    """When the row was written: local time, no zone, as CodeCarbon writes it."""
    project_name: str = ""
    """The run's name, as it was given."""
    run_id: str = ""
    """A UUID, one for each tracker."""
    experiment_id: str = ""
    """As it was given."""
    duration: float = 0.0
    """s, on a clock that nobody sets."""
    emissions: float = 0.0
    """kg CO2e: each hour's energy with that hour's intensity and PUE."""
    emissions_rate: float = 0.0
    """kg CO2e per s."""
    cpu_power: float = 0.0
    """W, the mean over the run."""
    gpu_power: float = 0.0
    """W, the same."""
    ram_power: float = 0.0
    """W, the same."""
    cpu_energy: float = 0.0
    """kWh; 0 also where no such meter could be read, which `method` and `coverage_percent` tell."""
    gpu_energy: float = 0.0
    """kWh, likewise."""
    ram_energy: float = 0.0
    """kWh, likewise."""
    energy_consumed: float = 0.0
    """kWh of all components, `other_energy` too."""
    water_consumed: float = 0.0
    """L: `energy_consumed` × `wue`."""
    country_name: str = ""
    """The place: of `zone`, `country_iso_code` or the site's configuration."""
    country_iso_code: str = ""
    """Three letters."""
    region: str = ""
    """As it was given."""
    cloud_provider: str = ""
    """As it was given."""
    cloud_region: str = ""
    """As it was given."""
    os: str = ""
    """System, release and architecture."""
    python_version: str = ""
    """Of the program."""
    codecarbon_version: str = ""
    """`hpccarbon` and its version, where CodeCarbon says its own."""
    cpu_count: int = 0
    """CPUs that the utilisation is of: the job's, else the machine's."""
    cpu_model: str = ""
    """As /proc/cpuinfo names it."""
    gpu_count: int = 0
    """0: not counted here."""
    gpu_model: str = ""
    """Empty: not asked here."""
    longitude: float | None = None
    """None: the place is never guessed."""
    latitude: float | None = None
    """None."""
    ram_total_size: float = 0.0
    """GiB of the machine."""
    tracking_mode: str = ""
    """`machine` or `process`, as given or as `scope` makes it."""
    cpu_utilization_percent: float = 0.0
    """CPU time of all that is counted / time × `cpu_count`."""
    gpu_utilization_percent: float = 0.0
    """0: not measured here."""
    ram_utilization_percent: float = 0.0
    """Of the machine, when the row was written."""
    ram_used_gb: float = 0.0
    """GiB in use on the machine then."""
    on_cloud: str = "N"
    """Y where `cloud_provider` was given."""
    pue: float = 1.0
    """What the kWh were multiplied by: given, else the site's, else 1.0."""
    wue: float = 0.0
    """L per kWh: given, else the site's."""
    hpccarbon_version: str = __version__
    """Of the tracker."""
    state: str = "running"
    """`running`, or `finished` once it was stopped."""
    scope: str = ""
    """Whose energy it is: `job`, `process` or `machine`."""
    method: str = ""
    """How it was found: `measured`, `modelled`, `mixed`, or `none`."""
    modelled_percent: float = 0.0
    """The part of the energy that a model estimated."""
    coverage_percent: float = 0.0
    """The part of the time for which every meter could be read."""
    node: str = ""
    """The node's name."""
    job_id: str = ""
    """Of Slurm; empty outside of a job, as the next three."""
    step_id: str = ""
    """The step that the program runs in."""
    array_task: str = ""
    """`JOB_TASK` in an array."""
    rank: str = ""
    """The process's rank in its step."""
    section: int = 0
    """Counts this process's trackers from 1: ranks count alike."""
    task_name: str = ""
    """Of `start_task`; empty in the run's own row."""
    cpu_seconds: float = 0.0
    """CPU time used, s."""
    other_energy: float = 0.0
    """kWh that the node's meter saw beyond CPUs, memory and GPUs."""
    static_joules: float = 0.0
    """J that the hardware draws however busy it is, metered, without PUE."""
    intensity_g_per_kwh: float = 0.0
    """Of the hour in which the row was written."""
    zone: str = ""
    """The grid zone of that."""
    intensity_source: str = ""
    """The data it is from, and which rung of the ladder."""
    metrics: str = "{}"
    """What `log_metric` kept, as JSON."""
    energy_joules: float = 0.0
    """J, metered, without PUE."""

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
