"""`doctor` asks whether those who write to a directory can, not whether root can."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpccarbon import config as configuration
from hpccarbon.node.doctor import Check, diagnose


def shared_dir(directory: Path, seal_user: str) -> Check:
    text = f'''
cluster = "alpha"
[paths]
state_dir = "{directory}/state"
run_dir = "{directory}/run"
shared_dir = "{directory}/shared"
[daemon]
root = "{directory}/root"
seal_user = "{seal_user}"
[meters]
enabled = ["model"]
'''
    (directory / "root").mkdir(exist_ok=True)
    (check,) = [one for one in diagnose(configuration.parse(text), "n1").checks if one.subject == "shared_dir"]
    return check


@pytest.fixture
def passable() -> Iterator[Path]:
    """A directory that other accounts may pass: pytest's own are root's alone."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_the_shared_directory_is_asked_as_the_one_who_writes_there(passable: Path) -> None:
    shared = passable / "shared"
    shared.mkdir(mode=0o750)
    assert shared_dir(passable, "").verdict == "ok"
    refused = shared_dir(passable, "nobody")
    assert refused.verdict == "problem"
    assert refused.found == f"{shared} cannot be written by nobody"
    assert refused.advice.startswith(f"chown nobody: {shared}")
    os.chown(shared, 65534, 65534)
    assert shared_dir(passable, "nobody").verdict == "ok"
    assert "there is no such account" in shared_dir(passable, "hpcnobody").found
