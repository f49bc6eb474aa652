"""The faults that a virtual clock can bring in minutes: crashes, power cuts, steps of the clock, storms, long runs."""

from __future__ import annotations

import random
import resource
import shutil
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

from hpccarbon.node.store import Store
from hpccarbon.units import NS_PER_S
from tests.chaos.outcome import Outcome
from tests.chaos.world import (
    STORE_FILES,
    Books,
    TwinNode,
    Work,
    World,
    copy_store,
    minute_of,
    open_descriptors,
    start_many,
)
from tests.node.virtual import Node

TICK_NS = 5 * NS_PER_S
DAY_TICKS = 24 * 3600 // 5
MINUTE_TICKS = 12
LONG_TICKS = 1_000_000


def judged(outcome: Outcome, world: World, work: Work | None = None) -> Books:
    """The last tick and commit, and the books held against the truth."""
    world.tick()
    world.commit()
    books = world.books()
    outcome.energy_lost_uj += books.lost_uj(world.drawn())
    outcome.expect(books.least() >= 0, "an amount is negative")
    used = sum(row.cpu_time_ns for row in books.shares if row.run is not None)
    outcome.expect(
        used == world.node.scope_ns - world.began_cpu_ns, "the jobs' CPU time is not what their scope counted"
    )
    if work is not None:
        outcome.jobs_lost += work.absent(books)
    outcome.tick_ms = max(outcome.tick_ms or 0.0, world.longest.ms)
    return books


