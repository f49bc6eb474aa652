"""`%%carbon` in a real IPython shell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from hpccarbon.tracker.data import EmissionsData

WORK = "import time\nend = time.process_time() + 0.2\nwhile time.process_time() < end: pass\nanswer = 42\nanswer + 1"


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A shell of its own, with the extension loaded as a notebook does it."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.chdir(tmp_path)
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance()
    shell.run_line_magic("load_ext", "hpccarbon.tracker.notebook")
    return shell


def test_a_cell_is_measured_and_its_names_stay(shell: Any, tmp_path: Path) -> None:
    with capture_output() as shown:
        done = shell.run_cell(f"%%carbon forest\n{WORK}")
    assert done.success
    assert shell.user_ns["answer"] == 42
    assert "43" in shown.stdout, "the cell's own result"
    found = shell.user_ns["_carbon"]
    assert isinstance(found, EmissionsData)
    assert (found.project_name, found.state) == ("forest", "finished")
    assert 0.2 <= found.duration < 10
    assert found.energy_joules > 0
    assert not (tmp_path / "emissions.csv").exists()


def test_the_result_is_shown_as_a_table_and_nothing_in_it_is_markup(shell: Any) -> None:
    with capture_output() as shown:
        shell.run_cell("%%carbon <script>alert(1)</script>\npass")
    (table,) = (output.data["text/html"] for output in shown.outputs if "text/html" in output.data)
    assert "<table>" in table
    assert "&lt;script&gt;" in table
    assert "<script>" not in table


def test_a_cell_that_fails_is_told_and_measured_all_the_same(shell: Any) -> None:
    with capture_output() as shown:
        shell.run_cell("%%carbon\n1 / 0")
    assert "ZeroDivisionError" in shown.stdout
    assert shell.user_ns["_carbon"].state == "finished"
