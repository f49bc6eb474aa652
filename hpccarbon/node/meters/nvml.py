"""Energy of NVIDIA GPUs through NVML, and who uses them. A driver that hangs costs one bounded wait, never a tick.

NVML counts millijoules; they become microjoules here. GPUs without a counter have their power integrated, those without
either are modelled from their utilisation. All calls run in one thread (`Worker`): NVML has no timeouts, and a call
into a driver that recovers from an error has been seen to take minutes.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Mapping, Sequence
from types import ModuleType
from typing import Any, Literal, NamedTuple

from hpccarbon.config import Config
from hpccarbon.node.meters import Finding, Gpu, Slice, State
from hpccarbon.node.meters.gauge import Integral
from hpccarbon.node.meters.gpumodel import idle_and_full_mw
from hpccarbon.node.meters.worker import Late, Worker
from hpccarbon.node.sysroot import SysRoot
from hpccarbon.records import Channel, Gap, Reading

MARKS = ("proc/driver/nvidia/version", "dev/nvidiactl", "sys/module/nvidia/version")
"""One of these is there when the driver is loaded; without it neither pynvml nor libnvidia-ml is touched."""
_NVIDIA_VENDOR, _DISPLAY_CLASS = "0x10de", "0x03"
_MW_PER_W = 1_000
_UJ_PER_MJ = 1_000
_UW_PER_MW = 1_000
_GPU_MAX_W = 1_500
"""Bound where the GPU states no limit (a GB200's is 1,200 W)."""
_PERCENT = 100
_PEAK_PERCENT = 130
"""Short peaks lie above the limit, which is held over about a second."""
_BLANK_MW = 0x7FFFFFF0
_BLANK_MJ = 0x7FFFFFFFFFFFFFF0 // 1000  # and what is no 64-bit number of microjoules
"""Values from here on say "no value" (DCGM's blanks, NVML_VALUE_NOT_AVAILABLE), never a power or an energy."""
_ARCH_VOLTA, _ARCH_AMPERE = 5, 7
_GONE = "the GPU was there and is not found any more"
_GA100 = re.compile(r"\bA(100|30|800)\b")
Way = Literal["counter", "power", "model"]


class _Card(NamedTuple):
    """A GPU as it was found: its handle, how its energy is read, and what is said of it."""

    gpu: Gpu
    handle: Any
    way: Way
    channel: Channel
    finding: Finding
    idle_mw: int = 0
    full_mw: int = 0
    gone: str = ""
    gpm: bool = False
    """Whether the driver tells how busy each MIG instance is"""


class _Inventory(NamedTuple):
    """The GPUs of the node, as one look found them."""

    cards: tuple[_Card, ...]
    findings: tuple[Finding, ...]


class NvmlMeter:
    """Cumulative energy of NVIDIA GPUs since the driver was loaded.

    Reads: nvmlDeviceGetTotalEnergyConsumption (Volta and newer), else nvmlDeviceGetPowerUsage
    Units: NVML's mJ and mW become int microjoules here; the counter does not wrap
    Needs: the driver and its libnvidia-ml.so.1, Python package nvidia-ml-py; no special right
    """

    name = "nvml"

    def __init__(self, root: SysRoot, timeout_s: float, start_timeout_s: float) -> None:
        self._root = root
        self._timeout_s = timeout_s
        self._worker = Worker("hpccarbon-nvml")
        self._nvml: ModuleType | None = None
        self._running = False
        self._looked: _Inventory | None = None
        self._cards: tuple[_Card, ...] = ()
        self._findings: tuple[Finding, ...] = ()
        self._integrals: dict[str, Integral] = {}
        self._asked_for: frozenset[str] = frozenset()
        self._asked: tuple[_Card, ...] | None = None
        """The cards whose answer is on its way"""
        self._tick_ns = 0
        """When `begin` was called last: the moment of a `read`'s at_ns, on the driver's clock"""
        self._seen_us: dict[str, int] = {}
        self._used: dict[str, dict[int, int]] = {}
        self._busy: dict[str, dict[int, int]] = {}
        self._samples: dict[tuple[str, int], Any] = {}
        """(GPU, GPU instance) -> its last GPM sample; the worker's alone"""
        self._again = False
        self._look(start_timeout_s)

    @property
    def channels(self) -> Sequence[Channel]:
        """One per GPU; MIG instances have no sensor, their parent is read."""
        return [card.channel for card in self._cards]

    @property
    def findings(self) -> Sequence[Finding]:
        """Every GPU, or why there is none."""
        return self._findings

    def devices(self) -> Sequence[Gpu]:
        """The GPUs as the last look found them, with their MIG instances."""
        return [card.gpu for card in self._cards]

    def watch_processes(self, uuids: Collection[str]) -> None:
        """From the next `read` on, count what processes use of these GPUs: for those that jobs share."""
        self._asked_for = frozenset(uuids)
        self._used = {uuid: used for uuid, used in self._used.items() if uuid in self._asked_for}
        self._busy = {uuid: busy for uuid, busy in self._busy.items() if uuid in self._asked_for}

    def processes(self, uuid: str) -> Mapping[int, int]:
        """pid -> use of the GPU's multiprocessors between the last two `read`s, in parts of no fixed whole.

        Empty where nobody used it, where it was not asked for with `watch_processes`, and in MIG mode, where the
        driver does not tell.
        """
        return self._used.get(uuid, {})

    def instances(self, uuid: str) -> Mapping[int, int]:
        """GPU instance -> how busy its multiprocessors were between the last two `read`s, in 1/1000 %.

        Empty where GPM does not tell (before Hopper), and where it was not asked for with `watch_processes`.
        """
        return self._busy.get(uuid, {})

    def begin(self) -> None:
        """Have the driver asked, so that the next `read` finds the answer; nothing is asked while it hangs."""
        cards, asked_for = self._cards, self._asked_for
        self._tick_ns = time.monotonic_ns()
        if not cards or self._asked is not None:
            return
        try:
            self._worker.ask(lambda: self._sample(cards, asked_for))
            self._asked = cards
        except Late:
            pass

    def read(self, at_ns: int) -> list[Reading | Gap]:
        """One reading or gap per GPU; waits for the driver for `gpu.timeout_s` once, and not at all while it hangs."""
        if not self._cards:
            return []
        if self._asked is None:
            self.begin()
        cards, self._asked = self._asked, None
        if cards is None:
            return self._unanswered(at_ns)
        try:
            values, used, busy = self._worker.answer(self._timeout_s)
        except Late:
            return self._unanswered(at_ns)
        self._used, self._busy = used, busy
        rows: list[Reading | Gap] = []
        for card, (value, moment_ns) in zip(cards, values, strict=True):
            zone = card.channel.zone
            then_ns = at_ns + moment_ns - self._tick_ns
            if isinstance(value, str):
                self._again = True
                rows.append(Gap("nvml", zone, then_ns, value))
            elif card.way == "counter":
                rows.append(Reading("nvml", zone, then_ns, value * _UJ_PER_MJ))
            else:
                rows.append(Reading("nvml", zone, then_ns, self._integrals[zone].add(then_ns, value * _UW_PER_MW)))
        return rows

    def _unanswered(self, at_ns: int) -> list[Reading | Gap]:
        reason = f"the NVIDIA driver did not answer within {self._timeout_s:g} s"
        return [Gap("nvml", card.channel.zone, at_ns, reason) for card in self._cards]

    def refresh(self) -> bool:
        """Look for GPUs that came, went, or were lost; the answer of a slow driver is taken at a later refresh."""
        before = self.channels
        self._look(self._timeout_s)
        return self.channels != before

    def close(self) -> None:
        """Give NVML back, if the driver lets us."""
        if self._running and self._nvml is not None:
            nvml = self._nvml
            try:
                self._worker.call(nvml.nvmlShutdown, self._timeout_s)
            except (Late, nvml.NVMLError):
                pass
            self._running = False
        self._worker.close()

    # ---- looking for GPUs -------------------------------------------------------------------------------------------

    def _look(self, timeout_s: float) -> None:
        if not any(self._root.exists(mark) for mark in MARKS):
            self._take(_Inventory((), (_no_driver(self._root),)))
            return
        if self._nvml is None:
            try:
                import pynvml
            except ImportError:
                advice = "pip install nvidia-ml-py (the extra nvml)"
                self._take(_Inventory((), (_failing("pynvml", "the Python package nvidia-ml-py is missing", advice),)))
                return
            self._nvml = pynvml
        try:
            self._worker.call(self._inventory, timeout_s)
        except Late:
            if not self._cards:
                advice = "see dmesg for NVRM and Xid lines; the next look is in a minute"
                detail = f"the NVIDIA driver did not answer within {timeout_s:g} s"
                self._findings = (_failing("driver", detail, advice),)
        if self._looked is not None:
            self._take(self._looked)
            self._looked = None

    def _take(self, found: _Inventory) -> None:
        here = {card.gpu.uuid for card in found.cards}
        # A GPU that is lost stays a channel: a node that draws 400 W unseen must not look fully measured.
        gone = [card._replace(gone=card.gone or _GONE) for card in self._cards if card.gpu.uuid not in here]
        advice = "see dmesg for its Xid; restart the daemon if the GPU was taken out on purpose"
        lost = [_failing(card.gpu.uuid, f"{card.gpu.name}: {card.gone}", advice) for card in gone]
        self._again = self._again or bool(gone)
        self._cards = (*found.cards, *gone)
        self._findings = (*found.findings, *lost)
        zones = {card.channel.zone for card in self._cards if card.way != "counter"}
        self._integrals = {zone: self._integrals.get(zone, Integral()) for zone in zones}

    def _inventory(self) -> None:
        """In the worker: leaves what it found in `_looked`, whether somebody still waits for it or not."""
        assert self._nvml is not None
        nvml = self._nvml
        try:
            if self._running and self._again:
                # A GPU that was lost or reset is found again only by a new start of the library.
                self._running = False
                nvml.nvmlShutdown()
            self._again = False
            if not self._running:
                nvml.nvmlInit()
                self._running = True
            cards: list[_Card] = []
            findings: list[Finding] = []
            for index in range(nvml.nvmlDeviceGetCount()):
                try:
                    card = _card(nvml, index)
                except nvml.NVMLError as err:
                    advice = "see dmesg for its Xid; a lost GPU needs a reset or a reboot"
                    findings.append(_failing(f"index {index}", _reason(nvml, err), advice))
                    self._again = True
                    continue
                cards.append(card)
                findings.append(card.finding)
            if not cards and not findings:
                findings.append(Finding("nvml", "driver", "missing", "the driver is loaded and shows no GPU"))
            self._looked = _Inventory(tuple(cards), tuple(findings))
        except nvml.NVMLError as err:
            advice = "does nvidia-smi work? driver and libnvidia-ml.so.1 must be of one version"
            self._looked = _Inventory((), (_failing("driver", _reason(nvml, err), advice),))

    # ---- reading, in the worker -------------------------------------------------------------------------------------

    def _sample(
        self, cards: Sequence[_Card], asked_for: Collection[str]
    ) -> tuple[list[tuple[int | str, int]], dict[str, dict[int, int]], dict[str, dict[int, int]]]:
        """(mJ, mW or what went wrong; moment on the monotonic clock) of each card; its use by process, by instance."""
        assert self._nvml is not None
        nvml = self._nvml
        values = [(_value(nvml, card), time.monotonic_ns()) for card in cards]
        shared = [card for card in cards if card.gpu.uuid in asked_for]
        used = {card.gpu.uuid: self._processes(card) for card in shared}
        busy = {card.gpu.uuid: self._instances(card) for card in shared if card.gpm}
        return values, used, busy

    def _processes(self, card: _Card) -> dict[int, int]:
        assert self._nvml is not None
        nvml = self._nvml
        last_us = self._seen_us.get(card.gpu.uuid, 0)
        use: dict[int, int] = {}
        try:
            samples = nvml.nvmlDeviceGetProcessUtilization(card.handle, last_us)
        except nvml.NVMLError:
            return use  # nobody used it since, or the driver does not tell
        for sample in samples:
            if sample.timeStamp > last_us and sample.smUtil <= 100:
                use[sample.pid] = use.get(sample.pid, 0) + sample.smUtil
                self._seen_us[card.gpu.uuid] = max(self._seen_us.get(card.gpu.uuid, 0), sample.timeStamp)
        return use

    def _instances(self, card: _Card) -> dict[int, int]:
        """How busy each GPU instance was since its last sample; nothing, unless all of them tell."""
        assert self._nvml is not None
        nvml = self._nvml
        busy: dict[int, int] = {}
        instances = {piece.gpu_instance for piece in card.gpu.slices}
        for instance in instances:
            try:
                before, after = self._sampled(card, instance)
                if before is not None:
                    try:
                        busy[instance] = _between(nvml, before, after)
                    finally:
                        nvml.nvmlGpmSampleFree(before)
            except (nvml.NVMLError, ValueError):
                return {}
        return busy if len(busy) == len(instances) else {}

    def _sampled(self, card: _Card, instance: int) -> tuple[Any, Any]:
        """The last GPM sample of an instance (None: there is none), which is the caller's to free, and a new one."""
        assert self._nvml is not None
        nvml, place = self._nvml, (card.gpu.uuid, instance)
        before = self._samples.pop(place, None)
        sample = nvml.nvmlGpmSampleAlloc()
        try:
            nvml.nvmlGpmMigSampleGet(card.handle, instance, sample)
        except nvml.NVMLError:
            for useless in (sample, before):
                if useless is not None:
                    nvml.nvmlGpmSampleFree(useless)
            raise
        self._samples[place] = sample
        return before, sample


def _between(nvml: ModuleType, before: Any, after: Any) -> int:
    """How busy the multiprocessors were between two samples, 1/1000 %. Raises: NVMLError; ValueError for no value."""
    asked = nvml.c_nvmlGpmMetricsGet_t()
    asked.version, asked.numMetrics = nvml.NVML_GPM_METRICS_GET_VERSION, 1
    asked.sample1, asked.sample2 = before, after
    asked.metrics[0].metricId = nvml.NVML_GPM_METRIC_SM_UTIL
    metric = nvml.nvmlGpmMetricsGet(asked).metrics[0]
    if metric.nvmlReturn != nvml.NVML_SUCCESS or not 0 <= metric.value <= _PERCENT:
        raise ValueError("no such value")
    value: float = metric.value
    return round(value * 1_000)


def discover(root: SysRoot, config: Config) -> NvmlMeter:
    """The NVIDIA GPUs of this node; without channels where there is no driver."""
    return NvmlMeter(root, config.gpu.timeout_s, config.gpu.start_timeout_s)


def _value(nvml: ModuleType, card: _Card) -> int | str:
    """The card's mJ (counter) or mW (power, model), else what went wrong."""
    if card.gone:
        return card.gone
    try:
        if card.way == "counter":
            value: int = nvml.nvmlDeviceGetTotalEnergyConsumption(card.handle)
            return value if value < _BLANK_MJ else "the driver has no value (blank)"
        if card.way == "power":
            value = nvml.nvmlDeviceGetPowerUsage(card.handle)
            return value if value < _BLANK_MW else "the driver has no value (blank)"
        busy = nvml.nvmlDeviceGetUtilizationRates(card.handle).gpu
        return card.idle_mw + (card.full_mw - card.idle_mw) * busy // 100 if busy <= 100 else "no utilisation (blank)"
    except nvml.NVMLError as err:
        return _reason(nvml, err)


def _card(nvml: ModuleType, index: int) -> _Card:
    """Identify a GPU and try how its energy can be read. Raises: NVMLError where it cannot be identified."""
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    uuid = _text(_ask(nvml, "nvmlDeviceGetUUID", handle) or "")
    if not uuid:
        raise nvml.NVMLError(nvml.NVML_ERROR_UNKNOWN)
    name = _text(_ask(nvml, "nvmlDeviceGetName", handle) or "GPU")
    arch = _ask(nvml, "nvmlDeviceGetArchitecture", handle)
    pci = _ask(nvml, "nvmlDeviceGetPciInfo", handle)
    gpu = Gpu(
        uuid=uuid,
        minor=_ask(nvml, "nvmlDeviceGetMinorNumber", handle),
        pci=_bus(pci),
        name=name,
        slices=_slices(nvml, handle),
    )
    limit_mw = _limit_mw(nvml, handle)
    idle_mw, full_mw, origin = idle_and_full_mw(name, limit_mw)
    energy = _ask(nvml, "nvmlDeviceGetTotalEnergyConsumption", handle)
    power = _ask(nvml, "nvmlDeviceGetPowerUsage", handle)
    way: Way
    if energy is not None and energy < _BLANK_MJ:
        way, note = "counter", "the GPU's energy counter, 1 mJ"
        if arch is not None and arch < _ARCH_VOLTA:
            note += ", not documented for this generation"
    elif power is not None and power < _BLANK_MW:
        way, note = "power", f"power integrated from readings, {_window(arch, name)}"
    else:
        way, note = "model", f"no energy and no power to read: modelled from utilisation, {origin}, ±50 %"
    bound_w = limit_mw * _PEAK_PERCENT // 100 // _MW_PER_W if limit_mw else _GPU_MAX_W
    channel = Channel(
        "nvml",
        uuid,
        "gpu",
        max_power_w=bound_w,
        idle_uw=idle_mw * _UW_PER_MW if way == "model" else 0,
        modelled=way == "model",
        device=uuid,
        note=f"{name}: {note}",
    )
    support = _ask(nvml, "nvmlGpmQueryDeviceSupport", handle) if gpu.slices else None
    gpm = support is not None and bool(support.isSupportedDevice)
    told = "activity" if gpm else "size, the driver does not tell their activity"
    slices = f", {len(gpu.slices)} MIG instances (charged by {told})" if gpu.slices else ""
    where = f"{name}, minor {gpu.minor}, PCI {gpu.pci}{slices}: {note}"
    finding = Finding("nvml", uuid, "ok", where, component="gpu")
    return _Card(gpu, handle, way, channel, finding, idle_mw, full_mw, gpm=gpm)


def _slices(nvml: ModuleType, handle: Any) -> tuple[Slice, ...]:
    """The MIG instances of a GPU; none where it has no MIG or it is off."""
    mode = _ask(nvml, "nvmlDeviceGetMigMode", handle)
    if not mode or mode[0] != 1:
        return ()
    found = []
    for index in range(_ask(nvml, "nvmlDeviceGetMaxMigDeviceCount", handle) or 0):
        instance = _ask(nvml, "nvmlDeviceGetMigDeviceHandleByIndex", handle, index)
        if instance is None:
            continue
        attributes = _ask(nvml, "nvmlDeviceGetAttributes", instance)
        found.append(
            Slice(
                uuid=_text(_ask(nvml, "nvmlDeviceGetUUID", instance) or ""),
                gpu_instance=_ask(nvml, "nvmlDeviceGetGpuInstanceId", instance) or 0,
                size=attributes.computeInstanceSliceCount if attributes is not None else 1,
            )
        )
    return tuple(found)


def _limit_mw(nvml: ModuleType, handle: Any) -> int:
    """The highest power limit the GPU can be given, else the one it has; 0 where it tells neither."""
    limits = _ask(nvml, "nvmlDeviceGetPowerManagementLimitConstraints", handle)
    limit: int = limits[1] if limits else _ask(nvml, "nvmlDeviceGetPowerManagementLimit", handle) or 0
    return limit if limit < _BLANK_MW else 0


def _window(arch: int | None, name: str) -> str:
    """Over what time the reported power is a mean (NVML reference, nvmlDeviceGetPowerUsage)."""
    if arch is None:
        return "over a window that is not known"
    if arch < _ARCH_AMPERE or _GA100.search(name):
        return "each instantaneous"
    return "each a mean over 1 s"


def _ask(nvml: ModuleType, function: str, *arguments: Any) -> Any:
    """What NVML answers, None where this GPU or driver does not know; a lost GPU is an error."""
    try:
        return getattr(nvml, function)(*arguments)
    except nvml.NVMLError as err:
        if err.value in (nvml.NVML_ERROR_GPU_IS_LOST, nvml.NVML_ERROR_RESET_REQUIRED):
            raise
        return None
    except UnicodeDecodeError:
        return None  # pynvml decodes names itself


def _reason(nvml: ModuleType, err: Any) -> str:
    known = {
        nvml.NVML_ERROR_GPU_IS_LOST: "the GPU is lost (it fell off the bus)",
        nvml.NVML_ERROR_RESET_REQUIRED: "the GPU needs a reset",
        nvml.NVML_ERROR_DRIVER_NOT_LOADED: "the NVIDIA driver is not loaded",
        nvml.NVML_ERROR_LIBRARY_NOT_FOUND: "libnvidia-ml.so.1 was not found",
        nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "driver and libnvidia-ml.so.1 are of different versions",
    }
    return known.get(err.value) or f"NVML says: {err}"


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _bus(pci: Any) -> str:
    try:
        return _text(pci.busId).lower() if pci is not None else ""
    except UnicodeDecodeError:
        return ""


def _failing(zone: str, detail: str, advice: str) -> Finding:
    state: State = "failing"
    return Finding("nvml", zone, state, detail, advice, "gpu")


def _no_driver(root: SysRoot) -> Finding:
    devices = "sys/bus/pci/devices"
    for address in root.names(devices):
        vendor, kind = root.word(f"{devices}/{address}/vendor"), root.word(f"{devices}/{address}/class")
        if vendor == _NVIDIA_VENDOR and kind.startswith(_DISPLAY_CLASS):
            return _failing(address, "an NVIDIA GPU whose driver is not loaded", "load the nvidia driver")
    return Finding("nvml", "driver", "missing", "no NVIDIA GPU", component="gpu")
