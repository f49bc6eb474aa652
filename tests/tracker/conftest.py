"""Programs that use the tracker, run as users run them: in a process and a directory of their own."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

Program = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Run a program's text in `tmp_path`, outside of any job, with a home of its own."""

    def run(text: str, **environment: str) -> subprocess.CompletedProcess[str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "HPCCARBON", "CODECARBON"))}
        return subprocess.run(
            [sys.executable, "-c", textwrap.dedent(text)],
            cwd=tmp_path,
            env={**kept, "HOME": str(tmp_path), **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; every one must have all columns."""
    with path.open(newline="") as file:
        found = list(csv.DictReader(file))
    assert all(None not in row and None not in row.values() for row in found)
    return found
