"""Nothing in the package runs a shell, evaluates text, or loads pickles: read from the source, so that it stays so."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent.parent / "hpccarbon"
MODULES = sorted(PACKAGE.rglob("*.py"))
FORBIDDEN = {
    "os": {"system", "popen", "spawnl", "spawnlp", "spawnv", "spawnvp", "execlp", "execvp", "tempnam"},
    "subprocess": {"getoutput", "getstatusoutput"},
    "tempfile": {"mktemp"},
    "pickle": {"load", "loads"},
    "marshal": {"load", "loads"},
    "yaml": {"load"},
}
BUILTINS = {"eval", "exec", "compile", "__import__"}


def test_there_is_something_to_read() -> None:
    assert len(MODULES) > 60


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_shell(path: Path) -> None:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if isinstance(called, ast.Name) and called.id in BUILTINS:
            found.append(f"line {node.lineno}: {called.id}()")
        if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
            if called.attr in FORBIDDEN.get(called.value.id, ()):
                found.append(f"line {node.lineno}: {called.value.id}.{called.attr}()")
            if (
                called.value.id == "subprocess"
                and node.args
                and isinstance(node.args[0], (ast.Constant, ast.JoinedStr))
            ):
                found.append(f"line {node.lineno}: a command that is one text")
        found += [
            f"line {node.lineno}: shell="
            for given in node.keywords
            if given.arg == "shell" and not (isinstance(given.value, ast.Constant) and given.value.value is False)
        ]
    assert found == []
