"""Energy and power from the kernel's hwmon chips: Grace and Ampere CPUs, ACPI power meters, Intel GPUs.

Chips with a counter are read as they are; of the others the power is integrated at each tick. What a chip's channel is
part of stands in `CHIPS`; a chip that is not there is not looked at.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Literal, NamedTuple

from hpccarbon.config import Config
from hpccarbon.errors import MeterDenied, MeterError
from hpccarbon.node.meters import Finding, State
from hpccarbon.node.meters.gauge import Integral
from hpccarbon.node.sysroot import SysFile, SysRoot
from hpccarbon.records import Channel, Component, Gap, Reading

CLASS = "sys/class/hwmon"
SLOW_S = 0.02
"""A read that takes longer goes to a controller over a slow bus: it would hold up the tick."""
Way = Literal["energy", "power"]


class _Rule(NamedTuple):
    """A kind of sensor: its chip, how it is read, which labels it may have, and what its energy is part of.

    `inside` names the label of the sensor that already contains this one. Words in braces are filled from the label.
    """

    chip: str
    way: Way
    label: str
    component: Component
    bound_w: int
    inside: str = ""
    note: str = ""


CHIPS: tuple[_Rule, ...] = (
    # NVIDIA Grace Performance Tuning Guide, "Power Telemetry". The module holds CPU, GPU, both memories and regulators.
    _Rule("power_meter", "power", r"Module Power Socket (?P<socket>\d+)", "node", 4_000),
    _Rule("power_meter", "power", r"Grace Power Socket (?P<socket>\d+)", "cpu", 1_000),
    _Rule("power_meter", "power", r"CPU Power Socket (?P<socket>\d+)", "cpu", 800, "Grace Power Socket {socket}"),
    _Rule("power_meter", "power", r"SysIO Power Socket (?P<socket>\d+)", "cpu", 400, "Grace Power Socket {socket}"),
    # Kernel docs: hwmon/acpi_power_meter. What it measures is the maker's choice: nearly always the node at the wall.
    _Rule("power_meter", "power", r"(?!.* Power Socket \d).*", "node", 10_000, note="ACPI power meter, whole node"),
    # Kernel docs: hwmon/smpro-hwmon. One chip per socket; regulators of cores, SoC and I/O, and of the memory.
    _Rule("smpro_hwmon|altra_hwmon", "power", r".*DIMM.*", "dram", 200),
    _Rule("smpro_hwmon|altra_hwmon", "power", r".*", "cpu", 500),
    # Kernel docs: hwmon/amd_energy (kernels 5.8 to 5.12 and AMD's own package): one counter per socket and core.
    _Rule("amd_energy", "energy", r"Esocket(?P<socket>\d+)", "cpu", 820),
    # drivers/platform/x86/amd/hsmp: socket power through the mailbox, where RAPL is not shown.
    _Rule("amd_hsmp_hwmon", "power", r".*", "cpu", 820),
    # Documentation/ABI/testing/sysfs-driver-intel-{i915,xe}-hwmon: the card, or the package inside it.
    _Rule("i915|xe", "energy", r"(card)?", "gpu", 2_000, note="the card's energy counter"),
)
_FILE = re.compile(r"(?P<way>energy|power)(?P<number>\d+)_(?P<kind>input|average)")


class _Sensor(NamedTuple):
    """A file of a chip that a rule knows."""

    chip: str
    directory: str
    number: int
    way: Way
    file: str
    label: str
    rule: _Rule


class _Source(NamedTuple):
    """A sensor that is read."""

    channel: Channel
    file: SysFile
    integral: Integral | None


class HwmonMeter:
    """Cumulative energy of the hwmon chips that measure CPUs, GPUs, memory or the node.

    Reads: sys/class/hwmon/hwmon*/{energy,power}N_{input,average} (kernel docs: hwmon/sysfs-interface.rst)
    Units: energy files int microjoules, power files microwatts, integrated to microjoules here
    Needs: nothing on most chips; amd_energy is root's (CVE-2020-12912)
    """

    name = "hwmon"

    def __init__(self, root: SysRoot) -> None:
        self._root = root
        self._sources: list[_Source] = []
        self._findings: tuple[Finding, ...] = ()
        self._slow: set[str] = set()
        self.refresh()

    @property
    def channels(self) -> Sequence[Channel]:
        """The sensors that are read."""
        return [source.channel for source in self._sources]

    @property
    def findings(self) -> Sequence[Finding]:
        """Every sensor a rule knows, or that there are none."""
        return self._findings

    def read(self, at_ns: int) -> list[Reading | Gap]:
        """One reading or gap per sensor."""
        return [_read(source, at_ns) for source in self._sources]

    def refresh(self) -> bool:
        """Look for chips that came or went; sums of power live on for those that stayed."""
        before = self.channels
        integrals = {source.channel.zone: source.integral for source in self._sources}
        self.close()
        findings: list[Finding] = []
        sensors = _sensors(self._root)
        labels = {sensor.label for sensor in sensors}
        for sensor in sensors:
            zone = f"{sensor.chip}/{sensor.label.replace(' ', '-') or sensor.file}"
            component = sensor.rule.component
            inside = _filled(sensor.rule.inside, sensor)
            if inside and inside in labels:
                findings.append(Finding("hwmon", zone, "nested", f"{sensor.label}: part of {inside}"))
                continue
            if zone in self._slow:
                findings.append(_too_slow(zone, component))
                continue
            try:
                file = self._root.open(f"{sensor.directory}/{sensor.file}")
                began = time.monotonic()
                file.read_int()
                took_s = time.monotonic() - began
            except MeterError as err:
                state: State = "denied" if isinstance(err, MeterDenied) else "failing"
                advice = "run the daemon as root" if state == "denied" else "see dmesg for the driver of this chip"
                findings.append(
                    Finding("hwmon", zone, state, f"{sensor.label or sensor.file}: {err.reason}", advice, component)
                )
                continue
            if took_s > SLOW_S:
                self._slow.add(zone)
                findings.append(_too_slow(zone, component))
                continue
            channel = self._channel(sensor, zone)
            integral = (integrals.get(zone) or Integral()) if sensor.way == "power" else None
            self._sources.append(_Source(channel, file, integral))
            detail = f"{sensor.label or sensor.file} -> {component} ({channel.note})"
            findings.append(Finding("hwmon", zone, "ok", detail, component=component))
        if not findings:
            findings.append(Finding("hwmon", CLASS, "missing", "no chip that measures energy or power"))
        self._findings = tuple(findings)
        return self.channels != before

    def _channel(self, sensor: _Sensor, zone: str) -> Channel:
        rule = sensor.rule
        socket = re.fullmatch(rule.label, sensor.label)
        number = socket.groupdict().get("socket") if socket else None
        note = rule.note or sensor.label or sensor.chip
        if sensor.way == "power":
            interval = self._root.word(f"{sensor.directory}/power{sensor.number}_average_interval")
            mean = f"means over {interval} ms" if interval.isdigit() else "of an unstated window"
            note += f", power integrated from readings {mean}"
        return Channel(
            "hwmon",
            zone,
            rule.component,
            max_power_w=rule.bound_w,
            socket=int(number) if number else None,
            device=_device(self._root, sensor),
            note=note,
        )

    def close(self) -> None:
        """Close the files."""
        for source in self._sources:
            source.file.close()
        self._sources = []


def discover(root: SysRoot, config: Config) -> HwmonMeter:
    """The hwmon chips below a root that a rule knows."""
    return HwmonMeter(root)


def _sensors(root: SysRoot) -> list[_Sensor]:
    """Every file that a rule knows; where a chip has both a mean and a present power, the mean."""
    found: list[_Sensor] = []
    for chip in root.names(CLASS):
        name = root.word(f"{CLASS}/{chip}/name")
        rules = [rule for rule in CHIPS if re.fullmatch(rule.chip, name)]
        if not rules:
            continue
        # acpi_power_meter keeps its files in the device's directory, others in the chip's own.
        for directory in (f"{CLASS}/{chip}", f"{CLASS}/{chip}/device"):
            files = {match.groups(): match for name in root.names(directory) if (match := _FILE.fullmatch(name))}
            for (way, number, kind), match in sorted(files.items()):
                if kind == "input" and (way, number, "average") in files:
                    continue
                label = root.word(f"{directory}/{way}{number}_label") or root.word(
                    f"{directory}/{way}{number}_oem_info"
                )
                rule = next((r for r in rules if r.way == way and re.fullmatch(r.label, label)), None)
                if rule is not None:
                    sensor_way: Way = "energy" if way == "energy" else "power"
                    unique = f"{name}.{chip.removeprefix('hwmon')}"
                    found.append(_Sensor(unique, directory, int(number), sensor_way, match[0], label, rule))
    return found


def pci_slot(root: SysRoot, chip: str) -> str:
    """The PCI address of a chip's device, "" where it is no PCI device."""
    for line in root.word(f"{CLASS}/{chip}/device/uevent").splitlines():
        key, _, value = line.partition("=")
        if key == "PCI_SLOT_NAME":
            return value.strip().lower()
    return ""


def _device(root: SysRoot, sensor: _Sensor) -> str | None:
    """What identifies a GPU: the address of its slot, with its maker in front."""
    if sensor.rule.component != "gpu":
        return None
    return f"INTEL-{pci_slot(root, sensor.directory.split('/')[3]) or sensor.chip}"


def _filled(text: str, sensor: _Sensor) -> str:
    match = re.fullmatch(sensor.rule.label, sensor.label)
    return text.format(**match.groupdict()) if match else text


def _read(source: _Source, at_ns: int) -> Reading | Gap:
    zone = source.channel.zone
    try:
        value = source.file.read_int()
    except MeterError as err:
        return Gap("hwmon", zone, at_ns, err.reason)
    return Reading("hwmon", zone, at_ns, value if source.integral is None else source.integral.add(at_ns, value))


def _too_slow(zone: str, component: Component) -> Finding:
    detail = f"a read takes more than {SLOW_S * 1000:.0f} ms and would hold up the tick"
    return Finding("hwmon", zone, "failing", detail, "read the node's power from its BMC instead ([bmc])", component)
