"""Job records through pyslurm, where a site has it: the same answers as sacct, without a process.

Written from pyslurm's documentation (pyslurm.db.Jobs, JobFilter) and not tried: its build needs the very Slurm release
that it binds. It has no switch like sacct's --duplicates, so earlier runs of a requeued job may be missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from importlib.util import find_spec
from typing import Any

from hpccarbon.config import Slurm
from hpccarbon.errors import SlurmError
from hpccarbon.slurm.record import JobRecord


def installed() -> bool:
    """True, if pyslurm can be found; it is not loaded."""
    return find_spec("pyslurm") is not None


def ask(
    settings: Slurm, *, job_ids: Sequence[int] = (), window: tuple[datetime, datetime] | None = None
) -> list[JobRecord]:
    """The records of these jobs, or of all that ran in the window. Raises: SlurmError.

    pyslurm reads SLURM_CONF itself; `slurm.conf`, `bin_dir` and `timeout_s` do not reach it.
    """
    try:
        import pyslurm
    except ImportError as err:
        raise SlurmError(f"pyslurm: {err} (install hpccarbon[pyslurm], or set slurm.accounting)") from err
    conditions: dict[str, Any] = {"ids": list(job_ids)} if job_ids else {}
    if window is not None:
        conditions |= {"start_time": int(window[0].timestamp()), "end_time": int(window[1].timestamp())}
    try:
        found: Any = pyslurm.db.Jobs.load(pyslurm.db.JobFilter(**conditions))
    except Exception as err:  # pyslurm's own errors share no base that every release has
        raise SlurmError(f'pyslurm: {err} (is slurmdbd up? slurm.accounting = "sacct" asks another way)') from err
    jobs: Iterable[Any] = found.values() if hasattr(found, "values") else found
    return list(map(_record, jobs))


def _record(job: Any) -> JobRecord:
    known = {name: getattr(job, name, None) for name in ("array_id", "heterogeneous_id")}
    exit_code, signal = getattr(job, "exit_code", None), getattr(job, "exit_code_signal", None)
    stats = getattr(job, "stats", None)
    cpu_time_ms = getattr(stats, "total_cpu_time", None)
    return JobRecord(
        job_id=int(job.id),
        array_job_id=known["array_id"],
        array_task_id=job.array_task_id if known["array_id"] else None,
        het_job_id=known["heterogeneous_id"],
        het_offset=getattr(job, "heterogeneous_offset", None) if known["heterogeneous_id"] else None,
        name=job.name,
        user=job.user_name,
        uid=job.user_id,
        account=job.account,
        partition=job.partition,
        qos=job.qos,
        state=str(job.state).split(" ")[0] if job.state else None,
        exit_code=None if exit_code is None else f"{exit_code}:{signal or 0}",
        submit=_moment(job.submit_time),
        start=_moment(job.start_time),
        end=_moment(job.end_time),
        elapsed_s=job.elapsed_time,
        alloc_nodes=job.num_nodes,
        alloc_cores=job.cpus,
        total_cpu_us=None if cpu_time_ms is None else int(cpu_time_ms) * 1000,
        consumed_energy_j=getattr(stats, "consumed_energy", None) or None,
        nodelist=job.nodelist,
    )


def _moment(seconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(seconds, timezone.utc) if seconds else None
