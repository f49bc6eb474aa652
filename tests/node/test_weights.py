"""Dynamic energy by what a counter says of each job: division, the kernel's counters, and what stands in for them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpccarbon.node import meters
from hpccarbon.node.attribution import Division, Holding
from hpccarbon.node.attribution import Node as NodeFacts
from hpccarbon.node.doctor import diagnose
from hpccarbon.node.sampler import Sampler
from hpccarbon.node.sysroot import SysRoot
from hpccarbon.node.usage import weights as weights_module
from hpccarbon.node.usage.jobs import JobFiles
from hpccarbon.node.usage.perf import EVENTS, Counter, Event, PerfError, refusal
from hpccarbon.node.usage.weights import Weights
from hpccarbon.records import Channel
from hpccarbon.units import NS_PER_S
from tests.node.virtual import Node, tick

CPUS = sorted(os.sched_getaffinity(0))
PAGE_FAULTS = Event(1, 2)
NODE_NAME = f"hcperf{os.getpid()}"
V2 = next(
    (p for p in map(Path, ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")) if (p / "cgroup.controllers").exists()), None
)
NODE = NodeFacts(8)
CPU = Channel("rapl", "package-0", "cpu")


def test_dynamic_energy_goes_by_work_and_cpu_time_stays_what_it_was() -> None:
    division = Division(NODE, [CPU], [1_000_000], [Holding(4), Holding(4)])
    division.add(NS_PER_S, [101_000_000], [500, 500, 0], work=[30, 10, 60])
    division.add(NS_PER_S, [101_000_000], [500, 500, 0])  # nobody counted: by CPU time
    (first, second), system, _ = division.close()
    assert (first.cpu_uj, second.cpu_uj, system.cpu_uj) == (81_000_000, 61_000_000, 60_000_000)
    assert (first.cpu_time_ns, second.cpu_time_ns) == (1000, 1000)


def burn(group: Path | None, code: str) -> None:
    """Run some Python in a group."""
    enter = f"echo $$ > {group}/cgroup.procs; " if group else ""
    subprocess.run(["sh", "-c", f'{enter}exec {sys.executable} -c "{code}"'], check=True)


SPIN = "import time\nwhile time.process_time() < {}: pass"


@pytest.fixture
def groups() -> Iterator[list[Path]]:
    """The real cgroups v2 of two jobs, where Slurm would make them."""
    if os.geteuid() != 0 or V2 is None:
        pytest.skip("needs root and a cgroup v2 hierarchy")
    if refusal("cpu_clock"):
        pytest.skip(f"no perf events here: {refusal('cpu_clock')}")
    scope = V2 / f"{NODE_NAME}_slurmstepd.scope"
    made = [scope / f"job_{number}" for number in (1, 2)]
    for group in made:
        group.mkdir(parents=True)
    yield made
    for group in (*made, scope):
        if group.exists():
            group.rmdir()


@pytest.mark.root
def test_the_kernel_counts_one_group_and_not_the_other(groups: list[Path]) -> None:
    descriptors = [os.open(group, os.O_RDONLY) for group in groups]
    clocks = [Counter(EVENTS["cpu_clock"], group, CPUS) for group in descriptors]
    faults = [Counter(PAGE_FAULTS, group, CPUS) for group in descriptors]
    for descriptor in descriptors:
        os.close(descriptor)
    burn(groups[0], SPIN.format(1.5))
    burn(groups[1], "x = bytearray(100 << 20)")
    used = [int((group / "cpu.stat").read_text().split()[1]) * 1000 for group in groups]
    counted = [clock.count() for clock in clocks]
    assert counted == [pytest.approx(one, rel=0.05, abs=60e6) for one in used]  # on a busy machine the two differ more
    assert counted[0] > 1.5e9 > counted[1]
    assert faults[1].count() > faults[0].count() + 50, "100 MiB, be it in pages of 2 MiB"
    groups[0].rmdir()
    assert clocks[0].count() == counted[0], "there is a last reading after the group is gone"
    for counter in (*clocks, *faults):
        counter.close()
    with pytest.raises(PerfError):
        Counter(Event(1, 999_999), None, CPUS)


@pytest.mark.root
def test_jobs_are_followed_while_they_are_there(groups: list[Path]) -> None:
    lines: list[str] = []
    weights = Weights(SysRoot("/"), "cpu_clock", CPUS, lines.append)
    keys = [(1, "a"), (2, "b")]
    weights.follow([(keys[0], str(groups[0]), None)])
    burn(groups[0], SPIN.format(0.3))
    # The second job has no counter yet, the system never has one: their CPU time at the first one's rate.
    taken = weights.take(keys, [300, 600, 150])
    assert taken is not None
    assert taken[0] == pytest.approx(0.3e9, rel=0.6)
    assert taken[1:] == [taken[0] * 2, taken[0] // 2]
    weights.follow([(key, str(group), CPUS[:1]) for key, group in zip(keys, groups, strict=True)])
    assert weights.take(keys, [0, 0, 5]) is None, "nobody worked: nothing to weigh by"
    weights.follow([])
    assert weights.take(keys, [1, 1, 1]) is None
    weights.follow([((3, "c"), "/nowhere", None)])
    assert (lines, weights.source) == ([], "cpu_clock"), "a group that went meanwhile is no fault"
    weights.close()


@pytest.mark.root
def test_more_jobs_than_descriptors_are_weighed_by_cpu_time(
    groups: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights_module, "MOST_DESCRIPTORS", len(CPUS))
    lines: list[str] = []
    weights = Weights(SysRoot("/"), "cpu_clock", CPUS, lines.append)
    keys = [(1, "a"), (2, "b")]
    for _ in range(2):
        weights.follow((key, str(group), None) for key, group in zip(keys, groups, strict=True))
    why = f"more than {len(CPUS)} counters: confine jobs to their cores (ConstrainCores=yes)"
    assert lines == [f"weights: cpu_clock cannot be counted: {why}; CPU time stands in"]
    assert weights.source == f"cpu_time ({why})"
    burn(groups[0], SPIN.format(0.05))
    taken = weights.take(keys, [100, 200, 0])
    assert taken is not None and taken[1] == taken[0] * 2, "the second at the first one's rate"
    weights.follow([(keys[1], str(groups[1]), None)])
    assert weights.source == "cpu_clock", "there is room again"
    weights.close()


@pytest.mark.root
def test_a_counter_that_cannot_be_read_any_more_is_said_and_cpu_time_stands_in(groups: list[Path]) -> None:
    lines: list[str] = []
    weights = Weights(SysRoot("/"), "cpu_clock", CPUS, lines.append)
    weights.follow([((1, "a"), str(groups[0]), None)])
    (counter, _) = weights._counters[1, "a"]
    with open("/dev/null") as nothing:
        os.dup2(nothing.fileno(), counter._fds[0])
    assert weights.take([(1, "a")], [100, 0]) is None
    (line,) = lines
    assert "cpu_clock cannot be counted: a perf counter cannot be read" in line
    weights.close()


@pytest.mark.root
def test_an_event_that_this_machine_does_not_count_is_said_once(groups: list[Path]) -> None:
    why = refusal("llc_misses")
    if not why:
        pytest.skip("this machine counts misses")
    lines: list[str] = []
    weights = Weights(SysRoot("/"), "llc_misses", CPUS, lines.append)
    for _ in range(2):
        weights.follow([((1, "a"), str(groups[0]), None)])
    assert lines == [f"weights: llc_misses cannot be counted: {why}; CPU time stands in"]
    assert weights.take([(1, "a")], [100, 0]) is None
    weights.close()


def test_what_cannot_be_counted_is_said_once_and_cpu_time_stands_in(tmp_path: Path) -> None:
    """Cgroup v1: the division is that of a sampler that was asked for nothing else."""
    lines: list[str] = []
    shares = []
    for number, weigh_by in enumerate(("cpu_time", "instructions")):
        node = Node(tmp_path / str(number))
        sampler = weighed(node, weigh_by, lines)
        node.start(7)
        node.start(8)
        tick(sampler, node)
        for _ in range(5):
            node.run(NS_PER_S, {7: 1.0, 8: 0.5})
            tick(sampler, node)
        sampler.settle()
        shares.append({holder[0]: share for (_b, holder), share in sampler.pending.shares.items()})
        sampler.close()
    assert shares[0] == shares[1]
    assert len(lines) == 1
    assert "instructions cannot be counted: Slurm's groups are cgroup v1" in lines[0]
    assert sampler.weights.source.startswith("cpu_time (Slurm's groups are cgroup v1")


@pytest.mark.root
def test_a_node_whose_jobs_are_counted(groups: list[Path], tmp_path: Path) -> None:
    """Virtual counters of energy, real groups of Slurm's layout, a job that comes later: all of it is charged."""
    node, lines = Node(tmp_path, idle_w=0, dram=False), list[str]()
    shutil.rmtree(node.root / "sys/fs/cgroup")
    (node.root / "sys/fs/cgroup").symlink_to("/sys/fs/cgroup")
    (node.root / "sys/devices/system/cpu/online").write_text(f"{CPUS[0]}-{CPUS[-1]}\n")
    groups[1].rmdir()
    sampler = weighed(node, "cpu_clock", lines)
    tick(sampler, node)
    drawn_uj = 0
    for late in (False, True):
        if late:
            groups[1].mkdir()
        for _ in range(2):
            for number, group in enumerate(groups[: 1 + late], 1):
                burn(group, SPIN.format(0.05 * number))
            node.at_ns += NS_PER_S
            drawn_uj += 10_000_000
            zone = node.root / "sys/class/powercap/intel-rapl:0/energy_uj"
            zone.write_text(f"{(node.energy_uj['intel-rapl:0'] + drawn_uj) % node.range_uj}\n")
            tick(sampler, node)
    sampler.settle()
    shares = {holder[0]: share for (_b, holder), share in sampler.pending.shares.items()}
    assert sampler.weights.source == "cpu_clock"
    assert not lines
    assert sum(share.energy_uj for share in shares.values()) == drawn_uj == 40_000_000
    # In each of the last two intervals the second worked twice as long as the first did in each of four.
    assert shares[1].cpu_time_ns > 0.2e9
    assert shares[2].cpu_time_ns > 0.2e9
    assert 0 < shares[2].energy_uj < 20_000_000
    sampler.close()


def weighed(node: Node, weigh_by: str, lines: list[str]) -> Sampler:
    """A sampler on a virtual node that weighs jobs by something."""
    root, files = SysRoot(node.root), JobFiles(node.jobs_dir)
    name = NODE_NAME if weigh_by == "cpu_clock" else "n1"
    found = meters.discover(root, node.config())
    return Sampler(root, name, found, files, weigh_by=weigh_by, log=lines.append)


def test_doctor_says_whether_this_machine_counts(tmp_path: Path) -> None:
    node = Node(tmp_path)
    checks = diagnose(node.config(weights='"instructions"'), "n1").checks
    (check,) = (check for check in checks if check.subject == "weights")
    refused = refusal("instructions")
    assert (check.verdict == "note") == bool(refused)
    assert refused in check.found
    assert not [check for check in diagnose(node.config(), "n1").checks if check.subject == "weights"]
