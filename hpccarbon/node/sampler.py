"""Reads all counters on one clock, subtracts them from the last ones, and hands the intervals to the division.

Follow a microjoule here: `tick` reads; `difference` subtracts; `Division` (attribution.py) adds up while the same jobs
hold the node; `_cut` divides an interval in which the set of jobs or the minute changed (pieces.py); `pending` waits
for the store. What the node draws for being on is learned in idle.py.
Between two ticks a `glance` reads CPU time alone, when a job starts or ends: who used it is then known to the
moment, while energy is only ever subtracted over a whole tick, which sensors that update late can bear.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import sub

import msgspec

from hpccarbon.node.attribution import Division, Node, PoolKey, Share
from hpccarbon.node.idle import IdlePower
from hpccarbon.node.meters import Gpu, GpuUnit, Meter, SlowMeter, gpu_meters, gpu_units, slow_meters
from hpccarbon.node.pieces import BUCKET_NS, Interval, Piece
from hpccarbon.node.sysroot import SysRoot, boot_id, online_cpu_list, online_cpus
from hpccarbon.node.usage.jobs import JobFiles
from hpccarbon.node.usage.roster import Job, Roster, RunKey
from hpccarbon.node.usage.steps import Steps, StepUse, divide
from hpccarbon.node.usage.steps import Weights as StepWeights
from hpccarbon.node.usage.weights import CPU_TIME, Weights
from hpccarbon.records import Channel, Reading, Run
from hpccarbon.units import BUCKET_S, HOUR_S, NS_PER_S, NS_PER_US

SYSTEM, UNALLOCATED = "system", "unallocated"
HolderKey = RunKey | str
PUT_OFF_NS = 10 * NS_PER_S
"""A sensor that fails for less than this costs resolution only: the next good reading covers the time."""
_SLACK_NS = NS_PER_S // 10
"""Sensors update late (RAPL 1 ms, NVML 100 ms): an interval may hold the energy of a little more time than its own."""


class Mark(msgspec.Struct):
    """The raw counters that everything handed to the store ends at. What a restart continues from."""

    boot_id: str
    at_ns: int
    wall_ns: int = 0
    counters: dict[str, tuple[int, int]] = {}
    """`Channel.counter` -> (energy_uj, at_ns) of its last good reading"""
    idle_uw: dict[str, int] = {}
    assumed_uw: dict[str, int] = {}
    """static power that nobody measured, from the model of the CPU's family"""
    scope: tuple[int, int] | None = None
    """(inode, count) of the directory that holds the jobs"""
    busy_ns: int | None = None
    groups: dict[str, tuple[int, int]] = {}
    """`job_id/run` -> (inode, count) of the job's group; inode 0 where it has none yet"""
    busy_carry_ns: int = 0
    other_carry_uj: int = 0
    steps: dict[str, int] | None = None
    """`job_id/run/step` -> count of the step's group; None where steps are not kept"""


class Pending(msgspec.Struct):
    """What was divided and is not yet in the store."""

    shares: dict[tuple[int, HolderKey], Share] = {}
    """(bucket, holder): bucket in seconds of UTC"""
    meters: dict[tuple[int, str], tuple[int, int]] = {}
    """(bucket, channel key) -> (energy_uj, covered_us)"""
    runs: dict[RunKey, Run] = {}
    alloc: dict[RunKey, tuple[int | None, int | None]] = {}
    """run -> (cores, GPUs) held"""
    steps: dict[tuple[int, RunKey, str], StepUse] = {}
    """(hour, run, step): hour since the epoch; together the shares of the run's minutes in it"""

    def __bool__(self) -> bool:
        return bool(self.shares or self.meters or self.runs)


