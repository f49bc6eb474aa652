"""Measures processes without a daemon: this machine's meters, divided by the processes' CPU time. Writes nothing."""

from __future__ import annotations

import resource
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Sequence

import msgspec

from hpccarbon.config import Config
from hpccarbon.errors import HpcCarbonError
from hpccarbon.node import meters as meter_table
from hpccarbon.node.attribution import Division, Holding, Node, PoolKey, Share
from hpccarbon.node.sampler import difference
from hpccarbon.node.sysroot import SysRoot, online_cpus
from hpccarbon.node.usage.cgroup import NodeTime
from hpccarbon.records import Gap
from hpccarbon.units import NS_PER_S


class Outcome(msgspec.Struct, frozen=True):
    """What one command used, and what the whole machine used meanwhile.

    `share` is the command's part: static energy by the cores it kept busy, dynamic energy by its CPU time. `gaps` are
    sensors that exist and could not be read.
    """

    argv: tuple[str, ...]
    exit_code: int
    started_wall_ns: int
    elapsed_ns: int
    share: Share
    machine: Share
    meters: tuple[str, ...]
    gaps: tuple[str, ...]
    modelled: bool


class LocalMeters:
    """This machine's meters without a daemon: energy since the beginning, of a set of processes and of all.

    Args:
        config: which meters, below which root.
        cpu_ns: cumulative CPU time of the processes that `share` is for; must never go down.
        cores: the cores they hold; None: as many as they keep busy.
        gpus: which GPUs they hold, by place in the driver's order or by the beginning of the UUID; None: all of them.

    `share` is their part: static energy by cores, dynamic energy by CPU time; `machine` is everything. A counter that
    cannot be read at one moment is read at the next: counters are cumulative.
    """

    def __init__(
        self,
        config: Config,
        cpu_ns: Callable[[], int],
        *,
        cores: int | None = None,
        gpus: Collection[str] | None = None,
    ) -> None:
        root = SysRoot(config.root_dir(""))
        self._meters = meter_table.discover(root, config)
        self.channels = tuple(channel for meter in self._meters for channel in meter.channels)
        devices = [c.device for c in self.channels if c.component == "gpu" and c.device]
        held = [d for place, d in enumerate(devices) if gpus is None or _chosen(d, place, gpus)]
        self.gpus = tuple(held)
        self._holding = Holding(cores, gpus=dict.fromkeys(held, 1))
        self._node = Node(online_cpus(root))
        self._node_time = NodeTime(root)
        self._cpu_source = cpu_ns
        self._owed: dict[PoolKey, int] = {}
        self._carry_uj = 0
        self.share, self.machine = Share(), Share()
        self.at_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self._last = self._readings(self.at_ns)
        self._waiting: list[int | None] = [None] * len(self.channels)
        self._busy_ns, self._cpu_ns = self._node_time.read_ns(), cpu_ns()

    def read(self) -> None:
        """Read everything, and add what was used since the last time to `share` and `machine`."""
        at_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self._take(at_ns)
        deltas, self._waiting = self._waiting, [None] * len(self.channels)
        cpu_ns, busy_ns = self._cpu_source(), self._node_time.read_ns()
        used_ns = max(0, cpu_ns - self._cpu_ns)
        known = busy_ns is not None and self._busy_ns is not None
        other_ns = max(0, (busy_ns or 0) - (self._busy_ns or 0) - used_ns) if known else 0
        idle_uw = [channel.idle_uw for channel in self.channels]
        division = Division(self._node, self.channels, idle_uw, [self._holding], owed_uj=self._owed)
        division.add(at_ns - self.at_ns, deltas, [used_ns, other_ns])
        (share,), system, unallocated = division.close(self._carry_uj)
        self._carry_uj = division.other_carry_uj
        self.share.add(share)
        present_us, covered_us = self.share.present_us, self.share.covered_us
        for part in (share, system, unallocated):
            self.machine.add(part)
        self.machine.present_us, self.machine.covered_us = present_us, covered_us
        self.at_ns, self._cpu_ns, self._busy_ns = at_ns, max(cpu_ns, self._cpu_ns), busy_ns

    def watch_wraps(self) -> None:
        """Read the counters and divide nothing yet: often enough, and none wraps twice unseen."""
        self._take(time.clock_gettime_ns(time.CLOCK_BOOTTIME))

    def _take(self, at_ns: int) -> None:
        for place, now in enumerate(self._readings(at_ns)):
            delta = self._difference(place, now) if now is not None else None
            if delta is not None:
                self._waiting[place] = (self._waiting[place] or 0) + delta

    def _readings(self, at_ns: int) -> list[tuple[int, int] | None]:
        readings = [reading for meter in self._meters for reading in meter.read(at_ns)]
        return [None if isinstance(reading, Gap) else (reading.at_ns, reading.energy_uj) for reading in readings]

    def _difference(self, place: int, now: tuple[int, int]) -> int | None:
        before, self._last[place] = self._last[place], now
        return None if before is None else difference(self.channels[place], before[1], now[1], now[0] - before[0])

    @property
    def denied(self) -> tuple[str, ...]:
        """Sensors that are there and may not be read."""
        findings = [finding for meter in self._meters for finding in meter.findings]
        return tuple(f"{found.zone}: {found.detail}" for found in findings if found.state == "denied")

    @property
    def modelled(self) -> bool:
        """Whether a model stands in for a sensor."""
        return any(channel.modelled for channel in self.channels)

    def close(self) -> None:
        """Give all descriptors back."""
        for meter in self._meters:
            meter.close()


def _chosen(device: str, place: int, gpus: Collection[str]) -> bool:
    return any(str(place) == gpu or (len(gpu) > 3 and device.startswith(gpu)) for gpu in gpus)


def measure(argv: Sequence[str], config: Config) -> Outcome:
    """Run a command to its end and divide the machine's energy between it and the rest.

    CPU time is that of the command and every descendant it waited for (getrusage(2), RUSAGE_CHILDREN).
    Raises: HpcCarbonError when the command cannot be started.
    """
    meters = LocalMeters(config, _children_ns)
    started_wall_ns, begin_ns = time.time_ns(), time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    try:
        process = subprocess.Popen(list(argv))
    except OSError as err:
        raise HpcCarbonError(f"cannot run {argv[0]}: {err.strerror}") from err
    code: int | None = None
    while code is None:
        try:
            code = process.wait(timeout=config.daemon.interval_s)
        except subprocess.TimeoutExpired:
            code = None
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            continue
        # CPU time of children counts when they have ended: so all of it is divided at the end, over the whole time.
        if code is None:
            meters.watch_wraps()
    meters.read()
    elapsed_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - begin_ns
    meters.close()
    return Outcome(
        argv=tuple(argv),
        exit_code=code if code >= 0 else 128 - code,
        started_wall_ns=started_wall_ns,
        elapsed_ns=elapsed_ns,
        share=meters.share,
        machine=meters.machine,
        meters=tuple(channel.key for channel in meters.channels),
        gaps=meters.denied,
        modelled=meters.modelled,
    )


def _children_ns() -> int:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return round((used.ru_utime + used.ru_stime) * NS_PER_S)
