"""The daemon as a real process on a virtual node: store, seal, kill, stop; what it weighs and what it never loads."""

from __future__ import annotations

import os
import pwd
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from msgspec.structs import replace

from hpccarbon.errors import StoreError
from hpccarbon.node import control, seal
from hpccarbon.node import daemon as daemon_module
from hpccarbon.node.daemon import SEAL_LIMIT_NS, Daemon, Lock, SealChild
from hpccarbon.node.sampler import Mark, Pending, Sampler
from hpccarbon.node.store import Store
from hpccarbon.schema import SHARD
from hpccarbon.units import NS_PER_S
from tests import refused
from tests.node.virtual import BOOT, Node, tick


def wait_for(condition: Callable[[], object], what: str, timeout_s: float = 15) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        time.sleep(0.02)


class Running:
    """`python -m hpccarbon daemon` on a virtual node whose time is the real one."""

    def __init__(
        self, node: Node, keys: str = "", before: Sequence[str] = (), pid_file: bool = True, name: str = "n1"
    ) -> None:
        """`before` is a command that the daemon's is given to: it must become the daemon, so that signals reach it.

        Without `pid_file` none will be there.
        """
        self.node = node
        self.before = before
        self.name = name
        self.sign = node.directory / "run" / ("daemon.pid" if pid_file else control.SOCKET_NAME)
        base = node.directory
        self.config = base / "site.toml"
        self.config.write_text(
            f'cluster = "virtual"\n[paths]\nstate_dir = "{base}/state"\nrun_dir = "{base}/run"\n'
            f'shared_dir = "{base}/shared"\n'
            f'[daemon]\nroot = "{node.root}"\ninterval_s = 0.1\nseal_after_job_s = 1\n{keys}'
        )
        self.log = base / "daemon.log"
        self.start()

    def start(self) -> None:
        self.sign.unlink(missing_ok=True)
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [
                    *self.before,
                    *(sys.executable, "-m", "hpccarbon", "daemon", "--config", str(self.config), "--node", self.name),
                ],
                stderr=log,
            )
        wait_for(self.sign.exists, f"the daemon: {self.log.read_text()}")
        time.sleep(0.3)

    def shards(self) -> list[Path]:
        return sorted((self.node.directory / "shared" / "shards").rglob("*.parquet"))

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    daemon = Running(Node(tmp_path))
    yield daemon
    if daemon.process.poll() is None:
        daemon.process.kill()
        daemon.process.wait()


