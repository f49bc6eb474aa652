"""An hour is a function of its shards: whatever the order, the threads, the run; and what is broken stays out."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpccarbon import schema
from hpccarbon.errors import HpcCarbonError, ShardError
from hpccarbon.site import aggregate as aggregate_module
from hpccarbon.site import index, shards
from hpccarbon.site.aggregate import Outcome, aggregate, aggregate_hour
from hpccarbon.site.engine import connect
from hpccarbon.site.executor import Crew, open_crew
from hpccarbon.site.ledger import Ledger, Selection
from tests.site import maker

QUICK = settings(max_examples=25, deadline=None)
HOLDERS = ("job", "system", "unallocated")


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def run(shared: Path, workers: int = 1) -> Any:
    with open_crew(workers) as crew:
        return aggregate(shared, "alpha", crew)


def made(shared: Path, files: list[shards.ShardFile], threads: int = 1) -> bytes:
    target = shared / "out.parquet"
    aggregate_hour(files, "alpha", maker.HOUR, target, threads)
    return target.read_bytes()


def listed(shared: Path, hour: datetime = maker.HOUR) -> list[shards.ShardFile]:
    return shards.list_hour(shards.hour_dirs(shared, "alpha")[hour])


energies = st.none() | st.integers(0, 10**13)
share = st.fixed_dictionaries(
    {
        "minute": st.integers(0, 59),
        "holder": st.sampled_from(HOLDERS),
        "job_id": st.integers(1, 5),
        "run": st.sampled_from(("a", "b")),
        "user": st.none() | st.sampled_from(("ada", "bob", "é'\"")),
        "uid": st.none() | st.integers(0, 2**40),
        **dict.fromkeys(schema.ENERGY_COLUMNS, energies),
        "idle_uj": st.integers(0, 10**13),
        "modelled_uj": st.integers(0, 10**13),
        "cpu_time_us": st.none() | st.integers(0, 10**13),
        "alloc_cores": st.none() | st.integers(0, 512),
        "alloc_gpus": st.none() | st.integers(0, 16),
        "present_ms": st.integers(30_000, 60_000),
        "covered_ms": st.integers(0, 30_000),
    }
)


def rows_of(drawn: list[dict[str, Any]]) -> list[maker.Row]:
    rows = []
    for given_share in drawn:
        values = dict(given_share)
        bucket = maker.HOUR + timedelta(minutes=values.pop("minute"))
        holder = values.pop("holder")
        if holder != "job":
            values |= {"job_id": None, "run": None, "user": None, "uid": None}
        rows.append(maker.row(bucket, holder, **values))
    return rows + maker.meter_rows(rows)


def totals(rows: list[maker.Row]) -> dict[tuple[Any, ...], tuple[int | None, ...]]:
    """The sums of the sum columns by key, in plain Python: null plus a value is the value."""
    found: dict[tuple[Any, ...], list[int | None]] = {}
    for row in rows:
        sums = found.setdefault(tuple(row[name] for name in schema.KEY_COLUMNS), [None] * len(schema.SUM_COLUMNS))
        for at, name in enumerate(schema.SUM_COLUMNS):
            if row[name] is not None:
                sums[at] = (sums[at] or 0) + row[name]
    return {key: tuple(sums) for key, sums in found.items()}


@QUICK
@given(st.lists(st.lists(share, max_size=12), min_size=1, max_size=4))
def test_ledger_sums_equal_shard_sums_in_every_column(nodes: list[list[dict[str, Any]]]) -> None:
    with folder() as shared:
        written: dict[str, list[maker.Row]] = {}
        for number, drawn in enumerate(nodes):
            written[f"n{number}"] = rows_of(drawn)
            maker.write(shared, written[f"n{number}"], node=f"n{number}")
        outcome = run(shared)
        assert (outcome.set_aside, outcome.failed) == ((), ())
        table = pq.read_table(index.ledger_path(shared, "alpha", maker.HOUR), partitioning=None)
        assert table.schema.names == [column.name for column in schema.LEDGER]
        ledger = table.to_pylist()
        for node, rows in written.items():
            mine = [row for row in ledger if row["node"] == node]
            assert len(mine) == len(totals(rows))
            assert totals(mine) == totals(rows)
            for column in schema.MAX_COLUMNS:
                known = [row[column] for row in rows if row[column] is not None]
                assert max((row[column] for row in mine if row[column] is not None), default=None) == max(
                    known, default=None
                )
            assert {row["first_bucket"] for row in mine} <= {row["bucket"] for row in rows}
        young, old = Ledger(shared), Ledger(shared)
        shutil.rmtree(shared / "ledger" / "alpha" / ".index")
        assert young.table() == old.table()


@QUICK
@given(st.lists(share, min_size=1, max_size=30), st.data())
def test_splitting_an_hour_over_two_boots_changes_no_total(drawn: list[dict[str, Any]], data: st.DataObject) -> None:
    rows = rows_of(drawn)
    cut = maker.HOUR + timedelta(minutes=data.draw(st.integers(0, 60)))
    with folder() as one, folder() as two:
        maker.write(one, rows)
        for boot, part in (
            ("b1", [r for r in rows if r["bucket"] < cut]),
            ("b2", [r for r in rows if r["bucket"] >= cut]),
        ):
            maker.write(two, part, boot=boot)
        run(one)
        run(two)
        first, second = (Ledger(shared).table() for shared in (one, two))
        assert first == second


@QUICK
@given(st.integers(0, 2**32), st.integers(2, 6), st.booleans())
def test_the_bytes_do_not_depend_on_order_threads_or_run(seed: int, nodes: int, broken: bool) -> None:
    with folder() as shared:
        maker.site(shared, hours=1, nodes=nodes, seed=seed)
        files = listed(shared)
        if broken:
            Path(files[0].path).write_bytes(b"PAR1")
            files = listed(shared)
        shuffled = files[:]
        random.Random(seed).shuffle(shuffled)
        expected = made(shared, files)
        assert made(shared, shuffled) == expected
        assert made(shared, shuffled, threads=2) == expected
        assert made(shared, files, threads=4) == expected


def test_the_bytes_do_not_depend_on_where_the_site_lies(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "far away"
    maker.site(here, nodes=5)
    shutil.copytree(here, there)  # keeps the times of modification
    run(here, workers=1)
    run(there, workers=3)
    for hour in range(3):
        path = index.ledger_path(here, "alpha", maker.HOUR + timedelta(hours=hour))
        assert path.read_bytes() == (there / path.relative_to(here)).read_bytes()


def test_only_hours_with_news_are_merged(tmp_path: Path) -> None:
    paths = maker.site(tmp_path, hours=3, nodes=2)
    assert (run(tmp_path).hours, run(tmp_path).hours) == (3, 0)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "ledger").rglob("hour=*.parquet")}
    maker.write(tmp_path, maker.node_hour(99), node="n1")
    outcome = run(tmp_path)
    assert (outcome.hours, outcome.shards) == (1, 2)
    changed = [path for path, at in before.items() if path.stat().st_mtime_ns != at]
    assert changed == [index.ledger_path(tmp_path, "alpha", maker.HOUR)]
    paths[2].unlink()
    assert run(tmp_path).hours == 1


@pytest.mark.parametrize("damage", ["remove", "empty", "nonsense", "lies"])
def test_the_index_is_only_a_cache(tmp_path: Path, damage: str) -> None:
    maker.site(tmp_path, hours=2, nodes=2)
    run(tmp_path)
    path = tmp_path / "ledger" / "alpha" / ".index" / "2026-03.json"
    text = path.read_text()
    if damage == "remove":
        path.unlink()
    else:
        path.write_text({"empty": "", "nonsense": "[[1]]", "lies": text.replace("2", "3")}[damage])
    assert run(tmp_path).hours == 0
    assert len(Ledger(tmp_path).hours(Selection())) == 2


def test_a_damaged_ledger_file_is_made_again(tmp_path: Path) -> None:
    maker.site(tmp_path, hours=1, nodes=2)
    run(tmp_path)
    path = index.ledger_path(tmp_path, "alpha", maker.HOUR)
    whole = path.read_bytes()
    for damaged in (b"", whole[:-1], b"x" * 100):
        path.write_bytes(damaged)
        assert run(tmp_path).hours == 1
        assert path.read_bytes() == whole


def test_every_prefix_of_a_shard_is_named_never_summed(tmp_path: Path) -> None:
    good = maker.write(tmp_path, maker.node_hour(1), node="n1")
    bad = maker.write(tmp_path, maker.node_hour(2), node="n2")
    whole = bad.read_bytes()
    con = connect(1)
    lengths = {0, 1, 3, 4, 8, 11, 12, len(whole) - 1, *random.Random(3).sample(range(len(whole)), 60)}
    for length in sorted(lengths):
        bad.write_bytes(whole[:length])
        judged = shards.load(con, listed(tmp_path), "alpha", maker.HOUR)
        assert [file.name for file in judged.good] == [good.name]
        assert [(fault.path, "truncated" in fault.reason) for fault in judged.faults] == [(str(bad), True)]
        assert con.execute("SELECT DISTINCT node FROM grouped").fetchall() == [("n1",)]


def test_noise_within_a_shard_is_named_or_changes_nothing(tmp_path: Path) -> None:
    rows = maker.node_hour(1)
    path = maker.write(tmp_path, rows)
    whole = path.read_bytes()
    rng = random.Random(11)
    con = connect(1)
    for _ in range(40):
        at = rng.randrange(4, len(whole) - 8)
        path.write_bytes(whole[:at] + bytes(byte ^ 0xFF for byte in whole[at : at + 16]) + whole[at + 16 :])
        judged = shards.load(con, listed(tmp_path), "alpha", maker.HOUR)
        if judged.good:  # what is damaged was no energy, or the energy would not add up
            found = con.execute("SELECT sum(cpu_uj) FROM grouped WHERE holder = 'meter'").fetchone()
            assert found == (
                sum(row["cpu_uj"] for row in rows if row["holder"] == "meter" and row["cpu_uj"] is not None),
            )
        else:
            assert len(judged.faults) == 1


def broken_rows() -> dict[str, tuple[list[maker.Row], str]]:
    hour = maker.HOUR
    fine = [maker.job_row(hour, 1, cpu_uj=5), *maker.meter_rows([maker.job_row(hour, 1, cpu_uj=5)])]
    huge = [maker.job_row(hour + timedelta(minutes=n), 1, cpu_uj=10**16) for n in range(11)]

    def changed(**values: Any) -> list[maker.Row]:
        return [fine[0] | values, *fine[1:]]

    return {
        "negative": (changed(idle_uj=-1), "negative"),
        "absurd": (changed(cpu_uj=2**62), "absurd"),
        "absurd in sum": (huge + maker.meter_rows(huge), "absurd"),
        "too long": (changed(present_ms=10**9), "absurd"),
        "early": (changed(bucket=hour - timedelta(minutes=1)), "outside of its hour"),
        "late": (changed(bucket=hour + timedelta(hours=1)), "outside of its hour"),
        "holder": (changed(holder="nobody"), "holder"),
        "no job": (changed(job_id=None), "without job id"),
        "covered": (changed(covered_ms=60_001), "covered for longer"),
        "lost": (changed(cpu_uj=4), "cpu_uj of all holders is 4, of the meters 5"),
        "invented": (changed(dram_uj=1), "dram_uj of all holders is 1, of the meters 0"),
    }


@pytest.mark.parametrize("case", sorted(broken_rows()))
def test_a_shard_with_rows_that_cannot_be_is_set_aside(tmp_path: Path, case: str) -> None:
    rows, why = broken_rows()[case]
    good = maker.node_hour(3)
    maker.write(tmp_path, good, node="n1")
    bad = maker.write(tmp_path, rows, node="n2")
    ((path, reason),) = run(tmp_path).set_aside
    assert path == str(bad)
    assert why in reason
    assert {row.key for row in Ledger(tmp_path).energy(Selection(), by=("node",))} == {("n1",)}


@pytest.mark.parametrize(
    ("metadata", "why"),
    [
        ({"version": "2"}, "schema version 2, this release reads 1"),
        ({"schema": "ledger"}, "no shard of hpccarbon"),
        ({"cluster": "beta"}, "written for cluster 'beta'"),
        ({"hour": "2026-03-01T11:00:00Z"}, "written for hour"),
        ({"hour": "soon"}, "written for hour"),
        ({"node": "n9"}, "calls itself 'n9."),
        ({"boot_id": "another"}, "calls itself"),
    ],
)
def test_a_shard_that_contradicts_its_place_is_set_aside(tmp_path: Path, metadata: dict[str, str], why: str) -> None:
    maker.write(tmp_path, maker.node_hour(1), node="n1", metadata={"hour": "2026-03-01T10:00:00Z"})
    bad = maker.write(tmp_path, maker.node_hour(2), node="n2", metadata=metadata)
    ((path, reason),) = run(tmp_path).set_aside
    assert path == str(bad)
    assert why in reason
    assert len(Ledger(tmp_path).energy(Selection(), by=("node",))) == 1


def test_a_copy_under_another_name_is_not_summed_twice(tmp_path: Path) -> None:
    path = maker.write(tmp_path, maker.node_hour(1))
    shutil.copy(path, path.with_name("n1.copy.parquet"))
    shutil.copy(path, path.with_name("n1 (2).parquet"))
    shutil.copy(path, path.with_name(f".{path.name}.tmp"))
    before = Ledger(tmp_path).energy(Selection())
    outcome = run(tmp_path)
    assert [Path(name).name for name, _ in outcome.set_aside] == ["n1 (2).parquet", "n1.copy.parquet"]
    assert Ledger(tmp_path).energy(Selection()) == before
    assert before[0].nodes == 1


def test_columns_of_another_kind_are_refused(tmp_path: Path) -> None:
    maker.write(tmp_path, maker.node_hour(1), node="n2")
    bad = maker.write(tmp_path, maker.node_hour(1), node="n1")
    table = pq.read_table(bad, partitioning=None)
    for changed in (
        table.drop_columns(["gpu_uj"]),
        table.set_column(9, "cpu_uj", table["cpu_uj"].cast("float64")),
        table.set_column(9, "cpu_uj", table["cpu_uj"].cast("string")),
    ):
        pq.write_table(changed.replace_schema_metadata(table.schema.metadata), bad)
        ((path, _),) = run(tmp_path).set_aside
        assert path == str(bad)


def test_an_hour_of_broken_shards_is_an_empty_hour(tmp_path: Path) -> None:
    path = maker.write(tmp_path, maker.node_hour(1))
    path.write_bytes(b"")
    outcome = run(tmp_path)
    assert (outcome.hours, len(outcome.set_aside)) == (1, 1)
    assert run(tmp_path).hours == 0
    ledger = Ledger(tmp_path)
    assert ledger.energy(Selection()) == []
    assert [fault.path for fault in ledger.faults] == [str(path)]


@pytest.mark.parametrize("patience_s", [60.0, 0.0])
def test_a_shard_of_too_many_rows_is_set_aside_however_fast_the_machine_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience_s: float
) -> None:
    """A small file can hold millions of rows; without patience the engine is stopped and asked who is to blame."""
    monkeypatch.setattr(shards, "PATIENCE_S", patience_s)
    monkeypatch.setattr(shards, "PATIENCE_PER_SHARD_S", 0.0)
    maker.write(tmp_path, maker.node_hour(1), node="n1")
    crowd = maker.write(tmp_path, maker.node_hour(2), node="n2")
    table = pq.read_table(crowd)
    system = table.filter(pc.equal(table["holder"].cast(pa.string()), "system")).slice(0, 1)
    nothing = [
        pa.scalar(0, field.type) if field.name.endswith("_uj") else system[field.name][0] for field in table.schema
    ]
    rows = shards.MAX_SHARD_ROWS + 1
    columns = [pa.repeat(value, rows) for value in nothing]
    pq.write_table(pa.table(columns, schema=table.schema), crowd, compression="zstd")
    assert crowd.stat().st_size < 200_000
    outcome = run(tmp_path)
    assert [(Path(path).name, why) for path, why in outcome.set_aside] == [
        (crowd.name, f"absurd: more than {shards.MAX_SHARD_ROWS} rows")
    ]
    assert {row.key for row in Ledger(tmp_path, "alpha").energy(Selection(), ("node",))} == {("n1",)}


def test_an_hour_that_takes_its_time_is_merged_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = maker.site(tmp_path, hours=1, nodes=4)
    patient = run(tmp_path)
    before = next((tmp_path / "ledger").rglob("hour=*.parquet")).read_bytes()
    shutil.rmtree(tmp_path / "ledger")
    monkeypatch.setattr(shards, "PATIENCE_S", 0.0)
    monkeypatch.setattr(shards, "PATIENCE_PER_SHARD_S", 0.0)
    assert run(tmp_path) == patient
    assert patient.shards == len(paths)
    assert next((tmp_path / "ledger").rglob("hour=*.parquet")).read_bytes() == before


def test_a_directory_is_believed_unchanged_once_it_has_been_quiet(tmp_path: Path) -> None:
    """A time that the next change could bear, too, is not noted: then the directory is listed again."""
    maker.site(tmp_path, hours=1, nodes=1)
    directory = Path(shards.hour_dirs(tmp_path, "alpha")[maker.HOUR])

    def noted() -> int:
        run(tmp_path)
        (entry,) = index.read(tmp_path, "alpha", [maker.HOUR.strftime("%Y-%m")]).values()
        return entry.directory_ns

    assert noted() == 0
    old_ns = time.time_ns() - 3600 * 10**9
    os.utime(directory, ns=(old_ns, old_ns))
    assert noted() == directory.stat().st_mtime_ns == old_ns
    ahead_ns = time.time_ns() + 3600 * 10**9  # a file server's clock that is ahead
    os.utime(directory, ns=(ahead_ns, ahead_ns))
    assert noted() == 0


def test_a_ledger_file_says_what_it_was_made_of(tmp_path: Path) -> None:
    maker.write(tmp_path, maker.node_hour(1, job_ids=(7, 900)), node="n1")
    broken = maker.write(tmp_path, maker.node_hour(2, job_ids=(55,)), node="n2")
    broken.write_bytes(broken.read_bytes()[:100])
    target = tmp_path / "new" / "out.parquet"
    written, faults = aggregate_hour(listed(tmp_path), "alpha", maker.HOUR, target)
    assert (written.shards, written.rows, written.first_job, written.last_job) == (2, 6, 7, 900)
    assert [name for name, _why in written.set_aside] == [broken.name]
    assert [fault.path for fault in faults] == [str(broken)]
    assert pq.read_table(target)["hour"].unique().to_pylist() == [maker.HOUR]
    told = {key.decode(): value.decode() for key, value in pq.read_metadata(target).metadata.items()}
    assert told["hpccarbon.schema"] == "ledger"
    assert told["hpccarbon.units"] == "uJ,us,ms"
    assert msgspec.json.decode(told["hpccarbon.made_of"], type=index.Written) == written


def test_a_sum_that_leaves_64_bits_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    """A node that began anew 185 times in an hour, each boot with as much as a shard may say."""
    rows = [
        maker.job_row(maker.HOUR + timedelta(minutes=minute), 7, run="0.x", cpu_uj=shards.MAX_ROW_UJ)
        for minute in range(shards.MAX_SHARD_UJ // shards.MAX_ROW_UJ // 2)  # the meters' rows say it once more
    ]
    rows += maker.meter_rows(rows)
    for boot in range(185):
        maker.write(tmp_path, rows, boot=f"b{boot:03}")
    target = tmp_path / "out.parquet"
    with pytest.raises(ShardError, match=r"a sum does not fit in 64 bits: .*INT64") as told:
        aggregate_hour(listed(tmp_path), "alpha", maker.HOUR, target)
    assert told.value.path == str(target)
    assert not target.exists()


def test_a_ledger_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    maker.write(tmp_path, maker.node_hour(1))
    (tmp_path / "file").touch()
    target = tmp_path / "file" / "out.parquet"
    with pytest.raises(ShardError, match="may this user write the ledger") as told:
        aggregate_hour(listed(tmp_path), "alpha", maker.HOUR, target)
    assert told.value.path == str(target)


def test_one_at_a_time(tmp_path: Path) -> None:
    maker.site(tmp_path, hours=1, nodes=1)
    run(tmp_path)
    with (tmp_path / "ledger" / "alpha" / ".lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(HpcCarbonError, match="another aggregator"):
            run(tmp_path)


def test_nothing_is_left_lying_about(tmp_path: Path) -> None:
    maker.site(tmp_path, hours=2, nodes=1)
    run(tmp_path)
    names = sorted(path.name for path in (tmp_path / "ledger").rglob("*") if path.is_file())
    assert names == [".lock", "2026-03.json", "hour=10.parquet", "hour=11.parquet"]


def test_what_lies_among_days_and_hours_is_no_shard(tmp_path: Path) -> None:
    maker.site(tmp_path, hours=1, nodes=1)
    root = tmp_path / "shards" / "alpha"
    for name in ("date=2026-02-30/hour=10", "date=yesterday!/hour=10", "date=2026-03-01/hour=24", "lost+found"):
        (root / name).mkdir(parents=True)
    (root / "date=2026-03-02").touch()
    assert list(shards.hour_dirs(tmp_path, "alpha")) == [maker.HOUR]
    assert (run(tmp_path).hours, run(tmp_path).hours) == (1, 0)


def test_a_shared_directory_that_cannot_be_listed_is_named(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "alpha").symlink_to("alpha")
    with pytest.raises(ShardError, match=r"symbolic links \(is the shared directory mounted and readable\?\)"):
        shards.hour_dirs(tmp_path, "alpha")
    (tmp_path / "hour=10").touch()
    with pytest.raises(ShardError, match=r"Not a directory \(is the shared directory mounted"):
        shards.list_hour(str(tmp_path / "hour=10"))
    assert shards.list_hour(str(tmp_path / "hour=11")) == []


def test_a_shard_that_goes_while_its_hour_is_merged_is_named(tmp_path: Path) -> None:
    kept, gone = (maker.write(tmp_path, maker.node_hour(n), node=f"n{n}") for n in (1, 2))
    files = listed(tmp_path)
    gone.unlink()
    _written, faults = aggregate_hour(files, "alpha", maker.HOUR, tmp_path / "out.parquet")
    assert [(fault.path, fault.reason) for fault in faults] == [(str(gone), "No such file or directory")]
    assert {row["node"] for row in pq.read_table(tmp_path / "out.parquet").to_pylist()} == {kept.name.split(".")[0]}


def swollen(shared: Path) -> Path:
    """A shard of some kilobytes that needs 80 MB in the engine: 20,000 runs, each with a long user name."""
    name = "u" * 4000
    return maker.write(shared, [maker.job_row(maker.HOUR, n, user=name) for n in range(20_000)], node="n2")


def test_a_shard_that_unpacks_too_far_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MEMORY", "48MiB")
    monkeypatch.setattr(shards, "ALONE", "32MiB")
    maker.write(tmp_path, maker.node_hour(1), node="n1")
    bad = swollen(tmp_path)
    ((path, why),) = run(tmp_path).set_aside
    assert path == str(bad) and "Out of Memory" in why
    assert {row.key for row in Ledger(tmp_path, "alpha").energy(Selection(), ("node",))} == {("n1",)}


def test_a_machine_without_memory_is_not_the_shards_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maker.write(tmp_path, maker.node_hour(1), node="n1")
    swollen(tmp_path)
    with monkeypatch.context() as little:
        little.setattr(shards, "MEMORY", "8MiB")
        outcome = run(tmp_path)
    ((path, why),) = outcome.failed
    assert f"{path}: the hour cannot be merged: Out of Memory" in why
    assert (outcome.set_aside, list((tmp_path / "ledger").rglob("hour=*"))) == ((), [])
    assert (run(tmp_path).shards, run(tmp_path).set_aside) == (2, ())


def test_no_shard_is_blamed_for_an_engine_that_was_dead_before(tmp_path: Path) -> None:
    maker.site(tmp_path, hours=1, nodes=2)
    with closing(duckdb.connect(str(tmp_path / "dead.db"))) as con:
        con.execute("SET debug_checkpoint_abort = 'before_truncate'")
        con.execute("CREATE TABLE any_table AS SELECT 1")
        with pytest.raises(duckdb.FatalException):
            con.execute("CHECKPOINT")
        with pytest.raises(duckdb.FatalException):
            list(shards._absorb(con, listed(tmp_path), 0, "alpha", maker.HOUR, []))
        with pytest.raises(duckdb.FatalException):
            shards._crowds(con, [file.path for file in listed(tmp_path)])
    assert not any(shards._is_fatal(file.path) for file in listed(tmp_path))


def test_workers_that_are_lost_cost_their_hours_until_the_next_run(tmp_path: Path) -> None:
    maker.site(tmp_path, hours=4, nodes=1)
    with ProcessPoolExecutor(1, get_context("spawn")) as executor:

        def kill(done: int, of: int) -> None:
            if done == 1:
                for process in active_children():
                    process.kill()

        outcome = aggregate(tmp_path, "alpha", Crew(executor, 1, 1, (BrokenProcessPool,)), progress=kill)
    assert 0 < outcome.hours < 4
    assert outcome.hours + len(outcome.failed) == 4
    assert all("its workers were lost (BrokenProcessPool); the next run makes it" in why for _, why in outcome.failed)
    assert (run(tmp_path).hours, run(tmp_path).hours) == (len(outcome.failed), 0)


def test_a_run_says_what_became_of_every_hour(tmp_path: Path) -> None:
    """Four hours: one is well, two have a broken shard, one cannot be written; an empty directory is among them."""
    H = timedelta(hours=1)
    for number in range(4):
        maker.site(tmp_path, hours=1, nodes=2, first=maker.HOUR + number * H)
    broken = [maker.write(tmp_path, maker.node_hour(9), node="n9", hour=maker.HOUR + n * H) for n in (2, 0)]
    for shard in broken:
        shard.write_bytes(b"PAR1")
    Path(shards.hour_dirs(tmp_path, "alpha")[maker.HOUR]).with_name("hour=09").mkdir()
    blocked = index.ledger_path(tmp_path, "alpha", maker.HOUR + 3 * H)
    blocked.mkdir(parents=True)
    (blocked / "something").touch()
    told: list[tuple[int, int]] = []
    with open_crew(1) as crew:
        outcome = aggregate(tmp_path, "alpha", crew, progress=lambda done, of: told.append((done, of)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert (outcome.hours, outcome.shards, outcome.packed) == (3, 8, 0)
    assert [path for path, _ in outcome.set_aside] == sorted(str(path) for path in broken)
    ((path, why),) = outcome.failed
    assert path == str(blocked) and str(blocked) in why
    blocked.joinpath("something").unlink()
    blocked.rmdir()
    told.clear()
    with open_crew(1) as crew:
        again = aggregate(tmp_path, "alpha", crew, progress=lambda done, of: told.append((done, of)))
    assert told == [(1, 1)]
    assert again == Outcome(1, 2, (), (), 0)


def test_only_hours_within_the_bounds_are_merged(tmp_path: Path) -> None:
    maker.site(tmp_path, hours=4, nodes=1)
    begin, end = maker.HOUR + timedelta(hours=1), maker.HOUR + timedelta(hours=3)
    with open_crew(1) as crew:
        assert aggregate(tmp_path, "alpha", crew, since=begin, until=end).hours == 2
        names = sorted(path.name for path in (tmp_path / "ledger").rglob("hour=*.parquet"))
        assert names == ["hour=11.parquet", "hour=12.parquet"]
        assert aggregate(tmp_path, "alpha", crew, since=begin).hours == 1
        assert aggregate(tmp_path, "alpha", crew, until=end).hours == 1


def test_days_that_are_closed_are_packed_when_it_is_time_and_what_cannot_be_is_said(tmp_path: Path) -> None:
    for day in range(3):
        maker.site(tmp_path, hours=2, nodes=1, first=maker.HOUR + timedelta(days=day))
    now = maker.HOUR.replace(hour=0) + timedelta(days=4)  # the first two days are closed
    with open_crew(1) as crew:
        assert aggregate(tmp_path, "alpha", crew).packed == 0
        place = index.day_path(tmp_path, "alpha", maker.HOUR.replace(hour=0))
        place.mkdir()
        (place / "something").touch()
        outcome = aggregate(tmp_path, "alpha", crew, pack_at=now)
        assert (outcome.hours, outcome.packed) == (0, 1)
        ((path, why),) = outcome.failed
        assert path == str(place) and why.startswith(f"cannot use {place}: ")
        place.joinpath("something").unlink()
        place.rmdir()
        assert aggregate(tmp_path, "alpha", crew, pack_at=now) == Outcome(0, 0, (), (), 1)
    assert len(Ledger(tmp_path, "alpha").energy(Selection(), ("hour",))) == 6


def test_a_change_under_the_same_time_stamp_is_not_missed(tmp_path: Path) -> None:
    """A directory's time is believed once it lies more than two seconds back, by the file system's own clock."""
    now_ns = 1_790_000_000 * 10**9
    for back_ns, believed in ((2 * 10**9 + 1, True), (2 * 10**9, False), (0, False), (-(10**9), False)):
        os.utime(tmp_path, ns=(0, now_ns - back_ns))
        assert aggregate_module._settled(str(tmp_path), now_ns) == (now_ns - back_ns if believed else 0)
    assert aggregate_module._settled(str(tmp_path / "gone"), now_ns) == 0


def test_one_job_is_found_without_reading_the_whole_hour(tmp_path: Path) -> None:
    """Rows lie in groups of 8,192, in order of job: the engine skips the others by their statistics."""
    shares = [maker.job_row(maker.HOUR, 1 + number * 7919 % 20_000, cpu_uj=1) for number in range(10_000)]
    maker.write(tmp_path, shares + maker.meter_rows(shares))
    run(tmp_path)
    footer = pq.read_metadata(index.ledger_path(tmp_path, "alpha", maker.HOUR))
    place = footer.schema.names.index("job_id")
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    assert [group.num_rows for group in groups] == [8192, 1809]
    first, second = (group.column(place).statistics for group in groups)
    assert first.max < second.min
