"""The ledger: what is read from where, and that it adds up."""

from __future__ import annotations

import os
import time
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import pyarrow.parquet as pq
import pytest

from hpccarbon import schema
from hpccarbon.site import jobs
from hpccarbon.site.aggregate import aggregate
from hpccarbon.site.executor import open_crew
from hpccarbon.site.index import ledger_path
from hpccarbon.site.ledger import EnergyRow, Ledger, Selection
from tests.site import maker

H = timedelta(hours=1)


def run(shared: Path, cluster: str = "alpha") -> None:
    with open_crew() as crew:
        aggregate(shared, cluster, crew)


def total(rows: list[maker.Row], column: str, **where: object) -> int | None:
    known = [row[column] for row in rows if all(row[key] == value for key, value in where.items())]
    known = [value for value in known if value is not None]
    return sum(known) if known else None


def unsettled(shared: Path) -> None:
    """Make the shards' directories look old, as they are on a site that runs."""
    for folder in (shared / "shards").glob("*/date=*/hour=*"):
        os.utime(folder, (time.time() - 60, time.time() - 60))


@pytest.mark.parametrize("aggregated", [False, True])
def test_energy_is_the_same_from_shards_and_from_the_ledger(tmp_path: Path, aggregated: bool) -> None:
    rows = maker.node_hour(7, job_ids=(5, 6), gpus=True, dram=False)
    maker.write(tmp_path, rows)
    if aggregated:
        run(tmp_path)
    ledger = Ledger(tmp_path, "alpha")
    (found,) = ledger.energy(Selection(job_ids=(5,)))
    assert (found.cpu_uj, found.gpu_uj, found.dram_uj, found.other_uj) == (
        total(rows, "cpu_uj", job_id=5),
        total(rows, "gpu_uj", job_id=5),
        None,
        None,
    )
    assert found.energy_uj == (found.cpu_uj or 0) + (found.gpu_uj or 0)
    assert found.cpu_time_us == total(rows, "cpu_time_us", job_id=5)
    assert (found.present_ms, found.alloc_cores, found.alloc_gpus, found.nodes) == (3_600_000, 6, 1, 1)
    assert found.core_us == 6 * 3_600_000_000
    assert (found.first, found.last) == (maker.HOUR, maker.HOUR + timedelta(minutes=59))
    assert found.grams is None
    assert ledger.faults == []
    assert ledger.hours(Selection(job_ids=(5,))) == [maker.HOUR]
    assert ledger.hours(Selection(job_ids=(7,))) == []


def test_an_hour_is_never_read_twice_while_its_shards_change(tmp_path: Path) -> None:
    maker.write(tmp_path, maker.node_hour(1))
    run(tmp_path)
    before = Ledger(tmp_path).energy(Selection())[0].energy_uj
    more = maker.node_hour(2)
    maker.write(tmp_path, more, node="n2")
    added = sum(total(more, name, holder=holder) or 0 for name in schema.ENERGY_COLUMNS for holder in ("job", "system"))
    added += sum(total(more, name, holder="unallocated") or 0 for name in schema.ENERGY_COLUMNS)
    young = Ledger(tmp_path).energy(Selection())
    run(tmp_path)
    assert young[0].energy_uj == before + added
    assert Ledger(tmp_path).energy(Selection()) == young


def test_grouping_words(tmp_path: Path) -> None:
    maker.site(tmp_path, hours=3, nodes=2, first=datetime(2026, 2, 28, 22, tzinfo=timezone.utc))
    run(tmp_path)
    ledger = Ledger(tmp_path, timezone="Europe/Berlin")
    assert [row.key for row in ledger.energy(Selection(), by=("hour",))] == [
        (datetime(2026, 2, 28, 22, tzinfo=timezone.utc) + n * H,) for n in range(3)
    ]
    days = ledger.energy(Selection(), by=("day",))
    assert [row.key for row in days] == [(date(2026, 2, 28),), (date(2026, 3, 1),)]
    assert [row.key for row in ledger.energy(Selection(), by=("month",))] == [("2026-02",), ("2026-03",)]
    assert [row.key for row in ledger.energy(Selection(holders=("meter",)), by=("meter",))] == [
        ("test/cpu:0",),
        ("test/dram:0",),
        ("test/gpu:0",),
    ]
    by_job = ledger.energy(Selection(), by=("cluster", "node", "job_id"))
    assert [row.key for row in by_job][:4] == [("alpha", "n1", n) for n in (1000, 1001, 1002)] + [("alpha", "n1", None)]
    everything = ledger.energy(Selection())[0]
    assert sum(row.energy_uj for row in by_job) == everything.energy_uj == sum(row.energy_uj for row in days)
    assert everything.nodes == 2
    meters = ledger.energy(Selection(holders=("meter",)))[0]
    assert meters.energy_uj == everything.energy_uj
    with pytest.raises(ValueError, match="cannot group by colour"):
        ledger.energy(Selection(), by=("colour",))
    with pytest.raises(ValueError, match="meter"):
        ledger.energy(Selection(), by=("meter",))


