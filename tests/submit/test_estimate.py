"""What a job will probably use: what aggregate notes of past jobs, and the guess that is made of it."""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta, timezone
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from hpccarbon import config as configuration
from hpccarbon.cli import group
from hpccarbon.cli.common import SAMPLE
from hpccarbon.config import Config
from hpccarbon.report.render.submission import text
from hpccarbon.site import habits, observe
from hpccarbon.site.access import ledger_of
from hpccarbon.site.habits import Partitions, Past, Typical
from hpccarbon.site.jobtable import job_table
from hpccarbon.site.ledger import Selection
from hpccarbon.slurm.options import command_line, script_head
from hpccarbon.submit.estimate import Estimate, Span, estimate
from hpccarbon.submit.plan import Wish, make
from hpccarbon.submit.request import Request, request
from tests.report.golden import check

NOW = datetime(2026, 11, 24, 12, tzinfo=timezone.utc)
TYPICAL = Partitions(1, 0.0, 0.0, {"": Typical(50, 8.0, 10.0, 15.0), "fat": Typical(20, 4.0, 5.0, 6.0)}, {})


def asked(words: str) -> Request:
    return request(command_line(words.split()), script_head(""), {})


def job(elapsed_s: int, power_w: float, *, name: str = "train", cores: int = 4, gpus: int = 0) -> Past:
    return Past(name, "batch", 0, elapsed_s, cores, gpus, round(power_w * elapsed_s * 1e6))


def guess(words: str, past: list[Past], known: Partitions | None = None) -> Estimate:
    found = estimate(asked(words), past, known)
    assert found is not None
    return found


# ---- the guess -----------------------------------------------------------------------------------------------------


def test_jobs_of_the_same_name_and_size_go_first() -> None:
    past = [job(100 + 10 * n, 50) for n in range(5)] + [job(9999, 900, cores=64)] + [job(7, 7, name="other")]
    found = guess("-J train -n 4", past, TYPICAL)
    assert (found.basis, found.jobs, found.length_s) == ("same", 5, 120)
    assert found.power_w == Span(50, 50, 50)
    assert found.energy_uj is not None
    assert found.energy_uj.middle == 120 * 50e6
    assert found.energy_uj.low == pytest.approx(104 * 50e6)
    assert found.energy_uj.high == pytest.approx(136 * 50e6)


def test_other_sizes_of_the_name_are_scaled_by_cores_or_by_gpus() -> None:
    assert guess("-J train -n 8", [job(100, 50)]).power_w == Span(100)
    assert guess("-J train -n 8", [job(100, 50)]).basis == "name"
    assert guess("-J train -n 8 --gpus=4", [job(100, 50, gpus=1), job(100, 1, gpus=0)]).power_w == Span(200)


def test_an_array_costs_all_its_tasks_and_a_limit_ends_them() -> None:
    found = guess("-J train -n 4 -a 1-10 -t 1", [job(100, 50)] * 3)
    assert found.length_s == 60
    assert found.energy_uj == Span(10 * 60 * 50e6, 10 * 60 * 50e6, 10 * 60 * 50e6)


def test_whole_nodes_are_told_by_the_name_alone() -> None:
    assert guess("-J train --exclusive", [job(100, 50, cores=64)]).power_w == Span(50)


@pytest.mark.parametrize(
    ("words", "basis", "power_w", "energy_uj"),
    [
        ("-n 3 -p fat -t 10", "partition", Span(15, 12, 18), Span(15 * 600e6, 12 * 600e6, 18 * 600e6)),
        ("-n 3 -p unheard-of -t 10", "cluster", Span(30, 24, 45), Span(30 * 600e6, 24 * 600e6, 45 * 600e6)),
        ("-n 3", "cluster", Span(30, 24, 45), None),
    ],
)
def test_without_a_history_the_partition_speaks(words: str, basis: str, power_w: Span, energy_uj: Span | None) -> None:
    found = guess(words, [job(100, 50, name="other")], TYPICAL)
    assert (found.basis, found.power_w, found.energy_uj) == (basis, power_w, energy_uj)


def test_nothing_is_invented() -> None:
    assert estimate(asked("-n 3 -t 10"), [], None) is None
    assert estimate(asked("-n 3 --gpus=1"), [], TYPICAL) is None, "nobody knows what a GPU draws here"


# ---- what it stands on ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The sample ledger, with its habits noted."""
    folder = tmp_path_factory.mktemp("sample")
    shutil.copytree(SAMPLE.parent, folder / "site")
    config = configuration.load(folder / "site" / "hpccarbon.toml")
    assert observed(config) == 2
    return config


def observed(config: Config, now: datetime = NOW) -> int:
    ledger = ledger_of(config)
    try:
        return observe.update(config, ledger, now)
    finally:
        ledger.close()


