"""What starts hpccarbon on a site: units, hooks, examples and the Ansible role speak its command line as it is."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from hpccarbon.cli import COMMANDS, group

SCRIPTS = Path(__file__).resolve().parent.parent / "slurm_scripts"
ROLE = SCRIPTS / "deploy" / "ansible" / "hpccarbon"
_CALL = re.compile(rf"(?:hpccarbon|HPCCARBON_BIN|HPCCARBON)\s+({'|'.join(COMMANDS)})\b([^;|&\n]*)")
_OPTION = re.compile(r"(?<![\w-])(--?[a-z][a-z-]*)")


def calls(text: str) -> Iterator[tuple[str, list[str]]]:
    """(command, the words after it) of each call of hpccarbon, in shell, Lua, systemd's or Ansible's language."""
    plain = re.sub(r"\\\n", " ", text)
    plain = re.sub(r"(argv: >-.*?)\n  register", lambda found: re.sub(r"[\n|]", " ", found[1]), plain, flags=re.DOTALL)
    plain = re.sub(r"[\"'`,\[\](){}~]|\.\.", " ", plain)
    for found in _CALL.finditer(plain):
        yield found[1], found[2].split()


def known(name: str, words: list[str]) -> set[str]:
    """The options of a command, or of the subcommand that the words name."""
    context = click.Context(group, info_name="hpccarbon")
    command = group.get_command(context, name)
    assert command is not None
    if isinstance(command, click.Group) and words:
        below = command.get_command(context, words[0])
        assert below is not None, f"hpccarbon {name} {words[0]}"
        command = below
    return {option for param in command.get_params(context) for option in (*param.opts, *param.secondary_opts)}


FILES = sorted(path for path in SCRIPTS.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def test_every_call_is_found() -> None:
    found = {name for path in FILES for name, _words in calls(path.read_text())}
    assert found >= {"setup", "daemon", "aggregate", "report", "now", "sbatch"}
    said = [words for name, words in calls((ROLE / "tasks/main.yml").read_text()) if name == "setup"]
    assert {"--apply", "--role", "--shared-dir", "--user", "--cluster", "--zone", "--pue", "--no-systemd"} == {
        word for words in said for word in words if word.startswith("--")
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SCRIPTS)))
def test_every_option_that_is_used_exists(path: Path) -> None:
    for name, words in calls(path.read_text()):
        used = set(_OPTION.findall(" ".join(words)))
        assert used <= known(name, words), f"hpccarbon {name} {' '.join(words)}"


@pytest.mark.parametrize("unit", sorted(SCRIPTS.glob("systemd/*.service")), ids=lambda path: path.name)
def test_what_a_unit_starts_is_parsed(unit: Path) -> None:
    (line,) = re.findall(r"^ExecStart=\S+/hpccarbon (.*)$", unit.read_text(), re.MULTILINE)
    name, *arguments = line.split()
    command = group.get_command(click.Context(group), name)
    assert command is not None
    command.make_context(name, arguments)  # raises UsageError


def test_what_spack_installs_is_started_by_the_name_of_the_project() -> None:
    """The recipe calls no command: the program is the one that pyproject.toml names."""
    assert list(calls((SCRIPTS / "deploy/spack/py_hpccarbon/package.py").read_text())) == []
    assert 'hpccarbon = "hpccarbon.cli:main"' in (SCRIPTS.parent / "pyproject.toml").read_text()


def test_the_role_restarts_every_service_after_everything_that_changes_one() -> None:
    units = {path.name for path in SCRIPTS.glob("systemd/*.service")}
    handlers = (ROLE / "handlers/main.yml").read_text()
    assert set(re.findall(r"hpccarbon[\w-]*\.service", handlers)) == units
    tasks = re.split(r"^- name: ", (ROLE / "tasks/main.yml").read_text(), flags=re.MULTILINE)
    changing = [task for task in tasks if re.search(r"ansible\.builtin\.(copy|pip|command|template)", task)]
    assert len(changing) == 4
    listened = set(re.findall(r"listen: (.*)", handlers))
    assert {said for task in changing for said in re.findall(r"notify: (.*)", task) or ["nothing"]} == listened


def test_shell_files_parse() -> None:
    for path in FILES:
        if path.read_text().startswith("#!/bin/sh"):
            assert subprocess.run(["sh", "-n", path]).returncode == 0, path.name
