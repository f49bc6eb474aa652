"""What Slurm knows and no daemon saw: it lowers coverage, by whatever is asked, and takes nothing from the sums."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from hpccarbon.errors import ShardError
from hpccarbon.report.figures import added_groups
from hpccarbon.site import jobs
from hpccarbon.site.aggregate import aggregate
from hpccarbon.site.engine import connect
from hpccarbon.site.executor import open_crew
from hpccarbon.site.groups import Grouping, groups
from hpccarbon.site.jobtable import job_table
from hpccarbon.site.ledger import Ledger, Selection
from hpccarbon.site.unseen import DUE, NOTHING, Unseen, unseen, unseen_and_counts
from hpccarbon.slurm.record import JobRecord
from tests.site import maker

T0 = maker.HOUR
H = timedelta(hours=1)
MIN = timedelta(minutes=1)
LATER = datetime(2026, 4, 1, tzinfo=timezone.utc)
HOUR_MS = 3_600_000


def record(job_id: int, start: datetime = T0, length: timedelta | None = H, **given: Any) -> JobRecord:
    values: dict[str, Any] = {
        "submit": start,
        "start": start,
        "end": None if length is None else start + length,
        "elapsed_s": 0 if length is None else int(length.total_seconds()),
        "alloc_nodes": 1,
        "user": "ada",
        "account": "physics",
        "partition": "batch",
        "state": "RUNNING" if length is None else "COMPLETED",
    }
    return JobRecord(job_id=job_id, **(values | given))


def known(shared: Path, records: Sequence[JobRecord], cluster: str = "alpha") -> None:
    with connect(1) as con:
        jobs.merge(con, shared, cluster, records)


def seen(shared: Path, job_id: int, minutes: int = 60, hour: datetime = T0, **given: Any) -> None:
    """Rows of a job on a node in one hour, from its start."""
    given = {"user": "ada", "account": "physics", "partition": "batch", "cpu_uj": 6_000_000} | given
    rows = [maker.job_row(hour + number * MIN, job_id, run="0.1", **given) for number in range(minutes)]
    maker.write(shared, [*rows, *maker.meter_rows(rows)], hour=hour)


def lack(shared: Path, *by: str, zone: str = "UTC", now: datetime = LATER, **selected: Any) -> dict[Any, Unseen]:
    ledger = Ledger(shared, timezone=zone)
    (found,) = unseen(ledger, Selection(**selected), [by], now)
    ledger.close()
    return found


def test_a_job_without_a_row_lacks_all_of_its_time_but_the_second_that_slurm_may_have_rounded(tmp_path: Path) -> None:
    seen(tmp_path, 1)
    known(tmp_path, [record(1), record(2, user="bob", length=2 * H, alloc_nodes=3)])
    lost = Unseen((7200 - 1) * 3 * 1000, 1)
    assert lack(tmp_path, "user") == {("bob",): lost}
    assert lack(tmp_path, "holder", "job", "account") == {("job", 2, "physics"): lost}
    assert lack(tmp_path) == {(): lost}


def test_a_node_and_an_hour_that_a_job_lacks_are_missed_and_the_job_is_not_counted_as_unseen(tmp_path: Path) -> None:
    seen(tmp_path, 1)  # the first hour on one of two nodes
    known(tmp_path, [record(1, length=2 * H, alloc_nodes=2)])
    assert lack(tmp_path, "user") == {("ada",): Unseen(2 * 7_199_000 - HOUR_MS, 0)}


def test_whoever_was_seen_for_longer_than_slurm_says_lacks_nothing(tmp_path: Path) -> None:
    seen(tmp_path, 1)
    known(tmp_path, [record(1, length=H), record(2, length=timedelta(seconds=1)), record(3, length=None)])
    assert lack(tmp_path) == {}


def test_runs_of_a_requeued_job_are_added_and_suspended_time_is_not(tmp_path: Path) -> None:
    seen(tmp_path, 1, minutes=30)
    # Ten hours on the wall, of which it was suspended for nine.
    known(tmp_path, [record(1, length=H / 2), record(1, T0 + H, 10 * H, elapsed_s=3600)])
    assert lack(tmp_path, "job_id") == {(1,): Unseen(1_799_000 + 3_599_000 - HOUR_MS // 2, 0)}


def test_what_has_just_ended_may_still_come_in(tmp_path: Path) -> None:
    known(tmp_path, [record(1, length=H)])
    assert lack(tmp_path, now=T0 + DUE) == {}
    assert lack(tmp_path, now=T0 + DUE + H / 2) == {(): Unseen(HOUR_MS // 2 - 1000, 1)}
    assert lack(tmp_path, now=T0 + DUE + H) == {(): Unseen(HOUR_MS - 1000, 1)}


def test_only_the_time_that_was_asked_for_is_missed(tmp_path: Path) -> None:
    seen(tmp_path, 1)
    known(tmp_path, [record(1, length=4 * H), record(2, T0 + 50 * H)])
    assert lack(tmp_path, since=T0, until=T0 + 2 * H) == {(): Unseen(HOUR_MS - 1000, 0)}
    assert lack(tmp_path, since=T0 + H, until=T0 + 3 * H) == {(): Unseen(2 * HOUR_MS - 1000, 1)}
    assert lack(tmp_path, since=T0 + 100 * H) == {}
    assert lack(tmp_path, until=T0 - H) == {}


def test_days_and_months_are_those_of_the_reader(tmp_path: Path) -> None:
    evening = datetime(2026, 3, 31, 20, tzinfo=timezone.utc)  # 22:00 in Berlin
    seen(tmp_path, 1, hour=evening)
    known(tmp_path, [record(1, evening, 4 * H)])
    days = lack(tmp_path, "day", "user", zone="Europe/Berlin", now=LATER + 9 * H)
    march, april = date(2026, 3, 31), date(2026, 4, 1)
    assert days == {(march, "ada"): Unseen(HOUR_MS - 1000, 0), (april, "ada"): Unseen(2 * HOUR_MS - 1000, 1)}
    months = lack(tmp_path, "month", zone="Europe/Berlin", now=LATER + 9 * H)
    assert months.keys() == {("2026-03",), ("2026-04",)}
    hours = lack(tmp_path, "holder", "hour", now=LATER + 9 * H)
    assert hours == {("job", evening + n * H): Unseen(HOUR_MS - 1000, 1) for n in (1, 2, 3)}


def test_a_job_stands_where_its_rows_say_and_else_where_accounting_does(tmp_path: Path) -> None:
    seen(tmp_path, 1, user=None, account="chemistry")
    known(tmp_path, [record(1, length=2 * H), record(2, account=None)])
    assert set(lack(tmp_path, "user", "account")) == {(None, "chemistry"), ("ada", None)}


def test_a_job_that_no_hook_told_was_seen_all_the_same_by_whomever_it_is_asked_for(tmp_path: Path) -> None:
    seen(tmp_path, 1, user=None, account=None, partition=None)
    known(tmp_path, [record(1)])
    assert lack(tmp_path, "job", accounts=("physics",)) == {}
    known(tmp_path, [record(1, length=2 * H)])
    assert lack(tmp_path, "job", "account", accounts=("physics",)) == {(1, "physics"): Unseen(HOUR_MS - 1000, 0)}
    assert lack(tmp_path, "job", "account") == {(1, None): Unseen(HOUR_MS - 1000, 0)}


def test_jobs_of_two_clusters_with_one_number_are_two(tmp_path: Path) -> None:
    seen(tmp_path, 1)
    known(tmp_path, [record(1)])
    known(tmp_path, [record(1)], "beta")
    assert lack(tmp_path, "cluster") == {("beta",): Unseen(HOUR_MS - 1000, 1)}


def test_selections_narrow_it_and_what_cannot_be_known_is_not_said(tmp_path: Path) -> None:
    seen(tmp_path, 3)
    known(tmp_path, [record(1), record(2, user="bob", account="chemistry", partition="gpu")])
    assert lack(tmp_path, "user", users=("bob",)).keys() == {("bob",)}
    assert lack(tmp_path, "job", accounts=("physics",)).keys() == {(1,)}
    assert lack(tmp_path, "job", partitions=("gpu",)).keys() == {(2,)}
    assert lack(tmp_path, "job", job_ids=(1, 3)).keys() == {(1,)}
    assert lack(tmp_path, "user", nodes=("n1",)) == {}
    assert lack(tmp_path, "user", holders=("system",)) == {}
    assert lack(tmp_path, "node") == {}


def test_looking_at_each_job_once_tells_the_same_as_asking_twice(tmp_path: Path) -> None:
    with open_crew() as crew:
        for cluster, nodes in (("alpha", 2), ("beta", 1)):
            maker.site(tmp_path, hours=2, nodes=nodes, cluster=cluster)
            aggregate(tmp_path, cluster, crew)
    known(tmp_path, [record(1), record(1000, length=3 * H), record(1001, user="bob", length=9 * H)])
    known(tmp_path, [record(1000, user="bob", length=9 * H)], "beta")
    groupings = [(), ("holder", "user"), ("job",), ("cluster", "account", "user"), ("user", "day"), ("node",)]
    selections = [
        Selection(),
        Selection(users=("bob",)),
        Selection(accounts=("physics",), partitions=("batch",)),
        Selection(job_ids=(1, 1000)),
        Selection(holders=("system",)),
    ]
    for ledger in (Ledger(tmp_path, "alpha"), Ledger(tmp_path)):
        for selection in selections:
            for by in groupings:
                lacking, whole = unseen(ledger, selection, [by, ()], LATER)
                counts = ledger.job_counts(selection, tuple("job_id" if word == "job" else word for word in by))
                told = unseen_and_counts(ledger, selection, by, LATER)
                assert told == (lacking, whole.get((), NOTHING), counts), (selection, by)


def test_without_records_nothing_is_missed(tmp_path: Path) -> None:
    seen(tmp_path, 1)
    assert lack(tmp_path, "user") == {}


def test_where_no_daemon_ever_ran_jobs_are_known_and_their_energy_is_not(tmp_path: Path) -> None:
    known(tmp_path, [record(1), record(2, user="bob")])
    ledger = Ledger(tmp_path, "alpha")
    whole, users = groups(ledger, Selection(), [Grouping(()), Grouping(("holder", "user"))])
    figures = added_groups(whole)
    assert (figures.energy_uj, figures.covered_percent, figures.co2e_g, figures.first) == (None, 0.0, None, None)
    assert figures.unseen_node_hours == pytest.approx(2 * 3599 / 3600)
    assert [(one.energy.key, one.jobs, one.unseen.jobs) for one in users] == [
        (("job", "ada"), 0, 1),
        (("job", "bob"), 0, 1),
    ]
    table = job_table(ledger, Selection()).to_pylist()
    assert [(row["job"], row["user"], row["energy_uj"], row["covered_percent"]) for row in table] == [
        ("1", "ada", None, 0.0),
        ("2", "bob", None, 0.0),
    ]


def test_a_job_that_was_seen_where_nothing_could_be_read_has_no_energy_and_not_none_of_it(tmp_path: Path) -> None:
    seen(tmp_path, 1, cpu_uj=None)
    (row,) = job_table(Ledger(tmp_path, "alpha"), Selection()).to_pylist()
    assert (row["energy_uj"], row["energy_kwh"], row["co2e_g"]) == (None, None, None)
    assert row["node_hours"] == 1.0


def test_sums_are_the_same_with_and_without_records(tmp_path: Path) -> None:
    seen(tmp_path, 1)
    ledger = Ledger(tmp_path, "alpha")
    (before,) = groups(ledger, Selection(), [Grouping(("holder", "user"))])
    known(tmp_path, [record(1, length=3 * H), record(2, user="bob")])
    after, bobs = groups(ledger, Selection(), [Grouping(("holder", "user"))])[0]
    assert before[0].unseen == NOTHING
    assert after.energy == before[0].energy
    assert bobs.energy.energy_uj == 0
    assert added_groups([after]).covered_percent == pytest.approx(100 * 3600 / (3 * 3600 - 1))


def test_a_damaged_file_of_records_is_named(tmp_path: Path) -> None:
    seen(tmp_path, 1)
    known(tmp_path, [record(1)])
    path = tmp_path / "jobs" / "alpha" / "month=2026-03.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ShardError, match=r"month=2026-03\.parquet.*remove it and run"):
        lack(tmp_path, "user")
