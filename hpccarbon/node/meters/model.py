"""Power of a node without a CPU sensor, from its utilisation. Marked modelled to the last report, never a measurement.

The model is linear between an idle and a full power: P = idle + (full - idle) x utilisation. So its energy is a
cumulative function of two kernel counters (time since boot, busy CPU time since boot) and can be subtracted like a
sensor's: a restart or a late tick loses nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from hpccarbon.config import Config
from hpccarbon.errors import MeterError
from hpccarbon.node.meters import Finding
from hpccarbon.node.meters.cpuinfo import Cpu, parse_cpuinfo
from hpccarbon.node.sysroot import SysFile, SysRoot, online_cpus, parse_busy_ticks
from hpccarbon.records import Channel, Gap, Reading


class Family(NamedTuple):
    """A CPU family: kernel identification and the power of a whole two-socket server at the wall, idle and full (W)."""

    name: str
    vendor: str
    family: int
    models: tuple[int, ...]
    steppings: range
    idle_w: float
    full_w: float


_ANY = range(256)
FAMILIES: tuple[Family, ...] = (
    Family("EPYC 7001 Naples", "AuthenticAMD", 23, (1,), _ANY, 94.9, 296.0),
    Family("EPYC 7002 Rome", "AuthenticAMD", 23, (49,), _ANY, 93.4, 403.5),
    Family("EPYC 7003 Milan", "AuthenticAMD", 25, (0, 1), _ANY, 104.0, 461.0),
    Family("EPYC 9004/8004 Genoa, Bergamo, Siena", "AuthenticAMD", 25, (16, 17, 160), _ANY, 121.0, 679.0),
    Family("EPYC 9005 Turin", "AuthenticAMD", 26, (0, 1, 2, 16, 17), _ANY, 135.0, 763.0),
    Family("Xeon E5 v3 Haswell", "GenuineIntel", 6, (63,), _ANY, 47.1, 272.0),
    Family("Xeon E5 v4 Broadwell", "GenuineIntel", 6, (79, 86), _ANY, 44.8, 253.5),
    Family("Xeon Scalable 1st Skylake-SP", "GenuineIntel", 6, (85,), range(5), 52.4, 434.5),
    Family("Xeon Scalable 2nd Cascade Lake", "GenuineIntel", 6, (85,), range(5, 10), 51.7, 414.0),
    Family("Xeon Scalable 3rd Ice/Cooper Lake", "GenuineIntel", 6, (85,), range(10, 16), 131.0, 623.0),
    Family("Xeon Scalable 3rd Ice/Cooper Lake", "GenuineIntel", 6, (106, 108), _ANY, 131.0, 623.0),
    Family("Xeon Scalable 4th Sapphire Rapids", "GenuineIntel", 6, (143,), _ANY, 163.0, 814.0),
    Family("Xeon Scalable 5th Emerald Rapids", "GenuineIntel", 6, (207,), _ANY, 169.0, 762.0),
    Family("Xeon 6 Granite Rapids, Sierra Forest", "GenuineIntel", 6, (173, 174, 175), _ANY, 200.0, 872.0),
)
"""Medians of SPECpower_ssj2008 results with two chips as tabled by Cloud Carbon Footprint (2026-03-09, Apache-2.0).

Model numbers: Linux arch/x86/include/asm/intel-family.h and AMD's revision guides. Tuned by vendors, with little
memory: a real node idles higher, and a site that measured its own (`[model]`) beats the table.
"""
_GENERIC = Family("unknown CPU (median of the families)", "", 0, (), _ANY, 104.0, 461.0)
_GENERIC_THREAD_IDLE_W, _GENERIC_THREAD_FULL_W = 0.74, 3.76
"""Median of the per-thread table of Cloud Carbon Footprint: a virtual CPU is a thread, not a socket."""


_FAMILY_BAND = "systems of one family span -36/+41 % idle and -28/+21 % at full load"
"""Widest 10-90 % ranges of the same table, against the family's median (5th Xeon idle, 4th Xeon at full load)."""
_GENERIC_BAND = "CPU not in the table: -60/+90 %"
"""The families' medians span 45-200 W idle and 254-872 W at full load, against 104 and 461 W."""
_VIRTUAL_BAND = "a guest's share is not known: -60/+100 %"


