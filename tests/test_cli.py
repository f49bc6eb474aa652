"""Commands as a user meets them: what they print, where, with which exit status. Outputs are golden files."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import click
import msgspec
import pyarrow.parquet as pq
import pytest

from hpccarbon.cli import COMMANDS, group, main
from hpccarbon.cli.common import parse_month, parse_time
from hpccarbon.report.job import JobReport
from hpccarbon.report.usage import UsageReport
from hpccarbon.slurm.accounting import FIELDS
from tests.report import fixed
from tests.report.golden import check
from tests.site import maker

CONFIG = """
cluster = "alpha"
[paths]
shared_dir = "{shared}"
[slurm]
accounting = "none"
[report]
timezone = "Europe/Berlin"
[carbon]
{carbon}
"""
CARBON = """
zone = "DE"
pue = 1.25
node_factor = 1.1
fixed_g_per_kwh = 400.0
fixed_source = "power plant of the site"
"""
MARCH = ("--month", "2026-03")
Run = Callable[..., "Said"]


class Said(NamedTuple):
    """What a command printed and how it ended."""

    out: str
    err: str
    status: int


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    fixed.build(folder / "shared")
    configs = {"hpccarbon": CARBON, "no_zone": "", "bad_zone": 'zone = "DEE"', "yearly": 'zone = "DE"'}
    for name, carbon in configs.items():
        (folder / f"{name}.toml").write_text(CONFIG.format(shared=folder / "shared", carbon=carbon))
    return folder


@pytest.fixture
def run(site: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in this process on the fixed site, at 80 columns unless told otherwise."""

    def call(*args: str, width: int = 80, config: str | None = "hpccarbon.toml") -> Said:
        monkeypatch.setenv("COLUMNS", str(width))
        given = ["--config", str(site / config)] if config else []
        with pytest.raises(SystemExit) as ended:
            main([*args, *given])
        sys.stdout.flush()
        out, err = (text.replace(str(site), "SITE") for text in capfd.readouterr())
        code = ended.value.code
        return Said(out, err, code if isinstance(code, int) else 0)

    return call


# ---- the door ----


def test_help(run: Run) -> None:
    said = run("--help", config=None)
    assert said.status == 0
    check("help.txt", said.out)


def test_a_mistyped_command_is_answered_with_the_nearest(run: Run) -> None:
    said = run("reprot", config=None)
    assert said == Said("", "error: no command 'reprot'; did you mean 'report'?\nsee: hpccarbon --help\n", 2)


def test_the_table_and_the_modules_agree() -> None:
    context = click.Context(group)
    for name in COMMANDS:
        assert isinstance(group.get_command(context, name), click.Command)


def test_a_missing_configuration_is_wrong_usage(run: Run) -> None:
    said = run("report", "--job", "1", config="missing.toml")
    assert said.status == 2
    assert said.err == "error: config SITE/missing.toml: no such file (see docs/install.md for an example)\n"


def test_an_unknown_zone_is_wrong_configuration(run: Run, site: Path) -> None:
    (site / "zone.toml").write_text('[report]\ntimezone = "Europe/Atlantis"\n')
    said = run("report", config="zone.toml")
    assert (said.status, "Europe/Atlantis" in said.err) == (2, True)


# ---- report --job ----