def test_what_is_noted_is_what_the_ledger_says(site: Config) -> None:
    ledger = ledger_of(site)
    rows = {row["job_id"]: row for row in job_table(ledger, Selection()).to_pylist()}
    ledger.close()
    kept = {uid: found.jobs for uid in (1001, 1002) if (found := habits.own(site, uid)) is not None}
    assert kept.keys() == {1001, 1002}
    for uid, jobs in kept.items():
        known = {(row["name"], row["elapsed_s"], row["energy_uj"]) for row in rows.values() if row["uid"] == uid}
        assert {(one.name, one.elapsed_s, one.energy_uj) for one in jobs} <= known
        assert [one.ended_s for one in jobs] == sorted((one.ended_s for one in jobs), reverse=True)
        for name in {one.name for one in jobs}:
            assert 1 <= sum(one.name == name for one in jobs) <= observe.LAST_JOBS
    names = {row["name"] for row in rows.values() if row["state"] in ("COMPLETED", "TIMEOUT") and row["energy_uj"]}
    assert {one.name for jobs in kept.values() for one in jobs} == names


def test_a_partition_is_told_by_power_per_core_of_all_its_users(site: Config) -> None:
    known = habits.partitions(site)
    assert known is not None
    assert known.per_core["batch"].low_w <= known.per_core["batch"].middle_w <= known.per_core["batch"].high_w
    assert 5 < known.per_core["batch"].middle_w < 30


def test_habits_rest_for_a_while_after_they_were_written(site: Config) -> None:
    known = habits.partitions(site)
    assert known is not None
    assert observed(site, NOW + timedelta(seconds=known.took_s)) == 0
    assert observed(site, NOW + timedelta(seconds=21 * known.took_s + 1)) == 2


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b"[]", b'{"version":99,"jobs":[]}', b'{"version":1,"jobs":[[1]]}']
)
def test_habits_that_cannot_be_read_are_none(site: Config, tmp_path: Path, content: bytes) -> None:
    config = msgspec.structs.replace(site, paths=msgspec.structs.replace(site.paths, shared_dir=str(tmp_path)))
    room = tmp_path / "habits" / config.cluster
    room.mkdir(parents=True)
    (room / "7.json").write_bytes(content)
    (room / "partitions.json").write_bytes(content)
    assert habits.own(config, 7) is None
    assert habits.partitions(config) is None


def test_a_plan_tells_grams_and_without_hours_to_choose_from_leaves_the_start_alone(site: Config) -> None:
    plan = make(site, asked("-J sweep -t 30"), Wish(green=True, max_delay=timedelta(hours=12)), 1002, NOW)
    assert plan.estimate is not None
    assert plan.estimate.basis == "same"
    assert plan.co2e_g is not None
    assert plan.begin is None
    assert "are not foreseen" in plan.notes[0]
    check("sbatch_unforeseen.txt", text(plan, 80))


def test_what_is_said_is_as_reviewed(site: Config, tmp_path: Path) -> None:
    """With hourly values of two weeks and a forecast: the words, the chart, and the same as JSON."""
    shared = tmp_path / "shared"
    shutil.copytree(site.paths.shared_dir, shared)
    config = msgspec.structs.replace(site, paths=msgspec.structs.replace(site.paths, shared_dir=str(shared)))
    toml = tmp_path / "hpccarbon.toml"
    toml.write_text(f'cluster = "{site.cluster}"\n[paths]\nshared_dir = "{shared}"\n')
    lines = ["start,intensity_gco2e_per_kwh,kind"]
    for number in range(-14 * 24, 24):
        at = NOW + timedelta(hours=number)
        kind = "actual" if number <= 0 else "forecast"
        lines.append(f"{at:%Y-%m-%dT%H:%M:%SZ},{300 + 10 * abs((at.hour - 3 + 12) % 24 - 12)},{kind}")
    (tmp_path / "de.csv").write_text("\n".join(lines))
    argv = ["intensity", "import", str(tmp_path / "de.csv"), "--zone=DE", "--basis=lifecycle", "--source=made"]
    assert CliRunner().invoke(group, [*argv, f"--config={toml}"]).exit_code == 0
    half_past = NOW + timedelta(minutes=30)
    plan = make(config, asked("-J sweep -t 4:00:00"), Wish(True, timedelta(hours=18)), 1002, half_past)
    assert plan.begin is not None
    check("sbatch.txt", text(plan, 80))
    check("sbatch.json", msgspec.json.format(msgspec.json.encode(plan)).decode() + "\n")
    long = make(config, asked("-n 4 -t 8:00:00"), Wish(True, timedelta(hours=12)), 1002, half_past)
    check("sbatch_partition.txt", text(long, 60))
