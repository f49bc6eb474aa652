"""The shared file system dies under a real daemon: a real one, frozen, whose writers not even SIGKILL ends."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from hpccarbon.node.control import SOCKET_NAME, ask
from hpccarbon.units import NS_PER_S
from tests.node.test_daemon import Running, wait_for
from tests.node.virtual import Node

HOOKS = Path(__file__).resolve().parents[2] / "slurm_scripts"
FROZEN_S = 8.0
JOBS = tuple(range(11, 17))

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount and freeze a file system"),
    pytest.mark.skipif(not all(map(shutil.which, ("fsfreeze", "mkfs.ext4"))), reason="no fsfreeze or mkfs.ext4"),
]


@pytest.fixture
def share(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own at `shared`; whatever happens to the test, it is thawed."""
    image, share = tmp_path / "share.img", tmp_path / "shared"
    share.mkdir()
    with image.open("wb") as file:
        file.truncate(32 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    mounted = subprocess.run(["mount", "-o", "loop", str(image), str(share)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no loop device to mount here: {mounted.stderr.strip()}")
    # A test that is killed while the file system is frozen would leave processes that nothing ends.
    watchdog = subprocess.Popen(["sh", "-c", f"sleep 90; fsfreeze -u '{share}'"], stderr=subprocess.DEVNULL)
    try:
        yield share
    finally:
        subprocess.run(["fsfreeze", "-u", str(share)], stderr=subprocess.DEVNULL)
        watchdog.kill()
        watchdog.wait()
        subprocess.run(["umount", "-l", str(share)])


@pytest.fixture
def running(tmp_path: Path, share: Path) -> Iterator[Running]:
    daemon = Running(Node(tmp_path))
    yield daemon
    if daemon.process.poll() is None:
        daemon.process.kill()
        daemon.process.wait()


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def hook_ms(run_dir: Path, kind: str, job: int) -> float:
    """How long one of the real hooks takes, as slurmd starts it."""
    (run_dir.parent / "hooks.env").write_text(f"HPCCARBON_RUN_DIR={run_dir}\n")
    env = {"HPCCARBON_HOOKS_ENV": str(run_dir.parent / "hooks.env"), "SLURM_JOB_ID": str(job), "SLURM_JOB_UID": "0"}
    return script_ms([str(HOOKS / f"{kind}.sh")], env)


def script_ms(argv: list[str], env: dict[str, str]) -> float:
    """How long a process takes, from its start to its end."""
    begun = time.perf_counter()
    subprocess.run(argv, env=env, check=True)
    return 1000 * (time.perf_counter() - begun)


def test_a_dead_share_holds_nobody_up_and_loses_nothing(running: Running, share: Path) -> None:
    node, run_dir = running.node, running.node.directory / "run"
    node.start(7, uid=0, cores=2)
    node.run(NS_PER_S // 2, {7: 1.0})
    time.sleep(0.5)
    subprocess.run(["fsfreeze", "-f", str(share)], check=True)
    answers, hooks, empty, most = [], [], [], 0
    jobs = iter(JOBS)
    until = time.monotonic() + FROZEN_S
    while time.monotonic() < until:
        job = next(jobs, None)
        if job is not None:  # its end asks for a seal within a second
            empty.append(script_ms(["/bin/sh", "/dev/null"], {}))
            hooks.append(hook_ms(run_dir, "prolog", job))
            node.start(job, cores=1, hooks=False)
            time.sleep(0.2)
            node.run(NS_PER_S // 10, {job: 1.0, 7: 1.0})
            time.sleep(0.3)
            node.end(job, cores=1, hooks=False)
            hooks.append(hook_ms(run_dir, "epilog", job))
        node.run(NS_PER_S // 20, {7: 1.0})
        begun = time.monotonic()
        energy_uj = ask(run_dir / SOCKET_NAME, 7).cpu_uj
        answers.append((time.monotonic() - begun, energy_uj or 0))
        most = max(most, len(children(running.process.pid)))
        time.sleep(0.3)
    assert most == 1, "one child waits, and no other is started beside it"
    (stuck,) = children(running.process.pid)
    assert Path(f"/proc/{stuck}/stat").read_text().rsplit(")", 1)[1].split()[0] == "D", "it really hangs in the kernel"
    assert max(took for took, _ in answers) < 1, "a reading that is asked for comes at once"
    energies = [energy for _, energy in answers]
    assert energies == sorted(set(energies)), "and each knows more than the one before"
    own_ms = statistics.median(hooks) - statistics.median(empty)
    assert own_ms < 5, f"hooks write to the node's own memory: {own_ms:.1f} ms more than a script that does nothing"
    assert running.shards() == []

    subprocess.run(["fsfreeze", "-u", str(share)], check=True)
    wait_for(running.shards, "the shard that waited")
    node.end(7, cores=2)
    time.sleep(0.5)
    assert running.stop() == 0
    rows = [row for path in running.shards() for row in pq.read_table(path).to_pylist()]
    assert {row["job_id"] for row in rows if row["holder"] == "job"} == {7, *JOBS}
    for column in ("cpu_uj", "dram_uj"):
        held = sum(row[column] or 0 for row in rows if row["holder"] != "meter")
        assert held == sum(row[column] or 0 for row in rows if row["holder"] == "meter") > 0
    job7 = [row for row in rows if row["job_id"] == 7]
    assert sum(row["covered_ms"] for row in job7) == sum(row["present_ms"] for row in job7)
