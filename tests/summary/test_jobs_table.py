"""Jobs for notebooks and other tools: the same sums as the reports, and nothing in them that is obeyed."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from datetime import date, datetime, timezone
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hpccarbon
from hpccarbon.report.frames import Jobs
from hpccarbon.report.render.jobrows import XDMOD, csv_bytes, xdmod_text
from hpccarbon.report.summary import Summary
from hpccarbon.site.jobtable import job_table
from hpccarbon.site.ledger import Ledger, Selection
from tests import hostile
from tests.report.golden import check
from tests.summary.inside import Said, run


@pytest.fixture(scope="module")
def jobs(site: Path) -> Jobs:
    return hpccarbon.load_jobs("2026-03-01", date(2026, 4, 1), config=site)


def test_the_package_stays_cheap_to_import() -> None:
    code = (
        "import sys, hpccarbon; ours = [name for name in sys.modules if name.startswith('hpccarbon')];"
        " print('load_jobs' in dir(hpccarbon), ours)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True ['hpccarbon']\n"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = hpccarbon.nothing


def test_sums_are_the_ledger_s(jobs: Jobs, ledger: Ledger) -> None:
    month = Selection(since=jobs.since, until=jobs.until, holders=("job",))
    rows = {row.key[0]: row for row in ledger.energy(month, ("job_id",))}
    table = [row for row in jobs.table.to_pylist() if row["energy_uj"] is not None]
    assert [row["job_id"] for row in table] == sorted(rows)  # type: ignore[type-var]
    for row in table:
        single = rows[row["job_id"]]
        assert row["energy_uj"] == single.energy_uj
        assert (row["cpu_uj"], row["dram_uj"], row["gpu_uj"]) == (single.cpu_uj, single.dram_uj, single.gpu_uj)
        assert row["static_uj"] == single.idle_uj
        whole_ms = single.present_ms + row["unseen_node_hours"] * 3_600_000
        assert row["covered_percent"] == pytest.approx(100 * single.covered_ms / whole_ms)


def test_a_job_that_slurm_alone_knows_has_no_energy_and_no_coverage(jobs: Jobs) -> None:
    (row,) = [row for row in jobs.table.to_pylist() if row["energy_uj"] is None]
    assert (row["job"], row["name"], row["user"], row["covered_percent"]) == ("5301", "unseen", "alice", 0.0)
    assert (row["energy_kwh"], row["co2e_g"], row["node_hours"]) == (None, None, 0.0)
    assert row["unseen_node_hours"] == pytest.approx((30 * 60 - 1) / 3600)
    assert jobs.unseen == 1
    assert "; 1 without a reading" in repr(jobs)


def test_a_job_is_as_covered_in_every_table_as_in_its_own_report(jobs: Jobs, site: Path) -> None:
    march = ("-S", "2026-03-01", "-E", "2026-04-01")
    by_job = json.loads(run("report", "--by", "job", *march, "-f", "json", "--config", str(site)).out)
    of_usage = {row["key"][0]: row["figures"]["covered_percent"] for row in by_job["rows"] if row["key"]}
    of_table = {row["job"]: row["covered_percent"] for row in jobs.table.to_pylist()}
    assert of_usage == pytest.approx(of_table)
    seen = [name for name, covered in of_table.items() if covered]
    own = json.loads(run("report", *(f"--job={name}" for name in seen), "-f", "json", "--config", str(site)).out)
    of_reports = {job["job"]: job["figures"]["covered_percent"] for job in own["jobs"]}
    assert of_reports == pytest.approx({name: of_table[name] for name in seen})
    assert any(covered < 99 for covered in of_reports.values())


def test_grams_are_those_of_the_summary(jobs: Jobs, march: Summary) -> None:
    holders = {line.name: line for line in march.holders}
    assert jobs.co2e_g == pytest.approx(holders["job"].figures.co2e_g)
    assert jobs.energy_kwh == pytest.approx((holders["job"].figures.energy_uj or 0) / 3.6e12)


def test_accounting_is_joined_and_its_absence_is_not_invented(jobs: Jobs) -> None:
    frame = jobs.to_pandas()
    assert frame.loc["4800_2", "state"] == "TIMEOUT"
    assert frame.loc["6000+1", "name"] == "pair"
    assert frame.loc["5002", ["name", "user", "state"]].isna().all()
    assert frame.loc["7005", "user"] == "dora"
    assert len(frame) == len(jobs)


def test_a_missing_reading_is_not_zero(jobs: Jobs) -> None:
    frame = jobs.to_pandas()
    assert str(frame["dram_uj"].dtype) == "Int64"
    assert frame.loc["5100", ["dram_uj"]].isna().all()
    assert frame.loc["4711", "gpu_uj"] is not frame.loc["4711", "cpu_uj"]


def test_it_can_be_narrowed(site: Path) -> None:
    some = hpccarbon.load_jobs("2026-03-01", "2026-04-01", users=["bob"], config=site)
    assert set(some.table["user"].to_pylist()) == {"bob"}
    none = hpccarbon.load_jobs("2024-03-01", datetime(2024, 4, 1, tzinfo=timezone.utc), config=site)
    assert len(none) == 0
    assert none.table.column_names == some.table.column_names
    assert "0 jobs" in repr(none)
    assert "0 jobs" in none._repr_html_()


def test_a_notebook_shows_the_largest_and_how_it_is_known(jobs: Jobs) -> None:
    shown = jobs._repr_html_()
    assert "train_resnet" in shown
    assert "grid operator of the example" in shown
    assert f"The 10 largest of {len(jobs)}." in shown
    assert repr(jobs).startswith(f"<{len(jobs)} jobs, 2026-03-01 to 2026-04-01: ")


def renamed(jobs: Jobs, text: str) -> Jobs:
    """The same jobs with a text of somebody's choice in every place where one can be chosen."""
    columns = {
        column: pa.array([text] * len(jobs)) if column in ("name", "user", "account", "partition", "qos") else values
        for column, values in zip(jobs.table.column_names, jobs.table.columns, strict=True)
    }
    return Jobs(pa.table(columns), jobs.since, jobs.until, jobs.carbon, [])


