"""Manual pages from the help, and shells that complete commands: tried with groff, bash and the commands themselves."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from hpccarbon.cli import COMMANDS

DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.fixture(scope="module")
def man() -> ModuleType:
    spec = importlib.util.spec_from_file_location("man", DOCS / "man.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_command_has_a_page_with_all_its_options(man: ModuleType) -> None:
    pages: dict[str, str] = man.pages()
    assert pages.keys() == {"hpccarbon.1", *(f"hpccarbon-{name}.1" for name in COMMANDS)}
    assert "\\-\\-month" in pages["hpccarbon-report.1"]
    assert "hpccarbon intensity fetch" in pages["hpccarbon-intensity.1"]
    for page in pages.values():
        assert page.startswith(".TH ")
        assert ".SH NAME\n" in page
        assert not re.search(r"^'", page, re.MULTILINE), "no line of help is a request"


def test_groff_has_nothing_to_warn_of(man: ModuleType, tmp_path: Path) -> None:
    if shutil.which("groff") is None:
        pytest.skip("NO GROFF: apt-get install groff-base")
    assert man.main([str(tmp_path)]) == 0
    pages = sorted(map(str, tmp_path.glob("*.1")))
    done = subprocess.run(["groff", "-man", "-ww", "-z", "-Tutf8", *pages], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def completed(line: str) -> list[str]:
    """What is offered after a line, as the shell asks for it."""
    words = line.split(" ")
    env = {
        **os.environ,
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
        "_HPCCARBON_COMPLETE": "bash_complete",
    }
    done = subprocess.run([sys.executable, "-m", "hpccarbon"], env=env, capture_output=True, text=True, check=True)
    return [one.partition(",")[2] for one in done.stdout.splitlines()]


def test_commands_options_and_choices_are_completed() -> None:
    assert completed("hpccarbon re") == ["report", "retention"]
    assert "--budget" in completed("hpccarbon report --b")
    assert completed("hpccarbon export --format x") == ["xdmod"]


def test_completing_a_command_loads_none() -> None:
    code = (
        "import sys; from hpccarbon.cli import group; import click;"
        "group.shell_complete(click.Context(group), 'rep');"
        "print(sorted(name for name in sys.modules if name.startswith('hpccarbon.cli.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_takes_its_script(shell: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hpccarbon", "completion", shell], capture_output=True, text=True, check=True
    )
    assert "_HPCCARBON_COMPLETE" in done.stdout
    if shutil.which(shell) is None:
        return
    script = tmp_path / "script"
    script.write_text(done.stdout)
    assert subprocess.run([shell, "-n", str(script)], capture_output=True).returncode == 0


def test_a_spinner_is_for_terminals_and_for_patience(tmp_path: Path) -> None:
    """On a terminal something moves after the wait; through a pipe nothing is ever written."""
    import pty

    code = (
        "import time\n"
        "from hpccarbon.cli.output import working\n"
        "with working('adding up', {wait}):\n"
        "    time.sleep(0.8)\n"
    )

    def seen(wait_s: float) -> bytes:
        master, slave = pty.openpty()
        with subprocess.Popen([sys.executable, "-c", code.format(wait=wait_s)], stderr=slave) as running:
            os.close(slave)
            out = b""
            while True:
                try:
                    chunk = os.read(master, 4096)
                except OSError:  # the other end has closed
                    break
                if not chunk:
                    break
                out += chunk
        os.close(master)
        assert running.returncode == 0
        return out

    assert b"adding up" in seen(0.1)
    assert seen(5) == b""
    piped = subprocess.run([sys.executable, "-c", code.format(wait=0.1)], capture_output=True, check=True)
    assert piped.stderr == b""
