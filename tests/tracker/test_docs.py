"""The tutorial's program, run as it stands in the page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.tracker.conftest import Program, rows

PAGE = Path(__file__).parents[2] / "docs" / "tutorials" / "compare_models.md"


def test_the_tutorial_does_what_it_says(program: Program, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 3
    done = program("\n".join(blocks))
    assert done.returncode == 0, done.stderr
    found = {row["project_name"]: row for row in rows(tmp_path / "emissions.csv")}
    assert list(found) == ["forest-5", "forest-40", "forest-160"]
    cpu = [float(row["cpu_seconds"]) for row in found.values()]
    assert cpu == sorted(cpu)
    assert "Most efficient: forest-" in done.stdout
    assert (tmp_path / "models.html").read_text().count("forest-160") > 1
    assert (tmp_path / "models.png").read_bytes().startswith(b"\x89PNG")
