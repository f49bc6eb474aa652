"""Divides each job's energy on this node among its steps (`srun`s), by their CPU time. Only where `daemon.steps` asks.

Slurm gives each step a group below its job's. Their counters are read at every tick beside the jobs'; what a job used
and no living step did belongs to those that vanished since, as with jobs (roster.py). A step that came and went
between two ticks is known by name from inotify.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from hpccarbon.errors import MeterError
from hpccarbon.node.attribution import Share
from hpccarbon.node.sysroot import SysRoot
from hpccarbon.node.usage import cgroup
from hpccarbon.node.usage.roster import Job, RunKey
from hpccarbon.node.usage.watch import Watch
from hpccarbon.units import apportion

_STEP = "step_"
_EXTERN = "extern"
UNNAMED = ""
"""The step that is charged where none is known."""
Weights = dict[str, int]
"""Step -> CPU time in counts; a step of 0 was there and used none."""


class StepUse(msgspec.Struct):
    """Energy and CPU time of one step on this node; None: no such meter could be read."""

    cpu_uj: int | None = None
    dram_uj: int | None = None
    gpu_uj: int | None = None
    other_uj: int | None = None
    cpu_time_ns: int = 0

    def add(self, other: StepUse) -> None:
        """Add another use of the same step: null plus a value is the value."""
        for name in ("cpu_uj", "dram_uj", "gpu_uj", "other_uj"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if theirs is not None:
                setattr(self, name, (mine or 0) + theirs)
        self.cpu_time_ns += other.cpu_time_ns


class _Step:
    """A living step: its counter, where that stood, and how much it used between the last two ticks."""

    __slots__ = ("count", "file", "rate")

    def __init__(self, file: cgroup.GroupTime, count: int) -> None:
        self.file = file
        self.count = count
        self.rate = 0

    def used(self) -> int | None:
        """CPU time since the last call; None once the group is gone."""
        try:
            count = self.file.count()
        except MeterError:
            self.file.close()
            return None
        self.rate, self.count = max(0, count - self.count), count
        return self.rate


class _Job:
    """A job whose steps are followed, in the group of this inode."""

    __slots__ = ("directory", "inode", "living", "path", "resumed", "watched")

    def __init__(self, inode: int, path: str, resumed: Weights) -> None:
        self.inode = inode
        self.path = path
        self.directory = ""
        self.watched = False
        self.resumed = resumed
        self.living: dict[str, _Step] = {}


class Steps:
    """The steps of the jobs on this node.

    Args:
        kept: without it nothing is read, and there is nothing to take.
    """

    def __init__(self, root: SysRoot, *, kept: bool) -> None:
        self._root = root
        self._watch = Watch() if kept else None
        self._jobs: dict[RunKey, _Job] = {}
        self._used: dict[RunKey, Weights] = {}
        self._gone: dict[RunKey, set[str]] = {}
        self._resumed: dict[RunKey, Weights] = {}
        self._first = True

    @property
    def kept(self) -> bool:
        """Whether anything is kept by step."""
        return self._watch is not None

    def resume(self, counts: Mapping[str, int] | None) -> None:
        """Continue from the counters of the last transaction (`counts`); None: nobody kept steps until now."""
        self._first = counts is None
        for name, count in (counts or {}).items():
            job_id, run, step = name.split("/", 2)
            self._resumed.setdefault((int(job_id), run), {})[step] = count

    def counts(self) -> dict[str, int] | None:
        """`job_id/run/step` -> where each living step's counter stands; None where they are not kept."""
        return (
            None
            if not self.kept
            else {
                f"{key[0]}/{key[1]}/{name}": step.count
                for key, job in self._jobs.items()
                for name, step in job.living.items()
            }
        )

    def follow(self, layout: cgroup.Layout | None, jobs: Iterable[Job]) -> None:
        """Follow the steps of these jobs, and of no others from now on."""
        if self._watch is None:
            return
        here: set[RunKey] = set()
        for job in jobs:
            here.add(job.key)
            known = self._jobs.get(job.key)
            if layout is None or job.group is None or job.file is None or (known and known.inode == job.inode):
                continue
            if known is not None:
                self._let_go(job.key)
            known = _Job(job.inode, job.group.path, self._resumed.pop(job.key, {}))
            self._jobs[job.key] = known
            directory = self._root.path(f"{layout.scope}/{job.group.path}")
            known.directory, known.watched = str(directory), self._watch.add(directory)  # before it is listed
            self._open(layout, known, self._entries(layout, known))
        for key in self._jobs.keys() - here:
            self._let_go(key)
            del self._jobs[key]
            self._gone.pop(key, None)
        self._first = False

    def _entries(self, layout: cgroup.Layout, job: _Job) -> list[str]:
        return self._root.names(f"{layout.scope}/{job.path}")

    def _let_go(self, key: RunKey) -> None:
        living = self._jobs[key].living
        self._gone.setdefault(key, set()).update(living)
        for step in living.values():
            step.file.close()
        living.clear()

    def _open(self, layout: cgroup.Layout, job: _Job, names: Iterable[str]) -> set[str]:
        """Open the counters of steps that are new; those that are gone already."""
        gone = set()
        for entry in names:
            name = entry.removeprefix(_STEP)
            if name == entry or name in job.living:
                continue
            file = cgroup.group_time(self._root, layout, f"{job.path}/{entry}")
            if file is None:
                gone.add(name)
                continue
            count = job.resumed.get(name, 0)
            if self._first:  # what it used before anybody looked is nobody's business here
                try:
                    count = file.count()
                except MeterError:
                    count = 0
            job.living[name] = _Step(file, count)
        return gone

    def add(self, layout: cgroup.Layout | None, jobs: Sequence[RunKey], cpu: Sequence[int]) -> None:
        """Read the steps at a tick.

        Args:
            cpu: what each of `jobs` used since the last tick, in counts of the layout's unit.
        """
        if self._watch is None:
            return
        made = self._watch.made()
        for key, total in zip(jobs, cpu, strict=False):
            job = self._jobs.get(key)
            if job is None:
                continue
            gone = dict.fromkeys(self._gone.pop(key, ()), total)
            if layout is not None:
                told = made is not None and job.watched
                names = made.get(job.directory, ()) if made and told else () if told else self._entries(layout, job)
                gone |= dict.fromkeys(self._open(layout, job, names), total)
            weights = self._used.setdefault(key, {})
            seen = 0
            for name, step in list(job.living.items()):
                used = step.used()
                if used is None:
                    gone[name] = step.rate
                    del job.living[name]
                else:
                    seen += used
                    weights[name] = weights.get(name, 0) + used
            # Of those that vanished nobody knows the last reading: each is expected to have gone on as before.
            expected = {name: rate + 1 for name, rate in gone.items()}
            for name, part in apportion(max(0, total - seen) if gone else 0, expected).items():
                weights[name] = weights.get(name, 0) + part

    def take(self) -> dict[RunKey, Weights]:
        """What each step used since the last call."""
        used, self._used = self._used, {}
        return used

    def close(self) -> None:
        """Give all descriptors back."""
        for job in self._jobs.values():
            for step in job.living.values():
                step.file.close()
        if self._watch is not None:
            self._watch.close()


def divide(share: Share, weights: Weights) -> dict[str, StepUse]:
    """A job's share among its steps, every component for itself, nothing lost.

    By CPU time; where none used any, among those that were there in equal parts (the extern step holds nothing of
    the job but who logged in, and gets none); where none is known, to `UNNAMED`.
    """
    if not any(weights.values()):
        weights = {name: 1 for name in weights if name != _EXTERN} or {UNNAMED: 1}
    parts = {name: StepUse() for name, weight in weights.items() if weight}
    for component in ("cpu_uj", "dram_uj", "gpu_uj", "other_uj"):
        whole = getattr(share, component)
        if whole is not None:
            for name, part in apportion(whole, {name: weights[name] for name in parts}).items():
                setattr(parts[name], component, part)
    for name, part in apportion(share.cpu_time_ns, {name: weights[name] for name in parts}).items():
        parts[name].cpu_time_ns = part
    return parts
