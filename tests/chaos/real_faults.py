"""The faults that need real processes and real file systems: SIGKILL, and disks that are full.

A real `hpccarbon daemon` reads a virtual node's files in real time, with the real hooks beside it.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from hpccarbon.units import NS_PER_MS
from tests.chaos.outcome import Durations, Outcome
from tests.node.test_daemon import Running
from tests.node.virtual import Node

HOOK_MS = 5.0
SCRIPTS = Path(__file__).resolve().parents[2] / "slurm_scripts"


class HookedNode(Node):
    """A node whose prologs and epilogs are the real scripts, run as slurmd runs them, and timed."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.hooks, self.empty = Durations(), Durations()
        self.failed_hooks = 0
        self._settings = directory / "hooks.env"
        self._settings.write_text(f"HPCCARBON_RUN_DIR='{directory}/run'\n")

    def hook(self, job: int, restart: int, kind: str, uid: int, cores: int) -> None:
        """Run the script; and before it one that does nothing, for what the machine takes to start a shell."""
        variables = {
            "HPCCARBON_HOOKS_ENV": str(self._settings),
            "SLURM_JOB_ID": str(job),
            "SLURM_JOB_RESTART_COUNT": str(restart),
            "SLURM_JOB_UID": str(uid),
            "SLURM_JOB_USER": f"user{uid}",
            "SLURM_JOB_ACCOUNT": "acct",
            "SLURM_JOB_CPUS_PER_NODE": str(cores),
            "SLURM_JOB_NODELIST": "n1",
            "SLURMD_NODENAME": "n1",
        }
        with self.empty.timed():
            subprocess.run(["/bin/sh", "/dev/null"], env=variables, timeout=30, check=True)
        with self.hooks.timed():
            done = subprocess.run(["/bin/sh", str(SCRIPTS / f"{kind}.sh")], env=variables, timeout=30)
        self.failed_hooks += done.returncode != 0