PAGES = {
    "job": ("4711",),
    "job_array": ("4800",),
    "job_array_task": ("4800_2",),
    "job_requeued": ("4900",),
    "job_running_gpu": ("5000",),
    "job_tiny": ("5001",),
    "job_without_record": ("5002",),
    "job_hostile": ("5003",),
    "job_modelled": ("5100",),
    "job_het": ("6000",),
    "job_het_component": ("6000+1",),
    "job_several": ("4711,5000", "4900"),
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page(run: Run, name: str) -> None:
    said = run("report", *(word for job in PAGES[name] for word in ("--job", job)))
    assert (said.status, said.err) == (0, "")
    assert max(map(len, said.out.splitlines())) <= 80
    check(f"{name}.txt", said.out)


@pytest.mark.parametrize("width", [40, 60, 200])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_any_width(run: Run, name: str, width: int) -> None:
    said = run("report", *(word for job in PAGES[name] for word in ("--job", job)), width=width)
    assert max(map(len, said.out.splitlines())) <= min(width, 120)
    if (name, width) == ("job", 200):
        check("job_wide.txt", said.out)


def test_jobs_without_energy_are_named_with_the_reason(run: Run) -> None:
    said = run("report", "--job", "4711,999,5300,5301")
    assert said.status == 1
    assert said.out.startswith("Job 4711")
    check("job_missing.err", said.err)


def test_nothing_found_prints_no_page(run: Run) -> None:
    said = run("report", "--job", "999")
    assert (said.out, said.status) == ("", 1)
    assert said.err.startswith("error: job 999: it has no energy rows")


def test_job_json(run: Run) -> None:
    said = run("report", "--job", "4900,999", "--format", "json")
    assert said.status == 1
    assert said.out.isascii()
    check("job.json", said.out)
    report = msgspec.json.decode(said.out, type=JobReport)
    assert report.missing[0].job == "999"
    assert report.total.energy_uj == sum(run.figures.energy_uj or 0 for run in report.jobs[0].runs)


def test_job_csv(run: Run) -> None:
    said = run("report", "--job", "4800,4900", "-f", "csv")
    check("job.csv", said.out)
    rows = list(csv.DictReader(io.StringIO(said.out)))
    assert [row["job"] for row in rows] == ["4800_1", "4800_2", "4800_3", "4900", "4900"]


@pytest.mark.parametrize("format_", ["text", "csv", "json"])
def test_a_hostile_name_is_inert_in_every_format(run: Run, format_: str) -> None:
    for args in (("--job", "5003"), ("--by", "job", *MARCH), ("--by", "account", *MARCH)):
        said = run("report", *args, "--format", format_)
        foreign = said.out.replace("\r\n", "\n")
        assert not [c for c in foreign if (ord(c) < 32 and c != "\n") or c in "\x1b\x7f\u202e\u200b\u2028"]
        if format_ == "csv":
            for row in csv.reader(io.StringIO(said.out)):
                assert not [cell for cell in row if cell.startswith(("=", "+", "@", "\t"))]


def test_another_clusters_job_is_not_looked_for_in_this_ones_accounting(run: Run, site: Path) -> None:
    (site / "shared" / "jobs" / "beta").mkdir()
    try:
        said = run("report", "--job", "1", "--cluster", "beta")
    finally:
        (site / "shared" / "jobs" / "beta").rmdir()
    assert "the accounting to be had here is that of cluster alpha" in said.err


def test_a_long_job_is_drawn_by_the_hour(run: Run, site: Path) -> None:
    maker.site(site / "long", hours=24, nodes=1, jobs_per_node=1)
    (site / "long.toml").write_text(CONFIG.format(shared=site / "long", carbon=""))
    said = run("report", "--job", "1000", "-f", "json", config="long.toml")
    report = msgspec.json.decode(said.out, type=JobReport)
    assert (report.power_step_s, len(report.power)) == (3600, 24)
    total_uj = sum(point.power_w for point in report.power) * 3600 * 1e6
    assert total_uj == pytest.approx(report.total.energy_uj)


SACCT = """#!/bin/sh
for word; do case $word in --delimiter=*) d=${{word#--delimiter=}};; esac; done
{row}
"""
"""Prints one row as sacct does, each field followed by the delimiter that was asked for."""


@pytest.fixture
def sacct(site: Path, tmp_path: Path) -> Callable[[dict[str, str] | None], str]:
    """Puts a sacct in place that knows one job, or fails; returns the configuration that asks it."""

    def make(row: dict[str, str] | None) -> str:
        script = tmp_path / "sacct"
        fields = [(row or {}).get(name, "") for name in FIELDS]
        printed = "".join(f"printf '%s' \"{field}$d\"\n" for field in fields) + "echo"
        script.write_text(SACCT.format(row=printed if row else "echo 'sacct: error: slurmdbd is away' >&2; exit 1"))
        script.chmod(0o755)
        text = CONFIG.format(shared=site / "shared", carbon=CARBON)
        text = text.replace('accounting = "none"', f'accounting = "sacct"\nbin_dir = "{tmp_path}"')
        (site / "sacct.toml").write_text(text)
        return "sacct.toml"

    return make


def test_a_job_without_a_record_is_looked_up_in_accounting(run: Run, sacct: Callable[..., str]) -> None:
    start = int(fixed.at("12:00").timestamp())
    row = {"JobIDRaw": "5002", "JobID": "5002", "User": "dave", "State": "COMPLETED", "Start": str(start)}
    row |= {"End": str(start + 600), "ElapsedRaw": "600", "AllocNodes": "1", "AllocCPUS": "4", "JobName": "fresh"}
    said = run("report", "--job", "5002", config=sacct(row))
    assert (said.status, said.err) == (0, "")
    assert said.out.startswith("Job 5002  fresh")
    assert "\ndave\n" in said.out


def test_accounting_that_fails_takes_names_away_and_not_the_energy(run: Run, sacct: Callable[..., str]) -> None:
    config = sacct(None)
    said = run("report", "--job", "5002", config=config)
    assert said.status == 0
    assert "Energy   3.27 Wh" in said.out
    assert said.err.startswith("warning: names and states may be missing or old: sacct: error: slurmdbd is away")
    said = run("report", "--job", "999", config=config)
    assert said.status == 1
    assert "error: job 999: it has no energy rows, and whether Slurm knows it could not be asked: sacct" in said.err


def test_a_job_that_neither_ledger_nor_slurm_knows(run: Run, sacct: Callable[..., str]) -> None:
    said = run("report", "--job", "999", config=sacct({"JobIDRaw": "1", "JobID": "1", "Start": "1"}))
    assert "error: job 999: neither the ledger nor Slurm's accounting of cluster alpha knows such a job" in said.err


# ---- carbon ----


def test_without_a_zone_the_way_to_set_one_is_said(run: Run) -> None:
    said = run("report", "--job", "4900", config="no_zone.toml")
    assert (said.status, said.err) == (0, "")
    check("job_no_zone.txt", said.out)


def test_an_unknown_zone_takes_the_grams_and_not_the_energy(run: Run) -> None:
    said = run("report", "--job", "4900", config="bad_zone.toml")
    assert said.status == 0
    assert "Energy   111 Wh" in said.out
    assert "not known: unknown zone `DEE`; nearest: DE" in said.out
    assert "CO2e" not in said.out


def test_an_unknown_pue_is_said_to_be_unknown(run: Run) -> None:
    said = run("report", "--job", "4900", config="yearly.toml")
    assert "PUE unknown, taken as 1.0" in " ".join(said.out.split())
    assert "Germany (DE), life cycle, the year's mean" in " ".join(said.out.split())
    assert said.out.count("Data ") == 1, "attributions stand where the grams do"


def test_grams_are_energy_times_everything_that_is_named(run: Run) -> None:
    report = msgspec.json.decode(run("report", "--job", "4900", "-f", "json").out, type=JobReport)
    kwh = (report.total.energy_uj or 0) / 3.6e12
    assert report.total.co2e_g == pytest.approx(kwh * 1.25 * 1.1 * 400)
    assert report.carbon[0].method.intensity_g_per_kwh == pytest.approx(400)
    assert report.jobs[0].figures.co2e_g == pytest.approx(sum(one.figures.co2e_g or 0 for one in report.jobs[0].runs))


def test_hours_that_were_measured_go_before_the_years_mean(run: Run, site: Path, tmp_path: Path) -> None:
    """A series with the first two of the job's three hours: the third falls back, and the page says how much did."""
    text = CONFIG.format(shared=site / "shared", carbon='zone = "DE"\npue = 1.25')
    (site / "series.toml").write_text(text)
    series = tmp_path / "plant.csv"
    rows = [f"2026-03-01T{hour}:00:00Z,{grams}" for hour, grams in ((10, 300), (11, 350))]
    series.write_text("\n".join(["start,intensity_gco2e_per_kwh", *rows]) + "\n")
    known = ("--zone", "DE", "--basis", "lifecycle", "--source", "our own plant")
    try:
        assert run("intensity", "import", str(series), *known, config="series.toml").status == 0
        said = run("report", "--job", "4711", config="series.toml")
    finally:
        shutil.rmtree(site / "shared" / "intensity", ignore_errors=True)
    page = " ".join(said.out.split())
    assert "life cycle, 79 % hourly measured + 21 % the year's mean" in page
    assert "Data our own plant; " in page


PLACES = """
zone = "DE"
pue = 1.2
fixed_g_per_kwh = 400.0
fixed_source = "power plant of the site"
[carbon.places.north]
nodes = "n2"
pue = 1.05
[carbon.places.cellar]
partitions = ["gp*"]
pue = 1.5
"""


def test_nodes_that_stand_elsewhere_have_their_own_factors(run: Run, site: Path) -> None:
    (site / "places.toml").write_text(CONFIG.format(shared=site / "shared", carbon=PLACES))
    said = run("report", "--job", "4711", config="places.toml")
    check("job_places.txt", said.out)
    report = msgspec.json.decode(run("report", "--job", "4711", "-f", "json", config="places.toml").out, type=JobReport)
    grams = {part.node: (part.figures.energy_uj or 0) / 3.6e12 * 400 for part in report.jobs[0].nodes}
    assert report.total.co2e_g == pytest.approx(grams["n1"] * 1.2 + grams["n2"] * 1.05)
    table = run("report", "--by", "partition", *MARCH, "-f", "json", config="places.toml")
    usage = msgspec.json.decode(table.out, type=UsageReport)
    by_key = {tuple(row.key): row.figures for row in usage.rows}
    gpu = by_key["gpu",]
    assert gpu.co2e_g == pytest.approx((gpu.energy_uj or 0) / 3.6e12 * 400 * 1.5)
    assert usage.total.figures.co2e_g == pytest.approx(sum(row.figures.co2e_g or 0 for row in usage.rows))
    assert {one.place for one in usage.carbon} == {"", "north", "cellar"}


RICH = """
zone = "DE"
pue = 1.2
fixed_g_per_kwh = 400.0
fixed_source = "power plant of the site"
wue_l_per_kwh = 0.5
[carbon.embodied]
node_item = "server_2_socket_rack"
node_cores = 64
[carbon.market]
contract_share = 0.6
contract_g_per_kwh = 0.0
residual_g_per_kwh = 498.0
source = "PPA 2026-114"
"""


@pytest.fixture
def rich(site: Path) -> str:
    """A configuration with everything that a site can tell carbon."""
    (site / "rich.toml").write_text(CONFIG.format(shared=site / "shared", carbon=RICH))
    return "rich.toml"


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("job_explained.txt", ("--job", "4711", "--explain")),
        ("job_explained.json", ("--job", "4711", "--explain", "-f", "json")),
        ("job_all_carbon.txt", ("--job", "4711", "--per", "40 epochs", "--elsewhere", "FR,PL")),
    ],
)
def test_all_that_carbon_can_say_of_a_job(run: Run, rich: str, name: str, args: tuple[str, ...]) -> None:
    said = run("report", *args, config=rich)
    assert (said.status, said.err) == (0, "")
    check(name, said.out)


