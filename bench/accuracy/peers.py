"""The published formulas of the field on the counters of a World, each at its own period. Nothing here is ours.

A formula without named parts is split as the energy that it divided was: each is linear in the energy, so its bill of
the work is its bill on a node whose counters showed work alone. Where a source is silent, the kinder reading is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bench.accuracy.truth import Job, Parts, World, intervals, ns, second

_PHASE_S = {"codecarbon": 0.0, "ceems": 11.3, "kepler": 2.3, "scaphandre": 0.9, "ear": 23.7}
_GIB_SYSTEM = 4.0


@dataclass
class Bills:
    """What one formula charged, µJ: by job, and what it names otherwise (idle, system).

    `parts`: the tool itself says what is work and what is the price of being on. `metered`, `counted`, `billed`: for
    ours, what its meters, the counters and its rows say of the whole time, as integers.
    """

    name: str
    parts: bool = False
    dynamic: dict[int, float] = field(default_factory=dict)
    static: dict[int, float] = field(default_factory=dict)
    named: float = 0.0
    metered: int = 0
    counted: int = 0
    billed: int = 0

    def charge(self, job: int, dynamic: float, static: float) -> None:
        """Add to a job's bill."""
        self.dynamic[job] = self.dynamic.get(job, 0.0) + dynamic
        self.static[job] = self.static.get(job, 0.0) + static

    def split(self, world: World, job: int, energy: float, first_ns: int, last_ns: int) -> None:
        """Add an energy that the formula does not split."""
        part = world.dynamic_part(first_ns, last_ns)
        self.charge(job, energy * part, energy * (1 - part))

    def of(self, job: int) -> Parts:
        """A job's bill."""
        return Parts(self.dynamic.get(job, 0.0), self.static.get(job, 0.0))


Formula = Callable[[World], Bills]
Delta = Callable[[int, int, int], int]
"""(before, after, range) -> energy"""


def wrapped(before: int, after: int, range_uj: int) -> int:
    """A counter that went down wrapped once."""
    return after - before + (range_uj if after < before else 0)


def dropped(before: int, after: int, range_uj: int) -> int:
    """A counter that went down: the interval is not billed."""
    return max(0, after - before)


def started_anew(before: int, after: int, range_uj: int) -> int:
    """A counter that went down began at 0."""
    return after if after < before else after - before


def _grown(world: World, first_ns: int, last_ns: int, rule: Delta, *, dram: bool = True) -> int:
    zones = world.zones if dram else world.package_zones
    return _counted(world, first_ns, last_ns, rule, zones)


def _counted(world: World, first_ns: int, last_ns: int, rule: Delta, zones: Sequence[str]) -> int:
    return sum(
        rule(world.counter_uj(zone, first_ns), world.counter_uj(zone, last_ns), world.range_uj) for zone in zones
    )


def _moments(world: World, tool: str, period_s: float) -> list[int]:
    """When an agent reads, be it that the reading fails."""
    return world.moments(world.period_s or period_s, 0.0 if world.period_s else _PHASE_S[tool])


def _readings(world: World, tool: str, period_s: float) -> list[int]:
    """An agent's readings, without the one that fails: the next good one then covers the time."""
    moments = _moments(world, tool, period_s)
    failed = world.fails(moments)
    return [at_ns for at_ns in moments if at_ns != failed]


def _both(world: World, first_ns: int, last_ns: int) -> list[Job]:
    """Jobs whose cgroup could be read at both ends."""
    return [job for job in world.alive(last_ns) if job.alive(first_ns)]


