"""`make pythons` counts as passed what it saw pass, and the badge says no more."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests import pythons

CHECKOUT = Path(__file__).resolve().parent.parent
SEEN = {"commit": "0000000", "on": "2026-11-30", "passed": 12, "python": "3.11.7"}


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", CHECKOUT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def asked(version: str, path: str) -> subprocess.CompletedProcess[str]:
    before = pythons.NOTED.read_bytes() if pythons.NOTED.exists() else None
    done = subprocess.run(
        [sys.executable, "-m", "tests.pythons", version],
        cwd=CHECKOUT,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (pythons.NOTED.read_bytes() if pythons.NOTED.exists() else None) == before
    return done


def test_a_python_that_is_not_installed_has_not_passed() -> None:
    done = asked("3.98", os.environ["PATH"])
    assert "Python 3.98: NOT RUN, not installed" in done.stdout
    assert done.returncode == 1


def test_a_program_that_is_another_python_than_its_name_says_has_not_passed(tmp_path: Path) -> None:
    liar = tmp_path / "python3.98"
    liar.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    liar.chmod(0o755)
    done = asked("3.98", f"{tmp_path}:{os.environ['PATH']}")
    assert (done.returncode, "NOT RUN" in done.stdout) == (1, True)


@pytest.mark.parametrize(
    ("status", "output", "number"),
    [
        (0, "...\n2817 passed, 3 skipped in 90.12s (0:01:30)\n", 2817),
        (1, "1 failed, 2816 passed in 90.12s\n", 0),
        (2, "2 errors in 1.00s\n", 0),
        (0, "3 skipped in 0.10s\n", 0),
        (5, "no tests ran in 0.01s\n", 0),
        (0, "", 0),
    ],
)
def test_passed_is_what_ended_well_and_tested_something(status: int, output: str, number: int) -> None:
    assert pythons.passed(status, output) == number


def test_what_fails_later_is_struck_out(tmp_path: Path) -> None:
    path = tmp_path / "pythons.json"
    pythons.note("3.10", "3.10.13", 5, path)
    pythons.note("3.11", "3.11.7", 7, path)
    assert {name: one["passed"] for name, one in json.loads(path.read_text()).items()} == {"3.10": 5, "3.11": 7}
    pythons.note("3.10", "3.10.13", 0, path)
    assert list(json.loads(path.read_text())) == ["3.11"]


def test_the_badge_says_what_was_seen(generate: ModuleType) -> None:
    assert generate.python_words({}) == "3.10 or newer"  # what pyproject.toml asks for, and nothing of having tried it
    assert generate.python_words({"3.11": SEEN, "3.10, oldest dependencies": SEEN}) == "3.11, tried 2026-11-30"
    assert generate.python_words({"3.9": SEEN, "3.11": SEEN, "3.13": SEEN}) == "3.9, 3.11, 3.13, tried 2026-11-30"
    earlier = SEEN | {"on": "2026-11-02"}
    assert generate.python_words({"3.9": SEEN, "3.10": earlier, "3.11": SEEN}) == "3.9 to 3.11, tried 2026-11-02"
    assert generate.python_words({"3.11": SEEN | {"passed": 0}}) == "3.10 or newer"


def test_the_badge_is_about_pythons_that_the_project_takes(generate: ModuleType) -> None:
    assert generate._project("requires-python") == f">={pythons.VERSIONS[0]}"
    noted = json.loads(pythons.NOTED.read_text()) if pythons.NOTED.exists() else {}
    assert {name.partition(",")[0] for name in noted} <= set(pythons.VERSIONS)
