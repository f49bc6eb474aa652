"""The division alone: conservation per counter for anything that can be held, and the numbers of worked examples."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpccarbon.node.attribution import Division, Holding, Node, Share
from hpccarbon.records import Channel
from hpccarbon.units import NS_PER_S

CPU0 = Channel("rapl", "intel-rapl:0", "cpu", socket=0)
CPU1 = Channel("rapl", "intel-rapl:1", "cpu", socket=1)
DRAM0 = Channel("rapl", "intel-rapl:0:0", "dram", socket=0)
GPU_A = Channel("nvml", "GPU-a", "gpu", device="GPU-a")
GPU_B = Channel("nvml", "GPU-b", "gpu", device="GPU-b")
BMC = Channel("bmc", "node", "node")
MODEL = Channel("model", "cpu", "cpu", modelled=True)
TWO_SOCKETS = Node(cpus=16, mem_bytes=64 << 30, sockets={0: 8, 1: 8})

holdings = st.builds(
    Holding,
    cores=st.none() | st.integers(0, 20),
    mem_bytes=st.none() | st.integers(1, 1 << 36),
    sockets=st.none() | st.dictionaries(st.sampled_from([0, 1]), st.integers(0, 8), min_size=1),
    gpus=st.dictionaries(st.sampled_from(["GPU-a", "GPU-b"]), st.integers(1, 4)),
)


@st.composite
def cases(
    draw: st.DrawFn,
) -> tuple[list[Channel], list[int], list[Holding], list[tuple[int, list[int | None], list[int]]]]:
    channels = draw(st.lists(st.sampled_from([CPU0, CPU1, DRAM0, GPU_A, GPU_B, MODEL]), unique=True, min_size=1))
    jobs = draw(st.lists(holdings, max_size=5))
    idle = draw(st.lists(st.integers(0, 200_000_000), min_size=len(channels), max_size=len(channels)))
    energy = st.lists(st.none() | st.integers(0, 10**12), min_size=len(channels), max_size=len(channels))
    cpu = st.lists(st.integers(0, 10**13), min_size=len(jobs) + 1, max_size=len(jobs) + 1)
    intervals = draw(st.lists(st.tuples(st.integers(1, 10**12), energy, cpu), min_size=1, max_size=40))
    return channels, idle, jobs, intervals


def parts(share: Share, component: str) -> int:
    return getattr(share, f"{component}_uj") or 0


@given(case=cases())
def test_every_counter_is_conserved(
    case: tuple[list[Channel], list[int], list[Holding], list[tuple[int, list[int | None], list[int]]]],
) -> None:
    channels, idle, jobs, intervals = case
    division = Division(TWO_SOCKETS, channels, idle, jobs)
    counted = [0] * len(channels)
    for dt_ns, energy, cpu in intervals:
        division.add(dt_ns, energy, cpu)
        counted = [have + (more or 0) for have, more in zip(counted, energy, strict=True)]
    shares, system, unallocated = division.close()
    everyone = [*shares, system, unallocated]
    for component in ("cpu", "dram", "gpu"):
        metered = sum(uj for uj, channel in zip(counted, channels, strict=True) if channel.component == component)
        assert sum(parts(share, component) for share in everyone) == metered
    modelled = sum(uj for uj, channel in zip(counted, channels, strict=True) if channel.modelled)
    assert sum(share.modelled_uj for share in everyone) == modelled
    for share in everyone:
        assert 0 <= share.idle_uj <= share.energy_uj
        assert share.covered_us <= share.present_us
    used = [sum(cpu[index] for _dt, _energy, cpu in intervals) for index in range(len(jobs) + 1)]
    assert [share.cpu_time_ns for share in (*shares, system)] == used
    for index, channel in enumerate(channels):
        seen = any(energy[index] is not None for _dt, energy, _cpu in intervals)
        assert (division.meter_uj[index] is not None) == seen, channel


def test_the_worked_example_of_the_method_page() -> None:
    """64 cores, 100 W idle, 4 W per busy core, an hour: A 1 of 1, B 32 of 32 (docs/method.md)."""
    hour = 3_600 * NS_PER_S
    division = Division(Node(64), [CPU0], [100_000_000], [Holding(1), Holding(32)])
    division.add(hour, [232 * 3_600_000_000], [hour, 32 * hour, 0])
    (a, b), system, free = division.close()
    wh = [round(share.energy_uj / 3.6e9, 1) for share in (a, b, system, free)]
    assert wh == [5.6, 178.0, 0.0, 48.4]


def test_pinned_jobs_pay_for_their_own_socket() -> None:
    """Socket 0 draws 60 W busy with A, socket 1 idles at 20 W with B pinned to it: B pays nothing of A's work."""
    jobs = [Holding(8, sockets={0: 8}), Holding(8, sockets={1: 8})]
    division = Division(TWO_SOCKETS, [CPU0, CPU1], [20_000_000, 20_000_000], jobs)
    division.add(NS_PER_S, [60_000_000, 20_000_000], [8 * NS_PER_S, 0, 0])
    (a, b), system, free = division.close()
    assert (a.cpu_uj, b.cpu_uj, system.cpu_uj, free.cpu_uj) == (60_000_000, 20_000_000, 0, 0)


