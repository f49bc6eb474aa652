"""Names, accounts and partitions as somebody who means harm would choose them, through all that prints them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from hpccarbon.cli import group
from hpccarbon.site import jobs
from hpccarbon.site.engine import connect
from hpccarbon.slurm.record import JobRecord
from tests import hostile
from tests.site import maker

HOUR = maker.HOUR
MARCH = ("--since", "2026-03-01", "--until", "2026-03-02")
CHOSEN = {what: name for what, name in hostile.storable().items() if name and len(name.encode()) < 4096}


def build(place: Path, names: Mapping[int, str]) -> Path:
    """A site with a job for each name, which is the name of the job, its user, account and partition; the config."""
    shared = place / "shared"
    rows, records = [], []
    for job_id, name in names.items():
        shares = [
            maker.job_row(
                HOUR + timedelta(minutes=minute),
                job_id,
                uid=job_id,
                user=name,
                account=name,
                partition=name,
                cpu_uj=10**9 + job_id,
                alloc_cores=1,
            )
            for minute in range(3)
        ]
        rows += shares
        records.append(
            JobRecord(
                job_id=job_id,
                name=name,
                user=name,
                account=name,
                partition=name,
                qos=name,
                state="COMPLETED",
                exit_code="0:0",
                submit=HOUR,
                start=HOUR,
                end=HOUR + timedelta(minutes=3),
                elapsed_s=180,
                alloc_nodes=1,
                alloc_cores=1,
                nodelist="n1",
            )
        )
    maker.write(shared, rows + maker.meter_rows(rows), node="n1")
    (shared / f"shards/alpha/date=2026-03-01/hour=10/{'=cmd'}\x1b[31m.b.parquet").write_bytes(b"PAR1")
    with closing(connect(1)) as con:
        jobs.merge(con, shared, "alpha", records)
    config = place / "hpccarbon.toml"
    config.write_text(
        f'cluster = "alpha"\n[paths]\nshared_dir = "{shared}"\n[slurm]\naccounting = "none"\n'
        '[carbon]\nzone = "DE"\npue = 1.2\n'
    )
    return config


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("hostile"), dict(enumerate(CHOSEN.values(), 100)))


def said(config: Path, *words: str) -> str:
    """What a command prints on stdout; its stderr is held to the same."""
    result = CliRunner().invoke(group, [*words, "--config", str(config)])
    assert result.exit_code == 0, (result.stderr, result.exception)
    assert hostile.obeyed(result.stderr) == []
    return result.stdout


REPORTS = (("--by", "user"), ("--by", "account,partition"), ("--by", "job", "--top", "0"))


@pytest.mark.parametrize("by", REPORTS, ids=str)
def test_reports_are_inert_in_every_format(config: Path, by: tuple[str, ...]) -> None:
    assert hostile.obeyed(said(config, "report", *by, *MARCH)) == []
    table = said(config, "report", *by, *MARCH, "-f", "csv")
    assert hostile.formulas(table) == []
    assert hostile.obeyed(table.replace("\r\n", "\n")) == []
    assert len(list(csv.reader(io.StringIO(table, newline="")))) >= len(set(CHOSEN.values()))
    written = said(config, "report", *by, *MARCH, "-f", "json")
    assert written.isascii()
    told = {word for row in json.loads(written)["rows"] for word in row["key"] or ()}
    assert set(CHOSEN.values()) <= told or "job" in by


def test_every_jobs_own_page_is_inert(config: Path) -> None:
    ids = ",".join(map(str, range(100, 100 + len(CHOSEN))))
    assert hostile.obeyed(said(config, "report", "--job", ids)) == []
    for job_id in range(100, 100 + len(CHOSEN), 7):
        assert hostile.obeyed(said(config, "report", "--job", str(job_id))) == []


def test_options_that_are_hostile_are_quoted_inert(config: Path) -> None:
    for name in ("\x1b[31m", "a\nb", "\u202eabc"):
        result = CliRunner().invoke(group, ["report", "--config", str(config), "--user", name, *MARCH])
        assert hostile.obeyed(result.output) == []


@pytest.mark.parametrize("kind", ["csv", "xdmod"])
def test_exports_are_inert(config: Path, kind: str) -> None:
    text = said(config, "export", *MARCH, "-f", kind).replace("\r\n", "\n")
    assert hostile.obeyed(text) == []
    if kind == "csv":
        assert hostile.formulas(text) == []
    else:
        lines = text.splitlines()
        assert len(lines) == len(CHOSEN)
        assert len({line.count("|") for line in lines}) == 1


def test_metrics_are_inert(config: Path) -> None:
    text = said(config, "exporter", "--once")
    assert hostile.obeyed(text) == []


@pytest.fixture(scope="module")
def pages(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """The month's page of the hostile site, and of one with the same jobs and harmless names."""
    harmless = build(
        tmp_path_factory.mktemp("harmless"),
        {job_id: f"{hostile.HARMLESS}-{job_id}" for job_id in range(100, 100 + len(CHOSEN))},
    )
    made = []
    for one in (config, harmless):
        said(one, "summary", "--month", "2026-03", "-o", str(one.parent / "pages"))
        made.append(one.parent / "pages")
    yield made[0], made[1]


def test_a_months_page_has_the_structure_that_harmless_names_give_it(pages: tuple[Path, Path]) -> None:
    theirs, ours = ((folder / "summary-2026-03.html").read_text() for folder in pages)
    assert hostile.obeyed(theirs) == []
    assert hostile.structure(theirs) == hostile.structure(ours)


def test_a_months_data_is_inert(pages: tuple[Path, Path]) -> None:
    folder, _ = pages
    table = (folder / "summary-2026-03.csv").read_bytes().decode()
    assert hostile.formulas(table) == []
    assert hostile.obeyed(table.replace("\r\n", "\n")) == []
    assert (folder / "summary-2026-03.json").read_text().isascii()
