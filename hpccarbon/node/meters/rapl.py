"""Cumulative energy of CPU packages and memory from the kernel's powercap tree. Never adds a zone to its own child."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from hpccarbon.config import Config
from hpccarbon.errors import MeterDenied, MeterError
from hpccarbon.node.meters import Finding
from hpccarbon.node.sysroot import SysFile, SysRoot
from hpccarbon.records import Channel, Component, Gap, Reading

CLASS = "sys/class/powercap"
_ZONE = re.compile(r"(?P<control>intel-rapl|intel-rapl-mmio):(?P<package>\d+)(?::(?P<child>\d+))?")
_PACKAGE = re.compile(r"package-(?P<socket>\d+)(?:-die-(?P<die>\d+))?")
PACKAGE_MAX_W = 600
"""Bound on one package where the tree states none: the highest rated server CPU draws 500 W (EPYC 9965)."""
DRAM_MAX_W = 250
_DENIED_ADVICE = "run the daemon as root: kernels since 5.10 give energy_uj to root alone (docs/install.md)"


class _Zone(msgspec.Struct, frozen=True):
    """A directory of the tree and what its name says."""

    directory: str
    control: str
    parent: str | None
    name: str


class RaplMeter:
    """Cumulative energy of the RAPL zones found at start-up.

    Reads: sys/class/powercap/intel-rapl:*/energy_uj (kernel docs: power/powercap/powercap.rst)
    Units: energy_uj, int microjoules, wraps at the zone's max_energy_range_uj
    Needs: read permission on energy_uj, which kernels since 5.10 give to root alone
    """

    name = "rapl"

    def __init__(self, root: SysRoot) -> None:
        self._root = root
        self._files: list[SysFile] = []
        self._channels: tuple[Channel, ...] = ()
        self._findings: tuple[Finding, ...] = ()
        self.refresh()

    @property
    def channels(self) -> Sequence[Channel]:
        """Packages and memory that can be read now."""
        return self._channels

    @property
    def findings(self) -> Sequence[Finding]:
        """Every zone of the tree, those that are not read included."""
        return self._findings

    def read(self, at_ns: int) -> list[Reading | Gap]:
        """One reading or gap per channel."""
        return [self._read(channel, file, at_ns) for channel, file in zip(self._channels, self._files, strict=True)]

    def _read(self, channel: Channel, file: SysFile, at_ns: int) -> Reading | Gap:
        try:
            return Reading("rapl", channel.zone, at_ns, file.read_int())
        except MeterError as err:
            return Gap("rapl", channel.zone, at_ns, err.reason)

    def refresh(self) -> bool:
        """Look at the tree again: zones come and go with the driver module."""
        channels: list[Channel] = []
        files: list[SysFile] = []
        findings: list[Finding] = []
        zones = _zones(self._root)
        for zone in zones:
            channel = _channel(zone, zones, self._root)
            if channel.nested_in is not None:
                findings.append(Finding("rapl", zone.directory, "nested", f"{zone.name}: {channel.note}"))
                continue
            try:
                file = self._root.open(f"{CLASS}/{zone.directory}/energy_uj")
                file.read_int()
            except MeterDenied as err:
                findings.append(Finding("rapl", zone.directory, "denied", f"{zone.name}: {err.reason}", _DENIED_ADVICE))
                continue
            except MeterError as err:
                findings.append(Finding("rapl", zone.directory, "failing", f"{zone.name}: {err.reason}"))
                continue
            channels.append(channel)
            files.append(file)
            wraps = f", wraps at {channel.range_uj / 1e6:.0f} J" if channel.range_uj else ""
            findings.append(Finding("rapl", zone.directory, "ok", f"{zone.name} -> {channel.component}{wraps}"))
        if not zones:
            findings.append(Finding("rapl", CLASS, "missing", "no RAPL zones", _missing_advice(self._root)))
        changed = tuple(channels) != self._channels
        if changed:
            self.close()
            self._channels, self._files = tuple(channels), files
        else:
            for file in files:
                file.close()
        self._findings = tuple(findings)
        return changed

    def close(self) -> None:
        """Close the zones' files."""
        for file in self._files:
            file.close()
        self._files = []
        self._channels = ()


