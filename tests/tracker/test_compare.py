"""Comparing models: the table, the front, the charts; rows of ours, of CodeCarbon, of a DataFrame, of the ledger."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from hpccarbon.cli.common import SAMPLE
from hpccarbon.errors import HpcCarbonError
from hpccarbon.report import compare as module
from hpccarbon.report.compare import compare
from hpccarbon.site import imported
from hpccarbon.tracker.data import COLUMNS, EmissionsData
from tests import hostile, refused


def run(name: str, grams: float, seconds: float, accuracy: float | None = None, **more: Any) -> EmissionsData:
    metrics = json.dumps({} if accuracy is None else {"accuracy": accuracy})
    return EmissionsData(
        project_name=name,
        emissions=grams / 1000,
        duration=seconds,
        energy_consumed=grams / 400,
        energy_joules=grams * 9000,
        static_joules=grams * 3000,
        method="measured",
        metrics=metrics,
        **more,
    )


SMALL, MIDDLE, LARGE, WORSE = (
    run("small", 1, 10, 0.80),
    run("middle", 4, 30, 0.90),
    run("large", 20, 90, 0.92),
    run("worse", 25, 80, 0.85),
)


def test_the_trackers_columns_are_no_metrics() -> None:
    assert set(COLUMNS) == module._TRACKERS


def test_the_front_holds_what_nothing_beats_and_the_best_emits_least_per_point() -> None:
    found = compare([LARGE, WORSE, SMALL, MIDDLE])
    assert [model.name for model in found.models] == ["small", "middle", "large", "worse"]
    assert [model.pareto for model in found.models] == [True, True, True, False]
    assert (found.metric, found.point, found.best) == ("accuracy", 0.01, "small")
    assert found.models[0].per_point_g == pytest.approx(1 / 80)
    assert found.models[0].dynamic_j == pytest.approx(6000)


def test_without_a_metric_time_stands_against_emissions() -> None:
    found = compare([run("a", 1, 10), run("b", 2, 5), run("c", 3, 11)])
    assert (found.metric, found.best) == (None, "a")
    assert [model.pareto for model in found.models] == [True, True, False]


def test_a_loss_is_better_when_lower() -> None:
    found = compare([run("a", 1, 1, 0.5), run("b", 2, 1, 0.7)], "accuracy", higher_is_better=False)
    assert [model.pareto for model in found.models] == [True, False]
    assert {model.per_point_g for model in found.models} == {None}


def test_the_nodes_of_a_step_are_one_run_and_runs_of_a_name_are_averaged() -> None:
    nodes = [run("wide", 3, 10, scope="job", job_id="7", step_id="0", section=1, node=f"n{n}") for n in (1, 2)]
    again = run("wide", 10, 20, scope="job", job_id="8", step_id="0", section=1, node="n1")
    (model,) = compare([*nodes, again]).models
    assert (model.runs, model.seconds) == (2, 15)
    assert model.co2e_g == pytest.approx(8)


def test_a_data_frames_own_columns_are_metrics() -> None:
    frame = pd.DataFrame([SMALL.values, LARGE.values]).drop(columns="metrics").assign(f1=[0.7, 0.9], note="text")
    found = compare(frame)
    assert found.metric == "f1"
    assert list(found.to_pandas()["f1"]) == [0.7, 0.9]


@pytest.mark.parametrize("ending", [".html", ".svg", ".png", ".csv", ".json"])
def test_each_kind_of_file_is_what_it_says(tmp_path: Path, ending: str) -> None:
    content = compare([SMALL, LARGE]).save(tmp_path / f"models{ending}").read_bytes()
    begins = {".html": b"<!doctype html>", ".svg": b"<svg", ".png": b"\x89PNG", ".csv": b"name,runs", ".json": b"{"}
    assert content.startswith(begins[ending])
    if ending in (".html", ".svg"):
        text = content.decode()
        for title in ("Emissions per model", "accuracy against emissions", "Time against emissions", "per point"):
            assert title in text
        assert "http://" not in text.replace("http://www.w3.org/", "")
        assert "https://" not in text


@pytest.mark.parametrize("name", hostile.NAMES.values(), ids=hostile.NAMES.keys())
def test_hostile_names_are_inert(name: str) -> None:
    from hpccarbon.report.render.comparison import content

    found = compare([run(name, 1, 1, 0.5)])
    assert not hostile.obeyed(str(found))
    page = content(found, ".html").decode()
    assert "<script" not in page.lower()
    assert "<img" not in page.lower()
    assert not hostile.formulas(content(found, ".csv").decode())


def test_what_cannot_be_compared_is_said() -> None:
    for results, metric, words in (
        ([], None, "nothing to compare"),
        ("/no/such.csv", None, "cannot read /no/such.csv"),
        ([SMALL], "f1", "no metric 'f1' in small"),
        ([{"project_name": "x", "emissions": "much"}], None, "not a number"),
        (7, None, "cannot compare a int"),
    ):
        with pytest.raises(HpcCarbonError, match=words):
            compare(results, metric)


def test_jobs_of_the_ledger_stand_beside_one_another_with_the_reports_own_figures(tmp_path: Path) -> None:
    """The package's sample ledger: real jobs of a private cluster."""

    def command(*words: str) -> str:
        argv = [sys.executable, "-m", "hpccarbon", *words]
        env = {**os.environ, "HPCCARBON_CONFIG": str(SAMPLE)}
        done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True)
        return done.stdout if done.returncode == 0 else done.stderr

    command("compare", "1", "3", "-o", "models.json")
    told = json.loads((tmp_path / "models.json").read_text())["models"]
    for job_id, model in zip(("1", "3"), told, strict=True):
        total = json.loads(command("report", "--job", job_id, "-f", "json"))["total"]
        assert model["energy_j"] == pytest.approx(total["energy_uj"] / 1e6)
        assert model["co2e_g"] == pytest.approx(total["co2e_g"])
    assert "no job 999999 with energy" in command("compare", "1", "999999")


