"""Carbon in the report: a thousand jobs against a calculation of twenty lines, and all that a site can configure."""

from __future__ import annotations

import csv
import json
import random
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from fractions import Fraction
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from hpccarbon.report.render import words
from tests.site import maker

FIRST = datetime(2026, 3, 2, 0, tzinfo=timezone.utc)
HOURS = 24
JOBS = 1000
PUE, NODE_FACTOR = "1.27", "1.08"
CONFIG = """
cluster = "alpha"
[paths]
shared_dir = "%c/shared"
[slurm]
accounting = "none"
[carbon]
zone = "campus"
pue = {pue}
node_factor = {node_factor}
{more}
"""
Report = Callable[..., str]


def intensities() -> dict[datetime, str]:
    """g/kWh of each hour as the utility's file says it: four hours are missing, so that the ladder is used."""
    chance = random.Random(11)
    hours = {FIRST + timedelta(hours=hour): f"{chance.uniform(20, 700):.4f}" for hour in range(HOURS)}
    return {hour: value for hour, value in hours.items() if hour.hour not in (5, 6, 13, 20)}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("carbon")
    chance = random.Random(7)
    for hour in range(HOURS):
        at = FIRST + timedelta(hours=hour)
        rows = [
            maker.job_row(
                at + timedelta(minutes=chance.randrange(60)),
                1 + (JOBS * (hour % 8) // 8 + number) % JOBS,
                cpu_uj=chance.randrange(10**12),
                dram_uj=chance.randrange(10**11) if number % 2 else None,
                user="alice",
                alloc_cores=4,
            )
            for number in range(JOBS // 4)
        ]
        rows = list({(row["job_id"], row["bucket"]): row for row in rows}.values())
        maker.write(folder / "shared", [*rows, *maker.meter_rows(rows)], hour=at)
    (folder / "hours.csv").write_text(
        "start,zone,intensity_gco2e_per_kwh,basis,method,kind\n"
        + "".join(
            f"{at:%Y-%m-%dT%H:%M:%SZ},campus,{value},lifecycle,average,actual\n" for at, value in intensities().items()
        )
    )
    write_config(folder, "plain")
    load(folder / "hours.csv", folder / "plain.toml")
    return folder


def load(hours: Path, config: Path) -> None:
    """Import a file of intensities."""
    argv = [sys.executable, "-m", "hpccarbon", "intensity", "import", str(hours), "--basis", "lifecycle"]
    subprocess.run([*argv, "--source", "utility", "--config", str(config)], check=True, capture_output=True)


def write_config(folder: Path, name: str, more: str = "") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(CONFIG.format(pue=PUE, node_factor=NODE_FACTOR, more=more))
    return path


@pytest.fixture
def report(site: Path) -> Report:
    def call(*args: str, config: str = "plain", status: int = 0) -> str:
        argv = [sys.executable, "-m", "hpccarbon", "report", *args, "--config", str(site / f"{config}.toml")]
        done = subprocess.run(argv, capture_output=True, text=True)
        assert done.returncode == status, done.stderr
        return done.stdout if status == 0 else done.stderr

    return call


def by_hand(site: Path) -> dict[int, Fraction]:
    """Grams of each job: the independent calculation. Missing hours lie between known ones: straight lines."""
    known = {at: Fraction(value) for at, value in intensities().items()}
    per_kwh = {}
    for number in range(HOURS):
        at = FIRST + timedelta(hours=number)
        before = max(hour for hour in known if hour <= at)
        after = min(hour for hour in known if hour >= at)
        part = Fraction((at - before) // timedelta(hours=1), max(1, (after - before) // timedelta(hours=1)))
        per_kwh[at] = Fraction(f"{float(known[before] + (known[after] - known[before]) * part):.4f}")
    grams: dict[int, Fraction] = {}
    for path in (site / "shared" / "shards").rglob("*.parquet"):
        for row in pq.read_table(path).to_pylist():
            if row["holder"] == "job":
                hour = row["bucket"].replace(minute=0)
                energy_uj = row["cpu_uj"] + (row["dram_uj"] or 0)
                kwh = Fraction(energy_uj, 3_600_000_000_000) * Fraction(NODE_FACTOR) * Fraction(PUE)
                grams[row["job_id"]] = grams.get(row["job_id"], Fraction(0)) + kwh * per_kwh[hour]
    return grams


def test_a_thousand_jobs_cost_what_twenty_lines_say(site: Path, report: Report) -> None:
    rows = csv.DictReader(
        report("--by", "job", "--since", "2026-03-01", "--until", "2026-03-04", "-f", "csv").splitlines()
    )
    told = {int(row["job"]): float(row["co2e_g"]) for row in rows if row["holder"] == "job"}
    wanted = by_hand(site)
    assert len(wanted) == JOBS
    assert told == pytest.approx({job: float(grams) for job, grams in wanted.items()}, rel=0, abs=6e-10)
    assert {job: words.grams(grams) for job, grams in told.items()} == {
        job: words.grams(float(grams)) for job, grams in wanted.items()
    }


def test_the_explanation_of_a_job_is_its_grams(site: Path, report: Report) -> None:
    wanted = by_hand(site)
    text = report("--job", "17", "--explain")
    total = re.search(r"total, electricity: (?:.*= )?([0-9.]+) g CO2e", " ".join(text.split()))
    assert total is not None
    lines = [Fraction(found) for found in re.findall(r"g/kWh = ([0-9.]+) g CO2e", " ".join(text.split()))]
    assert len(lines) > 1
    assert Fraction(total[1]) == sum(lines)
    assert abs(Fraction(total[1]) - wanted[17]) <= Fraction("0.00005") * len(lines)
    steps = json.loads(report("--job", "17", "--explain", "-f", "json"))["explanation"]["lines"]
    assert all(step["source"] for step in steps)


def test_ranges_hold_the_figure_and_grow_with_its_parts(report: Report) -> None:
    told = json.loads(report("--job", "17", "-f", "json"))
    figures, statement = told["total"], told["statement"]
    assert figures["low_uj"] < figures["energy_uj"] < figures["high_uj"]
    assert statement["low_g"] < statement["co2e_g"] < statement["high_g"]
    assert statement["co2e_g"] == pytest.approx(figures["co2e_g"])
    # the grams' range holds the energy's: nothing can make a product surer than one of its factors
    assert statement["high_g"] / statement["co2e_g"] > figures["high_uj"] / figures["energy_uj"]


def test_what_is_not_configured_is_not_said(report: Report) -> None:
    text = report("--job", "17")
    assert not re.search(r"^(Hardware|SCI|Market|Water) ", text, re.MULTILINE)


def test_what_a_site_configures_is_said(site: Path, report: Report) -> None:
    more = """
wue_l_per_kwh = 0.5
comparisons = false
[carbon.embodied]
node_kg = 1314.0
node_cores = 4
life_years = 5
source = "sheet"
[carbon.market]
contract_share = 1.0
contract_g_per_kwh = 10.0
source = "wind farm"
"""
    write_config(site, "rich", more)
    told = json.loads(report("--job", "17", "--per", "40 simulated years", "-f", "json", config="rich"))
    statement, kwh = told["statement"], told["total"]["energy_uj"] / 3.6e12
    held_h = told["total"]["core_hours"]
    assert statement["embodied_g"] == pytest.approx(1_314_000 * held_h / 4 / (5 * 8760), abs=1e-6)
    assert statement["sci_g"] == pytest.approx((statement["co2e_g"] + statement["embodied_g"]) / 40)
    assert statement["market_g"] == pytest.approx(kwh * float(NODE_FACTOR) * float(PUE) * 10)
    assert statement["water_l"] == pytest.approx(kwh * float(NODE_FACTOR) * 0.5)
    assert statement["comparison"] is None
    text = report("--job", "17", "--per", "40 simulated years", config="rich")
    for label in ("Hardware", "SCI", "Market", "Water"):
        assert re.search(f"^{label} ", text, re.MULTILINE), label
    assert "each of 40 simulated years" in " ".join(text.split())
    assert not re.search("^Like ", text, re.MULTILINE)
    month = json.loads(report("--by", "user", "--month", "2026-03", "-f", "json", config="rich"))["statement"]
    assert month["embodied_g"] > statement["embodied_g"]
    assert month["sci_g"] is None
    # A law like the energy's: what jobs held and what nobody held is the share of the nodes' life that March is.
    nodes = {path.name.split(".")[0] for path in (site / "shared" / "shards").rglob("*.parquet")}
    of_march_g = len(nodes) * 1_314_000 * 31 * 24 / (5 * 8760)
    assert month["embodied_g"] + month["embodied_unused_g"] == pytest.approx(of_march_g, rel=1e-12)
    assert "of hardware that no job held" in " ".join(
        report("--by", "user", "--month", "2026-03", config="rich").split()
    )
    one = json.loads(report("--by", "user", "--user", "alice", "--month", "2026-03", "-f", "json", config="rich"))
    assert one["statement"]["embodied_unused_g"] is None, "what nobody held is nobody's"


def test_a_pue_of_the_hour_goes_first(site: Path, report: Report) -> None:
    (site / "pue.csv").write_text(
        "start,pue\n"
        + "".join(f"{FIRST + timedelta(hours=hour):%Y-%m-%dT%H:%MZ},{1 + hour / 100}\n" for hour in range(8))
    )
    write_config(site, "hourly", f'pue_file = "{site}/pue.csv"')
    told = json.loads(report("--job", "17", "--explain", "-f", "json", config="hourly"))["explanation"]["lines"]
    steps = {line["time"][:13]: line["expression"] for line in told if "g/kWh" in line["expression"]}
    assert any("T0" in at for at in steps)
    for at, expression in steps.items():
        hour = int(at[11:13])
        assert f" × {1 + hour / 100:g} × " in expression if hour < 8 else f" × {PUE} × " in expression, (at, expression)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("when,pue\n", "must name the columns"),
        ("start,pue\n2026-03-02T00:00:00,1.2\n", "neither Z nor an offset"),
        ("start,pue\n2026-03-02T00:00:00Z,0.9\n", "a PUE of 0.9 is none"),
        ("start,pue\n2026-03-02T00:00:00Z,warm\n", "line 2: expected a time and a number"),
    ],
)
def test_a_pue_file_that_is_wrong_is_named(site: Path, report: Report, text: str, said: str) -> None:
    (site / "wrong.csv").write_text(text)
    write_config(site, "wrong", f'pue_file = "{site}/wrong.csv"')
    page = " ".join(report("--job", "17", config="wrong").split())
    assert said in page
    assert re.search(r"Energy [0-9]", page)  # the energy is known all the same


def test_other_times_and_zones(report: Report) -> None:
    advice = json.loads(report("--job", "17", "--other-times", "--elsewhere", "FR,PL", "-f", "json"))["advice"]
    assert [place["zone"] for place in advice["zones"]] == ["FR", "PL"]
    assert advice["times"]
    assert advice["times"] == sorted(advice["times"], key=lambda one: (one["co2e_g"], abs(one["shift_h"])))
    (here,) = (one for one in advice["times"] if one["shift_h"] == 0)
    assert here["co2e_g"] == pytest.approx(advice["co2e_g"])
    text = report("--job", "17", "--other-times", "--elsewhere", "FR,PL")
    assert "less" in text
    assert "elsewhere" in text


def test_an_older_report_is_made_again(site: Path, report: Report) -> None:
    before = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    old = json.loads(report("--job", "17", "-f", "json"))["total"]["co2e_g"]
    (site / "revised.csv").write_text(
        "start,zone,intensity_gco2e_per_kwh,basis,method,kind\n"
        + "".join(f"{at:%Y-%m-%dT%H:%M:%SZ},campus,1.0,lifecycle,average,actual\n" for at in intensities())
    )
    series = site / "shared" / "intensity"
    kept = {path: path.read_bytes() for path in series.rglob("*") if path.is_file()}
    try:
        load(site / "revised.csv", site / "plain.toml")
        new = json.loads(report("--job", "17", "-f", "json"))["total"]["co2e_g"]
        asof = json.loads(report("--job", "17", "--as-of", before, "-f", "json"))["total"]["co2e_g"]
    finally:
        for path in series.rglob("*"):
            if path.is_file() and path not in kept:
                path.unlink()
    assert new < old / 10
    assert asof == old


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--explain",), "name them with --job"),
        (("--job", "17", "--per", "0 samples"), "write a number"),
        (("--job", "17", "--per", "40"), "write a number"),
        (("--job", "17", "--as-of", "once"), "is no time"),
    ],
)
def test_wrong_use_is_named(report: Report, args: tuple[str, ...], said: str) -> None:
    assert said in " ".join(report(*args, status=2).split())
