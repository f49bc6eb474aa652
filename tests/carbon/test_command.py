"""`hpccarbon intensity` as a person calls it; services stand on real sockets."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from hpccarbon.cli.intensity import command
from tests.carbon.server import Answer, Asked, Server

CSV = (
    "start,zone,intensity_gco2e_per_kwh,basis,method,kind\n"
    "2026-03-01T12:00:00Z,campus,211.4,direct,average,actual\n"
    "2026-03-01T13:00:00Z,campus,,direct,average,actual\n"
    "2026-03-01T14:00:00Z,campus,198.0,direct,average,actual\n"
)


class Site:
    """A site's configuration and shared directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.toml = path / "hpccarbon.toml"
        self.write()

    def write(self, carbon: str = 'zone = "DE"', more: str = "") -> None:
        self.toml.write_text(f'[paths]\nshared_dir = "{self.path}/shared"\n[carbon]\n{carbon}\n{more}')

    def run(self, *args: str) -> Result:
        from hpccarbon.errors import HpcCarbonError

        done = CliRunner().invoke(command, [*args, *([] if args[0] == "providers" else ["--config", str(self.toml)])])
        if done.exception and not isinstance(done.exception, (SystemExit, HpcCarbonError)):
            raise done.exception
        return done


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_zones_are_listed_and_searched(site: Site) -> None:
    assert "Germany" in site.run("zones").stdout
    rows = json.loads(site.run("zones", "--search", "tokyo", "-f", "json").stdout)
    assert [row["zone"] for row in rows] == ["JP-TK"]
    assert "no zone holds 'germny'; nearest: DE" in str(site.run("zones", "-s", "germny").exception)


def test_show_says_value_rung_and_source(site: Site) -> None:
    done = site.run("show", "FR", "--since", "2024-03-01", "--until", "2024-03-01T03:00", "-f", "json")
    rows = json.loads(done.stdout)
    assert [row["hour"] for row in rows] == [f"2024-03-01T0{hour}:00:00Z" for hour in range(3)]
    assert rows[0]["rung"] == "year" and rows[0]["year"] == 2024 and 0 < rows[0]["g_per_kwh"] < 100
    assert "CC BY 4.0" in done.stderr
    assert "nearest: DE" in str(site.run("show", "DEE").exception)
    site.write("")
    assert "[carbon]" in str(site.run("show").exception)


def test_a_file_is_imported_and_shown_with_its_holes(site: Site) -> None:
    (site.path / "meter.csv").write_text(CSV)
    done = site.run("import", str(site.path / "meter.csv"), "--basis", "direct", "--source", "our own plant")
    assert done.exit_code == 0 and "campus: 2 new" in done.stderr
    shown = site.run(
        "show",
        "campus",
        "--basis",
        "direct",
        "--since",
        "2026-03-01T12:00",
        "--until",
        "2026-03-01T16:00",
        "-f",
        "json",
    )
    rows = json.loads(shown.stdout)
    assert [(row["rung"], row["g_per_kwh"]) for row in rows] == [
        ("measured", 211.4), ("interpolated", 204.7), ("measured", 198.0), (None, None),
    ]  # fmt: skip
    assert "no direct intensity" in shown.stderr
    assert "campus" in site.run("zones", "-s", "camp").stdout


def test_an_import_can_be_undone_in_time(site: Site) -> None:
    file = site.path / "meter.csv"
    file.write_text(CSV)
    site.run("import", str(file), "--basis", "direct", "--source", "plant")
    file.write_text(CSV.replace("211.4", "220"))
    assert "0 new, 1 changed, 1 known" in site.run("import", str(file), "--basis", "direct", "--source", "plant").stderr
    show = ("show", "campus", "--basis", "direct", "--since", "2026-03-01T12:00", "--until", "2026-03-01T13:00")
    assert "220.0" in site.run(*show).stdout
    assert "220.0" not in site.run(*show, "--as-of", "2026-03-05").stdout


