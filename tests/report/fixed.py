"""A small site that never changes: three hours of four nodes, and one job for each thing a report must get right.

Energy per minute is a formula, so that every number in a golden file can be worked out by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from hpccarbon import schema
from hpccarbon.records import STEPS as STEPS_KEY
from hpccarbon.records import StepEnergy
from hpccarbon.slurm.record import JobRecord
from hpccarbon.units import apportion
from tests.site.maker import Row, meter_rows, row, write

CLUSTER = "alpha"
DAY = datetime(2026, 3, 1, tzinfo=timezone.utc)
J = 1_000_000
HOSTILE = "\x1b]0;owned\x07\x1b[31mred\r\n=cmd|'/c calc'!A1\u202egnp.exe\u200b\u2028" + "A" * 4096


def at(text: str) -> datetime:
    """`10:04` of the day."""
    hours, minutes = map(int, text.split(":"))
    return DAY + timedelta(hours=hours, minutes=minutes)


class Stay:
    """A run of a job on one node: from minute to minute, with constant power but for a ramp in the first minutes."""

    def __init__(
        self,
        job_id: int,
        node: str,
        start: str,
        end: str,
        *,
        cores: int,
        cpu_w: int,
        busy: float = 1.0,
        dram_w: int | None = 0,
        gpu_w: int | None = None,
        gpus: int = 0,
        static: float = 0.25,
        modelled: bool = False,
        covered: float = 1.0,
        run: str = "0",
        who: Sequence[Any] = (1001, "alice", "physics", "batch"),
    ) -> None:
        self.job_id, self.node, self.start, self.end = job_id, node, at(start), at(end)
        self.cores, self.cpu_w, self.busy, self.dram_w, self.gpu_w = cores, cpu_w, busy, dram_w, gpu_w
        self.gpus, self.static, self.modelled, self.covered = gpus, static, modelled, covered
        self.run = f"{run}.b00t.{job_id:x}"
        self.uid, self.user, self.account, self.partition = who

    def row(self, bucket: datetime) -> Row:
        """The shard row of one minute."""
        ramp = min(1.0, 0.4 + 0.2 * ((bucket - self.start).total_seconds() / 60))
        cpu_uj = round(self.cpu_w * 60 * ramp) * J
        dram_uj = None if self.dram_w is None else self.dram_w * 60 * J
        gpu_uj = None if self.gpu_w is None else round(self.gpu_w * 60 * ramp) * J
        energy_uj = cpu_uj + (dram_uj or 0) + (gpu_uj or 0)
        return row(
            bucket,
            "job",
            job_id=self.job_id,
            run=self.run,
            uid=self.uid,
            user=self.user,
            account=self.account,
            partition=self.partition,
            cpu_uj=cpu_uj,
            dram_uj=dram_uj,
            gpu_uj=gpu_uj,
            idle_uj=round(energy_uj * self.static),
            modelled_uj=energy_uj if self.modelled else 0,
            cpu_time_us=round(self.cores * 60_000_000 * self.busy),
            alloc_cores=self.cores,
            alloc_gpus=self.gpus,
            covered_ms=round(60_000 * self.covered),
        )


BOB = (1002, "bob", "chemistry", "batch")
CAROL = (1003, "carol", "physics", "gpu")
NOBODY = (None, None, None, None)
STAYS = (
    # 4711: two nodes, half of the cores used, one node partly not covered
    Stay(4711, "n1", "10:04", "12:31", cores=64, cpu_w=180, busy=0.5, dram_w=30, static=0.4),
    Stay(4711, "n2", "10:04", "12:31", cores=64, cpu_w=160, busy=0.45, dram_w=30, static=0.4, covered=0.97),
    # 4800: an array of three tasks, the last of which bears the array's id
    Stay(4801, "n3", "10:00", "10:20", cores=8, cpu_w=40, dram_w=5, who=BOB),
    Stay(4802, "n3", "10:00", "10:25", cores=8, cpu_w=42, dram_w=5, who=BOB),
    Stay(4800, "n3", "10:20", "10:50", cores=8, cpu_w=38, dram_w=5, who=BOB),
    # 4900: requeued once after the node failed
    Stay(4900, "n3", "11:00", "11:30", cores=16, cpu_w=70, dram_w=6, who=BOB),
    Stay(4900, "n3", "11:40", "12:40", cores=16, cpu_w=70, dram_w=6, run="1", who=BOB),
    # 5000: runs on GPUs, still; 5001: half a minute's worth of work; 5002: nobody told whose it is
    Stay(5000, "g1", "11:00", "12:45", cores=32, cpu_w=90, busy=0.9, dram_w=12, gpu_w=1180, gpus=4, who=CAROL),
    Stay(5001, "n3", "12:50", "12:51", cores=1, cpu_w=4, dram_w=1, who=BOB),
    Stay(5002, "n3", "12:00", "12:10", cores=4, cpu_w=20, dram_w=2, who=NOBODY),
    # 5003: a name that no terminal and no spreadsheet may obey; 5100: a model instead of sensors
    Stay(5003, "n3", "12:10", "12:20", cores=4, cpu_w=20, dram_w=2, who=(1666, "mallory", "=cmd()", "batch")),
    Stay(5100, "m1", "10:00", "11:00", cores=4, cpu_w=30, busy=0.1, dram_w=None, static=0.8, modelled=True, who=BOB),
    # 6000: two components
    Stay(6000, "n3", "10:51", "10:59", cores=2, cpu_w=10, dram_w=2),
    Stay(6001, "g1", "10:51", "10:59", cores=2, cpu_w=10, dram_w=2, gpu_w=300, gpus=1),
)


def record(job_id: int, state: str, start: str | None, end: str | None, **given: Any) -> JobRecord:
    """A job record of the day; user alice unless told otherwise."""
    began, ended = (at(text) if text else None for text in (start, end))
    elapsed_s = int((ended - began).total_seconds()) if began and ended else 0
    facts: dict[str, Any] = {
        "user": "alice",
        "uid": 1001,
        "account": "physics",
        "partition": "batch",
        "qos": "normal",
        "exit_code": "0:0",
        "submit": at("9:58"),
        "elapsed_s": elapsed_s,
        "alloc_nodes": 1 if began else 0,
    }
    return JobRecord(job_id=job_id, state=state, start=began, end=ended, **(facts | given))


def _bob(**given: Any) -> dict[str, Any]:
    return {"user": "bob", "uid": 1002, "account": "chemistry", "alloc_cores": 8, "nodelist": "n3"} | given


RECORDS = (
    record(4711, "COMPLETED", "10:04", "12:31", name="train_resnet", alloc_nodes=2, alloc_cores=128, nodelist="n[1-2]"),
    record(4801, "COMPLETED", "10:00", "10:20", name="sweep", **_bob(array_job_id=4800, array_task_id=1)),
    record(4802, "TIMEOUT", "10:00", "10:25", name="sweep", **_bob(array_job_id=4800, array_task_id=2)),
    record(4800, "COMPLETED", "10:20", "10:50", name="sweep", **_bob(array_job_id=4800, array_task_id=3)),
    record(4900, "NODE_FAIL", "11:00", "11:30", name="long_run", **_bob(alloc_cores=16)),
    record(4900, "COMPLETED", "11:40", "12:40", name="long_run", restart=1, **_bob(alloc_cores=16)),
    record(
        5000,
        "RUNNING",
        "11:00",
        None,
        name="llm",
        user="carol",
        uid=1003,
        partition="gpu",
        alloc_cores=32,
        alloc_tres="billing=32,cpu=32,gres/gpu=4,node=1",
        nodelist="g1",
    ),
    record(5001, "COMPLETED", "12:50", "12:51", name="tiny", **_bob(alloc_cores=1)),
    record(5003, "FAILED", "12:10", "12:20", name=HOSTILE, user="mallory", account="=cmd()", alloc_cores=4),
    record(5100, "COMPLETED", "10:00", "11:00", name="modelled", **_bob(alloc_cores=4, nodelist="m1")),
    record(5300, "CANCELLED by 1001", None, "12:00", name="never"),
    record(5301, "COMPLETED", "10:00", "10:30", name="unseen", alloc_cores=4, nodelist="n9"),
    record(6000, "COMPLETED", "10:51", "10:59", name="pair", het_job_id=6000, het_offset=0, alloc_cores=2),
    record(6001, "COMPLETED", "10:51", "10:59", name="pair", het_job_id=6000, het_offset=1, alloc_cores=2),
)
NODES = {"n1": 64, "n2": 64, "n3": 32, "g1": 64, "m1": 8}
"""node -> cores"""


def node_rows(node: str, hour: datetime) -> list[Row]:
    """All rows of one node and hour: its jobs, 3 W of system, 0.5 W for each core nobody holds, and the meters."""
    rows: list[Row] = []
    for minute in range(60):
        bucket = hour + timedelta(minutes=minute)
        here = [stay for stay in STAYS if stay.node == node and stay.start <= bucket < stay.end]
        shares = [stay.row(bucket) for stay in here]
        free = NODES[node] - sum(stay.cores for stay in here)
        modelled = node == "m1"
        dram_uj = None if modelled else 0
        gpu_uj = 0 if node == "g1" else None
        system, idle = 180 * J, 30 * free * J
        shares.append(
            row(bucket, "system", cpu_uj=system, dram_uj=dram_uj, gpu_uj=gpu_uj, modelled_uj=modelled and system)
        )
        shares.append(
            row(
                bucket,
                "unallocated",
                cpu_uj=idle,
                dram_uj=dram_uj,
                gpu_uj=gpu_uj,
                idle_uj=idle,
                modelled_uj=idle if modelled else 0,
            )
        )
        for share in shares:
            share["modelled_uj"] = int(share["modelled_uj"])
            if node == "g1" and share["gpu_uj"] is None:
                share["gpu_uj"] = 0
        rows += shares + meter_rows(shares)
    return rows


STEPS = {
    4711: {"batch": 5, "0": 25, "1": 70},
    4801: {"batch": 1},
    4802: {"batch": 1, "extern": 1, "": 2},
    5003: {HOSTILE[:40]: 1},
}
"""Job -> step -> its part. The daemons kept steps from 11:00 on; task 4801's node did so before."""


