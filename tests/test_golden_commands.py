"""Every command whose words do not depend on the machine, in every format, on the sample ledger: as reviewed.

`job*`, `usage*`, `summary*`, `site*`, `budget*`, `audit*`, `advise*`, `sbatch*`, `exporter` and `xdmod` are held beside
their own made-up sites, where more of what can happen does happen. What depends on the machine or the clock (`doctor`,
`now`, `run`, `status`, `retention`, `intensity best`) has its shape tested where it is made.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hpccarbon.cli.common import SAMPLE
from tests.report.golden import check

TIMES = ("--since", "2026-11-24T02:00", "--until", "2026-11-24T05:00")
COMMANDS: dict[str, tuple[str, ...]] = {
    "export.csv": ("export", "--month", "2026-11", "-f", "csv"),
    "verify.txt": ("verify",),
    "compare.txt": ("compare", "1", "3", "5"),
    "intensity_show.txt": ("intensity", "show", "DE", *TIMES),
    "intensity_show.csv": ("intensity", "show", "DE", *TIMES, "-f", "csv"),
    "intensity_show.json": ("intensity", "show", "DE", *TIMES, "-f", "json"),
    "intensity_zones.txt": ("intensity", "zones", "--search", "denmark"),
    "intensity_providers.txt": ("intensity", "providers"),
}
WRITTEN = {
    "compare.csv": ("compare", "1", "3", "5", "-o", "{file}"),
    "compare.json": ("compare", "1", "3", "5", "-o", "{file}"),
}
"""Commands that write a file of the golden file's ending."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sample, aggregated, so that no clock of a checkout is in what is said."""
    folder = tmp_path_factory.mktemp("golden") / "site"
    shutil.copytree(SAMPLE.parent, folder)
    call(folder, "aggregate", "--no-accounting", "--quiet")
    return folder


def call(site: Path, *words: str) -> str:
    env = {**os.environ, "HPCCARBON_CONFIG": str(site / "hpccarbon.toml"), "COLUMNS": "80", "TZ": "UTC"}
    argv = [sys.executable, "-m", "hpccarbon", *words]
    done = subprocess.run(argv, env=env, cwd=site, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_what_was_reviewed(site: Path, name: str) -> None:
    check(name, call(site, *COMMANDS[name]))


@pytest.mark.parametrize("name", WRITTEN)
def test_a_file_is_what_was_reviewed(site: Path, tmp_path: Path, name: str) -> None:
    call(site, *(word.format(file=tmp_path / name) for word in WRITTEN[name]))
    check(name, (tmp_path / name).read_text())
