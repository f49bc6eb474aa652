"""The pages that are made from the code say what the code says."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pytest

import hpccarbon
from hpccarbon import schema
from hpccarbon.cli import COMMANDS
from hpccarbon.cli.common import SAMPLE
from hpccarbon.report.compare import Comparison, Model
from hpccarbon.report.render.jobrows import content
from hpccarbon.slurm.record import JobRecord
from hpccarbon.tracker.data import EmissionsData

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


def test_the_columns_of_exported_jobs_are_those_of_the_page(generate: ModuleType) -> None:
    types = {"text": pa.string(), "int64": pa.int64(), "int32": pa.int32(), "float64": pa.float64()}
    jobs = hpccarbon.load_jobs("2026-11-01", "2026-12-01", config=SAMPLE)
    nothing = hpccarbon.load_jobs("2020-01-01", "2020-01-02", config=SAMPLE)
    for table in (jobs.table, nothing.table):
        made = [
            (field.name, "microsecond" if pa.types.is_timestamp(field.type) else field.type) for field in table.schema
        ]
        assert made == [(column.name, types.get(column.type, column.type)) for column in schema.JOB_TABLE]
    assert len(jobs) > 60
    assert [c.name for c in schema.JOB_TABLE if not c.nullable and jobs.table[c.name].null_count] == []
    head = content(jobs.table, "csv").decode().partition("\n")[0]
    assert head.replace('"', "").split(",") == [c.name for c in schema.JOB_TABLE]
    page = generate.schema_page().partition("## Jobs, as ")[2]
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == [column.name for column in schema.JOB_TABLE]


def test_the_python_page_has_each_name_and_says_what_comes_back(generate: ModuleType) -> None:
    page = generate.api_page()
    assert [name for name in hpccarbon._LAZY if f"hpccarbon.{name}\n" not in page] == []
    for kind in (EmissionsData, Comparison, Model, JobRecord):
        section = page.partition(f"### {kind.__name__}\n")[2].partition("\n#")[0]
        rows = dict(re.findall(r"^\| `(\w+)` \| `.*?` \| (.*) \|$", section, re.MULTILINE))
        assert [name for name in kind.__annotations__ if not rows.get(name)] == [], kind.__name__


def test_every_field_of_the_json_stands_in_the_page(generate: ModuleType) -> None:
    page = generate.json_page()
    assert "| `co2e_g` |" in page
    assert "](#figures)" in page
    assert page.count("\n## ") >= 10


def test_every_key_of_the_configuration_has_a_meaning(generate: ModuleType) -> None:
    rows = [line for line in generate.config_page().splitlines() if line.startswith("| `")]
    assert len(rows) > 90
    assert [row for row in rows if not re.search(r"\| [A-Z`][^|]*[.] \|$", row)] == [], "a sentence below the field"
