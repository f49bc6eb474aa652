"""The lab's virtual power meter: RAPL counters that follow the real CPU time of a node's cgroup by a known formula.

A zone's counter, in microjoules, is a pure function of two numbers:

    E = (idle_mw x t_ns + slope_mw x busy_ns) // 1_000_000          shown as (START_UJ + E) mod range

`t_ns` is boot time since a recorded origin and `busy_ns` the CPU time since then: what Slurm's cgroup of the node used
(its own `cpuacct.usage`, which keeps the time of removed children) plus a constant small system load. So the truth is
known to the microjoule, and a meter that was killed goes on exactly where it would have been.

Runs as a script (`python -I -S powermeter.py LAB`), standard library only, and as a module for `truth`.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

TICK_S = 0.005
"""How often counters move; real ones do about every 1 ms. Costs 3 % of a core, most of it the waking up: a counter
that stood still for 20 ms hid 2 J of idle power in a section of 6 J."""
CPUS = 8
SYSTEM_LOAD_NS_PER_S = 20_000_000
"""Busy CPU time that no job has: 0.02 CPU on every node, as the daemons of a real node cost."""
START_UJ = 123_456_789
"""Counters do not begin at 0: a reader that takes the first reading for a difference is found out."""
USER_HZ = 100
_TICK_NS = 1_000_000_000 // USER_HZ


class Zone(NamedTuple):
    """One RAPL zone: its place in the tree, its label, its line (mW at idle, mW per busy CPU) and where it wraps."""

    path: str
    label: str
    idle_mw: int
    slope_mw: int
    range_uj: int
    limit_uw: int = 0
    """constraint_0_max_power_uw; readers take it to tell a wrap from a reset. 0: the zone has no constraint."""

    def energy_uj(self, t_ns: int, busy_ns: int) -> int:
        """Energy since the origin, never wrapped."""
        return (self.idle_mw * t_ns + self.slope_mw * busy_ns) // 1_000_000

    def counter_uj(self, t_ns: int, busy_ns: int) -> int:
        """What energy_uj shows."""
        return (START_UJ + self.energy_uj(t_ns, busy_ns)) % self.range_uj


_LARGE = 262_143_328_850
_DRAM = 65_712_999_613
_SMALL = 2_500_000_000
"""2.5 kJ: wraps every 40-60 s, where a real package takes 10-20 minutes."""

ZONES: tuple[tuple[Zone, ...], ...] = (
    (
        Zone("intel-rapl:0", "package-0", 46_000, 9_500, _LARGE, 205_000_000),
        Zone("intel-rapl:0/intel-rapl:0:0", "dram", 6_000, 1_100, _DRAM, 40_000_000),
        Zone("intel-rapl:1", "package-1", 41_000, 6_500, _LARGE, 205_000_000),
        Zone("intel-rapl:1/intel-rapl:1:0", "dram", 5_500, 700, _DRAM, 40_000_000),
    ),
    (
        Zone("intel-rapl:0", "package-0", 43_000, 11_000, _SMALL, 60_000_000),
        Zone("intel-rapl:0/intel-rapl:0:0", "dram", 7_000, 1_300, _DRAM, 40_000_000),
        Zone("intel-rapl:1", "package-1", 40_000, 8_000, _SMALL, 60_000_000),
        Zone("intel-rapl:1/intel-rapl:1:0", "dram", 6_500, 900, _DRAM, 40_000_000),
    ),
    (
        Zone("intel-rapl:0", "package-0", 52_000, 12_500, _LARGE, 205_000_000),
        Zone("intel-rapl:1", "package-1", 50_000, 10_500, _LARGE, 205_000_000),
    ),
    (),
)
"""Per node, in order: n1 has everything, n2 wraps, n3 has no DRAM zones, n4 no RAPL at all."""


class Truth(NamedTuple):
    """What the counters of a node say at one moment, unwrapped: time, busy CPU time, and energy of each zone."""

    t_ns: int
    busy_ns: int
    cgroup_ns: int
    energy_uj: dict[str, int]
    """Zone path (as in `Zone.path`) -> microjoules since the origin."""


def boottime_ns() -> int:
    """The clock of the counters: it goes on while the machine sleeps, and no one sets it."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def busy_ns(t_ns: int, cgroup_ns: int) -> int:
    """Busy CPU time of a node since the origin: Slurm's cgroup plus the constant system load."""
    return cgroup_ns + SYSTEM_LOAD_NS_PER_S * t_ns // 1_000_000_000