def day(directory: Path, rng: random.Random, short: bool) -> Outcome:
    """24 hours and 200 jobs without a fault."""
    outcome = Outcome("24 hours, 200 jobs")
    world = World.alone(directory)
    work = Work(world.node, rng)
    ticks, jobs = (DAY_TICKS // 24, 20) if short else (DAY_TICKS, 200)
    spacing = ticks // jobs
    for number in range(ticks):
        work.change(start=float(number % spacing == 0 and work.started < jobs), end=1 / spacing)
        while work.started < jobs and number == ticks - 1:  # a full node turned some away
            work.change(start=1.0, end=1.0)
            work.run(TICK_NS)
            world.tick()
        work.run(TICK_NS)
        world.tick()
        if number % MINUTE_TICKS == 0:
            world.commit()
    judged(outcome, world, work)
    outcome.note = f"{work.started} jobs, {ticks * 5 / 3600:.0f} simulated h"
    world.close()
    return outcome


def crash(directory: Path, rng: random.Random, short: bool) -> Outcome:
    """Kills at random moments of a day, beside a twin on the same counters that is never killed."""
    outcome = Outcome("crash at any moment")
    node = TwinNode(directory)
    world = World(node, directory / "state", node.jobs_dir)
    twin = World(node, directory / "twin" / "state", node.twin_jobs)
    work = Work(node, rng)
    ticks, kills = (DAY_TICKS // 24, 25) if short else (DAY_TICKS, 520)
    moments = set(rng.sample(range(1, ticks), kills))
    for number in range(ticks):
        work.change(start=0.05, end=0.02)
        work.run(TICK_NS)
        if number in moments and rng.random() < 0.5:  # before its tick or after it
            world.crash()
            outcome.faults += 1
            moments.discard(number)
        world.tick()
        twin.tick()
        if number in moments:
            world.crash()
            outcome.faults += 1
        if number % MINUTE_TICKS == 0:
            world.commit()
            twin.commit()
    books = judged(outcome, world, work)
    twin.tick()
    twin.commit()
    outcome.expect(books.metered() == twin.books().metered(), "a meter's sum is not the undisturbed twin's")
    outcome.note = f"beside an undisturbed twin, {work.started} jobs"
    world.close()
    twin.close()
    return outcome


def crash_after_commit(directory: Path, rng: random.Random, short: bool) -> Outcome:
    """Kills right after a commit: no reading is lost, so each job's sum is the twin's, but for what rounding carried.

    A remainder of less than a microjoule a pool and component is owed to the next interval, and a new life forgets it.
    """
    outcome = Outcome("crash after a commit")
    node = TwinNode(directory)
    world = World(node, directory / "state", node.jobs_dir)
    twin = World(node, directory / "twin" / "state", node.twin_jobs)
    work = Work(node, rng)
    for _ in range(200 if short else 4_000):
        work.change(start=0.3, end=0.2)
        work.run(TICK_NS)
        for one in (world, twin):
            one.tick()
            one.commit()
        if rng.random() < 0.1:
            world.crash()
            outcome.faults += 1
    books = judged(outcome, world, work)
    twin.tick()
    twin.commit()
    mine, its = books.by_job(), twin.books().by_job()
    apart = max((abs(mine.get(job, 0) - its[job]) for job in its), default=0)
    outcome.expect(mine.keys() == its.keys(), "the twin knows other jobs")
    outcome.expect(apart <= 2 * outcome.faults, f"a job's sum is up to {apart} µJ away from the undisturbed twin's")
    outcome.note = f"{len(its)} jobs, at most {apart} µJ from the undisturbed twin's"
    world.close()
    twin.close()
    return outcome


def power_cut(directory: Path, rng: random.Random, short: bool) -> Outcome:
    """The store's files as they stood, the log cut at a random byte: whole, and never a state that was not."""
    outcome = Outcome("power cut")
    world = World.alone(directory)
    work = Work(world.node, rng)
    drawn_at: dict[int, dict[str, int]] = {}
    minutes: list[int] = []
    last_write = 0
    furthest = 0
    for number in range(600 if short else 6_000):
        work.change(start=0.05, end=0.03)
        work.run(TICK_NS)
        world.tick()
        if number % MINUTE_TICKS == 0:
            log_before = _bytes(world.state / STORE_FILES[1])
            world.commit()
            last_write = first_difference(log_before, _bytes(world.state / STORE_FILES[1]))
            drawn_at[world.node.at_ns] = world.drawn()
            minutes.append(minute_of(world.node))
        if not drawn_at or rng.random() >= 0.1:
            continue
        outcome.faults += 1
        way = rng.choice(("as it was", "last write cut", "cut anywhere"))
        copy = directory / "copy"
        copy_store(world.state, copy)
        log = copy / STORE_FILES[1]
        if way != "as it was" and log.exists():
            with log.open("r+b") as file:
                file.truncate(rng.randint(last_write if way == "last write cut" else 0, _size(log)))
        with closing(sqlite3.connect(copy / STORE_FILES[0])) as db:
            outcome.expect(db.execute("PRAGMA integrity_check").fetchone() == ("ok",), "the store is damaged")
        store = Store(copy / STORE_FILES[0], "virtual", "n1")
        resumed, books = store.resume(), Books.of(store)
        store.close()
        shutil.rmtree(copy)
        if resumed is None:  # a cut before the first commit: a new store
            outcome.expect(way == "cut anywhere", "the store forgot everything")
            outcome.expect(not books.meters, "there are rows and no counters that they end at")
            continue
        mark = resumed[0]
        if mark.at_ns in drawn_at:
            outcome.energy_lost_uj += books.lost_uj(drawn_at[mark.at_ns])
        else:  # the commit of the world's beginning
            outcome.energy_lost_uj += books.lost_uj(dict.fromkeys(world.drawn(), 0))
        committed = minutes.index(mark.wall_ns // (60 * NS_PER_S)) if mark.at_ns in drawn_at else -1
        behind = len(minutes) - 1 - committed
        if way == "cut anywhere":
            furthest = max(furthest, behind)
        else:
            outcome.expect(behind <= (way == "last write cut"), f"{way}: {behind} buckets behind")
    judged(outcome, world, work)
    outcome.note = (
        "the last write cut: at most one bucket behind; log cut anywhere (a disk that lied):"
        f" up to {furthest} buckets behind"
    )
    world.close()
    return outcome


def first_difference(before: bytes, after: bytes) -> int:
    """Where the last write into the log began: it is used again from its start, so its end says nothing."""
    low, high = 0, min(len(before), len(after))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if before[:middle] == after[:middle] else (low, middle - 1)
    return low


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def clocks(directory: Path, rng: random.Random, short: bool) -> Outcome:
    """A boot in 1970 that is corrected later, steps of hours both ways, and suspends."""
    outcome = Outcome("clocks")
    node = Node(directory)
    right = node.wall_offset_ns
    node.wall_offset_ns = 0  # the wall clock says 1970
    world = World(node, directory / "state", node.jobs_dir)
    work = Work(node, rng)
    ticks = 720 if short else 8_000
    for number in range(ticks):
        changed = work.change(start=0.05, end=0.03)
        work.run(rng.randrange(1, TICK_NS))
        if changed and rng.random() < 0.5:
            world.glance()
        if rng.random() < 0.8:
            world.tick()
        if number == ticks // 10:
            node.wall_offset_ns = right
            outcome.faults += 1
        elif number > ticks // 10 and rng.random() < 0.02:
            outcome.faults += 1
            if rng.random() < 0.5:
                node.wall_offset_ns = right + rng.randint(-5 * 3600, 5 * 3600) * NS_PER_S
            else:
                outcome.expect(suspend(world, rng), "a suspend lost what the node drew before it")
        if rng.random() < 0.08:
            world.commit()
        if rng.random() < 0.01:
            world.crash()
    node.wall_offset_ns = right
    work.run(90 * NS_PER_S)
    books = judged(outcome, world, work)
    buckets = {row.bucket for row in books.meters}
    outcome.expect(min(buckets) < 86_400, "nothing was booked to 1970, where the clock was")
    outcome.expect(minute_of(node) * 60 in buckets, "nothing was booked to now after the last correction")
    outcome.note = "1970 corrected, steps up to 5 h, suspends up to 10 h"
    world.close()
    return outcome


def leap_smear(directory: Path, rng: random.Random, short: bool) -> Outcome:
    """A leap second smeared over 24 hours: the wall clock is slow by 11.6 millionths, the boot-time one is not."""
    outcome = Outcome("leap smear")
    world = World.alone(directory)
    node, work = world.node, Work(world.node, rng)
    right, began_ns = node.wall_offset_ns, node.at_ns
    ticks = DAY_TICKS // 24 if short else DAY_TICKS
    for number in range(ticks):
        work.change(start=0.02, end=0.02)
        work.run(TICK_NS)
        node.wall_offset_ns = right - (node.at_ns - began_ns) * NS_PER_S // (24 * 3600 * NS_PER_S)
        world.tick()
        if number % MINUTE_TICKS == 0:
            world.commit()
    books = judged(outcome, world, work)
    outcome.faults = 1
    # Every minute of the wall clock is there once, and together they are as long as the time that really passed.
    minutes = sorted({row.bucket for row in books.meters})
    outcome.expect(minutes == list(range(minutes[0], minutes[-1] + 60, 60)), "a minute is missing")
    zone = books.meters[0].channel
    lengths = [row.covered_us for row in books.meters if row.channel == zone]
    outcome.expect(abs(sum(lengths) * 1_000 - (node.at_ns - began_ns)) < NS_PER_S, "time was lost or made up")
    outcome.expect(max(lengths) <= 60_001_000, "a minute is longer than the smear makes it")
    outcome.note = (
        f"{(right - node.wall_offset_ns) / 1e6:.0f} ms over {(node.at_ns - began_ns) / NS_PER_S / 3600:.0f} h"
    )
    world.close()
    return outcome


def suspend(world: World, rng: random.Random) -> bool:
    """The boot-time clock goes on while the node sleeps, its counters and its CPU time do not; whether nothing is owed.

    After more than a quarter of an hour this counter could have wrapped twice: the law is a gap, never a guess, so only
    what was read before it is asked for. The first tick after it is in another minute, which is a commit.
    """
    minutes = rng.choice((rng.randint(1, 8), rng.randint(60, 600)))
    if minutes > 8:
        world.tick()
    world.node.at_ns += minutes * 60 * NS_PER_S
    world.tick()
    world.commit()
    return world.books().lost_uj(world.drawn()) == 0


def storm_of_short_jobs(directory: Path, rng: random.Random, short: bool) -> Outcome:
    """5,000 jobs of 0.1 s, one after the other, three in four seen only by their hooks, and kills among them."""
    outcome = Outcome("storm: jobs of 0.1 s")
    world = World.alone(directory)
    node = world.node
    jobs = 300 if short else 5_000
    for job in range(1, jobs + 1):
        node.start(job)
        node.run(NS_PER_S // 20, {job: 1.0})
        if rng.random() < 0.25:
            world.glance()
        node.run(NS_PER_S // 20, {job: 1.0})
        node.end(job)
        if job % 10 == 0:
            world.tick()
        if job % 600 == 0:
            world.commit()
        if rng.random() < 0.01:
            world.crash()
            outcome.faults += 1
    outcome.faults += jobs
    books = judged(outcome, world)
    outcome.jobs_lost = jobs - len(books.by_job())
    world.close()
    return outcome


def storm_at_once(directory: Path, rng: random.Random, short: bool) -> Outcome:
    """1,024 jobs on a node at once, and a kill among them."""
    outcome = Outcome("storm: jobs at once")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)  # the sampler holds a descriptor for each job
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4_096)), hard))
    world = World.alone(directory)
    node = world.node
    jobs = range(1, (128 if short else 1_024) + 1)
    start_many(node, jobs)
    for number in range(6):
        node.run(NS_PER_S, {job: 8 / len(jobs) for job in jobs})
        world.tick()
        if number == 3:
            world.commit()
            world.crash()
    for job in rng.sample(jobs, len(jobs)):
        node.end(job)
    node.run(NS_PER_S)
    outcome.faults = len(jobs)
    books = judged(outcome, world)
    outcome.jobs_lost = len(jobs) - len(books.by_job())
    world.close()
    return outcome


