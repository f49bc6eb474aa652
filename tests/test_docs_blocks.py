"""Blocks of the documentation that are no commands, and the places that it names, are what the code takes and has."""

from __future__ import annotations

import ast
import importlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpccarbon import config as configuration
from hpccarbon.cli.common import SAMPLE

CHECKOUT = Path(__file__).resolve().parent.parent
PAGES = [CHECKOUT / "README.md", CHECKOUT / "CHANGELOG.md", *sorted((CHECKOUT / "docs").rglob("*.md"))]


def blocks(language: str) -> list[tuple[str, str]]:
    """(page:line, text) of each block in a language."""
    fence = re.compile(rf"^```{language}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        name = page.relative_to(CHECKOUT)
        found += [(f"{name}:{text.count(chr(10), 0, one.start()) + 1}", one[1]) for one in fence.finditer(text)]
    return found


@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in blocks("toml")])
def test_a_configuration_loads(text: str) -> None:
    assert configuration.parse(text) != configuration.Config()


RUN_ELSEWHERE = "docs/CONTRIBUTING.md:"
"""Its examples import one another: tests/test_contributing.py runs them."""
PYTHON = [pytest.param(text, id=name) for name, text in blocks("python") if not name.startswith(RUN_ELSEWHERE)]


@pytest.mark.parametrize("text", PYTHON)
def test_python_compiles_and_imports_what_exists(text: str) -> None:
    tree = ast.parse(text)
    compile(tree, "block", "exec")
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
            module = importlib.import_module(node.module or "")
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


@pytest.mark.parametrize(("page", "before"), [("tracker.md", "def train(): pass"), ("reports.md", "")])
def test_python_of_a_page_runs_on_the_sample(page: str, before: str, tmp_path: Path) -> None:
    (program,) = (text for name, text in blocks("python") if name.startswith(f"docs/{page}:"))
    environment = {"HPCCARBON_CONFIG": str(SAMPLE), "HOME": str(tmp_path), "PATH": ""}
    run = [sys.executable, "-c", f"{before}\n{program}"]
    done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_alerts_are_rules_that_prometheus_takes(tmp_path: Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("NO PROMTOOL: apt-get install prometheus (as root, `make setup` does)")
    (rules,) = (text for _, text in blocks("yaml"))
    indented = "".join(f"      {line}\n" for line in rules.splitlines())
    (tmp_path / "rules.yml").write_text(f"groups:\n  - name: docs\n    rules:\n{indented}")
    done = subprocess.run(["promtool", "check", "rules", tmp_path / "rules.yml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{rules.count('alert:')} rules found" in done.stdout


def named(pattern: str) -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for found in re.findall(pattern, page.read_text(encoding="utf-8")):
            yield str(page.relative_to(CHECKOUT)), found


def test_places_that_are_named_exist() -> None:
    def missing(place: str) -> bool:
        path, _, name = place.partition("::")
        whole = CHECKOUT / path.rstrip("/").removesuffix("/NAME").removesuffix("/...")
        return not whole.exists() or bool(name and f"def {name}(" not in whole.read_text(encoding="utf-8"))

    quoted = named(r"`((?:hpccarbon|slurm_scripts)/[\w./-]+(?:::\w+)?)[`(]")
    places = [*quoted, *named(r"(?<![\w./-])((?:tests|bench)/[\w./-]*\w(?:::\w+)?)")]
    assert len(places) > 60
    assert sorted({f"{page}: {place}" for page, place in places if missing(place)}) == []


def test_make_targets_that_are_named_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert (
        sorted({f"{page}: make {target}" for page, target in named(r"`make ([a-z-]+)") if target not in targets}) == []
    )


def test_nobody_is_sent_to_a_package_index_for_hpccarbon() -> None:
    """It is on none: whoever takes the name there would be installed."""
    texts = [*PAGES, *(CHECKOUT / "hpccarbon").rglob("*.py"), *(CHECKOUT / "docs").rglob("*.ipynb")]
    asked = re.compile(r"pip (?:install|download) (?!.*--no-index)[^\n`]*\bhpccarbon(?![./-])")
    assert [str(path) for path in texts if asked.search(path.read_text(encoding="utf-8"))] == []
