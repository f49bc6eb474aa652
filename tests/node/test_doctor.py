"""`doctor` asks whether those who write to a directory can, not whether root can."""

from __future__ import annotations

import os
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


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_the_shared_directory_is_asked_as_the_one_who_writes_there(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o750)
    for parent in (tmp_path, *tmp_path.parents[:-2]):  # pytest's own are root's alone
        parent.chmod(0o711)
    assert shared_dir(tmp_path, "").verdict == "ok"
    refused = shared_dir(tmp_path, "nobody")
    assert refused.verdict == "problem"
    assert refused.found == f"{shared} cannot be written by nobody"
    assert refused.advice.startswith(f"chown nobody: {shared}")
    os.chown(shared, 65534, 65534)
    assert shared_dir(tmp_path, "nobody").verdict == "ok"
    assert "there is no such account" in shared_dir(tmp_path, "hpcnobody").found
