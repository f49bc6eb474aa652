"""The jobs on this node: who is there, what they hold, how much CPU time they used. Knows no energy.

A job is on the roster from its prolog (or the first sight of its cgroup) to its epilog (or the end of its cgroup).
CPU time is read from descriptors that stay open. Slurm removes a job's cgroup before its epilog, so there is no last
reading; but the scope, the directory above, keeps the time of removed children: what it counted more than the living
groups did is what the vanished ones used.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import repeat

import msgspec

from hpccarbon.errors import MeterError
from hpccarbon.node.attribution import Holding
from hpccarbon.node.sysroot import SysRoot, online_cpu_list
from hpccarbon.node.usage import cgroup
from hpccarbon.node.usage.jobs import JobFile, JobFiles, facts
from hpccarbon.node.usage.watch import Watch
from hpccarbon.node.usage.weights import CPU_TIME, Weights
from hpccarbon.records import Run
from hpccarbon.units import NS_PER_S, NS_PER_US, apportion

RunKey = tuple[int, str]
"""(job id, run): one run of one job on this node."""
RESCAN_NS = 10 * NS_PER_S
FORGOTTEN_NS = 300 * NS_PER_S
"""A job whose group is gone and whose epilog never came has ended when its group went."""
NEVER_SEEN_NS = 24 * 3600 * NS_PER_S
_UNCOUNTED_NS = NS_PER_S
"""How long after the first sight of a job's group without a counter its processes are added up."""
_COUNT_SIZE = 64
_IN_JOB = re.compile(r"/(?:job_(\d{1,18})|(s[0-9A-Z]{13}))(?:/|$)", re.MULTILINE)


class Job:
    """A run that is on the node. Times are boot-time clock, ns; `count` is the group's CPU time at the last look."""

    __slots__ = (
        "count", "end_ns", "file", "gone_ns", "group", "holding", "inode", "known_ns", "run", "start_ns", "suspended",
    )  # fmt: skip

    def __init__(self, run: Run, start_ns: int, known_ns: int) -> None:
        self.run = run
        self.start_ns = start_ns
        self.known_ns = known_ns
        self.end_ns: int | None = None
        self.gone_ns: int | None = None
        self.file: cgroup.GroupTime | None = None
        self.group: cgroup.JobGroup | None = None
        self.inode = 0
        self.count = 0
        self.suspended = False
        self.holding = Holding(run.alloc_cores, run.alloc_mem_bytes)

    @property
    def key(self) -> RunKey:
        """The run's identity on this node."""
        return (self.run.job_id, self.run.run)

    @property
    def held(self) -> Holding:
        """What it holds now: Slurm gives the cores of a suspended job to others, its memory and GPUs it keeps."""
        return msgspec.structs.replace(self.holding, cores=0, sockets=None) if self.suspended else self.holding

    @property
    def unmetered(self) -> bool:
        """Whether no group of it was ever seen."""
        return self.inode == 0

    def span(self, start_ns: int, end_ns: int) -> tuple[int, int]:
        """When it was there within an interval: (from, to); empty where `to` is not after `from`."""
        return max(start_ns, self.start_ns), end_ns if self.end_ns is None else min(end_ns, self.end_ns)


