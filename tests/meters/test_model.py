"""The model of nodes without a sensor: cumulative, marked, with its source and its error stated."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpccarbon.config import Config, parse
from hpccarbon.errors import ConfigError
from hpccarbon.node import meters
from hpccarbon.node.meters import model
from hpccarbon.node.meters.cpuinfo import parse_cpuinfo
from hpccarbon.node.meters.gpumodel import idle_and_full_mw
from hpccarbon.node.meters.model import FAMILIES, ModelMeter, curve
from hpccarbon.node.sysroot import SysRoot, parse_busy_ticks
from hpccarbon.records import Gap, Reading
from hpccarbon.units import NS_PER_S
from tests.meters.ground import CONFIG, copied, show, tree

MEASURED = parse("[model]\nidle_power_w = 100\nfull_power_w = 300\n")


def modelled(root: SysRoot, config: Config = CONFIG) -> ModelMeter:
    meter = model.discover(root, config)
    assert isinstance(meter, ModelMeter)
    return meter


def test_energy_is_idle_over_time_and_the_rest_over_busy_time() -> None:
    with copied("xeon-no-driver") as top:
        meter = modelled(SysRoot(top), MEASURED)
        (channel,) = meter.channels
        (before,) = meter.read(100 * NS_PER_S)
        show(top, "proc/stat", "cpu  1100 0 500 99999 10 0 20 0 0 0")  # 1 CPU-second on a node of two CPUs
        (after,) = meter.read(110 * NS_PER_S)
    assert isinstance(before, Reading)
    assert isinstance(after, Reading)
    assert after.energy_uj - before.energy_uj == 1_000_000_000 + 100_000_000
    assert (channel.modelled, channel.idle_uw, channel.range_uj) == (True, 100_000_000, 0)


def test_a_stat_that_cannot_be_parsed_is_a_gap() -> None:
    with copied("xeon-no-driver") as top:
        meter = modelled(SysRoot(top))
        show(top, "proc/stat", "intr 5")
        assert isinstance(meter.read(7)[0], Gap)
    with pytest.raises(ValueError, match="expected the line"):
        parse_busy_ticks(b"cpu 1 2\n")


def test_no_stat_no_model(tmp_path: Path) -> None:
    meter = model.discover(SysRoot(tmp_path), CONFIG)
    assert meter.channels == ()
    assert meter.findings[0].state == "failing"


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_family_is_found_by_its_own_numbers(family: model.Family) -> None:
    for number in family.models:
        text = (
            f"vendor_id\t: {family.vendor}\ncpu family\t: {family.family}\nmodel\t: {number}\n"
            f"stepping\t: {family.steppings[0]}\nphysical id\t: 0\nphysical id\t: 1\n"
        )
        found = curve(parse_cpuinfo(text), CONFIG)
        assert (found.idle_mw, found.full_mw) == (round(family.idle_w * 1000), round(family.full_w * 1000))
        assert "SPECpower" in found.origin
        assert "%" in found.band


def test_what_the_model_says_of_itself() -> None:
    (guest,) = modelled(tree("no-rapl-vm")).channels
    assert "2 virtual CPUs" in guest.note
    assert "-60/+100 %" in guest.note
    (arm,) = modelled(tree("grace-2s-hwmon")).channels
    assert "2 socket(s)" in arm.note
    assert "not in the table" in arm.note
    (own,) = modelled(tree("xeon-2s"), MEASURED).channels
    assert own.note == "100 W idle, 300 W full: configured ([model])"


def test_memory_is_modelled_only_where_the_site_says_so_and_nothing_measures_it() -> None:
    config = parse("[model]\nmemory_w_per_gib = 0.1\n")
    with copied("epyc-2s") as top:
        (top / "proc/meminfo").write_text("MemTotal:       527894528 kB\n")  # 512 GiB less what the kernel keeps
        found = meters.discover(SysRoot(top), config)
        charged = {(c.meter, c.component, c.modelled) for meter in found for c in meter.channels}
        assert charged == {("rapl", "cpu", False), ("model", "dram", True)}
        (memory,) = [meter for meter in found if meter.name == "model"]
        before, after = memory.read(0)[0], memory.read(10 * NS_PER_S)[0]
        assert isinstance(before, Reading)
        assert isinstance(after, Reading)
        assert after.energy_uj - before.energy_uj == pytest.approx(50.4e6 * 10, rel=0.02)
        findings = {
            finding.detail: finding for meter in meters.discover(SysRoot(top), CONFIG) for finding in meter.findings
        }
        assert "Green Algorithms" in findings["memory is neither measured nor modelled"].advice
    # A modelled server has its memory in it, and a measured memory needs no model.
    for name in ("no-rapl-vm", "xeon-2s"):
        found = meters.discover(tree(name), config)
        assert not [c for meter in found for c in meter.channels if c.component == "dram" and c.modelled]
    with pytest.raises(ConfigError, match="between 0 and 5 W"):
        parse("[model]\nmemory_w_per_gib = 50\n")


def test_a_gpus_model_takes_its_own_limit_before_the_table() -> None:
    assert idle_and_full_mw("NVIDIA A100 80GB PCIe", 250_000)[1:] == (250_000, "limit 250 W")
    assert idle_and_full_mw("NVIDIA A100 80GB PCIe", 0)[1:] == (300_000, "rated 300 W")
    assert idle_and_full_mw("Tesla V100S-PCIE-32GB", 0)[1] == 250_000
    assert idle_and_full_mw("A new one", 0)[2] == "model not known: 250 W taken"
