"""Every notebook of the docs, cell by cell in a real IPython shell, on the package's sample; kept without output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "docs" / "notebooks").glob("*.ipynb"))


def cells(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_its_first_cell_to_its_last(path: Path) -> None:
    shell = InteractiveShell.instance()
    try:
        for cell in cells(path):
            if cell["cell_type"] == "code":
                done = shell.run_cell("".join(cell["source"]))  # type: ignore[no-untyped-call]
                assert done.success, "".join(cell["source"])
                assert done.result is not None and shell.display_formatter is not None
                shown, _ = shell.display_formatter.format(done.result)  # type: ignore[no-untyped-call]
                assert shown["text/html"]
    finally:
        InteractiveShell.clear_instance()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_output(path: Path) -> None:
    for cell in cells(path):
        assert not cell.get("outputs") and cell.get("execution_count") is None
