"""The real pynvml on a stub of NVIDIA's library: counters, gauges, MIG, processes, lost GPUs, a driver that hangs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hpccarbon.config import parse
from hpccarbon.node import meters
from hpccarbon.node.meters import GpuUnit, gpu_meters, gpu_units, nvml
from hpccarbon.node.meters.nvml import NvmlMeter
from hpccarbon.node.sysroot import SysRoot
from hpccarbon.records import Gap, Reading
from hpccarbon.units import NS_PER_S
from tests.meters.ground import tree

GPU0, GPU1 = "GPU-00000000-aaaa-0000-0000-000000000000", "GPU-11111111-bbbb-0000-0000-000000000000"


def gpu(uuid: str = GPU0, minor: int = 0, **lines: Any) -> str:
    """A GPU of the stub's state file; keyword arguments add or replace lines, None leaves one out."""
    state: dict[str, object] = {
        "uuid": uuid,
        "minor": minor,
        "pci": f"00000000:{minor + 7:02X}:00.0",
        "name": "NVIDIA A100-SXM4-80GB",
        "energy_mj": 1_000_000,
        "power_mw": 250_000,
        "limit_mw": 400_000,
        "max_limit_mw": 400_000,
        **lines,
    }
    return "gpu\n" + "".join(f"{key} {value}\n" for key, value in state.items() if value is not None)


@contextmanager
def driver(tmp_path: Path, state: Path, *gpus: str, timeout_s: float = 0.5) -> Iterator[NvmlMeter]:
    """The meter on a node whose driver is the stub."""
    root = tmp_path / "root"
    (root / "proc/driver/nvidia").mkdir(parents=True, exist_ok=True)
    (root / "proc/driver/nvidia/version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15\n")
    state.write_text("driver 550.54.15\n" + "".join(gpus))
    config = parse(f"[gpu]\ntimeout_s = {timeout_s}\nstart_timeout_s = {max(timeout_s, 0.2)}\n")
    meter = nvml.discover(SysRoot(root), config)
    try:
        yield meter
    finally:
        meter.close()


def test_millijoules_become_microjoules(tmp_path: Path, nvml_state: Path) -> None:
    with driver(tmp_path, nvml_state, gpu(energy_mj=123), gpu(GPU1, 1, energy_mj=(1 << 40) + 1)) as meter:
        rows = meter.read(at_ns=7)
        first, second = meter.channels
    assert [row.energy_uj for row in rows if isinstance(row, Reading)] == [123_000, ((1 << 40) + 1) * 1_000]
    assert all(7 <= row.at_ns < 7 + NS_PER_S for row in rows)
    assert rows[0].at_ns <= rows[1].at_ns  # each carries the moment at which it was read
    assert (first.component, first.device, first.zone, first.modelled) == ("gpu", GPU0, GPU0, False)
    assert first.max_power_w == 520  # 400 W and short peaks
    assert second.device == GPU1


def test_power_is_integrated_and_its_window_is_told(tmp_path: Path, nvml_state: Path) -> None:
    lines: dict[str, Any] = {"energy_mj": None, "name": "NVIDIA A40"}
    with driver(tmp_path, nvml_state, gpu(power_mw=100_000, **lines)) as meter:
        (channel,) = meter.channels
        assert "mean over 1 s" in channel.note
        (first,) = meter.read(at_ns=10 * NS_PER_S)
        nvml_state.write_text(gpu(power_mw=300_000, **lines))
        (second,) = meter.read(at_ns=12 * NS_PER_S)
        (third,) = meter.read(at_ns=1_000 * NS_PER_S)
    assert isinstance(first, Reading)
    assert isinstance(second, Reading)
    assert isinstance(third, Reading)
    assert first.energy_uj == 0
    assert second.energy_uj == pytest.approx(400e6, rel=0.02)  # 2 s from 100 W to 300 W
    assert third.energy_uj == 0  # nothing is made up for a long silence: whoever subtracts sees a reset


@pytest.mark.parametrize(
    ("arch", "name", "window"),
    [
        (7, "NVIDIA A100-PCIE-40GB", "instantaneous"),
        (7, "NVIDIA RTX A1000", "mean over 1 s"),
        (9, "NVIDIA H100", "mean over 1 s"),
        (6, "Tesla T4", "instantaneous"),
    ],
)
def test_the_window_of_a_power_reading(tmp_path: Path, nvml_state: Path, arch: int, name: str, window: str) -> None:
    with driver(tmp_path, nvml_state, gpu(arch=arch, name=name, energy_mj=None)) as meter:
        assert window in meter.channels[0].note


