"""Hours merged on other machines are the same bytes; a worker that dies costs nothing; nothing is left behind.

Below the command and through it: whoever waits for workers is at a shell, presses Ctrl-C, or is killed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

import hpccarbon
from bench.cluster import Site, build
from hpccarbon.cli.aggregate import command
from hpccarbon.config import Slurm
from hpccarbon.errors import HpcCarbonError, SlurmError
from hpccarbon.site import remote
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


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that fails leaves no ledger to the next."""
    yield
    if "made_here" in request.fixturenames:
        shared, _ = request.getfixturevalue("made_here")
        shutil.rmtree(shared / "ledger", ignore_errors=True)


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


@pytest.fixture(scope="module")
def empty() -> Iterator[str]:
    """A Dask scheduler that nobody works for yet."""
    import distributed

    start: Any = distributed.LocalCluster
    with start(n_workers=0, dashboard_address=None, silence_logs=50) as cluster:
        yield cluster.scheduler_address


@contextmanager
def worker_with(package: Path, scheduler: str) -> Iterator[None]:
    """A worker that finds this `hpccarbon` and no other."""
    import distributed

    connect: Any = distributed.Client
    argv = [sys.executable, "-m", "dask", "worker", scheduler, "--nthreads", "1", "--no-nanny", "--no-dashboard"]
    environment = os.environ | {"PYTHONPATH": str(package.parent)}
    process = subprocess.Popen(
        argv, cwd=package.parent, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        with connect(scheduler, set_as_default=False) as client:
            client.wait_for_workers(1, timeout=30)
        yield
    finally:
        process.kill()
        process.wait()


def test_a_scheduler_without_workers(empty: str) -> None:
    with (
        pytest.raises(HpcCarbonError, match=f"it has no workers \\(start them: `dask worker {empty}`\\)"),
        dask_crew(empty),
    ):
        pass


def test_workers_that_would_write_other_files_are_refused(empty: str, tmp_path: Path) -> None:
    """One has another release, the other has something else of that name."""
    older, other = tmp_path / "older" / "hpccarbon", tmp_path / "other" / "hpccarbon"
    for package in (older, other):
        package.mkdir(parents=True)
    ours = Path(hpccarbon.__file__).parent
    for name in ours.iterdir():
        (older / name.name).symlink_to(name)
    (older / "__init__.py").unlink()
    (older / "__init__.py").write_text((ours / "__init__.py").read_text() + '\n__version__ = "0.0.9"\n')
    (other / "__init__.py").touch()
    for package, said in (
        (older, rf"workers run hpccarbon 0\.0\.9, this is {hpccarbon.__version__}"),
        (other, r"a worker cannot load hpccarbon: .*\(install the same release there\)"),
    ):
        with (
            worker_with(package, empty),
            pytest.raises(HpcCarbonError, match=said),
            dask_crew(empty),
        ):
            pass


def test_without_the_extra_the_command_says_what_to_install() -> None:
    code = "import sys; sys.modules['dask_jobqueue'] = None\nfrom hpccarbon.cli import main\nmain()"
    argv = [sys.executable, "-c", code, "aggregate", "--executor", "dask", "--scheduler", "tcp://127.0.0.1:1"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "dask_jobqueue is not installed (install the extra dask" in done.stderr


def test_slurm_that_would_take_no_worker_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """sbatch refuses before anything is submitted; the environment, certificates and SIGTERM are as they were."""
    for name, body in (
        ("sbatch", "echo 'sbatch: error: invalid partition specified: x' >&2; exit 1"),
        ("scancel", ":"),
    ):
        tool = tmp_path / name
        tool.write_text(f'#!/bin/sh\necho "{name} $*" >>{tmp_path}/asked\n{body}\n')
        tool.chmod(0o755)
    monkeypatch.delenv("SLURM_CONF", raising=False)
    before, handler = dict(os.environ), signal.getsignal(signal.SIGTERM)
    with (
        pytest.raises(SlurmError, match=r"workers: .*invalid partition specified: x.*; see --slurm-option"),
        slurm_crew(Batch(Slurm(bin_dir=str(tmp_path)), 2, ("--partition=x",)), tmp_path / "scratch"),
    ):
        pass
    asked = (tmp_path / "asked").read_text().splitlines()
    assert [line.split()[:2] for line in asked[:1]] == [["sbatch", "--test-only"]]
    assert asked[1].startswith("scancel --name=hpccarbon-") and len(asked) == 2
    assert list((tmp_path / "scratch").iterdir()) == []
    assert (dict(os.environ), signal.getsignal(signal.SIGTERM)) == (before, handler)


def test_workers_that_die_as_fast_as_they_come_are_given_up(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask's own client: with it closed, what waits for an hour hears that its workers were lost."""
    import distributed

    monkeypatch.setattr(remote, "_LOOK_S", 0.02)
    connect: Any = distributed.Client
    cluster = SimpleNamespace(worker_spec=dict.fromkeys(range(3)))
    with connect(empty, set_as_default=False) as client:
        over = threading.Event()
        watch = threading.Thread(target=remote._watch, args=(cluster, client, 2, over), daemon=True)
        watch.start()
        time.sleep(0.2)
        assert client.status == "running", "three were started, and may still come"
        cluster.worker_spec |= dict.fromkeys(range(3, 14))
        watch.join(5)
        assert client.status == "closed"


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
        long, *short = [crew.executor.submit(time.sleep, seconds) for seconds in (40, 2, 2, 2, 2)]
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