def odd_lives(directory: Path, rng: random.Random, short: bool) -> Outcome:
    """Prolog without epilog, epilog without prolog, epilog twice, ids that return, a start in the middle."""
    outcome = Outcome("storm: odd lives")
    node = Node(directory)
    node.start(1, cores=2)
    node.run(NS_PER_S, {1: 1.5})
    world = World(node, directory / "state", node.jobs_dir)  # a start in the middle
    ids = {1}
    alive: dict[int, int] = {1: 0}
    lives: dict[int, int] = {1: 0}
    for number in range(300 if short else 3_000):
        if rng.random() < 0.3 and len(alive) < 6:
            job = rng.randint(1, 1_000)
            if job not in alive:
                restart = lives[job] = lives.get(job, -1) + 1
                node.start(job, restart=restart, hooks=rng.random() < 0.7)
                ids.add(job)
                alive[job] = restart
                world.tick()  # a job without a prolog is known from the tick that sees its group
        elif rng.random() < 0.3 and alive:
            job = rng.choice(list(alive))
            restart = alive.pop(job)
            kind = rng.choice(("epilog", "none", "twice"))
            node.end(job, restart=restart, hooks=kind != "none")
            if kind == "twice":
                first = node.jobs_dir / f"{job}.{restart}.epilog"
                shutil.copy(first, first.with_name(f"{job}.{restart}.2.epilog"))
            outcome.faults += 1
        node.run(rng.choice((1, NS_PER_S // 10, NS_PER_S)), {job: rng.random() for job in alive}, rng.random())
        if rng.random() < 0.6:
            world.tick()
        if number % 50 == 0:
            world.tick()
            world.commit()
    books = judged(outcome, world)
    outcome.jobs_lost = len(ids - books.by_job().keys())
    world.close()
    return outcome


def bounded_long(directory: Path, rng: random.Random, short: bool) -> Outcome:
    """A million ticks and more than 100,000 jobs: takes twenty minutes, so it runs by name alone."""
    return bounded(directory, rng, short, ticks=LONG_TICKS, rate=0.3)


def bounded(directory: Path, rng: random.Random, short: bool, ticks: int | None = None, rate: float = 0.02) -> Outcome:
    """As many ticks as fit, jobs coming and going, hours sealed and dropped: nothing may grow after the first quarter.

    The short one has ticks of half a minute, so that its first quarter, too, holds all hours that the store keeps.

    Args:
        ticks: how many, however long they take; rate: how likely a job starts, and each ends, at a tick.
    """
    outcome = Outcome("bounded")
    world = World.alone(directory)
    work = Work(world.node, rng)
    budget_s = 2.0 if short else 120.0
    # The store has hours of rows to forget before it is as large as it gets, however slow the machine is.
    least = 2_000
    begun = time.monotonic()
    done = 0
    early: tuple[int, int, int] | None = None
    before = after = 0  # the largest store of either half; a list of all would grow itself
    while (passed := done / ticks if ticks else min((time.monotonic() - begun) / budget_s, done / least)) < 1:
        for _ in range(60):
            work.change(start=rate, end=rate)
            work.run(30 * NS_PER_S if short else NS_PER_S)
            world.tick()
        done += 60
        world.commit()
        world.store.mark_sealed([(hour.boot_id, hour.hour, hour.version) for hour in world.store.hours(unsealed=True)])
        world.store.drop_before(minute_of(world.node) // 60 - 2)
        shutil.rmtree(world.node.directory / "removed", ignore_errors=True)
        world.node.forget()
        pages = _pages(world.state / STORE_FILES[0])
        before, after = (max(before, pages), after) if passed < 1 / 2 else (before, max(after, pages))
        if early is None and passed > 1 / 4:
            early = _weight()
    late = _weight()
    assert early is not None
    log_bytes = _size(world.state / STORE_FILES[1])
    outcome.expect(late[0] <= early[0] + 2048, f"resident memory grew from {early[0]} to {late[0]} KiB")
    # A descriptor for each job present, of which there are four at most.
    outcome.expect(late[1] <= early[1] + 4, f"descriptors grew from {early[1]} to {late[1]}")
    outcome.expect(late[2] == early[2], f"threads went from {early[2]} to {late[2]}")
    outcome.expect(after <= before * 1.25, f"the store grew from {before} to {after} pages")
    outcome.expect(log_bytes <= 8 << 20, f"the store's log has {log_bytes} bytes")
    outcome.tick_ms = world.longest.ms
    outcome.note = (
        f"{done:,} ticks, {work.started:,} jobs; first quarter -> end: RSS {early[0]:,} -> {late[0]:,} KiB,"
        f" descriptors {early[1]} -> {late[1]}, threads {late[2]}; largest store in the first half and the second"
        f" {before:,} and {after:,} pages, log {log_bytes:,} B"
    )
    world.close()
    return outcome


def _pages(store: Path) -> int:
    """How large a store is, what waits in its log included."""
    with closing(sqlite3.connect(store)) as db:
        return int(db.execute("PRAGMA page_count").fetchone()[0])


def _weight() -> tuple[int, int, int]:
    """(resident KiB, descriptors, threads) of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4, open_descriptors(), threading.active_count()