def steps_of(rows: Sequence[Row], hour: datetime) -> dict[str, str]:
    """What a shard's metadata says of the steps of its jobs."""
    told = []
    for job_id, parts in STEPS.items():
        mine = [one for one in rows if one["job_id"] == job_id]
        if mine and (hour > at("10:00") or job_id != 4711):
            shares: dict[str, list[Any]] = {step: [] for step in parts}
            for name in (*schema.ENERGY_COLUMNS, "cpu_time_us"):
                known = [one[name] for one in mine if one[name] is not None]
                for step, part in apportion(sum(known), parts).items():
                    shares[step].append(part if known else None)
            told += [StepEnergy(job_id, mine[0]["run"], step, *values) for step, values in shares.items()]
    return {STEPS_KEY: msgspec.json.encode(told).decode()} if told else {}


def build(shared: Path) -> Path:
    """Write the site below `shared` and return it."""
    for hour in (at("10:00"), at("11:00"), at("12:00")):
        for node in NODES:
            rows = node_rows(node, hour)
            write(shared, rows, hour=hour, node=node, cluster=CLUSTER, metadata=steps_of(rows, hour))
    write_records(shared, RECORDS)
    return shared


def write_records(shared: Path, records: Sequence[JobRecord]) -> None:
    """The job records, in the one file of their month."""
    folder = shared / "jobs" / CLUSTER
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"schema": "jobs", "version": str(schema.JOBS_VERSION), "cluster": CLUSTER}
    columns = {column.name: [getattr(one, column.name) for one in records] for column in schema.JOBS}
    pq.write_table(
        pa.table(columns, schema=schema.arrow_schema(schema.JOBS, metadata)), folder / "month=2026-03.parquet"
    )
