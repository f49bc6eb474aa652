"""Hours merged on other machines are the same bytes; a worker that dies costs nothing; nothing is left behind.

Below the command and through it: whoever waits for workers is at a shell, presses Ctrl-C, or is killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench.cluster import Site, build
from hpccarbon.cli.aggregate import command
from hpccarbon.config import Slurm
from hpccarbon.errors import HpcCarbonError, SlurmError
from hpccarbon.site.aggregate import aggregate
from hpccarbon.site.executor import Crew, open_crew
from hpccarbon.site.remote import Batch, dask_crew, slurm_crew
from tests.lab import Lab

pytest.importorskip("dask_jobqueue", reason="NO DASK: pip install '.[dask]'")
pytest_plugins = ("tests.lab.fixture",)
SITE = Site(nodes=4, hours=30, seed=5)
Ledger = dict[str, bytes]


@pytest.fixture(scope="module")
def made_here(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ledger]:
    """A site, and its ledger as this process writes it."""
    shared = tmp_path_factory.mktemp("site")
    build(SITE, shared)
    shared.chmod(0o755)
    with open_crew(1) as crew:
        aggregate(shared, SITE.cluster, crew)
    return shared, taken(shared)


def taken(shared: Path) -> Ledger:
    """The ledger's bytes; removes it, so that it is made again."""
    paths = sorted((shared / "ledger").rglob("*.parquet"))
    content = {str(path.relative_to(shared)): path.read_bytes() for path in paths}
    subprocess.run(["rm", "-r", str(shared / "ledger")], check=True)
    return content


def merge(shared: Path, crew: Crew, progress: Callable[[int, int], None] = lambda done, of: None) -> Ledger:
    outcome = aggregate(shared, SITE.cluster, crew, progress=progress)
    assert outcome.failed == ()
    assert outcome.hours >= SITE.hours
    return taken(shared)


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """A Dask scheduler with two workers of one thread each: processes of their own."""
    import distributed

    start: Any = distributed.LocalCluster
    with start(n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50) as cluster:
        yield cluster.scheduler_address


def test_dask_writes_the_same_bytes(made_here: tuple[Path, Ledger], scheduler: str) -> None:
    shared, expected = made_here
    with dask_crew(scheduler) as crew:
        assert (crew.workers, crew.threads(100), crew.threads(1)) == (2, 1, 2)
        assert merge(shared, crew) == expected


def test_a_dask_worker_killed_in_the_middle_costs_nothing(made_here: tuple[Path, Ledger], scheduler: str) -> None:
    import distributed

    connect: Any = distributed.Client
    shared, expected = made_here
    with connect(scheduler, set_as_default=False) as watcher, dask_crew(scheduler) as crew:
        pids = list(watcher.run(os.getpid).values())

        def kill_one(done: int, of: int) -> None:
            if pids and done < of:
                os.kill(pids.pop(), signal.SIGKILL)
                pids.clear()

        assert merge(shared, crew, kill_one) == expected
        assert pids == []


def test_a_set_aside_shard_is_named_by_a_worker_too(scheduler: str, tmp_path: Path) -> None:
    build(Site(nodes=2, hours=1), tmp_path)
    bad = sorted((tmp_path / "shards").rglob("*.parquet"))[0]
    bad.write_bytes(b"PAR1")
    (tmp_path / "ledger" / "synth" / "date=2026-03-02").parent.mkdir(parents=True)
    with dask_crew(scheduler) as crew:
        assert [path for path, _ in aggregate(tmp_path, "synth", crew).set_aside] == [str(bad)]
    subprocess.run(["rm", "-r", str(tmp_path / "ledger")], check=True)
    (tmp_path / "ledger" / "synth").mkdir(parents=True)
    (tmp_path / "ledger" / "synth" / "date=2026-03-02").write_text("a file where a directory should be")
    with dask_crew(scheduler) as crew:
        ((_, why),) = aggregate(tmp_path, "synth", crew).failed
    assert "may this user write the ledger" in why


def config_of(folder: Path, shared: Path, slurm_conf: Path | None = None) -> Path:
    """A site's configuration file for the command."""
    path = folder / "hpccarbon.toml"
    slurm = f'[slurm]\nconf = "{slurm_conf}"\n' if slurm_conf else ""
    path.write_text(f'cluster = "{SITE.cluster}"\n[paths]\nshared_dir = "{shared}"\n{slurm}')
    return path


def command_line(config: Path, *options: str) -> list[str]:
    program = str(Path(sys.executable).parent / "hpccarbon")
    return [program, "aggregate", "--config", str(config), "--no-accounting", "--no-pack", *options]


def test_the_command_on_a_dask_scheduler_writes_the_same_bytes(
    made_here: tuple[Path, Ledger], scheduler: str, tmp_path: Path
) -> None:
    shared, expected = made_here
    argv = command_line(config_of(tmp_path, shared), "--executor", "dask", "--scheduler", scheduler)
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert f"aggregated {len(expected)} hours from" in done.stdout
    assert taken(shared) == expected


def test_a_scheduler_that_is_not_there() -> None:
    with pytest.raises(HpcCarbonError, match="no answer"), dask_crew("tcp://127.0.0.1:1", connect_s=0.5):
        pass


@pytest.mark.parametrize(
    "arguments", [["--executor", "dask"], ["--scheduler", "tcp://x:1"], ["--slurm-option", "--partition=x"]]
)
def test_options_that_do_not_fit(arguments: list[str]) -> None:
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2
    assert "go" in result.stderr
    assert "--executor" in result.stderr


