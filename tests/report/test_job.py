"""What a job's page is made of: which jobs are meant, runs told apart, coverage by Slurm's own time, reasons, hints."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpccarbon.errors import HpcCarbonError
from hpccarbon.report.job import (
    PowerPoint,
    Rhythm,
    Wanted,
    hints_of,
    job_part,
    parse_wanted,
    power_points,
    restart_of,
    why_missing,
)
from hpccarbon.report.render.text import sparkline
from hpccarbon.site.ledger import EnergyRow
from hpccarbon.slurm.record import JobRecord

START = datetime(2026, 3, 1, 10, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)
RHYTHM = Rhythm("alpha", 900, 10)


def energy(node: str = "n1", run: str = "0.x", **given: Any) -> EnergyRow:
    """An hour of 16 cores on a node: 100 Wh, a quarter of it static."""
    values: dict[str, Any] = {
        "key": (1, run, node, None, None, None, START),
        "cpu_uj": 360_000_000_000,
        "dram_uj": None,
        "gpu_uj": None,
        "other_uj": None,
        "idle_uj": 90_000_000_000,
        "modelled_uj": 0,
        "cpu_time_us": 16 * 3_600_000_000,
        "alloc_cores": 16,
        "alloc_gpus": 0,
        "core_us": 16 * 3_600_000_000,
        "present_ms": 3_600_000,
        "covered_ms": 3_600_000,
        "nodes": 1,
        "first": START,
        "last": START + timedelta(minutes=59),
        "grams": None,
    }
    return EnergyRow(**(values | given))


def record(**given: Any) -> JobRecord:
    values: dict[str, Any] = {
        "job_id": 1,
        "state": "COMPLETED",
        "start": START,
        "end": START + HOUR,
        "elapsed_s": 3600,
        "alloc_nodes": 1,
        "alloc_cores": 16,
        "nodelist": "n1",
    }
    return JobRecord(**(values | given))


# ---- which jobs are meant ----


def test_ids_tasks_components_and_steps_are_understood() -> None:
    assert parse_wanted(["123,124", "123_4", "123+1", "7.batch", "7.0", "9_[1-3,7]"]) == [
        Wanted("123", 123),
        Wanted("124", 124),
        Wanted("123_4", 123, 4),
        Wanted("123+1", 123, het=1),
        Wanted("7", 7),
        *[Wanted(f"9_{task}", 9, task) for task in (1, 2, 3, 7)],
    ]


@pytest.mark.parametrize("word", ["", "abc", "-1", "12a", "1_", "1_[", "1_[a]", "1_[3-]", "1;ls", "１２"])
def test_what_is_no_job_id_is_refused_by_name(word: str) -> None:
    with pytest.raises(HpcCarbonError, match="123"):
        parse_wanted([word])


@given(st.text(max_size=30))
def test_no_text_breaks_the_parser(text: str) -> None:
    try:
        wanted = parse_wanted([text])
    except HpcCarbonError:
        return
    assert all(one.job_id >= 0 for one in wanted)


def test_an_absurd_range_is_refused() -> None:
    with pytest.raises(HpcCarbonError, match="too many"):
        parse_wanted(["1_[0-999999999]"])


# ---- a job ----


def test_a_run_on_two_nodes_is_one_run() -> None:
    """Boot and inode in the run's name differ from node to node; the restart count does not."""
    part = job_part(1, [energy("n1", "0.aaaa.1"), energy("n2", "0.bbbb.2")], [record(alloc_nodes=2)])
    assert [run.restart for run in part.runs] == [0]
    assert part.figures.energy_uj == 720_000_000_000
    assert part.figures.nodes == 2
    assert part.figures.covered_percent == 100


