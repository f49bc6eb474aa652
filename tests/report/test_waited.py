"""What waiting saved, and what waiting on would have: a job beside the hours around it, by pocket calculator."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from hpccarbon.cli import group
from tests.report import fixed
from tests.site import maker

G_PER_KWH = {7: 400, 8: 350, 9: 300, 10: 100, 11: 200, 12: 90, 13: 60}
JOB = 77


def hints(folder: Path, submit: str) -> dict[str, dict[str, Any]]:
    """The hints of a job of 1 kWh an hour from 10:00 to 12:00, submitted at this time."""
    shared = folder / "shared"
    hours = (fixed.at("10:00"), fixed.at("11:00"))
    for hour in hours:
        rows = [maker.job_row(hour, JOB, cpu_uj=3_600_000_000_000, alloc_cores=1, cpu_time_us=59_000_000)]
        maker.write(shared, [*rows, *maker.meter_rows(rows)], hour=hour, cluster=fixed.CLUSTER)
    ran = fixed.record(JOB, "COMPLETED", "10:00", "12:00", submit=fixed.at(submit), alloc_cores=1, name="night")
    fixed.write_records(shared, [ran])
    config = folder / "hpccarbon.toml"
    config.write_text(
        f'cluster = "{fixed.CLUSTER}"\n[paths]\nshared_dir = "{shared}"\n[slurm]\naccounting = "none"\n'
        '[carbon]\nzone = "campus"\npue = 1.0\n'
    )
    midnight = hours[0] - timedelta(hours=10)
    lines = [f"{midnight + timedelta(hours=h):%Y-%m-%dT%H:%M:%SZ},campus,{value}" for h, value in G_PER_KWH.items()]
    (folder / "hours.csv").write_text("\n".join(["start,zone,intensity_gco2e_per_kwh", *lines]))
    run = CliRunner()
    argv = ["intensity", "import", str(folder / "hours.csv"), "--basis=lifecycle", "--source=utility"]
    assert run.invoke(group, [*argv, f"--config={config}"]).exit_code == 0
    argv = ["report", "--job", str(JOB), f"--config={config}"]
    page = " ".join(run.invoke(group, argv).stdout.split())
    found = json.loads(run.invoke(group, [*argv, "--format=json"]).stdout)["hints"]
    return {hint["kind"]: hint | {"page": page} for hint in found}


def test_what_the_wait_saved_and_what_more_of_it_would_have(tmp_path: Path) -> None:
    told = hints(tmp_path, "06:58")
    used_g, at_submit_g, later_g = 100 + 200, 400 + 350, 90 + 60
    waited = told["waited"]
    assert waited["shift_h"] == 3
    assert waited["saved_g"] == pytest.approx(at_submit_g - used_g)
    assert waited["percent"] == pytest.approx(100 * (at_submit_g - used_g) / at_submit_g)
    assert "Begun 3 hours after its submission, it cost 450 g CO2e (60 %) less than begun at once" in waited["page"]
    assert told["greener_hour"]["shift_h"] == 2
    assert told["greener_hour"]["saved_g"] == pytest.approx(used_g - later_g)


@pytest.mark.parametrize("submit", ["09:58", "05:00"])
def test_nothing_is_said_of_a_job_that_did_not_wait_or_of_hours_that_nobody_knows(tmp_path: Path, submit: str) -> None:
    assert "waited" not in hints(tmp_path, submit)


def test_a_wait_can_cost_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(G_PER_KWH, 8, 20)
    monkeypatch.setitem(G_PER_KWH, 9, 30)
    waited = hints(tmp_path, "08:02")["waited"]
    assert waited["saved_g"] == pytest.approx(20 + 30 - 300)
    assert "250 g CO2e (500 %) more than begun at once" in waited["page"]