def batch(lab: Lab, *options: str) -> Batch:
    return Batch(Slurm(conf=str(lab.dir / "slurm.conf")), 2, options, memory="500MiB")


def worker_jobs(lab: Lab) -> list[str]:
    names = lab.run(["squeue", "--noheader", "--format=%i %j %T"]).stdout.splitlines()
    return [line.split()[0] for line in names if "hpccarbon-" in line and "COMPLETING" not in line]


@pytest.mark.lab
def test_slurm_runs_the_workers_and_a_killed_one_costs_nothing(lab: Lab, made_here: tuple[Path, Ledger]) -> None:
    shared, expected = made_here
    killed: list[str] = []

    def kill_one(done: int, of: int) -> None:
        if not killed and done > 1:
            killed.extend(worker_jobs(lab)[:1])
            lab.run(["scancel", "--signal=KILL", "--full", *killed])

    scratch = shared / "scratch"
    with slurm_crew(batch(lab), scratch) as crew:
        assert merge(shared, crew, kill_one) == expected
    assert killed
    assert worker_jobs(lab) == []
    assert list(scratch.iterdir()) == []


def gone(lab: Lab, within_s: float) -> bool:
    """Whether no worker is left before the time is up."""
    deadline = time.monotonic() + within_s
    while worker_jobs(lab) and time.monotonic() < deadline:
        time.sleep(0.2)
    return not worker_jobs(lab)


def slurm_command(lab: Lab, folder: Path, shared: Path, *options: str) -> list[str]:
    config = config_of(folder, shared, lab.dir / "slurm.conf")
    return command_line(config, "--executor", "slurm", "--workers", "2", "--slurm-option=--mem=500M", *options)


@pytest.mark.lab
def test_the_command_on_slurm_s_workers_writes_the_same_bytes_where_it_was_told_to(
    lab: Lab, made_here: tuple[Path, Ledger], tmp_path: Path
) -> None:
    shared, expected = made_here
    before = worker_records(lab)
    argv = slurm_command(lab, tmp_path, shared, "--slurm-option=--partition=model", "--interface=lo")
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert f"aggregated {len(expected)} hours from" in done.stdout
    assert gone(lab, 5)
    assert sorted(path.name for path in (shared / "ledger" / SITE.cluster).glob(".workers-*")) == []
    assert taken(shared) == expected
    new = worker_records(lab) - before
    assert {partition for _, partition in new} == {"model"}


def worker_records(lab: Lab) -> set[tuple[str, str]]:
    """(job id, partition) of every worker that slurmctld still knows, ended ones too."""
    lines = lab.run(["squeue", "--noheader", "--states=all", "--format=%i|%P|%j"]).stdout.splitlines()
    found = (line.split("|") for line in lines)
    return {(job_id, partition) for job_id, partition, name in found if name.startswith("hpccarbon-")}


@pytest.mark.lab
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill -9"])
def test_an_aggregator_that_is_ended_leaves_no_worker_and_the_next_run_makes_the_rest(
    lab: Lab, made_here: tuple[Path, Ledger], tmp_path: Path, number: signal.Signals
) -> None:
    shared, expected = made_here
    # A test that runs in the background of a shell has Ctrl-C ignored, and so would its children.
    argv = ["env", "--default-signal=INT", *slurm_command(lab, tmp_path, shared)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 60
        while not worker_jobs(lab) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert worker_jobs(lab)
        process.send_signal(number)
        assert process.wait(30) == (130 if number == signal.SIGINT else -signal.SIGKILL)
    finally:
        process.kill()
        _, said = process.communicate()
    # Nobody can cancel for one that was killed: its workers end because they hear nothing of it.
    assert gone(lab, 60 if number == signal.SIGKILL else 15)
    assert b"Traceback" not in said
    subprocess.run(slurm_command(lab, tmp_path, shared), check=True, capture_output=True)
    assert list((shared / "ledger" / SITE.cluster).glob(".workers-*")) == []  # not even that of the killed one
    assert taken(shared) == expected


@pytest.mark.lab
def test_workers_without_work_are_given_back_while_another_still_runs(lab: Lab, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    counts: list[int] = []
    with slurm_crew(batch(lab), tmp_path / "scratch") as crew:
        long, *short = [crew.executor.submit(time.sleep, seconds) for seconds in (40, 5, 5, 5, 5)]
        while counts[-1:] != [1] or 2 not in counts:
            assert not long.done()
            counts.append(len(worker_jobs(lab)))
            time.sleep(0.5)
        assert all(one.done() for one in short)
    assert gone(lab, 5)


@pytest.mark.lab
def test_workers_are_removed_whatever_happens(lab: Lab, made_here: tuple[Path, Ledger]) -> None:
    shared, _ = made_here
    with pytest.raises(SlurmError, match="partition"), slurm_crew(batch(lab, "--partition=nosuch"), shared / "scratch"):
        pass
    code = f"""
import time
from pathlib import Path
from hpccarbon.config import Slurm
from hpccarbon.site.remote import Batch, slurm_crew
settings = Slurm(conf={str(lab.dir / "slurm.conf")!r})
with slurm_crew(Batch(settings, 1, memory="500MiB"), Path({str(shared / "scratch")!r})) as crew:
    crew.executor.submit(time.sleep, 1).result()
    print("ready", flush=True)
    crew.executor.submit(time.sleep, 600).result()
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        assert len(worker_jobs(lab)) == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.wait()
    assert gone(lab, 20)
    assert list((shared / "scratch").iterdir()) == []