CODECARBON = (
    "timestamp,project_name,run_id,duration,emissions,energy_consumed,cpu_energy\n"
    "2026-01-01T00:00:00,old,a,10.0,0.002,0.005,0.004\n2026-01-01T00:01:00,old,b,20.0,0.004,0.007,0.006\n"
)


def test_import_brings_old_runs_beside_new_ones(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(f'[paths]\nshared_dir = "{tmp_path}/shared"\n')
    (tmp_path / "old.csv").write_text(CODECARBON)

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "hpccarbon", *words, "--config", str(tmp_path / "site.toml")]
        return subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True)

    first, again = command("import", "old.csv"), command("import", "old.csv")
    assert first.returncode == again.returncode == 0, first.stderr
    assert "old.csv: 2 runs" in first.stdout
    assert "nothing to do" in again.stdout
    assert len(list((tmp_path / "shared" / "imported").iterdir())) == 1
    assert not (tmp_path / "shared" / "ledger").exists()
    shown = command("compare", "old")
    assert "3.0 g" in shown.stdout, shown.stdout + shown.stderr
    assert "Most efficient: old" in shown.stdout
    missing = command("compare", "new")
    assert (missing.returncode, "no project 'new'" in missing.stderr) == (1, True)
    (tmp_path / "broken.csv").write_text(CODECARBON.replace("0.007", "much"))
    broken = command("import", "broken.csv")
    assert (broken.returncode, "line 3: energy_consumed is 'much'" in broken.stderr) == (1, True)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (CODECARBON.encode("utf-16"), "'utf-8' codec can't decode"),
        (b"", "no rows with the columns duration, emissions, energy_consumed, project_name, run_id, timestamp"),
        (CODECARBON.replace("emissions,", "grams,").encode(), "no rows with the columns emissions"),
        (CODECARBON.replace("0.007,0.006", "0.007").encode(), "line 3 has not as many fields as the header"),
        (CODECARBON.replace("0.007", "0.007,5").encode(), "line 3 has not as many fields as the header"),
        (CODECARBON.replace("20.0", "-20.0").encode(), "line 3: duration is -20"),
        (CODECARBON.replace("0.004\n", "nan\n").encode(), "line 2: cpu_energy is nan"),
        (CODECARBON.replace("a,10.0", "a" * 140_000 + ",10.0").encode(), "field larger than field limit"),
    ],
)
def test_a_file_that_is_no_trackers_is_named_and_nothing_of_it_is_kept(
    tmp_path: Path, content: bytes, said: str
) -> None:
    source, room = tmp_path / "old.csv", tmp_path / "imported"
    source.write_bytes(content)
    with pytest.raises(HpcCarbonError, match=said) as told:
        imported.take(source, room)
    assert str(source) in str(told.value)
    assert not room.exists()


def test_an_import_says_what_cannot_be_read_or_written(tmp_path: Path) -> None:
    source, room = tmp_path / "old.csv", tmp_path / "imported"
    with pytest.raises(HpcCarbonError, match=r"cannot read .*old\.csv: No such file or directory"):
        imported.take(source, room)
    source.write_text(CODECARBON)
    room.touch()
    with pytest.raises(HpcCarbonError, match=r"cannot write .*File exists \(paths\.shared_dir must be writable\)"):
        imported.take(source, room)
    room.unlink()
    assert imported.take(source, room).known is False
    assert len(imported.rows(room)) == 2
    (room / "0.parquet").write_bytes(b"PAR1")
    with pytest.raises(HpcCarbonError, match=r"cannot use .*0\.parquet"):
        imported.rows(room)


def test_an_import_that_fills_the_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    source, room = tmp_path / "old.csv", tmp_path / "imported"
    source.write_text(CODECARBON)
    (tmp_path / "site.toml").write_text(f'[paths]\nshared_dir = "{tmp_path}"\n')
    argv = [sys.executable, "-B", "-m", "hpccarbon", "import", str(source), "--config", str(tmp_path / "site.toml")]
    done = refused.run(argv, "/^rename", "ENOSPC", when="1")
    assert done.returncode == 1 and "error: cannot write" in done.stderr and "No space left" in done.stderr
    assert list(room.iterdir()) == []
