"""Cumulative energy of CPU packages and memory from the kernel's powercap tree. Never adds a zone to its own child."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from hpccarbon.config import Config
from hpccarbon.errors import MeterDenied, MeterError, MeterMissing
from hpccarbon.node.meters import Finding, State
from hpccarbon.node.meters.cpuinfo import package_bound_w, parse_cpuinfo
from hpccarbon.node.sysroot import SysFile, SysRoot
from hpccarbon.records import Channel, Component, Gap, Reading

CLASS = "sys/class/powercap"
_ZONE = re.compile(r"(?P<control>intel-rapl|intel-rapl-mmio):(?P<package>\d+)(?::(?P<child>\d+))?")
_PACKAGE = re.compile(r"package-(?P<socket>\d+)(?:-die-(?P<die>\d+))?")
_LIMIT = re.compile(r"(constraint_\d+)_(?:max_power|power_limit)_uw")
DRAM_MAX_W = 250
"""Memory of one socket: 16 DIMMs of 15 W. The limits that trees state for it are often 0 or below what it draws."""
PLATFORM_MAX_W = 2_000
_PLAUSIBLE_UW = (5_000_000, 1_500_000_000)
"""Firmware writes 0 for "no limit" and 4,095 W for "never": neither is a limit."""
_TURBO_PERCENT = 150
"""A mean over seconds may lie above the long-term limit (PL2 and turbo windows), not by half of it."""
_UPDATE_US = 2_000
"""Counters are renewed about every millisecond: two views of one counter may differ by what is drawn in two."""
_DENIED_ADVICE = "run the daemon as root: kernels since 5.10 give energy_uj to root alone (docs/install.md)"
_FAILING_ADVICE = "see what the kernel says of it: dmesg | grep -i rapl"


class _Zone(msgspec.Struct, frozen=True):
    """A directory of the tree, what its name says, and the label of the zone it lies in."""

    directory: str
    control: str
    parent: str | None
    label: str
    parent_label: str = ""

    @property
    def name(self) -> str:
        """The zone's own name, e.g. `intel-rapl:0:1`."""
        return self.directory.rsplit("/", 1)[-1]

    @property
    def package(self) -> re.Match[str] | None:
        """What the label of the package says, of this zone or of the one it lies in."""
        return _PACKAGE.fullmatch(self.label) or _PACKAGE.fullmatch(self.parent_label)


class _Open(NamedTuple):
    """A zone that is counted; without a file where it cannot be read now."""

    zone: _Zone
    channel: Channel
    file: SysFile | None


