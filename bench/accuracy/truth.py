"""The virtual node: who drew how many µJ at any moment, as integers. Knows no formula that divides anything."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

from hpccarbon.units import NS_PER_MS, NS_PER_S

Piece = tuple[float, float, float]
"""(from s, to s, CPUs busy, or part of a GPU busy)"""


def ns(seconds: float) -> int:
    """Seconds as nanoseconds, rounded to whole milliseconds."""
    return round(seconds * 1_000) * NS_PER_MS


class Curve:
    """Something used, cumulative in ns: straight lines between moments, so it can be asked for at any moment."""

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self._moments = [0]
        self._rates = [0]  # thousandths
        self._sums = [0]
        for first, last, rate in pieces:
            if ns(first) > self._moments[-1]:
                self._turn(ns(first), round(rate * 1_000))
            else:
                self._rates[-1] = round(rate * 1_000)
            self._turn(ns(last), 0)

    def _turn(self, at_ns: int, rate: int) -> None:
        self._sums.append(self._sums[-1] + (at_ns - self._moments[-1]) * self._rates[-1] // 1_000)
        self._moments.append(at_ns)
        self._rates.append(rate)

    def at(self, at_ns: int) -> int:
        """Used from the beginning until this moment."""
        place = bisect_right(self._moments, at_ns) - 1
        return self._sums[place] + (at_ns - self._moments[place]) * self._rates[place] // 1_000


@dataclass
class Job:
    """One job: what it holds, how busy it is, and what a second of a CPU costs when this code runs on it.

    `mw_per_cpu` is the package's power per busy CPU: it stands for the instruction mix and for the type of core alike.
    `held` are the times in which it holds its cores (None: from start to end). `socket` pins it. Of a GPU it holds
    `gpu_parts`, keeps it busy as `gpu_load` says, and draws `gpu_mw` when it alone fills the whole card.
    """

    number: int
    cores: int
    start_s: float
    end_s: float
    load: Sequence[Piece]
    mw_per_cpu: int = 4_000
    dram_mw_per_cpu: int = 300
    mem_gib: float = 0.0
    socket: int | None = None
    held: Sequence[tuple[float, float]] | None = None
    gpu_parts: int = 0
    gpu_load: Sequence[Piece] = ()
    gpu_mw: int = 0
    used: Curve = field(init=False)
    gpu_used: Curve = field(init=False)

    def __post_init__(self) -> None:
        self.used = Curve(self.load)
        self.gpu_used = Curve(self.gpu_load)
        self.mem_gib = self.mem_gib or 2.0 * self.cores

    @property
    def start_ns(self) -> int:
        """When its prolog ran."""
        return ns(self.start_s)

    @property
    def end_ns(self) -> int:
        """When its cgroup went."""
        return ns(self.end_s)

    def alive(self, at_ns: int) -> bool:
        """Whether its cgroup can be read: from its first to its last moment."""
        return self.start_ns <= at_ns <= self.end_ns

    def holds_ns(self, until_ns: int) -> int:
        """How long it has held its cores."""
        spans = [(self.start_s, self.end_s)] if self.held is None else self.held
        return sum(max(0, min(ns(last), until_ns) - ns(first)) for first, last in spans)

    def package_uj(self, at_ns: int) -> int:
        """What its work drew in the packages."""
        return self.used.at(at_ns) * self.mw_per_cpu // 1_000_000

    def dram_uj(self, at_ns: int) -> int:
        """What its work drew in the memory."""
        return self.used.at(at_ns) * self.dram_mw_per_cpu // 1_000_000

    def gpu_uj(self, at_ns: int) -> int:
        """What its work drew in the GPU."""
        return self.gpu_used.at(at_ns) * self.gpu_mw // 1_000_000


@dataclass(frozen=True)
class Parts:
    """An energy in its two parts, µJ: who drew it is a fact, who pays for a node that is merely on is a policy."""

    dynamic: float
    static: float

    @property
    def total(self) -> float:
        """Both."""
        return self.dynamic + self.static


@dataclass
class World:
    """A node and its schedule. Times in seconds from the beginning; everyone may read the counters at any moment.

    `late`: times in which no agent gets to read anything. `down`: the same, and the agent has lost its memory
    after it. `failed_s`: the reading next to this moment fails, for every agent one. `period_s`: every peer reads this
    often instead of at its own period. `gpm`: the driver tells how busy each slice of the GPU is (Hopper and newer).
    """

    jobs: Sequence[Job]
    length_s: float
    cpus: int = 64
    packages: int = 2
    idle_mw: int = 100_000
    dram_idle_mw: int = 12_000
    mem_gib: int = 256
    range_uj: int = 262_143_328_850
    limit_w: int | None = 205
    system_cpus: float = 0.05
    late: Sequence[tuple[float, float]] = ()
    down: tuple[float, float] | None = None
    failed_s: float | None = None
    period_s: float | None = None
    tick_s: float = 1.0
    gpu_idle_mw: int = 0
    gpu_parts: int = 1
    mig: bool = False
    gpm: bool = False
    tdp_mw: int = 0
    system: Curve = field(init=False)

    def __post_init__(self) -> None:
        self.system = Curve([(0.0, self.length_s, self.system_cpus)])
        # What a load model is told is the truth of this node under full load: kinder than any table.
        self.tdp_mw = self.tdp_mw or self.idle_mw + 4_000 * self.cpus

    @cached_property
    def zones(self) -> tuple[str, ...]:
        """The RAPL zones, packages first; none on a node that is all about its GPU."""
        if self.gpu_idle_mw:
            return ()
        return self.package_zones + self.dram_zones

    @property
    def package_zones(self) -> tuple[str, ...]:
        """One per socket."""
        return tuple(f"intel-rapl:{n}" for n in range(self.packages))

    @property
    def dram_zones(self) -> tuple[str, ...]:
        """The memory of each socket."""
        return tuple(f"intel-rapl:{n}:0" for n in range(self.packages))

    def system_uj(self, at_ns: int) -> int:
        """What the operating system drew in the packages."""
        return self.system.at(at_ns) * 4_000 // 1_000_000

    def grown_uj(self, zone: str, at_ns: int) -> int:
        """What a zone has counted since the beginning, before any wrap."""
        place, dram = int(zone.split(":")[1]), zone in self.dram_zones
        idle_mw = self.dram_idle_mw if dram else self.idle_mw
        system = 0 if dram else self.system_uj(at_ns) // self.packages
        return (
            idle_mw * at_ns // (1_000_000 * self.packages)
            + system
            + self._before(at_ns)[1][place, dram]
            + sum(self._drawn(job, at_ns, place, dram) for job in self._among(at_ns))
        )

    def _drawn(self, job: Job, at_ns: int, place: int, dram: bool) -> int:
        """What a job's work drew in one socket, or in the memory behind it."""
        if job.socket not in (None, place):
            return 0
        drawn = job.dram_uj(at_ns) if dram else job.package_uj(at_ns)
        return drawn if job.socket == place else drawn // self.packages

    # Of many short jobs only the living ones are asked anew: what those before them used is summed up once.

    @cached_property
    def _order(self) -> tuple[list[Job], list[int], int]:
        jobs = sorted(self.jobs, key=lambda job: job.start_ns)
        return jobs, [job.start_ns for job in jobs], max(job.end_ns - job.start_ns for job in jobs)

    def _first(self, at_ns: int) -> int:
        """Place of the first job that may be alive: all before it are gone."""
        _jobs, starts, longest = self._order
        return bisect_left(starts, at_ns - longest)

    def _among(self, at_ns: int) -> list[Job]:
        jobs, starts, _longest = self._order
        return jobs[self._first(at_ns) : bisect_right(starts, at_ns)]

    @cached_property
    def _sums(self) -> list[tuple[int, dict[tuple[int, bool], int]]]:
        """After each job in the order of their starts: CPU time, and energy by (socket, dram), of it and all before."""
        kinds = [(place, dram) for place in range(self.packages) for dram in (False, True)]
        sums = [(0, dict.fromkeys(kinds, 0))]
        for job in self._order[0]:
            used, drawn = sums[-1]
            more = {kind: drawn[kind] + self._drawn(job, job.end_ns, *kind) for kind in kinds}
            sums.append((used + job.used.at(job.end_ns), more))
        return sums

    def _before(self, at_ns: int) -> tuple[int, dict[tuple[int, bool], int]]:
        return self._sums[self._first(at_ns)]

    def alive(self, at_ns: int) -> list[Job]:
        """Jobs whose cgroup can be read."""
        return [job for job in self._among(at_ns) if job.alive(at_ns)]

    def gpu_uj(self, at_ns: int) -> int:
        """What the GPU's counter has counted."""
        return self.gpu_idle_mw * at_ns // 1_000_000 + sum(job.gpu_uj(at_ns) for job in self.jobs)

    def counter_uj(self, zone: str, at_ns: int) -> int:
        """What the zone's file shows."""
        return (self.range_uj * 9 // 10 + self.grown_uj(zone, at_ns)) % self.range_uj

    def busy_ns(self, at_ns: int) -> int:
        """CPU time of everything on the node."""
        living = sum(job.used.at(at_ns) for job in self._among(at_ns))
        return self._before(at_ns)[0] + living + self.system.at(at_ns)

    def energy_uj(self, first_ns: int, last_ns: int) -> int:
        """What the whole node drew between two moments."""
        if self.gpu_idle_mw:
            return self.gpu_uj(last_ns) - self.gpu_uj(first_ns)
        return sum(self.grown_uj(zone, last_ns) - self.grown_uj(zone, first_ns) for zone in self.zones)

    @property
    def static_mw(self) -> int:
        """What the node draws for being on."""
        return self.gpu_idle_mw or self.idle_mw + self.dram_idle_mw

    def dynamic_part(self, first_ns: int, last_ns: int) -> float:
        """How much of the energy between two moments was work."""
        energy = self.energy_uj(first_ns, last_ns)
        return max(0.0, 1 - self.static_mw * (last_ns - first_ns) / 1e6 / energy) if energy else 0.0

    @property
    def window(self) -> tuple[int, int]:
        """From the first job's start to the last one's end."""
        return min(job.start_ns for job in self.jobs), max(job.end_ns for job in self.jobs)

    def truth(self) -> dict[int, Parts]:
        """Job -> what it drew, and its part of what the node draws for being on: by cores held, or parts of the GPU."""
        whole = self.static_mw / 1e6
        if not self.gpu_idle_mw:
            return {
                job.number: Parts(
                    job.package_uj(job.end_ns) + job.dram_uj(job.end_ns),
                    whole * job.holds_ns(job.end_ns) * job.cores / self.cpus,
                )
                for job in self.jobs
            }
        held = max(self.gpu_parts, sum(job.gpu_parts for job in self.jobs))
        return {
            job.number: Parts(job.gpu_uj(job.end_ns), whole * job.holds_ns(job.end_ns) * job.gpu_parts / held)
            for job in self.jobs
        }

    # ---- when an agent gets to read -------------------------------------------------------------------------------

    def moments(self, period_s: float, phase_s: float) -> list[int]:
        """An agent's readings: every period, put off to the end of a time in which it cannot run."""
        out: list[int] = []
        at_ns, away = ns(phase_s), [*self.late, *([self.down] if self.down else [])]
        while at_ns <= ns(self.length_s):
            moved = next((ns(last) for first, last in away if ns(first) <= at_ns < ns(last)), at_ns)
            if not out or moved > out[-1]:
                out.append(moved)
            at_ns += ns(period_s)
        return out

    def lost(self, first_ns: int, last_ns: int) -> bool:
        """Whether an agent forgot, between two of its readings, what the first one said."""
        return self.down is not None and first_ns < ns(self.down[0]) < last_ns

    def fails(self, moments: Sequence[int]) -> int | None:
        """Which of these readings fails."""
        if self.failed_s is None:
            return None
        wanted = ns(self.failed_s)
        return min(moments, key=lambda at_ns: abs(at_ns - wanted))


def intervals(moments: Sequence[int]) -> list[tuple[int, int]]:
    """Neighbours."""
    return list(pairwise(moments))


def second(at_ns: int) -> float:
    """Nanoseconds as seconds."""
    return at_ns / NS_PER_S
