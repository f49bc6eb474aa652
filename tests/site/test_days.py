"""A packed day says what its hours said, byte for byte the same whichever came last, and one job lies in one place."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hpccarbon import schema
from hpccarbon.site import days, index
from hpccarbon.site.aggregate import Outcome, aggregate
from hpccarbon.site.engine import connect
from hpccarbon.site.executor import open_crew
from hpccarbon.site.ledger import Ledger, Selection
from hpccarbon.site.verify import verify
from tests.site import maker

FIRST = datetime(2026, 2, 28, 20, tzinfo=timezone.utc)
NOW = datetime(2026, 3, 4, tzinfo=timezone.utc)
DAY = FIRST.replace(hour=0)
H = timedelta(hours=1)


def run(shared: Path, *, pack: bool = True) -> Outcome:
    with open_crew(1) as crew:
        return aggregate(shared, "alpha", crew, pack_at=NOW if pack else None)


def files(shared: Path) -> list[str]:
    return sorted(str(path.relative_to(shared / "ledger" / "alpha")) for path in (shared / "ledger").rglob("*.parquet"))


def two_days(shared: Path) -> None:
    maker.site(shared, hours=6, nodes=3, first=FIRST)


def test_closed_days_are_packed_and_say_the_same(tmp_path: Path) -> None:
    two_days(tmp_path)
    run(tmp_path, pack=False)
    before = Ledger(tmp_path).table()
    outcome = run(tmp_path)
    assert (outcome.packed, outcome.hours, outcome.failed) == (2, 0, ())
    assert files(tmp_path) == ["date=2026-02-28/day.parquet", "date=2026-03-01/day.parquet"]
    assert Ledger(tmp_path).table() == before
    assert run(tmp_path) == Outcome(0, 0, (), ())
    assert verify(tmp_path, "alpha").faults == ()
    assert verify(tmp_path, "alpha").waiting == 0


def test_a_day_that_may_still_change_is_left(tmp_path: Path) -> None:
    two_days(tmp_path)
    with open_crew(1) as crew:
        outcome = aggregate(tmp_path, "alpha", crew, pack_at=DAY + timedelta(days=1) + days.PACK_AFTER)
    assert outcome.packed == 1
    assert files(tmp_path)[0] == "date=2026-02-28/day.parquet"
    assert len(files(tmp_path)) == 3


def test_a_selection_that_cuts_a_packed_day(tmp_path: Path) -> None:
    two_days(tmp_path)
    run(tmp_path)
    ledger = Ledger(tmp_path)
    whole = {row.key[0]: row.energy_uj for row in ledger.energy(Selection(), by=("hour",))}
    assert list(whole) == [FIRST + n * H for n in range(6)]
    cut = Selection(since=FIRST + H, until=FIRST + 5 * H)
    assert ledger.energy(cut)[0].energy_uj == sum(whole[FIRST + n * H] for n in range(1, 5))
    minutes = Selection(since=FIRST + H / 2, until=FIRST + H)
    assert 0 < ledger.energy(minutes)[0].energy_uj < whole[FIRST]
    assert ledger.hours(Selection(until=FIRST + 2 * H)) == [FIRST, FIRST + H]


def test_a_late_shard_opens_its_hour_and_the_day_is_the_same_as_if_it_had_been_in_time(tmp_path: Path) -> None:
    early, late = tmp_path / "early", tmp_path / "late"
    for shared in (early, late):
        two_days(shared)
    hour = FIRST + 2 * H
    path = maker.write(early, maker.node_hour(77, hour=hour), hour=hour, node="n9")
    run(late)
    target = late / path.relative_to(early)
    target.write_bytes(path.read_bytes())
    outcome = run(late, pack=False)
    assert outcome.hours == 1
    assert "date=2026-02-28/hour=22.parquet" in files(late)
    young = Ledger(late).table()
    run(early)
    assert young == Ledger(early).table()
    assert run(late).packed == 1
    assert files(late) == files(early)
    assert Ledger(late).table() == young

    def content(shared: Path) -> dict[str, pa.Table]:
        """The tables, without what names the shards' times."""
        folder = shared / "ledger" / "alpha"
        tables = {name: pq.read_table(folder / name, partitioning=None) for name in files(shared)}
        return {name: table.replace_schema_metadata(None) for name, table in tables.items()}

    assert content(early) == content(late)


