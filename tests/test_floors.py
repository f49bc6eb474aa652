"""The house stands as docs/architecture.md draws it: who may import whom, read from the import statements."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "hpccarbon"
BASE = frozenset(("units", "records", "errors", "schema", "config", "hostlist", "program", "duck"))
WINGS: dict[str, frozenset[str]] = {
    "base": frozenset(),
    "node": frozenset(("base",)),
    "slurm": frozenset(("base",)),
    "site": frozenset(("base", "slurm")),
    "carbon": frozenset(("base",)),
    "report": frozenset(("base", "site", "carbon")),
    "tracker": frozenset(("base", "carbon", "node")),
    "setup": frozenset(("base", "slurm")),
    "submit": frozenset(("base", "slurm", "site", "carbon")),
}
"""wing -> the other wings it may import; `cli` may import all."""
TRACKER_MAY = ("hpccarbon.node.control", "hpccarbon.node.meters", "hpccarbon.node.sysroot", "hpccarbon.node.once")
"""Of `node`, the tracker uses the client, the meters and the one command that needs no daemon."""
HEAVY = frozenset(
    ("pyarrow", "pandas", "numpy", "duckdb", "polars", "dask", "distributed", "altair", "rich", "hpccarbon.duck")
)
"""What no module of the package may import before it is needed: each costs tens of milliseconds or megabytes."""
STDLIB_AND_MSGSPEC = sys.stdlib_module_names | {"msgspec", "hpccarbon"}


class Import(NamedTuple):
    """One import statement, and whether it runs when its module is loaded, or is there for the type checker alone."""

    module: str
    names: str
    line: int
    at_load: bool
    for_types: bool


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "slurm_scripts" not in path.parts)


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports(path: Path) -> tuple[Import, ...]:
    """Every import statement of a module; `from a import b` names a.b where that is a module, else a."""
    return tuple(_walk(ast.parse(path.read_text(encoding="utf-8")), at_load=True, for_types=False))


def _walk(node: ast.AST, *, at_load: bool, for_types: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, alias.name, child.lineno, at_load, for_types)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"relative import in line {child.lineno}: write the whole name"
            for alias in child.names:
                yield Import(_resolved(child.module or "", alias.name), alias.name, child.lineno, at_load, for_types)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from _walk(ast.Module(child.body, []), at_load=False, for_types=True)
            yield from _walk(ast.Module(child.orelse, []), at_load=at_load, for_types=for_types)
        elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from _walk(child, at_load=False, for_types=for_types)
        else:
            yield from _walk(child, at_load=at_load, for_types=for_types)


def _resolved(module: str, name: str) -> str:
    below = PACKAGE.parent.joinpath(*module.split("."), name)
    return f"{module}.{name}" if below.with_suffix(".py").exists() or below.is_dir() else module


def wing_of(module: str) -> str:
    parts = module.split(".")
    if len(parts) == 1 or parts[1] in ("__main__",):
        return "package"
    return "base" if parts[1] in BASE else parts[1]


def heavy_of(found: Import) -> bool:
    return found.module in HEAVY or found.module.split(".")[0] in HEAVY


ALL = [(module_name(path), path) for path in modules()]
IDS = [name for name, _ in ALL]
each_module = pytest.mark.parametrize(("name", "path"), ALL, ids=IDS)


def test_every_module_belongs_to_a_wing() -> None:
    known = WINGS.keys() | {"cli", "package"}
    assert [name for name in IDS if wing_of(name) not in known] == []


@each_module
def test_wings_import_only_what_lies_below(name: str, path: Path) -> None:
    wing = wing_of(name)
    if wing in ("cli", "package"):
        return
    wrong = [
        f"line {found.line}: {found.module}"
        for found in imports(path)
        if found.module.startswith("hpccarbon.") and not found.for_types
        if (other := wing_of(found.module)) != wing and other not in WINGS[wing]
    ]
    assert wrong == []


def test_the_tracker_uses_only_the_client_side_of_the_node() -> None:
    wrong = [
        f"{name}, line {found.line}: {found.module}"
        for name, path in ALL
        if wing_of(name) == "tracker"
        for found in imports(path)
        if wing_of(found.module) == "node" and not found.module.startswith(TRACKER_MAY)
    ]
    assert wrong == []


@each_module
def test_the_base_knows_the_standard_library_and_msgspec_alone(name: str, path: Path) -> None:
    if wing_of(name) != "base":
        return
    foreign = {
        (found.module.split(".")[0], found.at_load)
        for found in imports(path)
        if found.module.split(".")[0] not in STDLIB_AND_MSGSPEC and not found.for_types
    }
    allowed = {"hpccarbon.schema": {("pyarrow", False)}, "hpccarbon.duck": {("_duckdb", True), ("duckdb", True)}}
    assert foreign <= allowed.get(name, set())


@each_module
def test_nothing_heavy_is_loaded_before_it_is_needed(name: str, path: Path) -> None:
    heavy = [
        f"line {found.line}: {found.module}"
        for found in imports(path)
        if found.at_load and heavy_of(found) and name != "hpccarbon.duck"
    ]
    assert heavy == []


def test_the_engine_is_loaded_in_one_place() -> None:
    """hpccarbon/duck.py leaves out what costs a report a quarter of a second; Arrow tables alone need it."""
    loading = {
        name
        for name, path in ALL
        for found in imports(path)
        if found.module.split(".")[0] in ("duckdb", "_duckdb") and not found.for_types
    }
    assert loading == {"hpccarbon.duck", "hpccarbon.site.engine"}


def test_the_daemon_never_loads_what_reports_need() -> None:
    """No module that the daemon's process loads names pyarrow at all; the seal child alone does, inside functions."""
    holders = {
        name
        for name, path in ALL
        if wing_of(name) == "node"
        for found in imports(path)
        if heavy_of(found) and not found.for_types
    }
    assert holders <= {"hpccarbon.node.seal"}


