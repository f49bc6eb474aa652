"""The main job on a real Slurm cluster: cgroups, hooks, daemon, store, seal; truth from the lab's power meter."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from hpccarbon.node.store import Store
from hpccarbon.site.ledger import Ledger, Selection
from tests.lab import Lab
from tests.lab.powermeter import ZONES

pytestmark = pytest.mark.lab
pytest_plugins = ("tests.lab.fixture",)
CPU_BURN = "python3 -c 'import time\nwhile time.process_time() < {seconds}: pass'"
"""So much CPU time, however busy the machine is."""
BURN = "timeout {seconds} sh -c 'while :; do :; done' || true"


@pytest.fixture(scope="module")
def metered(lab: Lab) -> Iterator[Lab]:
    """The lab with a daemon on every node, idle power learned."""
    for name in lab.nodes:
        lab.start_daemon(name)
    time.sleep(7)
    yield lab
    for name in lab.nodes:
        lab.stop_daemon(name)


def sealed(lab: Lab) -> Ledger:
    """What can be read once every node has sealed: daemons are stopped and started again, which loses nothing."""
    for name in lab.nodes:
        lab.stop_daemon(name)
        lab.start_daemon(name)
    return Ledger(lab.dir / "shared", lab.cluster)


def rows(lab: Lab, node: str) -> list[dict[str, Any]]:
    """Every shard row of a node."""
    files = sorted((lab.dir / "shared" / "shards").rglob(f"{node}.*.parquet"))
    return [row for path in files for row in pq.read_table(path).to_pylist()]


def test_thirty_short_jobs_are_all_there_and_cost_what_they_drew(metered: Lab) -> None:
    node = metered.names[0]
    before = metered.meter_truth(node)
    script = BURN.format(seconds=0.2)
    jobs = [metered.submit(script, "-n1", f"-w{node}", user="hcbob") for _ in range(30)]
    metered.wait(jobs, 120)
    time.sleep(1.5)  # the last epilogs
    after = metered.meter_truth(node)
    ledger = sealed(metered)
    found = {row.key[0]: row for row in ledger.energy(Selection(job_ids=tuple(jobs)), by=("job_id",))}
    assert sorted(found) == sorted(jobs)  # type: ignore[type-var]
    # Dynamic truth: CPU time that Slurm's groups of the node used meanwhile, whoever saw it, times the meter's slope.
    slope_mw = sum(zone.slope_mw for zone in ZONES[0] if zone.label != "dram")
    dynamic_uj = (after.cgroup_ns - before.cgroup_ns) * slope_mw // 1_000_000
    # Static truth: one core of eight for as long as the jobs held it.
    idle_mw = sum(zone.idle_mw for zone in ZONES[0] if zone.label != "dram")
    held_ms = sum(row.present_ms for row in found.values())
    truth_uj = dynamic_uj + idle_mw * held_ms // 8
    billed_uj = sum(row.cpu_uj or 0 for row in found.values())
    print(f"\n30 jobs of 0.2 s: billed {billed_uj / 1e6:.2f} J, truth {truth_uj / 1e6:.2f} J")
    assert billed_uj == pytest.approx(truth_uj, rel=0.05)


def test_meters_equal_holders_in_the_files(metered: Lab) -> None:
    job = metered.submit(f'srun sh -c "{BURN.format(seconds=2)}"', "-N2", "-n2", user="hcalice")
    metered.wait(job, 60)
    sealed(metered)
    for node in metered.names:
        seen = rows(metered, node)
        assert seen, node
        for column in ("cpu_uj", "dram_uj"):
            held = sum(row[column] or 0 for row in seen if row["holder"] != "meter")
            counted = sum(row[column] or 0 for row in seen if row["holder"] == "meter")
            assert held == counted, (node, column)


def counted(lab: Lab, node: str) -> dict[str, int]:
    """Energy of each meter of a node in all its shards."""
    sums: dict[str, int] = {}
    for row in rows(lab, node):
        if row["holder"] == "meter":
            sums[row["meter"]] = sums.get(row["meter"], 0) + (row["cpu_uj"] or 0) + (row["dram_uj"] or 0)
    return sums


def counters(lab: Lab, node: str) -> dict[str, int]:
    """The raw counters that the store of a stopped daemon ends at."""
    store = Store(lab.dir / "nodes" / node / "state" / "store.sqlite", lab.cluster, node, readonly=True)
    resumed = store.resume()
    store.close()
    assert resumed is not None
    return {key: energy_uj for key, (energy_uj, _at_ns) in resumed[0].counters.items()}


def test_meter_rows_are_what_the_virtual_meter_counted(metered: Lab) -> None:
    """From one stop to the next the files hold the counters' difference to the microjoule, wraps included."""
    node = metered.names[1]  # its packages wrap every 40-60 s
    metered.stop_daemon(node)
    begin, before, truth = counters(metered, node), counted(metered, node), metered.meter_truth(node)
    metered.start_daemon(node)
    job = metered.submit(f'srun -n4 sh -c "{BURN.format(seconds=20)}"', "-n4", f"-w{node}", user="hcalice")
    metered.wait(job, 120)
    metered.stop_daemon(node)
    end, after, later = counters(metered, node), counted(metered, node), metered.meter_truth(node)
    metered.start_daemon(node)
    for zone in ZONES[1]:
        key = f"rapl/{Path(zone.path).name}"
        grown = after[key] - before[key]
        assert (end[key] - begin[key] - grown) % zone.range_uj == 0, key
        drawn = later.energy_uj[zone.path] - truth.energy_uj[zone.path]
        assert abs(grown - drawn) < drawn // 4, key  # the truth is read a moment after the daemon's last tick


