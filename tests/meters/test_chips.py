"""Cray blades, hwmon chips and gauges: what is counted, what is nested, what is old, and what a silence makes of it."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpccarbon.config import parse
from hpccarbon.node import meters
from hpccarbon.node.meters import GpuUnit, Meter, amd, cray, gpu_units, hwmon
from hpccarbon.node.meters.gauge import BRIDGE_NS, Integral
from hpccarbon.node.sampler import Sampler, difference
from hpccarbon.node.sysroot import SysRoot
from hpccarbon.node.usage.jobs import JobFiles
from hpccarbon.records import Gap, Reading
from hpccarbon.units import NS_PER_S
from tests.meters.ground import CONFIG, TREES, copied, show, tree

S = NS_PER_S
PM = "sys/cray/pm_counters"


def components(meter: Meter) -> dict[str, str]:
    return {channel.zone: channel.component for channel in meter.channels}


def states(meter: Meter) -> dict[str, str]:
    return {finding.zone: finding.state for finding in meter.findings}


# ---- gauges ---------------------------------------------------------------------------------------------------------


def test_a_gauge_is_integrated_by_trapezoids() -> None:
    integral = Integral()
    assert integral.add(5 * S, 100_000_000) == 0
    assert integral.add(7 * S, 300_000_000) == 400_000_000
    assert integral.add(7 * S, 900_000_000) == 400_000_000  # not newer
    assert integral.add(8 * S, 300_000_000) == 700_000_000


def test_a_long_silence_is_a_reset_to_whoever_subtracts() -> None:
    integral = Integral()
    channel = hwmon.discover(tree("acpi-power-meter"), CONFIG).channels[0]
    integral.add(0, 10**8)
    before = integral.add(S, 10**8)
    after = integral.add(S + BRIDGE_NS + 1, 10**8)
    assert difference(channel, before, after, BRIDGE_NS) is None


@given(st.lists(st.tuples(st.integers(1, 100 * S), st.integers(0, 10**9)), min_size=3, max_size=20))
def test_splitting_the_readings_of_a_straight_line_changes_no_total(steps: list[tuple[int, int]]) -> None:
    one, two = Integral(), Integral()
    at_ns, last = 0, 0
    one.add(0, 0)
    two.add(0, 0)
    for step_ns, power_uw in steps:
        middle = (last + power_uw) // 2
        two.add(at_ns + step_ns // 2, middle)
        at_ns, last = at_ns + step_ns, power_uw
        assert two.add(at_ns, power_uw) == pytest.approx(one.add(at_ns, power_uw), abs=step_ns // S + 1000)


# ---- Cray -----------------------------------------------------------------------------------------------------------


def test_a_blade_counts_the_node_and_its_parts() -> None:
    meter = cray.discover(tree("cray-ex-cpu"), CONFIG)
    assert components(meter) == {"cpu_energy": "cpu", "energy": "node", "memory_energy": "dram"}
    assert [row.energy_uj for row in meter.read(7) if isinstance(row, Reading)] == [
        20_123_456_000_000,
        31_234_567_000_000,
        4_123_456_000_000,
    ]
    assert states(meter)["cpu0_energy"] == "nested"


def test_a_blade_with_accelerators() -> None:
    meter = cray.discover(tree("cray-ex-gpu"), CONFIG)
    assert [zone for zone, component in components(meter).items() if component == "gpu"] == [
        f"accel{number}_energy" for number in range(4)
    ]
    with copied("cray-ex-gpu") as top:
        for number in range(4):
            (top / PM / f"accel{number}_energy").unlink()
        (top / PM / "accel_energy").write_text("5 J 1 us\n")
        assert components(cray.discover(SysRoot(top), CONFIG))["accel_energy"] == "gpu"


def test_a_blade_that_has_stopped_writing_is_a_gap() -> None:
    with copied("cray-ex-stale/t0") as top:
        meter = cray.discover(SysRoot(top), CONFIG)
        channel = meter.channels[1]
        first = meter.read(100 * S)[1]
        assert isinstance(meter.read(104 * S)[1], Reading)  # a tick may come before the next round
        late = meter.read(160 * S)
        assert [type(row) for row in late] == [Gap] * 3
        assert isinstance(late[0], Gap)
        assert late[0].reason == "freshness stands still for 60 s"
        for name in ("freshness", "energy"):
            show(top, f"{PM}/{name}", (TREES / "cray-ex-stale/t2" / PM / name).read_text().strip())
        again = meter.read(180 * S)[1]
    assert isinstance(first, Reading)
    assert isinstance(again, Reading)
    assert difference(channel, first.energy_uj, again.energy_uj, 80 * S) is None  # counters began anew: no bill


@pytest.mark.parametrize("began_at_j", [0, 40_000_000])
def test_a_controller_that_began_anew_is_a_gap_be_its_counters_lower_or_higher(tmp_path: Path, began_at_j: int) -> None:
    """`startup` changes: nothing is billed across it, and everything after it. A new `generation` is no news."""
    with copied("cray-ex-cpu") as top:
        config = parse('[meters]\nenabled = ["cray"]')
        before = int((top / PM / "energy").read_text().split()[0])
        sampler = Sampler(SysRoot(top), "n1", meters.discover(SysRoot(top), config), JobFiles(tmp_path))
        energy_j, billed = before, []
        for second in range(1, 9):
            if second == 3:
                show(top, f"{PM}/generation", "77")
            if second == 5:
                show(top, f"{PM}/startup", "1783009999")
                energy_j = began_at_j
            energy_j += 500
            show(top, f"{PM}/energy", f"{energy_j} J 1 us")
            show(top, f"{PM}/freshness", str(second))
            sampler.tick(second * S, second * S)
            sampler.settle()
            billed.append(sum(energy for (_, key), (energy, _) in sampler.pending.meters.items() if "energy" in key))
        sampler.close()
    assert billed == [joules * 1_000_000 for joules in (0, 500, 1000, 1500, 1500, 1500, 2000, 2500)]


@pytest.mark.parametrize("text", ["", "12", "412 W 5 us", "J J", "-4 J 1 us"])
def test_what_is_no_energy_is_a_gap_never_a_zero(text: str) -> None:
    with copied("cray-ex-cpu") as top:
        meter = cray.discover(SysRoot(top), CONFIG)
        show(top, f"{PM}/energy", text)
        row = meter.read(7)[1]
    assert isinstance(row, Gap)


def test_a_blade_whose_counter_makes_no_sense_keeps_the_others() -> None:
    with copied("cray-ex-cpu") as top:
        (top / PM / "freshness").unlink()
        (top / PM / "memory_energy").write_text("n/a\n")
        meter = cray.discover(SysRoot(top), CONFIG)
        assert components(meter) == {"cpu_energy": "cpu", "energy": "node"}
        (failing,) = (finding for finding in meter.findings if finding.state == "failing")
        assert (failing.zone, failing.component, failing.advice) == (
            "memory_energy",
            "dram",
            "see the blade controller's log",
        )
        for at_ns in (7, 10**6 * S):  # nothing tells whether they are fresh
            assert [type(row) for row in meter.read(at_ns)] == [Reading, Reading]


def test_the_sum_of_the_accelerators_is_not_added_to_them() -> None:
    with copied("cray-ex-gpu") as top:
        (top / PM / "accel_energy").write_text("5 J 1 us\n")
        meter = cray.discover(SysRoot(top), CONFIG)
        assert "accel_energy" not in components(meter)
        assert states(meter)["accel_energy"] == "nested"
    elsewhere = cray.discover(tree("no-rapl-vm"), CONFIG)
    assert (elsewhere.read(7), states(elsewhere)) == ([], {cray.DIRECTORY: "missing"})


# ---- hwmon ----------------------------------------------------------------------------------------------------------


def test_grace_hopper() -> None:
    meter = hwmon.discover(tree("grace-hopper-hwmon"), CONFIG)
    assert components(meter) == {
        "power_meter.0/Module-Power-Socket-0": "node",
        "power_meter.1/Grace-Power-Socket-0": "cpu",
    }
    assert [channel.socket for channel in meter.channels] == [0, 0]
    assert "means over 50 ms" in meter.channels[0].note
    meter.read(0)
    assert [row.energy_uj for row in meter.read(2 * S) if isinstance(row, Reading)] == [824_000_000, 342_000_000]


def test_grace_without_a_socket_meter_adds_its_parts() -> None:
    with copied("grace-2s-hwmon") as top:
        for number in (0, 3):
            (top / f"sys/class/hwmon/hwmon{number}/name").write_text("gone\n")
        meter = hwmon.discover(SysRoot(top), CONFIG)
    assert [channel.zone.split("/")[1] for channel in meter.channels] == [
        "CPU-Power-Socket-0",
        "SysIO-Power-Socket-0",
        "CPU-Power-Socket-1",
        "SysIO-Power-Socket-1",
    ]


def test_altra_tells_cores_from_memory() -> None:
    meter = hwmon.discover(tree("altra-2s-hwmon"), CONFIG)
    assert sorted(components(meter).values()) == ["cpu"] * 6 + ["dram"] * 4


def test_an_acpi_meter_is_the_node() -> None:
    meter = hwmon.discover(tree("acpi-power-meter"), CONFIG)
    assert components(meter) == {"power_meter.0/power1_average": "node"}


def test_a_sum_of_power_survives_a_refresh_and_a_chip_that_goes_does_not() -> None:
    with copied("acpi-power-meter") as top:
        meter = hwmon.discover(SysRoot(top), CONFIG)
        meter.read(0)
        assert not meter.refresh()
        (row,) = meter.read(S)
        assert isinstance(row, Reading)
        assert row.energy_uj == 388_000_000
        show(top, "sys/class/hwmon/hwmon0/device/power1_average", "no data")
        assert isinstance(meter.read(2 * S)[0], Gap)
        assert meter.refresh()
        assert meter.channels == []
        assert "failing" in states(meter).values()


def test_an_amd_card_counts_once_for_both_its_dies() -> None:
    meter = amd.discover(tree("mi250x-hwmon"), CONFIG)
    assert [(channel.device, channel.component) for channel in meter.channels] == [
        ("AMD-0000:c1:00.0", "gpu"),
        ("AMD-0000:c9:00.0", "gpu"),
    ]
    assert meter.channels[0].max_power_w == 728  # 560 W and short peaks
    assert [row.energy_uj for row in meter.read(7) if isinstance(row, Reading)] == [123_456_790_496, 123_000_000_000]
    units = gpu_units(meter.devices(), ["0", "1", "3", "0000:ce:00.0"])
    assert units == {
        "0": GpuUnit("AMD-0000:c1:00.0", 1, 2),
        "1": GpuUnit("AMD-0000:c1:00.0", 1, 2),
        "3": GpuUnit("AMD-0000:c9:00.0", 1, 2),
        "0000:ce:00.0": GpuUnit("AMD-0000:c9:00.0", 1, 2),
    }


def test_an_amd_card_without_counter_has_its_power_integrated() -> None:
    meter = amd.discover(tree("mi300x-hwmon"), CONFIG)
    meter.read(0)
    assert [row.energy_uj for row in meter.read(S) if isinstance(row, Reading)] == [1_000_000_000, 140_000_001]
    assert "present power" in meter.channels[1].note


def metrics(revision: int, size: int, offset: int, count: int) -> bytes:
    data = bytearray(size)
    data[:4] = struct.pack("<HBB", size, 1, revision)
    data[offset : offset + 8] = struct.pack("<Q", count)
    return bytes(data)


@pytest.mark.parametrize(
    ("revision", "size", "offset"),
    [(1, 96, 24), (2, 104, 24), (3, 120, 24), (4, 288, 24), (5, 360, 88), (6, 1664, 16), (7, 2208, 24), (8, 3360, 24)],
)
def test_where_each_layout_keeps_its_energy(revision: int, size: int, offset: int) -> None:
    assert amd.parse_energy(metrics(revision, size, offset, 65_536)) == 1_000_000
    assert amd.parse_energy(metrics(revision, size, offset, 1)) == 15
    assert amd.parse_energy(metrics(revision, size, offset, (1 << 64) - 1)) is None


@pytest.mark.parametrize(
    "data", [b"", b"\x78", metrics(3, 120, 24, 5)[:28], metrics(9, 3000, 24, 5), metrics(5, 328, 56, 5)]
)
def test_a_layout_that_is_not_known_is_not_guessed(data: bytes) -> None:
    with pytest.raises(ValueError, match="gpu_metrics"):
        amd.parse_energy(data)


def test_an_amd_counter_that_goes_blank_is_a_gap() -> None:
    with copied("mi250x-hwmon") as top:
        meter = amd.discover(SysRoot(top), CONFIG)
        for content in (metrics(3, 120, 24, (1 << 64) - 1), b"", metrics(9, 120, 24, 1)):
            (top / "sys/class/hwmon/hwmon0/device/gpu_metrics").write_bytes(content)
            assert [type(row) for row in meter.read(7)] == [Gap, Reading]
        # Without a layout that is known the power is read instead.
        assert meter.refresh()
        assert "power1_average" in meter.channels[0].note


def test_an_amd_card_that_shows_nothing_is_named_and_costs_no_other() -> None:
    with copied("mi250x-hwmon") as top:
        chip = top / "sys/class/hwmon/hwmon0"
        before = amd.discover(SysRoot(top), CONFIG)
        first, second = (channel.zone for channel in before.channels)
        for content, why in (
            (metrics(3, 120, 24, 0), "shows neither energy nor power"),
            (metrics(9, 120, 24, 1), "gpu_metrics v1.9 of 120 bytes is not known"),
            (None, "no such file"),
        ):
            (chip / "power1_average").unlink(missing_ok=True)
            if content is None:
                (chip / "device/gpu_metrics").unlink()
            else:
                (chip / "device/gpu_metrics").write_bytes(content)
            meter = amd.discover(SysRoot(top), CONFIG)
            assert [channel.zone for channel in meter.channels] == [second]
            (failing,) = (finding for finding in meter.findings if finding.state == "failing")
            assert (failing.zone, failing.component, failing.advice) == (first, "gpu", "see dmesg for amdgpu")
            assert why in failing.detail
            assert {gpu.uuid for gpu in meter.devices()} == {f"AMD-{second}"}
            meter.close()
        assert (before.processes(first), before.instances(first)) == ({}, {})
        before.close()


def test_a_sensor_that_would_hold_up_the_tick_is_left_alone_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that answers late once is not asked again when it happens to be quick."""
    with copied("mi250x-hwmon") as cards, copied("acpi-power-meter") as chip:
        with monkeypatch.context() as slow:
            slow.setattr(amd, "SLOW_S", 0.0)
            slow.setattr(hwmon, "SLOW_S", 0.0)
            found: list[Meter] = [amd.discover(SysRoot(cards), CONFIG), hwmon.discover(SysRoot(chip), CONFIG)]
        for meter in found:
            for _ in range(2):
                assert (meter.channels, meter.read(7)) == ([], [])
                slowly = [finding for finding in meter.findings if "hold up the tick" in finding.detail]
                assert slowly and {finding.state for finding in slowly} == {"failing"}
                assert not meter.refresh()
            meter.close()