def test_memory_is_divided_by_what_was_allocated() -> None:
    jobs = [Holding(1, mem_bytes=48 << 30), Holding(15, mem_bytes=8 << 30)]
    division = Division(TWO_SOCKETS, [DRAM0], [8_000_000], jobs)
    division.add(NS_PER_S, [8_000_000], [0, 0, 0])
    (a, b), _system, free = division.close()
    assert (a.dram_uj, b.dram_uj, free.dram_uj) == (6_000_000, 1_000_000, 1_000_000)


def test_a_gpu_is_its_holders_and_a_free_one_is_nobodys() -> None:
    jobs = [Holding(1, gpus={"GPU-a": 1}), Holding(1)]
    division = Division(Node(8), [GPU_A, GPU_B], [50_000_000, 50_000_000], jobs)
    division.add(NS_PER_S, [300_000_000, 50_000_000], [0, 0, 0])
    (a, b), _system, free = division.close()
    assert (a.gpu_uj, b.gpu_uj, free.gpu_uj) == (300_000_000, 0, 50_000_000)
    assert a.idle_uj == 50_000_000


def test_a_shared_gpu_is_divided_by_use_and_else_by_time() -> None:
    jobs = [Holding(1, gpus={"GPU-a": 1}), Holding(1, gpus={"GPU-a": 1})]
    for use, wanted in (({"GPU-a": [90, 10]}, [230_000_000, 70_000_000]), (None, [150_000_000, 150_000_000])):
        division = Division(Node(8), [GPU_A], [100_000_000], jobs)
        division.add(NS_PER_S, [300_000_000], [0, 0, 0], gpu_use=use)
        shares, _system, _free = division.close()
        assert [share.gpu_uj for share in shares] == pytest.approx(wanted, abs=1)


def test_mig_instances_pay_for_their_slices_and_free_slices_are_nobodys() -> None:
    """Seven slices: A holds 3, B holds 1, 3 are free. Static by slices, dynamic by slices of those that are held."""
    jobs = [Holding(1, gpus={"GPU-a": 3}), Holding(1, gpus={"GPU-a": 1})]
    division = Division(Node(8, gpu_parts={"GPU-a": 7}), [GPU_A], [70_000_000], jobs)
    division.add(NS_PER_S, [270_000_000], [0, 0, 0])
    (a, b), _system, free = division.close()
    assert (a.gpu_uj, b.gpu_uj, free.gpu_uj) == (180_000_000, 60_000_000, 30_000_000)