def test_a_killed_daemon_loses_no_job_and_no_energy(metered: Lab) -> None:
    node = metered.names[0]
    job = metered.submit(CPU_BURN.format(seconds=4), "-n1", f"-w{node}", user="hcalice")
    time.sleep(2)
    metered.kill_daemon(node)
    unseen = metered.submit(
        CPU_BURN.format(seconds=0.5), "-n1", f"-w{node}", user="hcbob"
    )  # lives while no daemon does
    metered.wait(unseen, 60)
    metered.start_daemon(node)
    metered.wait(job, 60)
    time.sleep(1.5)
    ledger = sealed(metered)
    found = {row.key[0]: row for row in ledger.energy(Selection(job_ids=(job, unseen)), by=("job_id",))}
    assert found[job].cpu_time_us == pytest.approx(4_000_000, rel=0.1)
    assert found[unseen].cpu_time_us == pytest.approx(500_000, rel=0.4)
    seen = rows(metered, node)
    held = sum(row["cpu_uj"] or 0 for row in seen if row["holder"] != "meter")
    assert held == sum(row["cpu_uj"] or 0 for row in seen if row["holder"] == "meter")


def test_a_requeued_job_has_two_runs(metered: Lab) -> None:
    node = metered.names[2]
    job = metered.submit(BURN.format(seconds=3), "-n1", f"-w{node}", "--requeue", user="hcbob")
    time.sleep(2)
    metered.run(["scontrol", "requeue", str(job)])
    time.sleep(1)
    metered.wait(job, 180)
    time.sleep(1.5)
    runs = sealed(metered).energy(Selection(job_ids=(job,)), by=("run",))
    assert sorted(str(row.key[0]).split(".")[0] for row in runs) == ["0", "1"]
    assert all(row.energy_uj > 0 for row in runs)


def test_a_job_can_be_read_within_30_s_of_its_end(metered: Lab) -> None:
    job = metered.submit(BURN.format(seconds=0.3), "-n1", user="hcbob")
    metered.wait(job, 60)
    ended = time.monotonic()
    while time.monotonic() - ended < 30:
        if Ledger(metered.dir / "shared", metered.cluster).energy(Selection(job_ids=(job,))):
            break
        time.sleep(0.5)
    took = time.monotonic() - ended
    print(f"\nreadable {took:.1f} s after its end")
    assert took < 30


def test_the_model_stands_in_and_says_so(metered: Lab) -> None:
    job = metered.submit(BURN.format(seconds=1), "-n2", "-pmodel", user="hcalice")
    metered.wait(job, 60)
    (row,) = sealed(metered).energy(Selection(job_ids=(job,)))
    assert row.modelled_uj == row.energy_uj > 0


def test_a_second_daemon_is_refused(metered: Lab) -> None:
    node = metered.names[0]
    config = str(metered.node_config(node))
    done = metered.run([metered.program, "daemon", "--config", config, "--node", node], check=False, timeout=20)
    assert done.returncode == 1
    assert "already serves" in done.stderr


def test_the_prolog_starts_a_daemon_where_none_lives(metered: Lab) -> None:
    node = metered.names[2]
    hooks = metered.dir / "hooks" / "hooks.env"
    before = hooks.read_text()
    metered.stop_daemon(node)
    try:
        hooks.write_text(before.replace("HPCCARBON_START=no", "HPCCARBON_START=yes"))
        metered.run(["srun", "-n1", f"-w{node}", "true"])
        started = time.monotonic()
        while metered.daemon(node) is None and time.monotonic() - started < 10:
            time.sleep(0.1)
        first = metered.daemon(node)
        assert first is not None
        metered.run(["srun", "-n1", f"-w{node}", "true"])  # a second prolog leaves the first one's daemon alone
        time.sleep(1)
        assert metered.daemon(node) == first
    finally:
        hooks.write_text(before)
        metered.stop_daemon(node)
        metered.start_daemon(node)