class Cluster:
    """A cluster of one node: its daemon, and the commands that make a ledger of what it wrote."""

    def __init__(self, node: HookedNode) -> None:
        self.node = node
        self.daemon = Running(node)  # commits its first counters with its first tick
        self.began_uj = dict(node.total_uj)
        self.jobs = 0

    def job(self, rng: random.Random) -> None:
        """A job of a few tenths of a second."""
        self.jobs += 1
        self.node.start(self.jobs, cores=2)
        time.sleep(0.12)
        self.node.run(rng.randint(100, 300) * NS_PER_MS, {self.jobs: 1.0}, rng.random())
        time.sleep(0.12)
        self.node.end(self.jobs, cores=2)

    def command(self, *words: str) -> subprocess.Popen[str]:
        """Start a command of hpccarbon."""
        return subprocess.Popen(
            [sys.executable, "-m", "hpccarbon", *words, "--config", str(self.daemon.config)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def judge(self, outcome: Outcome) -> None:
        """Stop the daemon, make the ledger, and hold it against the node's truth."""
        import duckdb

        status = self.daemon.stop()
        outcome.expect(status == 0, f"the daemon ended with status {status}")
        for words in (("aggregate", "--no-accounting"), ("verify",)):
            process = self.command(*words)
            said, _ = process.communicate(timeout=120)
            outcome.expect(process.returncode == 0, f"{words[0]} failed: {said[-300:]}")
        ledger = self.node.directory / "shared" / "ledger"
        rows = duckdb.execute(
            f"SELECT holder, meter, job_id, cpu_uj, dram_uj FROM read_parquet('{ledger}/**/*.parquet', "
            "hive_partitioning = false, union_by_name = true)"
        ).fetchall()
        for zone, energy_uj in self.node.total_uj.items():
            drawn = energy_uj - self.began_uj[zone]
            booked = sum((cpu or 0) + (dram or 0) for _, meter, _, cpu, dram in rows if meter == f"rapl/{zone}")
            outcome.energy_lost_uj += abs(booked - drawn)
        known = {job for _, _, job, _, _ in rows if job is not None}
        outcome.jobs_lost += len(set(range(1, self.jobs + 1)) - known)
        hooks, empty = self.node.hooks, self.node.empty
        outcome.hook_ms = hooks.ms
        outcome.note = (
            f"hooks {hooks.median_ms:.1f} ms in the median, a script that does nothing"
            f" {empty.median_ms:.1f} ms, {empty.ms:.1f} ms at most"
        )
        own_ms = hooks.median_ms - empty.median_ms
        if own_ms >= HOOK_MS:
            outcome.slow.append(f"a hook takes {own_ms:.1f} ms more than a script that does nothing")
        outcome.expect(self.node.failed_hooks == 0, f"{self.node.failed_hooks} hooks failed")

    def close(self) -> None:
        """Leave no process behind."""
        if self.daemon.process.poll() is None:
            self.daemon.process.kill()
            self.daemon.process.wait()


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def killed_processes(directory: Path, rng: random.Random, short: bool) -> Outcome:
    """SIGKILL for the daemon, for its seal child and for `hpccarbon aggregate`, at random moments."""
    outcome = Outcome("SIGKILL of processes")
    cluster = Cluster(HookedNode(directory))
    killed = {"daemon": 0, "seal": 0, "aggregate": 0}
    try:
        for number in range(2 if short else 36):
            cluster.job(rng)
            deadline = time.monotonic() + rng.uniform(0.0, 2.0)
            while time.monotonic() < deadline:  # a seal follows a job's end by a second
                children = _children(cluster.daemon.process.pid)
                if children and rng.random() < 0.3:
                    time.sleep(rng.uniform(0, 0.3))
                    killed["seal"] += _kill(children[0], cluster.daemon.process.pid)
                time.sleep(0.02)
            if number % 3:
                cluster.daemon.process.kill()
                cluster.daemon.process.wait()
                killed["daemon"] += 1
                cluster.node.run(rng.randint(1, 500) * NS_PER_MS, system=1.0)  # while no daemon runs
                cluster.daemon.start()
            else:
                aggregate = cluster.command("aggregate", "--no-accounting")
                time.sleep(rng.uniform(0.05, 0.5))
                killed["aggregate"] += aggregate.poll() is None
                aggregate.kill()
                aggregate.communicate()
        cluster.judge(outcome)
    finally:
        cluster.close()
    outcome.faults = sum(killed.values())
    outcome.note = f"{', '.join(f'{count} of {name}' for name, count in killed.items())}; {outcome.note}"
    return outcome


def _kill(child: int, parent: int) -> bool:
    """Kill a child of the daemon's, unless it has ended by now."""
    if child not in _children(parent):
        return False
    os.kill(child, signal.SIGKILL)
    return True


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    """A real file system of this size. Needs root."""
    path.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "chaos", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def fill(path: Path) -> Path:
    """Take all the room there is; the file that holds it."""
    ballast = path / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return ballast


def full_disk(directory: Path, rng: random.Random, short: bool) -> Outcome:
    """The store's disk, the shared one and the temporary one run full in turn, and have room again."""
    outcome = Outcome("full disk")
    if os.geteuid() != 0:
        outcome.note = "not run: small file systems need root"
        return outcome
    with ExitStack() as stack:
        disks = {name: stack.enter_context(small_disk(directory / name, "2m")) for name in ("state", "shared", "tmp")}
        before = os.environ.get("TMPDIR")
        os.environ["TMPDIR"] = str(disks["tmp"])
        cluster = Cluster(HookedNode(directory))
        try:
            full_stores = 0
            for number in range(1 if short else 18):
                name = list(disks)[number % 3]
                ballast = fill(disks[name])
                outcome.faults += 1
                full_stores += name == "state"
                for _ in range(2):
                    cluster.job(rng)
                    time.sleep(rng.uniform(0.8, 1.5))
                ballast.unlink()
                cluster.job(rng)
                time.sleep(1.6)
            cluster.judge(outcome)
            said = cluster.daemon.log.read_text()
            lines = said.count("sampling goes on, rows are kept in memory")
            outcome.expect(lines <= full_stores, f"a full store was said {lines} times for {full_stores} faults")
            outcome.expect(lines > 0, "a full store was never said")
            outcome.expect("Traceback" not in said, "the daemon's log has a traceback")
            outcome.note = f"store full {full_stores} times, said {lines} times; {outcome.note}"
        finally:
            cluster.close()
            if before is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = before
    return outcome
