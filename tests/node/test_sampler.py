"""Laws 1 to 3 on a virtual node: nothing is lost whatever the ticks, jobs, wraps and restarts; the right one pays."""

from __future__ import annotations

import os
import random
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from shutil import rmtree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpccarbon.node import meters
from hpccarbon.node.attribution import Share
from hpccarbon.node.meters import Finding, Gpu, Slice
from hpccarbon.node.sampler import Pending, Sampler, difference
from hpccarbon.node.store import Store
from hpccarbon.node.sysroot import SysRoot
from hpccarbon.node.usage.jobs import JobFiles
from hpccarbon.records import Channel, Gap, Reading, Run
from hpccarbon.units import NS_PER_S
from tests.node.virtual import Node, tick


def totals(pending: Pending) -> tuple[dict[str, int], dict[str, int]]:
    """Energy by component, from the shares and from the meters."""
    shares = {"cpu": 0, "dram": 0}
    for share in pending.shares.values():
        shares["cpu"] += share.cpu_uj or 0
        shares["dram"] += share.dram_uj or 0
    metered = {"cpu": 0, "dram": 0}
    for (_bucket, key), (energy_uj, _covered) in pending.meters.items():
        metered["dram" if key.endswith("intel-rapl:0:0") else "cpu"] += energy_uj
    return shares, metered


def job_uj(pending: Pending, job: int) -> int:
    return sum(share.energy_uj for (_b, holder), share in pending.shares.items() if holder[0] == job)


def idle_uj(sampler: Sampler, job: int) -> int:
    return sum(share.idle_uj for (_b, holder), share in sampler.pending.shares.items() if holder[0] == job)


def job_cpu_ns(pending: Pending, job: int) -> int:
    return sum(share.cpu_time_ns for (_b, holder), share in pending.shares.items() if holder[0] == job)


def test_a_quiet_node_belongs_to_nobody(tmp_path: Path) -> None:
    node = Node(tmp_path)
    sampler = node.sampler()
    tick(sampler, node)
    for _ in range(10):
        node.run(NS_PER_S)
        tick(sampler, node)
    sampler.settle()
    held = {holder for (_b, holder), share in sampler.pending.shares.items() if share.energy_uj}
    assert held == {"unallocated"}
    assert totals(sampler.pending)[0] == {"cpu": 400_000_000, "dram": 40_000_000}


def test_static_by_cores_dynamic_by_cpu_time(tmp_path: Path) -> None:
    node = Node(tmp_path)
    sampler = node.sampler()
    tick(sampler, node)
    node.start(7, cores=2)
    tick(sampler, node)
    for _ in range(10):
        node.run(NS_PER_S, {7: 1.0}, system=0.5)
        tick(sampler, node)
    sampler.settle()
    shares = {holder: share for (_b, holder), share in sampler.pending.shares.items()}
    job = next(share for holder, share in shares.items() if holder[0] == 7)
    assert job.cpu_uj == 400_000_000 * 2 // 8 + 100_000_000
    assert job.idle_uj == (400_000_000 + 40_000_000) * 2 // 8
    assert shares["system"].cpu_uj == 50_000_000
    assert shares["unallocated"].cpu_uj == 300_000_000
    assert job.cpu_time_ns == 10 * NS_PER_S


