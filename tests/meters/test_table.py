"""The table of meters: precedence, models that stand in, and what every meter owes to whoever reads it."""

from __future__ import annotations

import pytest

from hpccarbon.config import parse
from hpccarbon.errors import ConfigError
from hpccarbon.node import meters
from hpccarbon.node.sysroot import SysRoot
from hpccarbon.records import Gap, Reading
from tests.meters.ground import CONFIG, TREES, copied, denied, tree

ROOTS = sorted(
    str(path.relative_to(TREES))
    for pattern in ("*", "*/t?")
    for path in TREES.glob(pattern)
    if (path / "proc").is_dir() and not (path / "DENIED").exists()
)


def test_a_model_never_stands_in_for_a_denied_sensor_in_silence() -> None:
    with copied("xeon-2s-denied") as top:
        with denied(top) as root:
            found = meters.discover(root, CONFIG)
            channels = [channel for meter in found for channel in meter.channels]
            (model,) = [meter for meter in found if meter.name == "model"]
            assert [(channel.meter, channel.component, channel.modelled) for channel in channels] == [
                ("model", "cpu", True)
            ]
            why = "rapl intel-rapl:0 is there and cannot be read (package-0: permission denied), modelled instead"
            assert channels[0].note.startswith(why)
            assert channels[0].key.endswith("-for-unreadable-rapl")  # what the report reads from the ledger
            assert model.findings[0].detail.startswith(why)
        # Once it may be read, the sensor is charged and the model steps back.
        changed = [meter.refresh() for meter in found]
        assert (changed[0], changed[-1]) == (True, True)
        assert {channel.meter for meter in found for channel in meter.channels} == {"rapl"}
        assert [finding.state for finding in model.findings] == ["standby"]


def test_a_model_of_a_machine_without_sensors_has_nothing_to_excuse() -> None:
    found = meters.discover(tree("no-rapl-vm"), CONFIG)
    (channel,) = [channel for meter in found for channel in meter.channels]
    assert channel.modelled
    assert "cannot be read" not in channel.note


def test_a_meter_that_does_not_exist_is_named() -> None:
    with pytest.raises(ConfigError, match="unknown meter 'rappel'; known: rapl, nvml"):
        meters.discover(tree("xeon-2s"), parse('[meters]\nenabled = ["rappel"]\n'))


@pytest.mark.parametrize("name", ROOTS)
def test_every_tree_and_meter_keeps_the_contract(name: str) -> None:
    root = SysRoot(TREES / name)
    for meter in meters.discover(root, CONFIG):
        for at_ns in (0, 5):
            rows = meter.read(at_ns)
            assert [row.zone for row in rows] == [channel.zone for channel in meter.channels]
            assert all(isinstance(row, Reading | Gap) and row.meter == meter.name for row in rows)
            assert all(row.energy_uj >= 0 and type(row.energy_uj) is int for row in rows if isinstance(row, Reading))
        assert meter.findings
        assert all(finding.detail and finding.meter == meter.name for finding in meter.findings)
        assert all(finding.advice for finding in meter.findings if finding.state in ("denied", "failing"))
        assert all(channel.max_power_w > 0 for channel in meter.channels)
        assert not meter.refresh()
        meter.close()
        meter.close()
