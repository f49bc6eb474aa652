"""Cutting an interval at the minutes loses nothing, and dynamic energy lies where somebody worked."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hpccarbon.node.idle import IdlePower
from hpccarbon.node.pieces import Interval
from hpccarbon.records import Channel
from hpccarbon.units import NS_PER_S

CHANNELS = (
    Channel("rapl", "intel-rapl:0", "cpu", socket=0),
    Channel("rapl", "intel-rapl:0:0", "dram", socket=0),
    Channel("nvml", "GPU-a", "gpu", device="GPU-a"),
    Channel("bmc", "node", "node"),
)
START_NS = 1_000 * NS_PER_S
WALL_NS = 1_790_000_000 * NS_PER_S


@given(
    length_ns=st.integers(1, 10**13),
    deltas=st.lists(st.none() | st.integers(0, 10**13), min_size=4, max_size=4),
    idle=st.lists(st.integers(0, 300_000_000), min_size=4, max_size=4),
    parts=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.booleans(), st.integers(0, 10**14)), max_size=4),
    system=st.integers(0, 10**13),
)
def test_pieces_add_up(
    length_ns: int,
    deltas: list[int | None],
    idle: list[int],
    parts: list[tuple[float, float, bool, int]],
    system: int,
) -> None:
    end_ns = START_NS + length_ns
    spans = [(START_NS + int(min(a, b) * length_ns), START_NS + int(max(a, b) * length_ns)) for a, b, _, _ in parts]
    cpu = [used if last > first else 0 for (first, last), (_, _, _, used) in zip(spans, parts, strict=True)]
    gpus = [{"GPU-a": 1} if held else {} for _, _, held, _ in parts]
    whole = Interval(START_NS, end_ns, CHANNELS, idle, deltas, spans, gpus, [*cpu, system])
    pieces = list(whole.pieces(WALL_NS))
    assert sum(piece.length_ns for piece in pieces) == length_ns
    for place, delta in enumerate(deltas):
        energies = [piece.energy_uj[place] for piece in pieces]
        if delta is None:
            assert set(energies) == {None}
        else:
            assert sum(energy for energy in energies if energy is not None) == delta
    for place, used in enumerate([*cpu, system]):
        assert sum(piece.cpu[place] for piece in pieces) == used
    for place, (first, last) in enumerate(spans):
        assert sum(piece.present_ns[place] for piece in pieces) == last - first


def test_dynamic_energy_lies_in_the_minutes_somebody_worked() -> None:
    """Four minutes at 10 W idle; a job draws 600 J in the last two."""
    minute = 60 * NS_PER_S
    spans = [(START_NS + 2 * minute, START_NS + 4 * minute)]
    idle, deltas = [10_000_000, 0, 0, 0], [3_000_000_000, None, None, None]
    whole = Interval(START_NS, START_NS + 4 * minute, CHANNELS, idle, deltas, spans, [{}], [120 * NS_PER_S, 0])
    energy = [piece.energy_uj[0] for piece in whole.pieces(WALL_NS - WALL_NS % minute)]
    assert energy == [600_000_000, 600_000_000, 900_000_000, 900_000_000]


def test_a_gpu_that_a_job_holds_teaches_no_idle_power() -> None:
    power = IdlePower(8, {})
    power.take(CHANNELS[:3])
    joules = [200_000_000, 20_000_000, 2_000_000_000]
    assert power.learn(5 * NS_PER_S, joules, {"GPU-a"})
    assert [power.of(channel.key) for channel in CHANNELS[:3]] == [40_000_000, 4_000_000, 0]
    assert power.learn(5 * NS_PER_S, [200_000_000, 20_000_000, 300_000_000], set())
    assert power.of("nvml/GPU-a") == 60_000_000


def test_an_assumed_idle_power_is_marked_bounded_and_gives_way() -> None:
    power = IdlePower(8, {}, assumed_uw=65_000_000)
    power.take(CHANNELS[:1])
    assert power.assumed_uw == {"rapl/intel-rapl:0": 65_000_000}
    power.bound(60 * NS_PER_S, [3_000_000_000])
    assert power.assumed_uw == {"rapl/intel-rapl:0": 50_000_000}
    assert power.learned_uw == {}
    power.learn(5 * NS_PER_S, [200_000_000], set())
    assert (power.assumed_uw, power.of("rapl/intel-rapl:0")) == ({}, 40_000_000)