def test_requeued_runs_are_told_apart_and_added_up() -> None:
    rows = [energy(run="0.a"), energy(run="1.b", cpu_uj=1_000_000)]
    part = job_part(1, rows, [record(state="NODE_FAIL"), record(restart=1, start=START + 2 * HOUR)])
    assert [(run.restart, run.state, run.figures.energy_uj) for run in part.runs] == [
        (0, "NODE_FAIL", 360_000_000_000),
        (1, "COMPLETED", 1_000_000),
    ]
    assert part.figures.energy_uj == 360_001_000_000
    assert part.elapsed_s == 7200


def test_a_job_id_that_was_given_out_twice_is_two_runs() -> None:
    """Both bear the restart count 0; Slurm's records tell when each was there."""
    later = START + 48 * HOUR
    again = msgspec.structs.replace(energy(run="0.b", cpu_uj=5_000_000), first=later, last=later)
    records = [record(state="FAILED"), record(restart=1, submit=later, start=later, end=later + HOUR)]
    part = job_part(1, [energy(run="0.a"), again], records)
    assert [(run.state, run.figures.energy_uj) for run in part.runs] == [
        ("FAILED", 360_000_000_000),
        ("COMPLETED", 5_000_000),
    ]


def test_a_node_that_did_not_know_the_restart_count_makes_no_second_run() -> None:
    part = job_part(1, [energy(run="0.a")], [record(restart=3)])
    assert [run.restart for run in part.runs] == [3]


def test_coverage_is_of_the_time_slurm_gave_not_of_what_was_seen() -> None:
    """Of two nodes one had no daemon: what was seen is covered fully, and that is half of the job."""
    part = job_part(1, [energy("n1")], [record(alloc_nodes=2, nodelist="n[1-2]")])
    assert part.figures.covered_percent == pytest.approx(50, abs=0.05)
    assert hints_of(part, ["n2"])[0].nodes == ["n2"]


def test_whole_seconds_of_slurm_make_no_gap_in_a_short_job() -> None:
    """Stamps 10:00:00.9 and 10:00:02.1 differ by two seconds for Slurm; the job was there for 1.2."""
    part = job_part(1, [energy(present_ms=1200, covered_ms=1200)], [record(elapsed_s=2)])
    assert part.figures.covered_percent == 100


def test_a_short_job_gets_no_advice() -> None:
    part = job_part(1, [energy(cpu_time_us=0, present_ms=2000, covered_ms=2000)], [record(elapsed_s=2)])
    assert hints_of(part) == []


def test_a_running_jobs_coverage_is_of_what_was_sealed() -> None:
    part = job_part(1, [energy()], [record(state="RUNNING", end=None, elapsed_s=7200)])
    assert part.running
    assert part.figures.covered_percent == 100
    assert part.elapsed_s == 3600


def test_missing_components_stay_missing() -> None:
    part = job_part(1, [energy(), energy("n2", gpu_uj=5)], [])
    assert part.figures.dram_uj is None
    assert part.figures.gpu_uj == 5
    assert job_part(1, [energy(cpu_uj=None)], []).figures.energy_uj is None


def test_without_a_record_the_hooks_facts_are_shown() -> None:
    rows = [energy(key=(1, "0.x", "n1", *who, START)) for who in ((None, None, None), ("bob", "chem", "batch"))]
    part = job_part(1, rows, [])
    assert (part.user, part.account, part.partition, part.state) == ("bob", "chem", "batch", None)


def test_grams_are_a_sum_or_nothing() -> None:
    assert job_part(1, [energy(grams=1.5), energy("n2", grams=2.0)], []).figures.co2e_g == 3.5
    assert job_part(1, [energy(grams=1.5), energy("n2", grams=None)], []).figures.co2e_g is None


@pytest.mark.parametrize(("run", "restart"), [("0.x", 0), ("12.boot.1f", 12), ("s00000000000ab", None), (None, None)])
def test_the_restart_count_is_read_from_the_runs_name(run: str | None, restart: int | None) -> None:
    assert restart_of(run) == restart


# ---- hints ----