def codecarbon_machine(world: World) -> Bills:
    """CodeCarbon 3.3.2, RAPL: a tracker in each job, package counters whole, every 15 s, at its start and its stop.

    Source: codecarbon/core/rapl.py and external/hardware.py of 3.3.2; `tracking_mode="process"` changes nothing where
    RAPL can be read. The dram zone is left out (rapl_include_dram=False) and memory modelled: 5 W a guessed DIMM, 38 W
    on 256 GB. A failed read loses the intervals on both sides. A counter that went down: + range, once.
    """
    bills = Bills("CodeCarbon, RAPL (either mode)")
    for job in world.jobs:
        grid = [at_ns for at_ns in world.moments(world.period_s or 15.0, 0.0) if job.start_ns < at_ns < job.end_ns]
        moments = [job.start_ns, *grid, job.end_ns]
        failed = world.fails(grid) if grid else None
        for first, last in intervals(moments):
            if world.lost(first, last):
                continue
            if failed not in (first, last):
                energy = _grown(world, first, last, wrapped, dram=False)
                bills.split(world, job.number, energy, first, last)
            bills.charge(job.number, 0.0, 38.0 * (last - first) / 1e3)
    return bills


def codecarbon_process(world: World) -> Bills:
    """CodeCarbon 3.3.2, process mode on its load model: TDP x the job's CPU seconds / (time x CPUs), and 10 W of RAM.

    Source: external/hardware.py of 3.3.2, `_get_power_from_cpu_load`: no idle part. It is told a TDP that is the true
    power of this node under full load, and the whole job is one process tree that lives as long as the job.
    """
    bills = Bills("CodeCarbon, process (load model)")
    for job in world.jobs:
        grid = [at_ns for at_ns in world.moments(world.period_s or 15.0, 0.0) if job.start_ns < at_ns < job.end_ns]
        for first, last in intervals([job.start_ns, *grid, job.end_ns]):
            if not world.lost(first, last):
                used = job.used.at(last) - job.used.at(first)
                bills.split(world, job.number, world.tdp_mw * used / world.cpus / 1e6, first, last)
                bills.charge(job.number, 0.0, 10.0 * (last - first) / 1e3)
    return bills


def ceems(world: World) -> Bills:
    """CEEMS, RAPL rule, 30 s scrape: P_j = irate(package) c_j / C + irate(dram) m_j / (MemTotal - MemAvailable).

    C is all modes but idle. irate: the last two samples within 2 min, a counter that went down began at 0. A job's
    energy is the sum over its scrapes of P x 30 s: a job needs two scrapes to be seen, and a scrape that did not come
    is filled with the last two that did, as long as they are young enough. PUE = 1.
    Source: ceems, etc/prometheus/rules (host-power-rapl.rules and the CPU rules), and its api server's sum over time.
    """
    bills = Bills("CEEMS, RAPL rule")
    period_s = world.period_s or 30.0
    readings = _readings(world, "ceems", 30.0)
    nominal = ns(0.0 if world.period_s else _PHASE_S["ceems"])
    while nominal <= ns(world.length_s):
        young = [at_ns for at_ns in readings if nominal - ns(4 * period_s) < at_ns <= nominal]
        if len(young) >= 2 and not world.lost(young[-2], young[-1]):
            _ceems_scrape(world, bills, young[-2], young[-1], nominal, period_s)
        nominal += ns(period_s)
    return bills


def _ceems_scrape(world: World, bills: Bills, first: int, last: int, now: int, period_s: float) -> None:
    busy = max(1, world.busy_ns(last) - world.busy_ns(first))
    package = _grown(world, first, last, started_anew, dram=False)
    dram = _counted(world, first, last, started_anew, world.dram_zones)
    memory = _GIB_SYSTEM + sum(job.mem_gib for job in world.alive(last))
    stretch = period_s / second(last - first)
    for job in _both(world, first, last):
        if job.alive(now):
            used = job.used.at(last) - job.used.at(first)
            energy = (package * used / busy + dram * job.mem_gib / memory) * stretch
            bills.split(world, job.number, energy, first, last)


