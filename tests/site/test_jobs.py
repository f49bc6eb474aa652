"""Job records: kept by month, replaced as jobs move on, and found again."""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from pathlib import Path

import msgspec
import pytest

from hpccarbon.config import Config, Paths, Slurm
from hpccarbon.errors import ShardError, SlurmError
from hpccarbon.site import jobs
from hpccarbon.site.aggregate import aggregate
from hpccarbon.site.engine import connect
from hpccarbon.site.executor import open_crew
from hpccarbon.site.ledger import Ledger, Selection
from hpccarbon.slurm.record import JobRecord
from tests.site import maker

CAPTURED = Path(__file__).parents[1] / "slurm" / "captured"
T0 = datetime(2026, 3, 1, 10, tzinfo=timezone.utc)
H = timedelta(hours=1)


def record(job_id: int, submit: datetime = T0, hours: float | None = 1, **given: object) -> JobRecord:
    end = None if hours is None else submit + hours * H
    values: dict[str, object] = {
        "job_id": job_id,
        "submit": submit,
        "start": submit,
        "end": end,
        "user": "ada",
        "account": "physics",
        "name": "x\n=1+1",
        "state": "RUNNING" if end is None else "COMPLETED",
    }
    return msgspec.convert(values | given, JobRecord)


def config_of(folder: Path, body: str | None = None) -> Config:
    if body is not None:
        script = folder / "sacct"
        script.write_text(
            '#!/bin/sh\nfor word in "$@"; do case "$word" in --delimiter=*) d=${word#--delimiter=} ;; esac; done\n'
            f'echo "$*" | sed "s/--delimiter=[^ ]*//" >> "$0.log"\n{body}\n'
        )
        script.chmod(0o755)
    settings = Slurm(bin_dir=str(folder), accounting="none" if body is None else "sacct", timeout_s=5)
    return Config(cluster="alpha", slurm=settings, paths=Paths(shared_dir=str(folder / "shared")))


def test_records_read_back_as_they_were(tmp_path: Path) -> None:
    full = record(
        1,
        restart=0,
        array_job_id=1,
        array_task_id=2,
        uid=2**33,
        alloc_tres="cpu=1",
        total_cpu_us=2**50,
        consumed_energy_j=7,
        nodelist="n[1-3]",
        elapsed_s=3600,
    )
    records = [full, record(2, hours=None), JobRecord(job_id=3, start=T0), record(4, submit=T0 + 40 * 24 * H)]
    con = connect(1)
    assert jobs.merge(con, tmp_path, "alpha", records) == 4
    assert jobs.merge(con, tmp_path, "alpha", records[::-1]) == 0
    assert Ledger(tmp_path, "alpha").jobs() == records
    names = sorted(path.name for path in (tmp_path / "jobs" / "alpha").glob("month=*"))
    assert names == ["month=2026-03.parquet", "month=2026-04.parquet", "month=unknown.parquet"]


def test_a_record_is_replaced_when_its_job_moves_on(tmp_path: Path) -> None:
    con = connect(1)
    jobs.merge(con, tmp_path, "alpha", [record(1, hours=None), record(2)])
    assert jobs.merge(con, tmp_path, "alpha", [record(1, hours=3)]) == 1
    # A requeue has a new submit time: another run of the same job.
    assert jobs.merge(con, tmp_path, "alpha", [record(1, submit=T0 + 4 * H)]) == 1
    runs = Ledger(tmp_path).jobs(job_ids=[1])
    assert [(run.restart, run.submit) for run in runs] == [(0, T0), (1, T0 + 4 * H)]
    assert runs[0].end == T0 + 3 * H


def test_finding_records(tmp_path: Path) -> None:
    tasks = [record(10 + n, array_job_id=10, array_task_id=n) for n in range(3)]
    others = [record(20, user="bob", account="o'x"), record(21, submit=T0 + 5 * H, hours=None)]
    jobs.merge(connect(1), tmp_path, "alpha", [*tasks, *others])
    ledger = Ledger(tmp_path, "alpha")

    def ids(*selection: Selection, **given: object) -> list[int]:
        return [found.job_id for found in ledger.jobs(*selection, **given)]  # type: ignore[arg-type]

    assert ids(job_ids=[20, 99]) == [20]
    assert ids(job_ids=[]) == []
    assert ids(array_ids=[10]) == [10, 11, 12]
    assert ids(array_tasks=[(10, 2)], job_ids=[20]) == [12, 20]
    assert ids(Selection(users=("bob",))) == ids(Selection(accounts=("o'x",))) == [20]
    assert ids(Selection(since=T0 + H)) == [21]
    assert ids(Selection(until=T0 + 5 * H)) == [10, 11, 12, 20]
    assert ids(Selection(users=("ada",), job_ids=(11, 20))) == [11]
    assert Ledger(tmp_path, "beta").jobs() == []


def test_a_damaged_file_of_records_is_named(tmp_path: Path) -> None:
    jobs.merge(connect(1), tmp_path, "alpha", [record(1), record(2, submit=T0 + 40 * 24 * H)])
    path = tmp_path / "jobs" / "alpha" / "month=2026-04.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ShardError, match=r"month=2026-04"):
        Ledger(tmp_path).jobs()
    with pytest.raises(ShardError, match=r"month=2026-04"):
        jobs.merge(connect(1), tmp_path, "alpha", [record(3, submit=T0 + 40 * 24 * H)])


