"""Weighs jobs by what hardware counters say they did, where the site wants that. Reads no energy and divides none.

CPU time says how long a core was used, not how hard. With `daemon.weights` dynamic energy goes by cycles, instructions
or last-level cache misses of each job's cgroup. What has no counter (a job in the interval it came in, the system) is
weighed by its CPU time at the mean rate of those that have one. Where nothing can be counted, CPU time stands in, and
`note` says why.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence

from hpccarbon.node.sysroot import SysRoot
from hpccarbon.node.usage.perf import EVENTS, Counter, PerfError

CPU_TIME = "cpu_time"
MOST_DESCRIPTORS = 16_384
"""Beyond this many the other jobs have no counter: each costs time at every tick."""
Key = tuple[int, str]
"""(job id, run)"""


class Weights:
    """The counters of the jobs on a node.

    Args:
        name: a name of `perf.EVENTS`, or `cpu_time`: then nothing is opened.
        cpus: those the kernel runs on.
        log: called with one line when counting turns out to be impossible.
    """

    def __init__(self, root: SysRoot, name: str, cpus: Sequence[int], log: Callable[[str], None]) -> None:
        self.name = name
        self.note = ""
        self._root = root
        self._cpus = cpus
        self._log = log
        self._counters: dict[Key, tuple[Counter, int]] = {}
        """counter and where it stood when it was last taken"""
        self._descriptors = 0

    @property
    def source(self) -> str:
        """What dynamic energy goes by, as the shard says it."""
        return f"{CPU_TIME} ({self.note})" if self.note else self.name

    def follow(self, groups: Iterable[tuple[Key, str, Sequence[int] | None]]) -> None:
        """Count for these jobs from now on, and for no other.

        Args:
            groups: run, its cgroup v2 directory, and the CPUs it is confined to (None: all).
        """
        if self.name == CPU_TIME:
            return
        present = {key: (directory, cpus) for key, directory, cpus in groups}
        for key in self._counters.keys() - present.keys():  # first: there may be no room for the others yet
            counter, _ = self._counters.pop(key)
            self._descriptors -= len(counter)
            counter.close()
        for key, (directory, cpus) in present.items():
            if key not in self._counters:
                self._begin(key, directory, self._cpus if cpus is None else cpus)

    def _begin(self, key: Key, directory: str, cpus: Sequence[int]) -> None:
        if self._descriptors + len(cpus) > MOST_DESCRIPTORS:
            self.cannot(f"more than {MOST_DESCRIPTORS} counters: confine jobs to their cores (ConstrainCores=yes)")
            return
        try:
            group = os.open(self._root.path(directory), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return  # the job went meanwhile
        try:
            counter = Counter(EVENTS[self.name], group, cpus)
        except PerfError as err:
            self.cannot(str(err))
            return
        finally:
            os.close(group)
        self.note = ""
        self._descriptors += len(counter)
        self._counters[key] = (counter, 0)

    def cannot(self, reason: str) -> None:
        """Nothing, or not everything, can be counted here."""
        if reason != self.note:
            self.note = reason
            self._log(f"weights: {self.name} cannot be counted: {reason}; CPU time stands in")

    def take(self, keys: Sequence[Key], cpu: Sequence[int]) -> list[int] | None:
        """What each of these jobs and, last, the system did since the last call; None: CPU time has to do.

        Args:
            cpu: CPU time of each and, last, of the system, in counts of any unit.
        """
        if not self._counters:
            return None
        counted: dict[int, int] = {}
        for place, key in enumerate(keys):
            entry = self._counters.get(key)
            if entry is None:
                continue
            try:
                now = entry[0].count()
            except PerfError as err:
                self.cannot(str(err))
                return None
            self._counters[key] = (entry[0], now)
            counted[place] = max(0, now - entry[1])
        done, used = sum(counted.values()), sum(cpu[place] for place in counted)
        if not done or not used:
            return None
        return [counted.get(place, own * done // used) for place, own in enumerate(cpu)]

    def close(self) -> None:
        """Give all descriptors back."""
        self.follow(())
