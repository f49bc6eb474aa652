"""The table of meters, and which of two that count the same joules is charged. Nothing here reads a sensor itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from importlib import import_module
from operator import itemgetter
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import msgspec

from hpccarbon.config import Config
from hpccarbon.errors import ConfigError
from hpccarbon.node.sysroot import SysRoot
from hpccarbon.records import UNREADABLE, Channel, Component, Gap, Reading

State = Literal["ok", "nested", "denied", "missing", "failing", "standby"]


class Finding(msgspec.Struct, frozen=True):
    """What `doctor` says of one sensor: whether it can be read, why not, and what to do about it.

    `nested`: another counter of the same meter holds these joules. `standby`: readable, and not charged because
    another meter is.
    """

    meter: str
    zone: str
    state: State
    detail: str
    advice: str = ""
    component: Component | None = None


class Meter(Protocol):
    """Something that counts energy: named channels, and one reading or gap for each of them when asked."""

    name: str

    @property
    def channels(self) -> Sequence[Channel]:
        """What is read, in the order of `read`."""
        ...

    @property
    def findings(self) -> Sequence[Finding]:
        """Every sensor that was looked at, read or not."""
        ...

    def read(self, at_ns: int) -> list[Reading | Gap]:
        """One entry per channel, same order; never raises for a sensor that fails.

        Not one entry where the counters turn out to be other ones: `channels` are to be taken anew then.
        """
        ...

    def refresh(self) -> bool:
        """Look again for hardware that came or went; True when `channels` changed."""
        ...

    def close(self) -> None:
        """Give descriptors and helpers back."""
        ...


class Slice(NamedTuple):
    """A MIG instance: no sensor of its own, a share of its GPU by compute slices."""

    uuid: str
    gpu_instance: int
    size: int


class Gpu(NamedTuple):
    """A GPU of the node: `uuid` is the `device` of its channel, `minor` the N of /dev/nvidiaN."""

    uuid: str
    minor: int | None
    pci: str
    name: str
    slices: tuple[Slice, ...] = ()


@runtime_checkable
class SlowMeter(Protocol):
    """A meter whose answer takes time, so that it is asked before the others are read."""

    def begin(self) -> None:
        """Ask, unless that was done since the last `read`: the next one takes the answer."""
        ...


@runtime_checkable
class GpuMeter(Protocol):
    """A meter that also knows its GPUs and who uses them."""

    def devices(self) -> Sequence[Gpu]:
        """The GPUs as the last refresh found them."""
        ...

    def watch_processes(self, uuids: Collection[str]) -> None:
        """Which GPUs jobs share, so that `read` also counts what their processes use."""
        ...

    def processes(self, uuid: str) -> Mapping[int, int]:
        """pid -> what it used of a GPU between the last two reads, in parts of no fixed whole."""
        ...

    def instances(self, uuid: str) -> Mapping[int, int]:
        """GPU instance of a MIG GPU -> how busy it was between the last two reads, 1/1000 %; empty where unknown."""
        ...


TABLE: dict[str, str] = {
    "rapl": "hpccarbon.node.meters.rapl",
    "nvml": "hpccarbon.node.meters.nvml",
    "amd": "hpccarbon.node.meters.amd",
    "cray": "hpccarbon.node.meters.cray",
    "bmc": "hpccarbon.node.meters.bmc",
    "hwmon": "hpccarbon.node.meters.hwmon",
    "model": "hpccarbon.node.meters.model",
}
"""Name in `meters.enabled` -> module with `discover(root, config)`. A new meter is a new file and one line here.

