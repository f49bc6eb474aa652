"""The cross-check with Slurm: every cause of a difference is found, explained, and told in text and JSON."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hpccarbon.cli.audit import command
from hpccarbon.site import jobs
from hpccarbon.site.aggregate import aggregate
from hpccarbon.site.audit import WHY, Audit, audit
from hpccarbon.site.engine import connect
from hpccarbon.site.executor import open_crew
from hpccarbon.site.ledger import Ledger
from hpccarbon.slurm.record import JobRecord
from tests.report.golden import check
from tests.site import maker

MARCH, APRIL = datetime(2026, 3, 1, tzinfo=timezone.utc), datetime(2026, 4, 1, tzinfo=timezone.utc)
START = maker.HOUR
H, S = timedelta(hours=1), 1_000_000
HOSTILE = "\x1b[31mred\n=1+1"


def record(job_id: int, nodelist: str, minutes: float = 60, start: datetime = START, **given: object) -> JobRecord:
    end = start + timedelta(minutes=minutes)
    known = {"name": "x", "user": "ada", "state": "COMPLETED", "total_cpu_us": 600 * S} | given
    return JobRecord(job_id, submit=start, start=start, end=end, nodelist=nodelist, **known)  # type: ignore[arg-type]


def rows(job_id: int, cpu_time_s: int = 600, joules: int = 6_000, **given: object) -> list[maker.Row]:
    """An hour of a job in minutes, its CPU time and energy spread evenly."""
    values = {"cpu_time_us": cpu_time_s * S // 60, "cpu_uj": joules * S // 60, "user": "ada"} | given
    return [maker.job_row(START + timedelta(minutes=minute), job_id, **values) for minute in range(60)]


def write(shared: Path, node: str, *parts: list[maker.Row]) -> None:
    content = [row for part in parts for row in part]
    maker.write(shared, content + maker.meter_rows(content), node=node)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Jobs 1 to 12: one for each cause, and two that agree."""
    folder = tmp_path_factory.mktemp("audit")
    write(folder, "n1", rows(1), rows(2, joules=9_000))  # they share n1
    write(folder, "n2", rows(3, cpu_time_s=900))
    write(folder, "n3", rows(4, cpu_time_s=300, covered_ms=30_000))
    write(folder, "n4", rows(5), rows(12))
    write(folder, "n5", rows(6, joules=9_000, user=HOSTILE))
    write(folder, "n6", rows(7, joules=3_000))
    write(folder, "n7", rows(8, cpu_time_s=1200))
    records = [
        record(1, "n1"),
        record(2, "n1", consumed_energy_j=15_000),
        record(3, "n2"),
        record(4, "n3"),
        record(5, "n4", total_cpu_us=0),
        record(6, "n5", consumed_energy_j=6_000, user=HOSTILE),
        record(7, "n6", consumed_energy_j=6_000),
        record(8, "n[7-9]", total_cpu_us=1200 * S),
        record(9, "n[10-12]", minutes=180),
        record(10, "n1", minutes=1 / 60),
        record(11, "n2", start=APRIL + H),
    ]
    with open_crew(1) as crew:
        aggregate(folder, "alpha", crew, pack_at=APRIL)
    jobs.merge(connect(1), folder, "alpha", records)
    jobs.write_cursor(folder, "alpha", APRIL + 9 * H)
    return folder


def of_march(shared: Path, now: datetime = APRIL + 9 * H) -> Audit:
    return audit(Ledger(shared, "alpha"), MARCH, APRIL, now)


def test_every_cause_is_found_and_nothing_else(shared: Path) -> None:
    found = of_march(shared)
    by_cause = {cause.name: [one.job_id for one in cause.largest] for cause in found.causes}
    assert by_cause == {
        "unseen": [9],
        "too_short": [10],
        "some_nodes": [8],
        "not_in_slurm": [12],
        "cpu_more": [3],
        "cpu_less": [4],
        "cpu_zero": [5],
        "energy_shared": [2],
        "energy_more": [6],
        "energy_less": [7],
    }
    assert list(by_cause) == list(WHY)
    assert (found.in_slurm, found.in_ledger, found.in_both, found.compared) == (10, 9, 8, 8)
    assert (found.cpu_compared, found.cpu_agree, found.energy_compared, found.energy_agree) == (8, 5, 3, 0)


def test_figures_of_a_difference(shared: Path) -> None:
    causes = {cause.name: cause for cause in of_march(shared).causes}
    (less,) = causes["cpu_less"].largest
    assert (less.ours, less.slurms, less.covered_percent) == (300, 600, 50)
    (some,) = causes["some_nodes"].largest
    assert (some.ours, some.slurms, some.nodes) == (1, 3, ["n8", "n9"])
    (energy,) = causes["energy_shared"].largest
    assert (energy.ours, energy.slurms) == (9_000, 15_000)


def test_silent_nodes_are_those_without_any_row_while_jobs_ran(shared: Path) -> None:
    found = {one.node: (one.hours, one.jobs) for one in of_march(shared).silent}
    assert found == {"n8": (1, 1), "n9": (1, 1), "n10": (3, 1), "n11": (3, 1), "n12": (3, 1)}
    first = of_march(shared).silent[0]
    assert (first.node, first.first, first.last) == ("n10", START, START + 2 * H)


def test_what_cannot_be_known_yet_is_not_held_against_anybody(shared: Path) -> None:
    found = of_march(shared, now=START + 2 * H)
    assert found.until == START + H
    assert {one.node: one.hours for one in found.silent} == dict.fromkeys(("n8", "n9", "n10", "n11", "n12"), 1)
    assert of_march(shared, now=MARCH).in_slurm == 0


def test_a_site_without_records_or_rows(tmp_path: Path) -> None:
    found = of_march(tmp_path)
    assert (found.in_slurm, found.in_ledger, found.causes, found.silent) == (0, 0, [], [])
    maker.site(tmp_path, hours=1, nodes=1)
    assert [cause.name for cause in of_march(tmp_path).causes] == []  # nobody was asked


def run(shared: Path, *arguments: str) -> Result:
    config = shared / "hpccarbon.toml"
    config.write_text(f'cluster = "alpha"\n[paths]\nshared_dir = "{shared}"\n[slurm]\naccounting = "none"\n')
    return CliRunner().invoke(command, ["--config", str(config), "--month", "2026-03", *arguments])


def test_the_page(shared: Path) -> None:
    result = run(shared)
    assert result.exit_code == 0
    check("audit.txt", result.stdout)


def test_the_same_as_data(shared: Path) -> None:
    result = run(shared, "--format", "json", "--largest", "1")
    check("audit.json", result.stdout)
    data = json.loads(result.stdout)
    assert [cause["name"] for cause in data["causes"]] == list(WHY)
    assert "\x1b" not in result.stdout


def test_nothing_to_compare_with_is_said(tmp_path: Path) -> None:
    maker.site(tmp_path, hours=1, nodes=1)
    result = run(tmp_path)
    assert result.exit_code == 1
    assert "no job records" in str(result.exception)