class RaplMeter:
    """Cumulative energy of the RAPL zones, Intel's and AMD's.

    Reads: sys/class/powercap/intel-rapl:*/energy_uj (kernel docs: power/powercap/powercap.rst)
    Units: energy_uj, int microjoules, wraps at the zone's max_energy_range_uj
    Needs: read permission on energy_uj, which kernels since 5.10 give to root alone
    """

    name = "rapl"

    def __init__(self, root: SysRoot) -> None:
        self._root = root
        self._files: list[SysFile | None] = []
        self._channels: tuple[Channel, ...] = ()
        self._findings: tuple[Finding, ...] = ()
        self._distinct: set[tuple[str, str]] = set()
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
        return [self._read(index, channel, at_ns) for index, channel in enumerate(self._channels)]

    def _read(self, index: int, channel: Channel, at_ns: int) -> Reading | Gap:
        file = self._files[index]
        try:
            if file is None:
                file = self._files[index] = self._root.open(_energy(channel.zone))
            return Reading("rapl", channel.zone, at_ns, file.read_int())
        except MeterMissing as err:
            # A driver that was loaded again has made new files: the old descriptor never comes back to life.
            if file is not None:
                file.close()
                self._files[index] = None
            return Gap("rapl", channel.zone, at_ns, err.reason)
        except MeterError as err:
            return Gap("rapl", channel.zone, at_ns, err.reason)

    def refresh(self) -> bool:
        """Look at the tree again: zones come and go with the driver module."""
        zones = _zones(self._root)
        cpu_w = package_bound_w(parse_cpuinfo(self._root.word("proc/cpuinfo")))
        findings: list[Finding] = []
        opened: list[_Open] = []
        unread: list[_Zone] = []
        # The plain interface is tried first: its MMIO twin is read only where that one cannot be.
        for zone in sorted(zones, key=lambda zone: zone.control):
            nested = _nesting(zone, [other for other in zones if other not in unread])
            if nested is not None:
                findings.append(Finding("rapl", zone.name, "nested", f"{zone.label}: {nested}"))
                continue
            try:
                file = self._root.open(_energy(zone.directory))
                file.read_int()
            except MeterError as err:
                unread.append(zone)
                findings.append(_unreadable(zone, err))
                continue
            opened.append(_Open(zone, _channel(zone, self._root, cpu_w), file))
        kept = self._drop_mirrors(opened, findings)
        findings += [_readable(entry) for entry in kept]
        # One socket of two that cannot be read must lower the coverage: a sum without it would look complete.
        readable = {entry.channel.component for entry in kept}
        for zone in unread:
            channel = _channel(zone, self._root, cpu_w)
            twin = any(_twins(zone, entry.zone) for entry in kept)
            if channel.component in readable and not twin and zone.label != "psys":
                kept.append(_Open(zone, channel, None))
        if not zones:
            findings.append(Finding("rapl", CLASS, "missing", "no RAPL zones", _missing_advice(self._root)))
        kept.sort(key=lambda entry: entry.channel.zone)
        channels = tuple(entry.channel for entry in kept)
        changed = channels != self._channels
        # Always the new descriptors: after the driver was loaded again the old ones answer "no such device" for ever.
        self.close()
        self._channels, self._files = channels, [entry.file for entry in kept]
        self._findings = tuple(sorted(findings, key=lambda finding: finding.zone))
        return changed

    def _drop_mirrors(self, opened: list[_Open], findings: list[Finding]) -> list[_Open]:
        """Without the dies that show the counter of another die of their package.

        AMD Zen 1 and 2 parts with several dies have one counter per socket, which kernels list once per die
        (`package-0-die-0`, `package-0-die-1`): summed, 68 W became 137 W in other tools. Others (Cascade Lake-AP)
        have a counter in each die. Only the readings tell: the second one is read between two readings of the first,
        and must lie between them but for what is drawn until the next update. Dies that were seen apart once stay
        apart, so that counters which happen to pass each other are not taken for one.
        """
        kept: list[_Open] = []
        for entry in opened:
            twin = next((other for other in kept if self._mirrors(other, entry)), None)
            if twin is None:
                kept.append(entry)
                continue
            if entry.file is not None:
                entry.file.close()
            detail = f"{entry.zone.label}: shows the counter of {twin.zone.label}, counted once"
            findings.append(Finding("rapl", entry.zone.name, "nested", detail))
        return kept

    def _mirrors(self, one: _Open, two: _Open) -> bool:
        package, die = one.zone.package, two.zone.package
        if package is None or die is None or package["die"] is None or package[0] == die[0]:
            return False
        if package["socket"] != die["socket"] or one.channel.component != two.channel.component:
            return False
        pair = (one.zone.name, two.zone.name)
        if pair in self._distinct or one.file is None or two.file is None:
            return False
        try:
            before, between, after = one.file.read_int(), two.file.read_int(), one.file.read_int()
        except MeterError:
            return False
        if before == between == after == 0:
            return False  # no evidence, and no energy to count twice
        range_uj = one.channel.range_uj
        tolerance_uj = one.channel.max_power_w * _UPDATE_US
        ahead_uj, grown_uj = between - before, after - before
        if range_uj:
            grown_uj %= range_uj
            ahead_uj = (ahead_uj + range_uj // 2) % range_uj - range_uj // 2
        same = -tolerance_uj <= ahead_uj <= grown_uj + tolerance_uj
        if not same:
            self._distinct.add(pair)
        return same

    def close(self) -> None:
        """Close the zones' files."""
        for file in self._files:
            if file is not None:
                file.close()
        self._files = []
        self._channels = ()


def discover(root: SysRoot, config: Config) -> RaplMeter:
    """The RAPL zones below a root; a meter without channels where there are none."""
    return RaplMeter(root)


def _energy(zone: str) -> str:
    return f"{CLASS}/{zone}/energy_uj"


def _zones(root: SysRoot) -> list[_Zone]:
    """Every zone of the tree. Nested zones are listed in the class directory and below their parent: taken once."""
    found: dict[str, _Zone] = {}
    pending = [(name, name) for name in root.names(CLASS)]
    for name, path in pending:
        match = _ZONE.fullmatch(name)
        if match is None or name in found:
            continue
        parent = f"{match['control']}:{match['package']}" if match["child"] is not None else None
        found[name] = _Zone(path, match["control"], parent, root.word(f"{CLASS}/{path}/name"))
        if parent is None:
            pending += [(child, f"{path}/{child}") for child in root.names(f"{CLASS}/{path}") if child not in found]
    return [
        msgspec.structs.replace(zone, parent_label=found[zone.parent].label) if zone.parent in found else zone
        for _, zone in sorted(found.items())
    ]


def _channel(zone: _Zone, root: SysRoot, cpu_w: int) -> Channel:
    """What a zone counts."""
    package = zone.package
    return Channel(
        meter="rapl",
        zone=zone.directory,
        component=_component(zone),
        range_uj=_integer(root, f"{CLASS}/{zone.directory}/max_energy_range_uj"),
        max_power_w=_bound_w(root, zone, cpu_w),
        socket=int(package["socket"]) if package else None,
        note="the platform: packages, memory and board parts in one counter" if zone.label == "psys" else "",
    )


def _nesting(zone: _Zone, zones: Sequence[_Zone]) -> str | None:
    """Why a zone is not read although it is there: another one of `zones` holds the same joules. Else None."""
    if zone.label == "psys":
        # psys covers packages and, on some machines only, board parts: a second view of the same joules. A tree
        # without packages has nothing else, and the whole platform is then what the CPUs are charged with.
        inside = any(_PACKAGE.fullmatch(other.label) for other in zones)
        return "contains the packages, which are read one by one" if inside else None
    if zone.parent_label and zone.label in ("core", "uncore"):
        return f"part of {zone.parent_label}"
    if zone.control == "intel-rapl-mmio":
        for other in zones:
            if other.control == "intel-rapl" and _twins(zone, other):
                return f"the same counter as {other.name}, by another way"
    return None


def _twins(one: _Zone, two: _Zone) -> bool:
    """Whether two zones are the same counter, seen through two interfaces."""
    return one.control != two.control and (one.label, one.parent_label) == (two.label, two.parent_label)


def _readable(entry: _Open) -> Finding:
    channel = entry.channel
    wraps = f", wraps at {channel.range_uj / 1e6:.0f} J" if channel.range_uj else ""
    note = f" ({channel.note})" if channel.note else ""
    detail = f"{entry.zone.label} -> {channel.component}{wraps}, at most {channel.max_power_w} W{note}"
    return Finding("rapl", entry.zone.name, "ok", detail, component=channel.component)


def _unreadable(zone: _Zone, err: MeterError) -> Finding:
    state: State = "denied" if isinstance(err, MeterDenied) else "failing"
    advice = _DENIED_ADVICE if state == "denied" else _FAILING_ADVICE
    return Finding("rapl", zone.name, state, f"{zone.label}: {err.reason}", advice, _component(zone))


def _component(zone: _Zone) -> Component:
    return "dram" if zone.label == "dram" else "cpu"


def _bound_w(root: SysRoot, zone: _Zone, cpu_w: int) -> int:
    """A mean power that the zone cannot exceed over seconds, in W: what tells a wrap from a reset."""
    directory = f"{CLASS}/{zone.directory}"
    limits_uw = [
        _integer(root, f"{directory}/{name}")
        for name in root.names(directory)
        if (match := _LIMIT.fullmatch(name)) and root.word(f"{directory}/{match[1]}_name") != "peak_power"
    ]
    low, high = _PLAUSIBLE_UW
    stated_uw = max((uw for uw in limits_uw if low <= uw <= high), default=0)
    stated_w = (stated_uw * _TURBO_PERCENT // 100 + 999_999) // 1_000_000
    if zone.label == "dram":
        return max(DRAM_MAX_W, stated_w)
    if zone.label == "psys":
        return stated_w or PLATFORM_MAX_W
    return stated_w or cpu_w


def _integer(root: SysRoot, relative: str) -> int:
    """A non-negative integer attribute, 0 where it is absent or malformed."""
    text = root.word(relative)
    return int(text) if text.isascii() and text.isdigit() else 0


def _missing_advice(root: SysRoot) -> str:
    cpu = parse_cpuinfo(root.word("proc/cpuinfo"))
    if cpu.virtual:
        return "this is a virtual machine: hypervisors do not show RAPL; the model stands in"
    if cpu.vendor not in ("GenuineIntel", "AuthenticAMD", "HygonGenuine"):
        return "this CPU has no RAPL; see the hwmon, cray and bmc meters"
    return (
        "load the driver: modprobe intel_rapl_msr (AMD: Linux 5.11 or newer); in a container, mount /sys/class/powercap"
    )
