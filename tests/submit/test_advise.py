"""What jobs could have saved: sums that add up, prices that are told, nothing said of what is not known."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pv
import pyarrow.parquet as pq
import pytest

from hpccarbon.carbon import series
from hpccarbon.carbon.places import Places
from hpccarbon.config import Carbon, Place
from hpccarbon.submit.advise import DELAYS_H, Advice, Advised, advise
from hpccarbon.submit.capacity import Room, needs_of, rooms_of
from hpccarbon.units import UJ_PER_KWH
from tests import hostile
from tests.report import fixed
from tests.report.golden import check
from tests.summary.inside import Said, run

DAY = fixed.DAY
HOUR = timedelta(hours=1)
BASE: dict[str, Any] = {
    "name": "fold", "user": "alice", "account": "physics", "partition": "batch", "state": "COMPLETED",
    "restart": 0, "alloc_nodes": 1, "alloc_cores": 32, "alloc_tres": "cpu=32,node=1", "nodelist": "n1",
}  # fmt: skip


def intensities(days: int = 20) -> dict[datetime, float]:
    """400 g at night, 100 from 11 to 15, every day the same, until the end of the day after."""
    hours = (DAY - days * 24 * HOUR + number * HOUR for number in range(24 * (days + 2)))
    return {at: 100.0 if 11 <= at.hour < 15 else 400.0 for at in hours}


def store(room: Path, zone: str, values: dict[datetime, float]) -> None:
    origin = series.Origin("energy_charts", "Energy-Charts", "CC-BY-4.0", "lifecycle")
    points = [series.Point(int(at.timestamp()), int(at.timestamp()) + 3600, g, "measured") for at, g in values.items()]
    series.append(room, zone, points, origin, DAY + 48 * HOUR)


def job(number: int, begin_h: float, length_h: float, g_per_kwh: float, **given: Any) -> dict[str, Any]:
    """A row of the job table: 1 kWh for each hour."""
    start = DAY + begin_h * HOUR
    times = {"start": start, "end": start + length_h * HOUR, "elapsed_s": round(length_h * 3600)}
    facts = {"job": str(number), "energy_uj": round(length_h * UJ_PER_KWH), "co2e_g": length_h * g_per_kwh}
    return BASE | facts | times | given


def table(*rows: dict[str, Any]) -> pa.Table:
    stamp = pa.timestamp("s", tz="UTC")
    kinds = {"start": stamp, "end": stamp, "elapsed_s": pa.int64(), "energy_uj": pa.int64(), "co2e_g": pa.float64()}
    kinds |= {"restart": pa.int32(), "alloc_nodes": pa.int32(), "alloc_cores": pa.int32()}
    names = ["job", "start", "end", "elapsed_s", "energy_uj", "co2e_g", *BASE]
    return pa.table({name: pa.array([row[name] for row in rows], kinds.get(name, pa.string())) for name in names})


def asked(place: Path, jobs: pa.Table, carbon: Carbon | None = None, **given: Any) -> Advice:
    begin, end = DAY, DAY + 24 * HOUR
    settings: dict[str, Any] = {"max_delay": 12 * HOUR, "top": 10} | given
    return advise(jobs, Places(carbon or Carbon(zone="DE"), place), "alpha", begin, end, **settings)


@pytest.fixture
def room(tmp_path: Path) -> Path:
    store(tmp_path, "DE", intensities())
    return tmp_path


def test_what_waiting_saves_and_what_it_costs(room: Path) -> None:
    jobs = table(job(1, 8, 2, 400), job(2, 9, 4, 250), job(3, 11.5, 1, 100))
    told = asked(room, jobs).told
    by_delay = {one.max_delay_h: one for one in told.waiting}
    assert list(by_delay) == list(DELAYS_H)
    # 1 waits 3 h for 800 → 200 g, 2 waits 2 h for 1000 → 400 g, 3 is there already
    three = by_delay[3]
    assert (told.weighed, told.co2e_g, told.energy_uj) == (3, 1900, 7 * UJ_PER_KWH)
    assert three.saved_g == pytest.approx(1200) and three.saved_percent == pytest.approx(100 * 1200 / 1900)
    assert three.moved == 2 and three.mean_wait_h == pytest.approx(2.5) and three.most_g == pytest.approx(1200)
    assert [(one.job, one.wait_s, round(one.saved_g)) for one in told.largest] == [
        ("1", 10_800, 600),
        ("2", 7_200, 600),
    ]
    assert all(one.saved_g <= one.most_g + 1e-9 for one in told.waiting)


def test_the_table_has_every_job_and_adds_up_to_the_page(room: Path) -> None:
    found = asked(room, table(job(1, 8, 2, 400), job(2, 9, 4, 250), job(3, 11.5, 1, 100)), max_delay=6 * HOUR)
    assert found.table.num_rows == 3
    chosen = next(one for one in found.told.waiting if one.max_delay_h == 6)
    assert sum(found.table["saved_g"].to_pylist()) == pytest.approx(chosen.saved_g)
    assert sum(found.table["most_g"].to_pylist()) == pytest.approx(chosen.most_g)


def test_each_job_that_nothing_can_be_said_of_is_counted_once(room: Path) -> None:
    jobs = table(
        job(1, 8, 2, 400),
        job(2, -3, 5, 400),  # began before
        job(3, 8, 2, 400, end=None),  # runs
        job(4, 8, 2, 400, co2e_g=None),
        job(5, 8, 2, 400, energy_uj=0),
        job(6, 8, 2, 400, restart=1),
        job(7, 8, 2, 400, restart=None),
    )
    told = asked(room, jobs).told
    assert told.jobs == told.weighed + sum(one.jobs for one in told.left_out) == 7
    assert [one.jobs for one in told.left_out] == [2, 1, 2]


def test_without_hours_nothing_is_said_but_why(tmp_path: Path) -> None:
    told = asked(tmp_path, table(job(1, 8, 2, 400))).told
    assert told.weighed == 0 and told.largest == [] and "intensity fetch" in told.notes[0]
    assert [one.saved_g for one in told.waiting] == [0.0] * len(DELAYS_H)
    assert "[carbon]" in asked(tmp_path, table(job(1, 8, 2, 400)), Carbon()).told.notes[0]
    assert asked(tmp_path, table()).told.notes == ["no job of these used energy in this period"]


def test_a_start_beyond_what_is_known_is_none(tmp_path: Path) -> None:
    store(tmp_path, "DE", {at: g for at, g in intensities().items() if at < DAY + 11 * HOUR})
    told = asked(tmp_path, table(job(1, 8, 2, 400))).told
    assert [one.saved_g for one in told.waiting] == [0.0] * len(DELAYS_H)


def test_on_one_node_one_job_gets_the_clean_hours(room: Path) -> None:
    jobs = table(job(1, 8, 1, 400), job(2, 9, 4, 250, name="wide"), job(3, 7, 1, 400))
    one = asked(room, jobs, rooms=[Room(frozenset(("batch",)), 1)]).told.crowd
    many = asked(room, jobs, rooms=[Room(frozenset(("batch",)), 3)]).told.crowd
    free = next(one for one in asked(room, jobs).told.waiting if one.max_delay_h == 12)
    assert one is not None and many is not None
    assert (one.moved, one.nodes) == (1, 1) and one.saved_g == pytest.approx(600)
    assert many.moved == 3 and many.saved_g == pytest.approx(free.saved_g) == 1200


def test_a_job_that_still_runs_keeps_its_node(room: Path) -> None:
    jobs = table(job(1, 8, 1, 400), job(2, 8, 2, 400, end=None))
    crowds = [asked(room, jobs, rooms=[Room(frozenset(("batch",)), nodes)]).told.crowd for nodes in (1, 2)]
    assert [crowd.moved if crowd else None for crowd in crowds] == [0, 1]


def test_partitions_that_share_a_node_share_the_room() -> None:
    rooms = rooms_of([("n1", "a"), ("n2", "b"), ("n3", "c"), ("n2", "c"), ("n4", "d"), ("n5", None)])
    assert {(tuple(sorted(one.partitions, key=str)), one.nodes) for one in rooms} == {
        (("a",), 1), (("b", "c"), 2), (("d",), 1), ((None,), 1),
    }  # fmt: skip


def test_a_job_needs_its_part_of_a_node_by_cores_or_by_gpus() -> None:
    jobs = table(
        job(1, 0, 1, 1, alloc_cores=64, alloc_tres="cpu=64,node=1"),
        job(2, 0, 1, 1, alloc_cores=16, alloc_tres="cpu=16,node=1"),
        job(3, 0, 1, 1, alloc_cores=2, alloc_tres="cpu=2,gres/gpu=4,node=1"),
        job(4, 0, 1, 1, alloc_cores=2, alloc_tres="cpu=2,gres/gpu=1,gres/gpu:a100=1,node=1"),
        job(5, 0, 1, 1, alloc_cores=96, alloc_nodes=2),
        job(6, 0, 1, 1, alloc_cores=None, alloc_tres=None),
    )
    assert needs_of(jobs).tolist() == [1000, 250, 1000, 250, 1500, 1000]


def test_other_places_are_compared_by_the_same_hours(room: Path) -> None:
    store(room, "FR", {at: g / 10 for at, g in intensities().items()})
    south = Place(partitions=("far-*",), zone="FR")
    jobs = table(job(1, 8, 2, 400), job(2, 8, 2, 40, partition="far-1"))
    sites = {one.place: one for one in asked(room, jobs, Carbon(zone="DE", places={"south": south})).told.places}
    assert (sites["south"].zone, sites["south"].jobs) == ("FR", 1) and sites["south"].there_g == pytest.approx(80)
    assert sites["south"].saved_percent == pytest.approx(90)
    assert sites[""].co2e_g == 80 and sites[""].there_g == pytest.approx(800)
    assert asked(room, jobs).told.places == []


def test_the_same_name_on_several_partitions_is_compared_by_medians(room: Path) -> None:
    rows = [job(number, 8, 2, 400) for number in range(3)]
    rows += [
        job(10 + number, 8, 1, 400, partition="gpu", energy_uj=(1 + number) * UJ_PER_KWH, co2e_g=100)
        for number in range(3)
    ]
    rows += [job(20 + number, 8, 1, 400, partition="rare") for number in range(2)]
    rows += [job(30 + number, 8, 9, 400, partition="gpu", state="FAILED") for number in range(3)]
    found = asked(room, table(*rows)).told.hardware
    assert [(one.partition, one.jobs, one.energy_uj / UJ_PER_KWH, one.elapsed_s) for one in found] == [
        ("batch", 3, 2.0, 7200), ("gpu", 3, 2.0, 3600),
    ]  # fmt: skip


# ---- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("advise")
    shared = fixed.build(place / "shared")
    store(
        shared / "intensity",
        "DE",
        {at: 250 - 40 * (at.hour % 12) / 3 + 25 * ((at.day * 7 + at.hour) % 5) for at in intensities()},
    )
    store(shared / "intensity", "FR", {at: 60 - at.hour for at in intensities()})
    config = place / "hpccarbon.toml"
    config.write_text(
        f'cluster = "alpha"\n[paths]\nshared_dir = "{shared}"\n[slurm]\naccounting = "none"\n'
        '[report]\ntimezone = "Europe/Berlin"\n[carbon]\nzone = "DE"\npue = 1.2\n'
        '[carbon.places.south]\nnodes = "n3"\nzone = "FR"\n'
    )
    return config


def command(site: Path, *words: str) -> Said:
    return run("advise", "--config", str(site), "--since", "2026-03-01", "--until", "2026-03-02", *words)


def test_golden(site: Path) -> None:
    everybody = command(site, "--capacity")
    assert everybody.status == 0 and everybody.err == ""
    check("advise.txt", everybody.out)
    check("advise.json", command(site, "--capacity", "-f", "json").out)
    check("advise.csv", command(site, "--account", "physics,chemistry", "-f", "csv").out)
    check("advise_one_user.txt", command(site, "--user", "bob", "--max-delay", "6h", "--top", "2").out)


def test_every_format_says_the_same(site: Path, tmp_path: Path) -> None:
    command(site, "--capacity", "-o", str(tmp_path / "a.parquet"))
    command(site, "--capacity", "-o", str(tmp_path / "a.csv"))
    command(site, "--capacity", "-o", str(tmp_path / "a.json"))
    told = json.loads((tmp_path / "a.json").read_text())
    rows, lines = pq.read_table(tmp_path / "a.parquet"), pv.read_csv(tmp_path / "a.csv")
    assert rows.column_names == lines.column_names and rows.num_rows == lines.num_rows == told["weighed"]
    chosen = next(one for one in told["waiting"] if one["max_delay_h"] == 12)
    assert sum(rows["saved_g"].to_pylist()) == pytest.approx(chosen["saved_g"])
    assert {"max_delay_h", *Advised.__struct_fields__} == set(told)


def test_without_a_name_it_is_about_my_own_jobs(site: Path) -> None:
    mine = json.loads(command(site, "-f", "json").out)
    assert mine["jobs"] == 0 and mine["crowd"] is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--capacity", "--user", "bob"), "--capacity is about all jobs"),
        (("--month", "last"), "--month is a period of its own"),
        (("--max-delay", "9d"), "is no duration"),
        (("--max-delay", "200h"), "is no delay any more"),
    ],
)
def test_wrong_usage(site: Path, words: tuple[str, ...], said: str) -> None:
    told = command(site, *words)
    assert told.status == 2 and said in told.err and told.out == ""


def test_hostile_names_are_shown_and_obeyed_by_nobody(site: Path) -> None:
    for kind in ("text", "json", "csv"):
        told = command(site, "--account", "=cmd()", "-f", kind).out
        assert "owned" in told and hostile.obeyed(told) == []
    assert hostile.formulas(told) == []
