"""CPU time of Slurm's job cgroups, v1 and v2, in every layout Slurm has used. Finds groups; never writes to one.

Layouts (Slurm sources of each branch, docs/method.md "Where the CPU time is read"):
v1   sys/fs/cgroup/{cpuacct,cpu,cpuacct}/slurm[_NODE]/uid_U/job_J/cpuacct.usage        nanoseconds
v2   [PREFIX/]SLICE/[NODE_]slurmstepd.scope/job_J/cpu.stat       up to 25.11, 26.05 with CgroupJobIdPaths=yes
v2   [PREFIX/]SLICE/[NODE_]slurmstepd.scope/sXXXXXXXXXXXXX/cpu.stat                   26.05: the job's SLUID
v1   sys/fs/cgroup/{freezer,cpuset}/slurm[_NODE]/uid_U/job_J/cgroup.procs             jobacct_gather/linux: no counter,
                                                                                      processes.py adds them up
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from hpccarbon.errors import MeterError, MeterMalformed
from hpccarbon.node.sysroot import SysFile, SysRoot, parse_busy_ticks, parse_cpu_list
from hpccarbon.node.usage.processes import ProcessTime, stopped
from hpccarbon.units import NS_PER_S, NS_PER_US

CGROUP = "sys/fs/cgroup"
_V1_CONTROLLERS = ("cpuacct", "cpu,cpuacct", "cpuacct,cpu")
_V1_PROCESSES = ("freezer", "cpuset")
_PROCESSES = "cgroup.procs"
_EXTERN = "step_extern"
_JOB = re.compile(r"job_(\d{1,18})")
_SLUID = re.compile(r"s[0-9A-Z]{13}")
_UID = re.compile(r"uid_(\d{1,10})")
_STEPD = re.compile(rb"slurmstepd: \[(\d{1,18})[.\]]")
_SCOPE_DEPTH = 4
"""How deep a scope is searched: a container's prefix can precede the slice (24.11)."""


class Layout(NamedTuple):
    """Where Slurm keeps its jobs on this node.

    `scope` is the directory that holds the jobs and keeps the CPU time of removed ones; `usage` the file in it and in
    each job; `unit_ns` the length of one count of it.
    """

    version: Literal[1, 2]
    base: str
    scope: str
    usage: str
    unit_ns: int

    @property
    def by_processes(self) -> bool:
        """Whether no group counts CPU time, so that it is added up from the jobs' processes."""
        return self.usage == _PROCESSES

    @property
    def name(self) -> str:
        """The scope's directory, `slurm` or `slurm_NODE` on v1: the same below every controller."""
        return self.scope.rsplit("/", 1)[-1]

    @property
    def source(self) -> str:
        """Where CPU time comes from, in words."""
        return f"processes of {self.base.rpartition('/')[2]} groups" if self.by_processes else f"cgroup v{self.version}"


class JobGroup(NamedTuple):
    """A job's directory below the scope; `job_id` is None for a SLUID that nobody has named yet."""

    path: str
    job_id: int | None
    sluid: str | None
    uid: int | None


