"""Our own division, end to end: the real Sampler, meters and Store on plain files that follow a World's truth."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from heapq import heappop, heappush
from itertools import pairwise
from pathlib import Path
from shutil import rmtree

from bench.accuracy.peers import Bills
from bench.accuracy.truth import Job, World, ns
from hpccarbon.node import meters
from hpccarbon.node.attribution import Division, Holding
from hpccarbon.node.attribution import Node as NodeFacts
from hpccarbon.node.meters import Finding, Gpu, Meter, Slice
from hpccarbon.node.meters.model import assumed_idle_uw
from hpccarbon.node.sampler import Sampler
from hpccarbon.node.store import Store
from hpccarbon.node.sysroot import SysRoot
from hpccarbon.node.usage.jobs import JobFiles
from hpccarbon.records import Channel, Gap, Reading
from hpccarbon.units import NS_PER_MS, NS_PER_S
from tests.node.virtual import Node

UUID = "GPU-00000000-1111-2222-3333-444444444444"
_PID = 100_000
_NOTICED_NS = 2 * NS_PER_MS
_SPACING_NS = 50 * NS_PER_MS
"""The daemon looks at jobs that came or went at most this often between two ticks."""


class VirtualGpu:
    """A GPU whose counter follows the truth; what its processes use is told in whole percents, as NVML does it."""

    name = "nvml"

    def __init__(self, world: World) -> None:
        self._world = world
        self.at_ns = 0
        self._last_ns = 0
        self._use: dict[int, int] = {}
        self._busy: dict[int, int] = {}
        self.channels: Sequence[Channel] = (Channel("nvml", UUID, "gpu", device=UUID, max_power_w=1_000),)
        self.findings: Sequence[Finding] = ()

    def read(self, at_ns: int) -> list[Reading | Gap]:
        """The counter, and what each process used since the last time."""
        now, last = self.at_ns, self._last_ns
        self._use = {
            _PID + job.number: (job.gpu_used.at(now) - job.gpu_used.at(last)) * 100 // (now - last)
            for job in self._world.jobs
            if now > last and job.alive(now)
        }
        if self._world.gpm and now > last:
            self._busy = {place: self._activity(job, last, now) for place, job in enumerate(self._world.jobs)}
        self._last_ns = now
        return [Reading("nvml", UUID, at_ns, self._world.gpu_uj(now))]

    def _activity(self, job: Job, last: int, now: int) -> int:
        """How busy a job's slice was, 1/1000 %; the truth says it of the whole card."""
        used = job.gpu_used.at(now) - job.gpu_used.at(last)
        return min(100_000, used * 100_000 * self._world.gpu_parts // (job.gpu_parts * (now - last)))

    def devices(self) -> Sequence[Gpu]:
        """One card, whole or in slices."""
        jobs = self._world.jobs if self._world.mig else ()
        free = self._world.gpu_parts - sum(job.gpu_parts for job in jobs)
        sizes = [*(job.gpu_parts for job in jobs), *([free] if jobs and free else [])]
        slices = tuple(Slice(f"MIG-{place}", place, size) for place, size in enumerate(sizes))
        return [Gpu(UUID, 0, "00000000:01:00.0", "virtual", slices)]

    def watch_processes(self, uuids: Collection[str]) -> None:
        """They are always watched."""

    def processes(self, uuid: str) -> Mapping[int, int]:
        """pid -> percent of the card. With MIG the driver tells of no process."""
        return {} if self._world.mig else self._use

    def instances(self, uuid: str) -> Mapping[int, int]:
        """GPU instance -> 1/1000 % of its multiprocessors, as GPM tells it."""
        return self._busy

    def refresh(self) -> bool:
        """Nothing comes or goes."""
        return False

    def close(self) -> None:
        """Nothing is open."""


class Tree(Node):
    """The files that a World shows."""

    def __init__(self, world: World, directory: Path) -> None:
        super().__init__(directory, cpus=world.cpus, range_uj=world.range_uj, dram=bool(world.zones))
        self.world = world
        self.base_ns = self.at_ns
        self.gpu = VirtualGpu(world) if world.gpu_idle_mw else None
        rmtree(self.root / "sys/class/powercap")
        self.energy_uj = dict.fromkeys(world.zones, 0)
        for zone in world.zones:
            base = f"sys/class/powercap/{zone}"
            self._write(f"{base}/name", "dram" if zone in world.dram_zones else f"package-{zone[-1]}")
            self._write(f"{base}/max_energy_range_uj", str(world.range_uj))
            if world.limit_w is not None and zone in world.package_zones:
                self._write(f"{base}/constraint_0_max_power_uw", str(world.limit_w * 1_000_000))
        self._write("proc/cpuinfo", _XEON if world.limit_w is not None else _EPYC)
        for cpu in range(world.cpus):
            package = cpu * world.packages // world.cpus
            self._write(f"sys/devices/system/cpu/cpu{cpu}/topology/physical_package_id", str(package))
        self._write("proc/meminfo", f"MemTotal:       {world.mem_gib << 20} kB\n")
        self._jobs = {job.number: job for job in world.jobs}
        self.put(0)

    def put(self, at_ns: int) -> None:
        """Show every counter as it stands at a moment."""
        world = self.world
        self.at_ns = self.base_ns + at_ns
        self.energy_uj = {zone: world.counter_uj(zone, at_ns) for zone in world.zones}
        self.usage_ns = {number: self._jobs[number].used.at(at_ns) for number in self.usage_ns}
        self.busy_ns = 77_000 + world.busy_ns(at_ns)
        self.scope_ns = 5_000 + world.busy_ns(at_ns) - world.system.at(at_ns)
        if self.gpu is not None:
            self.gpu.at_ns = at_ns
        self.show()

    def begin(self, job: Job) -> None:
        """Its prolog, its groups and its first process."""
        path = f"uid_1000/job_{job.number}"
        if job.socket is not None:
            size = self.world.cpus // self.world.packages
            first = job.socket * size
            self._write(f"sys/fs/cgroup/cpuset/slurm/{path}/cpuset.cpus", f"{first}-{first + job.cores - 1}")
        if self.gpu is not None:
            self._write(f"proc/{_PID + job.number}/cgroup", f"4:cpuacct:/slurm/{path}/step_0")
        self.start(job.number, cores=job.cores)

    def hook(self, job: int, restart: int, kind: str, uid: int, cores: int) -> None:
        """What the hooks leave, with the GPUs where there are any."""
        super().hook(job, restart, kind, uid, cores)
        if self.gpu is None:
            return
        place = list(self._jobs).index(job) if self.world.mig else 0
        path = self.jobs_dir / f"{job}.{restart}.{kind}"
        path.write_text(path.read_text().replace("END\n", f"SLURM_JOB_GPUS={place}\nEND\n"))
        os.utime(path, ns=(self.wall_ns, self.wall_ns))

    def fresh(self) -> Sampler:
        """A daemon's start, with nothing configured: idle power is learned."""
        root = SysRoot(self.root)
        found: Sequence[Meter] = [self.gpu] if self.gpu is not None else meters.discover(root, self.config())
        return Sampler(root, "n1", found, JobFiles(self.jobs_dir), assumed_idle_uw=assumed_idle_uw(root))


_XEON = (
    "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 106\nstepping\t: 6\n"
    "model name\t: Intel(R) Xeon(R) Platinum 8358\nphysical id\t: 0\n\n"
    "processor\t: 1\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 106\nstepping\t: 6\n"
    "model name\t: Intel(R) Xeon(R) Platinum 8358\nphysical id\t: 1\n"
)
_EPYC = (
    "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\n"
    "model name\t: AMD EPYC 9654 96-Core Processor\nphysical id\t: 0\n"
)


class Drive:
    """A World played to a daemon: jobs come and go, ticks come, are late or stay away."""

    def __init__(self, world: World, directory: Path) -> None:
        self.world = world
        self.tree = Tree(world, directory)
        self.store = Store(directory / "state" / "store.sqlite", "virtual", "n1")
        self.sampler = self.tree.fresh()
        self._minute = 0
        self._ticks = world.moments(world.tick_s, 0.371)
        self._fails = world.fails(self._ticks)
        self.first_ns, self.last_ns = self._ticks[0], self._ticks[-1]

    def play(self) -> Bills:
        """The whole schedule; what the store then says."""
        queue: list[tuple[int, int, str, Job | None]] = []
        for place, each in enumerate(self.world.jobs):
            heappush(queue, (each.start_ns, place, "begin", each))
            heappush(queue, (each.end_ns, place, "end", each))
            for (_, stopped_s), (again_s, _) in pairwise(each.held or ()):
                heappush(queue, (ns(stopped_s), place, "FROZEN", each))
                heappush(queue, (ns(again_s), place, "THAWED", each))
        for at_ns in self._ticks:
            heappush(queue, (at_ns, -1, "tick", None))
        if self.world.down is not None:
            heappush(queue, (ns(self.world.down[1]), -2, "restart", None))
        woken_ns, due_ns = 0, 0
        while queue:
            at_ns, _place, what, job = heappop(queue)
            self.tree.put(at_ns)
            if what == "tick":
                self._tick(at_ns)
                woken_ns = at_ns
            elif what == "restart":
                self._restart()
            elif what == "wake":
                self._wake()
                woken_ns = at_ns
            elif job is not None and what in ("FROZEN", "THAWED"):
                self.tree.freeze(job.number, what)
            elif job is not None:
                self.tree.begin(job) if what == "begin" else self.tree.end(job.number, cores=job.cores)
                if due_ns <= at_ns and self._there(at_ns):
                    due_ns = max(at_ns + _NOTICED_NS, woken_ns + _SPACING_NS)
                    heappush(queue, (due_ns, -1, "wake", None))
        self._commit()
        return self._bills()

    def _there(self, at_ns: int) -> bool:
        away = [*self.world.late, *([self.world.down] if self.world.down else [])]
        return at_ns > self.first_ns and not any(ns(first) <= at_ns < ns(last) for first, last in away)

    def _tick(self, at_ns: int) -> None:
        node = self.tree
        if at_ns == self._fails:
            Node._overwrite(node.root / "sys/class/powercap/intel-rapl:0/energy_uj", "")
        self.sampler.notice(node.at_ns, node.wall_ns, True)
        self.sampler.tick(node.at_ns, node.wall_ns)
        if node.wall_ns // (60 * NS_PER_S) != self._minute:
            self._minute = node.wall_ns // (60 * NS_PER_S)
            self._commit()

    def _wake(self) -> None:
        self.sampler.notice(self.tree.at_ns, self.tree.wall_ns, True)
        self.sampler.glance(self.tree.at_ns)

    def _commit(self) -> None:
        mark = self.sampler.settle()
        if mark is not None:
            self.store.commit(self.sampler.pending, mark, self.sampler.channels, "{}")
            self.sampler.committed()

    def _restart(self) -> None:
        """Killed without a word when it went away, started anew now: the store is all it has."""
        self.sampler.close()
        self.sampler = self.tree.fresh()
        resumed = self.store.resume()
        if resumed is not None:
            self.sampler.resume(*resumed)

    def _bills(self) -> Bills:
        bills = Bills("hpccarbon", parts=True)
        for hour in self.store.hours():
            for row in self.store.shares(hour):
                energy = sum(part or 0 for part in (row.cpu_uj, row.dram_uj, row.gpu_uj, row.other_uj))
                if row.run is not None:
                    bills.charge(row.run.job_id, energy - row.idle_uj, row.idle_uj)
                else:
                    bills.named += energy
                bills.billed += energy
            bills.metered += sum(row.energy_uj for row in self.store.meters(hour))
        bills.counted = self.world.energy_uj(self.first_ns, self.last_ns)
        return bills


def bill(world: World, directory: Path) -> Bills:
    """What hpccarbon charges in a World."""
    drive = Drive(world, directory)
    try:
        return drive.play()
    finally:
        drive.sampler.close()


def bill_with_activity(world: World) -> Bills:
    """What our division makes of a card's slices when it is told how busy each one is, which NVML does not tell.

    The sampler does not feed this: profiling counters (DCGM, GPM) are not read. The division is called directly.
    """
    channel = Channel("nvml", UUID, "gpu", device=UUID, max_power_w=1_000)
    holdings = [Holding(job.cores, gpus={UUID: job.gpu_parts}) for job in world.jobs]
    division = Division(
        NodeFacts(world.cpus, gpu_parts={UUID: world.gpu_parts}), [channel], [world.gpu_idle_mw * 1_000], holdings
    )
    start_ns, end_ns = world.window
    for first in range(start_ns, end_ns, NS_PER_S):
        last = first + NS_PER_S
        cpu = [job.used.at(last) - job.used.at(first) for job in world.jobs]
        use = [(job.gpu_used.at(last) - job.gpu_used.at(first)) * 100 // NS_PER_S for job in world.jobs]
        energy = world.gpu_uj(last) - world.gpu_uj(first)
        division.add(last - first, [energy], [*cpu, 0], gpu_use={UUID: use})
    shares, _system, unallocated = division.close()
    bills = Bills("hpccarbon, told each slice's activity *", parts=True, named=unallocated.energy_uj)
    for job, share in zip(world.jobs, shares, strict=True):
        bills.charge(job.number, share.energy_uj - share.idle_uj, share.idle_uj)
    return bills