def test_a_gpu_without_sensors_is_modelled_and_marked(tmp_path: Path, nvml_state: Path) -> None:
    lines: dict[str, Any] = {
        "energy_mj": None,
        "power_mw": None,
        "limit_mw": None,
        "max_limit_mw": None,
        "name": "Tesla T4",
        "util": 50,
    }
    with driver(tmp_path, nvml_state, gpu(**lines)) as meter:
        (channel,) = meter.channels
        meter.read(at_ns=0)
        (row,) = meter.read(at_ns=10 * NS_PER_S)
    assert channel.modelled
    assert "±50 %" in channel.note
    assert isinstance(row, Reading)
    assert row.energy_uj == pytest.approx(39.2e6 * 10, rel=0.02)  # 8.4 W idle, 70 W full, half busy


@pytest.mark.parametrize("blank", [0x7FFFFFFFFFFFFFF0, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF])
def test_a_blank_value_is_a_gap_never_an_energy(tmp_path: Path, nvml_state: Path, blank: int) -> None:
    with driver(tmp_path, nvml_state, gpu()) as meter:
        nvml_state.write_text(gpu(energy_mj=blank))
        (row,) = meter.read(at_ns=7)
    assert isinstance(row, Gap)
    assert "blank" in row.reason


def test_a_blank_power_is_a_gap(tmp_path: Path, nvml_state: Path) -> None:
    with driver(tmp_path, nvml_state, gpu(energy_mj=None)) as meter:
        nvml_state.write_text(gpu(energy_mj=None, power_mw=0x7FFFFFF0))
        assert isinstance(meter.read(at_ns=7)[0], Gap)


# ---- lost, reset, hung ----------------------------------------------------------------------------------------------


def test_a_lost_gpu_is_a_gap_and_the_others_go_on(tmp_path: Path, nvml_state: Path) -> None:
    with driver(tmp_path, nvml_state, gpu(), gpu(GPU1, 1)) as meter:
        before = meter.channels
        nvml_state.write_text(gpu(lost=1) + gpu(GPU1, 1))
        lost, other = meter.read(at_ns=7)
        assert isinstance(lost, Gap)
        assert "lost" in lost.reason
        assert isinstance(other, Reading)
        meter.refresh()
        assert {channel.zone for channel in meter.channels} == {channel.zone for channel in before}
        assert "failing" in {finding.state for finding in meter.findings}
        rows = {row.zone: type(row) for row in meter.read(at_ns=8)}
        assert rows == {GPU0: Gap, GPU1: Reading}
        nvml_state.write_text(gpu(energy_mj=5) + gpu(GPU1, 1))  # it was reset: the counter began again
        meter.refresh()
        assert meter.channels == before
        assert [type(row) for row in meter.read(at_ns=9)] == [Reading, Reading]
        assert {finding.state for finding in meter.findings} == {"ok"}


def test_a_driver_that_was_asked_ahead_answers_with_what_it_read_then(tmp_path: Path, nvml_state: Path) -> None:
    with driver(tmp_path, nvml_state, gpu(energy_mj=5), timeout_s=0.3) as meter:
        meter.begin()
        time.sleep(0.1)
        nvml_state.write_text(gpu(energy_mj=9, hang_s=1.0))
        meter.begin()  # the tick: it was asked already, and is not asked again
        (row,) = meter.read(at_ns=NS_PER_S)
        assert isinstance(row, Reading)
        assert row.energy_uj == 5_000
        assert 0.05 * NS_PER_S < NS_PER_S - row.at_ns < NS_PER_S  # labelled with when it was read
        nvml_state.write_text(gpu(energy_mj=9))
        (row,) = meter.read(at_ns=2 * NS_PER_S)
        assert isinstance(row, Reading)
        assert row.energy_uj == 9_000


