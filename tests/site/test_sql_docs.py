"""What docs/sql.md tells administrators to run does run, and says what the ledger says."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from hpccarbon.site import index
from hpccarbon.site.aggregate import aggregate
from hpccarbon.site.engine import connect
from hpccarbon.site.executor import open_crew
from hpccarbon.site.ledger import Ledger, Selection
from tests.site import maker
from tests.site.test_days import FIRST, NOW

PAGE = (Path(__file__).parents[2] / "docs" / "sql.md").read_text()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed day, a day of hours, and an hour that lies in both."""
    folder = tmp_path_factory.mktemp("sql")
    maker.site(folder, hours=6, nodes=3, first=FIRST)
    with open_crew(1) as crew:
        aggregate(folder, "alpha", crew)
        kept = index.ledger_path(folder, "alpha", FIRST)
        shutil.copy(kept, folder / "kept.parquet")
        aggregate(folder, "alpha", crew, pack_at=NOW.replace(day=3, hour=12))
    assert not kept.exists()
    shutil.copy(folder / "kept.parquet", kept)
    return folder


def blocks(language: str, shared: Path) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [block.replace("/shared/hpccarbon", str(shared)) for block in found]


def kwh(shared: Path) -> float:
    (row,) = Ledger(shared, "alpha").energy(Selection(holders=("job",)))
    return row.energy_uj / 3.6e12


def test_duckdb(shared: Path) -> None:
    con = connect(1)
    view, *questions = blocks("sql", shared)
    con.execute(view)
    accounts, largest, hours, differences, unused = (con.execute(sql).fetchall() for sql in questions)
    assert sum(row[1] for row in accounts) == pytest.approx(kwh(shared))
    assert sum(row[3] for row in largest) == pytest.approx(kwh(shared))
    assert len(hours) == 6
    assert all(watts > 0 and 0 < percent < 100 for _, watts, percent in hours)
    assert differences == []
    assert all(held > 0 for _, held, _ in unused)


def test_polars(shared: Path) -> None:
    pytest.importorskip("polars")
    (code,) = blocks("python", shared)
    said: dict[str, Any] = {}
    exec(code, said)  # the page's own text
    assert said["accounts"]["energy_kwh"].sum() == pytest.approx(kwh(shared))
    assert said["largest"]["energy_kwh"].sum() == pytest.approx(kwh(shared))
    assert said["by_hour"].height == 6
    assert said["accounts"]["covered_percent"].is_between(0, 100, closed="right").all()
    assert said["by_hour"]["unallocated_percent"].is_between(0, 100, closed="none").all()
    assert said["differences"].height == 0
    assert said["unused"]["held_core_h"].min() > 0


def test_spark(shared: Path) -> None:
    pytest.importorskip("pyspark", reason="NO SPARK: pip install pyspark (and a Java 17)")
    code = next(block for block in blocks("text", shared) if "pyspark" in block)
    said: dict[str, Any] = {}
    try:
        exec(code, said)  # the page's own text
        accounts, largest, by_hour, differences, unused = (
            said[name].collect() for name in ("accounts", "largest", "by_hour", "differences", "unused")
        )
    finally:
        if "spark" in said:
            said["spark"].stop()
    con = connect(1)
    view, *questions = blocks("sql", shared)
    con.execute(view)
    of_accounts, of_jobs, of_hours, *_ = (con.execute(sql).fetchall() for sql in questions)
    assert [row.account for row in accounts] == [row[0] for row in of_accounts]
    assert [tuple(row[1:]) for row in accounts] == [pytest.approx(row[1:]) for row in of_accounts]
    assert sum(row.energy_kwh for row in largest) == pytest.approx(sum(row[3] for row in of_jobs))
    assert [tuple(row[1:]) for row in by_hour] == [pytest.approx(row[1:]) for row in of_hours]
    assert differences == []
    assert all(row.held_core_h > 0 for row in unused)