def find_layout(root: SysRoot, node: str) -> Layout | None:
    """Slurm's scope for this node, or None where Slurm has not made one yet.

    A scope with the node's name (multiple slurmd) wins over one without; one that counts CPU time over one whose
    processes have to be added up.
    """
    for controller in _V1_CONTROLLERS:
        base = f"{CGROUP}/{controller}"
        for name in (f"slurm_{node}", "slurm"):
            if root.exists(f"{base}/{name}/cpuacct.usage"):
                return Layout(1, base, f"{base}/{name}", "cpuacct.usage", 1)
    for base in (CGROUP, f"{CGROUP}/unified"):
        if not root.exists(f"{base}/cgroup.controllers"):
            continue
        scopes = _scopes(root, base, _SCOPE_DEPTH)
        for name in (f"{node}_slurmstepd.scope", "slurmstepd.scope"):
            for scope in scopes:
                if scope.rsplit("/", 1)[-1] == name:
                    return Layout(2, base, scope, "cpu.stat", 1_000)
    for controller in _V1_PROCESSES:
        base = f"{CGROUP}/{controller}"
        for name in (f"slurm_{node}", "slurm"):
            if root.exists(f"{base}/{name}/{_PROCESSES}"):
                return Layout(1, base, f"{base}/{name}", _PROCESSES, NS_PER_S // os.sysconf("SC_CLK_TCK"))
    return None


def _scopes(root: SysRoot, directory: str, depth: int) -> list[str]:
    """Directories named *slurmstepd.scope, the shallowest first."""
    found: list[str] = []
    deeper: list[str] = []
    for name in root.names(directory):
        path = f"{directory}/{name}"
        if name.endswith("slurmstepd.scope"):
            found.append(path)
        elif "." not in name or name.endswith((".slice", ".scope", ".service")):
            deeper.append(path)
    if depth > 1:
        for path in deeper:
            if root.path(path).is_dir():
                found += _scopes(root, path, depth - 1)
    return found


def job_directories(root: SysRoot, layout: Layout) -> list[JobGroup]:
    """Every job directory below the scope now."""
    if layout.version == 2:
        return [group for name in root.names(layout.scope) if (group := parse_job_directory(name, None)) is not None]
    groups: list[JobGroup] = []
    for user in user_directories(root, layout):
        for name in root.names(f"{layout.scope}/{user}"):
            group = parse_job_directory(name, int(user.removeprefix("uid_")), f"{user}/")
            if group is not None:
                groups.append(group)
    return groups


def user_directories(root: SysRoot, layout: Layout) -> list[str]:
    """The directories of users between the scope and their jobs: v1 has them, v2 does not."""
    return [name for name in root.names(layout.scope) if _UID.fullmatch(name)] if layout.version == 1 else []


def parse_job_directory(name: str, uid: int | None, prefix: str = "") -> JobGroup | None:
    """What a directory name says: `job_J`, a SLUID, or None for something that is no job."""
    if match := _JOB.fullmatch(name):
        return JobGroup(prefix + name, int(match[1]), None, uid)
    if _SLUID.fullmatch(name):
        return JobGroup(prefix + name, None, name, uid)
    return None


def job_of_sluid(root: SysRoot, layout: Layout, group: JobGroup) -> int | None:
    """The job id behind a SLUID directory, from the title of the slurmstepd in one of its steps; else None."""
    directory = f"{layout.scope}/{group.path}"
    for step in root.names(directory):
        if step.startswith("step_"):
            for pid in root.word(f"{directory}/{step}/slurm/cgroup.procs").split():
                match = _STEPD.search(root.word(f"proc/{pid}/cmdline").encode())
                if match:
                    return int(match[1])
    return None


def cpus_of(root: SysRoot, layout: Layout, group: JobGroup) -> list[int] | None:
    """The CPUs the job is confined to, from its cpuset group; None where cores are not constrained."""
    if layout.version == 1:
        path = f"{CGROUP}/cpuset/{layout.name}/{group.path}/cpuset.cpus"
    else:
        path = f"{layout.scope}/{group.path}/cpuset.cpus"
    try:
        return parse_cpu_list(root.word(path)) or None
    except ValueError:
        return None


def memory_of(root: SysRoot, layout: Layout, group: JobGroup) -> int | None:
    """The job's memory limit in bytes, from its memory group; None where memory is not constrained."""
    if layout.version == 1:
        text = root.word(f"{CGROUP}/memory/{layout.name}/{group.path}/memory.limit_in_bytes")
    else:
        text = root.word(f"{layout.scope}/{group.path}/memory.max")
    # v1 writes "no limit" as a number near 2^63.
    return int(text) if text.isascii() and text.isdigit() and len(text) < 17 else None


def suspended(root: SysRoot, layout: Layout, group: JobGroup) -> bool:
    """Whether Slurm has suspended the job (`scontrol suspend`): it has steps, and all of them stand still.

    22.05 freezes the steps' groups, 24.11 and 26.05 stop their processes with a signal (tried, on v1). The extern step
    is left out: it holds nothing of the job but who logged in.
    """
    directory = f"{layout.scope}/{group.path}"
    steps = [name for name in root.names(directory) if name.startswith("step_") and name != _EXTERN]
    if not steps:
        return False
    if layout.version == 1:
        freezer = f"{CGROUP}/freezer/{layout.name}/{group.path}"
        frozen = all(root.word(f"{freezer}/{step}/freezer.state") == "FROZEN" for step in steps)
    else:  # the step's slurmstepd, beside `user`, goes on
        frozen = all(root.word(f"{directory}/{step}/user/cgroup.freeze") == "1" for step in steps)
    return frozen or stopped(root, (f"{directory}/{step}" for step in steps))


def parse_usage(version: int, text: bytes) -> int:
    """The cumulative CPU time in a usage file: ns on v1 (one integer), µs on v2 (`usage_usec N` leads cpu.stat).

    Raises: ValueError.
    """
    if version == 1:
        return int(text)
    word, value = text.split(None, 2)[:2]
    if word != b"usage_usec":
        raise ValueError("expected 'usage_usec' first")
    return int(value)


def read_usage(file: SysFile, version: int) -> int:
    """A usage file's count now. Raises: MeterError (MeterMissing once the group is removed), MeterMalformed."""
    text = file.read(64)
    try:
        count = parse_usage(version, text)
    except (ValueError, IndexError) as err:
        raise MeterMalformed(file.path, "expected CPU time") from err
    if count < 0:
        raise MeterMalformed(file.path, "negative CPU time")
    return count


class GroupTime(Protocol):
    """CPU time of one group, in counts of the layout's unit; `fd` is its usage file's, -1 where it has none."""

    fd: int

    def inode(self) -> int:
        """What tells the group from its successor of the same name."""

    def count(self) -> int:
        """The CPU time now. Raises: MeterError (MeterMissing once the group is removed), MeterMalformed."""

    def close(self) -> None:
        """Give the descriptor back."""


class UsageFile(SysFile):
    """The `GroupTime` of a group that counts itself: its usage file, held open."""

    __slots__ = ("_version",)

    def __init__(self, path: Path, version: int) -> None:
        super().__init__(path)
        self._version = version

    def count(self) -> int:
        """See GroupTime."""
        return read_usage(self, self._version)


def group_time(root: SysRoot, layout: Layout, path: str) -> GroupTime | None:
    """The CPU time of a group below the scope; None where it is not (any more) there."""
    directory = f"{layout.scope}/{path}"
    try:
        if layout.by_processes:
            return ProcessTime(root, directory)
        return UsageFile(root.path(f"{directory}/{layout.usage}"), layout.version)
    except MeterError:
        return None


def open_or_none(root: SysRoot, relative: str) -> SysFile | None:
    """The file held open, or None where it is not (any more) there."""
    try:
        return root.open(relative)
    except MeterError:
        return None


class NodeTime:
    """CPU time of everything on the node, in ns: the root group's, else /proc/stat's.

    Known before Slurm has made its first group, so that an idle node is seen to be idle.
    """

    def __init__(self, root: SysRoot) -> None:
        self._version: Literal[1, 2] | None = None
        self._file: SysFile | None = None
        for controller in _V1_CONTROLLERS:
            self._file = self._file or open_or_none(root, f"{CGROUP}/{controller}/cpuacct.usage")
        if self._file is not None:
            self._version = 1
            return
        for base in (CGROUP, f"{CGROUP}/unified"):
            self._file = self._file or open_or_none(root, f"{base}/cpu.stat")
        if self._file is not None:
            self._version = 2
            return
        self._file = open_or_none(root, "proc/stat")

    @property
    def path(self) -> str | None:
        """The file that is read, None where there is none."""
        return None if self._file is None else str(self._file.path)

    def read_ns(self) -> int | None:
        """CPU time so far; None where it cannot be read."""
        if self._file is None:
            return None
        try:
            if self._version is None:
                return parse_busy_ticks(self._file.read(512)) * (NS_PER_S // os.sysconf("SC_CLK_TCK"))
            return read_usage(self._file, self._version) * (1 if self._version == 1 else NS_PER_US)
        except (MeterError, ValueError):
            return None

    def close(self) -> None:
        """Give the descriptor back."""
        if self._file is not None:
            self._file.close()