def test_parquet_is_imported_as_csv_is(site: Site) -> None:
    start = [datetime(2026, 3, 1, hour, tzinfo=timezone.utc) for hour in range(3)]
    table = pa.table({"start": start, "intensity_gco2e_per_kwh": [100.0, None, 120.0]})
    pq.write_table(table, site.path / "x.parquet")
    args = ("import", str(site.path / "x.parquet"), "--basis", "lifecycle", "--source", "s")
    assert "give one with --zone" in str(site.run(*args).exception)
    assert "lab: 2 new" in site.run(*args, "--zone", "lab").stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no column start"),
        ("start,zone,intensity_gco2e_per_kwh\n2026-03-01T12:00,x,1\n", "row 2: start"),
        ("start,zone,intensity_gco2e_per_kwh\n2026-03-01T12:00Z,x,-1\n", "row 2: intensity"),
        ("start,zone,intensity_gco2e_per_kwh\n2026-03-01T12:00Z,x,\n", "no row has a value"),
        ("start,zone,intensity_gco2e_per_kwh\n2026-03-01T12:00Z,../../etc,1\n", "cannot name a directory"),
        ("start,zone,intensity_gco2e_per_kwh,basis\n2026-03-01T12:00Z,x,1,lifecycle\n", "row 2: basis"),
    ],
)
def test_a_wrong_file_is_named_with_its_row_and_nothing_is_kept(site: Site, text: str, words: str) -> None:
    (site.path / "x.csv").write_text(text)
    done = site.run("import", str(site.path / "x.csv"), "--basis", "direct", "--source", "s")
    assert done.exit_code == 1 and words in str(done.exception)
    assert list((site.path / "shared").rglob("*.parquet")) == []


def charts(request: Asked) -> Answer:
    now = int(datetime.now(timezone.utc).timestamp()) // 3600 * 3600
    stamps = [now + 900 * at for at in range(-96, 96)]
    if request.query["country"] == "se":
        return Answer(b'{"detail": "no content available"}', 404)
    reply = {
        "unix_seconds": stamps,
        "co2eq": [350.0 if at < now else None for at in stamps],
        "co2eq_forecast": [None if at < now else 300.0 for at in stamps],
    }
    return Answer(json.dumps(reply).encode())


def hours_ago(count: int) -> tuple[str, ...]:
    """Options for the last whole hours."""
    end = datetime.now(timezone.utc).replace(minute=0, second=0, microsecond=0)
    return "--since", (end - timedelta(hours=count)).isoformat(), "--until", end.isoformat()


def test_fetch_keeps_what_is_new_and_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    with Server(charts).running() as server:
        site.write(
            'zone = "DE"\nprovider = "energy_charts"', f'[carbon.providers.energy_charts]\nbase_url = "{server.url}"\n'
        )
        first = site.run("fetch", *hours_ago(12))
        again = site.run("fetch", *hours_ago(12))
        ahead = site.run("fetch", "--forecast")
    assert first.exit_code == 0 and "DE: 12 new, 0 changed, 0 known hours from Energy-Charts" in first.stderr
    assert "DE: 0 new, 0 changed, 12 known" in again.stderr
    assert "DE: 24 new" in ahead.stderr or "DE: 23 new" in ahead.stderr  # the hour that has begun
    later = (datetime.now(timezone.utc) + timedelta(hours=4)).isoformat()
    rows = json.loads(site.run("show", "--since", "3h", "--until", later, "-f", "json").stdout)
    assert (rows[0]["rung"], rows[0]["g_per_kwh"]) == ("measured", 350)
    assert (rows[-1]["rung"], rows[-1]["g_per_kwh"]) == ("forecast", 300)


