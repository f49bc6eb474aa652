"""What an earlier release left is read; what a later one wrote is refused by name, with the step to take, and waits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from hpccarbon import schema
from hpccarbon.errors import StoreError
from hpccarbon.node import seal
from hpccarbon.node.store import VERSION, Store
from hpccarbon.site import index
from hpccarbon.site.aggregate import Outcome, aggregate
from hpccarbon.site.executor import open_crew
from hpccarbon.site.ledger import Ledger, Selection
from hpccarbon.site.verify import verify
from hpccarbon.units import NS_PER_S
from tests.node.virtual import Node, tick
from tests.site import maker
from tests.upgrade.capture import live

CAPTURES = sorted(path.parent for path in Path(__file__).parent.glob("*/expected.json"))
METERS = Selection(holders=("meter",))
each_release = pytest.mark.parametrize("left", CAPTURES, ids=lambda path: path.name)


def merged(shared: Path, cluster: str) -> Outcome:
    with open_crew(1) as crew:
        return aggregate(shared, cluster, crew)


def metered(shared: Path, cluster: str) -> int:
    with closing(Ledger(shared, cluster)) as ledger:
        total = sum(row.energy_uj for row in ledger.energy(METERS))
        assert ledger.faults == []
    return total


def test_there_are_captures() -> None:
    assert [path.name for path in CAPTURES] == ["0.1.0"]


@each_release
def test_shards_and_ledger_are_read(left: Path, tmp_path: Path) -> None:
    expected = json.loads((left / "expected.json").read_text())
    whole_uj = sum(expected["total_uj"].values())
    shutil.copytree(left / "ledger", tmp_path / "ledger")
    assert metered(tmp_path, "virtual") == whole_uj
    shutil.copytree(left / "shards", tmp_path / "shards")
    assert metered(tmp_path, "virtual") == whole_uj
    assert merged(tmp_path, "virtual").set_aside == ()
    assert metered(tmp_path, "virtual") == whole_uj
    assert verify(tmp_path, "virtual").faults == ()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    yield Node(tmp_path / "node")


@each_release
def test_the_daemon_goes_on_from_an_earlier_store(left: Path, node: Node) -> None:
    """The node lives again to the counters of the capture; the new daemon takes over there and loses nothing."""
    config = node.config()
    sampler = node.sampler(config)
    live(node, sampler)
    sampler.close()
    place = config.state_dir("n1")
    place.mkdir()
    shutil.copyfile(left / seal.STORE_NAME, place / seal.STORE_NAME)
    store = Store(place / seal.STORE_NAME, config.cluster, "n1")
    resumed = store.resume()
    assert resumed is not None
    sampler = node.sampler(config)
    sampler.resume(*resumed)
    for _ in range(10):
        node.run(NS_PER_S, system=0.5)
        tick(sampler, node)
    mark = sampler.settle()
    assert mark is not None
    store.commit(sampler.pending, mark, sampler.channels, "{}")
    stored = sum(row.energy_uj for hour in store.hours() for row in store.meters(hour))
    assert stored == sum(node.total_uj.values())
    store.close()
    sampler.close()


def test_while_half_of_the_nodes_are_newer(tmp_path: Path) -> None:
    """The aggregator that is not upgraded yet names their shards and keeps the others; upgraded, it has all."""
    later = {"version": str(schema.SHARD_VERSION + 1)}
    for number in range(4):
        maker.write(tmp_path, maker.node_hour(number), node=f"n{number}", metadata=later if number % 2 else None)
    outcome = merged(tmp_path, "alpha")
    assert len(outcome.set_aside) == 2
    for path, why in outcome.set_aside:
        assert Path(path).name in (f"n1.{maker.BOOT}.parquet", f"n3.{maker.BOOT}.parquet")
        assert why.endswith("(upgrade hpccarbon here: docs/install.md, Upgrade)")
    with closing(Ledger(tmp_path, "alpha")) as ledger:
        assert {row.key[0] for row in ledger.energy(METERS, ("node",))} == {"n0", "n2"}
        assert len(ledger.faults) == 2
    for number in (1, 3):  # what the upgraded aggregator reads; here the same rows under a version that is known
        maker.write(tmp_path, maker.node_hour(number), node=f"n{number}")
    assert merged(tmp_path, "alpha").set_aside == ()
    with closing(Ledger(tmp_path, "alpha")) as ledger:
        assert {row.key[0] for row in ledger.energy(METERS, ("node",))} == {"n0", "n1", "n2", "n3"}


def test_shards_of_two_encodings_lie_side_by_side(tmp_path: Path) -> None:
    """Once a shard carried Arrow's schema and no delta encoding; the version is the same, and so is the sum."""
    rows = {name: maker.node_hour(number) for number, name in enumerate(("old", "new"))}
    for name, of_node in rows.items():
        maker.write(tmp_path, of_node, node=name)
    path = tmp_path / "shards/alpha/date=2026-03-01/hour=10" / f"new.{maker.BOOT}.parquet"
    import pyarrow.parquet as pq

    table = pq.read_table(path, partitioning=None)
    seal.encode(table, path)
    assert merged(tmp_path, "alpha").set_aside == ()
    expected = sum(row["cpu_uj"] or 0 for of_node in rows.values() for row in of_node if row["holder"] == "meter")
    with closing(Ledger(tmp_path, "alpha")) as ledger:
        assert sum(row.cpu_uj or 0 for row in ledger.energy(METERS)) == expected


def test_a_later_store_is_refused_with_the_step_to_take(tmp_path: Path) -> None:
    import sqlite3

    Store(tmp_path / "store", "virtual", "n1").close()
    with closing(sqlite3.connect(tmp_path / "store")) as db, db:
        db.execute("UPDATE state SET value = ? WHERE key = 'version'", (str(VERSION + 1),))
    with pytest.raises(StoreError, match=r"this release reads \d+ \(go back to the release that wrote it"):
        Store(tmp_path / "store", "virtual", "n1")


def test_a_later_ledger_is_named_and_its_hour_read_from_the_shards(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    maker.write(tmp_path, maker.node_hour(1), node="n1")
    merged(tmp_path, "alpha")
    path = index.ledger_path(tmp_path, "alpha", maker.HOUR)
    with closing(Ledger(tmp_path, "alpha")) as ledger:
        before = ledger.energy(METERS)
    table = pq.read_table(path, partitioning=None)
    keys = pq.read_metadata(path).metadata
    keys[b"hpccarbon.version"] = str(schema.LEDGER_VERSION + 1).encode()
    pq.write_table(table.replace_schema_metadata(keys), path)
    with closing(Ledger(tmp_path, "alpha")) as ledger:
        assert ledger.energy(METERS) == before
        assert any("upgrade hpccarbon here" in fault.reason for fault in ledger.faults)
