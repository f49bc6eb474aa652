"""Young hours are made from their shards once for all questions, and what a question gets is what a new ledger says."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from hpccarbon.site import young
from hpccarbon.site.ledger import Ledger, Selection
from tests.report import fixed
from tests.site import maker


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site whose hours are all in shards."""
    return fixed.build(tmp_path_factory.mktemp("young"))


def spoil(path: Path) -> None:
    """Other bytes under the same name, size and time: whoever opens the shard again finds no Parquet file."""
    status = path.stat()
    path.write_bytes(b"x" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_sixty_questions_in_a_row_have_the_answers_of_a_new_ledger(shared: Path) -> None:
    dice = random.Random(5)
    long_lived = Ledger(shared, fixed.CLUSTER)
    moments = [None, *map(fixed.at, ("10:00", "10:30", "11:00", "11:15", "12:00", "12:40"))]
    job_ids = [int(str(row.key[0])) for row in long_lived.energy(Selection(holders=("job",)), ("job_id",))]
    different = set()
    for _ in range(60):
        since, until = dice.choice(moments), dice.choice(moments)
        if since is not None and until is not None and since >= until:
            since = None
        selection = Selection(
            job_ids=dice.choice([None, None, tuple(dice.sample(job_ids, 2))]),
            users=dice.choice([None, None, ("bob",)]),
            nodes=dice.choice([None, None, ("n1",), ("n1", "n2")]),
            since=since,
            until=until,
        )
        by = dice.choice([(), ("holder",), ("node", "hour"), ("user",), ("bucket",), ("job_id", "run")])
        told = long_lived.energy(selection, by)
        assert told == Ledger(shared, fixed.CLUSTER).energy(selection, by), (selection, by)
        different.add(str(told))
    assert len(different) > 25


def test_the_second_question_opens_no_shard(tmp_path: Path) -> None:
    rows = maker.node_hour(7, job_ids=(5, 6))
    path = maker.write(tmp_path, rows)
    ledger = Ledger(tmp_path, "alpha")
    before = ledger.energy(Selection(), ("holder",))
    assert before
    spoil(path)
    assert ledger.energy(Selection(), ("holder",)) == before
    assert sum(row.energy_uj for row in before) == sum(row.energy_uj for row in ledger.energy(Selection(), ("user",)))
    assert ledger.energy(Selection(job_ids=(5,)), ("job_id",)) == [], "another question about other shards looks again"
    (fault,) = ledger.faults
    assert fault.path == str(path)


def test_a_shard_that_comes_or_changes_is_seen(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "alpha")
    maker.write(tmp_path, maker.node_hour(7, job_ids=(5,)), node="n1")
    (one,) = ledger.energy(Selection())
    maker.write(tmp_path, maker.node_hour(8, job_ids=(5,)), node="n2")
    (two,) = ledger.energy(Selection())
    assert (one.nodes, two.nodes) == (1, 2)
    assert two.energy_uj > one.energy_uj
    path = maker.write(tmp_path, maker.node_hour(9, job_ids=(5,)), node="n2")
    os.utime(path, (1, 1))
    (three,) = ledger.energy(Selection())
    assert three == Ledger(tmp_path, "alpha").energy(Selection())[0] != two


def test_what_was_left_out_is_named_again_after_the_engine_began_anew(tmp_path: Path) -> None:
    maker.write(tmp_path, maker.node_hour(7, job_ids=(5,)), node="n1")
    spoil(maker.write(tmp_path, maker.node_hour(7, job_ids=(5,)), node="n2"))
    ledger = Ledger(tmp_path, "alpha")
    first = ledger.energy(Selection())
    ledger.close()
    ledger.faults.clear()
    for _ in range(2):
        assert ledger.energy(Selection()) == first
    (fault,) = ledger.faults
    assert Path(fault.path).name.startswith("n2.")


def kept(ledger: Ledger) -> int:
    """The rows that are kept. The engine holds no others: rows that were only deleted would be among its segments."""
    segments = "pragma_storage_info('young') WHERE column_name = 'part' AND segment_type = 'BIGINT'"
    ((held,),) = ledger._con.execute(f"SELECT coalesce(sum(count), 0) FROM {segments}").fetchall()
    ((rows,),) = ledger._con.execute("SELECT count(*) FROM young").fetchall()
    assert held == rows
    return int(rows)


def test_what_a_question_does_not_need_is_kept_for_the_next_but_not_forever(tmp_path: Path) -> None:
    maker.write(tmp_path, maker.node_hour(7, job_ids=(5, 6)))
    ledger = Ledger(tmp_path, "alpha")
    sizes = []
    for job_id in range(young.KEPT + 4):
        ledger.energy(Selection(job_ids=(5, 6, 1000 + job_id)))
        sizes.append(kept(ledger))
    each = sizes[0]
    assert each > 0
    assert sizes == [each * min(number, young.KEPT + 1) for number in range(1, young.KEPT + 5)]


def test_an_hour_whose_shards_change_is_kept_once(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "alpha")
    path = maker.write(tmp_path, maker.node_hour(7, job_ids=(5, 6)))
    sizes = set()
    for second in range(12):
        os.utime(path, (second, second))
        ledger.energy(Selection())
        sizes.add(kept(ledger))
    assert len(sizes) == 1
