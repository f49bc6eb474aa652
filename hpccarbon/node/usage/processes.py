"""CPU time of the processes in a job's group, for sites where no group counts it. Never writes to one.

With `JobAcctGatherType=jobacct_gather/linux` on cgroup v1 a job has a freezer or a cpuset group and no cpuacct group.
What its processes used is then added up from procfs: their own time, and that of the children they waited for. The
slurmstepd of a step is in the freezer group too and waits for its tasks, so a task's last moments are kept; those of a
step that ends as a whole between two ticks are not, and count as the system's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from hpccarbon.errors import MeterMissing
from hpccarbon.node.sysroot import SysRoot, meter_error

_LEVELS = 4
"""job_J / step_S / user / task_T"""
_TASKS = ("step_", "task_", "user")
"""What holds a job's own processes; a step's slurmstepd is beside them, in the job's group (v1) or in `slurm` (v2)."""


class Times(NamedTuple):
    """CPU time of one process in USER_HZ ticks: its own, and its children's that it waited for."""

    own: int
    waited: int


def _fields(text: str) -> list[str]:
    """The fields of /proc/PID/stat from the third on; the name, the second, may hold anything, parentheses too."""
    return text.rpartition(")")[2].split()


def parse_stat(text: str) -> tuple[int, Times]:
    """(start in ticks since boot, CPU times) from /proc/PID/stat.

    The start tells a process from a later one of the same number. Raises: ValueError.
    Source: proc_pid_stat(5), fields 14 to 17 and 22.
    """
    fields = _fields(text)
    if len(fields) < 20:
        raise ValueError("expected a line of /proc/PID/stat")
    user, system, waited_user, waited_system = map(int, fields[11:15])
    return int(fields[19]), Times(user + system, waited_user + waited_system)


def members(root: SysRoot, directory: str, levels: int = _LEVELS) -> Iterator[int]:
    """The processes in a job's or step's group and in those of its tasks; a process that moves may come twice."""
    for pid in root.word(f"{directory}/cgroup.procs").split():
        if pid.isdigit():
            yield int(pid)
    if levels > 1:
        for name in root.names(directory):
            if name.startswith(_TASKS):
                yield from members(root, f"{directory}/{name}", levels - 1)


def stopped(root: SysRoot, steps: Iterable[str]) -> bool:
    """Whether these groups have processes, and every one of them is stopped by a signal."""
    any_there = False
    for step in steps:
        for pid in members(root, step):
            state = _fields(root.word(f"proc/{pid}/stat"))[:1]
            if state and state != ["T"]:
                return False
            any_there = any_there or bool(state)
    return any_there


class ProcessTime:
    """A `GroupTime` (cgroup.py): the processes of a group and of those below it, as one counter that never goes back.

    Raises: MeterMissing where there is no such group.
    """

    fd = -1

    def __init__(self, root: SysRoot, directory: str) -> None:
        self._root = root
        self._directory = directory
        self._seen: dict[tuple[int, int], Times] = {}
        self._count = 0
        try:
            self._inode = os.stat(root.path(directory)).st_ino  # noqa: PTH116 (the error becomes ours)
        except OSError as err:
            raise meter_error(root.path(directory), err) from err

    def inode(self) -> int:
        """What tells the group from its successor of the same name."""
        return self._inode

    def count(self) -> int:
        """CPU time so far, in USER_HZ ticks. Raises: MeterMissing once the group is removed.

        A process that ended hands its time to the one that waited for it, if that one is in the group: what the
        waiting ones gained, less what was already counted of those that are gone, is what nobody had seen.
        """
        if not self._root.exists(self._directory):
            raise MeterMissing(self._root.path(self._directory), "no such group")
        now = self._read()
        gained = gone = 0
        for process, times in now.items():
            before = self._seen.get(process, Times(0, 0))
            self._count += max(0, times.own - before.own)
            gained += max(0, times.waited - before.waited)
        for process, times in self._seen.items():
            if process not in now:
                gone += times.own + times.waited
        self._count += max(0, gained - gone)
        self._seen = now
        return self._count

    def _read(self) -> dict[tuple[int, int], Times]:
        found = {}
        for pid in set(members(self._root, self._directory)):
            try:
                start, times = parse_stat(self._root.word(f"proc/{pid}/stat"))
            except ValueError:
                continue  # it ended between the two looks
            found[pid, start] = times
        return found

    def close(self) -> None:
        """Nothing is held open: as many descriptors as there are processes would be too many."""
