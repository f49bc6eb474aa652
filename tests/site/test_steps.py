"""Steps of jobs, read from shards: live, packed, restored; and what cannot be believed is left out and named."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from hpccarbon.config import Retention
from hpccarbon.node.seal import MOST_STEPS, _steps
from hpccarbon.node.store import StepRow
from hpccarbon.node.usage.steps import StepUse
from hpccarbon.site import retention
from hpccarbon.site.aggregate import aggregate
from hpccarbon.site.executor import open_crew
from hpccarbon.site.ledger import Ledger, Selection
from tests.site import maker

RULES = Retention(pack_days=14, keep_days=100)
SOON = maker.HOUR + timedelta(days=20)
LATER = maker.HOUR + timedelta(days=120)


def told(rows: Sequence[maker.Row], job_id: int) -> str:
    """Two steps: `0` has all but 1000 µJ of the job's CPU energy, `batch` those and the DRAM."""
    mine = [row for row in rows if row["job_id"] == job_id]
    cpu, dram, time = (sum(row[name] for row in mine) for name in ("cpu_uj", "dram_uj", "cpu_time_us"))
    run = mine[0]["run"]
    return json.dumps(
        [[job_id, run, "0", cpu - 1000, 0, None, None, time], [job_id, run, "batch", 1000, dram, None, None, 0]]
    )


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """Two hours of two nodes; one keeps steps of job 101."""
    for number in range(2):
        hour = maker.HOUR + timedelta(hours=number)
        for node in ("n1", "n2"):
            rows = maker.node_hour(number, hour=hour)
            metadata = {"steps": told(rows, 101)} if node == "n1" else {}
            maker.write(tmp_path, rows, hour=hour, node=node, metadata=metadata)
    return tmp_path


def merge(shared: Path) -> None:
    with open_crew(1) as crew:
        aggregate(shared, "alpha", crew)


def found(shared: Path, job_id: int = 101) -> tuple[list[tuple[str, int, str, int]], list[str]]:
    ledger = Ledger(shared, "alpha")
    rows = ledger.steps([job_id])
    return sorted((row.node, row.hour.hour, row.energy.step, row.energy.energy_uj) for row in rows), [
        fault.reason for fault in ledger.faults
    ]


def test_steps_are_the_same_in_young_merged_and_packed_shards_and_gone_with_them(shared: Path) -> None:
    young, faults = found(shared)
    assert not faults
    assert [(node, hour, step) for node, hour, step, _uj in young] == [
        ("n1", hour, step) for hour in (10, 11) for step in ("0", "batch")
    ]
    merge(shared)
    assert found(shared) == (young, [])
    assert [step.action for step in retention.run(shared, "alpha", RULES, SOON, apply=True)] == ["pack"]
    assert found(shared) == (young, [])
    retention.restore(shared, "alpha", maker.HOUR.date())
    assert found(shared) == (young, [])
    list(retention.run(shared, "alpha", RULES, SOON, apply=True))
    assert [step.action for step in retention.run(shared, "alpha", RULES, LATER, apply=True)] == ["remove"]
    assert found(shared) == ([], [])


def test_steps_of_other_jobs_are_nobodys_business(shared: Path) -> None:
    assert found(shared, 102) == ([], [])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[[101", "its steps cannot be read"),
        ('[[101, "101.0", "0", 1, 1]]', "its steps cannot be read"),
        ('[[101, "101.0", "0", -1, 1, null, null, 1]]', "negative values"),
        ('[[101, "101.0", "0", 900000000000000, 1, null, null, 1]]', "the steps of job 101 have 900000000000001 µJ"),
    ],
)
def test_steps_that_cannot_be_are_left_out_and_named(tmp_path: Path, text: str, why: str) -> None:
    maker.write(tmp_path, maker.node_hour(0), metadata={"steps": text})
    rows, faults = found(tmp_path)
    assert rows == []
    assert len(faults) == 1 and why in faults[0]


def test_the_energy_of_a_job_does_not_hang_on_its_steps(tmp_path: Path) -> None:
    maker.write(tmp_path, maker.node_hour(0), metadata={"steps": "no JSON"})
    merge(tmp_path)
    plain = Ledger(tmp_path, "alpha")
    assert len(plain.energy(Selection(job_ids=(101,)))) == 1
    assert plain.faults == []


def test_a_shard_names_so_many_steps_and_no_more() -> None:
    """A job of a hundred thousand `srun`s must not make a footer that nobody can read; nothing of it is lost."""
    rows = [StepRow(7, "0.b.7", str(number), StepUse(cpu_uj=1, cpu_time_ns=1_000)) for number in range(MOST_STEPS + 50)]
    steps = json.loads(_steps(rows)["steps"])
    assert len(steps) == MOST_STEPS + 1
    assert sum(step[3] for step in steps) == MOST_STEPS + 50
    assert _steps([]) == {}