def kepler(world: World) -> Bills:
    """Kepler's ratio, 5 s: active = u E with u the node's CPU usage; a job gets c_j / (sum of c alive now) x active.

    Idle = E - active is the node's, and no job's. A process first seen counts from its start; one that ended between
    two readings is not seen. Wraps: + range, once. After a failed read a zone has nothing to subtract from, so both
    intervals beside it are lost.
    Source: kepler, internal/monitor/node.go (calculateNodePower, calculateEnergyDelta) and process.go.
    """
    bills = Bills("Kepler, ratio")
    moments = _moments(world, "kepler", 5.0)
    failed = world.fails(moments)
    for first, last in intervals(moments):
        if world.lost(first, last) or failed in (first, last):
            continue
        energy = _grown(world, first, last, wrapped)
        usage = min(1.0, (world.busy_ns(last) - world.busy_ns(first)) / (world.cpus * (last - first)))
        alive = {job.number: job.used.at(last) - job.used.at(first) for job in world.alive(last)}
        system = world.system.at(last) - world.system.at(first)
        whole = max(1, sum(alive.values()) + system)
        start, end = world.window
        if first >= start and last <= end:
            bills.named += energy * (1 - usage) + energy * usage * system / whole
        for number, used in alive.items():
            bills.split(world, number, energy * usage * used / whole, first, last)
    return bills


def scaphandre(world: World) -> Bills:
    """Scaphandre, 2 s: P_p = P_host x cpu%_p / N; the rest of the host is nobody's.

    P_host is the packages and dram. A counter that went down yields no value.
    Source: scaphandre, src/sensors/mod.rs (get_process_power_consumption_microwatts and
    get_records_diff_power_microwatts).
    Alumet's sample formula is the same: E x cpu_percent / 100, relative to all cores.
    """
    bills = Bills("Scaphandre, Alumet's sample")
    for first, last in intervals(_readings(world, "scaphandre", 2.0)):
        if world.lost(first, last):
            continue
        energy = _grown(world, first, last, dropped)
        for job in _both(world, first, last):
            used = job.used.at(last) - job.used.at(first)
            bills.split(world, job.number, energy * used / (world.cpus * (last - first)), first, last)
    return bills


def slurm_rapl(world: World) -> Bills:
    """Slurm acct_gather_energy/rapl: every job on the node is billed the node's joules, end minus start, whole joules.

    Packages and dram. The step daemon polls at least every 30 s, which is often enough to see each wrap of a counter.
    Source: slurm, src/plugins/acct_gather_energy/rapl/acct_gather_energy_rapl.c (_get_joules_task), and the man page of
    slurm.conf, which says that it reports on the node, not on the job.
    """
    bills = Bills("Slurm, rapl")
    for job in world.jobs:
        whole = world.energy_uj(job.start_ns, job.end_ns) // 1_000_000 * 1_000_000
        bills.split(world, job.number, whole, job.start_ns, job.end_ns)
    return bills


def ear(world: World) -> Bills:
    """EAR: mean power x lcpus_j / (sum of lcpus over the jobs on the node) x whole seconds, each 60 s.

    Free cores pay nothing: the jobs carry the idle node. The job's CPU mask is taken as known, and its monitoring as
    beginning and ending with the job, whoever else is there at the end of each period sharing it.
    Source: EAR, src/daemon/power_monitor.c.
    """
    bills = Bills("EAR, power monitor")
    readings = _readings(world, "ear", 60.0)
    for job in world.jobs:
        moments = [job.start_ns, *(at_ns for at_ns in readings if job.start_ns < at_ns < job.end_ns)]
        for first, last in intervals([*moments, job.end_ns]):
            if world.lost(first, last):
                continue
            energy = _grown(world, first, last, wrapped)
            on_node = world.alive(last - 1)
            ratio = job.cores / sum(other.cores for other in on_node)
            seconds = int(second(last - first))
            bills.split(world, job.number, energy / second(last - first) * ratio * seconds, first, last)
    return bills


# ---- GPUs -----------------------------------------------------------------------------------------------------------


def codecarbon_gpu(world: World) -> Bills:
    """CodeCarbon 3.3.2: the energy counter of the device, whole, in each job; a MIG id is matched to its device."""
    bills = Bills("CodeCarbon, GPU")
    for job in world.jobs:
        energy = world.gpu_uj(job.end_ns) - world.gpu_uj(job.start_ns)
        bills.split(world, job.number, energy, job.start_ns, job.end_ns)
    return bills


