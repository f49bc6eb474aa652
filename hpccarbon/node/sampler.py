"""Reads all counters on one clock, subtracts them from the last ones, and hands the intervals to the division.

Follow a microjoule here: `tick` reads; `difference` subtracts; `Division` (attribution.py) adds up while the same jobs
hold the node; `_cut` divides an interval in which the set of jobs or the minute changed; `pending` waits for the store.
Between two ticks a `glance` reads CPU time alone, when a job starts or ends: who used it is then known to the
moment, while energy is only ever subtracted over a whole tick, which sensors that update late can bear.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from itertools import repeat
from operator import sub

import msgspec

from hpccarbon.errors import MeterError
from hpccarbon.node.attribution import Division, Holding, Node, PoolKey, Share
from hpccarbon.node.meters import Meter
from hpccarbon.node.sysroot import SysFile, SysRoot, boot_id, online_cpus, parse_cpu_list
from hpccarbon.node.usage import cgroup
from hpccarbon.node.usage.jobs import JobFile, JobFiles, facts
from hpccarbon.node.usage.watch import Watch
from hpccarbon.records import Channel, Gap, Run
from hpccarbon.units import BUCKET_S, NS_PER_S, NS_PER_US, apportion

SYSTEM, UNALLOCATED = "system", "unallocated"
RunKey = tuple[int, str]
"""(job id, run): one run of one job on this node."""
HolderKey = RunKey | str
PUT_OFF_NS = 10 * NS_PER_S
"""A sensor that fails for less than this costs resolution only: the next good reading covers the time."""
RESCAN_NS = 10 * NS_PER_S
FORGOTTEN_NS = 300 * NS_PER_S
"""A job whose group is gone and whose epilog never came has ended when its group went."""
NEVER_SEEN_NS = 24 * 3600 * NS_PER_S
_BUCKET_NS = BUCKET_S * NS_PER_S
_IDLE_WINDOW_NS = 5 * NS_PER_S
_IDLE_PERCENT = 2
_MOST_PIECES = 3_000
_COUNT_SIZE = 64
_SLACK_NS = NS_PER_S // 10
"""Sensors update late (RAPL 1 ms, NVML 100 ms): an interval may hold the energy of a little more time than its own."""


class Mark(msgspec.Struct):
    """The raw counters that everything handed to the store ends at. What a restart continues from."""

    boot_id: str
    at_ns: int
    counters: dict[str, tuple[int, int]] = {}
    """channel -> (energy_uj, at_ns) of its last good reading"""
    idle_uw: dict[str, int] = {}
    scope: tuple[int, int] | None = None
    """(inode, count) of the directory that holds the jobs"""
    busy: int | None = None
    groups: dict[str, tuple[int, int]] = {}
    """`job_id/run` -> (inode, count) of the job's group; inode 0 where it has none now"""
    carry: int = 0
    other_carry_uj: int = 0
    wall_ns: int = 0


class Pending(msgspec.Struct):
    """What was divided and is not yet in the store."""

    shares: dict[tuple[int, HolderKey], Share] = {}
    """(bucket, holder): bucket in seconds of UTC"""
    meters: dict[tuple[int, str], tuple[int, int]] = {}
    """(bucket, channel key) -> (energy_uj, covered_us)"""
    runs: dict[RunKey, Run] = {}
    alloc: dict[RunKey, tuple[int | None, int | None]] = {}
    """run -> (cores, GPUs) held"""

    def __bool__(self) -> bool:
        return bool(self.shares or self.meters or self.runs)


class _Job:
    """A run that is on the node: from its prolog or first sight to its epilog or the end of its group."""

    __slots__ = ("count", "end_ns", "file", "gone_ns", "group", "holding", "inode", "known_ns", "run", "start_ns")

    def __init__(self, run: Run, start_ns: int, known_ns: int) -> None:
        self.run = run
        self.start_ns = start_ns
        self.known_ns = known_ns
        self.end_ns: int | None = None
        self.gone_ns: int | None = None
        self.file: SysFile | None = None
        self.group: cgroup.JobGroup | None = None
        self.inode = 0
        self.count = 0
        self.holding = Holding(run.alloc_cores, run.alloc_mem_bytes)

    @property
    def key(self) -> RunKey:
        return (self.run.job_id, self.run.run)