def test_a_shared_gpu_is_divided_interval_by_interval() -> None:
    """Each interval's dynamic energy goes by who used the GPU in it: 250 J to A and 150 J to B, then none to B."""
    jobs = [Holding(1, gpus={"GPU-a": 1}), Holding(1, gpus={"GPU-a": 1})]
    division = Division(Node(8), [GPU_A], [100_000_000], jobs)
    division.add(NS_PER_S, [500_000_000], [0, 0, 0], gpu_use={"GPU-a": [5, 3]})
    division.add(NS_PER_S, [300_000_000], [0, 0, 0], gpu_use={"GPU-a": [1, 0]})
    (a, b), _system, free = division.close()
    assert (a.idle_uj, b.idle_uj, free.gpu_uj) == (100_000_000, 100_000_000, 0)
    assert [share.gpu_uj for share in (a, b)] == pytest.approx([550_000_000, 250_000_000], abs=1)


def test_a_gpu_that_nobody_used_meanwhile_is_divided_by_time() -> None:
    jobs = [Holding(1, gpus={"GPU-a": 1}), Holding(1, gpus={"GPU-a": 1})]
    division = Division(Node(8), [GPU_A], [0], jobs)
    division.add(NS_PER_S, [80_000_000], [0, 0, 0], gpu_use={"GPU-a": [0, 0]})
    shares, _system, free = division.close()
    assert [share.gpu_uj for share in shares] == [40_000_000, 40_000_000]
    assert free.gpu_uj == 0


@pytest.mark.parametrize("held", [{"GPU-m": 1}, {}])
def test_the_energy_of_a_modelled_gpu_is_modelled_whoever_has_it(held: dict[str, int]) -> None:
    modelled = Channel("nvml", "GPU-m", "gpu", device="GPU-m", modelled=True)
    division = Division(Node(8), [modelled, GPU_A], [10_000_000, 0], [Holding(1, gpus=held)])
    division.add(NS_PER_S, [30_000_000, 7_000_000], [0, 0])
    (job,), _system, free = division.close()
    payer = job if held else free
    assert (payer.modelled_uj, job.modelled_uj + free.modelled_uj) == (30_000_000, 30_000_000)
    assert (job.gpu_uj or 0) + (free.gpu_uj or 0) == 37_000_000


def test_shares_of_one_holder_add_up_field_by_field() -> None:
    one, other = Share(), Share()
    for share, times in ((one, 1), (other, 10)):
        share.charge("cpu", 5 * times, 2 * times, True)
        share.charge("gpu", 3 * times, 0, False)
        share.cpu_time_ns, share.present_us, share.covered_us = 7 * times, 11 * times, 9 * times
    one.add(other)
    assert (one.cpu_uj, one.dram_uj, one.gpu_uj, one.other_uj) == (55, None, 33, None)
    assert (one.idle_uj, one.modelled_uj, one.cpu_time_ns, one.present_us, one.covered_us) == (22, 55, 77, 121, 99)


def test_free_slices_of_a_modelled_gpu_are_modelled_too() -> None:
    """Static energy of four parts, one of them held; the rest is the holder's, who alone can have used it."""
    modelled = Channel("nvml", "GPU-m", "gpu", device="GPU-m", modelled=True)
    jobs = [Holding(1, gpus={"GPU-m": 1})]
    division = Division(Node(8, gpu_parts={"GPU-m": 4}), [modelled], [10_000_001], jobs)
    division.add(NS_PER_S, [30_000_000], [0, 0])
    (job,), _system, free = division.close()
    assert (free.gpu_uj, free.modelled_uj, free.idle_uj) == (7_500_001, 7_500_001, 7_500_001)
    assert (job.gpu_uj, job.modelled_uj) == (22_499_999, 22_499_999)


def test_a_gpu_held_by_more_parts_than_it_has_leaves_none_free() -> None:
    jobs = [Holding(1, gpus={"GPU-a": 1}), Holding(1, gpus={"GPU-a": 1})]
    division = Division(Node(8), [GPU_A], [10_000_000], jobs)
    division.add(NS_PER_S, [10_000_000], [0, 0, 0])
    shares, _system, free = division.close()
    assert [share.gpu_uj for share in shares] == [5_000_000, 5_000_000]
    assert free.gpu_uj == 0


