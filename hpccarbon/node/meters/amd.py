"""Energy of AMD GPUs from the amdgpu driver's own files, or from AMD's library where their layout is not known.

amdsmi and rocm-smi read the same file, `gpu_metrics`; going to it directly needs no library of the right version on
every node, costs one `pread`, has no call that may hang in a library's lock, and knows the unit exactly.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import msgspec

from hpccarbon.config import Config
from hpccarbon.errors import MeterError, MeterMissing
from hpccarbon.node.meters import Finding, Gpu
from hpccarbon.node.meters.amdlibrary import AmdLibrary
from hpccarbon.node.meters.gauge import Integral
from hpccarbon.node.meters.hwmon import CLASS, SLOW_S, pci_slot
from hpccarbon.node.sysroot import SysFile, SysRoot
from hpccarbon.records import Channel, Gap, Reading

_HEADER = struct.Struct("<HBB")
_COUNT = struct.Struct("<Q")
_OFFSETS: dict[tuple[int, int], int] = {
    (1, 1): 24,
    (1, 2): 24,
    (1, 3): 24,
    (1, 4): 24,
    (1, 5): 88,
    (1, 6): 16,
    (1, 7): 24,
    (1, 8): 24,
}
"""Where `energy_accumulator` lies, by (format, content) revision: Linux, drivers/gpu/drm/amd, kgd_pp_interface.h."""
_SIZES = {(1, 5): 360}
"""Revisions whose layout is only believed at this size."""
_BLANK = (1 << 64) - 1
_READ_SIZE = 4096
_GPU_MAX_W = 2_000
_CAP_PERCENT = 130
_UW_PER_W = 1_000_000


def parse_energy(data: bytes) -> int | None:
    """µJ since the driver was loaded, of a `gpu_metrics` file; None where this GPU counts none.

    The unit is 2^-16 J, so µJ are an exact fraction of it. Raises: ValueError, for a layout that is not known.
    """
    if len(data) < _HEADER.size:
        raise ValueError("gpu_metrics is cut short")
    size, format_revision, content_revision = _HEADER.unpack_from(data)
    revision = (format_revision, content_revision)
    offset = _OFFSETS.get(revision)
    if offset is None or _SIZES.get(revision, size) != size:
        raise ValueError(f"gpu_metrics v{format_revision}.{content_revision} of {size} bytes is not known")
    if len(data) < offset + _COUNT.size:
        raise ValueError("gpu_metrics is cut short")
    (count,) = _COUNT.unpack_from(data, offset)
    return None if count == _BLANK else count * 15_625 >> 10


class _Card(NamedTuple):
    """A card and how it is read: `value` is its energy, or its power in µW where there is an `integral`."""

    channel: Channel
    value: Callable[[], int | None]
    integral: Integral | None = None
    file: SysFile | None = None

    def close(self) -> None:
        """Close its file, where it has one."""
        if self.file is not None:
            self.file.close()


class AmdMeter:
    """Cumulative energy of AMD GPUs.

    Reads: sys/class/hwmon/hwmon*/device/gpu_metrics (binary); of an unknown layout, amdsmi's energy count, where that
        module is importable; else power1_average or power1_input
    Units: 2^-16 J and µW become int microjoules here; the counter does not wrap
    Needs: nothing, the files are everyone's
    """

    name = "amd"

    def __init__(self, root: SysRoot, library: AmdLibrary) -> None:
        self._root = root
        self._library = library
        self._cards: list[_Card] = []
        self._findings: tuple[Finding, ...] = ()
        self._gpus: tuple[Gpu, ...] = ()
        self._slow: set[str] = set()
        self.refresh()

    @property
    def channels(self) -> Sequence[Channel]:
        """One per card."""
        return [card.channel for card in self._cards]

    @property
    def findings(self) -> Sequence[Finding]:
        """Every die, or that there is none."""
        return self._findings

    def devices(self) -> Sequence[Gpu]:
        """The GPUs as Slurm counts them, one for each die; `uuid` is the device of the card that the die is on."""
        return self._gpus

    def watch_processes(self, uuids: Collection[str]) -> None:
        """The kernel does not tell what a process uses of an AMD GPU."""

    def processes(self, uuid: str) -> Mapping[int, int]:
        """Nothing is known."""
        return {}

    def instances(self, uuid: str) -> Mapping[int, int]:
        """There is no MIG."""
        return {}

    def read(self, at_ns: int) -> list[Reading | Gap]:
        """One reading or gap per card."""
        return [_read(card, at_ns) for card in self._cards]

    def refresh(self) -> bool:
        """Look for cards that came or went; sums of power live on for those that stayed."""
        before = self.channels
        integrals = {card.channel.zone: card.integral for card in self._cards}
        self._close_cards()
        findings: list[Finding] = []
        gpus: list[Gpu] = []
        chips = [chip for chip in self._root.names(CLASS) if self._root.word(f"{CLASS}/{chip}/name") == "amdgpu"]
        for slot, chip in sorted((pci_slot(self._root, chip) or chip, chip) for chip in chips):
            directory = f"{CLASS}/{chip}"
            cap = self._root.word(f"{directory}/power1_cap")
            bound_w = int(cap) * _CAP_PERCENT // 100 // _UW_PER_W if cap.isdigit() else 0
            channel = Channel("amd", slot, "gpu", max_power_w=bound_w or _GPU_MAX_W, device=f"AMD-{slot}")
            try:
                card = self._open(channel, directory, integrals.get(slot))
                began = time.monotonic()
                value = card.value()
            except (MeterError, ValueError) as err:
                reason = err.reason if isinstance(err, MeterError) else str(err)
                findings.append(Finding("amd", slot, "failing", reason, "see dmesg for amdgpu", "gpu"))
                continue
            if slot in self._slow or time.monotonic() - began > 2 * SLOW_S:
                self._slow.add(slot)
                card.close()
                detail = "its driver takes so long to answer that it would hold up the tick"
                findings.append(Finding("amd", slot, "failing", detail, "see dmesg for amdgpu", "gpu"))
                continue
            if value == 0:
                # An MI250X is two GPUs; the second one shows 0, for the first one's sensor counts the card.
                card.close()
                if gpus:
                    gpus.append(gpus[-1]._replace(pci=slot))
                detail = "shows 0: the second die of a card whose first die counts both, or a card that sleeps"
                findings.append(Finding("amd", slot, "nested", detail, component="gpu"))
                continue
            self._cards.append(card)
            gpus.append(Gpu(card.channel.device or slot, None, slot, "AMD GPU"))
            findings.append(Finding("amd", slot, "ok", card.channel.note, component="gpu"))
        if not chips:
            findings.append(Finding("amd", "amdgpu", "missing", "no AMD GPU", component="gpu"))
        self._findings = tuple(findings)
        self._gpus = tuple(gpus)
        return self.channels != before

    def _open(self, channel: Channel, directory: str, integral: Integral | None) -> _Card:
        """A card, by the best that it shows. Raises: MeterError or ValueError where that is no energy and no power."""
        unknown: MeterError | ValueError | None = None
        beside = ""
        try:
            file = self._root.open(f"{directory}/device/gpu_metrics")
            card = _Card(channel, partial(_counted, file), file=file)
            if card.value():
                note = "the card's energy counter since the driver was loaded (gpu_metrics), 15.3 µJ"
                return card._replace(channel=_noted(channel, note))
            card.close()
        except ValueError as err:
            card.close()
            unknown = err
            card = _Card(channel, partial(self._library.read_uj, channel.zone))
            try:
                if card.value():
                    note = f"the card's energy counter since the driver was loaded (amdsmi, for {err}), 15.3 µJ"
                    return card._replace(channel=_noted(channel, note))
            except MeterError as library:
                beside = f"; {err}, and {library.reason}"
        except MeterError as err:
            unknown = err
        for name, what in (("power1_average", "a mean of an unstated window"), ("power1_input", "the present power")):
            try:
                file = self._root.open(f"{directory}/{name}")
                file.read_int()
            except MeterMissing:
                continue
            except MeterError as err:
                unknown = unknown or err
                continue
            note = f"power integrated from readings, each {what} ({name}){beside}"
            return _Card(_noted(channel, note), file.read_int, integral or Integral(), file)
        raise unknown or ValueError("shows neither energy nor power")

    def _close_cards(self) -> None:
        for card in self._cards:
            card.close()
        self._cards = []

    def close(self) -> None:
        """Close the files, and let the library go."""
        self._close_cards()
        self._library.close()


def discover(root: SysRoot, config: Config) -> AmdMeter:
    """The AMD GPUs of this node."""
    return AmdMeter(root, AmdLibrary(config))


def _noted(channel: Channel, note: str) -> Channel:
    return msgspec.structs.replace(channel, note=note)


def _counted(file: SysFile) -> int | None:
    return parse_energy(file.read(_READ_SIZE))


def _read(card: _Card, at_ns: int) -> Reading | Gap:
    zone = card.channel.zone
    try:
        value = card.value()
    except MeterError as err:
        return Gap("amd", zone, at_ns, err.reason)
    except ValueError as err:
        return Gap("amd", zone, at_ns, str(err))
    if value is None:
        return Gap("amd", zone, at_ns, "the driver has no value (blank)")
    return Reading("amd", zone, at_ns, value if card.integral is None else card.integral.add(at_ns, value))