def dynamic_uj(index: int, cpu_ns: int) -> dict[str, int]:
    """True dynamic energy of an amount of CPU time on node number `index` (n1 is 0), by zone."""
    return {zone.path: zone.slope_mw * cpu_ns // 1_000_000 for zone in ZONES[index]}


def state_path(lab: Path, node: str) -> Path:
    """Where the meter keeps a node's line."""
    return lab / "meter" / f"{node}.state"


def truth(lab: Path, node: str, index: int) -> Truth:
    """The truth behind the counters as they stand in the files now (they are at most a tick old). Raises: OSError."""
    line = State.read(state_path(lab, node))
    busy = busy_ns(line.t_ns, line.cgroup_ns)
    return Truth(
        line.t_ns,
        busy,
        line.cgroup_ns,
        {zone.path: zone.energy_uj(line.t_ns, busy) for zone in ZONES[index]},
    )


class State(NamedTuple):
    """A node's line in its state file: all that a restarted meter needs beside the origin.

    `base_ns` is what is to be added to the usage of the cgroup with this inode: the CPU time of earlier cgroups of
    the same name, less what the first one had used before the origin.
    """

    t_ns: int
    inode: int
    base_ns: int
    cgroup_ns: int

    @classmethod
    def read(cls, path: Path) -> State:
        """The line as it stands: read until it comes out the same twice, as it is written in several stores."""
        text = b""
        while text != (text := path.read_bytes()):
            pass
        return cls(*map(int, text.split()))

    def encode(self) -> bytes:
        """80 bytes, always."""
        return b"%+019d %+019d %+019d %+019d\n" % self


class NodeMeter:
    """Writes the counters of one node."""

    def __init__(self, lab: Path, node: str, index: int, origin_ns: int) -> None:
        self._origin_ns = origin_ns
        self._zones = ZONES[index]
        root = lab / "nodes" / node / "root"
        tree = root / "sys/devices/virtual/powercap/intel-rapl"
        self._energy = [_map(tree / zone.path / "energy_uj") for zone in self._zones]
        self._stat = _map(root / "proc/stat")
        self._usage = _map(root / "sys/fs/cgroup/cpuacct/cpuacct.usage")
        self._line = _map(state_path(lab, node))
        self._source = f"/sys/fs/cgroup/cpuacct/slurm_{node}/cpuacct.usage"
        self._source_fd = -1
        self._state = State.read(state_path(lab, node))
        self._ticks = (-1, -1)

    def tick(self) -> None:
        """Read the cgroup, write every counter."""
        cgroup_ns = self._read()
        t_ns = boottime_ns() - self._origin_ns
        busy = busy_ns(t_ns, cgroup_ns)
        for memory, zone in zip(self._energy, self._zones, strict=False):
            memory[:] = b"%015d\n" % zone.counter_uj(t_ns, busy)
        self._usage[:] = b"%015d\n" % busy
        ticks = busy // _TICK_NS, t_ns // _TICK_NS
        if ticks != self._ticks:
            self._ticks = ticks
            self._stat[:] = stat_text(*ticks)
        self._state = State(t_ns, self._state.inode, self._state.base_ns, cgroup_ns)
        self._line[:] = self._state.encode()

    def _read(self) -> int:
        """CPU time of the node's cgroup since the origin; stands still while there is none, and never goes back."""
        state = self._state
        if self._source_fd < 0 and not self._open():
            return state.cgroup_ns
        try:
            usage = int(os.pread(self._source_fd, 32, 0))
        except OSError:  # ENODEV: the directory was removed. What it used since the last tick is lost, at most 20 ms.
            os.close(self._source_fd)
            self._source_fd = -1
            return state.cgroup_ns
        return max(state.cgroup_ns, self._state.base_ns + usage)

    def _open(self) -> bool:
        """Open the cgroup's counter; a directory not seen before adds on to what the earlier ones used."""
        try:
            self._source_fd = os.open(self._source, os.O_RDONLY)
        except OSError:
            return False
        inode = os.fstat(self._source_fd).st_ino
        if inode != self._state.inode:
            self._state = self._state._replace(inode=inode, base_ns=self._state.cgroup_ns)
        return True


def _map(path: Path) -> mmap.mmap:
    """A file to be overwritten in place, at constant width: readers hold it open and pread, and never see it empty.

    A store into a shared mapping and not pwrite: for a pwrite ext4 notes the mtime in its journal (5 µs each, and there
    are 22 a tick). 16 bytes at a page's beginning are one store on x86-64, so they are never read torn.
    """
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), 0)


def stat_text(busy_ticks: int, elapsed_ticks: int) -> bytes:
    """/proc/stat of a node with 8 CPUs: all busy time is `user`, the rest `idle`, evenly over the CPUs."""
    lines = [b"cpu  %012d 0 0 %012d 0 0 0 0 0 0\n" % (busy_ticks, max(CPUS * elapsed_ticks - busy_ticks, 0))]
    user, idle = busy_ticks // CPUS, max(elapsed_ticks - busy_ticks // CPUS, 0)
    lines += [b"cpu%d %012d 0 0 %012d 0 0 0 0 0 0\n" % (cpu, user, idle) for cpu in range(CPUS)]
    return b"".join(lines) + b"intr 0\nctxt 0\nbtime 1700000000\nprocesses 1\nprocs_running 1\nprocs_blocked 0\n"


def prepare(lab: Path, nodes: tuple[str, ...], boot_id: str) -> None:
    """Make the origin and the state lines, unless there are some of this boot already: then the meter goes on."""
    origin = lab / "meter" / "origin.json"
    with contextlib.suppress(OSError, ValueError, KeyError):
        if json.loads(origin.read_text())["boot_id"] == boot_id:
            return
    origin.parent.mkdir(parents=True, exist_ok=True)
    for node in nodes:
        inode, base_ns = 0, 0
        with contextlib.suppress(OSError):
            source = Path(f"/sys/fs/cgroup/cpuacct/slurm_{node}/cpuacct.usage")
            inode, base_ns = source.stat().st_ino, -int(source.read_text())
        state_path(lab, node).write_bytes(State(0, inode, base_ns, 0).encode())
    text = json.dumps({"boot_id": boot_id, "origin_ns": boottime_ns(), "nodes": nodes})
    part = origin.with_suffix(".part")
    part.write_text(text)
    part.rename(origin)


def main(lab: Path) -> None:
    """Tick until killed, before all others: idle energy of a counter that stood still lands in the next section."""
    with contextlib.suppress(PermissionError):
        os.nice(-10)
    origin = json.loads((lab / "meter" / "origin.json").read_text())
    meters = [NodeMeter(lab, node, index, origin["origin_ns"]) for index, node in enumerate(origin["nodes"])]
    due = time.monotonic()
    while True:
        for meter in meters:
            meter.tick()
        due = max(due + TICK_S, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
