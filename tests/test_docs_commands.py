"""Every command block of the documentation says where it runs, and runs there.

The line above a block of `sh` says it: `<!-- runs: sample -->`, on a copy of the package's sample ledger;
`<!-- runs: lab -->`, in the private Slurm cluster; or `<!-- runs: NOT HERE, REASON -->`. Later blocks of a page find
what earlier ones left. A block without a language that begins with `$ hpccarbon` is a capture: the command runs and
must print what stands there. Commands in running text must be ones that exist, with options that exist.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from hpccarbon.cli import group
from hpccarbon.cli.common import SAMPLE
from tests.lab.cluster import Lab

pytest_plugins = ("tests.lab.fixture",)

CHECKOUT = Path(__file__).resolve().parent.parent
PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").rglob("*.md"))]
_BLOCK = re.compile(r"(?:^<!-- runs: (?P<where>.*?) -->\n)?^```(?:sh|console|bash)\n(?P<text>.*?)^```$", re.M | re.S)


class Block(NamedTuple):
    """A command block: its page, the line it begins at, where it says it runs, its text."""

    page: Path
    line: int
    where: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(CHECKOUT)}:{self.line}"


def blocks() -> Iterator[Block]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for found in _BLOCK.finditer(text):
            yield Block(page, text.count("\n", 0, found.start()) + 1, found["where"] or "", found["text"])


BLOCKS = list(blocks())


def pages_with(where: str) -> list[str]:
    return sorted({str(block.page.relative_to(CHECKOUT)) for block in BLOCKS if block.where == where})


def test_every_block_says_where_it_runs() -> None:
    silent = [
        block.name for block in BLOCKS if block.where not in ("sample", "lab") and "NOT HERE, " not in block.where
    ]
    assert silent == []


def test_no_command_hides_in_a_fence_without_a_language() -> None:
    fence = re.compile(r"^```\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    commands = re.compile(r"^(?:hpccarbon|pip|make|sbatch|srun) ", re.MULTILINE)
    hidden = []
    for page in PAGES:
        if page.name == "cli.md":
            continue  # synopses and the examples of --help, made from the code
        # A fence that ends a block of some language looks like one that begins: take the labelled ones out first.
        text = re.sub(r"^```\S.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        hidden += [f"{page.name}: {found[:60]}" for found in fence.findall(text) if commands.search(found)]
    assert hidden == []


def script(page: str, where: str) -> str:
    """A page's blocks of one kind as one script; `hpccarbon` is the one that belongs to this Python."""
    texts = [block.text for block in BLOCKS if block.where == where and str(block.page.relative_to(CHECKOUT)) == page]
    return "set -ex\n" + "\n".join(texts)


@pytest.mark.parametrize("page", pages_with("sample"))
def test_blocks_on_the_sample_ledger(page: str, tmp_path: Path) -> None:
    shutil.copytree(SAMPLE.parent, tmp_path / "site")
    (tmp_path / "here").mkdir()
    environment = {
        **os.environ,
        "HPCCARBON_CONFIG": str(tmp_path / "site" / SAMPLE.name),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "COLUMNS": "100",
    }
    done = subprocess.run(
        ["bash", "-c", script(page, "sample")], cwd=tmp_path / "here", env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr


CAPTURES = [
    (page.relative_to(CHECKOUT), found[1], found[2])
    for page in PAGES
    for found in re.finditer(r"^```\n\$ (hpccarbon [^\n]*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)
]


@pytest.mark.parametrize(("page", "command", "printed"), CAPTURES, ids=[one[1] for one in CAPTURES])
def test_a_capture_is_what_the_command_prints(page: Path, command: str, printed: str, tmp_path: Path) -> None:
    environment = {**os.environ, "COLUMNS": "80", "HPCCARBON_CONFIG": ""}
    run = [sys.executable, "-m", *shlex.split(command)]
    done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == printed, f"{page}: {command}"


def test_the_readme_begins_with_a_capture() -> None:
    assert str(CAPTURES[0][0]) == "README.md"


def test_the_links_of_the_readme_lead_somewhere() -> None:
    text = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"\]\((?!https?:)([^)#]+)", text))  # the pages' own links are the site's test
    assert len(targets) > 20
    assert [target for target in sorted(targets) if not (CHECKOUT / target).exists()] == []


def unknown(words: list[str]) -> str:
    """What of a command line does not exist, or nothing."""
    command: click.Command = group
    context = click.Context(group)
    for word in words[1:]:
        if word == "--":
            break
        if word.startswith("-"):
            known = {name for param in command.get_params(context) for name in (*param.opts, *param.secondary_opts)}
            if word.partition("=")[0] not in known | {"-h"}:
                return word
        elif isinstance(command, click.Group):
            below = command.get_command(context, word)
            if below is None:
                return word
            command = below
    return ""


def test_commands_in_the_text_exist_with_their_options() -> None:
    wrong = []
    for page in PAGES:
        text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for span in re.findall(r"(?<!`)`(hpccarbon [^`]+)`(?!`)", text):
            missing = unknown(shlex.split(span.replace("...", "")))
            wrong += [f"{page.relative_to(CHECKOUT)}: {span}: {missing}"] if missing else []
    assert wrong == []


@pytest.mark.lab
@pytest.mark.parametrize("page", pages_with("lab"))
def test_blocks_in_the_lab(page: str, lab: Lab) -> None:
    for name in lab.names:
        lab.start_daemon(name)
    try:
        done = lab.run(["bash", "-c", script(page, "lab")], check=False, timeout=200)
    finally:
        for name in lab.names:  # other tests look at what the hooks leave, and a daemon takes that away
            lab.stop_daemon(name)
    assert done.returncode == 0, done.stderr[-3000:]
