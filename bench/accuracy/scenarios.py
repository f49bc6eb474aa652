"""What is played: one World per scenario, with what it is about and what has to hold. Deterministic."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from bench.accuracy.truth import Job, Piece, World

LEAD_S = 20.0
"""An idle node before the first job: that is where idle power is learned."""


class Bar(NamedTuple):
    """The most our error may be, in percent of the truth."""

    job: float | None = None
    """of any job's total"""
    together: float | None = None
    """of all jobs' total together"""
    gap: bool = False
    """Energy that nobody can know is there: it has to be missing from the bills, and from nothing else."""


class Scenario(NamedTuple):
    """A World, and why it is looked at."""

    key: str
    title: str
    about: str
    make: Callable[[], World]
    bar: Bar = Bar()


def _steady(number: int, cores: int, seconds: float, *, busy: float | None = None, start: float = LEAD_S) -> Job:
    """A job that keeps its cores busy."""
    cpus = float(cores) if busy is None else busy
    return Job(number, cores, start, start + seconds, [(start, start + seconds, cpus)])


def _mixed(first: Job, second: Job) -> tuple[Job, Job]:
    """AVX-heavy beside memory-bound: 2.5 times the watts per CPU second."""
    first.mw_per_cpu, first.dram_mw_per_cpu = 5_000, 200
    second.mw_per_cpu, second.dram_mw_per_cpu = 2_000, 500
    return first, second


def exclusive() -> World:
    """One job, the whole node."""
    return World([_steady(1, 64, 600)], LEAD_S + 610)


def two_equal() -> World:
    """Two jobs that do the same."""
    return World([_steady(1, 32, 600), _steady(2, 32, 600)], LEAD_S + 610)


def avx() -> World:
    """Different watts per CPU second, full node."""
    return World(_mixed(_steady(1, 32, 600), _steady(2, 32, 605)), LEAD_S + 615)


def avx_half() -> World:
    """The same on a node half of which is free."""
    return World(_mixed(_steady(1, 16, 600), _steady(2, 16, 605)), LEAD_S + 615)


def avx_pinned() -> World:
    """The same, each job on a socket of its own."""
    one, two = _mixed(_steady(1, 16, 600), _steady(2, 16, 605))
    one.socket, two.socket = 0, 1
    return World([one, two], LEAD_S + 615)


def core_types() -> World:
    """Big cores and little ones in one package."""
    big, little = _steady(1, 8, 600), _steady(2, 16, 605)
    big.mw_per_cpu, little.mw_per_cpu = 6_000, 1_500
    return World([big, little], LEAD_S + 615, cpus=24, packages=1, idle_mw=15_000, dram_idle_mw=3_000, mem_gib=64)


def bursts() -> World:
    """Work in bursts of 50 to 400 ms, two jobs that take turns at random."""
    rng = random.Random(3)
    jobs = []
    for number, most in ((1, 16.0), (2, 32.0)):
        at, load = LEAD_S, list[Piece]()
        while at < LEAD_S + 299:
            length, pause = rng.uniform(0.05, 0.4), rng.uniform(0.05, 0.6)
            load.append((round(at, 3), round(at + length, 3), most * rng.uniform(0.5, 1.0)))
            at = round(at + length + pause, 3)
        jobs.append(Job(number, int(most), LEAD_S, LEAD_S + 300, load))
    return World(jobs, LEAD_S + 310)


def short_jobs() -> World:
    """1,000 jobs of 0.2 s, four lanes of 16 cores, pauses of 10 to 90 ms."""
    rng = random.Random(7)
    jobs, free = [], [LEAD_S + lane * 0.06 for lane in range(4)]
    for number in range(1, 1_001):
        lane = min(range(4), key=lambda place: free[place])
        start = round(free[lane], 3)
        jobs.append(_steady(number, 16, 0.2, start=start))
        free[lane] = start + 0.2 + rng.uniform(0.01, 0.09)
    return World(jobs, max(free) + 10)


def idle_job() -> World:
    """One job sleeps on half of the node while the other works."""
    return World([_steady(1, 32, 600, busy=0.02), _steady(2, 32, 605)], LEAD_S + 615)


def ended_together() -> World:
    """The same for a minute, and both end in the same moment."""
    return World([_steady(1, 32, 64, busy=0.5), _steady(2, 32, 64)], LEAD_S + 74)