def test_minutes_come_from_shards(tmp_path: Path) -> None:
    maker.site(tmp_path, hours=2, nodes=3)
    run(tmp_path)
    unsettled(tmp_path)
    run(tmp_path)
    ledger = Ledger(tmp_path)
    wanted = Selection(job_ids=(1000, 1003))
    minutes = ledger.energy(wanted, by=("bucket",))
    assert [row.key[0] for row in minutes] == [maker.HOUR + timedelta(minutes=n) for n in range(120)]
    assert sum(row.energy_uj for row in minutes) == ledger.energy(wanted)[0].energy_uj
    half = Selection(since=maker.HOUR + H / 2, until=maker.HOUR + H)
    assert [row.key[0] for row in ledger.energy(half, by=("bucket",))] == [row.key[0] for row in minutes[30:60]]
    both = ledger.energy(Selection(until=maker.HOUR + H / 2))[0].energy_uj + ledger.energy(half)[0].energy_uj
    assert both == ledger.energy(Selection(until=maker.HOUR + H))[0].energy_uj


def test_factors_turn_energy_into_grams_hour_by_hour(tmp_path: Path) -> None:
    maker.site(tmp_path, hours=2, nodes=1)
    run(tmp_path)
    ledger = Ledger(tmp_path)
    by_hour = {row.key[0]: row.energy_uj for row in ledger.energy(Selection(), by=("hour",))}
    factors = {maker.HOUR: 100.0, maker.HOUR + H: 412.25}
    (found,) = ledger.energy(Selection(), factors=factors)
    expected = sum(by_hour[hour] * factor for hour, factor in factors.items()) / 3.6e12
    assert found.grams == pytest.approx(expected, rel=1e-12)
    (lacking,) = ledger.energy(Selection(), factors={maker.HOUR: 100.0})
    assert lacking.grams is None
    assert lacking.energy_uj == found.energy_uj


def test_a_shard_that_cannot_be_trusted_is_named_from_either_road(tmp_path: Path) -> None:
    paths = maker.site(tmp_path, hours=1, nodes=3)
    paths[1].write_bytes(paths[1].read_bytes()[:-100])
    young = Ledger(tmp_path)
    rows = young.energy(Selection(), by=("node",))
    run(tmp_path)
    unsettled(tmp_path)
    run(tmp_path)
    old = Ledger(tmp_path)
    assert old.energy(Selection(), by=("node",)) == rows
    assert [row.key for row in rows] == [("n1",), ("n3",)]
    assert [fault.path for fault in young.faults] == [fault.path for fault in old.faults] == [str(paths[1])]
    assert "truncated" in old.faults[0].reason


def test_the_ledger_outlives_its_shards(tmp_path: Path) -> None:
    for path in maker.site(tmp_path, hours=1, nodes=2):
        before = path
    run(tmp_path)
    rows = Ledger(tmp_path).energy(Selection(), by=("job_id",))
    for path in before.parent.iterdir():
        path.unlink()
    run(tmp_path)
    assert Ledger(tmp_path).energy(Selection(), by=("job_id",)) == rows
    before.parent.rmdir()
    assert Ledger(tmp_path).energy(Selection(), by=("job_id",)) == rows