class Curve(NamedTuple):
    """Power of all CPUs together in mW, at no load and at full load, its origin, and how wrong it may be."""

    idle_mw: int
    full_mw: int
    origin: str
    band: str = ""


def family_of(cpu: Cpu) -> Family:
    """The table's row for a CPU, else the median of all rows."""
    for row in FAMILIES:
        same = (cpu.vendor, cpu.family) == (row.vendor, row.family)
        if same and cpu.model in row.models and cpu.stepping in row.steppings:
            return row
    return _GENERIC


def curve(cpu: Cpu, config: Config) -> Curve:
    """The power curve of a node: the site's own figures, else its family's.

    A virtual machine holds threads of a socket, not sockets: it gets the family's power per thread (two sockets of
    the family's usual size would bill a 2-CPU guest for a whole server).
    """
    model = config.model
    if model.full_power_w > 0:
        return Curve(round(model.idle_power_w * 1000), round(model.full_power_w * 1000), "configured ([model])")
    band = _FAMILY_BAND
    row = family_of(cpu)
    if cpu.virtual:
        idle_w, full_w = _GENERIC_THREAD_IDLE_W * cpu.threads, _GENERIC_THREAD_FULL_W * cpu.threads
        origin = f"{cpu.threads} virtual CPUs at the median power of a thread"
        band = _VIRTUAL_BAND
    else:
        idle_w, full_w = row.idle_w / 2 * cpu.sockets, row.full_w / 2 * cpu.sockets
        origin = f"{row.name}, {cpu.sockets} socket(s), whole server at the wall"
        if row is _GENERIC:
            band = _GENERIC_BAND
    return Curve(round(idle_w * 1000), round(full_w * 1000), f"{origin}; SPECpower medians", band)


def assumed_idle_uw(root: SysRoot) -> int:
    """What the CPUs below this root draw when idle, as far as their family tells; 0 for an unknown or virtual CPU.

    Stands in where sensors measure the CPUs and nobody has seen them idle yet. It is a whole server's figure: an upper
    one.
    """
    cpu = parse_cpuinfo(root.word("proc/cpuinfo"))
    if cpu.virtual or family_of(cpu) is _GENERIC:
        return 0
    return curve(cpu, Config()).idle_mw * 1000


class Memory(NamedTuple):
    """The node's memory and what a GiB of it draws."""

    gib: int
    w_per_gib: float

    @property
    def power_mw(self) -> int:
        """All of it, in mW."""
        return round(self.gib * self.w_per_gib * 1000)


_MEMORY_ADVICE = (
    "set [model] memory_w_per_gib if no meter measures it: 0.37 W/GiB in Green Algorithms and 0.39 in Cloud Carbon "
    "Footprint, both for small modules; less for modules of 64 GiB and more"
)