def test_a_driver_that_hangs_costs_one_bounded_wait(tmp_path: Path, nvml_state: Path) -> None:
    before = threading.active_count()
    with driver(tmp_path, nvml_state, gpu(), timeout_s=0.2) as meter:
        nvml_state.write_text(gpu(hang_s=2.0))
        started = time.monotonic()
        (row,) = meter.read(at_ns=7)
        first_s = time.monotonic() - started
        nvml_state.write_text(gpu(energy_mj=77))
        rows, later_s = [], []
        for _ in range(20):
            started = time.monotonic()
            rows += meter.read(at_ns=8)
            later_s.append(time.monotonic() - started)
        changed = meter.refresh()
        assert isinstance(row, Gap)
        assert "did not answer within 0.2 s" in row.reason
        assert first_s < 1.5
        assert {type(row) for row in rows} == {Gap}
        assert max(later_s) < 0.2  # nobody queues up behind the call that hangs: whoever did would take its timeout
        assert not changed
        assert threading.active_count() <= before + 2, "no thread for each call that hangs"
        time.sleep(2.2)
        (row,) = meter.read(at_ns=9)
        assert isinstance(row, Reading)
        assert row.energy_uj == 77_000  # a fresh value, not the late answer


def test_a_driver_that_is_slow_to_start_is_taken_later(tmp_path: Path, nvml_state: Path) -> None:
    with driver(
        tmp_path, nvml_state, gpu(hang_s=0.05), timeout_s=0.01
    ) as meter:  # several calls are needed to identify it
        assert meter.channels == []
        assert meter.read(at_ns=7) == []
        assert [finding.state for finding in meter.findings] == ["failing"]
        time.sleep(1.2)
        nvml_state.write_text(gpu())
        assert meter.refresh()
        assert [channel.zone for channel in meter.channels] == [GPU0]


def test_a_driver_that_refuses_says_why(tmp_path: Path, nvml_state: Path) -> None:
    with driver(tmp_path, nvml_state, "error nvmlInit 18\n") as meter:
        (finding,) = meter.findings
    assert (finding.state, "different versions" in finding.detail) == ("failing", True)
    assert finding.advice


# ---- who holds and who uses them ------------------------------------------------------------------------------------


def test_mig_is_the_parents_energy_and_the_instances_shares(tmp_path: Path, nvml_state: Path) -> None:
    mig = gpu() + "mig 1 0 4 MIG-one\nmig 2 0 2 MIG-two\nmig 9 0 1 MIG-three\nprocess 4242 10\n"
    with driver(tmp_path, nvml_state, mig, gpu(GPU1, 1)) as meter:
        assert [channel.zone for channel in meter.channels] == [GPU0, GPU1]
        first, second = meter.devices()
        meter.watch_processes([GPU0])
        assert all(isinstance(row, Reading) for row in meter.read(at_ns=7))
        assert meter.processes(GPU0) == {}
    assert [(piece.uuid, piece.gpu_instance, piece.size) for piece in first.slices] == [
        ("MIG-one", 1, 4),
        ("MIG-two", 2, 2),
        ("MIG-three", 9, 1),
    ]
    names = ["0", "2", "3", "MIG-TWO", GPU1, "00000000:08:00.0", "0000:08:00.0", "/dev/nvidia1", "nonsense"]
    units = gpu_units([first, second], names)
    assert units["0"] == GpuUnit(GPU0, 4, 7, 1)
    assert units["2"] == GpuUnit(GPU0, 1, 7, 9)
    assert units["mig-two".upper()] == GpuUnit(GPU0, 2, 7, 2)
    assert units["3"] == units[GPU1] == units["00000000:08:00.0"] == units["0000:08:00.0"] == units["/dev/nvidia1"]
    assert units["3"] == GpuUnit(GPU1, 1, 1)
    assert "nonsense" not in units