def test_a_damaged_ledger_file_is_named_and_read_around(tmp_path: Path) -> None:
    maker.site(tmp_path, hours=2, nodes=2)
    run(tmp_path)
    rows = Ledger(tmp_path).energy(Selection(), by=("hour",))
    path = ledger_path(tmp_path, "alpha", maker.HOUR)
    data = bytearray(path.read_bytes())
    data[200 : len(data) // 2] = bytes(len(data) // 2 - 200)
    status = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    ledger = Ledger(tmp_path)
    assert ledger.energy(Selection(), by=("hour",)) == rows
    assert [fault.path for fault in ledger.faults] == [str(path)]
    path.write_bytes(b"nonsense")
    again = Ledger(tmp_path)
    assert again.energy(Selection(), by=("hour",)) == rows
    assert [fault.path for fault in again.faults] == [str(path)]


def test_clusters_lie_side_by_side(tmp_path: Path) -> None:
    maker.site(tmp_path, hours=1, nodes=1, cluster="alpha")
    maker.site(tmp_path, hours=1, nodes=2, cluster="beta")
    run(tmp_path, "beta")
    both = Ledger(tmp_path)
    assert both.clusters() == ["alpha", "beta"]
    assert [row.key for row in both.energy(Selection(), by=("cluster",))] == [("alpha",), ("beta",)]
    assert both.energy(Selection())[0].nodes == 3
    assert Ledger(tmp_path, "beta").energy(Selection())[0].nodes == 2
    assert Ledger(tmp_path, "gamma").energy(Selection()) == []


def test_hostile_words_are_only_words(tmp_path: Path) -> None:
    rows = [maker.job_row(maker.HOUR, 1, user="o'b\"; --", account="%", cpu_uj=5)]
    maker.write(tmp_path, rows + maker.meter_rows(rows))
    for _ in range(2):
        (found,) = Ledger(tmp_path).energy(Selection(users=("o'b\"; --",), accounts=("%",)), by=("user",))
        assert (found.key, found.cpu_uj) == (("o'b\"; --",), 5)
        assert Ledger(tmp_path).energy(Selection(users=("' OR 1=1 --",))) == []
        run(tmp_path)


def test_arrow_and_pandas(tmp_path: Path) -> None:
    maker.site(tmp_path, hours=1, nodes=1)
    empty = Ledger(tmp_path).table(Selection(job_ids=(99,)))
    run(tmp_path)
    table = Ledger(tmp_path).table()
    assert table.schema.names == ["cluster", *(column.name for column in schema.LEDGER)]
    assert empty.schema == table.schema
    assert table.num_rows == 5
    frame = Ledger(tmp_path).frame(Selection(holders=("job",)))
    assert list(frame["job_id"]) == [1000, 1001, 1002]
    assert str(frame["gpu_uj"].dtype) == "Int64"
    assert frame["gpu_uj"].isna().all()


def test_rows_are_values(tmp_path: Path) -> None:
    maker.site(tmp_path, hours=1, nodes=1)
    (row,) = Ledger(tmp_path).energy(Selection())
    assert isinstance(row, EnergyRow)
    assert all(isinstance(value, int) for value in (row.cpu_uj, row.idle_uj, row.core_us, row.present_ms))


def test_jobs_are_counted_by_the_engine(tmp_path: Path) -> None:
    maker.site(tmp_path, hours=2, nodes=2, cluster="alpha")
    maker.site(tmp_path, hours=1, nodes=1, cluster="beta")
    run(tmp_path)
    ledger = Ledger(tmp_path, "alpha")
    for by in ((), ("node",), ("holder", "user"), ("day",), ("hour", "job_id")):
        told = ledger.job_counts(Selection(), by)
        rows = ledger.energy(Selection(holders=("job",)), (*by, "job_id"))
        expected: dict[object, set[object]] = {(): {row.key[-1] for row in rows}}
        for row in rows:
            expected.setdefault(row.key[:-1], set()).add(row.key[-1])
        assert told == {key: len(ids) for key, ids in expected.items()}
    assert Ledger(tmp_path).job_counts(Selection()) == {(): 9}  # the same ids on another cluster are other jobs
    assert ledger.job_counts(Selection(users=("nobody",))) == {(): 0}


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Sydney", "UTC"])
@pytest.mark.parametrize(
    "first", [datetime(2026, 3, 28, 20, tzinfo=timezone.utc), datetime(2026, 12, 31, 20, tzinfo=timezone.utc)]
)
def test_a_job_over_midnight_month_year_and_the_change_of_clocks(tmp_path: Path, zone: str, first: datetime) -> None:
    """Ten hours of a job: split by the reader's days and months, nothing lost, nothing twice."""
    for number in range(10):
        hour = first + number * H
        maker.write(tmp_path, maker.node_hour(number, hour=hour, job_ids=(5,)), hour=hour)
    run(tmp_path)
    ledger, mine = Ledger(tmp_path, timezone=zone), Selection(job_ids=(5,))
    whole = ledger.energy(mine)[0]
    by_hour = {row.key[0]: row.energy_uj for row in ledger.energy(mine, by=("hour",))}
    assert len(by_hour) == 10
    clock = ZoneInfo(zone)
    for word, label in (("day", "%Y-%m-%d"), ("month", "%Y-%m")):
        expected: dict[str, int] = {}
        for at, energy_uj in by_hour.items():
            assert isinstance(at, datetime)
            name = at.astimezone(clock).strftime(label)
            expected[name] = expected.get(name, 0) + energy_uj
        found = ledger.energy(mine, by=(word,))
        assert {str(row.key[0]): row.energy_uj for row in found} == expected
        assert sum(row.energy_uj for row in found) == whole.energy_uj
    for border in (datetime(2026, 3, 29, tzinfo=clock), datetime(2027, 1, 1, tzinfo=clock)):
        parts = [ledger.energy(Selection(until=border)), ledger.energy(Selection(since=border))]
        assert sum(row.energy_uj for part in parts for row in part) == whole.energy_uj + sum(
            row.energy_uj for row in ledger.energy(Selection(holders=("system", "unallocated")))
        )


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_young_shard_that_cannot_be_asked_for_a_job_is_named_not_skipped(tmp_path: Path, nodes: int) -> None:
    paths = maker.site(tmp_path, hours=1, nodes=nodes)
    paths[0].unlink()
    paths[0].symlink_to("/dev/zero")
    (tmp_path / "shards" / "alpha" / "date=2026-03-01" / "hour=10" / "n9.b.parquet").write_bytes(b"PAR1")
    ledger = Ledger(tmp_path, "alpha")
    found = ledger.energy(Selection(job_ids=(1003,)), ("bucket",))
    assert len(found) == (60 if nodes == 2 else 0)
    assert [(Path(fault.path).name, fault.reason.partition(":")[0]) for fault in ledger.faults] == [
        (paths[0].name, "it is no plain file"),
        ("n9.b.parquet", "not a whole Parquet file"),
    ]


def test_nothing_but_links_among_young_shards_is_named(tmp_path: Path) -> None:
    (path,) = maker.site(tmp_path, hours=1, nodes=1)
    path.unlink()
    path.symlink_to("/dev/zero")
    ledger = Ledger(tmp_path, "alpha")
    assert ledger.energy(Selection(job_ids=(1000,)), ("bucket",)) == []
    assert [(fault.path, fault.reason) for fault in ledger.faults] == [(str(path), "it is no plain file")]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": "2"}, "ledger version 2, this release reads 1 (upgrade hpccarbon here"),
        ({"hour": "2026-03-01T11:00:00+00:00"}, "written for cluster 'alpha', hour '2026-03-01T11:00:00+00:00'"),
        ({"cluster": "beta"}, "written for cluster 'beta'"),
        ({"made_of": "{"}, "its metadata does not say what it was made of"),
    ],
)
def test_a_ledger_file_that_is_not_what_its_place_says_is_named_and_made_again(
    tmp_path: Path, change: dict[str, str], said: str
) -> None:
    maker.site(tmp_path, hours=1, nodes=1)
    run(tmp_path)
    path = ledger_path(tmp_path, "alpha", maker.HOUR)
    before = path.read_bytes()
    table = pq.read_table(path, partitioning=None)
    metadata = table.schema.metadata | {f"hpccarbon.{key}".encode(): value.encode() for key, value in change.items()}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    ledger = Ledger(tmp_path, "alpha")
    assert len(ledger.energy(Selection(), ("node",))) == 1, "its shards are still there"
    (fault,) = ledger.faults
    assert (fault.path, fault.reason[: len(said)]) == (str(path), said)
    run(tmp_path)
    assert path.read_bytes() == before


