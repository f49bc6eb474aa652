"""The systemd units: what they expose, by systemd's own judge, and that the daemon lives with what is left to it."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import time
from functools import cache
from pathlib import Path

import pytest

from hpccarbon.units import NS_PER_S
from tests.node.test_daemon import Running
from tests.node.virtual import Node
from tests.security.accounts import open_place

UNITS = Path(__file__).resolve().parent.parent.parent / "slurm_scripts" / "systemd"
EXPOSURE = {"hpccarbon.service": 1.8, "hpccarbon-aggregate.service": 1.2}
"""What docs/security.md says; 10 is a unit without any hardening."""
needs_judge = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze")


def settings(unit: str) -> list[tuple[str, str]]:
    lines = (line for line in (UNITS / unit).read_text().splitlines() if not line.startswith("#"))
    return [(key, value) for key, sign, value in (line.partition("=") for line in lines) if sign]


def test_the_daemon_may_write_its_metrics_where_the_docs_put_them() -> None:
    page = (UNITS.parent.parent / "docs" / "dashboards.md").read_text()
    (place,) = re.findall(r'^textfile = "(\S+)/[^/]+\.prom"', page, re.MULTILINE)
    assert ("ReadWritePaths", f"-{place}") in settings("hpccarbon.service")


@needs_judge
@pytest.mark.parametrize("unit", EXPOSURE)
def test_the_exposure_is_what_the_docs_say(unit: str) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(UNITS / unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    if found is None:
        pytest.skip(f"this systemd-analyze judges no files: {done.stderr.strip()}")
    assert float(found[1]) <= EXPOSURE[unit]
    page = (UNITS.parent.parent / "docs" / "security.md").read_text()
    assert f"| `{unit}` | {EXPOSURE[unit]} |" in page


@cache
def expanded(name: str) -> frozenset[str]:
    """The system calls of a systemd set such as @system-service."""
    text = subprocess.run(
        ["systemd-analyze", "syscall-filter", name], capture_output=True, text=True, check=True
    ).stdout
    words = [line.strip() for line in text.splitlines()[1:] if line.strip() and not line.strip().startswith("#")]
    return frozenset().union(*(expanded(word) if word.startswith("@") else {word} for word in words))


def allowed(unit: str) -> set[str]:
    """What SystemCallFilter= leaves, as systemd adds it up: the first line makes the list, later ones change it."""
    calls = set(expanded("@default"))
    for key, value in settings(unit):
        if key == "SystemCallFilter":
            removes = value.startswith("~")
            for word in value.removeprefix("~").split():
                named = expanded(word) if word.startswith("@") else {word}
                calls = calls - named if removes else calls | named
    return calls


@pytest.mark.root
@needs_judge
@pytest.mark.skipif(os.geteuid() != 0 or not (shutil.which("setpriv") and shutil.which("strace")), reason="needs root")
def test_the_daemon_and_its_seal_need_no_more_than_the_unit_leaves() -> None:
    """Capabilities are really taken away (setpriv); system calls are traced and held against the filter."""
    with open_place() as place:
        _live(place)


def _live(tmp_path: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    shared, trace = tmp_path / "shared", tmp_path / "trace"
    shared.mkdir()
    os.chown(shared, nobody.pw_uid, nobody.pw_gid)
    given = dict(settings("hpccarbon.service"))["CapabilityBoundingSet"].split()
    bounding = ",".join(["-all", *(f"+{name.removeprefix('CAP_').lower()}" for name in given)])
    before = ["strace", "-D", "-f", "-qq", "-o", str(trace), "setpriv", "--no-new-privs", "--bounding-set", bounding]
    node = Node(tmp_path / "node")
    daemon = Running(node, 'seal_user = "nobody"\n', before)
    (tmp_path / "node").chmod(0o755)
    config = daemon.config.read_text().replace(f"{tmp_path}/node/shared", str(shared))
    daemon.process.kill()
    daemon.process.wait()
    daemon.config.write_text(config)
    daemon.start()
    node.start(7)
    node.run(NS_PER_S // 2, {7: 1.0})
    time.sleep(0.5)
    node.end(7)
    assert daemon.stop() == 0
    log = daemon.log.read_text()
    shards = list((shared / "shards").rglob("*.parquet"))
    assert [path.stat().st_uid for path in shards] == [nobody.pw_uid], log
    lines = trace.read_text().splitlines()
    python = next(at for at, line in enumerate(lines) if re.search(r'execve\("[^"]*python', line))
    used = {found[1] for line in lines[python:] if (found := re.match(r"\d+ +([a-z0-9_]+)\(", line))}
    assert "setresuid" in used or "setuid" in used
    assert used - allowed("hpccarbon.service") == set()