class Roster:
    """Who is on the node, from the hooks' files and Slurm's cgroups.

    Args:
        root: where kernel files are; node: the node's name as Slurm knows it; cpus: how many Slurm hands out.
        files: what the hooks left; boot_id: this boot.
        devices: what Slurm calls a job's GPUs -> channel device (UUID) -> parts of it.
    """

    def __init__(
        self,
        root: SysRoot,
        node: str,
        cpus: int,
        files: JobFiles,
        boot_id: str,
        devices: Callable[[Sequence[str]], Mapping[str, int]] = lambda names: {},
    ) -> None:
        self._root = root
        self._node = node
        self._cpus = cpus
        self._files = files
        self._boot = boot_id[:8]
        self._devices = devices
        self.sockets = cpu_sockets(root)
        self.watch = Watch()
        self._layout: cgroup.Layout | None = None
        self._scope: cgroup.GroupTime | None = None
        self._scope_inode = 0
        self._uncounted_ns: int | None = None
        self._scope_last: tuple[int, int] | None = None
        self._busy = cgroup.NodeTime(root)
        self._jobs: dict[RunKey, Job] = {}
        self._by_id: dict[tuple[int, int], Job] = {}
        self._replaced: set[RunKey] = set()
        self.opened: list[Job] = []
        self._fds: list[int] = []
        self._rescan_ns = 0
        self._ask_ns = 0
        self._looked_ns = 0
        self._used: dict[RunKey, int] = {}
        self._ended: list[Job] = []
        self._news: dict[RunKey, Job] = {}
        self.first = True
        self.changed = True
        self.ends = 0

    # ---- who is there -------------------------------------------------------------------------------------------

    @property
    def jobs(self) -> list[Job]:
        """Everyone on the roster."""
        return list(self._jobs.values())

    @property
    def unit_ns(self) -> int:
        """Length of one count of CPU time."""
        return self._layout.unit_ns if self._layout is not None else 1

    @property
    def layout(self) -> cgroup.Layout | None:
        """Where Slurm keeps its jobs' groups; None before the first job."""
        return self._layout

    @property
    def source(self) -> str:
        """Where CPU time is read, as the shard says it; empty before the first job."""
        return "" if self._layout is None else self._layout.source

    def resume(self, groups: Mapping[str, tuple[int, int]], scope: tuple[int, int] | None, runs: Mapping[RunKey, Run],
               at_ns: int, wall_ns: int) -> None:  # fmt: skip
        """Take up again whom the store remembers: `job_id/run` -> (inode, count), as of these two clocks."""
        self.first = False
        self._scope_last = scope
        for name, (inode, count) in groups.items():
            job_id, _, run = name.partition("/")
            key = (int(job_id), run)
            known = runs.get(key, Run(run, key[0]))
            age_ns = 0 if known.start_wall_ns is None else max(0, wall_ns - known.start_wall_ns)
            job = Job(known, max(0, at_ns - age_ns), at_ns)
            job.inode, job.count = inode, count
            self._enter(job)

    def groups(self) -> dict[str, tuple[int, int]]:
        """`job_id/run` -> (inode, count) as of the last `take_used`: what `resume` takes.

        What was looked at since then is not handed over yet, so it is left out here too.
        """
        return {
            f"{job.run.job_id}/{job.run.run}": (job.inode, max(0, job.count - self._used.get(job.key, 0)))
            for job in self._jobs.values()
        }

    def due(self, at_ns: int) -> bool:
        """Whether it is time to look for jobs, though nothing said that one came or went: always, where nothing can."""
        return self.watch.blind or at_ns >= self._rescan_ns or at_ns >= self._ask_ns

    def notice(self, at_ns: int, wall_ns: int) -> None:
        """Look for jobs that came or went."""
        for file in self._files.new():
            self._take_file(file, at_ns, wall_ns)
        self.watch.add(self._files.directory)
        self._find_scope(at_ns)
        if self._layout is not None:
            self._take_groups(self._layout, at_ns, wall_ns)
        if at_ns >= self._ask_ns:
            self._ask_ns = at_ns + RESCAN_NS
            self._find_suspended()
        self._rescan_ns = at_ns + (RESCAN_NS if self._layout is not None else RESCAN_NS // 5)
        self._forget(at_ns)

    def _enter(self, job: Job) -> None:
        self._jobs[job.key] = job
        self._by_id[job.run.job_id, job.run.restart] = job
        self._hold(job)
        self._news[job.key] = job
        self.changed = True

    def _hold(self, job: Job) -> None:
        """Work out what a job holds, from the hooks first and from its groups where they are silent."""
        run = job.run
        cores, memory = run.alloc_cores, run.alloc_mem_bytes
        sockets: dict[int, int] | None = None
        if job.group is not None and self._layout is not None:
            cpus = cgroup.cpus_of(self._root, self._layout, job.group)
            if cpus and len(cpus) < self._cpus:
                cores = cores or len(cpus)
                sockets = {}
                for cpu in cpus:
                    socket = self.sockets.get(cpu, 0)
                    sockets[socket] = sockets.get(socket, 0) + 1
            memory = memory or cgroup.memory_of(self._root, self._layout, job.group)
        gpus = self._devices(run.alloc_gpus) if run.alloc_gpus else {}
        job.holding = Holding(cores, memory, sockets, gpus)

    # ---- what the hooks told ------------------------------------------------------------------------------------

    def _take_file(self, file: JobFile, at_ns: int, wall_ns: int) -> None:
        when_ns = min(at_ns, at_ns - (wall_ns - file.at_wall_ns))
        job = self._by_id.get((file.job_id, file.restart))
        if file.kind == "prolog":
            self._begin(file, job, when_ns, at_ns)
        elif job is None:
            # An epilog alone: its prolog's file was lost before a daemon came. Nothing to charge, nothing to keep.
            self._files.remove(file.job_id, file.restart)
        elif job.end_ns is None:
            job.end_ns = when_ns
            self._news[job.key] = job
            self.changed = True

    def _begin(self, file: JobFile, job: Job | None, when_ns: int, at_ns: int) -> None:
        """A prolog's file: a new run, or the facts of one whose group was seen first."""
        known = facts(file, self._node)
        if job is None or job.end_ns is not None:
            name = known.sluid or f"{self._boot}.p{file.at_wall_ns // NS_PER_US:x}"
            run = msgspec.structs.replace(known, run=f"{file.restart}.{name}", start_wall_ns=file.at_wall_ns)
            self._enter(Job(run, when_ns, at_ns))
            return
        uid = known.uid if known.uid is not None else job.run.uid
        job.run = msgspec.structs.replace(known, run=job.run.run, start_wall_ns=file.at_wall_ns, uid=uid)
        job.start_ns = max(job.start_ns, when_ns)
        self._enter(job)

    def _forget(self, at_ns: int) -> None:
        """End what will never be told to have ended: a group that went without an epilog, a prolog that led nowhere."""
        for job in self._jobs.values():
            if job.end_ns is not None:
                continue
            if job.gone_ns is not None and at_ns - job.gone_ns > FORGOTTEN_NS:
                job.end_ns = job.gone_ns
                self.changed = True
            elif job.unmetered and at_ns - job.known_ns > NEVER_SEEN_NS:
                job.end_ns = at_ns
                self.changed = True

    # ---- their groups -------------------------------------------------------------------------------------------

    def _find_scope(self, at_ns: int) -> None:
        if self._layout is not None and self._scope is not None:
            if self._root.exists(f"{self._layout.scope}/{self._layout.usage}") and self._stays(self._layout, at_ns):
                return
            self._scope.close()  # Slurm removed it: a new one of the same name is another counter
        self._layout, self._scope = self._choose_layout(at_ns), None
        self.changed = True
        if self._layout is None:
            return
        self._scope = cgroup.group_time(self._root, self._layout, "")
        if self._scope is None:
            self._layout = None
            return
        self._scope_inode = self._scope.inode()

    def _stays(self, layout: cgroup.Layout, at_ns: int) -> bool:
        """A layout without counters is left for a better one as soon as nobody is in it."""
        in_use = any(job.file is not None for job in self._jobs.values())
        return in_use or not layout.by_processes or self._choose_layout(at_ns) == layout

    def _choose_layout(self, at_ns: int) -> cgroup.Layout | None:
        """This node's layout. Slurm makes a job's groups one after the other: no counter at first proves nothing."""
        layout = cgroup.find_layout(self._root, self._node)
        if layout is None or not layout.by_processes:
            self._uncounted_ns = None
            return layout
        if self._uncounted_ns is None and cgroup.job_directories(self._root, layout):
            self._uncounted_ns = at_ns
        proven = self._uncounted_ns is not None and at_ns - self._uncounted_ns >= _UNCOUNTED_NS
        return layout if proven else None

    def _find_suspended(self) -> None:
        """Ask who is suspended, of those who have used no CPU time since the last tick."""
        for job in self._jobs.values():
            if job.group is None or job.file is None or self._layout is None:
                continue
            try:
                still = job.suspended or job.file.count() == job.count
            except MeterError:
                continue  # it went: the next look finds that out
            suspended = still and cgroup.suspended(self._root, self._layout, job.group)
            if suspended != job.suspended:
                job.suspended = suspended
                self.changed = True

    def _take_groups(self, layout: cgroup.Layout, at_ns: int, wall_ns: int) -> None:
        # Watched before it is listed: a group made in between is seen by one or the other.
        self.watch.add(self._root.path(layout.scope))
        for directory in cgroup.user_directories(self._root, layout):
            self.watch.add(self._root.path(f"{layout.scope}/{directory}"))
        known = {
            job.group.path: job.inode for job in self._jobs.values() if job.group is not None and job.file is not None
        }
        for group in cgroup.job_directories(self._root, layout):
            file = cgroup.group_time(self._root, layout, group.path)
            if file is None:
                continue
            inode = file.inode()
            if known.get(group.path) == inode:
                file.close()
            else:
                self._take_group(layout, group, file, inode, at_ns, wall_ns)

    def _take_group(
        self, layout: cgroup.Layout, group: cgroup.JobGroup, file: cgroup.GroupTime, inode: int, at_ns: int,
        wall_ns: int,
    ) -> None:  # fmt: skip
        job_id = group.job_id if group.job_id is not None else self._name_sluid(layout, group)
        if job_id is None:
            file.close()  # not named yet: its prolog or its slurmstepd will tell at the next look
            return
        job = self._owner(job_id, inode)
        if job is None:
            restart = max((r for j, r in self._by_id if j == job_id), default=0)
            # The part before the first dot is the same on every node of a run.
            name = f"{restart}.{group.sluid}" if group.sluid else f"{restart}.{self._boot}.{inode:x}"
            job = Job(Run(name, job_id, group.uid, restart=restart, start_wall_ns=wall_ns), at_ns, at_ns)
        if job.inode != inode:
            if job.file is not None:
                job.file.close()
                self._replaced.add(job.key)
            # At the first tick of all, what a group used before was nobody's business here: -1 says so.
            job.inode, job.count = inode, -1 if self.first else 0
        job.file, job.group, job.gone_ns = file, group, None
        if job.run.uid is None and group.uid is not None:
            job.run = msgspec.structs.replace(job.run, uid=group.uid)
        self._enter(job)

    def _owner(self, job_id: int, inode: int) -> Job | None:
        """The run a group belongs to: the one that had it before a restart, else the job's latest open run.

        Without an extern step Slurm removes the group between two steps and makes a new one for the same run.
        """
        for job in self._jobs.values():
            if job.inode == inode and job.file is None:
                return job
        mine = [job for job in self._jobs.values() if job.run.job_id == job_id and job.end_ns is None]
        return max(mine, key=lambda job: job.run.restart, default=None)

    def _name_sluid(self, layout: cgroup.Layout, group: cgroup.JobGroup) -> int | None:
        for job in self._jobs.values():
            if job.run.sluid == group.sluid:
                return job.run.job_id
        return cgroup.job_of_sluid(self._root, layout, group)

    # ---- CPU time -----------------------------------------------------------------------------------------------

    def sort(self) -> None:
        """Lay out the descriptors that a tick reads."""
        self.opened = [job for job in self._jobs.values() if job.file is not None]
        self._fds = [job.file.fd for job in self.opened if job.file is not None]

    def counts(self) -> list[int] | None:
        """CPU time of every group in `opened`, as fast as can be; None if one cannot be read."""
        try:
            if self._layout is not None and self._layout.by_processes:
                return [job.file.count() for job in self.opened if job.file is not None]
            if self._layout is None or self._layout.version == 1:
                return list(map(int, map(os.pread, self._fds, repeat(_COUNT_SIZE), repeat(0))))
            return [int(os.pread(fd, _COUNT_SIZE, 0).split(None, 2)[1]) for fd in self._fds]
        except (OSError, ValueError, IndexError, MeterError):
            return None

    def scope_count(self) -> tuple[int, int] | None:
        """(inode, CPU time) of all jobs that ever were; to be read after the jobs, so that it is never behind them."""
        if self._scope is None or self._layout is None or self._layout.by_processes:
            return None
        try:
            return self._scope_inode, self._scope.count()
        except MeterError:
            return None

    def busy_ns(self) -> int | None:
        """CPU time of everything on the node."""
        return self._busy.read_ns()

    def weigh(self, weights: Weights) -> None:
        """Have the jobs' hardware events counted from now on."""
        if weights.name == CPU_TIME:
            return
        layout = self._layout
        if layout is None:
            return
        if layout.version == 1:
            weights.cannot("Slurm's groups are cgroup v1 here, which counts no events")
            return
        weights.follow(
            (job.key, f"{layout.scope}/{job.group.path}", cgroup.cpus_of(self._root, layout, job.group))
            for job in self.opened
            if job.group is not None
        )

    def ticked(self, scope: tuple[int, int] | None) -> None:
        """An ordinary tick has read everything: the scope stood here."""
        self._scope_last = scope

    def look(self, at_ns: int, since_ns: int, scope: tuple[int, int] | None) -> None:
        """Read each group and find out what the vanished ones used; it waits in `take_used`.

        Args:
            since_ns: the last tick; looks in between are remembered here.
        """
        self.sort()
        used: dict[RunKey, int] = {}
        for job in self.opened:
            assert job.file is not None
            try:
                count = job.file.count()
            except MeterError:
                job.file.close()
                job.file, job.gone_ns = None, at_ns
                continue
            used[job.key] = max(0, count - job.count) if job.count >= 0 else 0
            job.count = count
        self._charge_vanished(used, max(self._looked_ns, since_ns), at_ns, scope)
        for key, count in used.items():
            self._used[key] = self._used.get(key, 0) + count
        self._looked_ns = at_ns
        self.changed = True

    def take_used(self) -> dict[RunKey, int]:
        """CPU time of each run since the last call, in counts."""
        used, self._used = self._used, {}
        return used

    @property
    def looked(self) -> bool:
        """Whether a look since the last tick waits to be taken."""
        return bool(self._used)

    def _charge_vanished(
        self, used: dict[RunKey, int], start_ns: int, at_ns: int, scope: tuple[int, int] | None
    ) -> None:
        """Add what groups that are gone used: what the scope counted more than its living groups did."""
        if scope is None:
            return
        last, self._scope_last = self._scope_last, scope
        rest = scope[1] - (last[1] if last is not None and last[0] == scope[0] else 0) - sum(used.values())
        gone = self._vanished(start_ns, at_ns)
        if rest <= 0 or not gone:
            return
        weights = {job.key: self._expected(job, start_ns, at_ns) for job in gone}
        used.update({key: used.get(key, 0) + part for key, part in apportion(rest, weights).items()})

    def _expected(self, job: Job, start_ns: int, at_ns: int) -> int:
        """CPU time that a job would use in an interval at the rate it is known for; else with all of its cores busy."""
        first, end = job.span(start_ns, at_ns)
        span_ns = max(1, end - first)
        most = max(1, span_ns * (job.holding.cores or 1) // self.unit_ns)
        life_ns = start_ns - job.start_ns
        if job.count <= 0 or life_ns <= 0:
            return most
        return max(1, min(most, span_ns * job.count // life_ns))

    def _vanished(self, start_ns: int, at_ns: int) -> list[Job]:
        """Who may have used what nobody living did, since `start_ns`."""
        jobs = self._jobs.values()
        gone = [job for job in jobs if job.gone_ns == at_ns or job.key in self._replaced]
        self._replaced.clear()
        for job in jobs:
            if job.inode and job.file is None and job.gone_ns is None:  # went while no daemon ran
                job.gone_ns = at_ns
                gone.append(job)
        gone += [job for job in jobs if job.unmetered and job.end_ns is not None and job.end_ns >= start_ns]
        return gone or [job for job in jobs if job.unmetered and job.end_ns is None]

    def owner_of(self, pid: int) -> RunKey | None:
        """The run a process belongs to, by its cgroup; None for a process of no job here."""
        match = _IN_JOB.search(self._root.word(f"proc/{pid}/cgroup"))
        if match is None:
            return None
        mine = [
            job
            for job in self._jobs.values()
            if job.end_ns is None and (str(job.run.job_id) == match[1] or (match[2] and job.run.sluid == match[2]))
        ]
        return max(mine, key=lambda job: job.run.restart).key if mine else None

    def rehold(self) -> None:
        """Work out anew what everyone holds, after hardware came or went."""
        for job in self._jobs.values():
            self._hold(job)
        self.changed = True

    # ---- who is gone --------------------------------------------------------------------------------------------

    def retire(self, at_ns: int) -> None:
        """Let go of runs that have ended and whose group is gone."""
        for key, job in list(self._jobs.items()):
            if job.end_ns is None or (job.file is not None and at_ns - job.end_ns < FORGOTTEN_NS):
                continue
            if job.file is not None:
                job.file.close()
            del self._jobs[key]
            if self._by_id.get((job.run.job_id, job.run.restart)) is job:
                del self._by_id[job.run.job_id, job.run.restart]
            self._ended.append(job)
            self.ends += 1

    def take_news(self) -> list[Job]:
        """Runs that are new or have new facts since the last call."""
        news, self._news = list(self._news.values()), {}
        return news

    def clear_ended(self) -> None:
        """The store has the runs that ended: their hooks' files may go."""
        for job in self._ended:
            self._files.remove(job.run.job_id, job.run.restart)
        self._ended = []

    def close(self) -> None:
        """Give all descriptors back."""
        for job in self._jobs.values():
            if job.file is not None:
                job.file.close()
        self._busy.close()
        self.watch.close()


def cpu_sockets(root: SysRoot) -> dict[int, int]:
    """CPU -> package, from sysfs; empty where the topology is not shown."""
    sockets: dict[int, int] = {}
    for cpu in online_cpu_list(root):
        text = root.word(f"sys/devices/system/cpu/cpu{cpu}/topology/physical_package_id")
        if text.isascii() and text.isdigit():
            sockets[cpu] = int(text)
    return sockets