def test_a_gpu_of_two_jobs_of_which_none_used_it_first() -> None:
    """What one used in the second interval alone is that one's, and nothing is added for the first."""
    jobs = [Holding(1, gpus={"GPU-a": 1}), Holding(1, gpus={"GPU-a": 1})]
    division = Division(Node(8), [GPU_A], [0], jobs)
    division.add(NS_PER_S, [100_000_000], [0, 0, 0], gpu_use={"GPU-a": [1, 0]})
    shares, _system, _free = division.close()
    assert [share.gpu_uj for share in shares] == [100_000_000, 0]


def test_cpu_time_counts_on_the_sockets_where_it_may_have_been_used() -> None:
    """A has six cores on socket 0 and two on socket 1, B may run anywhere: 8, 4 and, of the system, 2 CPU seconds."""
    jobs = [Holding(8, sockets={0: 6, 1: 2}), Holding(4)]
    division = Division(TWO_SOCKETS, [CPU0, CPU1], [0, 0], jobs)
    division.add(NS_PER_S, [90_000_000, 50_000_000], [8 * NS_PER_S, 4 * NS_PER_S, 2 * NS_PER_S])
    (a, b), system, free = division.close()
    # Socket 0: 6, 2 and 1 of 9 seconds; socket 1: 2, 2 and 1 of 5.
    assert (a.cpu_uj, b.cpu_uj, system.cpu_uj, free.cpu_uj) == (80_000_000, 40_000_000, 20_000_000, 0)


def test_who_is_pinned_to_one_socket_uses_nothing_of_the_other() -> None:
    jobs = [Holding(8, sockets={0: 8}), Holding(8, sockets={1: 8})]
    division = Division(TWO_SOCKETS, [CPU0, CPU1], [0, 0], jobs)
    division.add(NS_PER_S, [70_000_000, 30_000_000], [NS_PER_S, 3 * NS_PER_S, 0])
    (a, b), _system, _free = division.close()
    assert (a.cpu_uj, b.cpu_uj) == (70_000_000, 30_000_000)


def test_the_rest_of_a_node_meter_follows_the_components_and_may_come_late() -> None:
    jobs = [Holding(4), Holding(4)]
    division = Division(Node(8), [CPU0, BMC], [0, 0], jobs)
    division.add(NS_PER_S, [100_000_000, 0], [3 * NS_PER_S, NS_PER_S, 0])  # the BMC has not moved yet
    shares, _system, _free = division.close()
    assert [share.other_uj for share in shares] == [0, 0]
    assert division.other_carry_uj == -100_000_000
    later = Division(Node(8), [CPU0, BMC], [0, 0], jobs)
    later.add(NS_PER_S, [100_000_000, 240_000_000], [3 * NS_PER_S, NS_PER_S, 0])
    shares, _system, _free = later.close(division.other_carry_uj)
    assert [share.other_uj for share in shares] == [30_000_000, 10_000_000]
    assert later.meter_uj == [100_000_000, 40_000_000]
    assert later.other_carry_uj == 0


def test_a_late_sensor_makes_no_work_of_idle_power() -> None:
    """100 W idle shown in turns as 80 and 120 J a second: without the debt, half the difference were somebody's."""
    owed: dict[object, int] = {}
    division = Division(Node(8), [CPU0], [100_000_000], [Holding(1)], owed_uj=owed)  # type: ignore[arg-type]
    for second in range(100):
        division.add(NS_PER_S, [80_000_000 if second % 2 == 0 else 120_000_000], [1, 0])
    (job,), _system, _free = division.close()
    assert job.idle_uj == job.energy_uj == 100 * 100_000_000 // 8


def test_nothing_read_is_null_and_not_covered() -> None:
    division = Division(Node(8), [CPU0, DRAM0], [0, 0], [Holding(1)])
    division.add(NS_PER_S, [5_000_000, None], [NS_PER_S, 0])
    (job,), _system, _free = division.close()
    assert job.cpu_uj == 5_000_000
    assert job.dram_uj is None
    assert (job.present_us, job.covered_us) == (1_000_000, 0)
    nothing = Division(Node(8), [], [], [Holding(1)])
    nothing.add(NS_PER_S, [], [NS_PER_S, 0])
    assert nothing.close()[0][0].covered_us == 0