@pytest.mark.parametrize("name", hostile.storable())
def test_no_name_is_obeyed_in_any_format(jobs: Jobs, name: str) -> None:
    made, plain = renamed(jobs, hostile.NAMES[name]), renamed(jobs, hostile.NAMES["plain"])
    assert hostile.structure(made._repr_html_()) == hostile.structure(plain._repr_html_())
    assert hostile.obeyed(made._repr_html_()) == []
    text = csv_bytes(made.table).decode()
    assert hostile.formulas(text) == []
    assert hostile.obeyed(text) == []
    log = xdmod_text(made.table)
    assert hostile.obeyed(log) == []
    assert {line.count("|") for line in log.splitlines()} == {len(XDMOD) - 1}


def test_csv_has_the_table_and_times_in_utc(jobs: Jobs) -> None:
    rows = list(csv.DictReader(io.StringIO(csv_bytes(jobs.table).decode(), newline="")))
    assert len(rows) == len(jobs)
    by_job = {row["job"]: row for row in rows}
    assert by_job["4711"]["start"] == "2026-03-01T10:04:00Z"
    assert by_job["5100"]["dram_uj"] == ""
    assert by_job["5003"]["account"].startswith("'=")


def test_xdmod_s_log_is_as_documented(jobs: Jobs) -> None:
    chosen = jobs.table.filter(pa.compute.is_in(jobs.table["job"], pa.array(["4711", "4800_1", "5000"])))
    text = xdmod_text(chosen)
    check("xdmod.log", text)
    assert len(text.splitlines()) == 2, "5000 has not ended"
    fields = dict(zip(XDMOD, text.splitlines()[0].split("|"), strict=True))
    assert fields["alloctres"] == f"energy={round(chosen.to_pylist()[0]['energy_uj'] / 1e6)}"
    assert fields["elapsed"] == "02:27:00"


def test_the_command_writes_what_was_asked_for(site: Path, tmp_path: Path) -> None:
    def export(*args: str) -> Said:
        return run("export", "--config", str(site), "--month", "2026-03", *args)

    out = tmp_path / "jobs.parquet"
    assert export("-o", str(out)).status == 0
    table = pq.read_table(out)
    assert len(list(csv.reader(io.StringIO(export().out, newline="")))) == 1 + table.num_rows > 10
    said = export("--since", "1d")
    assert (said.status, "--month is a period of its own" in said.err) == (2, True)


def test_the_engine_s_table_has_no_rows_where_nothing_lies(tmp_path: Path) -> None:
    assert job_table(Ledger(tmp_path, "alpha"), Selection()).num_rows == 0
