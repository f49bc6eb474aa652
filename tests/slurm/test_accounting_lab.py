"""Job records from a real Slurm: arrays, requeues and names that nobody would choose."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from hpccarbon.config import Config, Paths, Slurm
from hpccarbon.site import jobs
from hpccarbon.site.ledger import Ledger
from hpccarbon.slurm.accounting import fetch, fetch_window
from tests.lab import Lab

pytest_plugins = ("tests.lab.fixture",)
pytestmark = pytest.mark.lab


def test_records_of_real_jobs(lab: Lab, tmp_path: Path) -> None:
    slurm = Slurm(conf=str(lab.dir / "slurm.conf"), accounting="sacct")
    config = Config(cluster=lab.cluster, slurm=slurm, paths=Paths(shared_dir=str(tmp_path)))
    name = "a|b\n\x1f\t=1+1 ü"
    before = datetime.now(timezone.utc) - timedelta(minutes=1)
    odd = lab.submit("true", f"--job-name={name}", user="hcalice")
    array = lab.submit("true", "--array=3,5", user="hcbob")
    long = lab.submit("sleep 300", user="hcbob")
    lab.wait([odd, array])
    lab.sacct(array, "State", jobs=2)
    (record,) = fetch(config, [odd])
    assert (record.name, record.user, record.state, record.restart) == (name, "hcalice", "COMPLETED", 0)
    assert record.start is not None
    assert record.end is not None
    assert before < record.start <= record.end <= datetime.now(timezone.utc)
    tasks = fetch(config, [array])
    assert sorted((task.array_job_id, task.array_task_id) for task in tasks) == [(array, 3), (array, 5)]
    now = datetime.now(timezone.utc) + timedelta(minutes=1)
    ran = {one.job_id for records in fetch_window(config, before, now) for one in records}
    assert ran >= {odd, array, long}
    jobs.update(config, before)
    (running,) = Ledger(tmp_path, lab.cluster).jobs(job_ids=[long])
    assert (running.state, running.end) == ("RUNNING", None)
    lab.run(["scancel", str(long)])
    lab.wait(long)
    lab.sacct(long, "State")
    jobs.update(config, before)
    (ended,) = Ledger(tmp_path, lab.cluster).jobs(job_ids=[long])
    assert ended.state == "CANCELLED"
    assert ended.end is not None
    assert jobs.update(config, before) == 0


def test_a_job_that_waits_is_pending_and_not_kept(lab: Lab, tmp_path: Path) -> None:
    slurm = Slurm(conf=str(lab.dir / "slurm.conf"), accounting="sacct")
    config = Config(cluster=lab.cluster, slurm=slurm, paths=Paths(shared_dir=str(tmp_path)))
    held = lab.submit("true", "--hold", "--job-name=a|b\nc", user="hcalice")
    array = lab.submit("true", "--hold", "--array=5-9", user="hcbob")
    try:
        one, tasks = fetch(config, [held, array, 4_000_000])
        assert (one.job_id, one.state, one.start, one.name, one.user) == (held, "PENDING", None, "a|b\nc", "hcalice")
        assert (tasks.array_job_id, tasks.state, tasks.submit is not None) == (array, "PENDING", True)
        jobs.update(config, datetime.now(timezone.utc) - timedelta(minutes=5))
        assert Ledger(tmp_path, lab.cluster).jobs(job_ids=[held, array]) == []
    finally:
        lab.run(["scancel", str(held), str(array)])