def test_no_module_imports_in_a_circle() -> None:
    graph = {
        name: {found.module for found in imports(path) if found.module in IDS and not found.for_types} - {name}
        for name, path in ALL
        if wing_of(name) not in ("package",)
    }
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way[way.index(name) :], name))
        if name not in done:
            for below in sorted(graph.get(name, ())):
                visit(below, (*way, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


def test_only_the_command_line_joins_wings_that_must_not_meet() -> None:
    for name, path in ALL:
        if wing_of(name) in ("cli", "package"):
            continue
        wings = {wing_of(found.module) for found in imports(path) if found.module.startswith("hpccarbon.")}
        assert not ({"node"} <= wings and {"site", "report"} & wings), name


def _loads(code: str) -> set[str]:
    """The modules that `code` loads in a fresh interpreter (whose start loads some, more under `make coverage`)."""
    code = f"import sys; started = set(sys.modules)\n{code}\nprint(' '.join(set(sys.modules) - started))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_else() -> None:
    assert {name for name in _loads("import hpccarbon") if not name.startswith("hpccarbon")} <= {"__future__"}


def test_help_loads_click_and_a_table() -> None:
    loaded = _loads("import hpccarbon.cli")
    assert {name for name in loaded if name.startswith("hpccarbon")} == {"hpccarbon", "hpccarbon.cli"}
    assert not {"msgspec", "duckdb", "pyarrow", "pandas", "numpy", "rich", "asyncio", "http"} & loaded


def test_a_report_loads_neither_pandas_nor_pyarrow_nor_rich() -> None:
    loaded = _loads("import hpccarbon.cli.report, hpccarbon.site.ledger, hpccarbon.report.render.text")
    assert not HEAVY & loaded


@pytest.mark.skipif(find_spec("_duckdb") is None, reason="DuckDB before 1.4 has no compiled half of its own")
def test_a_question_to_the_ledger_loads_the_engine_without_its_package(tmp_path: Path) -> None:
    question = (
        "from pathlib import Path; from hpccarbon.site.ledger import Ledger, Selection\n"
        f"assert Ledger(Path({str(tmp_path)!r}), 'c').energy(Selection()) == []\n"
        f"from hpccarbon.site.engine import connect; assert connect().execute('SELECT 1').fetchall() == [(1,)]"
    )
    loaded = _loads(question)
    assert not {"duckdb", "importlib.metadata", "dataclasses", "pyarrow", "numpy"} & loaded
    assert "_duckdb" in loaded


def test_without_the_compiled_half_alone_the_package_is_the_engine() -> None:
    """As before DuckDB 1.4, which has no module of that name."""
    hidden = "import sys, types; sys.modules |= {'_duckdb': None, 'duckdb': types.ModuleType('duckdb')}"
    used = "import hpccarbon.duck; assert hpccarbon.duck.duckdb is sys.modules['duckdb']; del sys.modules['_duckdb']"
    assert "hpccarbon.duck" in _loads(f"{hidden}\n{used}")


def test_no_name_is_excused_from_being_called_that_is_called() -> None:
    """What vulture may overlook (pyproject.toml) is what it would name: a needless excuse hides dead code."""
    checkout = PACKAGE.parent
    excused = msgspec.toml.decode((checkout / "pyproject.toml").read_bytes())["tool"]["vulture"]["ignore_names"]
    done = subprocess.run(
        [sys.executable, "-m", "vulture", "--ignore-names", ""], cwd=checkout, capture_output=True, text=True
    )
    named = re.findall(r"unused \w+ '(\w+)'", done.stdout)
    assert set(named) == set(excused), done.stdout + done.stderr
