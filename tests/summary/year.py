"""A site with a past: some hours of each day of March 2026, a few of February and of March 2025, and hourly intensity.

The day of tests/report/fixed.py is one of them, with its hostile names. Energy is a formula of the day, so that every
number can be worked out.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta, timezone
from pathlib import Path

from hpccarbon.carbon.series import Origin, Point, append
from hpccarbon.site.aggregate import aggregate
from hpccarbon.site.executor import open_crew
from tests.report import fixed
from tests.site.maker import Row, meter_rows, row, write

NODES = ("n1", "n2")
NOW = datetime(2026, 4, 2, 12, tzinfo=timezone.utc)
USERS = (("alice", "physics", "batch"), ("bob", "chemistry", "batch"), ("dora", "biology", "long"))
CONFIG = """
cluster = "alpha"
[paths]
shared_dir = "{shared}"
[slurm]
accounting = "none"
[report]
timezone = "Europe/Berlin"
[carbon]
zone = "DE"
pue = 1.25
node_factor = 1.1
wue_l_per_kwh = 1.5
[carbon.embodied]
node_kg = 1200.0
node_cores = 64
source = "the maker's data sheet"
[carbon.market]
contract_share = 1.0
contract_g_per_kwh = 20.0
source = "the site's contract"
[budgets.physics]
accounts = ["physics"]
period = "month"
kwh = 8.0
[budgets."=evil()"]
accounts = ["chemistry"]
period = "quarter"
kg_co2e = 5.0
[budgets.site]
period = "year"
kwh = 20.0
"""


def hours() -> list[datetime]:
    """The hours that were metered, but for those of the fixed day."""
    march = [datetime(2026, 3, day, 8 + day % 5 * 3, tzinfo=timezone.utc) for day in range(2, 32)]
    before = [datetime(2026, 2, day, 12, tzinfo=timezone.utc) for day in range(1, 28, 2)]
    last_year = [datetime(2025, 3, day, 12, tzinfo=timezone.utc) for day in range(1, 31, 2)]
    return [*last_year, *before, *march]


def rows_of(node: str, hour: datetime) -> list[Row]:
    """Six minutes of one node: a job of one user, the system, what nobody holds, and the meters."""
    user, account, partition = USERS[hour.day % 3]
    watts = 100 + 5 * hour.day + (20 if node == "n2" else 0)
    rows: list[Row] = []
    for minute in range(0, 60, 10):
        bucket = hour + timedelta(minutes=minute)
        energy = watts * 600 * fixed.J
        job = row(
            bucket,
            "job",
            job_id=7000 + hour.day,
            run="0.b00t",
            uid=1000,
            user=user,
            account=account,
            partition=partition,
            cpu_uj=energy,
            dram_uj=energy // 10,
            idle_uj=energy // 4,
            cpu_time_us=8 * 30_000_000,
            alloc_cores=8,
            alloc_gpus=0,
            covered_ms=59_000,
        )
        system = row(bucket, "system", cpu_uj=10 * 600 * fixed.J, dram_uj=0)
        idle = row(bucket, "unallocated", cpu_uj=30 * 600 * fixed.J, dram_uj=0, idle_uj=30 * 600 * fixed.J)
        rows += [job, system, idle, *meter_rows([job, system, idle])]
    return rows


def build(folder: Path) -> Path:
    """Write the site below `folder`; returns its configuration."""
    shared = fixed.build(folder / "shared")
    for hour in hours():
        for node in NODES:
            write(shared, rows_of(node, hour), hour=hour, node=node, cluster=fixed.CLUSTER)
    with open_crew(1) as crew:
        aggregate(shared, fixed.CLUSTER, crew)
    _intensity(shared / "intensity")
    config = folder / "hpccarbon.toml"
    config.write_text(CONFIG.format(shared=shared))
    return config


def _intensity(series_dir: Path) -> None:
    """March 2026 but for its last day: low at noon, higher towards the month's end."""
    first = datetime(2026, 3, 1, tzinfo=timezone.utc)
    points = []
    for number in range(30 * 24):
        start = int((first + timedelta(hours=number)).timestamp())
        sun = 120 * max(0.0, math.sin((number % 24 - 6) / 12 * math.pi))
        points.append(Point(start, start + 3600, 300 + 4 * (number // 24) - sun, "measured"))
    origin = Origin("site_csv", "grid operator of the example", "CC-BY-4.0", "lifecycle")
    append(series_dir, "DE", points, origin, NOW)
