"""A table of a cluster that stands in several places: every row's grams are those of its parts, where they were."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpccarbon.config import Config, load
from hpccarbon.report.applied import Applied
from hpccarbon.report.figures import added
from hpccarbon.site.ledger import Ledger, Selection
from tests.report import fixed

TOML = """
cluster = "alpha"
[carbon]
zone = "DE"
pue = 1.4
[carbon.places.north]
nodes = "n[2-3]"
zone = "SE"
[carbon.places.gpu]
partitions = ["gpu*"]
pue = 1.1
"""


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    return Ledger(fixed.build(tmp_path_factory.mktemp("site")), fixed.CLUSTER)


def config(room: Path, ledger: Ledger, toml: str = TOML) -> Config:
    path = room / "hpccarbon.toml"
    path.write_text(f'{toml}\n[paths]\nshared_dir = "{ledger.shared}"\n')
    return load(path)


@pytest.mark.parametrize("by", [(), ("holder",), ("holder", "user"), ("job_id",), ("node", "day")])
@pytest.mark.parametrize("selection", [Selection(), Selection(users=("bob",))], ids=["all", "bob"])
def test_rows_cost_what_their_parts_cost(
    tmp_path: Path, ledger: Ledger, by: tuple[str, ...], selection: Selection
) -> None:
    applied = Applied(config(tmp_path, ledger))
    rows, carbon = applied.of_selection(ledger, selection, by)
    parts: dict[object, list[tuple[object, object, object, int]]] = {}
    used: dict[str, int] = {}
    for part in ledger.energy(selection, (*by, "hour", "node", "partition")):
        *key, hour, node, partition = part.key
        parts.setdefault(tuple(key), []).append((hour, node, partition, part.energy_uj))
        place = applied.places.place_of(node, partition)  # type: ignore[arg-type]
        used[place] = used.get(place, 0) + part.energy_uj
    assert {row.key for row in rows} == parts.keys()
    for row in rows:
        expected = applied.places.grams(parts[row.key])  # type: ignore[arg-type]
        assert row.grams == pytest.approx(expected, rel=1e-9)
    assert {one.place: one.energy_uj for one in carbon} == used
    if selection == Selection():
        assert used.keys() == {"", "north", "gpu"}
    told = applied.statement(added(rows))
    assert told is not None
    assert told.co2e_g == pytest.approx(sum(row.grams or 0 for row in rows), rel=1e-9)


def test_a_place_of_a_zone_that_is_none_takes_the_grams_and_not_the_energy(tmp_path: Path, ledger: Ledger) -> None:
    applied = Applied(config(tmp_path, ledger, TOML.replace('"SE"', '"ATLANTIS"')))
    rows, (said,) = applied.of_selection(ledger, Selection(), ("holder",))
    assert [(row.key, row.energy_uj) for row in rows] == [
        (row.key, row.energy_uj) for row in ledger.energy(Selection(), ("holder",))
    ]
    assert all(row.grams is None for row in rows)
    assert "ATLANTIS" in " ".join(said.method.notes)
    assert applied.statement(added(rows)) is None
