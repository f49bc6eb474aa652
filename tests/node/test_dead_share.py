"""The shared file system dies under a real daemon: one is frozen, and not even SIGKILL ends its writers; of the other
one the server has stopped, and whoever looks at it waits, too.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from typing import NamedTuple

import pyarrow.parquet as pq
import pytest

from hpccarbon.node.control import SOCKET_NAME, ask
from hpccarbon.units import NS_PER_S
from tests.node.test_daemon import Running, wait_for
from tests.node.virtual import Node

HOOKS = Path(__file__).resolve().parents[2] / "slurm_scripts"
FROZEN_S = 8.0
JOBS = tuple(range(11, 17))

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a file system")]


class Share(NamedTuple):
    """The shared directory, how to kill it and bring it back, and where its files can be seen meanwhile."""

    path: Path
    behind: Path
    kill: Callable[[], object]
    revive: Callable[[], object]
    reads_hang: bool


@contextmanager
def frozen(tmp_path: Path, shared: Path) -> Iterator[Share]:
    """An ext4 that is frozen: writes wait in the kernel, beyond SIGKILL; what was read before can still be read."""
    if not all(map(shutil.which, ("fsfreeze", "mkfs.ext4"))):
        pytest.skip("no fsfreeze or mkfs.ext4")
    image = tmp_path / "share.img"
    with image.open("wb") as file:
        file.truncate(32 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    mounted = subprocess.run(["mount", "-o", "loop", str(image), str(shared)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no loop device to mount here: {mounted.stderr.strip()}")
    # A test that is killed while the file system is frozen would leave processes that nothing ends.
    watchdog = subprocess.Popen(["sh", "-c", f"sleep 90; fsfreeze -u '{shared}'"], stderr=subprocess.DEVNULL)

    def freeze(option: str, check: bool = True) -> None:
        subprocess.run(["fsfreeze", option, str(shared)], check=check, stderr=subprocess.DEVNULL)

    try:
        yield Share(shared, shared, lambda: freeze("-f"), lambda: freeze("-u"), reads_hang=False)
    finally:
        freeze("-u", check=False)
        watchdog.kill()
        watchdog.wait()
        subprocess.run(["umount", "-l", str(shared)])


@contextmanager
def stopped(tmp_path: Path, shared: Path) -> Iterator[Share]:
    """A file system whose server has stopped answering (FUSE): looking, reading and writing wait alike."""
    if not shutil.which("bindfs") or not Path("/dev/fuse").exists():
        pytest.skip("no bindfs or no /dev/fuse")
    behind = tmp_path / "behind"
    behind.mkdir()
    caching = "attr_timeout=0,entry_timeout=0,negative_timeout=0"
    server = subprocess.Popen(["bindfs", "-f", "-o", caching, str(behind), str(shared)])
    try:
        for _ in range(100):
            if os.path.ismount(shared):
                break
            time.sleep(0.05)
        kill, revive = (lambda number=number: server.send_signal(number) for number in (signal.SIGSTOP, signal.SIGCONT))
        yield Share(shared, behind, kill, revive, reads_hang=True)
    finally:
        server.send_signal(signal.SIGCONT)
        subprocess.run(["umount", "-l", str(shared)])
        server.terminate()
        server.wait(10)


@pytest.fixture(params=[frozen, stopped])
def share(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Share]:
    """A file system of its own at `shared`; whatever happens to the test, it is brought back."""
    shared = tmp_path / "shared"
    shared.mkdir()
    with request.param(tmp_path, shared) as made:
        yield made


@pytest.fixture
def running(tmp_path: Path, share: Share) -> Iterator[Running]:
    daemon = Running(Node(tmp_path))
    yield daemon
    if daemon.process.poll() is None:
        daemon.process.kill()
        daemon.process.wait()


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


class Took(NamedTuple):
    """What a process took: until it ended, which a busy machine prolongs, and of a CPU."""

    wall_s: float
    cpu_ms: float


def hook(run_dir: Path, kind: str, job: int) -> Took:
    """Run one of the real hooks as slurmd starts it."""
    (run_dir.parent / "hooks.env").write_text(f"HPCCARBON_RUN_DIR={run_dir}\n")
    env = {"HPCCARBON_HOOKS_ENV": str(run_dir.parent / "hooks.env"), "SLURM_JOB_ID": str(job), "SLURM_JOB_UID": "0"}
    return script([str(HOOKS / f"{kind}.sh")], env)


def script(argv: list[str], env: dict[str, str]) -> Took:
    """Run a process to its end."""
    begun, before = time.perf_counter(), getrusage(RUSAGE_CHILDREN)
    subprocess.run(argv, env=env, check=True)
    after = getrusage(RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Took(time.perf_counter() - begun, 1000 * cpu_s)


def assert_a_report_can_be_given_up(running: Running) -> None:
    """Whoever asks for figures waits for the file system. The kernel ends such a wait by a deadly signal alone."""
    argv = [sys.executable, "-m", "hpccarbon", "report", "--month", "this", "--config", str(running.config)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as report:
        time.sleep(1.5)
        assert report.poll() is None, "it waits"
        report.terminate()
        assert report.wait(5) == -signal.SIGTERM


def test_a_dead_share_holds_nobody_up_and_loses_nothing(running: Running, share: Share) -> None:
    node, run_dir = running.node, running.node.directory / "run"
    node.start(7, uid=0, cores=2)
    node.run(NS_PER_S // 2, {7: 1.0})
    time.sleep(0.5)
    share.kill()
    hooks: list[Took] = []
    answers, empty, most = [], [], 0
    jobs = iter(JOBS)
    until = time.monotonic() + FROZEN_S
    while time.monotonic() < until or len(hooks) < 2 * len(JOBS):
        job = next(jobs, None)
        if job is not None:  # its end asks for a seal within a second
            empty.append(script(["/bin/sh", "/dev/null"], {}))
            hooks.append(hook(run_dir, "prolog", job))
            node.start(job, cores=1, hooks=False)
            time.sleep(0.2)
            node.run(NS_PER_S // 10, {job: 1.0, 7: 1.0})
            time.sleep(0.3)
            node.end(job, cores=1, hooks=False)
            hooks.append(hook(run_dir, "epilog", job))
        node.run(NS_PER_S // 20, {7: 1.0})
        begun = time.monotonic()
        energy_uj = ask(run_dir / SOCKET_NAME, 7).cpu_uj
        answers.append((time.monotonic() - begun, energy_uj or 0))
        most = max(most, len(children(running.process.pid)))
        time.sleep(0.3)
    assert most == 1, "one child waits, and no other is started beside it"
    (stuck,) = children(running.process.pid)
    hangs = "DS" if share.reads_hang else "D"
    wait_for(lambda: state_of(stuck) in hangs, "the child to hang in the kernel")
    if share.reads_hang:
        assert_a_report_can_be_given_up(running)
    assert max(took for took, _ in answers) < 1, "a reading that is asked for comes at once"
    energies = [energy for _, energy in answers]
    assert energies == sorted(energies), "and none knows less than the one before"
    assert len(set(energies)) > len(energies) / 2, "most of them more: on a busy machine two may come by one tick"
    own_ms = min(took.cpu_ms for took in hooks) - min(took.cpu_ms for took in empty)
    assert own_ms < 5, f"hooks write to the node's own memory: {own_ms:.1f} ms more than a script that does nothing"
    assert max(took.wall_s for took in hooks) < 1, "none of them waits for the file system"
    assert not list((share.behind / "shards").rglob("*.parquet"))

    share.revive()
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
