"""RAPL on the fixture trees: what is counted once, what is not counted, and what becomes a gap."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpccarbon.node.meters import rapl
from hpccarbon.node.meters.cpuinfo import package_bound_w, parse_cpuinfo
from hpccarbon.node.meters.rapl import RaplMeter
from hpccarbon.node.sampler import difference
from hpccarbon.node.sysroot import SysRoot
from hpccarbon.records import Gap, Reading
from hpccarbon.units import NS_PER_S
from tests.meters.ground import CONFIG, TREES, copied, denied, show, tree

POWERCAP = "sys/class/powercap"


def zones(meter: RaplMeter) -> list[str]:
    return [channel.zone.removeprefix("intel-rapl:") for channel in meter.channels]


def states(meter: RaplMeter) -> dict[str, str]:
    return {finding.zone.removeprefix("intel-rapl:"): finding.state for finding in meter.findings}


@pytest.mark.parametrize(
    ("name", "counted"),
    [
        ("xeon-2s", ["0", "0:0", "1", "1:0"]),
        ("xeon-4s", ["0", "0:0", "1", "1:0", "2", "2:0", "3", "3:0"]),
        ("xeon-8s", [f"{socket}{child}" for socket in range(8) for child in ("", ":0")]),
        ("epyc-1s", ["0"]),
        ("epyc-2s", ["0", "1"]),
        ("xeon-psys", ["0", "0:0", "1", "1:0"]),
        ("psys-only", ["0"]),
        ("xeon-mmio-twin", ["0"]),
        ("zen1-dies-mirrored", ["0"]),
        ("xeon-dies-real", ["0", "0:0", "1", "1:0"]),
        ("xeon-no-driver", []),
        ("no-rapl-vm", []),
        ("cray-ex-cpu", []),
    ],
)
def test_each_joule_is_counted_once(name: str, counted: list[str]) -> None:
    meter = rapl.discover(tree(name), CONFIG)
    assert zones(meter) == counted
    assert all(isinstance(row, Reading) for row in meter.read(at_ns=7))
    assert [row.zone for row in meter.read(at_ns=7)] == [channel.zone for channel in meter.channels]


def test_what_a_channel_says() -> None:
    package, memory = rapl.discover(tree("xeon-2s"), CONFIG).channels[2:]
    assert (package.component, package.socket, package.range_uj) == ("cpu", 1, 262_143_328_850)
    assert (memory.component, memory.socket, memory.range_uj) == ("dram", 1, 65_712_999_613)
    assert package.max_power_w == 369  # 1.5 x PL2, which is 1.2 x 205 W
    assert package.key == "rapl/intel-rapl:1"


def test_zones_that_are_not_counted_are_listed_with_the_reason() -> None:
    meter = rapl.discover(tree("xeon-mmio-twin"), CONFIG)
    assert states(meter) == {"0": "ok", "0:0": "nested", "0:1": "nested", "intel-rapl-mmio:0": "nested"}
    psys = next(f for f in rapl.discover(tree("xeon-psys"), CONFIG).findings if f.zone == "intel-rapl:2")
    assert (psys.state, "contains the packages" in psys.detail) == ("nested", True)


def test_a_platform_zone_alone_is_charged_and_says_what_it_holds() -> None:
    (channel,) = rapl.discover(tree("psys-only"), CONFIG).channels
    assert (channel.component, channel.socket) == ("cpu", None)
    assert "memory and board" in channel.note


def test_a_peak_limit_does_not_widen_the_bound() -> None:
    (channel,) = rapl.discover(tree("xeon-mmio-twin"), CONFIG).channels
    assert channel.max_power_w == 171  # 1.5 x 1.2 x 95 W; PL4 is 270 W


def test_an_mmio_twin_stands_in_for_a_counter_that_cannot_be_read() -> None:
    with copied("xeon-mmio-twin") as top:
        (top / POWERCAP / "intel-rapl:0/energy_uj").unlink()
        meter = rapl.discover(SysRoot(top), CONFIG)
    assert zones(meter) == ["intel-rapl-mmio:0"]


# ---- dies -----------------------------------------------------------------------------------------------------------


def test_a_mirrored_die_says_whose_counter_it_shows() -> None:
    meter = rapl.discover(tree("zen1-dies-mirrored"), CONFIG)
    assert states(meter) == {"0": "ok", "0:0": "nested", "1": "nested", "1:0": "nested"}
    finding = next(f for f in meter.findings if f.zone == "intel-rapl:1")
    assert finding.detail == "package-0-die-1: shows the counter of package-0-die-0, counted once"


@settings(max_examples=40, deadline=None)
@given(apart_uj=st.integers(-1_000_000, 1_000_000), energy=st.sampled_from([5, 65_532_610_980, 1_000_000_000]))
def test_dies_are_one_counter_within_what_is_drawn_until_its_update(apart_uj: int, energy: int) -> None:
    range_uj = 65_532_610_987
    with copied("zen1-dies-mirrored") as top:
        show(top, f"{POWERCAP}/intel-rapl:0/energy_uj", energy)
        show(top, f"{POWERCAP}/intel-rapl:1/energy_uj", (energy + apart_uj) % range_uj)
        meter = rapl.discover(SysRoot(top), CONFIG)
    tolerance_uj = 216 * 2_000  # 200 W + 8 %, for 2 ms
    assert zones(meter) == (["0"] if abs(apart_uj) <= tolerance_uj else ["0", "1"])


def test_real_dies_that_begin_alike_are_told_apart_later_and_stay_apart() -> None:
    with copied("xeon-dies-real") as top:
        for zone, energy in (("0", 1_000), ("1", 1_200), ("0:0", 50), ("1:0", 60)):
            show(top, f"{POWERCAP}/intel-rapl:{zone}/energy_uj", energy)
        meter = rapl.discover(SysRoot(top), CONFIG)
        assert zones(meter) == ["0", "0:0"]  # just after boot nobody can know
        show(top, f"{POWERCAP}/intel-rapl:1/energy_uj", 3_000_000)
        show(top, f"{POWERCAP}/intel-rapl:1:0/energy_uj", 3_000_000)
        assert meter.refresh()
        assert zones(meter) == ["0", "0:0", "1", "1:0"]
        show(top, f"{POWERCAP}/intel-rapl:0/energy_uj", 3_000_000)  # they pass each other by chance
        assert not meter.refresh()
        assert zones(meter) == ["0", "0:0", "1", "1:0"]


def test_dies_that_show_nothing_are_no_evidence() -> None:
    with copied("zen1-dies-mirrored") as top:
        for die in (0, 1):
            show(top, f"{POWERCAP}/intel-rapl:{die}/energy_uj", 0)
        meter = rapl.discover(SysRoot(top), CONFIG)
        assert zones(meter) == ["0", "1"]
        for die in (0, 1):
            show(top, f"{POWERCAP}/intel-rapl:{die}/energy_uj", 17_000)
        assert meter.refresh()
        assert zones(meter) == ["0"]


# ---- missing is not zero --------------------------------------------------------------------------------------------


def test_a_component_that_is_denied_as_a_whole_is_missing_and_said() -> None:
    with copied("xeon-2s-dram-denied") as top, denied(top) as root:
        meter = rapl.discover(root, CONFIG)
    assert zones(meter) == ["0", "1"]
    assert states(meter) == {"0": "ok", "0:0": "denied", "1": "ok", "1:0": "denied"}
    finding = next(f for f in meter.findings if f.state == "denied")
    assert finding.detail == "dram: permission denied"
    assert "as root" in finding.advice


def test_one_socket_that_is_denied_is_a_gap_not_a_zero() -> None:
    with copied("xeon-2s") as top, denied(top, f"{POWERCAP}/intel-rapl:1/energy_uj") as root:
        meter = rapl.discover(root, CONFIG)
        rows = meter.read(at_ns=7)
    assert [type(row) for row in rows] == [Reading, Reading, Gap, Reading]
    assert isinstance(rows[2], Gap)
    assert (rows[2].zone, rows[2].reason) == ("intel-rapl:1", "permission denied")


def test_a_tree_that_is_denied_is_read_once_it_may_be() -> None:
    with copied("xeon-2s-denied") as top:
        with denied(top) as root:
            meter = rapl.discover(root, CONFIG)
            assert meter.channels == ()
            assert set(states(meter).values()) == {"denied"}
            assert not meter.refresh()
        assert meter.refresh()
        assert zones(meter) == ["0", "0:0", "1", "1:0"]


@pytest.mark.parametrize("text", ["", "nonsense", "-5", "12.5"])
def test_what_is_no_counter_is_a_gap(text: str) -> None:
    with copied("xeon-2s") as top:
        meter = rapl.discover(SysRoot(top), CONFIG)
        show(top, f"{POWERCAP}/intel-rapl:0/energy_uj", text)
        rows = meter.read(at_ns=7)
    assert [type(row) for row in rows] == [Gap, Reading, Reading, Reading]


def test_a_zone_that_vanishes_leaves_with_the_next_refresh() -> None:
    with copied("xeon-zone-vanishes/t0") as top:
        meter = rapl.discover(SysRoot(top), CONFIG)
        assert zones(meter) == ["0", "0:0", "1", "1:0"]
        for name in ("intel-rapl:1", "intel-rapl:1:0"):
            assert not (TREES / "xeon-zone-vanishes/t1" / POWERCAP / name).exists()
            shutil.rmtree(top / POWERCAP / name)
        assert meter.refresh()
        assert zones(meter) == ["0", "0:0"]
        assert not meter.refresh()


def test_a_driver_that_is_loaded_again_is_read_again() -> None:
    with copied("xeon-2s") as top:
        meter = rapl.discover(SysRoot(top), CONFIG)
        path = top / POWERCAP / "intel-rapl:0/energy_uj"
        path.unlink()  # a plain file lives on for those who hold it; the refresh must still take the new one
        path.write_text("42\n")
        assert not meter.refresh()
        first = meter.read(at_ns=7)[0]
    assert isinstance(first, Reading)
    assert first.energy_uj == 42


def test_where_there_is_nothing_the_reason_is_told() -> None:
    def advice(name: str) -> str:
        (finding,) = rapl.discover(tree(name), CONFIG).findings
        assert finding.state == "missing"
        return finding.advice

    assert "virtual machine" in advice("no-rapl-vm")
    assert "modprobe" in advice("xeon-no-driver")
    assert "no RAPL" in advice("altra-2s-hwmon")


# ---- wraps and resets -----------------------------------------------------------------------------------------------


def energies(name: str) -> list[int]:
    return [row.energy_uj for row in rapl.discover(tree(name), CONFIG).read(0) if isinstance(row, Reading)]


def test_a_counter_of_65_kj_is_right_with_ticks_150_s_late() -> None:
    (channel,) = rapl.discover(tree("epyc-wrap/t0"), CONFIG).channels
    (before,), (after,) = energies("epyc-wrap/t0"), energies("epyc-wrap/t1")
    assert after < before
    assert difference(channel, before, after, 150 * NS_PER_S) == 60_000_000_000 + channel.range_uj - 65_532_610_987
    assert difference(channel, before, after, 170 * NS_PER_S) is None  # may have wrapped twice: a gap, never a guess


def test_a_reset_is_no_wrap() -> None:
    channels = rapl.discover(tree("xeon-reset/t0"), CONFIG).channels
    pairs = zip(channels, energies("xeon-reset/t0"), energies("xeon-reset/t1"), strict=True)
    assert [difference(*pair, 10 * NS_PER_S) for pair in pairs if pair[0].component == "cpu"] == [None, None]


@pytest.mark.parametrize(
    ("vendor", "family", "model", "name", "watts"),
    [
        ("AuthenticAMD", 23, 49, "AMD EPYC 7742 64-Core Processor", 302),
        ("AuthenticAMD", 25, 1, "AMD EPYC 7763 64-Core Processor", 302),
        ("AuthenticAMD", 25, 17, "AMD EPYC 9654 96-Core Processor", 432),
        ("AuthenticAMD", 25, 144, "AMD Instinct MI300A Accelerator", 820),
        ("AuthenticAMD", 26, 2, "AMD EPYC 9655 96-Core Processor", 432),
        ("AuthenticAMD", 26, 17, "AMD EPYC 9965 192-Core Processor", 540),
        ("GenuineIntel", 6, 85, "Intel(R) Xeon(R)", 540),
        ("", 0, 0, "", 540),
    ],
)
def test_the_bound_of_a_package_without_limits(vendor: str, family: int, model: int, name: str, watts: int) -> None:
    text = f"vendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t: {model}\nmodel name\t: {name}\n"
    assert package_bound_w(parse_cpuinfo(text)) == watts


def test_every_tree_says_what_it_is() -> None:
    for directory in TREES.iterdir():
        first = (directory / "README").read_text().split()[0].rstrip(":")
        assert first in ("Captured", "Documented", "Constructed"), directory


def test_nested_zones_are_found_below_their_parent_too(tmp_path: Path) -> None:
    # As sysfs has it: the class directory links to zones that lie in one another.
    devices = tmp_path / "sys/devices/virtual/powercap/intel-rapl"
    flat = TREES / "xeon-2s" / POWERCAP
    for zone in ("intel-rapl:0", "intel-rapl:1"):
        shutil.copytree(flat / zone, devices / zone)
        shutil.copytree(flat / f"{zone}:0", devices / zone / f"{zone}:0")
    classes = tmp_path / POWERCAP
    classes.mkdir(parents=True)
    for zone in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0/intel-rapl:0:0", "intel-rapl:1/intel-rapl:1:0"):
        (classes / zone.rsplit("/", maxsplit=1)[-1]).symlink_to(devices / zone)
    assert zones(rapl.discover(SysRoot(tmp_path), CONFIG)) == ["0", "0:0", "1", "1:0"]
    for zone in ("intel-rapl:0:0", "intel-rapl:1:0"):
        (classes / zone).unlink()
    meter = rapl.discover(SysRoot(tmp_path), CONFIG)
    assert [type(row) for row in meter.read(0)] == [Reading] * 4
