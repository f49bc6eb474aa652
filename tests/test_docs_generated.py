"""The pages that are made from the code say what the code says."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from hpccarbon import schema
from hpccarbon.cli import COMMANDS

DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_are_current(generate: ModuleType) -> None:
    assert generate.outdated(write=False) == [], "run `make docs`"


def test_every_command_and_every_column_has_its_place(generate: ModuleType) -> None:
    cli, columns = generate.cli_page(), generate.schema_page()
    assert [name for name in COMMANDS if f"## hpccarbon {name}\n" not in cli] == []
    named = {column.name for page in (schema.SHARD, schema.LEDGER, schema.JOBS) for column in page}
    assert [name for name in named if f"| `{name}` |" not in columns] == []


def test_every_field_of_the_json_stands_in_the_page(generate: ModuleType) -> None:
    page = generate.json_page()
    assert "| `co2e_g` |" in page
    assert "](#figures)" in page
    assert page.count("\n## ") >= 10


def test_every_key_of_the_configuration_has_a_meaning(generate: ModuleType) -> None:
    rows = [line for line in generate.config_page().splitlines() if line.startswith("| `")]
    assert len(rows) > 90
    assert [row for row in rows if not re.search(r"\| [A-Z`][^|]*[.] \|$", row)] == [], "a sentence below the field"
