"""The values that pass between the rooms: frozen, without files, hardware or Slurm in them."""

from __future__ import annotations

from typing import Literal

import msgspec

Component = Literal["cpu", "dram", "gpu", "node"]
"""What a meter's energy is part of. `node` is a whole-node meter (BMC, pm_counters node): it contains the others."""


class Channel(msgspec.Struct, frozen=True):
    """One counter of one meter: what it counts and how to subtract two of its readings.

    `range_uj` is where the counter wraps to 0 (0: it never does). `max_power_w` bounds what the hardware could draw: a
    difference above it is a gap, never a bill. `idle_uw` is the static power in µW where the meter itself knows it (0:
    it is learned). `socket` is the CPU package, where the counter has one; `device` the stable identity (GPU UUID).
    `epoch` tells the counter from an earlier one of the same name that began at 0, where the hardware says so: readings
    of two epochs are never subtracted.
    """

    meter: str
    zone: str
    component: Component
    range_uj: int = 0
    max_power_w: int = 2_000
    idle_uw: int = 0
    modelled: bool = False
    socket: int | None = None
    device: str | None = None
    note: str = ""
    epoch: str = ""

    @property
    def counter(self) -> str:
        """The identity of what is counted up: `key`, and the epoch where there is one."""
        return f"{self.key}@{self.epoch}" if self.epoch else self.key

    @property
    def key(self) -> str:
        """The channel's identity in the store and in shards, e.g. `rapl/intel-rapl:0`."""
        return f"{self.meter}/{self.zone}"


UNREADABLE = "-for-unreadable-"
"""In the name of a model's channel that stands in for a sensor that is there and cannot be read; its meter follows.

So the shard, the ledger and the report know it, although only the node saw the sensor.
"""


class Reading(msgspec.Struct, frozen=True):
    """What a channel's counter held at a moment: cumulative µJ, boot-time clock in ns."""

    meter: str
    zone: str
    at_ns: int
    energy_uj: int


class Gap(msgspec.Struct, frozen=True):
    """A channel that could not be read at a moment, and why. Missing is not zero."""

    meter: str
    zone: str
    at_ns: int
    reason: str


STEPS = "steps"
"""The key of a shard's metadata under which the steps of its jobs stand: a JSON array of `StepEnergy`."""


class StepEnergy(msgspec.Struct, frozen=True, array_like=True):
    """What one step of a run used on one node in one hour; `step` is `0`, `batch`, `extern`, or empty: not known.

    None: no such meter could be read. The steps of a run add up to its rows of that hour, from when they are kept.
    """

    job_id: int
    run: str
    step: str
    cpu_uj: int | None
    dram_uj: int | None
    gpu_uj: int | None
    other_uj: int | None
    cpu_time_us: int

    @property
    def energy_uj(self) -> int:
        """The sum of the known components."""
        return sum(part or 0 for part in (self.cpu_uj, self.dram_uj, self.gpu_uj, self.other_uj))


class Run(msgspec.Struct, frozen=True):
    """One run of one job on this node: what is metered and charged.

    `run` tells a requeued job's runs, and a job id that comes back, apart. Facts that a cgroup does not know (user
    name, account, partition, GPUs, cores) are None until a hook tells them. `alloc_gpus` are Slurm's indices
    (SLURM_JOB_GPUS); `sluid` names the job's directory from Slurm 26.05 on. Times are wall clock, ns.
    """

    run: str
    job_id: int
    uid: int | None = None
    user: str | None = None
    account: str | None = None
    partition: str | None = None
    alloc_cores: int | None = None
    alloc_mem_bytes: int | None = None
    alloc_gpus: tuple[str, ...] = ()
    restart: int = 0
    sluid: str | None = None
    start_wall_ns: int | None = None