def half_empty() -> World:
    """One core and 31 cores of 64 (docs/method.md has this example with 32)."""
    return World([_steady(1, 1, 600), _steady(2, 31, 605)], LEAD_S + 615)


def _epyc(late: Sequence[tuple[float, float]]) -> World:
    """One package at almost 400 W whose counter holds 65.5 kJ."""
    jobs = [_steady(1, 56, 2_000), _steady(2, 28, 2_005)]
    return World(
        jobs, LEAD_S + 2_015, cpus=96, packages=1, idle_mw=60_000, range_uj=65_536_000_000, limit_w=None, late=late
    )


def never_idle() -> World:
    """The daemon comes to a node that is at work, and never sees it idle."""
    return World([_steady(1, 32, 600, start=0.0), _steady(2, 16, 605, start=0.0)], 610)


def wraps() -> World:
    """It wraps every 165 s, and readings come up to 149 s late."""
    starts = (LEAD_S + 100 + 200 * n for n in range(6))
    return _epyc([(at, at + length) for at, length in zip(starts, (30, 90, 149, 120, 149, 60), strict=True)])


def wraps_beyond() -> World:
    """One reading comes 200 s late: the counter may have wrapped once or twice."""
    return _epyc([(LEAD_S + 300, LEAD_S + 500)])


def late_ticks() -> World:
    """No reading for 1, 5, 30, 90, 240 and 600 s, while jobs come and go."""
    jobs = [_steady(1, 32, 2_000), _steady(2, 8, 700, start=LEAD_S + 130), _steady(3, 8, 900, start=LEAD_S + 950)]
    lengths, at, late = (1, 5, 30, 90, 240, 600), LEAD_S + 60, list[tuple[float, float]]()
    for length in lengths:
        late.append((at, at + length))
        at += length + 60
    return World(jobs, LEAD_S + 2_010, late=late)


def down() -> World:
    """The agent is killed and comes back ten minutes later; one job ends and one starts meanwhile."""
    jobs = [
        _steady(1, 32, 1_500),
        _steady(2, 16, 600),
        _steady(3, 16, 700, start=LEAD_S + 800),
    ]
    return World(jobs, LEAD_S + 1_510, down=(LEAD_S + 400.5, LEAD_S + 1_000.5))


def suspended() -> World:
    """A job is stopped for 200 of 600 s (`scontrol suspend` frees its cores) beside one that goes on."""
    first, second = _steady(1, 32, 600), _steady(2, 32, 600)
    a, b = LEAD_S + 200, LEAD_S + 400
    stopped = Job(
        1, 32, first.start_s, first.end_s, [(LEAD_S, a, 32.0), (b, LEAD_S + 600, 32.0)],
        held=[(LEAD_S, a), (b, LEAD_S + 600)],
    )  # fmt: skip
    return World([stopped, second], LEAD_S + 610)


def failed_read() -> World:
    """150 J in three seconds, everyone reads each second, one read fails."""
    start = LEAD_S + 10
    job = Job(1, 8, start, start + 3, [(start, start + 3, 2.0)], dram_mw_per_cpu=0)
    return World(
        [job], start + 5, cpus=8, packages=1, idle_mw=42_000, dram_idle_mw=0, mem_gib=16, period_s=1.0,
        failed_s=start + 1.4, system_cpus=0.0,
    )  # fmt: skip


def _gpu_job(number: int, parts: int, load: Sequence[Piece], mw: int = 300_000) -> Job:
    return Job(
        number, 2, LEAD_S, LEAD_S + 600, [(LEAD_S, LEAD_S + 600, 2.0)], gpu_parts=parts, gpu_load=load, gpu_mw=mw
    )


def gpu_shared() -> World:
    """Two jobs take turns on one card (MPS or time slices), one uses it twice as much."""
    jobs = [
        _gpu_job(1, 1, [(LEAD_S, LEAD_S + 600, 0.6)]),
        _gpu_job(2, 1, [(LEAD_S, LEAD_S + 200, 0.3), (LEAD_S + 200, LEAD_S + 600, 0.2)]),
    ]
    return World(jobs, LEAD_S + 610, gpu_idle_mw=60_000)


def gpu_mig() -> World:
    """A card in slices of 3, 2 and 2: two jobs, equally busy within their slices, one slice free."""
    jobs = [
        _gpu_job(1, 3, [(LEAD_S, LEAD_S + 600, 0.8 * 3 / 7)]),
        _gpu_job(2, 2, [(LEAD_S, LEAD_S + 600, 0.8 * 2 / 7)]),
    ]
    return World(jobs, LEAD_S + 610, gpu_idle_mw=60_000, gpu_parts=7, mig=True)


