"""The real module amdsmi on a stub library: a card whose kernel file has a layout that nobody here knows yet."""

from __future__ import annotations

import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hpccarbon.config import parse
from hpccarbon.node.meters import amd, amdlibrary
from hpccarbon.node.sysroot import SysRoot
from hpccarbon.records import Gap, Reading
from tests.meters.ground import copied

FIRST, SECOND = "0000:05:00.0", "0000:26:00.0"
TIMEOUT_S = 0.3
CONFIG = parse(f'cluster = "test"\n[gpu]\ntimeout_s = {TIMEOUT_S}\n')
UNKNOWN = struct.pack("<HBB", 64, 3, 0).ljust(64, b"\0")


def line(slot: str, count: int, resolution_uj: float = 15.3, status: int = 0, hang_s: float = 0) -> str:
    return f"{slot} {count} {resolution_uj} {status} {hang_s}\n"


@pytest.fixture
def state(rocm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that scripts the stub."""
    monkeypatch.setenv("ROCM_PATH", str(rocm))
    monkeypatch.setenv("AMDSMI_STUB_STATE", str(tmp_path / "amdsmi.state"))
    return tmp_path / "amdsmi.state"


@contextmanager
def cards(*, first: bytes | None = UNKNOWN) -> Iterator[amd.AmdMeter]:
    """Two cards; the first one's `gpu_metrics` holds `first`, the second one's stays as the tree has it."""
    with copied("mi300x-hwmon") as top:
        if first is not None:
            (top / "sys/class/hwmon/hwmon0/device/gpu_metrics").write_bytes(first)
        meter = amd.discover(SysRoot(top), CONFIG)
        yield meter
        meter.close()


def test_a_card_of_an_unknown_layout_is_counted_by_the_library(state: Path) -> None:
    state.write_text(line(FIRST, 65_536) + line(SECOND, 7 * 65_536))
    with cards() as meter:
        assert [channel.zone for channel in meter.channels] == [FIRST, SECOND]  # one channel a card, whoever reads it
        assert "amdsmi, for gpu_metrics v3.0 of 64 bytes is not known" in meter.channels[0].note
        assert meter.channels[0].device == f"AMD-{FIRST}"
        state.write_text(line(FIRST, 10 * 65_536) + line(SECOND, 7 * 65_536))
        first, _second = meter.read(5)
        assert isinstance(first, Reading)
        assert first.energy_uj == 10_000_000


def test_a_card_whose_layout_is_known_is_read_without_the_library(state: Path) -> None:
    state.write_text(line(FIRST, 1) + line(SECOND, 1))
    with cards(first=None) as meter:
        assert "gpu_metrics" in meter.channels[0].note
        (first, _second) = meter.read(5)
        assert isinstance(first, Reading)
        assert first.energy_uj == 1_000_000_000


def test_the_library_rounds_its_unit_and_we_do_not() -> None:
    """What is read through the library continues what was read from the file, to the microjoule."""
    for count in (1, 65_535, 65_536, 123_456_789_012):
        data = struct.pack("<HBB", 1664, 1, 6).ljust(16, b"\0") + struct.pack("<Q", count).ljust(1648, b"\0")
        assert amdlibrary.to_uj(count, 15.300000190734863) == amd.parse_energy(data)
        assert amdlibrary.to_uj(count, 15.259) == amd.parse_energy(data)
    assert amdlibrary.to_uj(1_000, 100.0) == 100_000  # another unit than all cards have today


def test_a_card_that_fails_is_a_gap_and_one_that_comes_back_goes_on(state: Path) -> None:
    state.write_text(line(FIRST, 65_536))
    with cards() as meter:
        state.write_text(line(FIRST, 65_536, status=2))
        first, second = meter.read(5)
        assert isinstance(first, Gap)
        assert "amdsmi" in first.reason
        assert isinstance(second, Reading)
        state.write_text(line(FIRST, 131_072))
        first, _second = meter.read(6)
        assert isinstance(first, Reading)
        assert first.energy_uj == 2_000_000


def test_a_library_that_hangs_holds_a_tick_up_once(state: Path) -> None:
    state.write_text(line(FIRST, 65_536))
    with cards() as meter:
        state.write_text(line(FIRST, 65_536, hang_s=2.0))
        took = []
        for at_ns in (5, 6):
            began = time.monotonic()
            first, second = meter.read(at_ns)
            took.append(time.monotonic() - began)
            assert isinstance(first, Gap)
            assert first.reason == "amdsmi does not answer"
            assert isinstance(second, Reading)
        assert took[0] < 1.5
        assert took[1] < TIMEOUT_S  # nobody queues up behind the call that hangs
        state.write_text(line(FIRST, 196_608))
        time.sleep(2.2)
        first, _second = meter.read(7)
        assert isinstance(first, Reading)
        assert first.energy_uj == 3_000_000


def test_without_the_library_the_power_is_read_and_the_note_says_why(tmp_path: Path) -> None:
    """In a process of its own: a module that was loaded once stays."""
    code = (
        "import sys; from tests.meters.test_amdsmi import cards\n"
        "with cards() as meter: print(meter.channels[0].note); print([f.state for f in meter.findings])"
    )
    for blocked in ("", "sys.modules['amdsmi'] = None; "):
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; {blocked}{code}"],
            env={"PATH": "/usr/bin:/bin", "ROCM_PATH": str(tmp_path), "PYTHONPATH": str(Path.cwd())},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        note, found = done.stdout.splitlines()  # the module prints that it finds no library: not here
        assert "power integrated" in note
        assert "amdsmi cannot be used" in note
        assert found == "['ok', 'ok']"


def test_a_gpu_that_the_library_does_not_know_has_its_power_read(state: Path) -> None:
    state.write_text(line(SECOND, 65_536))
    with cards() as meter:
        assert f"amdsmi knows no GPU at {FIRST}" in meter.channels[0].note
        assert "power integrated" in meter.channels[0].note


def test_a_count_of_nothing_is_no_counter_and_the_power_is_read(state: Path) -> None:
    state.write_text(line(FIRST, 0) + line(SECOND, 65_536))
    with cards() as meter:
        first, _second = meter.channels
        assert first.zone == FIRST
        assert "power integrated" in first.note