The order is the precedence: where two meters measure the same component, the earlier one is charged and the later one
stands by. A model comes last.
"""


def discover(root: SysRoot, config: Config) -> list[Meter]:
    """All enabled meters, each component charged from the first one that can measure it.

    Raises: ConfigError for a name that no meter has.
    """
    unknown = [name for name in config.meters.enabled if name not in TABLE]
    if unknown:
        raise ConfigError(f"meters.enabled: unknown meter {unknown[0]!r}; known: {', '.join(TABLE)}")
    chosen: list[_Chosen] = []
    for name, module in TABLE.items():
        if name in config.meters.enabled:
            meter: Meter = import_module(module).discover(root, config)
            chosen.append(_Chosen(meter, tuple(chosen)))
    return list(chosen)


def gpu_meters(meters: Iterable[Meter]) -> list[GpuMeter]:
    """The meters that know GPUs, from what `discover` returned."""
    return [meter for meter in _inner(meters) if isinstance(meter, GpuMeter)]


def slow_meters(meters: Iterable[Meter]) -> list[SlowMeter]:
    """The meters that are asked before the others are read, of these."""
    return [meter for meter in _inner(meters) if isinstance(meter, SlowMeter)]


def _inner(meters: Iterable[Meter]) -> list[Meter]:
    return [meter.meter if isinstance(meter, _Chosen) else meter for meter in meters]


class GpuUnit(NamedTuple):
    """What Slurm hands out as one GPU: `size` parts `of` a sensor's device: a MIG instance, a die, or all of it.

    `instance` is the GPU instance that a MIG instance is in.
    """

    device: str
    size: int
    of: int
    instance: int | None = None


def gpu_units(gpus: Sequence[Gpu], names: Iterable[str]) -> dict[str, GpuUnit]:
    """Which GPU each of a job's names stands for; names that nothing stands for are left out.

    `names` are what hooks and gres.conf know: Slurm's index (SLURM_JOB_GPUS), which counts the GPUs by minor number,
    or with MIG the instances in their order; a UUID, whole or as `MIG-...`; a PCI address; `/dev/nvidiaN`.
    `CUDA_VISIBLE_DEVICES` is not among them: inside a job it counts anew.
    """
    known: dict[str, GpuUnit] = {}
    dies = Counter(gpu.uuid for gpu in gpus)  # an MI250X is two GPUs to Slurm and one to the sensor
    place = 0
    for gpu in sorted(gpus, key=lambda gpu: (gpu.minor is None, gpu.minor, gpu.pci)):
        whole = GpuUnit(gpu.uuid, 1, dies[gpu.uuid])
        known[gpu.pci] = known[gpu.pci[-12:]] = whole
        known.setdefault(gpu.uuid.lower(), GpuUnit(gpu.uuid, 1, 1))
        if gpu.minor is not None:
            known[f"/dev/nvidia{gpu.minor}"] = whole
        total = sum(piece.size for piece in gpu.slices)
        units = [GpuUnit(gpu.uuid, piece.size, total, piece.gpu_instance) for piece in gpu.slices]
        known.update({piece.uuid.lower(): unit for piece, unit in zip(gpu.slices, units, strict=True)})
        for unit in units or [whole]:
            known[str(place)] = unit
            place += 1
    return {name: known[name.lower()] for name in names if name.lower() in known}


class _Chosen:
    """A meter without the channels whose component an earlier meter measures.

    RAPL and a Cray's pm_counters both count the CPUs, NVML and pm_counters the GPUs: charged twice, a node would use
    more than it draws. And a sensor that is there but denied must not look like one that is not there: where a
    model stands in for it, the channel's note says so.
    """

    def __init__(self, meter: Meter, earlier: tuple[_Chosen, ...]) -> None:
        self.meter = meter
        self.name = meter.name
        self._earlier = earlier
        self._all = True
        self._take: Callable[[list[Reading | Gap]], list[Reading | Gap]] = list
        self._channels: tuple[Channel, ...] = ()
        self._choose()

    @property
    def channels(self) -> Sequence[Channel]:
        """The channels that are charged."""
        return self._channels

    @property
    def findings(self) -> Sequence[Finding]:
        """The meter's findings; those of channels that are not charged say who measures instead."""
        rivals = {channel.zone: rival for channel in self.meter.channels if (rival := self._rival(channel)) is not None}
        return [
            msgspec.structs.replace(
                finding, state="standby", detail=f"{finding.detail}; charged from {rivals[finding.zone]}"
            )
            if finding.state == "ok" and finding.zone in rivals
            else self._explained(finding)
            for finding in self.meter.findings
            if not self._needless(finding)
        ]

    def read(self, at_ns: int) -> list[Reading | Gap]:
        """One entry per channel that is charged."""
        if not self._channels:
            return []  # standing by costs nothing: /proc/stat alone would take as long as forty counters
        rows = self.meter.read(at_ns)
        if not rows:
            self._choose()
            return []
        return rows if self._all else self._take(rows)

    def refresh(self) -> bool:
        """Look again, at this meter and at what the earlier ones measure now."""
        self.meter.refresh()
        before = self._channels
        self._choose()
        return self._channels != before

    def close(self) -> None:
        """Give descriptors and helpers back."""
        self.meter.close()

    def _choose(self) -> None:
        channels = self.meter.channels
        places = [i for i, channel in enumerate(channels) if self._rival(channel) is None]
        if any(channels[i].modelled and channels[i].component == "cpu" for i in places):
            # The model of the CPUs is a whole server at the wall: its memory is in it.
            places = [i for i in places if channels[i].component != "dram"]
        self._all = len(places) == len(channels)
        if len(places) > 1:
            pick = itemgetter(*places)
            self._take = lambda rows: list(pick(rows))
        else:
            self._take = lambda rows: [rows[place] for place in places]
        self._channels = tuple(self._noted(channels[place]) for place in places)

    def _rival(self, channel: Channel) -> str | None:
        """The earlier meter that measures the same hardware as a channel."""
        return next(
            (
                other.name
                for other in self._earlier
                if any(not one.modelled and _same_hardware(one, channel) for one in other.channels)
            ),
            None,
        )

    def _needless(self, finding: Finding) -> bool:
        """Whether a model offers what is measured already, or what the model of a whole server holds."""
        if finding.state != "missing" or finding.meter != "model":
            return False
        measured = any(c.component == finding.component for other in self._earlier for c in other.channels)
        return measured or any(c.component == "cpu" and c.modelled for c in self._channels)

    def _noted(self, channel: Channel) -> Channel:
        unread = self._unread(channel.component) if channel.modelled else None
        if unread is None:
            return channel
        zone = f"{channel.zone}{UNREADABLE}{unread.meter}"
        return msgspec.structs.replace(channel, zone=zone, note=f"{_instead(unread)}; {channel.note}")

    def _explained(self, finding: Finding) -> Finding:
        modelled = next((c for c in self.meter.channels if c.modelled and c.zone == finding.zone), None)
        unread = self._unread(modelled.component) if modelled is not None else None
        detail = f"{_instead(unread)}; {finding.detail}" if unread is not None else finding.detail
        return msgspec.structs.replace(finding, detail=detail)

    def _unread(self, component: Component) -> Finding | None:
        """A sensor of this component that is there and cannot be read, so that a model stands in for it."""
        unread = (
            finding
            for other in self._earlier
            for finding in other.meter.findings
            if finding.state in ("denied", "failing") and finding.component == component
        )
        return next(unread, None)


def _instead(unread: Finding) -> str:
    return f"{unread.meter} {unread.zone} is there and cannot be read ({unread.detail}), modelled instead"


_MAKERS = {"GPU", "AMD", "INTEL"}
"""What a GPU's device begins with: NVIDIA's UUIDs with `GPU-`. A blade's `accel0` may be anyone's."""


def _same_hardware(one: Channel, two: Channel) -> bool:
    """Whether two channels of different meters count the same: of GPUs, those of two vendors are different ones."""
    if one.component != two.component:
        return False
    if one.component != "gpu" or one.device is None or two.device is None:
        return True
    makers = {device.split("-", 1)[0] for device in (one.device, two.device)}
    return len(makers & _MAKERS) < 2
