"""A virtual node with a sampler and a store on it, driven as the daemon's loop drives them, that can be killed.

The truth is the node's; `World.lost_uj` compares the books with it. No real time passes here.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterable
from pathlib import Path

import msgspec

from hpccarbon.node import meters
from hpccarbon.node.sampler import Sampler
from hpccarbon.node.store import MeterRow, Row, Store
from hpccarbon.node.sysroot import SysRoot
from hpccarbon.node.usage.jobs import JobFiles
from hpccarbon.units import BUCKET_S, NS_PER_S
from tests.chaos.outcome import Longest
from tests.node.virtual import Node, tick

STORE_FILES = ("store.sqlite", "store.sqlite-wal", "store.sqlite-shm")


class Books(msgspec.Struct):
    """Everything a store holds."""

    shares: list[Row]
    meters: list[MeterRow]

    @classmethod
    def of(cls, store: Store) -> Books:
        """Read a store whole."""
        hours = store.hours()
        return cls(
            [row for hour in hours for row in store.shares(hour)],
            [row for hour in hours for row in store.meters(hour)],
        )

    def metered(self) -> dict[str, int]:
        """RAPL zone -> µJ."""
        found: dict[str, int] = {}
        for row in self.meters:
            zone = row.channel.removeprefix("rapl/")
            found[zone] = found.get(zone, 0) + row.energy_uj
        return found

    def by_job(self) -> dict[int, int]:
        """Job id -> µJ, all its runs together."""
        found: dict[int, int] = {}
        for row in self.shares:
            if row.run is not None:
                found[row.run.job_id] = found.get(row.run.job_id, 0) + (row.cpu_uj or 0) + (row.dram_uj or 0)
        return found

    def lost_uj(self, drawn: dict[str, int]) -> int:
        """What the meters' rows and the shares differ by from what each zone drew, as absolute values."""
        metered = self.metered()
        lost = sum(abs(metered.get(zone, 0) - energy_uj) for zone, energy_uj in drawn.items())
        dram = sum(energy_uj for zone, energy_uj in drawn.items() if zone.count(":") == 2)
        lost += abs(sum(row.dram_uj or 0 for row in self.shares) - dram)
        return lost + abs(sum(row.cpu_uj or 0 for row in self.shares) - (sum(drawn.values()) - dram))

    def least(self) -> int:
        """The smallest amount anywhere: below zero, something was charged back."""
        amounts = [row.energy_uj for row in self.meters]
        for row in self.shares:
            amounts += [row.cpu_uj or 0, row.dram_uj or 0, row.idle_uj, row.cpu_time_ns, row.present_us]
        return min(amounts, default=0)


class TwinNode(Node):
    """A node whose hooks leave every file twice, so that two samplers can each have their own."""

    @property
    def twin_jobs(self) -> Path:
        """The second sampler's job files."""
        return self.directory / "twin" / "jobs"

    def hook(self, job: int, restart: int, kind: str, uid: int, cores: int) -> None:
        """Leave the file and its twin, with the same time."""
        super().hook(job, restart, kind, uid, cores)
        self.twin_jobs.mkdir(parents=True, exist_ok=True)
        shutil.copy2(self.jobs_dir / f"{job}.{restart}.{kind}", self.twin_jobs)