def test_all_that_carbon_can_say_of_a_month(run: Run, rich: str) -> None:
    said = run("report", *MARCH, "--elsewhere", "FR,PL", config=rich)
    assert (said.status, said.err) == (0, "")
    check("usage_all_carbon.txt", said.out)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_an_explanation_fits_any_width(run: Run, rich: str, width: int) -> None:
    said = run("report", "--job", "4711", "--explain", config=rich, width=width)
    assert max(map(len, said.out.splitlines())) <= width


# ---- report --job --steps ----


@pytest.mark.parametrize("ending", ["txt", "json", "csv"])
def test_the_steps_of_a_job(run: Run, ending: str) -> None:
    said = run("report", "--job", "4711", "--steps", "-f", "text" if ending == "txt" else ending)
    assert (said.status, said.err) == (0, "")
    check(f"job_steps.{ending}", said.out)


def test_the_steps_of_an_array_stand_below_its_tasks(run: Run) -> None:
    said = run("report", "--job", "4800", "--steps")
    assert (said.status, said.err) == (0, "")
    check("job_steps_array.txt", said.out)


def test_steps_that_nobody_kept_are_not_invented(run: Run) -> None:
    said = run("report", "--job", "5001", "--steps")
    assert said.status == 0
    assert "Steps    none were kept (daemon.steps is off on these nodes)" in said.out
    found = json.loads(run("report", "--job", "5001", "--steps", "-f", "json").out)["jobs"][0]
    assert [step["step"] for step in found["steps"]] == [None]
    assert found["steps"][0]["energy_uj"] == found["figures"]["energy_uj"]