def test_update_continues_where_it_ended(tmp_path: Path) -> None:
    config = config_of(tmp_path, f'sed "s/@@/$d/g" {CAPTURED / "debian12-22.05.8.txt"}')
    begin = datetime(2026, 11, 23, 20, tzinfo=timezone.utc)
    assert jobs.update(config, begin, begin + 4 * H) > 5
    until = jobs.read_cursor(tmp_path / "shared", "alpha")
    assert until is not None
    assert jobs.update(config, until=until + H) == 0
    log = (tmp_path / "sacct.log").read_text().splitlines()
    assert f"--starttime={(until - jobs.OVERLAP):%Y-%m-%dT%H:%M:%S}" in log[1]
    # Looking back does not move the cursor, and a hole is never jumped.
    moved = jobs.read_cursor(tmp_path / "shared", "alpha")
    jobs.update(config, begin - 48 * H, begin - 47 * H)
    assert jobs.read_cursor(tmp_path / "shared", "alpha") == moved


def test_a_job_that_was_last_seen_running_is_asked_for_by_id(tmp_path: Path) -> None:
    config = config_of(tmp_path, "true")
    now = datetime.now(timezone.utc).replace(microsecond=0)
    jobs.merge(connect(1), tmp_path / "shared", "alpha", [record(77, submit=now - 9 * H, hours=None)])
    jobs.write_cursor(tmp_path / "shared", "alpha", now - H)
    jobs.update(config)
    assert "--jobs=77" in (tmp_path / "sacct.log").read_text().splitlines()[-1]


def test_accounting_that_fails_leaves_what_was_stored(tmp_path: Path) -> None:
    config = config_of(tmp_path, "echo down >&2; exit 1")
    jobs.merge(connect(1), tmp_path / "shared", "alpha", [record(1)])
    jobs.write_cursor(tmp_path / "shared", "alpha", T0)
    with pytest.raises(SlurmError, match="down"):
        jobs.update(config, T0 + H, T0 + 2 * H)
    assert jobs.read_cursor(tmp_path / "shared", "alpha") == T0
    assert len(Ledger(tmp_path / "shared").jobs()) == 1


def test_no_accounting_is_no_records(tmp_path: Path) -> None:
    assert jobs.update(config_of(tmp_path)) == 0
    assert jobs.read_cursor(tmp_path / "shared", "alpha") is None


@pytest.mark.parametrize("recorded", [[], [record(1000, hours=2)], [record(1000, hours=None)]])
def test_records_only_ever_narrow_the_search(tmp_path: Path, recorded: list[JobRecord]) -> None:
    maker.site(tmp_path, hours=2, nodes=2)
    with open_crew() as crew:
        aggregate(tmp_path, "alpha", crew)
    expected = Ledger(tmp_path).energy(Selection(job_ids=(1000,)), by=("hour",))
    assert len(expected) == 2
    jobs.merge(connect(1), tmp_path, "alpha", recorded)
    for cursor in (T0 - 100 * H, T0 + H, T0 + 100 * H):
        jobs.write_cursor(tmp_path, "alpha", cursor)
        assert Ledger(tmp_path).energy(Selection(job_ids=(1000,)), by=("hour",)) == expected
        assert len(Ledger(tmp_path).energy(Selection(job_ids=(1000, 1001)), by=("job_id",))) == 2


def test_records_that_were_read_are_remembered_only_while_they_are_true(tmp_path: Path) -> None:
    for cluster in ("alpha", "beta"):
        for hour in (0, 9):
            at = T0 + hour * H
            maker.write(tmp_path, maker.node_hour(7, hour=at, job_ids=(1000,)), hour=at, cluster=cluster)
        jobs.write_cursor(tmp_path, cluster, T0 + 100 * H)
    ledger, both = Ledger(tmp_path, "alpha"), Ledger(tmp_path)

    def hours(asked: Ledger) -> list[object]:
        return [row.key for row in asked.energy(Selection(job_ids=(1000,)), by=("cluster", "hour"))]

    jobs.merge(connect(1), tmp_path, "alpha", [record(1000)])
    jobs.merge(connect(1), tmp_path, "beta", [record(1000, submit=T0 + 9 * H)])
    for asked in (ledger, both):
        asked.jobs(job_ids=[1000])  # as a report does before it asks for energy
    assert hours(ledger) == [("alpha", T0)]
    assert hours(both) == [("alpha", T0), ("beta", T0 + 9 * H)], "each cluster has a job of this number"
    jobs.merge(connect(1), tmp_path, "alpha", [record(1000, submit=T0 + 9 * H)])
    assert hours(ledger) == [("alpha", T0), ("alpha", T0 + 9 * H)], "it was requeued meanwhile"


def test_what_is_noted_of_a_file_that_changed_since_excludes_nothing(tmp_path: Path) -> None:
    with connect(1) as con:
        jobs.merge(con, tmp_path, "alpha", [record(1), record(2)])
    (file,) = jobs.job_files(tmp_path, "alpha")
    assert jobs.holding([file], [7]) == []
    os.utime(file, ns=(1, 1))
    assert jobs.holding([file], [7]) == [file]
