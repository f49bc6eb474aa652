"""What somebody who can write to the shared directory may try: links, pipes, bombs. None costs a good row."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hpccarbon.node.seal import write_shard
from hpccarbon.site import index, shards
from hpccarbon.site.aggregate import aggregate
from hpccarbon.site.executor import open_crew
from hpccarbon.site.ledger import Ledger, Selection
from hpccarbon.site.verify import verify
from tests.site import maker

FOLDER = "shards/alpha/date=2026-03-01/hour=10"
FEW = range(2)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    maker.write(tmp_path / "shared", maker.node_hour(1, minutes=FEW), node="good")
    return tmp_path / "shared"


def bad_path(shared: Path) -> Path:
    return shared / FOLDER / f"bad.{maker.BOOT}.parquet"


def rows_bomb(path: Path) -> None:
    """More rows than a shard may hold, in a few kilobytes."""
    rows = maker.node_hour(2, minutes=FEW)
    maker.write(path.parents[4], rows, node="bad")
    table = pq.read_table(io.BytesIO(path.read_bytes()))
    one = table.slice(0, 1).combine_chunks()
    with pq.ParquetWriter(path, table.schema, compression="zstd") as writer:
        writer.write_table(one.take(pa.array(np.zeros(2_000_001, dtype=np.int64))), row_group_size=2_000_001)


def name_bomb(path: Path) -> None:
    """A user of 5 million letters in a few kilobytes."""
    rows = maker.node_hour(2, minutes=FEW)
    for row in rows:
        if row["holder"] == "job":
            row["user"] = "A" * 5_000_000
    maker.write(path.parents[4], rows, node="bad")


def link_to_a_shard(path: Path) -> None:
    other = path.parents[4] / "elsewhere.parquet"
    maker.write(path.parents[4], maker.node_hour(3, minutes=FEW), node="bad").rename(other)
    path.symlink_to(other)


TRICKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a pipe": (os.mkfifo, "no plain file"),
    "a link to a device": (lambda path: path.symlink_to("/dev/zero"), "no plain file"),
    "a link to a shard": (link_to_a_shard, "no plain file"),
    "a directory": (Path.mkdir, "no plain file"),
    "many rows": (rows_bomb, "more than 2000000 rows"),
    "a long name": (name_bomb, "a name of more than 4096 bytes"),
}


@pytest.mark.parametrize("trick", TRICKS)
def test_it_is_named_and_the_good_shard_counts(shared: Path, trick: str) -> None:
    do, why = TRICKS[trick]
    alone = Ledger(shared, "alpha").energy(Selection(), ("node",))
    do(bad_path(shared))
    young = Ledger(shared, "alpha")
    assert young.energy(Selection(), ("node",)) == alone
    assert [(fault.path, why in fault.reason) for fault in young.faults] == [(str(bad_path(shared)), True)]
    assert Ledger(shared, "alpha").energy(Selection(job_ids=(101,)), ()) != []
    with open_crew(1) as crew:
        outcome = aggregate(shared, "alpha", crew)
    assert [(path, why in reason) for path, reason in outcome.set_aside] == [(str(bad_path(shared)), True)]
    assert Ledger(shared, "alpha").energy(Selection(), ("node",)) == alone
    assert [path for path, _ in verify(shared, "alpha").faults] == [str(bad_path(shared))]


def test_the_seal_follows_no_link_on_its_way(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    root = tmp_path / "shards"
    for depth in range(3):
        place = root / str(depth) / "date=2026-03-01"
        place.mkdir(parents=True)
        parts = ("hour=10", f"n1.{maker.BOOT}.parquet")
        if depth == 0:
            (place / parts[0]).symlink_to(victim)
        elif depth == 1:
            place.rmdir()
            place.symlink_to(victim)
        else:
            place.rmdir()
            place.parent.rmdir()
            place.parent.symlink_to(victim)
        with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
            write_shard(pa.table({}), root.joinpath(str(depth), "date=2026-03-01", *parts), root)
    assert list(victim.iterdir()) == []


def test_a_link_in_the_place_of_the_shard_is_replaced_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("as it was")
    folder = tmp_path / "shards" / "a" / "hour=10"
    folder.mkdir(parents=True)
    (folder / "n1.b.parquet").symlink_to(victim)
    write_shard(pa.table({"job_id": [1]}), folder / "n1.b.parquet", tmp_path / "shards")
    assert victim.read_text() == "as it was"
    assert not (folder / "n1.b.parquet").is_symlink()
    assert pq.read_table(folder / "n1.b.parquet", partitioning=None).to_pylist() == [{"job_id": 1}]


def test_a_link_in_the_place_of_a_ledger_file_is_replaced_not_followed(shared: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("as it was")
    path = index.ledger_path(shared, "alpha", maker.HOUR)
    path.parent.mkdir(parents=True)
    path.symlink_to(victim)
    with open_crew(1) as crew:
        assert aggregate(shared, "alpha", crew).failed == ()
    assert victim.read_text() == "as it was" and not path.is_symlink()


def test_a_shards_listing_marks_what_is_no_file(shared: Path) -> None:
    os.mkfifo(bad_path(shared))
    assert [file.size == shards.NO_FILE for file in shards.list_hour(str(shared / FOLDER))] == [True, False]