def difference(channel: Channel, before_uj: int, after_uj: int, dt_ns: int) -> int | None:
    """Energy between two readings of one counter, or None where nobody can know it.

    A counter that went down has wrapped or was reset. It wrapped if it has a range, the time is too short for it to
    have wrapped twice, and the difference is one that the hardware could draw; else it is a gap, never a guess.
    """
    bound_uj = channel.max_power_w * (dt_ns + _SLACK_NS) // 1_000
    delta = after_uj - before_uj
    if channel.range_uj:
        if bound_uj >= channel.range_uj:
            return None
        if delta < 0:
            delta += channel.range_uj
    return delta if 0 <= delta <= bound_uj else None


class Sampler:
    """The node's counters and jobs, tick by tick.

    Args:
        root: where kernel files are; node: the node's name as Slurm knows it.
        meters: what is read, in a fixed order.
        files: what the hooks left.
        cpus: CPUs that Slurm can hand out here (0: those the kernel runs on).
        configured_idle_uw: component -> static power of all its channels together, where the site measured it.
        devices: Slurm's GPU index -> channel device (UUID).
        log: called with one line when something changes.
    """

    def __init__(
        self,
        root: SysRoot,
        node: str,
        meters: Sequence[Meter],
        files: JobFiles,
        *,
        cpus: int = 0,
        configured_idle_uw: Mapping[str, int] | None = None,
        devices: Callable[[Sequence[str]], frozenset[str]] = lambda indices: frozenset(),
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._root = root
        self._node_name = node
        self._meters = tuple(meters)
        self._files = files
        self._devices = devices
        self._log = log
        self.boot_id = boot_id(root)
        self._cpu_sockets = _sockets(root)
        sizes: dict[int, int] = {}
        for socket in self._cpu_sockets.values():
            sizes[socket] = sizes.get(socket, 0) + 1
        self.node = Node(cpus or online_cpus(root), _memory(root), sizes)
        self.watch = Watch()
        self._layout: cgroup.Layout | None = None
        self._scope: SysFile | None = None
        self._scope_inode = 0
        self._busy: SysFile | None = None
        self._jobs: dict[RunKey, _Job] = {}
        self._started: dict[tuple[int, int], _Job] = {}
        self._opened: list[_Job] = []
        self._fds: list[int] = []
        self._stale = True
        self._rescan_ns = 0
        self._replaced: set[RunKey] = set()
        self._synced = True
        self._division_jobs: list[_Job] = []
        self._last_counts: list[int] = []
        self._no_group: list[int] = []
        self._configured_idle_uw = dict(configured_idle_uw or {})
        self._idle_uw: dict[str, int] = {}
        self._window: tuple[int, list[int]] | None = None
        self._windowed: set[str] = set()
        self._owed_uj: dict[PoolKey, int] = {}
        self._glanced: dict[RunKey, int] = {}
        self._glance_ns = 0
        self._scope_count: tuple[int, int] | None = None
        self._gaps: dict[str, tuple[int, str]] = {}
        self._lost: set[str] = set()
        self.pending = Pending()
        self.ended: list[_Job] = []
        self.mark: Mark | None = None
        self.jobs_ended = 0
        self.ticks = 0
        self.put_off = 0
        self._division: Division | None = None
        self._bucket = 0
        self._channels: tuple[Channel, ...] = ()
        self._keys: tuple[str, ...] = ()
        self._take_channels()

    # ---- what is there ------------------------------------------------------------------------------------------

    def _take_channels(self) -> None:
        self._channels = tuple(channel for meter in self._meters for channel in meter.channels)
        self._keys = tuple(channel.key for channel in self._channels)
        for channel in self._channels:
            if channel.idle_uw:
                self._idle_uw[channel.key] = channel.idle_uw
        for component, total_uw in self._configured_idle_uw.items():
            members = {c.key: 1 for c in self._channels if c.component == component}
            if members and total_uw:
                self._idle_uw.update(apportion(total_uw, members))
        self._division = None

    @property
    def channels(self) -> tuple[Channel, ...]:
        """Every counter that is read, in reading order."""
        return self._channels

    @property
    def idle_uw(self) -> dict[str, int]:
        """Static power per channel as known now."""
        return {key: self._idle_uw[key] for key in self._keys if key in self._idle_uw}

    @property
    def gaps(self) -> dict[str, str]:
        """Channels that cannot be read now, and why."""
        return {key: reason for key, (_since, reason) in self._gaps.items()}

    @property
    def present(self) -> list[Run]:
        """The runs on the node now."""
        return [job.run for job in self._jobs.values()]

    def resume(self, mark: Mark, runs: Mapping[RunKey, Run]) -> None:
        """Continue from what the store remembers. A mark of another boot is worth its idle powers alone."""
        self._idle_uw = {**mark.idle_uw, **self._idle_uw}
        if mark.boot_id != self.boot_id:
            return
        self.mark = mark
        self._scope_count = mark.scope
        self._windowed = set(mark.idle_uw)
        for name, (inode, count) in mark.groups.items():
            job_id, _, run = name.partition("/")
            key = (int(job_id), run)
            job = _Job(runs.get(key, Run(run, key[0])), 0, mark.at_ns)
            job.inode, job.count = inode, count
            self._adopt(job)

    def _adopt(self, job: _Job) -> None:
        self._jobs[job.key] = job
        self._started[job.run.job_id, job.run.restart] = job
        self.pending.runs[job.key] = job.run
        self._hold(job)
        self._stale = True

    def _hold(self, job: _Job) -> None:
        """Work out what a job holds, from the hooks first and from its groups where they are silent."""
        run = job.run
        cores, memory = run.alloc_cores, run.alloc_mem_bytes
        sockets: dict[int, int] | None = None
        if job.group is not None and self._layout is not None:
            cpus = cgroup.cpus_of(self._root, self._layout, job.group)
            if cpus and len(cpus) < self.node.cpus:
                cores = cores or len(cpus)
                sockets = {}
                for cpu in cpus:
                    socket = self._cpu_sockets.get(cpu, 0)
                    sockets[socket] = sockets.get(socket, 0) + 1
            memory = memory or cgroup.memory_of(self._root, self._layout, job.group)
        gpus = self._devices(run.alloc_gpus) if run.alloc_gpus else frozenset()
        job.holding = Holding(cores, memory, sockets, gpus)
        self.pending.alloc[job.key] = (cores, len(run.alloc_gpus))

    def notice(self, at_ns: int, wall_ns: int, changed: bool) -> bool:
        """Look for jobs that came or went, where something `changed` or a rescan is due; True if one did."""
        if not changed and at_ns < self._rescan_ns:
            return False
        self._sync()
        before = (len(self._jobs), self.jobs_ended, len(self._opened), self._stale)
        for file in self._files.new():
            self._take_file(file, at_ns, wall_ns)
        self.watch.add(self._files.directory)
        self._find_scope()
        if self._layout is not None:
            self._take_groups(at_ns, wall_ns)
        self._rescan_ns = at_ns + (RESCAN_NS if self._layout is not None else RESCAN_NS // 5)
        self._forget(at_ns)
        return (len(self._jobs), self.jobs_ended, len(self._opened), self._stale) != before

    def _find_scope(self) -> None:
        if self._layout is not None and self._scope is not None:
            if self._root.exists(f"{self._layout.scope}/{self._layout.usage}"):
                return
            self._scope.close()  # Slurm removed it: a new one of the same name is another counter
        self._layout = cgroup.find_layout(self._root, self._node_name)
        self._scope = None
        self._stale = True
        if self._layout is None:
            return
        self._scope = cgroup.open_or_none(self._root, f"{self._layout.scope}/{self._layout.usage}")
        self._busy = cgroup.open_or_none(self._root, self._layout.busy)
        if self._scope is None:
            self._layout = None
            return
        self._scope_inode = self._scope.inode()

    def _take_groups(self, at_ns: int, wall_ns: int) -> None:
        layout = self._layout
        assert layout is not None
        # Watched before it is listed: a group made in between is seen by one or the other.
        self.watch.add(self._root.path(layout.scope))
        for directory in cgroup.user_directories(self._root, layout):
            self.watch.add(self._root.path(f"{layout.scope}/{directory}"))
        groups = cgroup.job_directories(self._root, layout)
        here = {job.group.path: job for job in self._jobs.values() if job.group is not None and job.file is not None}
        for group in groups:
            known = here.get(group.path)
            file = cgroup.open_or_none(self._root, f"{layout.scope}/{group.path}/{layout.usage}")
            if file is None:
                continue
            inode = file.inode()
            if known is not None and known.inode == inode:
                file.close()
                continue
            self._take_group(group, file, inode, at_ns, wall_ns)

    def _take_group(self, group: cgroup.JobGroup, file: SysFile, inode: int, at_ns: int, wall_ns: int) -> None:
        job_id = group.job_id if group.job_id is not None else self._name_sluid(group)
        if job_id is None:
            file.close()  # not named yet: its prolog or its slurmstepd will tell at the next look
            return
        job = next((j for j in self._jobs.values() if j.inode == inode and j.file is None), None)
        if job is None:
            # Without an extern step Slurm removes the group between two steps and makes a new one for the same run.
            open_runs = [j for j in self._jobs.values() if j.run.job_id == job_id and j.end_ns is None]
            job = max(open_runs, key=lambda j: j.run.restart, default=None)
        if job is None:
            restart = max((r for j, r in self._started if j == job_id), default=0)
            run = Run(self._run_name(restart, inode, group.sluid), job_id, group.uid, restart=restart)
            job = _Job(msgspec.structs.replace(run, start_wall_ns=wall_ns), at_ns, at_ns)
        if job.inode != inode:
            if job.file is not None:
                job.file.close()
                self._replaced.add(job.key)
            job.inode, job.count = inode, 0
            if self.mark is None:
                # The first tick of all: what this group used before was nobody's business here.
                job.count = -1
        job.file, job.group, job.gone_ns = file, group, None
        if job.run.uid is None and group.uid is not None:
            job.run = msgspec.structs.replace(job.run, uid=group.uid)
        self._adopt(job)

    def _name_sluid(self, group: cgroup.JobGroup) -> int | None:
        for job in self._jobs.values():
            if job.run.sluid == group.sluid:
                return job.run.job_id
        assert self._layout is not None
        return cgroup.job_of_sluid(self._root, self._layout, group)

    def _run_name(self, restart: int, inode: int, sluid: str | None) -> str:
        """`RESTART.SLUID`, or `RESTART.BOOT.INODE`: the part before the first dot is the same on every node."""
        return f"{restart}.{sluid}" if sluid else f"{restart}.{self.boot_id[:8]}.{inode:x}"

    def _take_file(self, file: JobFile, at_ns: int, wall_ns: int) -> None:
        when_ns = min(at_ns, at_ns - (wall_ns - file.at_wall_ns))
        known = facts(file, self._node_name)
        job = self._started.get((file.job_id, file.restart))
        if file.kind == "prolog":
            if job is None or job.end_ns is not None:
                job = self._first_sight(file, known)
                if job is None:
                    name = known.sluid or f"{self.boot_id[:8]}.p{file.at_wall_ns // NS_PER_US:x}"
                    run = msgspec.structs.replace(known, run=f"{file.restart}.{name}", start_wall_ns=file.at_wall_ns)
                    job = _Job(run, when_ns, at_ns)
                    self._adopt(job)
                    return
            job.run = msgspec.structs.replace(
                known,
                run=job.run.run,
                start_wall_ns=file.at_wall_ns,
                uid=known.uid if known.uid is not None else job.run.uid,
            )
            job.start_ns = max(job.start_ns, when_ns) if job.start_ns else when_ns
            self._adopt(job)
        elif job is not None and job.end_ns is None:
            job.end_ns = when_ns
            job.run = msgspec.structs.replace(job.run, end_wall_ns=file.at_wall_ns)
            self.pending.runs[job.key] = job.run
            self._stale = True
        elif job is None:
            # An epilog alone: the daemon came after the prolog's file was lost. Nothing to charge, nothing to keep.
            self._files.remove(file.job_id, file.restart)

    def _first_sight(self, file: JobFile, known: Run) -> _Job | None:
        """A run whose group was seen before its prolog's file."""
        wanted = (file.job_id, file.restart)
        for job in self._jobs.values():
            unnamed = job.run.user is None and job.end_ns is None and job.inode
            if unnamed and (job.run.job_id, job.run.restart) == wanted:
                return job
        return None

    def _forget(self, at_ns: int) -> None:
        """End what will never be told to have ended: a group that went without an epilog, a prolog that led nowhere."""
        for job in self._jobs.values():
            if job.end_ns is None and job.gone_ns is not None and at_ns - job.gone_ns > FORGOTTEN_NS:
                job.end_ns = job.gone_ns
                self._stale = True
            elif job.end_ns is None and job.inode == 0 and at_ns - job.known_ns > NEVER_SEEN_NS:
                job.end_ns = at_ns
                self._stale = True

    # ---- a tick -------------------------------------------------------------------------------------------------

    def tick(self, at_ns: int, wall_ns: int) -> None:
        """Read everything once, and divide the time since the last tick.

        Args:
            at_ns: boot-time clock (durations); wall_ns: wall clock (labels). Both of this moment.
        """
        self.ticks += 1
        energy = self._read_meters(at_ns)
        if energy is None:
            self.put_off += 1
            return
        if self._stale:
            self._sort_jobs()
        counts = self._read_fast()
        scope, busy = self._count(self._scope), self._count(self._busy)
        mark = self.mark
        if mark is not None and at_ns == mark.at_ns:
            return
        if mark is None or at_ns < mark.at_ns:  # earlier: a boot that did not say so by its id
            self._close_division()
            self._begin(at_ns, wall_ns, energy, counts, scope, busy)
            return
        deltas = self._differences(energy, at_ns)
        first_edge_ns = at_ns - (wall_ns - (wall_ns // _BUCKET_NS) * _BUCKET_NS)
        if (
            counts is not None
            and self._division is not None
            and not self._stale
            and not self._glanced
            and first_edge_ns <= mark.at_ns
            and self._bucket == wall_ns // _BUCKET_NS
        ):
            cpu = list(map(sub, counts, self._last_counts))
            cpu.extend(self._no_group)
            cpu.append(self._system(busy, sum(cpu)))
            if min(cpu) >= 0:
                self._learn(at_ns - mark.at_ns, deltas, sum(cpu))
                self._division.add(at_ns - mark.at_ns, deltas, cpu)
                self._last_counts, self._synced = counts, False
                self._set_mark(at_ns, wall_ns, energy, scope, busy)
                return
        self._cut(at_ns, wall_ns, energy, deltas, scope, busy)

    def _read_meters(self, at_ns: int) -> list[int | None] | None:
        """Every channel's counter; None when the tick is put off because a sensor has just failed."""
        energy: list[int | None] = []
        reasons: dict[str, str] = {}
        for meter in self._meters:
            for reading in meter.read(at_ns):
                if isinstance(reading, Gap):
                    energy.append(None)
                    reasons[f"{reading.meter}/{reading.zone}"] = reading.reason
                else:
                    energy.append(reading.energy_uj)
        if len(energy) != len(self._keys):
            self._close_division()
            self._take_channels()
            return None
        if reasons or self._gaps:
            return self._judge_gaps(energy, reasons, at_ns)
        return energy

    def _judge_gaps(self, energy: list[int | None], reasons: Mapping[str, str], at_ns: int) -> list[int | None] | None:
        put_off = False
        for key, value in zip(self._keys, energy, strict=True):
            if value is None:
                since = self._gaps[key][0] if key in self._gaps else at_ns
                self._gaps[key] = (since, reasons.get(key, "cannot be read"))
                young = at_ns - since < PUT_OFF_NS
                if young and self.mark is not None and key in self.mark.counters:
                    put_off = True
                elif not young and key not in self._lost:
                    self._lost.add(key)
                    self._log(f"gap: {key} cannot be read: {self._gaps[key][1]}")
            elif key in self._gaps:
                since, _ = self._gaps.pop(key)
                if key in self._lost:
                    self._lost.discard(key)
                    self._log(f"gap closed: {key} can be read again after {(at_ns - since) / NS_PER_S:.0f} s")
        return None if put_off else energy

    def _read_fast(self) -> list[int] | None:
        """CPU time of every job's group, or None if one of them cannot be read."""
        try:
            if self._layout is None or self._layout.version == 1:
                return list(map(int, map(os.pread, self._fds, repeat(_COUNT_SIZE), repeat(0))))
            return [int(os.pread(fd, _COUNT_SIZE, 0).split(None, 2)[1]) for fd in self._fds]
        except (OSError, ValueError, IndexError):
            return None

    def _count(self, file: SysFile | None) -> int | None:
        if file is None or self._layout is None:
            return None
        try:
            return cgroup.read_usage(file, self._layout.version)
        except MeterError:
            return None

    def _begin(
        self,
        at_ns: int,
        wall_ns: int,
        energy: list[int | None],
        counts: list[int] | None,
        scope: int | None,
        busy: int | None,
    ) -> None:
        """The first tick: nothing to subtract from yet."""
        self._read_each(at_ns)
        for job in self._opened:
            job.count = max(job.count, 0)
        self.mark = Mark(self.boot_id, at_ns)
        self._set_mark(at_ns, wall_ns, energy, scope, busy)
        self._stale = True
        self._open_division(at_ns, wall_ns)

    def _read_each(self, at_ns: int) -> dict[RunKey, int]:
        """CPU time of each job since its last count, one by one; a group that is gone is closed and left out."""
        used: dict[RunKey, int] = {}
        for job in self._opened:
            assert job.file is not None
            try:
                count = cgroup.read_usage(job.file, self._layout.version if self._layout else 1)
            except MeterError:
                job.file.close()
                job.file = None
                job.gone_ns = at_ns
                self._stale = True
                continue
            used[job.key] = max(0, count - job.count) if job.count >= 0 else 0
            job.count = count
        return used

    def _sort_jobs(self) -> None:
        self._opened = [job for job in self._jobs.values() if job.file is not None]
        self._fds = [job.file.fd for job in self._opened if job.file is not None]

    def _differences(self, energy: Sequence[int | None], at_ns: int) -> list[int | None]:
        assert self.mark is not None
        counters = self.mark.counters
        deltas: list[int | None] = []
        for channel, key, now in zip(self._channels, self._keys, energy, strict=True):
            last = counters.get(key)
            if now is None or last is None:
                deltas.append(None)
                continue
            delta = difference(channel, last[0], now, at_ns - last[1])
            if delta is None:
                self._log(
                    f"gap: {key} went from {last[0]} to {now} µJ in {(at_ns - last[1]) / NS_PER_S:.1f} s: "
                    "reset, or wrapped more than once; this time is not billed"
                )
            deltas.append(delta)
        return deltas

    def _system(self, busy: int | None, jobs: int) -> int:
        """CPU time that no job used. Counters are read one after the other, so it can come out a little negative:
        what is missing is carried, and the sum over time is right."""
        mark = self.mark
        assert mark is not None
        if busy is None or mark.busy is None:
            return 0
        rest = busy - mark.busy - jobs + mark.carry
        if rest < 0:
            mark.carry = rest
            return 0
        mark.carry = 0
        return rest

    def _set_mark(
        self, at_ns: int, wall_ns: int, energy: Sequence[int | None], scope: int | None, busy: int | None
    ) -> None:
        mark = self.mark
        assert mark is not None
        mark.at_ns, mark.wall_ns, mark.busy = at_ns, wall_ns, busy
        mark.scope = self._scope_count = (self._scope_inode, scope) if scope is not None else None
        counters = mark.counters
        for key, value in zip(self._keys, energy, strict=True):
            if value is not None:
                counters[key] = (value, at_ns)

    # ---- when the set of jobs or the minute changes ---------------------------------------------------------------

    def _cut(
        self,
        at_ns: int,
        wall_ns: int,
        energy: Sequence[int | None],
        deltas: Sequence[int | None],
        scope: int | None,
        busy: int | None,
    ) -> None:
        """Divide an interval in which something changed, cut at every minute, and begin anew."""
        mark = self.mark
        assert mark is not None
        self._close_division()
        start_ns = mark.at_ns
        jobs = list(self._jobs.values())
        self._look_at_usage(at_ns, scope)
        used, self._glanced = self._glanced, {}
        cpu = [used.get(job.key, 0) for job in jobs]
        cpu.append(self._system(busy, sum(cpu)))
        spans = [(max(start_ns, job.start_ns), min(at_ns, at_ns if job.end_ns is None else job.end_ns)) for job in jobs]
        # A job that used CPU time was there, whatever its files' clock says.
        spans = [(s, e) if e > s or not c else (start_ns, at_ns) for (s, e), c in zip(spans, cpu, strict=False)]
        self._learn(at_ns - start_ns, deltas, sum(cpu))
        for left, right, bucket in _pieces(start_ns, at_ns, wall_ns):
            self._divide_piece(jobs, spans, left, right, bucket, (start_ns, at_ns), deltas, cpu)
        self._set_mark(at_ns, wall_ns, energy, scope, busy)
        self._retire(at_ns)
        self._open_division(at_ns, wall_ns)

    def glance(self, at_ns: int) -> None:
        """Read CPU time between two ticks, after `notice` saw a job start or end."""
        if self.mark is not None and at_ns > max(self._glance_ns, self.mark.at_ns):
            self._look_at_usage(at_ns, self._count(self._scope))

    def _look_at_usage(self, at_ns: int, scope: int | None) -> None:
        """Add the CPU time since the last look to `_glanced`, that of groups that are gone included."""
        assert self.mark is not None
        self._sync()
        if self._stale:
            self._sort_jobs()
        used = self._read_each(at_ns)
        self._charge_vanished(used, max(self._glance_ns, self.mark.at_ns), at_ns, scope)
        for key, count in used.items():
            self._glanced[key] = self._glanced.get(key, 0) + count
        self._glance_ns = at_ns
        self._stale = True

    def _charge_vanished(self, used: dict[RunKey, int], start_ns: int, at_ns: int, scope: int | None) -> None:
        """CPU time of groups that are gone: what the scope counted more than its living groups did."""
        if scope is None:
            return
        jobs = self._jobs.values()
        last = self._scope_count
        before = last[1] if last is not None and last[0] == self._scope_inode else 0
        self._scope_count = (self._scope_inode, scope)
        rest = scope - before - sum(used.values())
        gone = [job for job in jobs if job.gone_ns == at_ns]
        gone += [job for job in jobs if job.inode and job.file is None and job.gone_ns is None]  # while no daemon ran
        for job in gone:
            job.gone_ns = at_ns if job.gone_ns is None else job.gone_ns
        gone += [job for job in jobs if job.key in self._replaced]
        self._replaced.clear()
        gone += [job for job in jobs if job.inode == 0 and job.end_ns is not None and job.end_ns >= start_ns]
        gone = gone or [job for job in jobs if job.inode == 0 and job.end_ns is None]
        if rest <= 0 or not gone:
            return
        weights = {}
        for job in gone:
            there = (at_ns if job.end_ns is None else min(job.end_ns, at_ns)) - max(job.start_ns, start_ns)
            weights[job.key] = max(1, there) * (job.holding.cores or 1)
        used.update({key: used.get(key, 0) + part for key, part in apportion(rest, weights).items()})

    def _divide_piece(
        self,
        jobs: Sequence[_Job],
        spans: Sequence[tuple[int, int]],
        left: int,
        right: int,
        bucket: int,
        whole: tuple[int, int],
        deltas: Sequence[int | None],
        cpu: Sequence[int],
    ) -> None:
        """One piece of an interval: energy by time, each job's CPU time by the time it was there."""
        begin, end = whole
        part = [
            None
            if delta is None
            else delta * (right - begin) // (end - begin) - delta * (left - begin) // (end - begin)
            for delta in deltas
        ]
        present = [max(0, min(right, last) - max(left, first)) for first, last in spans]
        share = []
        for used, (first, last) in zip(cpu, [*spans, whole], strict=True):
            length = max(last - first, 1)
            low, high = min(max(left, first), last) - first, min(max(right, first), last) - first
            share.append(used * high // length - used * low // length)
        here = [index for index, there in enumerate(present) if there > 0 or share[index]]
        division = self._new_division([jobs[index] for index in here])
        division.add(right - left, part, [*(share[i] for i in here), share[-1]], [present[i] for i in here])
        self._collect(division, [jobs[index].key for index in here], bucket)

    def _new_division(self, jobs: Sequence[_Job]) -> Division:
        idle = [self._idle_uw.get(key, 0) for key in self._keys]
        unit = self._layout.unit_ns if self._layout is not None else 1
        return Division(self.node, self._channels, idle, [job.holding for job in jobs], unit, self._owed_uj)

    def _sync(self) -> None:
        """Bring the counts of ordinary ticks, kept in a list for speed, home to their jobs."""
        if not self._synced:
            for job, count in zip(self._division_jobs, self._last_counts, strict=False):
                job.count = count
            self._synced = True

    def _open_division(self, at_ns: int, wall_ns: int) -> None:
        self._sort_jobs()
        without = [job for job in self._jobs.values() if job.file is None]
        self._division_jobs = [*self._opened, *without]
        self._last_counts = [job.count for job in self._opened]
        self._no_group = [0] * len(without)
        self._division = self._new_division(self._division_jobs)
        self._bucket = wall_ns // _BUCKET_NS
        self._stale = False

    def _close_division(self) -> None:
        if self._division is not None and self._division.length_ns:
            self._collect(self._division, [job.key for job in self._division_jobs], self._bucket)
        self._division = None

    def _collect(self, division: Division, keys: Sequence[RunKey], bucket: int) -> None:
        assert self.mark is not None
        jobs, system, unallocated = division.close(self.mark.other_carry_uj)
        self.mark.other_carry_uj = division.other_carry_uj
        minute = bucket * BUCKET_S
        shares = self.pending.shares
        holders: list[HolderKey] = [*keys, SYSTEM, UNALLOCATED]
        for holder, share in zip(holders, [*jobs, system, unallocated], strict=True):
            kept = shares.get((minute, holder))
            if kept is None:
                shares[minute, holder] = share
            else:
                kept.add(share)
        for key, energy in zip(self._keys, division.meter_uj, strict=True):
            if energy is not None:
                before, covered = self.pending.meters.get((minute, key), (0, 0))
                self.pending.meters[minute, key] = (before + energy, covered + division.length_ns // NS_PER_US)

    def _retire(self, at_ns: int) -> None:
        """Let go of runs that have ended and whose group is gone."""
        for key, job in list(self._jobs.items()):
            if job.end_ns is None or (job.file is not None and at_ns - job.end_ns < FORGOTTEN_NS):
                continue
            if job.file is not None:
                job.file.close()
            del self._jobs[key]
            if self._started.get((job.run.job_id, job.run.restart)) is job:
                del self._started[job.run.job_id, job.run.restart]
            self.ended.append(job)
            self.jobs_ended += 1

    def _learn(self, dt_ns: int, deltas: Sequence[int | None], busy: int) -> None:
        """Learn the static power of each channel: the lowest mean of five idle seconds in a row.

        Until the first five seconds are over, the lowest of single idle ticks stands in.
        """
        unit = self._layout.unit_ns if self._layout is not None else 1
        idle = busy * unit * 100 <= _IDLE_PERCENT * self.node.cpus * dt_ns and self._busy is not None
        if not idle or None in deltas:
            self._window = None
            return
        length, energy = self._window or (0, [0] * len(deltas))
        length += dt_ns
        energy = [have + (more or 0) for have, more in zip(energy, deltas, strict=True)]
        full = length >= _IDLE_WINDOW_NS
        self._window = None if full else (length, energy)
        learned = False
        for channel, key, total in zip(self._channels, self._keys, energy, strict=True):
            known = channel.idle_uw or self._configured_idle_uw.get(channel.component)
            if known or (not full and key in self._windowed):
                continue
            power_uw = total * NS_PER_S // length
            if full and key not in self._windowed:
                self._windowed.add(key)
            elif power_uw >= self._idle_uw.get(key, power_uw + 1):
                continue
            self._idle_uw[key] = power_uw
            learned = True
        if learned and self._division is not None:
            self._division.relearn([self._idle_uw.get(key, 0) for key in self._keys])

    # ---- handing over -------------------------------------------------------------------------------------------

    def settle(self) -> Mark | None:
        """Close the running division into `pending`; the mark that everything pending ends at."""
        mark = self.mark
        if mark is None:
            return None
        self._close_division()
        self._sync()
        mark.idle_uw = self.idle_uw
        # What a glance has read since the last tick is not divided yet: the mark stands before it, as its energy does.
        mark.groups = {
            f"{job.run.job_id}/{job.run.run}": (job.inode, max(0, job.count - self._glanced.get(job.key, 0)))
            for job in self._jobs.values()
        }
        self._open_division(mark.at_ns, mark.wall_ns)
        return mark

    def committed(self) -> list[Run]:
        """The store has `pending`: start afresh. Returns the runs that have ended and may be forgotten."""
        self.pending = Pending()
        ended, self.ended = [job.run for job in self.ended], []
        return ended

    def refresh(self) -> None:
        """Let the meters look for hardware that came or went."""
        changed = [meter.name for meter in self._meters if meter.refresh()]
        if changed:
            self._close_division()
            self._take_channels()
            self._stale = True
            self._log(f"meters changed ({', '.join(changed)}): {', '.join(self._keys) or 'none left'}")

    def close(self) -> None:
        """Give all descriptors back."""
        for job in self._jobs.values():
            if job.file is not None:
                job.file.close()
        for meter in self._meters:
            meter.close()
        self.watch.close()


def _pieces(start_ns: int, end_ns: int, wall_ns: int) -> list[tuple[int, int, int]]:
    """(from, to, bucket) for an interval that ends now, cut at the minutes of the wall clock as it stands now.

    After a long absence pieces grow to hours: days in minutes would keep the next tick waiting.
    """
    offset = wall_ns - end_ns
    step = _BUCKET_NS if (end_ns - start_ns) // _BUCKET_NS <= _MOST_PIECES else 60 * _BUCKET_NS
    pieces = []
    left = start_ns
    while left < end_ns:
        edge = ((left + offset) // step + 1) * step - offset
        right = min(edge, end_ns)
        pieces.append((left, right, (left + offset) // _BUCKET_NS))
        left = right
    return pieces


def _sockets(root: SysRoot) -> dict[int, int]:
    """CPU -> package, from sysfs; empty where the topology is not shown."""
    sockets: dict[int, int] = {}
    try:
        cpus = parse_cpu_list(root.word("sys/devices/system/cpu/online"))
    except ValueError:
        return {}
    for cpu in cpus:
        text = root.word(f"sys/devices/system/cpu/cpu{cpu}/topology/physical_package_id")
        if text.isascii() and text.isdigit():
            sockets[cpu] = int(text)
    return sockets


def _memory(root: SysRoot) -> int:
    """MemTotal in bytes, 0 where unknown."""
    for line in root.word("proc/meminfo").splitlines():
        words = line.split()
        if words[:1] == ["MemTotal:"] and len(words) > 1 and words[1].isdigit():
            return int(words[1]) * 1024
    return 0