def test_an_intel_card_is_not_added_to_its_package() -> None:
    meter = hwmon.discover(tree("max1550-hwmon"), CONFIG)
    assert [(channel.zone, channel.device) for channel in meter.channels] == [("xe.0/card", "INTEL-0000:4d:00.0")]
    assert [row.energy_uj for row in meter.read(7) if isinstance(row, Reading)] == [77_000_000_000]


# ---- together -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "charged"),
    [
        ("xeon-2s", {"cpu": "rapl", "dram": "rapl"}),
        ("cray-ex-cpu", {"cpu": "cray", "dram": "cray", "node": "cray"}),
        ("cray-ex-gpu", {"cpu": "cray", "dram": "cray", "node": "cray", "gpu": "cray"}),
        ("mi250x-hwmon", {"cpu": "rapl", "gpu": "amd"}),
        ("grace-hopper-hwmon", {"cpu": "hwmon", "node": "hwmon"}),
        ("altra-2s-hwmon", {"cpu": "hwmon", "dram": "hwmon"}),
        ("acpi-power-meter", {"cpu": "rapl", "dram": "rapl", "node": "hwmon"}),
        ("no-rapl-vm", {"cpu": "model"}),
    ],
)
def test_every_component_is_charged_from_one_meter(name: str, charged: dict[str, str]) -> None:
    found = meters.discover(tree(name), CONFIG)
    pairs = {(channel.component, channel.meter) for meter in found for channel in meter.channels}
    assert pairs == set(charged.items())
    for meter in found:
        assert [row.zone for row in meter.read(7)] == [channel.zone for channel in meter.channels]


def test_two_meters_of_the_same_joules() -> None:
    with copied("cray-ex-gpu") as top:
        for source in ("mi250x-hwmon/sys/class/hwmon", "mi250x-hwmon/sys/class/powercap"):
            (top / "sys/class").mkdir(exist_ok=True)
            (top / "sys/class" / source.rsplit("/", maxsplit=1)[-1]).symlink_to(TREES / source)
        found = {meter.name: meter for meter in meters.discover(SysRoot(top), CONFIG)}
        assert {channel.component for channel in found["cray"].channels} == {"dram", "node"}
        assert {channel.component for channel in found["amd"].channels} == {"gpu"}
        standby = [f for f in found["cray"].findings if f.state == "standby"]
        assert "cpu_energy -> cpu; charged from rapl" in {f.detail for f in standby}
        assert [row.zone for row in found["cray"].read(7)] == ["energy", "memory_energy"]
        (top / "sys/class/powercap").unlink()
        assert found["rapl"].refresh()
        assert found["cray"].refresh()  # RAPL is gone: the blade's counter is charged
        assert [row.zone for row in found["cray"].read(7)] == ["cpu_energy", "energy", "memory_energy"]