def test_idle_cores_are_worth_a_hint_with_numbers() -> None:
    part = job_part(1, [energy(cpu_time_us=4 * 3_600_000_000)], [record()])
    (hint,) = hints_of(part)
    assert (hint.kind, hint.cores, hint.energy_uj) == ("idle_cores", 12.0, 67_500_000_000)
    assert hint.percent == pytest.approx(18.75)


def test_a_job_that_used_its_cores_gets_no_advice() -> None:
    assert hints_of(job_part(1, [energy()], [record()])) == []


def test_no_core_hint_where_the_static_part_is_the_gpus_too() -> None:
    assert hints_of(job_part(1, [energy(cpu_time_us=0, gpu_uj=10**12)], [record()])) == []


def test_there_are_never_more_than_two_hints_and_gaps_come_first() -> None:
    rows = [energy(run=f"{n}.x", cpu_time_us=0, modelled_uj=360_000_000_000, covered_ms=0) for n in (0, 1)]
    hints = hints_of(job_part(1, rows, [record(), record(restart=1)]))
    assert [hint.kind for hint in hints] == ["not_covered", "earlier_runs"]


# ---- reasons ----


def reason(records: list[JobRecord], *, unasked: str | None = None, now: datetime = START + 24 * HOUR) -> str:
    return why_missing(Wanted("1", 1), records, unasked, RHYTHM, now).reason


def test_each_way_to_have_no_energy_has_its_own_reason() -> None:
    assert "neither the ledger nor Slurm's accounting of cluster alpha knows such a job" in reason([])
    assert "could not be asked: no sacct" in reason([], unasked="no sacct")
    assert "has not started yet (PENDING)" in reason([record(state="PENDING", start=None, end=None)])
    assert "never ran (CANCELLED)" in reason([record(state="CANCELLED by 1000", start=None)])
    assert "no shard of n1 covers it" in reason([record()])


def test_a_job_that_began_or_ended_just_now_is_told_when_to_come_back() -> None:
    running = record(state="RUNNING", end=None)
    assert "try again within 600 s" in reason([running], now=START + timedelta(seconds=300))
    assert "no shard" in reason([running], now=START + HOUR)
    assert "ended just now" in reason([record()], now=START + HOUR + timedelta(seconds=20))
    assert "within 50 s" in reason([record()], now=START + HOUR + timedelta(seconds=20))


# ---- power ----


def test_power_of_a_part_of_a_minute_is_of_that_part() -> None:
    row = energy(key=(START,), cpu_uj=600_000_000, present_ms=6_000, nodes=1)
    assert power_points([row], 60) == [PowerPoint(START, 100.0)]


def test_two_nodes_for_half_a_minute_each_draw_their_sum() -> None:
    row = energy(key=(START,), cpu_uj=6_000_000_000, present_ms=60_000, nodes=2)
    assert power_points([row], 60) == [PowerPoint(START, 200.0)]


def test_the_line_of_power_is_blank_where_the_job_was_not_there() -> None:
    points = [
        PowerPoint(START + timedelta(minutes=minute), watts) for minute, watts in ((0, 50.0), (1, 100.0), (3, 1.0))
    ]
    assert sparkline(points, 60, 70) == "▅█ ▁"


@given(st.lists(st.tuples(st.integers(0, 20_000), st.floats(0, 1e6)), min_size=1, max_size=60), st.integers(20, 120))
def test_the_line_of_power_fits_whatever_the_job_did(steps: list[tuple[int, float]], width: int) -> None:
    points = [PowerPoint(START + timedelta(minutes=minute), watts) for minute, watts in sorted(dict(steps).items())]
    assert len(sparkline(points, 60, width)) <= width


def test_a_model_in_place_of_a_sensor_that_is_there_is_said_to_be_one() -> None:
    part = job_part(1, [energy(modelled_uj=10**12)], [record()])
    (hint,) = [hint for hint in hints_of(part, unreadable=["rapl"]) if hint.kind == "modelled"]
    assert hint.sensors == ["rapl"]
    assert [hint.sensors for hint in hints_of(part) if hint.kind == "modelled"] == [[]]