def test_a_job_that_lived_between_two_ticks_is_charged(tmp_path: Path) -> None:
    node = Node(tmp_path)
    sampler = node.sampler()
    tick(sampler, node)
    node.run(NS_PER_S // 4)
    node.start(7)
    node.run(NS_PER_S // 5, {7: 1.0})
    node.end(7)
    node.run(NS_PER_S // 2)
    tick(sampler, node)
    sampler.settle()
    assert job_cpu_ns(sampler.pending, 7) == NS_PER_S // 5
    static = (40 + 4) * 1_000_000 // 5 // 8
    assert job_uj(sampler.pending, 7) == pytest.approx(static + node.dynamic_uj[7], abs=3)


def test_where_the_kernel_watches_nothing_jobs_are_looked_for_at_every_tick(tmp_path: Path) -> None:
    """A user has 128 inotify instances: where others hold them, a job of 0.2 s is found all the same."""
    node = Node(tmp_path)
    sampler = node.sampler()
    sampler.roster.watch.close()
    tick(sampler, node)
    for job in range(1, 26):
        node.run(NS_PER_S // 4)
        node.start(job)
        node.run(NS_PER_S // 5, {job: 1.0})
        node.end(job)
        node.run(NS_PER_S // 2)
        sampler.notice(node.at_ns, node.wall_ns, False)
        sampler.tick(node.at_ns, node.wall_ns)
    sampler.settle()
    assert {job_cpu_ns(sampler.pending, job) for job in range(1, 26)} == {NS_PER_S // 5}


def test_a_vanished_job_gets_what_its_scope_kept(tmp_path: Path) -> None:
    node = Node(tmp_path)
    sampler = node.sampler()
    node.start(1, cores=2)
    node.start(2, cores=2)
    tick(sampler, node)
    node.run(NS_PER_S, {1: 1.0, 2: 2.0})
    tick(sampler, node)
    node.run(NS_PER_S // 2, {1: 1.0, 2: 2.0})
    node.end(2)
    node.run(NS_PER_S // 2, {1: 1.0})
    tick(sampler, node)
    sampler.settle()
    assert job_cpu_ns(sampler.pending, 1) == 2 * NS_PER_S
    assert job_cpu_ns(sampler.pending, 2) == 3 * NS_PER_S


def test_a_suspended_job_pays_for_no_core(tmp_path: Path) -> None:
    """Slurm gives its cores to others: that static energy is nobody's, ten seconds later at most."""
    node = Node(tmp_path, dram=False)
    sampler = node.sampler()
    node.start(7, cores=2)
    node.start(8, cores=2)
    tick(sampler, node)
    static_of: list[int] = []
    for state, load in (("THAWED", {7: 1.0, 8: 0.5}), ("FROZEN", {8: 0.5}), ("THAWED", {7: 1.0, 8: 0.5})):
        node.freeze(7, state)
        for seconds in (12, 20):  # the first may pass before it is asked
            before = idle_uj(sampler, 7)
            for _ in range(seconds):
                node.run(NS_PER_S, load)
                tick(sampler, node)
            sampler.settle()
        static_of.append(idle_uj(sampler, 7) - before)
    running = 40_000_000 * 20 * 2 // 8
    assert static_of == [pytest.approx(running, abs=5), 0, pytest.approx(running, abs=5)]
    assert job_cpu_ns(sampler.pending, 7) == 64 * NS_PER_S
    shares, counted = totals(sampler.pending)
    assert shares == counted, "conservation, whoever holds what"
    assert sampler.pending.alloc[7, next(run for job, run in sampler.pending.alloc if job == 7)] == (2, 0)


def test_a_requeued_job_is_a_new_run(tmp_path: Path) -> None:
    node = Node(tmp_path)
    sampler = node.sampler()
    tick(sampler, node)
    for restart in (0, 1):
        node.start(5, restart=restart)
        tick(sampler, node)
        node.run(NS_PER_S, {5: 1.0})
        tick(sampler, node)
        node.end(5, restart=restart)
        node.run(NS_PER_S)
        tick(sampler, node)
    sampler.settle()
    runs = {holder for (_b, holder) in sampler.pending.shares if not isinstance(holder, str)}
    assert sorted(run.split(".")[0] for _job, run in runs) == ["0", "1"]
    assert job_cpu_ns(sampler.pending, 5) == 2 * NS_PER_S


def test_a_failed_read_among_good_ones_costs_nothing(tmp_path: Path) -> None:
    node = Node(tmp_path, idle_w=50, dram=False)
    sampler = node.sampler()
    tick(sampler, node)
    energy = node.root / "sys/class/powercap/intel-rapl:0/energy_uj"
    for second in range(3):
        node.run(NS_PER_S)
        if second == 1:
            Node._overwrite(energy, "")
        tick(sampler, node)
    sampler.settle()
    assert totals(sampler.pending)[0]["cpu"] == 150_000_000


def test_a_sensor_that_stays_away_is_a_gap_not_a_zero(tmp_path: Path) -> None:
    node = Node(tmp_path)
    sampler = node.sampler()
    tick(sampler, node)
    energy = node.root / "sys/class/powercap/intel-rapl:0:0/energy_uj"
    for _ in range(30):
        node.run(NS_PER_S)
        Node._overwrite(energy, "")
        tick(sampler, node)
    sampler.settle()
    late = max(bucket for bucket, _holder in sampler.pending.shares)
    assert sampler.gaps == {"rapl/intel-rapl:0:0": "expected one integer"}
    share = sampler.pending.shares[late, "unallocated"]
    assert share.cpu_uj
    assert share.covered_us < share.present_us


def test_wrap_reset_and_doubt() -> None:
    epyc = Channel("rapl", "intel-rapl:0", "cpu", range_uj=65_536_000_000, max_power_w=400)
    second = NS_PER_S
    assert difference(epyc, 65_535_000_000, 199_000_000, second) == 200_000_000
    assert difference(epyc, 5_000_000, 65_000_000, second) == 60_000_000
    assert difference(epyc, 30_000_000_000, 1_000_000, second) is None  # a reset: 35 kJ in a second
    assert difference(epyc, 0, 60_000_000_000, 150 * second) == 60_000_000_000
    assert difference(epyc, 60_000_000_000, 54_463_999_999, 150 * second) == 59_999_999_999
    assert difference(epyc, 0, 1_000_000, 165 * second) is None  # may have wrapped twice: never a guess
    gauge = Channel("bmc", "node", "node", max_power_w=2000)
    assert difference(gauge, 100, 50, second) is None


def commit(sampler: Sampler, store: Store) -> None:
    """What the daemon does once a minute."""
    mark = sampler.settle()
    assert mark is not None
    store.commit(sampler.pending, mark, sampler.channels, "{}")
    sampler.committed()


def restart(sampler: Sampler, node: Node, store: Store) -> Sampler:
    """`kill -9` and a new start: nothing but the store and the files is left."""
    sampler.close()
    fresh = node.sampler()
    resumed = store.resume()
    assert resumed is not None
    fresh.resume(*resumed)
    return fresh


@pytest.mark.parametrize("seed", range(25))
def test_nothing_is_lost_whatever_happens(tmp_path: Path, seed: int) -> None:
    """Random jobs, ticks, absences and kills: components, meters and CPU time add up to the counters, as integers."""
    rng = random.Random(seed)
    node = Node(tmp_path)
    store = Store(tmp_path / "state" / "store.sqlite", "virtual", "n1")
    sampler = node.sampler()
    tick(sampler, node)
    committed_at = dict(node.total_uj)
    cpu_at = node.scope_ns
    number = 0
    alive: list[int] = []
    for _ in range(120):
        action = rng.random()
        if action < 0.2 and len(alive) < 6:
            number += 1
            hooks = rng.random() < 0.8
            node.start(number, cores=rng.choice([1, 2]), hooks=hooks)
            alive.append(number)
            if not hooks:  # a job that no hook told of is known from the tick that sees its group, and after a
                tick(sampler, node)  # kill from the store alone
                commit(sampler, store)
        elif action < 0.35 and alive:
            job = alive.pop(rng.randrange(len(alive)))
            node.end(job, hooks=(node.jobs_dir / f"{job}.0.prolog").exists())
        elif action < 0.42:
            commit(sampler, store)
        elif action < 0.46 and store.resume() is not None:
            sampler = restart(sampler, node, store)
        node.run(
            rng.choice([1, 10**6, 3 * 10**8, 10**9, 25 * 10**9]), {job: rng.random() * 2 for job in alive}, rng.random()
        )
        if rng.random() < 0.7:
            tick(sampler, node)
        elif rng.random() < 0.7:
            sampler.notice(node.at_ns, node.wall_ns, True)
            sampler.glance(node.at_ns)
    tick(sampler, node)
    commit(sampler, store)
    rows = [row for hour in store.hours() for row in store.shares(hour)]
    meters = [row for hour in store.hours() for row in store.meters(hour)]
    grown = {zone: total - committed_at[zone] for zone, total in node.total_uj.items()}
    for zone, total in grown.items():
        assert sum(row.energy_uj for row in meters if row.channel == f"rapl/{zone}") == total
    assert sum(row.cpu_uj or 0 for row in rows) == grown["intel-rapl:0"] + grown["intel-rapl:1"]
    assert sum(row.dram_uj or 0 for row in rows) == grown["intel-rapl:0:0"]
    used = sum(row.cpu_time_ns for row in rows if row.holder == "job")
    assert used == node.scope_ns - cpu_at
    for bucket in {row.bucket for row in rows}:
        there = [row.present_us for row in rows if row.bucket == bucket and row.holder == "unallocated"]
        assert sum(there) <= 60_000_001


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, 59_999), min_size=0, max_size=12, unique=True))
def test_an_interval_may_be_cut_anywhere(tmp_path_factory: pytest.TempPathFactory, cuts: list[int]) -> None:
    """A minute at constant load, ticked once or at any moments: the same totals, each job within a few µJ a cut."""
    load = {1: 1.0, 2: 0.5}
    results = []
    for moments in ([], cuts):
        node = Node(tmp_path_factory.mktemp("node"))
        sampler = node.sampler()
        node.start(1, cores=2)
        node.start(2, cores=1)
        tick(sampler, node)
        before = 0
        for moment in [*sorted(moments), 60_000]:
            node.run((moment - before) * 1_000_000, load)
            tick(sampler, node)
            before = moment
        sampler.settle()
        results.append((totals(sampler.pending)[0], job_uj(sampler.pending, 1), job_uj(sampler.pending, 2)))
    whole, cut = results
    assert cut[0] == whole[0]
    assert abs(cut[1] - whole[1]) <= 4 * (len(cuts) + 2)
    assert abs(cut[2] - whole[2]) <= 4 * (len(cuts) + 2)


def test_idle_power_is_learned_while_nobody_works_and_kept(tmp_path: Path) -> None:
    node = Node(tmp_path)
    store = Store(tmp_path / "state" / "store.sqlite", "virtual", "n1")
    root = SysRoot(node.root)
    sampler = Sampler(root, "n1", meters.discover(root, node.config()), JobFiles(node.jobs_dir))
    tick(sampler, node)
    node.run(NS_PER_S, system=8.0)
    tick(sampler, node)
    assert sampler.idle_uw == {}
    for _ in range(7):
        node.run(NS_PER_S)
        tick(sampler, node)
    learned = {key.removeprefix("rapl/"): power_uw for key, power_uw in sampler.idle_uw.items()}
    assert learned == {"intel-rapl:0": 20_000_000, "intel-rapl:1": 20_000_000, "intel-rapl:0:0": 4_000_000}
    commit(sampler, store)
    resumed = store.resume()
    assert resumed is not None
    fresh = Sampler(root, "n1", meters.discover(root, node.config()), JobFiles(node.jobs_dir))
    fresh.resume(*resumed)
    assert fresh.idle_uw == sampler.idle_uw


def test_a_minute_has_the_energy_and_the_time_of_its_seconds(tmp_path: Path) -> None:
    """From 37 s of a minute to 25 s of the next but one, with a commit on the way and a tick that is 20 s late."""
    node = Node(tmp_path)
    sampler = node.sampler()
    node.start(1)
    tick(sampler, node)
    first = node.wall_ns // NS_PER_S // 60 * 60
    assert node.wall_ns // NS_PER_S - first == 37
    for seconds in [1] * 50 + [20] + [1] * 38:
        node.run(seconds * NS_PER_S, {1: 1.0})
        tick(sampler, node)
        if seconds == 20:
            mark = sampler.settle()
            assert mark is not None
            assert (mark.steps, mark.at_ns) == (None, node.at_ns)
    sampler.settle()
    spent = {first: 23, first + 60: 60, first + 120: 25}
    package = {m: uj for (m, key), uj in sampler.pending.meters.items() if key == "rapl/intel-rapl:0"}
    assert package == {m: (seconds * 25_000_000, seconds * 1_000_000) for m, seconds in spent.items()}
    job = {m: share for (m, key), share in sampler.pending.shares.items() if key[0] == 1}
    assert {m: (share.present_us, share.cpu_time_ns) for m, share in job.items()} == {
        m: (seconds * 1_000_000, seconds * NS_PER_S) for m, seconds in spent.items()
    }


def test_the_cpus_of_each_socket_are_counted(tmp_path: Path) -> None:
    node = Node(tmp_path)
    for cpu in range(8):
        node._write(f"sys/devices/system/cpu/cpu{cpu}/topology/physical_package_id", str(int(cpu >= 6)))
    assert node.sampler().node.sockets == {0: 6, 1: 2}


def test_a_job_that_only_holds_its_cores_pays_for_them_when_others_come(tmp_path: Path) -> None:
    node = Node(tmp_path)
    sampler = node.sampler()
    node.start(1, cores=2)
    tick(sampler, node)
    node.run(NS_PER_S)
    node.start(2)
    tick(sampler, node)
    sampler.settle()
    assert job_uj(sampler.pending, 1) == idle_uj(sampler, 1) == (40 + 4) * 1_000_000 * 2 // 8
    assert not sampler.learned


# ---- sensors that fail, hardware that comes, readings out of turn --------------------------------------------------


def test_a_gap_is_said_once_when_it_has_lasted_and_once_when_it_ends(tmp_path: Path) -> None:
    """A tick waits ten seconds for a sensor that has just failed, so that its energy goes by who worked meanwhile."""
    node, said = Node(tmp_path), list[str]()
    sampler = node.sampler(log=said.append)
    dram = node.root / "sys/class/powercap/intel-rapl:0:0/energy_uj"

    def pass_second(works: bool) -> int:
        node.run(NS_PER_S)
        if not works:
            Node._overwrite(dram, "")
        tick(sampler, node)
        assert sampler.mark is not None
        return (node.at_ns - sampler.mark.at_ns) // NS_PER_S

    tick(sampler, node)
    for _ in range(2):
        assert [pass_second(works=False) for _ in range(12)] == [*range(1, 11), 0, 0]
        assert said.pop() == "gap: rapl/intel-rapl:0:0 cannot be read: expected one integer"
        assert said == []
        assert [pass_second(works=True) for _ in range(2)] == [0, 0]
        assert said.pop() == "gap closed: rapl/intel-rapl:0:0 can be read again after 12 s"
        assert (said, sampler.gaps) == ([], {})
    assert [pass_second(works=False), pass_second(works=False), pass_second(works=True)] == [1, 2, 0]
    assert (said, sampler.gaps) == ([], {})


def test_a_sensor_that_never_worked_holds_no_tick_up(tmp_path: Path) -> None:
    node = Node(tmp_path)
    dram = node.root / "sys/class/powercap/intel-rapl:0:0/energy_uj"
    sampler = node.sampler()
    for _ in range(2):
        Node._overwrite(dram, "")
        tick(sampler, node)
        assert sampler.mark is not None
        assert sampler.mark.at_ns == node.at_ns
        node.run(NS_PER_S)


def test_a_glance_keeps_what_each_job_used_until_then(tmp_path: Path) -> None:
    """Two jobs that vanish together: what they used before the glance is known, and not divided by expectation."""
    node = Node(tmp_path)
    sampler = node.sampler()
    sampler.glance(node.at_ns)  # before the first tick there is nothing to look at
    assert sampler.mark is None
    node.start(1)
    node.start(2)
    tick(sampler, node)
    sampler.glance(node.at_ns)
    node.run(NS_PER_S // 2, {1: 0.9, 2: 0.1})
    sampler.glance(node.at_ns)
    node.end(1)
    node.end(2)
    node.run(NS_PER_S // 2)
    tick(sampler, node)
    sampler.settle()
    assert job_cpu_ns(sampler.pending, 1) == 450_000_000
    assert job_cpu_ns(sampler.pending, 2) == 50_000_000


def test_a_reading_out_of_turn_sees_who_has_just_come(tmp_path: Path) -> None:
    node = Node(tmp_path)
    sampler = node.sampler()
    assert not sampler.pending
    assert sampler.read_now(node.at_ns, node.wall_ns) == node.at_ns
    node.start(3)
    node.run(NS_PER_S // 2, {3: 1.0})
    assert sampler.read_now(node.at_ns, node.wall_ns) == node.at_ns
    assert job_cpu_ns(sampler.pending, 3) == NS_PER_S // 2
    assert sampler.pending
    last_ns = node.at_ns
    energy = node.root / "sys/class/powercap/intel-rapl:0/energy_uj"
    node.run(NS_PER_S // 2, {3: 1.0})
    Node._overwrite(energy, "")
    assert sampler.read_now(node.at_ns, node.wall_ns) == last_ns  # put off: a sensor has just failed


def test_pending_is_something_as_soon_as_anything_is_in_it() -> None:
    full = Pending(runs={(1, "0.x"): Run("0.x", 1)}), Pending(meters={(0, "rapl/0"): (1, 1)})
    assert not Pending()
    assert all(full)
    assert Pending(shares={(0, "system"): Share()})


def test_hardware_that_comes_or_goes_is_taken_in_and_said(tmp_path: Path) -> None:
    node, said = Node(tmp_path, dram=False), list[str]()
    sampler = node.sampler(log=said.append)
    tick(sampler, node)
    sampler.refresh()
    assert said == []
    node.run(NS_PER_S)
    zone = "sys/class/powercap/intel-rapl:0:0"
    node.energy_uj["intel-rapl:0:0"] = 5_000
    node.total_uj["intel-rapl:0:0"] = 0
    node._write(f"{zone}/name", "dram")
    node._write(f"{zone}/max_energy_range_uj", str(node.range_uj))
    node.show()
    sampler.refresh()
    assert said == ["meters changed (rapl): rapl/intel-rapl:0, rapl/intel-rapl:0:0, rapl/intel-rapl:1"]
    tick(sampler, node)
    node.run(NS_PER_S)
    tick(sampler, node)
    sampler.settle()
    assert totals(sampler.pending) == ({"cpu": 80_000_000, "dram": 4_000_000},) * 2
    rmtree(node.root / "sys/class/powercap")
    sampler.refresh()
    assert [line.partition("cpu-")[0] for line in said[1:]] == ["meters changed (rapl, model): model/"]


# ---- GPUs -----------------------------------------------------------------------------------------------------------


class Cards:
    """Two GPUs as a meter tells of them: one whole, one in three MIG instances."""

    name = "nvml"
    findings: Sequence[Finding] = ()

    def __init__(self) -> None:
        self.channels = [Channel("nvml", uuid, "gpu", device=uuid, max_power_w=1_000) for uuid in ("GPU-a", "GPU-m")]
        self.energy_uj = {"GPU-a": 0, "GPU-m": 0}
        self.used: dict[str, dict[int, int]] = {}
        self.busy: dict[str, dict[int, int]] = {}
        self.watched: list[set[str]] = []
        self.sizes: tuple[int, ...] = (4, 2, 1)
        self.changed = False

    def read(self, at_ns: int) -> list[Reading | Gap]:
        return [Reading("nvml", uuid, at_ns, energy_uj) for uuid, energy_uj in self.energy_uj.items()]

    def devices(self) -> Sequence[Gpu]:
        slices = tuple(Slice(f"MIG-{n}", n, size) for n, size in enumerate(self.sizes, 1))
        return [Gpu("GPU-a", 0, "00000000:01:00.0", "card"), Gpu("GPU-m", 1, "00000000:02:00.0", "card", slices)]

    def watch_processes(self, uuids: Collection[str]) -> None:
        self.watched.append(set(uuids))

    def processes(self, uuid: str) -> Mapping[int, int]:
        return self.used.get(uuid, {})

    def instances(self, uuid: str) -> Mapping[int, int]:
        return self.busy.get(uuid, {})

    def refresh(self) -> bool:
        return self.changed

    def close(self) -> None:
        pass


def with_gpus(node: Node, job: int, gpus: str) -> None:
    """The job's hooks told these GPUs, and it has a process."""
    path = node.jobs_dir / f"{job}.0.prolog"
    path.write_text(path.read_text().replace("END\n", f"SLURM_JOB_GPUS={gpus}\nEND\n"))
    os.utime(path, ns=(node.wall_ns, node.wall_ns))
    node._write(f"proc/{9_000 + job}/cgroup", f"4:cpuacct:/slurm/uid_1000/job_{job}/step_0")


def gpu_uj(sampler: Sampler, holder: int | str) -> int:
    shares = sampler.pending.shares.items()
    return sum(share.gpu_uj or 0 for (_b, key), share in shares if (key if isinstance(key, str) else key[0]) == holder)


def test_a_shared_gpu_goes_by_its_processes_and_is_watched_while_it_is_shared(tmp_path: Path) -> None:
    node, cards = Node(tmp_path), Cards()
    sampler = Sampler(SysRoot(node.root), "n1", [cards], JobFiles(node.jobs_dir))
    for job in (1, 2, 3):
        node.start(job)
        with_gpus(node, job, "0" if job < 3 else "1")
    tick(sampler, node)
    assert cards.watched == [{"GPU-a"}]  # who holds a GPU alone pays for it, whatever its processes do
    for _ in range(2):
        node.run(NS_PER_S)
        cards.energy_uj = {"GPU-a": cards.energy_uj["GPU-a"] + 100_000_000, "GPU-m": cards.energy_uj["GPU-m"] + 7}
        cards.used = {"GPU-a": {9_001: 30, 9_002: 10, 77: 60}, "GPU-m": {9_001: 99}}  # 77 is of no job
        tick(sampler, node)
    sampler.settle()
    assert (gpu_uj(sampler, 1), gpu_uj(sampler, 2)) == (150_000_000, 50_000_000)
    for second in range(3):
        node.run(NS_PER_S)
        cards.energy_uj["GPU-a"] += 40_000_000
        if second == 1:
            node.end(2)  # what both did until then is known all the same
        tick(sampler, node)
    assert cards.watched == [{"GPU-a"}, set()]
    sampler.settle()
    assert (gpu_uj(sampler, 1), gpu_uj(sampler, 2)) == (150_000_000 + 60_000_000 + 40_000_000, 70_000_000)


def test_mig_instances_go_by_how_busy_each_was_times_its_size(tmp_path: Path) -> None:
    """Slurm's index counts the instances in their order: 1, 2 and 3 are those of 4, 2 and 1 slices."""
    node, cards = Node(tmp_path), Cards()
    sampler = Sampler(SysRoot(node.root), "n1", [cards], JobFiles(node.jobs_dir))
    for job, gpus in ((1, "1"), (2, "2,3")):
        node.start(job)
        with_gpus(node, job, gpus)
    node.start(3)  # holds none
    tick(sampler, node)
    assert cards.watched == [{"GPU-m"}]
    assert sampler.node.gpu_parts == {"GPU-a": 1, "GPU-m": 7}
    for use, expected in (
        ({1: 10_000, 2: 50_000}, (40, 100)),
        ({}, (80, 60)),
    ):  # untold: none
        node.run(NS_PER_S)
        cards.energy_uj["GPU-m"] += 140_000_000
        cards.busy = {"GPU-m": use}
        tick(sampler, node)
        sampler.settle()
        assert (gpu_uj(sampler, 1) // 1_000_000, gpu_uj(sampler, 2) // 1_000_000) == expected
        sampler.committed()
    node.run(NS_PER_S)
    cards.energy_uj["GPU-m"] += 120_000_000
    cards.busy = {"GPU-m": {1: 10_000, 2: 50_000, 3: 20_000, 9: 90_000}, "GPU-a": {1: 99_000}}
    tick(sampler, node)
    sampler.settle()
    # 4 x 10 against 2 x 50 + 1 x 20
    assert (gpu_uj(sampler, 1), gpu_uj(sampler, 2)) == (30_000_000, 90_000_000)


def test_a_job_is_kept_with_the_cores_and_gpus_that_it_holds(tmp_path: Path) -> None:
    node, cards = Node(tmp_path), Cards()
    sampler = Sampler(SysRoot(node.root), "n1", [cards], JobFiles(node.jobs_dir))
    node.start(2)
    with_gpus(node, 2, "2,3")
    tick(sampler, node)
    sampler.settle()
    assert list(sampler.pending.alloc.values()) == [(1, 2)]


def test_a_gpu_that_is_cut_anew_has_other_parts(tmp_path: Path) -> None:
    node, cards, said = Node(tmp_path), Cards(), list[str]()
    sampler = Sampler(SysRoot(node.root), "n1", [cards], JobFiles(node.jobs_dir), log=said.append)
    assert sampler.node.gpu_parts == {"GPU-a": 1, "GPU-m": 7}
    cards.sizes, cards.changed = (1, 1), True
    sampler.refresh()
    assert sampler.node.gpu_parts == {"GPU-a": 1, "GPU-m": 2}
    assert said == ["meters changed (nvml): nvml/GPU-a, nvml/GPU-m"]
    cards.channels = []
    sampler.refresh()
    assert said[1:] == ["meters changed (nvml): none left"]


def test_a_meter_that_tells_of_fewer_than_it_has_is_asked_anew(tmp_path: Path) -> None:
    node, cards = Node(tmp_path), Cards()
    sampler = Sampler(SysRoot(node.root), "n1", [cards], JobFiles(node.jobs_dir))
    cards.energy_uj.pop("GPU-m")
    assert sampler.read_now(node.at_ns, node.wall_ns) == 0  # no good reading yet
    cards.channels.pop()
    assert sampler.read_now(node.at_ns, node.wall_ns) == 0
    assert sampler.read_now(node.at_ns, node.wall_ns) == node.at_ns
    assert [channel.key for channel in sampler.channels] == ["nvml/GPU-a"]


def test_what_a_card_in_slices_draws_for_work_is_its_only_holders_and_another_card_is_nobodys(tmp_path: Path) -> None:
    node, cards = Node(tmp_path), Cards()
    sampler = Sampler(SysRoot(node.root), "n1", [cards], JobFiles(node.jobs_dir))
    node.start(1)
    with_gpus(node, 1, "MIG-1")
    tick(sampler, node)
    assert cards.watched == []
    node.run(NS_PER_S)
    cards.energy_uj = {"GPU-a": 11, "GPU-m": 70_000_000}
    tick(sampler, node)
    sampler.settle()
    assert (gpu_uj(sampler, 1), gpu_uj(sampler, "unallocated")) == (70_000_000, 11)