def test_sigterm_seals_and_exits_0(running: Running) -> None:
    node = running.node
    node.start(7, cores=2)
    time.sleep(0.3)
    node.run(NS_PER_S // 2, {7: 1.0})
    time.sleep(0.3)
    assert running.stop() == 0
    rows = [row for path in running.shards() for row in pq.read_table(path).to_pylist()]
    assert {row["holder"] for row in rows} == {"job", "system", "unallocated", "meter"}
    for column in ("cpu_uj", "dram_uj"):
        held = sum(row[column] or 0 for row in rows if row["holder"] != "meter")
        assert held == sum(row[column] or 0 for row in rows if row["holder"] == "meter") > 0
    (job,) = {row["job_id"] for row in rows if row["holder"] == "job"}
    assert job == 7
    assert sum(row["cpu_time_us"] for row in rows if row["holder"] == "job") == 500_000
    assert not (node.directory / "run" / "daemon.pid").exists()


def test_a_node_whose_cpus_are_taken_seals_in_time(running: Running) -> None:
    """One CPU stands for all of the node's: the daemon, its seal and a job's process that never waits share it."""
    cpu = {min(os.sched_getaffinity(0))}
    os.sched_setaffinity(running.process.pid, cpu)
    busy = subprocess.Popen([sys.executable, "-c", f"import os; os.sched_setaffinity(0, {cpu})\nwhile True: pass"])
    try:
        running.node.start(7, cores=2)
        time.sleep(0.3)
        running.node.end(7, cores=2)
        wait_for(running.shards, "a shard after the job's end", 30)
        assert running.stop() == 0
    finally:
        busy.kill()
        busy.wait()
    assert "did not end in time" not in running.log.read_text()


def test_kill_9_and_a_restart_lose_nothing(running: Running) -> None:
    node = running.node
    node.start(7, cores=2)
    time.sleep(0.3)
    node.end(7, cores=2)
    wait_for(running.shards, "a shard after the job's end")
    begun = dict(node.total_uj)
    running.process.kill()
    running.process.wait()
    node.run(NS_PER_S // 2, system=1.0)  # while no daemon runs
    running.start()
    node.run(NS_PER_S // 2, system=1.0)
    time.sleep(0.3)
    assert running.stop() == 0
    grown = sum(node.total_uj[zone] - begun[zone] for zone in ("intel-rapl:0", "intel-rapl:1"))
    rows = [row for path in running.shards() for row in pq.read_table(path).to_pylist()]
    assert sum(row["cpu_uj"] or 0 for row in rows if row["holder"] == "meter") == grown
    assert "continuing from the store" in running.log.read_text()


def test_a_second_daemon_on_the_same_store_is_refused(running: Running) -> None:
    again = subprocess.run(
        [sys.executable, "-m", "hpccarbon", "daemon", "--config", str(running.config), "--node", "n1"],
        capture_output=True, text=True, timeout=20,
    )  # fmt: skip
    assert again.returncode == 1
    assert f"pid {running.process.pid}" in again.stderr
    assert "Traceback" not in again.stderr


def test_it_never_loads_what_reports_need(running: Running) -> None:
    maps = Path(f"/proc/{running.process.pid}/maps").read_text()
    for name in ("pyarrow", "numpy", "pandas", "duckdb"):
        assert name not in maps
    pss = next(
        int(line.split()[1])
        for line in Path(f"/proc/{running.process.pid}/smaps_rollup").read_text().splitlines()
        if line.startswith("Pss:")
    )
    assert pss <= 25 * 1024, f"{pss} KiB"
    assert len(list(Path(f"/proc/{running.process.pid}/task").iterdir())) == 1


@pytest.mark.root
def test_the_sealing_child_drops_to_its_user(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    nobody = pwd.getpwnam("nobody")
    node = Node(tmp_path)
    shared = tmp_path / "shared"
    shared.mkdir()
    os.chown(shared, nobody.pw_uid, nobody.pw_gid)
    for path in (tmp_path, *tmp_path.parents[:2]):
        path.chmod(0o755)
    daemon = Running(node, 'seal_user = "nobody"\n')
    node.run(NS_PER_S // 2, system=1.0)
    time.sleep(0.3)
    assert daemon.stop() == 0
    shards = daemon.shards()  # two where an hour ended meanwhile
    assert shards, daemon.log.read_text()
    assert {shard.stat().st_uid for shard in shards} == {nobody.pw_uid}
    assert (tmp_path / "state").stat().st_uid == 0
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0


def test_what_was_left_unsealed_is_sealed_within_a_minute_of_the_next_start(tmp_path: Path) -> None:
    """Not after seal_s, a quarter of an hour here: somebody may wait for a job that a crash ended."""
    shards = tmp_path / "shared" / "shards"
    shards.parent.mkdir()
    shards.touch()  # nothing can be sealed
    daemon = Running(Node(tmp_path), name="n2")  # whose phase is two seconds
    assert daemon.stop() == 0
    shards.unlink()
    daemon.start()
    wait_for(daemon.shards, f"a shard: {daemon.log.read_text()}")
    assert daemon.stop() == 0


def test_a_seal_user_that_does_not_exist_is_said(tmp_path: Path) -> None:
    daemon = Running(Node(tmp_path), 'seal_user = "no-such-user"\n')
    assert daemon.stop() == 0
    assert "no user 'no-such-user'" in daemon.log.read_text()
    assert daemon.shards() == []


def settled(node: Node, sampler: Sampler) -> tuple[Pending, Mark]:
    tick(sampler, node)
    node.run(NS_PER_S, system=0.5)
    tick(sampler, node)
    mark = sampler.settle()
    assert mark is not None
    return sampler.pending, mark


def test_what_is_sealed_reads_back_equal(tmp_path: Path) -> None:
    node = Node(tmp_path)
    sampler = node.sampler()
    node.start(7, uid=1234, cores=2)
    pending, mark = settled(node, sampler)
    store = Store(tmp_path / "store.sqlite", "virtual", "n1")
    store.commit(pending, mark, sampler.channels, "{}")
    (hour,) = store.hours(unsealed=True)
    assert hour.boot_id == BOOT
    table = seal.shard_table(list(store.shares(hour)), list(store.meters(hour)), {"schema": "shard"})
    path = seal.shard_path(tmp_path / "shards", "virtual", "n1", BOOT, hour.hour)
    seal.write_shard(table, path, tmp_path / "shards")
    back = pq.read_table(path, partitioning=None)  # older pyarrows take columns from the path
    assert back.schema.names == [column.name for column in SHARD]
    assert back.to_pylist() == table.to_pylist()
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no temporary name is left
    store.mark_sealed([(hour.boot_id, hour.hour, hour.version)])
    assert store.hours(unsealed=True) == []
    assert store.drop_before(hour.hour) == 0
    assert store.drop_before(hour.hour + 1) == 1
    assert store.hours() == []


def test_a_run_outlives_the_hours_that_are_kept(tmp_path: Path) -> None:
    node = Node(tmp_path)
    sampler = node.sampler()
    node.start(7, cores=2)
    store = Store(tmp_path / "store.sqlite", "virtual", "n1")
    tick(sampler, node)
    for _ in range(6):
        for _ in range(60):
            node.run(60 * NS_PER_S, {7: 1.0})
            tick(sampler, node)
        mark = sampler.settle()
        assert mark is not None
        store.commit(sampler.pending, mark, sampler.channels, "{}")
        sampler.committed()
        store.mark_sealed([(hour.boot_id, hour.hour, hour.version) for hour in store.hours()])
        store.drop_before(max(hour.hour for hour in store.hours()))
    (hour,) = store.hours()
    assert {row.run.job_id for row in store.shares(hour) if row.run} == {7}
    store.close()


def test_a_commit_that_fails_leaves_everything_pending(tmp_path: Path) -> None:
    node = Node(tmp_path)
    sampler = node.sampler()
    pending, mark = settled(node, sampler)
    store = Store(tmp_path / "store.sqlite", "virtual", "n1")
    blocker = sqlite3.connect(tmp_path / "store.sqlite", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError):
        store.commit(pending, mark, sampler.channels, "{}")
    blocker.execute("ROLLBACK")
    assert store.hours() == []
    assert pending
    store.commit(pending, mark, sampler.channels, "{}")
    assert len(store.hours()) == 1


def test_a_store_of_another_node_is_refused(tmp_path: Path) -> None:
    Store(tmp_path / "store.sqlite", "virtual", "n1").close()
    with pytest.raises(StoreError, match="belongs to virtual/n1, not to virtual/n2"):
        Store(tmp_path / "store.sqlite", "virtual", "n2")
    (tmp_path / "text").write_text("this is no database, and longer than a header of one hundred bytes " * 4)
    with pytest.raises(StoreError, match="not a database"):
        Store(tmp_path / "text", "virtual", "n1")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("DROP TABLE hour", "damaged: no such table: hour"),
        ("UPDATE state SET value = '{' WHERE key = 'mark'", "damaged: Input data was truncated"),
        ("UPDATE state SET value = replace(value, '\"7/', '\"seven/') WHERE key = 'mark'", "damaged: no run 'seven/"),
        ("UPDATE run SET facts = '{}'", "damaged: Object missing required field"),
        ("DELETE FROM run", r"damaged: shares of a run that is not there \(\d+\)"),
        ("UPDATE state SET value = '99' WHERE key = 'version'", "written by schema version 99, this release reads"),
    ],
)
def test_a_damaged_store_is_named_with_what_to_do(tmp_path: Path, damage: str, said: str) -> None:
    node = Node(tmp_path)
    sampler = node.sampler()
    node.start(7, cores=2)
    pending, mark = settled(node, sampler)
    path = tmp_path / "store.sqlite"
    store = Store(path, "virtual", "n1")
    store.commit(pending, mark, sampler.channels, "{}")
    store.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        assert other.execute(damage).rowcount != 0
    with pytest.raises(StoreError, match=said) as told:
        store = Store(path, "virtual", "n1")
        store.resume()
        for hour in store.hours():
            list(store.shares(hour))
    assert str(path) in str(told.value)
    assert "move it away" in str(told.value) or "move the file away" in str(told.value)


def test_one_child_seals_at_a_time(tmp_path: Path) -> None:
    first = seal.hold(tmp_path, 0)
    assert first is not None
    assert seal.hold(tmp_path, 0.1) is None
    os.close(first)
    second = seal.hold(tmp_path, 0)
    assert second is not None
    os.close(second)


def sealable(tmp_path: Path) -> Path:
    """A store with an hour to seal; the configuration that leads to it."""
    node = Node(tmp_path)
    sampler = node.sampler()
    pending, mark = settled(node, sampler)
    (tmp_path / "state").mkdir()
    store = Store(tmp_path / "state" / seal.STORE_NAME, "virtual", "n1")
    store.commit(pending, mark, sampler.channels, "{}")
    store.close()
    config = tmp_path / "hpccarbon.toml"
    config.write_text(
        f'cluster = "virtual"\n[paths]\nstate_dir = "{tmp_path}/state"\nrun_dir = "{tmp_path}/run"\n'
        f'shared_dir = "{tmp_path}/shared"\n'
    )
    return config


def test_a_child_whose_daemon_is_gone_ends_without_a_word(tmp_path: Path) -> None:
    """The shard is whole; nobody was told, so the next daemon's child writes it again."""
    config = sealable(tmp_path)
    reading, writing = os.pipe()
    os.close(reading)
    argv = [sys.executable, "-m", "hpccarbon.node.seal", str(config), "n1"]
    done = subprocess.run(argv, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")
    assert len(list((tmp_path / "shared").rglob("*.parquet"))) == 1
    again = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert again.returncode == 0
    assert again.stdout.count("\n") >= 1


def sealed(config: Path) -> list[Path]:
    return sorted((config.parent / "shared").rglob("*.parquet"))


def test_a_shared_directory_that_cannot_be_written_costs_no_row(tmp_path: Path) -> None:
    config = sealable(tmp_path)
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "shards").touch()
    argv = [sys.executable, "-m", "hpccarbon.node.seal", str(config), "n1"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr.startswith(f"seal: cannot write {tmp_path}/shared/shards/virtual/") and "File exists" in done.stderr
    )
    (tmp_path / "shared" / "shards").unlink()
    argv.insert(1, "-B")  # the first rename must not be that of a .pyc
    for calls, error in (("fsync", "ENOSPC"), ("renameat,renameat2", "EROFS")):
        done = refused.run(argv, calls, error, when="1")  # those after it may be coverage's
        assert (done.returncode, done.stdout) == (1, ""), "what is not safe on disk is not told as sealed"
        assert "seal: cannot write" in done.stderr and "Traceback" not in done.stderr
        assert [path.name for path in (tmp_path / "shared").rglob("*") if path.is_file()] == []
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert (done.returncode, len(sealed(config))) == (0, 1)
    assert done.stdout.split()[0] == BOOT


@pytest.mark.root
def test_a_child_that_may_not_become_its_user_writes_nothing_as_root(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    config = sealable(tmp_path)
    config.write_text(config.read_text() + '[daemon]\nseal_user = "nobody"\n')
    argv = [sys.executable, "-m", "hpccarbon.node.seal", str(config), "n1"]
    done = refused.run(argv, "setuid", "EPERM")
    assert (done.returncode, done.stdout, sealed(config)) == (1, "", [])
    assert done.stderr.startswith("seal: ") and "nobody" in done.stderr and "Traceback" not in done.stderr


def test_a_daemon_waits_a_moment_for_the_one_that_was_killed(tmp_path: Path) -> None:
    held = Lock(tmp_path)
    threading.Timer(0.3, held.release).start()
    Lock(tmp_path).release()


def test_a_daemon_that_stays_is_named(tmp_path: Path) -> None:
    held = Lock(tmp_path)
    with pytest.raises(StoreError, match=f"pid {os.getpid()}\\) already serves"):
        Lock(tmp_path)
    held.release()


# ---- what a machine refuses ------------------------------------------------------------------------------------------


@pytest.fixture
def still(tmp_path: Path) -> Iterator[tuple[Daemon, Node]]:
    """A daemon in this process, whose loop does not turn by itself."""
    node = Node(tmp_path)
    daemon = Daemon(node.config(), None, "n1")
    yield daemon, node
    daemon.close()


def test_a_store_that_refuses_is_said_once_and_nothing_is_lost(
    still: tuple[Daemon, Node], capfd: pytest.CaptureFixture[str]
) -> None:
    daemon, node = still
    settled(node, daemon.sampler)
    blocker = sqlite3.connect(node.directory / "state" / seal.STORE_NAME, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    assert [daemon.commit(), daemon.commit()] == [False, False]
    blocker.execute("ROLLBACK")
    assert [daemon.commit(), daemon.commit()] == [True, True]
    blocker.close()
    assert capfd.readouterr().err.splitlines() == [
        "hpccarbon: store: database is locked; sampling goes on, rows are kept in memory until"
        f" {node.directory}/state can be written again",
        "hpccarbon: store: can be written again; nothing was lost",
    ]
    booked = sum(row.energy_uj for hour in daemon._store.hours() for row in daemon._store.meters(hour))
    assert booked == sum(node.total_uj.values())


def test_what_the_limit_cost_is_said(still: tuple[Daemon, Node], capfd: pytest.CaptureFixture[str]) -> None:
    daemon, node = still
    jobs = range(1, 10)
    for job in jobs:
        node.start(job)
    tick(daemon.sampler, node)
    while len(daemon._store.hours()) < 3:
        for _ in range(60):
            node.run(60 * NS_PER_S, dict.fromkeys(jobs, 0.1))
            tick(daemon.sampler, node)
        assert daemon.commit()
    first = daemon._store.hours()[0]
    daemon.config = replace(
        daemon.config, daemon=replace(daemon.config.daemon, store_limit_mb=0.1)
    )  # no site may choose so little
    blocker = sqlite3.connect(node.directory / "state" / seal.STORE_NAME, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    daemon._keep_small(node.at_ns, node.wall_ns)
    daemon._take_sealed([(first.boot_id, first.hour, first.version)])
    blocker.close()
    daemon._keep_small(node.at_ns, node.wall_ns)
    assert daemon._store.used_bytes() <= 100_000
    daemon._keep_small(node.at_ns, node.wall_ns)
    locked, unmarked, lost = capfd.readouterr().err.splitlines()
    assert locked == "hpccarbon: store: database is locked; it cannot be held within 0.1 MB now"
    assert unmarked == "hpccarbon: store: database is locked; the next seal repeats the last one"
    begin = time.strftime("%Y-%m-%dT%HZ", time.gmtime(first.hour * 3600))
    assert lost.startswith("hpccarbon: store: at its limit of 0.1 MB: ") and f"hour(s) from {begin} to " in lost
    assert lost.endswith("bring paths.shared_dir back, or raise daemon.store_limit_mb")


def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """What stands in the place of the Python that runs this: the child is something else."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))


def test_a_child_that_cannot_be_started_costs_no_row_and_no_descriptor(
    still: tuple[Daemon, Node], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    daemon, node = still
    settled(node, daemon.sampler)
    assert daemon.commit()
    monkeypatch.setattr(sys, "executable", "/nowhere/python")  # it was replaced while the daemon ran
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        daemon._start_seal(0)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    said = capfd.readouterr().err.splitlines()
    assert said == ["hpccarbon: seal: cannot start (No such file or directory); the rows stay in the store"] * 3
    assert len(daemon._store.hours(unsealed=True)) == 1


def test_a_child_that_hangs_is_ended_after_ten_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    script(tmp_path, monkeypatch, "exec sleep 600")
    child = SealChild(None, "n1")
    child.start(0)
    assert (child.running, child.poll(1), child.running_ns(7)) == (True, None, 7)
    assert [child.poll(SEAL_LIMIT_NS + 1) for _ in range(2)] == [None, None] or not child.running
    wait_for(lambda: not child.running or child.poll(SEAL_LIMIT_NS + 2) == [], "the child's end")
    assert not child.running
    assert capfd.readouterr().err == (
        "hpccarbon: seal: still writing after 600 s (is the shared file system away?); killed\n"
    )


def test_only_what_the_child_says_whole_is_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path, monkeypatch, f"printf '{BOOT} 5 2\\nTraceback (most recent\\n{BOOT} x 2\\n{BOOT} 6'")
    child = SealChild(None, "n1")
    child.start(0)
    deadline = time.monotonic() + 15
    while (said := child.poll(1)) is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert said == [(BOOT, 5, 2)]


def test_a_daemon_that_is_told_to_stop_does_not_wait_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    node = Node(tmp_path)
    daemon = Daemon(node.config(), None, "n1")
    settled(node, daemon.sampler)
    script(tmp_path, monkeypatch, "exec sleep 600")
    monkeypatch.setattr(daemon_module, "STOP_WAIT_S", 0.2)
    assert daemon.commit()
    daemon._finish()
    said = capfd.readouterr().err
    assert "seal: did not end in time; the rows stay in the store and the next start brings them" in said
    assert said.endswith("hpccarbon: stopped\n")
    os.kill(daemon._seal._pid, signal.SIGKILL)
    os.waitpid(daemon._seal._pid, 0)
    Lock(tmp_path / "state").release()


@pytest.mark.parametrize(
    ("calls", "error", "at", "said"),
    [
        ("flock", "ENOLCK", "state/daemon.lock", "cannot lock DIR/state/daemon.lock: No locks available (put paths."),
        ("mkdir", "EROFS", "state", "cannot create DIR/state/daemon.lock: Read-only file system (paths.state_dir must"),
        ("mkdir", "EROFS", "run/jobs", "cannot create DIR/run/jobs: Read-only file system (paths.run_dir must be"),
    ],
    ids=["lock", "state", "run"],
)
def test_a_daemon_that_cannot_begin_says_which_setting_is_to_blame(
    tmp_path: Path, calls: str, error: str, at: str, said: str
) -> None:
    node = Node(tmp_path, make_run_dir=False)
    config = tmp_path / "site.toml"
    config.write_text(
        f'cluster = "virtual"\n[paths]\nstate_dir = "{tmp_path}/state"\nrun_dir = "{tmp_path}/run"\n'
        f'shared_dir = "{tmp_path}/shared"\n[daemon]\nroot = "{node.root}"\n'
    )
    argv = [sys.executable, "-m", "hpccarbon", "daemon", "--config", str(config), "--node", "n1"]
    done = refused.run(argv, calls, error, tmp_path / at)
    assert done.returncode == 1, done.stderr
    assert said.replace("DIR", str(tmp_path)) in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(bool(refused.missing()), reason=refused.missing() or "strace")
def test_a_kernel_that_watches_nothing_and_a_full_run_dir_cost_no_energy(tmp_path: Path) -> None:
    """No inotify instance is left, and the pid file cannot be written: jobs are found at every tick all the same."""
    node = Node(tmp_path)
    blind = refused.before("inotify_init1", "EMFILE")
    full = refused.before("openat", "ENOSPC", tmp_path / "run" / "daemon.pid")
    for before, line in ((blind, "the kernel watches no more"), (full, "daemon.pid: No space left on device")):
        node.start(7, cores=2)
        daemon = Running(node, before=before, pid_file=before is blind)
        node.run(NS_PER_S // 2, {7: 1.0})
        time.sleep(0.3)
        assert daemon.stop() == 0
        assert line in daemon.log.read_text() and "Traceback" not in daemon.log.read_text()
        node.end(7, cores=2)
    rows = [row for path in daemon.shards() for row in pq.read_table(path).to_pylist()]
    assert sum(row["cpu_time_us"] for row in rows if row["holder"] == "job") == 1_000_000


def test_a_sensor_that_fails_is_named_at_the_start(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    node = Node(tmp_path)
    (node.root / "sys/class/powercap/intel-rapl:1/energy_uj").write_text("none\n")
    daemon = Daemon(node.config(), None, "n1")
    daemon._introduce(False)
    daemon.close()
    said = capfd.readouterr().err
    assert "node n1 of cluster virtual: 8 CPUs, with a new store; reading rapl/intel-rapl:0" in said
    assert "hpccarbon: gap: rapl/intel-rapl:1: " in said


def test_a_service_manager_that_is_gone_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    daemon_module._notify_systemd("READY=1")
    assert "NOTIFY_SOCKET" not in os.environ
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(f"\0hpccarbon-test-{os.getpid()}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@hpccarbon-test-{os.getpid()}")
        daemon_module._notify_systemd("WATCHDOG=1")
        assert ear.recv(64) == b"WATCHDOG=1"
