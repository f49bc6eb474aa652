"""Divides the energy of intervals among the jobs that held the node. Exact integers; no files, no clock, no Slurm.

For each interval and each pool of counters with energy E (docs/method.md, "How energy is divided"):

    static  S = min(E, idle power x time)   to jobs by cores held x time, cores nobody held to `unallocated`
    dynamic D = E - S                       to jobs by CPU time, CPU time of no job to `system`; or by what hardware
                                            counters say of both (usage/weights.py)

A GPU's energy goes to the job that holds it. Sums are kept per interval and divided once, when the division is
closed: so nothing is rounded more than once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import repeat
from operator import add, mul

import msgspec

from hpccarbon.records import Channel, Component
from hpccarbon.units import apportion

_SCALE = 1 << 40
"""Fixed point of a pool's µJ per count of CPU time, or of a hardware event: fine enough that intervals weigh right
against each other."""


class Holding(msgspec.Struct, frozen=True):
    """What a job holds during a division.

    `cores` is None where nobody told: then it counts as the cores the job was seen to use. `sockets` maps CPU
    package -> CPUs held there, None where the job may run anywhere. `gpus` maps channel device (UUID) -> parts held of
    it: 1 for a whole GPU, the compute slices of a MIG instance.
    """

    cores: int | None
    mem_bytes: int | None = None
    sockets: Mapping[int, int] | None = None
    gpus: Mapping[str, int] = {}


class Node(msgspec.Struct, frozen=True):
    """What is divided: CPUs, memory, how many CPUs each package has (empty: not told apart), and each GPU's parts.

    A GPU that is not in `gpu_parts` has one part: itself.
    """

    cpus: int
    mem_bytes: int = 0
    sockets: Mapping[int, int] = {}
    gpu_parts: Mapping[str, int] = {}


class Share(msgspec.Struct):
    """Energy and time of one holder; None means that no such meter could be read at all."""

    cpu_uj: int | None = None
    dram_uj: int | None = None
    gpu_uj: int | None = None
    other_uj: int | None = None
    idle_uj: int = 0
    modelled_uj: int = 0
    cpu_time_ns: int = 0
    present_us: int = 0
    covered_us: int = 0

    def charge(self, component: Component, energy_uj: int, idle_uj: int, modelled: bool) -> None:
        """Add an energy of one component, of which `idle_uj` is static."""
        name = "other_uj" if component == "node" else f"{component}_uj"
        setattr(self, name, (getattr(self, name) or 0) + energy_uj)
        self.idle_uj += idle_uj
        if modelled:
            self.modelled_uj += energy_uj

    def add(self, other: Share) -> None:
        """Add another share of the same holder: null plus a value is the value."""
        for name in ("cpu_uj", "dram_uj", "gpu_uj", "other_uj"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if theirs is not None:
                setattr(self, name, (mine or 0) + theirs)
        self.idle_uj += other.idle_uj
        self.modelled_uj += other.modelled_uj
        self.cpu_time_ns += other.cpu_time_ns
        self.present_us += other.present_us
        self.covered_us += other.covered_us

    @property
    def energy_uj(self) -> int:
        """Sum of the components that could be read."""
        return (self.cpu_uj or 0) + (self.dram_uj or 0) + (self.gpu_uj or 0) + (self.other_uj or 0)


PoolKey = tuple[Component, bool, int | None]
"""(component, modelled, socket): socket is None where all packages are divided together."""
_FOLD = 16
"""Intervals that wait to be added up together: one by one, each tick would fetch all sums from memory."""
_LATE_NS = 250_000_000
"""How late a sensor's update may be: as much static energy may be owed from one interval to the next."""


class _Pool:
    """Counters whose energy is divided by the same weights: all packages, or one package where jobs are pinned."""

    __slots__ = (
        "channels",
        "component",
        "dynamic",
        "energy",
        "idle_uw",
        "key",
        "modelled",
        "seen",
        "static",
        "weights",
    )

    def __init__(self, key: PoolKey, channels: list[int], idle_uw: int, weights: list[int] | None) -> None:
        self.key = key
        self.component, self.modelled, _socket = key
        self.channels = channels
        self.idle_uw = idle_uw
        self.weights = weights
        self.seen = False
        self.energy = 0
        self.static = 0
        self.dynamic: list[int] = []