def slurm_gpu(world: World) -> Bills:
    """Slurm acct_gather_energy/gpu: each 30 s power x whole seconds over the GPUs in the step's bitmap, in each job."""
    bills = Bills("Slurm, gpu")
    for job in world.jobs:
        grid = [at_ns for at_ns in world.moments(30.0, 0.0) if job.start_ns < at_ns < job.end_ns]
        for first, last in intervals([job.start_ns, *grid, job.end_ns]):
            # The mean power of the interval: kinder than the two samples that its trapezoid is made of.
            energy = (world.gpu_uj(last) - world.gpu_uj(first)) * int(second(last - first)) / second(last - first)
            bills.split(world, job.number, energy, first, last)
    return bills


def ear_gpu(world: World) -> Bills:
    """EAR: of a GPU the ratio is constant 1 and the field is assigned, not added: the last period is the job's bill."""
    bills = Bills("EAR, GPU")
    for job in world.jobs:
        grid = [at_ns for at_ns in world.moments(60.0, _PHASE_S["ear"]) if job.start_ns < at_ns < job.end_ns]
        first, last = intervals([job.start_ns, *grid, job.end_ns])[-1]
        bills.split(world, job.number, world.gpu_uj(last) - world.gpu_uj(first), first, last)
    return bills


def kepler_gpu(world: World) -> Bills:
    """Kepler, GPU: (P - P_idle seen with no process) x SM share; MIG by GR_ENGINE_ACTIVE, else equal."""
    bills = Bills("Kepler, GPU", parts=True)
    for first, last in intervals(_readings(world, "kepler", 5.0)):
        energy = world.gpu_uj(last) - world.gpu_uj(first)
        active = max(0.0, energy - world.gpu_idle_mw * (last - first) / 1e6)
        use = {job.number: job.gpu_used.at(last) - job.gpu_used.at(first) for job in world.jobs if job.alive(last)}
        if world.mig and not world.gpm:  # no profiling counters on these readings
            use = dict.fromkeys(use, 1)
        start, end = world.window
        if first >= start and last <= end:
            bills.named += energy - active
        for number, used in use.items():
            bills.charge(number, active * used / max(1, sum(use.values())), 0.0)
    return bills


def ceems_gpu(world: World) -> Bills:
    """CEEMS, MIG: P_gpu x SM_i / sum of SM over the instances: its rule without profiling counters, 30 s.

    A card shared without MIG is, by the same rule, one instance and equal parts. Idle power goes to the slices in use.
    """
    bills = Bills("CEEMS, GPU")
    for first, last in intervals(_readings(world, "ceems", 30.0)):
        energy = world.gpu_uj(last) - world.gpu_uj(first)
        both = _both(world, first, last)
        for job in both:
            share = job.gpu_parts / sum(other.gpu_parts for other in both)
            bills.split(world, job.number, energy * share, first, last)
    return bills


def ceems_gpu_profiled(world: World) -> Bills:
    """CEEMS, MIG, with profiling counters: P_gpu x SM_i x active_i x occupancy_i / sum of that, 30 s."""
    bills = Bills("CEEMS, MIG with profiling counters *")
    for first, last in intervals(_readings(world, "ceems", 30.0)):
        energy = world.gpu_uj(last) - world.gpu_uj(first)
        # How busy the slice's SMs are, times their number, is the part of the card in use.
        use = {job.number: job.gpu_used.at(last) - job.gpu_used.at(first) for job in _both(world, first, last)}
        for number, used in use.items():
            bills.split(world, number, energy * used / max(1, sum(use.values())), first, last)
    return bills


CPU: Sequence[Formula] = (codecarbon_machine, codecarbon_process, ceems, kepler, scaphandre, slurm_rapl, ear)
GPU: Sequence[Formula] = (codecarbon_gpu, ceems_gpu, kepler_gpu, slurm_gpu, ear_gpu)
MIG: Sequence[Formula] = (*GPU, ceems_gpu_profiled)
"""The last row sees counters that our tree does not have; the page says so."""


def of(world: World) -> Sequence[Formula]:
    """The formulas that have something to say of a World."""
    if world.mig:
        return MIG
    return GPU if world.gpu_idle_mw else CPU