def test_steps_add_up_to_their_job(run: Run) -> None:
    found = json.loads(run("report", "--job", "4711", "--steps", "-f", "json").out)["jobs"][0]
    assert sum(step["energy_uj"] for step in found["steps"]) == found["figures"]["energy_uj"]
    assert sum(step["co2e_g"] for step in found["steps"]) == pytest.approx(found["figures"]["co2e_g"])
    assert sum(step["cpu_time_us"] for step in found["steps"]) == round(found["figures"]["cpu_hours"] * 3.6e9)


def test_the_name_of_a_step_is_obeyed_by_nobody(run: Run) -> None:
    said = run("report", "--job", "5003", "--steps")
    assert said.status == 0
    assert not set(said.out) & {"\x1b", "\x07", "\r"}


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (("--steps",), "--steps shows the steps of jobs: name them with --job"),
        (("--job", "4711", "--steps", "--explain"), "--explain shows the arithmetic of whole jobs; leave out --steps"),
    ],
)
def test_steps_are_of_jobs(run: Run, args: tuple[str, ...], why: str) -> None:
    said = run("report", *args)
    assert (said.status, why in said.err) == (2, True)


# ---- report --by ----

TABLES = {
    "usage_user": (),
    "usage_account_user": ("--by", "account,user"),
    "usage_partition": ("--by", "partition"),
    "usage_job": ("--by", "job", "--top", "4"),
    "usage_node_holder": ("--by", "node,holder"),
    "usage_hour": ("--by", "hour"),
    "usage_month": ("--by", "month"),
    "usage_one_user": ("--user", "bob"),
    "usage_one_node": ("--node", "n3", "--by", "user"),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table(run: Run, name: str) -> None:
    said = run("report", *TABLES[name], *MARCH)
    assert (said.status, said.err) == (0, "")
    assert max(map(len, said.out.splitlines())) <= 80
    check(f"{name}.txt", said.out)


def test_a_part_of_an_hour(run: Run) -> None:
    said = run("report", "--since", "2026-03-01T11:30", "--until", "2026-03-01T12:15+01:00")
    check("usage_part.txt", said.out)


def test_an_empty_period_says_so(run: Run) -> None:
    said = run("report", "--month", "2025-01")
    assert (said.status, "No energy was metered" in said.out) == (0, True)


def test_usage_json(run: Run) -> None:
    said = run("report", "--by", "user", *MARCH, "--format", "json")
    check("usage.json", said.out)
    report = msgspec.json.decode(said.out, type=UsageReport)
    assert report.total.figures.energy_uj == sum(row.figures.energy_uj or 0 for row in report.rows)


def test_usage_csv(run: Run) -> None:
    check("usage.csv", run("report", "--by", "account,month", *MARCH, "--format", "csv").out)


def test_parquet_and_csv_say_the_same(run: Run, tmp_path: Path) -> None:
    for args in (("--job", "4800,4900,5003"), ("--by", "job", *MARCH)):
        said = run("report", *args, "--format", "csv")
        assert run("report", *args, "-o", str(tmp_path / "report.parquet")).out == ""
        table = pq.read_table(tmp_path / "report.parquet")
        rows = list(csv.DictReader(io.StringIO(said.out)))
        assert table.column_names == list(rows[0])
        energies = ["" if value is None else str(value) for value in table["energy_uj"].to_pylist()]
        assert energies == [row["energy_uj"] for row in rows]
        assert table.schema.metadata[b"hpccarbon.version"] == b"1"


def test_the_files_ending_chooses_the_format_and_a_file_appears_whole(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "usage.json"
    target.write_text("old")
    said = run("report", *MARCH, "-o", str(target))
    assert (said.out, said.status) == ("", 0)
    assert json.loads(target.read_text())["kind"] == "usage"
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_that_cannot_be_written_is_named(run: Run, tmp_path: Path) -> None:
    said = run("report", *MARCH, "-o", str(tmp_path / "no" / "usage.csv"))
    assert said.status == 1
    assert "usage.csv: No such file or directory" in said.err


def test_a_shard_set_aside_is_named_on_stderr(run: Run, site: Path) -> None:
    bad = site / "shared/shards/alpha/date=2026-03-01/hour=10/n9.deadbeef.parquet"
    bad.write_bytes(b"PAR1 and then nothing")
    try:
        said = run("report", *MARCH, "--format", "json")
    finally:
        bad.unlink()
    assert said.status == 0
    assert "set aside, in no figure: SITE/shared/shards/alpha/date=2026-03-01/hour=10/n9.deadbeef.parquet" in said.err
    assert json.loads(said.out)["set_aside"][0]["path"].endswith("n9.deadbeef.parquet")


def test_a_cluster_or_directory_that_is_not_there_is_no_zero(run: Run, site: Path) -> None:
    said = run("report", "--cluster", "beta")
    assert (said.out, said.status) == ("", 1)
    assert said.err == "error: SITE/shared holds nothing of cluster 'beta'; there are: alpha\n"
    (site / "away.toml").write_text('[paths]\nshared_dir = "/nowhere/at/all"\n')
    assert "error: /nowhere/at/all: no such directory" in run("report", config="away.toml").err


# ---- usage errors ----


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--job", "abc"), "'abc' is no job id"),
        (("--job", "1", "--user", "bob"), "does not go together with --user"),
        (("--by", "colour"), "cannot group by 'colour'"),
        (("--since", "soon"), "'soon' is no time"),
        (("--month", "2026-13"), "'2026-13' is no month"),
        (("--month", "last", "--since", "1d"), "--month is a period of its own"),
        (("--since", "2026-03-02", "--until", "2026-03-01"), "before it begins"),
    ],
)
def test_wrong_usage_is_answered_with_what_is_right(run: Run, args: tuple[str, ...], says: str) -> None:
    said = run("report", *args)
    assert (said.out, said.status) == ("", 2)
    assert says in said.err
    assert said.err.endswith("see: hpccarbon report --help\n")