class World:
    """One sampler and its store on a node.

    Args:
        node: whose counters are read; state: where the store lies; jobs: where the hooks leave their files.
    """

    def __init__(self, node: Node, state: Path, jobs: Path) -> None:
        self.node = node
        self._state, self._jobs = state, jobs
        self._lives = 0
        self.longest = Longest()
        jobs.mkdir(parents=True, exist_ok=True)
        self.sampler = self._fresh()
        self.store = self._open(state)
        self.tick()
        self.commit()
        self.began_uj = dict(node.total_uj)
        self.began_cpu_ns = node.scope_ns

    @classmethod
    def alone(cls, directory: Path) -> World:
        """A world with a node of its own."""
        node = Node(directory)
        return cls(node, directory / "state", node.jobs_dir)

    def _fresh(self) -> Sampler:
        root = SysRoot(self.node.root)
        idle = {"cpu": self.node.idle_w * 1_000_000, "dram": self.node.dram_idle_w * 1_000_000}
        files = JobFiles(self._jobs)
        return Sampler(root, "n1", meters.discover(root, self.node.config()), files, configured_idle_uw=idle)

    @staticmethod
    def _open(state: Path) -> Store:
        return Store(state / STORE_FILES[0], "virtual", "n1")

    @property
    def state(self) -> Path:
        """Where the store lies now."""
        return self._state / f"life{self._lives}" if self._lives else self._state

    def tick(self) -> None:
        """One tick of the loop, timed."""
        with self.longest.timed():
            tick(self.sampler, self.node)

    def glance(self) -> None:
        """What the loop does when a job starts or ends between two ticks."""
        self.sampler.notice(self.node.at_ns, self.node.wall_ns, True)
        self.sampler.glance(self.node.at_ns)

    def commit(self) -> None:
        """What the loop does once a minute. Raises: sqlite3.Error; then everything is still pending."""
        mark = self.sampler.settle()
        assert mark is not None
        self.store.commit(self.sampler.pending, mark, self.sampler.channels, "{}")
        self.sampler.committed()

    def crash(self) -> None:
        """`kill -9` and a new start: the next life gets the files as they stood, with no chance to close them."""
        before = self.state
        self._lives += 1
        copy_store(before, self.state)
        self.sampler.close()
        self.store.close()
        if before != self._state:
            shutil.rmtree(before)
        self.store = self._open(self.state)
        self.sampler = self._fresh()
        resumed = self.store.resume()
        assert resumed is not None
        self.sampler.resume(*resumed)

    def drawn(self) -> dict[str, int]:
        """RAPL zone -> µJ drawn since this world began: the truth."""
        return {zone: energy_uj - self.began_uj[zone] for zone, energy_uj in self.node.total_uj.items()}

    def books(self) -> Books:
        """What the store holds now."""
        return Books.of(self.store)

    def close(self) -> None:
        """Give all descriptors back."""
        self.sampler.close()
        self.store.close()


class Work:
    """Jobs that come and go on a node at random, each with a load of its own."""

    def __init__(self, node: Node, rng: random.Random, most: int = 4) -> None:
        self._node, self._rng, self._most = node, rng, most
        self.load: dict[int, float] = {}
        self._cores: dict[int, int] = {}
        self.started = 0

    def change(self, start: float, end: float) -> bool:
        """Perhaps a job starts, perhaps one ends, with these chances; whether anything did."""
        changed = False
        if self._rng.random() < end and self.load:  # first, so that no job has a life of no time
            job = self._rng.choice(list(self.load))
            self._node.end(job, self._cores.pop(job))
            del self.load[job]
            changed = True
        if self._rng.random() < start and len(self.load) < self._most:
            self.started += 1
            cores = self._rng.choice((1, 2))
            self._node.start(self.started, uid=1000 + self.started % 7, cores=cores)
            self.load[self.started], self._cores[self.started] = self._rng.uniform(0.05, cores), cores
            changed = True
        return changed

    def run(self, dt_ns: int) -> None:
        """Let time pass with everyone at work."""
        self._node.run(dt_ns, self.load, self._rng.random())

    def absent(self, books: Books) -> int:
        """How many of the jobs that were started have nothing in the books."""
        return len(set(range(1, self.started + 1)) - books.by_job().keys())


def copy_store(source: Path, target: Path) -> None:
    """The store's files as they stand at this moment."""
    target.mkdir(parents=True)
    for name in STORE_FILES:
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)


def minute_of(node: Node) -> int:
    """The bucket a node's wall clock is in, in minutes."""
    return node.wall_ns // (BUCKET_S * NS_PER_S)


def start_many(node: Node, jobs: Iterable[int]) -> None:
    """Start all of these at once."""
    for job in jobs:
        node.hook(job, 0, "prolog", 1000, 1)
        node.usage_ns[job], node.owner[job] = 0, 1000
        (node.scope / "uid_1000" / f"job_{job}").mkdir(parents=True)
    node.show()


def open_descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (names are all that is wanted)