def test_the_same_day_is_the_same_bytes(tmp_path: Path) -> None:
    two_days(tmp_path)
    run(tmp_path)
    path = index.day_path(tmp_path, "alpha", DAY)
    first = path.read_bytes()
    hour = FIRST + H
    directory = tmp_path / "shards" / "alpha" / f"date={hour:%Y-%m-%d}" / f"hour={hour:%H}"
    shard = next(directory.iterdir())
    shard.rename(directory / "away")
    run(tmp_path)
    assert path.read_bytes() != first
    (directory / "away").rename(shard)
    run(tmp_path)
    assert path.read_bytes() == first


def test_an_hour_file_comes_before_the_day_whatever_was_interrupted(tmp_path: Path) -> None:
    two_days(tmp_path)
    run(tmp_path, pack=False)
    hour_file = index.ledger_path(tmp_path, "alpha", FIRST)
    kept = hour_file.read_bytes()
    before = Ledger(tmp_path).table()
    run(tmp_path)
    hour_file.write_bytes(kept)  # as if the packer had ended after the day was written
    assert Ledger(tmp_path).table() == before
    assert run(tmp_path).hours == 0
    assert not hour_file.exists()
    assert Ledger(tmp_path).table() == before


@pytest.mark.parametrize("without_index", [False, True])
def test_the_pack_outlives_the_shards_and_the_index(tmp_path: Path, without_index: bool) -> None:
    two_days(tmp_path)
    run(tmp_path)
    before = Ledger(tmp_path).table()
    for path in (tmp_path / "shards").rglob("*.parquet"):
        path.unlink()
    if without_index:
        for path in (tmp_path / "ledger" / "alpha" / ".index").iterdir():
            path.unlink()
    assert run(tmp_path).hours == 0
    assert Ledger(tmp_path).table() == before


def test_a_reader_that_planned_before_the_day_was_packed_looks_again(tmp_path: Path) -> None:
    two_days(tmp_path)
    run(tmp_path, pack=False)
    reader = Ledger(tmp_path)
    expected = reader.energy(Selection())
    packs = [lambda: run(tmp_path)]

    def question(con: object, hours: list[datetime]) -> int:
        if packs:
            packs.pop()()  # between the plan and the reading
        found = con.execute("SELECT sum(cpu_uj + dram_uj) FROM selected").fetchone()  # type: ignore[attr-defined]
        return int(found[0])

    assert reader.ask(Selection(), question) is not None
    assert reader.faults == []
    assert reader.energy(Selection()) == expected


def test_a_damaged_pack_is_named_and_made_again_from_the_shards(tmp_path: Path) -> None:
    two_days(tmp_path)
    run(tmp_path)
    before = Ledger(tmp_path).table()
    path = index.day_path(tmp_path, "alpha", DAY)
    path.write_bytes(b"nonsense")
    ledger = Ledger(tmp_path)
    assert ledger.table() == before
    assert [fault.path for fault in ledger.faults] == [str(path)]
    outcome = run(tmp_path)
    assert [name for name, _ in outcome.failed] == [str(path)]  # what only the pack held must not be forgotten
    assert outcome.hours == 4
    path.unlink()
    assert run(tmp_path).failed == ()
    assert Ledger(tmp_path).table() == before


def test_one_job_lies_in_one_or_two_row_groups(tmp_path: Path) -> None:
    columns = {column.name: f'NULL AS "{column.name}"' for column in schema.LEDGER}
    columns |= {"hour": "to_timestamp(3600 * (n % 24)) AS hour", "node": "'n' || n % 7 AS node"}
    columns |= {"holder": "'job' AS holder", "job_id": "hash(n // 24) % 1000 AS job_id"}
    target = tmp_path / "day.parquet"
    days.write_day(connect(1), f"(SELECT {', '.join(columns.values())} FROM range(24000) _(n))", target, "a", DAY, {})
    metadata = pq.read_metadata(target)
    assert metadata.num_row_groups > 1
    place = metadata.schema.names.index("job_id")
    bounds = [metadata.row_group(number).column(place).statistics for number in range(metadata.num_row_groups)]
    for job_id in range(0, 1000, 37):
        assert sum(one.min <= job_id <= one.max for one in bounds) in (1, 2)