class ModelMeter:
    """Modelled energy of all CPUs (with the server around them), linear in their utilisation, and of the memory.

    The memory is a channel of its own only where the site says what it draws; it is charged only where another meter
    measures the CPUs and none the memory, for the CPU model is a whole server with its memory.

    Reads: proc/stat (busy CPU time), proc/cpuinfo and proc/meminfo once
    Units: energy_uj since boot, int microjoules, never wraps
    Needs: nothing
    """

    name = "model"

    def __init__(self, curve: Curve, stat: SysFile, cpus: int, memory: Memory | None = None) -> None:
        self._stat = stat
        self._idle_mw = curve.idle_mw
        self._cpus = cpus
        self._dynamic_mw = curve.full_mw - curve.idle_mw
        self._tick_us = 1_000_000 // os.sysconf("SC_CLK_TCK")
        # The curve is part of the counter's identity: other numbers are another counter, not a jump of this one.
        zone = f"cpu-{curve.idle_mw}-{curve.full_mw}mW-{cpus}cpu"
        detail = f"{curve.idle_mw / 1000:.0f} W idle, {curve.full_mw / 1000:.0f} W full: {curve.origin}"
        if curve.band:
            detail += f"; {curve.band}"
        bound_w = 2 * curve.full_mw // 1000 + 1
        advice = "measure a node at the wall and set [model] idle_power_w, full_power_w"
        idle_uw = curve.idle_mw * 1000
        channels = [Channel("model", zone, "cpu", max_power_w=bound_w, idle_uw=idle_uw, modelled=True, note=detail)]
        findings = [Finding("model", zone, "ok", detail, advice, "cpu")]
        self._memory_mw = 0
        if memory is not None and memory.power_mw:
            self._memory_mw = memory.power_mw
            place = f"memory-{memory.power_mw}mW"
            bound_w = 2 * memory.power_mw // 1000 + 1
            idle_uw = memory.power_mw * 1000
            about = f"{memory.gib} GiB at {memory.w_per_gib:g} W each, configured ([model] memory_w_per_gib), constant"
            channels.append(
                Channel("model", place, "dram", max_power_w=bound_w, idle_uw=idle_uw, modelled=True, note=about)
            )
            findings.append(Finding("model", place, "ok", about, component="dram"))
        else:
            findings.append(
                Finding("model", "memory", "missing", "memory is neither measured nor modelled", _MEMORY_ADVICE, "dram")
            )
        self.channels: Sequence[Channel] = tuple(channels)
        self.findings: Sequence[Finding] = tuple(findings)

    def read(self, at_ns: int) -> list[Reading | Gap]:
        """The model's energy since boot at this moment."""
        return [self._cpu(at_ns), *self._memory(at_ns)]

    def _cpu(self, at_ns: int) -> Reading | Gap:
        zone = self.channels[0].zone
        try:
            busy_us = parse_busy_ticks(self._stat.read(512)) * self._tick_us
        except MeterError as err:
            return Gap("model", zone, at_ns, err.reason)
        except ValueError as err:
            return Gap("model", zone, at_ns, str(err))
        # mW x µs = nJ
        energy_nj = self._idle_mw * (at_ns // 1000) + self._dynamic_mw * busy_us // self._cpus
        return Reading("model", zone, at_ns, energy_nj // 1000)

    def _memory(self, at_ns: int) -> list[Reading | Gap]:
        energy_nj = self._memory_mw * (at_ns // 1000)
        return [Reading("model", channel.zone, at_ns, energy_nj // 1000) for channel in self.channels[1:]]

    def refresh(self) -> bool:
        """CPUs do not come and go here."""
        return False

    def close(self) -> None:
        """Close /proc/stat."""
        self._stat.close()


class NoModel:
    """What stands here where /proc/stat cannot be read: no channels, one finding."""

    name = "model"
    channels: Sequence[Channel] = ()

    def __init__(self, reason: str) -> None:
        self.findings: Sequence[Finding] = (Finding("model", "proc/stat", "failing", reason, "mount /proc"),)

    def read(self, at_ns: int) -> list[Reading | Gap]:
        """Nothing."""
        return []

    def refresh(self) -> bool:
        """Nothing changes."""
        return False

    def close(self) -> None:
        """Nothing to close."""


def discover(root: SysRoot, config: Config) -> ModelMeter | NoModel:
    """The model for the CPU and the memory below this root."""
    cpu = parse_cpuinfo(root.word("proc/cpuinfo"))
    if "physical id" not in root.word("proc/cpuinfo"):
        cpu = cpu._replace(sockets=_sockets(root))  # Arm's cpuinfo does not tell
    w_per_gib = config.model.memory_w_per_gib
    try:
        return ModelMeter(
            curve(cpu, config), root.open("proc/stat"), online_cpus(root), Memory(_memory_gib(root), w_per_gib)
        )
    except MeterError as err:
        return NoModel(err.reason)


def _sockets(root: SysRoot) -> int:
    cpus = "sys/devices/system/cpu"
    names = [name for name in root.names(cpus) if name.startswith("cpu") and name[3:].isdigit()]
    return len({root.word(f"{cpus}/{name}/topology/physical_package_id") for name in names} - {"", "-1"}) or 1


def _memory_gib(root: SysRoot) -> int:
    """Installed memory, rounded up: the kernel keeps a part of it for itself."""
    match = re.search(r"^MemTotal:\s+(\d+) kB", root.word("proc/meminfo"), re.MULTILINE)
    return -(-int(match[1]) // (1 << 20)) if match else 0