def test_records_that_are_damaged_cost_no_energy(tmp_path: Path) -> None:
    maker.site(tmp_path, hours=1, nodes=1)
    run(tmp_path)
    records = tmp_path / "jobs" / "alpha" / "month=2026-03.parquet"
    records.parent.mkdir(parents=True)
    records.write_bytes(b"PAR1")
    jobs.write_cursor(tmp_path, "alpha", maker.HOUR + H)
    ledger = Ledger(tmp_path, "alpha")
    (row,) = ledger.energy(Selection(job_ids=(1000,)), ("job_id",))
    assert row.key == (1000,)
    assert [fault.path for fault in ledger.faults] == [str(records)]


def test_a_time_without_a_zone_is_refused(tmp_path: Path) -> None:
    maker.site(tmp_path, hours=1, nodes=1)
    with pytest.raises(ValueError, match="since and until need a time zone"):
        Ledger(tmp_path, "alpha").energy(Selection(since=datetime(2026, 3, 1)))


def test_an_hour_without_a_job_is_not_opened_for_one(tmp_path: Path) -> None:
    rows = [maker.row(maker.HOUR, "system", cpu_uj=5)]
    maker.write(tmp_path, [*rows, *maker.meter_rows(rows)])
    with open_crew(1) as crew:
        aggregate(tmp_path, "alpha", crew)
    ledger_path(tmp_path, "alpha", maker.HOUR).write_bytes(b"not Parquet, of the same name")
    ledger = Ledger(tmp_path, "alpha")
    assert ledger.energy(Selection(job_ids=(5,))) == []
    ledger.close()