def discover(root: SysRoot, config: Config) -> RaplMeter:
    """The RAPL zones below a root; a meter without channels where there are none."""
    return RaplMeter(root)


def _zones(root: SysRoot) -> list[_Zone]:
    """Every zone of the tree. Nested zones are listed in the class directory and below their parent: taken once."""
    found: dict[str, _Zone] = {}
    pending = [(name, name) for name in root.names(CLASS)]
    for name, path in pending:
        match = _ZONE.fullmatch(name)
        if match is None or name in found:
            continue
        parent = f"{match['control']}:{match['package']}" if match["child"] is not None else None
        label = root.word(f"{CLASS}/{path}/name")
        found[name] = _Zone(path, match["control"], parent, label)
        if parent is None:
            pending += [(child, f"{path}/{child}") for child in root.names(f"{CLASS}/{path}") if child not in found]
    return [found[name] for name in sorted(found)]


def _channel(zone: _Zone, zones: Sequence[_Zone], root: SysRoot) -> Channel:
    """What a zone counts, and which other zone already holds it."""
    name = zone.directory.rsplit("/", 1)[-1]
    parent = next((z for z in zones if z.directory == zone.parent), None)
    component: Component = "dram" if zone.name == "dram" else "cpu"
    package = _PACKAGE.fullmatch(zone.name) or (_PACKAGE.fullmatch(parent.name) if parent else None)
    nested_in, note = _nesting(zone, parent, zones)
    return Channel(
        meter="rapl",
        zone=name if zone.directory == name else zone.directory,
        component=component,
        range_uj=_integer(root, f"{CLASS}/{zone.directory}/max_energy_range_uj"),
        max_power_w=_bound_w(root, zone, component),
        socket=int(package["socket"]) if package else None,
        nested_in=nested_in,
        note=note,
    )


def _nesting(zone: _Zone, parent: _Zone | None, zones: Sequence[_Zone]) -> tuple[str | None, str]:
    """The zone that contains this one and why, or (None, "")."""
    if zone.name == "psys":
        # psys covers packages and, on some machines only, board parts: a second view of the same joules.
        inside = next((z for z in zones if z.name.startswith("package-")), None)
        return (inside.directory, "contains the packages, which are read one by one") if inside else (None, "")
    if parent is not None and zone.name in ("core", "uncore"):
        return parent.directory, f"part of {parent.name}"
    if zone.control == "intel-rapl-mmio":
        twin = next((z for z in zones if z.control == "intel-rapl" and z.name == zone.name), None)
        if twin is not None:
            return twin.directory, f"the same counter as {twin.directory}, by another way"
    return None, ""


def _bound_w(root: SysRoot, zone: _Zone, component: Component) -> int:
    """A power that the zone cannot exceed, in W: what tells a wrap from a reset.

    Twice the largest limit that the tree states: peak limits (PL2, PL4) are at most that far above the rated
    power; where it states none, the highest rated part.
    """
    names = root.names(f"{CLASS}/{zone.directory}")
    limits_uw = [
        _integer(root, f"{CLASS}/{zone.directory}/{name}")
        for name in names
        if re.fullmatch(r"constraint_\d+_(max_power|power_limit)_uw", name)
    ]
    default = DRAM_MAX_W if component == "dram" else PACKAGE_MAX_W
    plausible = [uw for uw in limits_uw if 1_000_000 <= uw <= 2_000_000_000]
    return max(2 * max(plausible) // 1_000_000, 1) if plausible else default


def _integer(root: SysRoot, relative: str) -> int:
    """A non-negative integer attribute, 0 where it is absent or malformed."""
    text = root.word(relative)
    return int(text) if text.isascii() and text.isdigit() else 0


def _missing_advice(root: SysRoot) -> str:
    if "hypervisor" in root.word("proc/cpuinfo"):
        return "this is a virtual machine: hypervisors do not show RAPL; the model stands in"
    return (
        "load the driver: modprobe intel_rapl_msr (AMD: Linux 5.11 or newer); in a container, mount /sys/class/powercap"
    )