def test_fetch_goes_on_with_the_other_zones_and_fails_at_the_end(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr("hpccarbon.carbon.providers.energy_charts.DISTANCE_S", 0.0)
    with Server(charts).running() as server:
        places = '[carbon.places.far]\nnodes = "n1"\nzone = "SE"\n[carbon.places.near]\nnodes = "n2"\nzone = "DK"\n'
        site.write(
            'zone = "DE"\nprovider = "energy_charts"',
            f'{places}[carbon.providers.energy_charts]\nbase_url = "{server.url}"\n',
        )
        done = site.run("fetch", *hours_ago(5))
    assert done.exit_code == 1
    assert (
        "DE: 5 new" in done.stderr
        and "error: SE: energy_charts has nothing" in done.stderr
        and "DK: 5 new" in done.stderr
    )


def test_a_long_fetch_that_breaks_off_keeps_what_it_had(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr("hpccarbon.carbon.providers.energy_charts.DISTANCE_S", 0.0)

    def answer(request: Asked) -> Answer:
        first = int(datetime.fromisoformat(request.query["start"] + "T00:00:00+00:00").timestamp())
        if request.number:
            return Answer(b"{}", 400)
        stamps = [first + 3600 * at for at in range(92 * 24)]
        reply = {"unix_seconds": stamps, "co2eq": [300.0] * len(stamps), "co2eq_forecast": [None] * len(stamps)}
        return Answer(json.dumps(reply).encode())

    with Server(answer).running() as server:
        site.write('zone = "DE"', f'[carbon.providers.energy_charts]\nbase_url = "{server.url}"\n')
        done = site.run("fetch", "-p", "energy_charts", "--since", "2025-01-01", "--until", "2025-12-31")
    assert done.exit_code == 1 and "answers 400" in done.stderr
    assert "DE: 2160 new" in done.stderr and "go on with --since 2025-04-01T00:00:00Z" in done.stderr


def test_fetch_says_what_is_missing(site: Site) -> None:
    assert "no service is chosen" in str(site.run("fetch").exception)
    assert "did you mean `entsoe`" in str(site.run("fetch", "-p", "entso").exception)
    assert "needs a key" in str(site.run("fetch", "-p", "entsoe").exception)
    assert "unknown zone `DEE`" in str(site.run("fetch", "-p", "energy_charts", "DEE").exception)
    assert "before it begins" in site.run("fetch", "-p", "energy_charts", "--since", "1h", "--until", "2h").stderr


def test_a_marginal_series_is_kept_apart(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime.now(timezone.utc).replace(minute=0, second=0, microsecond=0) - timedelta(hours=3)
    rows = [{"point_time": (now + timedelta(minutes=5 * at)).isoformat(), "value": 900.0} for at in range(24)]
    reply = {"data": rows, "meta": {"region": "CAISO_NORTH", "units": "lbs_co2_per_mwh", "signal_type": "co2_moer"}}

    def answer(request: Asked) -> Answer:
        return Answer(b'{"token": "t"}' if request.path == "/login" else json.dumps(reply).encode())

    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("HPCCARBON_WATTTIME_KEY", "secret")
    with Server(answer).running() as server:
        more = (
            f'[carbon.providers.watttime]\nbase_url = "{server.url}"\nuser = "u"\n'
            '[carbon.providers.watttime.zones]\nUS-CA = "CAISO_NORTH"\n'
        )
        site.write('zone = "US-CA"', more)
        done = site.run("fetch", "-p", "watttime", "--since", "6h")
    assert done.exit_code == 0 and "US-CA: 2 new" in done.stderr and "marginal" in done.stderr
    rows = json.loads(site.run("show", "--basis", "direct", "--since", "6h", "-f", "json").stdout)
    assert {row["rung"] for row in rows} == {"year"}


def test_providers_are_listed(site: Site) -> None:
    assert "rte_eco2mix" in site.run("providers").stdout
    assert json.loads(site.run("providers", "-f", "json").stdout)[0]["provider"] == "electricity_maps"


def test_best_names_the_cleanest_start_and_now(site: Site) -> None:
    assert "fetch --forecast" in site.run("best").stderr and site.run("best").exit_code == 1
    first = datetime.now(timezone.utc).replace(minute=0, second=0, microsecond=0) - timedelta(hours=30)
    lines = [f"{(first + timedelta(hours=at)).isoformat()},DE,{100 if at == 40 else 300}" for at in range(60)]
    (site.path / "x.csv").write_text("start,zone,intensity_gco2e_per_kwh\n" + "\n".join(lines) + "\n")
    site.run("import", str(site.path / "x.csv"), "--basis", "lifecycle", "--source", "s")
    done = site.run("best", "--hours", "1", "--top", "1", "-f", "json")
    rows = json.loads(done.stdout)
    assert done.exit_code == 0 and [row["saved_percent"] for row in rows] == [66.7, 0.0]
    assert "average" in done.stderr