class Division:
    """Intervals in which the same jobs hold the node: added up as they come, divided when closed.

    Args:
        channels: the counters, in the order of the energies given to `add`. Channels nested in others must not be here.
        idle_uw: static power per channel in µW, same order (0: not known, all of it counts as dynamic).
        jobs: what each job holds; the order is that of the CPU times given to `add`.
        unit_ns: length of one count of CPU time.
        owed_uj: static energy that earlier divisions could not charge, because the sensor had not yet shown it; kept by
            the caller from one division to the next and changed here.
    """

    def __init__(
        self,
        node: Node,
        channels: Sequence[Channel],
        idle_uw: Sequence[int],
        jobs: Sequence[Holding],
        unit_ns: int = 1,
        owed_uj: dict[PoolKey, int] | None = None,
    ) -> None:
        self._owed_uj = {} if owed_uj is None else owed_uj
        self.node = node
        self.jobs = tuple(jobs)
        self.channels = tuple(channels)
        self._unit_ns = unit_ns
        self._cpu = [0] * (len(jobs) + 1)
        self._waiting: list[tuple[Sequence[int], Sequence[int], list[int]]] = []
        self._present = [0] * len(jobs)
        self._all_present_ns = 0
        self._covered_ns = 0
        self._covered_present = [0] * len(jobs)
        self._meter_uj: list[int | None] = [None] * len(channels)
        self._gpu_static = [0] * len(channels)
        self._gpu_dynamic: dict[int, list[int]] = {}
        self._idle_uw = tuple(idle_uw)
        self._pools = _pools(node, channels, idle_uw, self.jobs)
        for pool in self._pools:
            pool.dynamic = [0] * (len(jobs) + 1)
        self._gpus = [index for index, channel in enumerate(channels) if channel.component == "gpu"]
        self.other_carry_uj = 0

    def add(
        self,
        dt_ns: int,
        energy_uj: Sequence[int | None],
        cpu: Sequence[int],
        present_ns: Sequence[int] | None = None,
        gpu_use: Mapping[str, Sequence[int]] | None = None,
        work: Sequence[int] | None = None,
    ) -> None:
        """One interval.

        Args:
            dt_ns: its length.
            energy_uj: what each channel counted; None where it could not be read.
            cpu: CPU time used by each job and, last, by everything else (`system`), in counts of `unit_ns`.
            present_ns: how long each job was there; None: all of it.
            gpu_use: device -> utilisation of each job, where a device is shared.
            work: what dynamic energy goes by instead of `cpu`, in the same order.
        """
        work = cpu if work is None else work
        total = sum(work)
        covered = bool(self.channels)
        self._waiting.append((cpu, work, [self._rate(pool, dt_ns, energy_uj, work, total) for pool in self._pools]))
        if len(self._waiting) >= _FOLD:
            self._fold()
        meters = self._meter_uj
        for index, energy in enumerate(energy_uj):
            if energy is None:
                covered = False
            else:
                meters[index] = (meters[index] or 0) + energy
        self._all_present_ns += dt_ns
        if covered:
            self._covered_ns += dt_ns
        if present_ns is not None:
            self._present = list(map(add, self._present, map(int.__sub__, present_ns, repeat(dt_ns))))
            if covered:
                self._covered_present = list(
                    map(add, self._covered_present, map(int.__sub__, present_ns, repeat(dt_ns)))
                )
        for index in self._gpus:
            self._add_gpu(index, dt_ns, energy_uj[index], gpu_use)

    def relearn(self, idle_uw: Sequence[int]) -> None:
        """Count with other static powers from here on."""
        self._idle_uw = tuple(idle_uw)
        for pool in self._pools:
            pool.idle_uw = sum(idle_uw[index] for index in pool.channels)

    def _rate(self, pool: _Pool, dt_ns: int, energy_uj: Sequence[int | None], work: Sequence[int], total: int) -> int:
        """Take a pool's energy of one interval; its dynamic part per unit of work, in fixed point."""
        energies = [energy for index in pool.channels if (energy := energy_uj[index]) is not None]
        if not energies:
            return 0
        pool.seen = True
        energy = sum(energies)
        # Sensors update late, so an interval may show less than the idle power and the next one more. What was not seen
        # is owed and paid from the next: cut off at zero each time, the differences would all become somebody's work.
        due = pool.idle_uw * dt_ns // 1_000_000_000 + self._owed_uj.get(pool.key, 0)
        static = min(energy, due)
        self._owed_uj[pool.key] = min(due - static, pool.idle_uw * _LATE_NS // 1_000_000_000)
        if pool.weights is not None:
            total = sum(map(mul, work, pool.weights))
        if total == 0:
            static = energy  # nobody ran: whatever was drawn is the price of being on
        pool.energy += energy
        pool.static += static
        return (energy - static) * _SCALE // total if energy > static else 0

    def _fold(self) -> None:
        """Add the waiting intervals to the sums. Several at once: the sums are then in the processor's cache."""
        for cpu, work, rates in self._waiting:
            self._cpu = list(map(add, self._cpu, cpu))
            for pool, rate in zip(self._pools, rates, strict=True):
                if rate:
                    used = work if pool.weights is None else map(mul, work, pool.weights)
                    pool.dynamic = list(map(add, pool.dynamic, map(mul, used, repeat(rate))))
        self._waiting.clear()

    def _add_gpu(self, index: int, dt_ns: int, energy: int | None, gpu_use: Mapping[str, Sequence[int]] | None) -> None:
        if energy is None:
            return
        static = min(energy, self._idle_uw[index] * dt_ns // 1_000_000_000)
        self._gpu_static[index] += static
        device = self.channels[index].device or ""
        use = (gpu_use or {}).get(device)
        if use is not None and sum(use) > 0:
            rate = (energy - static) * _SCALE // sum(use)
            before = self._gpu_dynamic.get(index) or [0] * len(self.jobs)
            self._gpu_dynamic[index] = list(map(add, before, map(mul, use, repeat(rate))))

    @property
    def meter_uj(self) -> list[int | None]:
        """What each channel counted so far; None where it was never readable."""
        return list(self._meter_uj)

    @property
    def length_ns(self) -> int:
        """The intervals' length together."""
        return self._all_present_ns

    def close(self, other_carry_uj: int = 0) -> tuple[list[Share], Share, Share]:
        """Divide what was added: (one share per job, system, unallocated). Sums equal `meter_uj`, per component.

        A whole-node meter counts what the components count and `other` (fans, NICs, losses in the power supply): its
        `meter_uj` becomes that rest. It updates more slowly than the others, so the rest can be negative for a while;
        then it is 0 and the debt stands in `other_carry_uj`, to be given to the next division.
        """
        self._fold()
        jobs = [Share() for _ in self.jobs]
        system, unallocated = Share(), Share()
        present = [self._all_present_ns + less for less in self._present]
        covered = [self._covered_ns + less for less in self._covered_present]
        cores = [
            job.cores if job.cores is not None else -(-used * self._unit_ns // max(there, 1))
            for job, used, there in zip(self.jobs, self._cpu, present, strict=False)
        ]
        for pool in self._pools:
            if pool.seen:
                self._divide_pool(pool, jobs, system, unallocated, cores, present)
        for index in self._gpus:
            energy = self._meter_uj[index]
            if energy is not None:
                self._divide_gpu(index, energy, jobs, unallocated, present)
                for share in (*jobs, system):
                    share.gpu_uj = share.gpu_uj or 0
        for share, used, there, seen in zip(jobs, self._cpu, present, covered, strict=False):
            share.cpu_time_ns = used * self._unit_ns
            share.present_us = there // 1_000
            share.covered_us = seen // 1_000
        system.cpu_time_ns = self._cpu[-1] * self._unit_ns
        self._divide_other([*jobs, system, unallocated], other_carry_uj)
        for share in (system, unallocated):
            share.present_us = self._all_present_ns // 1_000
            share.covered_us = self._covered_ns // 1_000
        return jobs, system, unallocated

    def _divide_other(self, shares: list[Share], carry_uj: int) -> None:
        nodes = [index for index, channel in enumerate(self.channels) if channel.component == "node"]
        seen = [index for index in nodes if self._meter_uj[index] is not None]
        self.other_carry_uj = carry_uj
        if not seen:
            return
        inside = sum(energy or 0 for index, energy in enumerate(self._meter_uj) if index not in nodes)
        rest = sum(self._meter_uj[index] or 0 for index in seen) - inside + carry_uj
        self.other_carry_uj = min(rest, 0)
        other = max(rest, 0)
        for index in seen:
            self._meter_uj[index] = 0
        self._meter_uj[seen[0]] = other
        weights = {number: share.energy_uj for number, share in enumerate(shares)}
        if not any(weights.values()):
            weights[len(shares) - 1] = 1
        for number, part in apportion(other, weights).items():
            shares[number].charge("node", part, 0, self.channels[seen[0]].modelled)

    def _divide_pool(
        self,
        pool: _Pool,
        jobs: list[Share],
        system: Share,
        unallocated: Share,
        cores: Sequence[int],
        present: Sequence[int],
    ) -> None:
        static = self._static_weights(pool, cores, present)
        if sum(static) == 0:
            static[-1] = 1
        dynamic = pool.dynamic
        if not any(dynamic):  # a few µJ over a long time: below the fixed point, so they count as static
            pool.static = pool.energy
        idle = apportion(pool.static, dict(enumerate(static)))
        moving = pool.energy - pool.static
        active = apportion(moving, dict(enumerate(dynamic))) if moving else dict.fromkeys(range(len(dynamic)), 0)
        for index, share in enumerate((*jobs, system)):
            still = idle[index] if index < len(jobs) else 0
            share.charge(pool.component, still + active[index], still, pool.modelled)
        unallocated.charge(pool.component, idle[len(jobs)], idle[len(jobs)], pool.modelled)

    def _static_weights(self, pool: _Pool, cores: Sequence[int], present: Sequence[int]) -> list[int]:
        """Cores (or bytes of memory) held x time, and last what nobody held."""
        node = self.node
        if pool.component == "dram" and node.mem_bytes and all(job.mem_bytes for job in self.jobs):
            held = [(job.mem_bytes or 0) * there for job, there in zip(self.jobs, present, strict=True)]
            return [*held, max(0, node.mem_bytes * self._all_present_ns - sum(held))]
        if pool.weights is None:
            held = [count * there for count, there in zip(cores, present, strict=True)]
            return [*held, max(0, node.cpus * self._all_present_ns - sum(held))]
        socket = self.channels[pool.channels[0]].socket
        size = node.sockets.get(socket if socket is not None else -1, 0)
        held = []
        for job, count, there in zip(self.jobs, cores, present, strict=True):
            pinned = job.sockets
            here = pinned.get(socket, 0) if pinned is not None and socket is not None else None
            # A job that may run anywhere holds its cores on all sockets alike.
            held.append((here * node.cpus if here is not None else count * size) * there)
        return [*held, max(0, size * node.cpus * self._all_present_ns - sum(held))]

    def _divide_gpu(
        self, index: int, energy: int, jobs: list[Share], unallocated: Share, present: Sequence[int]
    ) -> None:
        """Static energy by parts held x time, free parts to `unallocated`; the rest by use, where that is known."""
        channel = self.channels[index]
        device = channel.device or ""
        held = {
            number: job.gpus[device] * present[number] for number, job in enumerate(self.jobs) if device in job.gpus
        }
        static = min(energy, self._gpu_static[index])
        if not any(held.values()):
            unallocated.charge("gpu", energy, static, channel.modelled)
            return
        free = self.node.gpu_parts.get(device, 1) * self._all_present_ns - sum(held.values())
        whose = apportion(static, {**held, -1: max(0, free)})
        use = self._gpu_dynamic.get(index)
        by_use = {number: use[number] for number in held} if use else held
        moving = apportion(energy - static, by_use if any(by_use.values()) else held)
        for number in held:
            jobs[number].charge("gpu", whose[number] + moving[number], whose[number], channel.modelled)
        unallocated.charge("gpu", whose[-1], whose[-1], channel.modelled)


def _pools(node: Node, channels: Sequence[Channel], idle_uw: Sequence[int], jobs: Sequence[Holding]) -> list[_Pool]:
    """Group CPU and memory channels: per socket where some job is pinned and all sockets are known, else together."""
    grouped: dict[PoolKey, list[int]] = {}
    by_socket = len(node.sockets) > 1 and any(job.sockets is not None for job in jobs)
    for index, channel in enumerate(channels):
        if channel.component in ("cpu", "dram"):
            socket = channel.socket if by_socket and channel.socket in node.sockets else None
            grouped.setdefault((channel.component, channel.modelled, socket), []).append(index)
    pools = []
    for key, members in grouped.items():
        weights = None if key[2] is None else _socket_weights(node, key[2], jobs)
        pools.append(_Pool(key, members, sum(idle_uw[i] for i in members), weights))
    return pools


def _socket_weights(node: Node, socket: int, jobs: Sequence[Holding]) -> list[int]:
    """How much of each job's CPU time counts on a socket, and last of the system's; in parts of a common whole."""
    whole = node.cpus * 1_000_000
    anywhere = whole * node.sockets[socket] // max(sum(node.sockets.values()), 1)
    weights = []
    for job in jobs:
        pinned = sum(job.sockets.values()) if job.sockets else 0
        here = job.sockets.get(socket, 0) if job.sockets else 0
        weights.append(whole * here // pinned if pinned else anywhere)
    return [*weights, anywhere]