def test_how_busy_each_mig_instance_is_where_the_driver_tells(tmp_path: Path, nvml_state: Path) -> None:
    slices = "mig 1 0 3 MIG-one\nmig 2 0 2 MIG-two\n"

    def told(first: float, second: float) -> str:
        return gpu(arch=9) + slices + f"gpm 1 {first}\ngpm 2 {second}\n"

    with driver(tmp_path, nvml_state, told(10, 20)) as meter:
        assert "2 MIG instances (charged by activity)" in meter.findings[0].detail
        meter.read(0)
        assert meter.instances(GPU0) == {}, "nobody asked"
        meter.watch_processes({GPU0})
        meter.read(NS_PER_S)
        assert meter.instances(GPU0) == {}, "a first sample says nothing of a time"
        nvml_state.write_text(told(12.5, 80))
        meter.read(2 * NS_PER_S)
        assert meter.instances(GPU0) == {1: 12_500, 2: 80_000}
        nvml_state.write_text(told(12.5, 101))
        meter.read(3 * NS_PER_S)
        assert meter.instances(GPU0) == {}, "one of them without a value: all of them by size"
        nvml_state.write_text(gpu(arch=9) + slices + "gpm 1 50\n")
        meter.read(4 * NS_PER_S)
        assert meter.instances(GPU0) == {}
        nvml_state.write_text(told(1, 2))
        for second in (5, 6):
            rows = meter.read(second * NS_PER_S)
        assert meter.instances(GPU0) == {1: 1_000, 2: 2_000}
        assert isinstance(rows[0], Reading)
        meter.watch_processes(())
        assert meter.instances(GPU0) == {}
    with driver(tmp_path, nvml_state, gpu() + slices) as meter:
        assert "charged by size, the driver does not tell their activity" in meter.findings[0].detail


def test_slurms_index_counts_by_minor_number_not_by_nvmls(tmp_path: Path, nvml_state: Path) -> None:
    with driver(tmp_path, nvml_state, gpu(GPU1, 5), gpu(GPU0, 2)) as meter:
        devices = meter.devices()
    assert gpu_units(devices, ["0", "1"]) == {"0": GpuUnit(GPU0, 1, 1), "1": GpuUnit(GPU1, 1, 1)}


def test_processes_are_counted_where_asked_for(tmp_path: Path, nvml_state: Path) -> None:
    with driver(tmp_path, nvml_state, gpu() + "process 11 60\nprocess 22 20\n", gpu(GPU1, 1)) as meter:
        meter.read(at_ns=7)
        assert meter.processes(GPU0) == {}
        meter.watch_processes([GPU0, GPU1])
        meter.read(at_ns=8)
        assert meter.processes(GPU0) == {11: 60, 22: 20}
        assert meter.processes(GPU1) == {}


# ---- in the table ---------------------------------------------------------------------------------------------------


def test_no_driver_and_pynvml_is_not_even_loaded() -> None:
    code = (
        "import sys; from hpccarbon.config import Config; from hpccarbon.node.sysroot import SysRoot; "
        "from hpccarbon.node import meters; meters.discover(SysRoot(sys.argv[1]), Config()); "
        "print([name for name in ('pynvml', 'ssl', 'http.client', 'amdsmi') if name in sys.modules])"
    )
    where = str(tree("xeon-2s").root)
    done = subprocess.run([sys.executable, "-c", code, where], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_gpu_without_driver_is_told(tmp_path: Path) -> None:
    device = tmp_path / "sys/bus/pci/devices/0000:07:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x10de\n")
    (device / "class").write_text("0x030200\n")
    (finding,) = nvml.discover(SysRoot(tmp_path), parse("")).findings
    assert (finding.state, finding.zone) == ("failing", "0000:07:00.0")
    (finding,) = nvml.discover(tree("xeon-2s"), parse("")).findings
    assert (finding.state, finding.advice) == ("missing", "")


def test_the_library_is_found_by_the_loader(stub_library: Path, tmp_path: Path) -> None:
    (tmp_path / "state").write_text(gpu(energy_mj=9))
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidiactl").touch()
    code = (
        "import sys; from hpccarbon.config import Config; from hpccarbon.node.sysroot import SysRoot; "
        "from hpccarbon.node.meters import nvml; "
        "m = nvml.discover(SysRoot(sys.argv[1]), Config()); print(m.read(7)); m.close()"
    )
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": str(stub_library.parent),
        "NVML_STUB_STATE": str(tmp_path / "state"),
    }
    run = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(run, capture_output=True, text=True, check=True, env=environment)
    assert "energy_uj=9000" in done.stdout


def test_discover_hands_the_gpus_out(tmp_path: Path, nvml_state: Path) -> None:
    with driver(tmp_path, nvml_state, gpu()) as meter:
        root = meter._root
        found = meters.discover(root, parse('[meters]\nenabled = ["nvml"]\n'))
        (inner,) = gpu_meters(found)
        assert [device.uuid for device in inner.devices()] == [GPU0]
        for one in found:
            one.close()