class _Now(msgspec.Struct, frozen=True):
    """One tick's readings."""

    at_ns: int
    wall_ns: int
    energy: list[int | None]
    scope: tuple[int, int] | None
    busy_ns: int | None


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
        assumed_idle_uw: static power of the CPUs until it is learned; 0: none, all of it counts as dynamic.
        weigh_by: what dynamic energy goes by: CPU time, or a hardware event (usage/weights.py).
        keep_steps: whether each job's energy is divided among its steps too (usage/steps.py).
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
        assumed_idle_uw: int = 0,
        weigh_by: str = CPU_TIME,
        keep_steps: bool = False,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._meters = tuple(meters)
        self._log = log
        self._steps = Steps(root, kept=keep_steps)
        self.boot_id = boot_id(root)
        count = cpus or online_cpus(root)
        self._gpu_meters = gpu_meters(meters)
        self._shared_gpus: frozenset[str] = frozenset()
        self._pids: dict[int, RunKey | None] = {}
        self._held_units: dict[RunKey, tuple[GpuUnit, ...]] = {}
        self.weights = Weights(root, weigh_by, online_cpu_list(root), log)
        self.roster = Roster(root, node, count, files, self.boot_id, self._gpus_held)
        sizes: dict[int, int] = {}
        for socket in self.roster.sockets.values():
            sizes[socket] = sizes.get(socket, 0) + 1
        self.node = Node(count, _memory(root), sizes, self._gpu_parts())
        self._idle = IdlePower(count, configured_idle_uw or {}, assumed_idle_uw)
        self._owed_uj: dict[PoolKey, int] = {}
        self._gaps: dict[str, tuple[int, str]] = {}
        self._lost: set[str] = set()
        self.pending = Pending()
        self.mark: Mark | None = None
        self._division: Division | None = None
        self._division_jobs: list[Job] = []
        self._division_keys: list[RunKey] = []
        self._last_counts: list[int] = []
        self._no_group: list[int] = []
        self._synced = True
        self._bucket = 0
        self._channels: tuple[Channel, ...]
        self._reading: tuple[Meter, ...]
        self._slow: list[SlowMeter]
        self._keys: tuple[str, ...]
        self._counters: tuple[str, ...]
        self._take_channels()

    # ---- what is there ------------------------------------------------------------------------------------------

    def _take_channels(self) -> None:
        self._channels = tuple(channel for meter in self._meters for channel in meter.channels)
        self._keys = tuple(channel.key for channel in self._channels)
        self._counters = tuple(channel.counter for channel in self._channels)
        self._reading = tuple(meter for meter in self._meters if meter.channels)
        self._slow = slow_meters(self._reading)
        self._idle.take(self._channels)
        self._division = None

    @property
    def channels(self) -> tuple[Channel, ...]:
        """Every counter that is read, in reading order."""
        return self._channels

    @property
    def idle_uw(self) -> dict[str, int]:
        """Static power per channel as known or assumed now."""
        return {**self._idle.learned_uw, **self._idle.assumed_uw}

    @property
    def assumed_uw(self) -> dict[str, int]:
        """The part of `idle_uw` that nobody measured."""
        return self._idle.assumed_uw

    @property
    def learned(self) -> bool:
        """Whether an idle power is new since `settle`: worth a commit before the minute ends."""
        return self._idle.fresh

    @property
    def gaps(self) -> dict[str, str]:
        """Channels that cannot be read now, and why."""
        return {key: reason for key, (_since, reason) in self._gaps.items()}

    @property
    def present(self) -> list[Run]:
        """The runs on the node now."""
        return [job.run for job in self.roster.jobs]

    def resume(self, mark: Mark, runs: Mapping[RunKey, Run]) -> None:
        """Continue from what the store remembers. A mark of another boot is worth its idle powers alone."""
        self._idle.resume(mark.idle_uw)
        self._division = None
        if mark.boot_id == self.boot_id:
            self.mark = mark
            self.roster.resume(mark.groups, mark.scope, runs, mark.at_ns, mark.wall_ns)
            self._steps.resume(mark.steps)

    def notice(self, at_ns: int, wall_ns: int, changed: bool) -> None:
        """Look for jobs that came or went, where something `changed` or a rescan is due."""
        if changed or self.roster.due(at_ns):
            self._sync()
            self.roster.notice(at_ns, wall_ns)
            self._steps.follow(self.roster.layout, self.roster.jobs)

    def glance(self, at_ns: int) -> None:
        """Read CPU time between two ticks, after `notice` saw a job start or end."""
        if self.mark is not None and at_ns > self.mark.at_ns:
            self._sync()
            self.roster.look(at_ns, self.mark.at_ns, self.roster.scope_count())

    @property
    def slow(self) -> bool:
        """Whether a meter's answer takes time, so that `ask` ahead of a tick is worth while."""
        return bool(self._slow)

    def ask(self) -> None:
        """Have slow meters asked. Their drivers answer while nobody waits, and take nothing from a tick."""
        for meter in self._slow:
            meter.begin()

    # ---- a tick -------------------------------------------------------------------------------------------------

    def tick(self, at_ns: int, wall_ns: int) -> None:
        """Read everything once, and divide the time since the last tick.

        Args:
            at_ns: boot-time clock (durations); wall_ns: wall clock (labels). Both of this moment.
        """
        self.ask()
        roster, mark = self.roster, self.mark
        if roster.changed:
            roster.sort()
        counts = roster.counts()
        energy = self._read_meters(at_ns)
        if energy is None:
            return
        now = _Now(at_ns, wall_ns, energy, roster.scope_count(), roster.busy_ns())
        if mark is None or at_ns < mark.at_ns:  # earlier: a boot that did not say so by its id
            self._begin(now)
        elif at_ns > mark.at_ns:
            deltas = self._differences(energy, at_ns)
            if counts is None or not self._go_on(now, deltas, counts):
                self._cut(now, deltas)

    def _go_on(self, now: _Now, deltas: Sequence[int | None], counts: list[int]) -> bool:
        """The ordinary tick: the same jobs in the same minute. False where that is not so and nothing was done."""
        mark, division, roster = self.mark, self._division, self.roster
        assert mark is not None
        minute_ns = now.at_ns - now.wall_ns % BUCKET_NS
        same = self._bucket == now.wall_ns // BUCKET_NS and minute_ns <= mark.at_ns
        if division is None or roster.changed or roster.looked or not same:
            return False
        cpu = list(map(sub, counts, self._last_counts))
        cpu.extend(self._no_group)
        if cpu and min(cpu) < 0:
            return False
        jobs = sum(cpu)
        system = self._system(now.busy_ns, jobs)
        cpu.append(system)
        dt_ns = now.at_ns - mark.at_ns
        self._learn(dt_ns, deltas, jobs + system)
        work = self.weights.take(self._division_keys, cpu)
        division.add(dt_ns, deltas, cpu, gpu_use=self._gpu_use(self._division_jobs), work=work)
        self._steps.add(roster.layout, self._division_keys, cpu)
        self._last_counts, self._synced = counts, False
        self._set_mark(now)
        return True

    def _begin(self, now: _Now) -> None:
        """The first tick: nothing to subtract from yet."""
        self._close_division()
        self.mark = Mark(self.boot_id, now.at_ns)
        self.roster.look(now.at_ns, now.at_ns, now.scope)
        self.roster.take_used()
        self.roster.first = False
        self._set_mark(now)
        self._open_division(now.wall_ns)

    def _read_meters(self, at_ns: int) -> list[int | None] | None:
        """Every channel's counter; None when the tick is put off because a sensor has just failed."""
        energy: list[int | None] = []
        reasons: dict[str, str] = {}
        for meter in self._reading:
            for reading in meter.read(at_ns):
                if type(reading) is Reading:
                    energy.append(reading.energy_uj)
                else:
                    energy.append(None)
                    reasons[f"{reading.meter}/{reading.zone}"] = getattr(reading, "reason", "")
        if len(energy) != len(self._keys):
            self._close_division()
            self._take_channels()
            return None
        if reasons or self._gaps:
            return self._judge_gaps(energy, reasons, at_ns)
        return energy

    def _judge_gaps(self, energy: list[int | None], reasons: Mapping[str, str], at_ns: int) -> list[int | None] | None:
        put_off = False
        for key, counter, value in zip(self._keys, self._counters, energy, strict=True):
            if value is None:
                since = self._gaps[key][0] if key in self._gaps else at_ns
                self._gaps[key] = (since, reasons.get(key, "cannot be read"))
                young = at_ns - since < PUT_OFF_NS
                if young and self.mark is not None and counter in self.mark.counters:
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

    def _differences(self, energy: Sequence[int | None], at_ns: int) -> list[int | None]:
        assert self.mark is not None
        counters = self.mark.counters
        deltas: list[int | None] = []
        for channel, counter, now in zip(self._channels, self._counters, energy, strict=True):
            last = counters.get(counter)
            if now is None or last is None:
                deltas.append(None)
                continue
            delta = difference(channel, last[0], now, at_ns - last[1])
            if delta is None:
                self._log(
                    f"gap: {channel.key} went from {last[0]} to {now} µJ in {(at_ns - last[1]) / NS_PER_S:.1f} s: "
                    "reset, or wrapped more than once; this time is not billed"
                )
            deltas.append(delta)
        return deltas

    def _system(self, busy_ns: int | None, jobs: int) -> int:
        """CPU time that no job used, in counts as `jobs`.

        Counters are read one after the other, so it can come out a little negative: what is missing is carried, and
        the sum over time is right.
        """
        mark = self.mark
        assert mark is not None
        if busy_ns is None or mark.busy_ns is None:
            return 0
        unit_ns = self.roster.unit_ns
        rest_ns = busy_ns - mark.busy_ns - jobs * unit_ns + mark.busy_carry_ns
        counts = max(rest_ns, 0) // unit_ns
        mark.busy_carry_ns = rest_ns - counts * unit_ns
        return counts

    def _set_mark(self, now: _Now) -> None:
        mark = self.mark
        assert mark is not None
        mark.at_ns, mark.wall_ns, mark.busy_ns, mark.scope = now.at_ns, now.wall_ns, now.busy_ns, now.scope
        self.roster.ticked(now.scope)
        counters = mark.counters
        for counter, value in zip(self._counters, now.energy, strict=True):
            if value is not None:
                counters[counter] = (value, now.at_ns)

    # ---- when the set of jobs or the minute changes ---------------------------------------------------------------

    def _cut(self, now: _Now, deltas: Sequence[int | None]) -> None:
        """Divide an interval in which something changed, cut at every minute, and begin anew."""
        mark, roster = self.mark, self.roster
        assert mark is not None
        self._close_division()
        self._sync()
        start_ns, at_ns = mark.at_ns, now.at_ns
        roster.look(at_ns, start_ns, now.scope)
        used = roster.take_used()
        jobs = roster.jobs
        cpu = [used.get(job.key, 0) for job in jobs]
        cpu.append(self._system(now.busy_ns, sum(cpu)))
        spans = [job.span(start_ns, at_ns) for job in jobs]
        # A job that used CPU time was there, whatever its files' clock says.
        spans = [(s, e) if e > s or not c else (start_ns, at_ns) for (s, e), c in zip(spans, cpu, strict=False)]
        self._learn(at_ns - start_ns, deltas, sum(cpu))
        idle = [self._idle.of(key) for key in self._keys]
        gpus = [job.holding.gpus for job in jobs]
        work = self.weights.take([job.key for job in jobs], cpu)
        whole = Interval(start_ns, at_ns, self._channels, idle, deltas, spans, gpus, cpu, work)
        self._steps.add(roster.layout, [job.key for job in jobs], cpu)
        steps = self._steps.take()
        for piece in whole.pieces(now.wall_ns):
            self._divide_piece(jobs, piece, steps)
        self._set_mark(now)
        roster.retire(at_ns)
        self._open_division(now.wall_ns)

    def _divide_piece(self, jobs: Sequence[Job], piece: Piece, steps: Mapping[RunKey, StepWeights]) -> None:
        """One piece of an interval, among those who were there or used something."""
        here = [index for index, there in enumerate(piece.present_ns) if there > 0 or piece.cpu[index]]
        those = [jobs[index] for index in here]
        used = [piece.cpu[index] for index in (*here, -1)]
        work = None if piece.work is None else [piece.work[index] for index in (*here, -1)]
        present = [piece.present_ns[index] for index in here]
        division = self._new_division(those)
        division.add(piece.length_ns, piece.energy_uj, used, present, self._gpu_use(those), work)
        self._collect(division, [job.key for job in those], piece.bucket, steps)

    def _new_division(self, jobs: Sequence[Job]) -> Division:
        idle = [self._idle.of(key) for key in self._keys]
        holdings = [job.held for job in jobs]
        return Division(self.node, self._channels, idle, holdings, self.roster.unit_ns, self._owed_uj)

    def _sync(self) -> None:
        """Bring the counts of ordinary ticks, kept in a list for speed, home to their jobs."""
        if not self._synced:
            for job, count in zip(self._division_jobs, self._last_counts, strict=False):
                job.count = count
            self._synced = True

    def _open_division(self, wall_ns: int) -> None:
        roster = self.roster
        roster.sort()
        without = [job for job in roster.jobs if job.file is None]
        self._division_jobs = [*roster.opened, *without]
        self._last_counts = [job.count for job in roster.opened]
        self._no_group = [0] * len(without)
        self._division_keys = [job.key for job in self._division_jobs]
        self._division = self._new_division(self._division_jobs)
        roster.weigh(self.weights)
        self._steps.follow(roster.layout, self._division_jobs)
        self._watch_shared_gpus()
        self._bucket = wall_ns // BUCKET_NS
        roster.changed = False

    def _close_division(self) -> None:
        if self._division is not None and self._division.length_ns:
            self._collect(self._division, self._division_keys, self._bucket, self._steps.take())
        self._division = None

    def _collect(
        self, division: Division, keys: Sequence[RunKey], bucket: int, steps: Mapping[RunKey, StepWeights]
    ) -> None:
        assert self.mark is not None
        self._idle.bound(division.length_ns, division.meter_uj)
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
        if self._steps.kept:
            for run, share in zip(keys, jobs, strict=True):
                for step, use in divide(share, steps.get(run, {})).items():
                    self.pending.steps.setdefault((minute // HOUR_S, run, step), StepUse()).add(use)
        for key, energy in zip(self._keys, division.meter_uj, strict=True):
            if energy is not None:
                before, covered = self.pending.meters.get((minute, key), (0, 0))
                self.pending.meters[minute, key] = (before + energy, covered + division.length_ns // NS_PER_US)

    def _learn(self, dt_ns: int, deltas: Sequence[int | None], busy: int) -> None:
        """Learn what the node draws for being on, from an interval in which nobody worked."""
        idle, mark = self._idle, self.mark
        if idle.busy(dt_ns, busy * self.roster.unit_ns):
            return
        known = [delta for delta in deltas if delta is not None]
        if len(known) < len(deltas) or mark is None or mark.busy_ns is None:
            idle.forget_window()
            return
        held = {device for job in self.roster.jobs for device in job.holding.gpus}
        if idle.learn(dt_ns, known, held) and self._division is not None:
            self._division.relearn([idle.of(key) for key in self._keys])

    # ---- GPUs ---------------------------------------------------------------------------------------------------

    def _gpus(self) -> list[Gpu]:
        return [gpu for meter in self._gpu_meters for gpu in meter.devices()]

    def _gpus_held(self, names: Iterable[str]) -> dict[str, int]:
        """Device -> parts of it that a job holds, from what Slurm calls its GPUs."""
        held: dict[str, int] = {}
        for unit in gpu_units(self._gpus(), names).values():
            held[unit.device] = held.get(unit.device, 0) + unit.size
        return held

    def _gpu_parts(self) -> dict[str, int]:
        gpus = self._gpus()
        return {unit.device: unit.of for unit in gpu_units(gpus, [str(n) for n in range(16 * len(gpus))]).values()}

    def _watch_shared_gpus(self) -> None:
        """Have the meters count what processes use of GPUs that several jobs hold; of the others nobody asks."""
        holders = [device for job in self._division_jobs for device in job.holding.gpus]
        shared = frozenset(device for device in holders if holders.count(device) > 1)
        self._pids.clear()  # pids come back
        gpus = self._gpus() if shared else []
        self._held_units = {
            job.key: tuple(gpu_units(gpus, job.run.alloc_gpus).values())
            for job in self._division_jobs
            if shared.intersection(job.holding.gpus)
        }
        if shared != self._shared_gpus:
            self._shared_gpus = shared
            for meter in self._gpu_meters:
                meter.watch_processes(shared)

    def _gpu_use(self, jobs: Sequence[Job]) -> dict[str, list[int]] | None:
        """Device -> what each of these jobs used of it since the last tick; None where no GPU is shared."""
        if not self._shared_gpus:
            return None
        place = {job.key: number for number, job in enumerate(jobs)}
        use: dict[str, list[int]] = {}
        for meter in self._gpu_meters:
            for device in self._shared_gpus:
                if busy := meter.instances(device):
                    use[device] = [self._busy(job, device, busy) for job in jobs]
                for pid, amount in meter.processes(device).items():
                    if pid not in self._pids:
                        self._pids[pid] = self.roster.owner_of(pid)
                    owner = self._pids[pid]
                    if owner in place:
                        use.setdefault(device, [0] * len(jobs))[place[owner]] += amount
        return use

    def _busy(self, job: Job, device: str, busy: Mapping[int, int]) -> int:
        """What a job's MIG instances did on a device: how busy each was, times its compute slices."""
        units = [unit for unit in self._held_units.get(job.key, ()) if unit.device == device]
        return sum(busy.get(unit.instance, 0) * unit.size for unit in units if unit.instance is not None)

    # ---- handing over -------------------------------------------------------------------------------------------

    def settle(self) -> Mark | None:
        """Close the running division into `pending`; the mark that everything pending ends at."""
        mark, roster = self.mark, self.roster
        if mark is None:
            return None
        self._close_division()
        self._sync()
        for job in roster.take_news():
            self.pending.runs[job.key] = job.run
            self.pending.alloc[job.key] = (job.holding.cores, len(job.run.alloc_gpus))
        mark.idle_uw, mark.assumed_uw = self._idle.learned_uw, self._idle.assumed_uw
        self._idle.fresh = False
        mark.groups = roster.groups()
        mark.steps = self._steps.counts()
        changed = roster.changed
        self._open_division(mark.wall_ns)
        roster.changed = changed
        return mark

    def read_now(self, at_ns: int, wall_ns: int) -> int:
        """A tick out of turn, its shares brought to `pending`; the boot-time clock of the last good reading."""
        self.notice(at_ns, wall_ns, True)
        self.tick(at_ns, wall_ns)
        mark = self.settle()
        return mark.at_ns if mark is not None else 0

    def committed(self) -> None:
        """The store has `pending`: start afresh, and let the hooks' files of ended runs go."""
        self.pending = Pending()
        self.roster.clear_ended()

    def refresh(self) -> None:
        """Let the meters look for hardware that came or went."""
        changed = [meter.name for meter in self._meters if meter.refresh()]
        if changed:
            self._close_division()
            self._take_channels()
            self.node = msgspec.structs.replace(self.node, gpu_parts=self._gpu_parts())
            self.roster.rehold()
            self._log(f"meters changed ({', '.join(changed)}): {', '.join(self._keys) or 'none left'}")

    def close(self) -> None:
        """Give all descriptors back."""
        self.roster.close()
        self.weights.close()
        self._steps.close()
        for meter in self._meters:
            meter.close()


def _memory(root: SysRoot) -> int:
    """MemTotal in bytes, 0 where unknown."""
    for line in root.word("proc/meminfo").splitlines():
        words = line.split()
        if words[:1] == ["MemTotal:"] and len(words) > 1 and words[1].isdigit():
            return int(words[1]) * 1024
    return 0