# ---- the terminal ----


def _process(site: Path, *args: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "hpccarbon", *args, "--config", str(site / "hpccarbon.toml")]
    return subprocess.run(command, capture_output=True, env={**os.environ, **environment}, check=False)


def test_a_terminal_without_unicode_gets_plain_signs(site: Path) -> None:
    done = _process(site, "report", "--job", "5003", PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C")
    assert done.returncode == 0
    assert done.stdout.isascii()
    assert b"####" in done.stdout


def test_a_reader_that_leaves_is_no_failure(site: Path) -> None:
    command = f"{sys.executable} -m hpccarbon report --job 4711 --config {site}/hpccarbon.toml | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("Job 4711")
    assert done.stderr == ""


def test_a_full_disk_is_named(site: Path) -> None:
    command = [sys.executable, "-m", "hpccarbon", "report", "--job", "4711", "--config", str(site / "hpccarbon.toml")]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "error: cannot write the output: No space left on device\n")


def test_a_closed_output_is_no_traceback(site: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m hpccarbon report --job 4711 --config {site}/hpccarbon.toml >&-"],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_colour_is_for_terminals_that_want_it(site: Path, no_color: str, coloured: bool) -> None:
    assert b"\x1b" not in _process(site, "report", "--job", "4711").stdout
    primary, secondary = pty.openpty()
    environment = {**os.environ, "NO_COLOR": no_color, "TERM": "xterm"}
    command = [sys.executable, "-m", "hpccarbon", "report", "--job", "4711", "--config", str(site / "hpccarbon.toml")]
    with subprocess.Popen(command, stdout=secondary, env=environment) as child:
        os.close(secondary)
        seen = b""
        try:
            while chunk := os.read(primary, 65536):
                seen += chunk
        except OSError:  # Linux says EIO when the other side is closed
            pass
        assert child.wait() == 0
    os.close(primary)
    assert (b"\x1b[1m" in seen) is coloured
    assert b"Job 4711" in seen.replace(b"\x1b[1m", b"")


# ---- times ----

NOW = datetime(2026, 3, 30, 12, 0, tzinfo=timezone.utc)  # the day after the clocks went forward
BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-03-01", "2026-02-28T23:00"),
        ("2026-03-01T14:30", "2026-03-01T13:30"),
        ("2026-03-01 14:30:15Z", "2026-03-01T14:30:15"),
        ("2026-03-01T14:30-05:00", "2026-03-01T19:30"),
        ("today", "2026-03-29T22:00"),
        ("yesterday", "2026-03-28T23:00"),
        ("2d", "2026-03-27T23:00"),
        ("1w", "2026-03-22T23:00"),
        ("36h", "2026-03-29T00:00"),
        ("90min", "2026-03-30T10:30"),
        ("now", "2026-03-30T12:00"),
    ],
)
def test_times_are_the_readers(text: str, moment: str) -> None:
    assert parse_time(text, BERLIN, NOW) == datetime.fromisoformat(moment).replace(tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("text", "hours"), [("2026-03", 31 * 24 - 1), ("this", 31 * 24 - 1), ("last", 28 * 24), ("2025-12", 31 * 24)]
)
def test_a_month_has_as_many_hours_as_it_has(text: str, hours: int) -> None:
    first, following = parse_month(text, BERLIN, NOW)
    seconds = following.astimezone(timezone.utc) - first.astimezone(timezone.utc)
    assert seconds.total_seconds() == hours * 3600


def test_an_options_words_can_be_repeated_or_joined() -> None:
    from hpccarbon.cli.common import listed

    given: Any = ("a,b", "b", " c ")
    assert listed(given) == ("a", "b", "c")
    assert listed(()) is None