def gpu_mig_told() -> World:
    """Unevenly busy, on a card whose driver tells how busy each slice is."""
    world = gpu_mig_uneven()
    world.gpm = True
    return world


def gpu_mig_uneven() -> World:
    """The same, but one job lets its slice idle most of the time."""
    jobs = [
        _gpu_job(1, 3, [(LEAD_S, LEAD_S + 600, 0.2 * 3 / 7)]),
        _gpu_job(2, 2, [(LEAD_S, LEAD_S + 600, 0.9 * 2 / 7)]),
    ]
    return World(jobs, LEAD_S + 610, gpu_idle_mw=60_000, gpu_parts=7, mig=True)


SCENARIOS: Sequence[Scenario] = (
    Scenario("exclusive", "Exclusive node", "One job of 64 cores for 600 s.", exclusive, Bar(job=1.0)),
    Scenario("two_equal", "Two equal jobs", "Two jobs of 32 cores that do the same.", two_equal, Bar(job=1.0)),
    Scenario("avx", "AVX-heavy beside memory-bound", "32 cores at 5 W and 32 cores at 2 W a busy core.", avx),
    Scenario("avx_half", "AVX, half of the node free", "16 cores at 5 W and 16 at 2 W, of 64.", avx_half),
    Scenario("avx_pinned", "AVX, a socket each", "Slurm has bound each job to a socket of its own.", avx_pinned),
    Scenario("core_types", "Big and little cores", "8 cores at 6 W and 16 at 1.5 W in one package.", core_types),
    Scenario("bursts", "Bursts shorter than the tick", "Work in bursts of 50 to 400 ms, 300 s long.", bursts),
    Scenario(
        "short_jobs", "1,000 jobs shorter than the tick", "0.2 s each, four at a time.", short_jobs,
        Bar(together=0.5),
    ),
    Scenario("idle_job", "Allocated but idle", "One job sleeps on 32 cores (0.02 CPUs), one works on 32.", idle_job),
    Scenario(
        "ended_together", "Both end in the same moment", "One uses half a CPU, one all of its 32, for 64 s.",
        ended_together,
    ),
    Scenario("half_empty", "Half-empty node", "1 core and 31 cores of 64, all busy.", half_empty),
    Scenario(
        "never_idle", "Never seen idle", "The daemon comes to a busy node: 32 and 16 cores of 64, all the time.",
        never_idle,
    ),
    Scenario(
        "wraps", "Wrap storm", "A counter of 65.5 kJ at 396 W wraps every 165 s; readings come up to 149 s late.",
        wraps, Bar(job=5.0, together=0.5),
    ),
    Scenario(
        "wraps_beyond", "Beyond the wrap", "The same counter, one reading 200 s late: one wrap or two?",
        wraps_beyond, Bar(gap=True),
    ),
    Scenario(
        "late_ticks", "Late ticks", "No agent reads for 1, 5, 30, 90, 240 and 600 s; jobs come and go meanwhile.",
        late_ticks, Bar(job=5.0),
    ),
    Scenario(
        "down", "Daemon down for 10 minutes", "Killed, and started anew 600 s later; one job ended, one started.",
        down, Bar(job=5.0),
    ),
    Scenario(
        "suspended", "Suspended job", "One of two jobs is stopped for 200 of 600 s; its cores are free then.",
        suspended,
    ),
    Scenario(
        "failed_read", "One failed read among good ones", "150 J in 3 s, a reading each second, one of them fails.",
        failed_read, Bar(together=1.0),
    ),
    Scenario(
        "gpu_shared", "Shared GPU", "One card, two jobs: 60 % and 30 then 20 % of its SM time.", gpu_shared,
        Bar(job=5.0),
    ),
    Scenario("gpu_mig", "MIG, evenly busy", "Slices of 3 and 2 of 7, both 80 % busy, 2 free.", gpu_mig, Bar(job=5.0)),
    Scenario("gpu_mig_uneven", "MIG, unevenly busy", "Slices of 3 and 2 of 7, 20 % and 90 % busy.", gpu_mig_uneven),
    Scenario(
        "gpu_mig_told", "MIG, unevenly busy, Hopper", "The same, on a card that tells how busy each slice is (GPM).",
        gpu_mig_told, Bar(job=5.0),
    ),
)  # fmt: skip
