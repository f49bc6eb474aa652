"""What Slurm's accounting knows about one run of one job, as a value. Runs nothing, opens nothing."""

from __future__ import annotations

from datetime import datetime

import msgspec


class JobRecord(msgspec.Struct, frozen=True):
    """One run of one job: the columns of `schema.JOBS`, in their order. Times are aware and in UTC.

    `name` is what a user typed: hostile until escaped. `end` is None while the job runs.
    """

    job_id: int
    restart: int = 0
    array_job_id: int | None = None
    array_task_id: int | None = None
    het_job_id: int | None = None
    het_offset: int | None = None
    name: str | None = None
    user: str | None = None
    uid: int | None = None
    account: str | None = None
    partition: str | None = None
    qos: str | None = None
    state: str | None = None
    exit_code: str | None = None
    submit: datetime | None = None
    start: datetime | None = None
    end: datetime | None = None
    elapsed_s: int | None = None
    alloc_nodes: int | None = None
    alloc_cores: int | None = None
    alloc_tres: str | None = None
    total_cpu_us: int | None = None
    consumed_energy_j: int | None = None
    nodelist: str | None = None
