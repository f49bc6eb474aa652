"""Where a tracker's joules come from: the node's daemon, else this machine's meters. Cumulative; adds nothing up."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import msgspec

from hpccarbon import config as configuration
from hpccarbon.errors import ConfigError
from hpccarbon.node import control
from hpccarbon.tracker.data import slurm_number
from hpccarbon.tracker.tree import ProcessTree

if TYPE_CHECKING:
    from hpccarbon.config import Config
    from hpccarbon.tracker.settings import Settings

log = logging.getLogger("hpccarbon")
Scope = Literal["job", "process", "machine"]


class Used(NamedTuple):
    """Cumulative use up to `at_ns` (boot-time clock), in µJ, ns and µs; None: no such meter."""

    at_ns: int
    cpu_uj: int | None
    dram_uj: int | None
    gpu_uj: int | None
    other_uj: int | None
    idle_uj: int
    modelled_uj: int
    cpu_time_ns: int
    present_us: int
    covered_us: int

    @property
    def energy_uj(self) -> int:
        """Sum of what is metered."""
        return (self.cpu_uj or 0) + (self.dram_uj or 0) + (self.gpu_uj or 0) + (self.other_uj or 0)

    def since(self, before: Used) -> Used:
        """What was used between two readings of one source."""
        parts = []
        for now, then in zip(self, before, strict=True):
            parts.append(None if now is None else max(0, now - (then or 0)))
        return Used(*parts)  # type: ignore[arg-type]  # only the columns that may be None are

    def plus(self, other: Used) -> Used:
        """Two sections together."""
        parts = []
        for mine, more in zip(self, other, strict=True):
            parts.append(more if mine is None else mine + (more or 0))
        return Used(*parts)  # type: ignore[arg-type]


class Source(Protocol):
    """Something that says what was used so far."""

    scope: Scope
    cores: int

    def read(self) -> Used:
        """A fresh reading. Raises: control.Unavailable where the daemon is away for the moment."""
        ...

    def watch(self) -> None:
        """Between two readings: see to it that no counter wraps twice unseen."""
        ...

    def close(self) -> None:
        """Give descriptors back."""
        ...


class FromDaemon:
    """This job's share on this node, read by the daemon at each call. Raises: control.Unavailable, also when made."""

    scope: Scope = "job"

    def __init__(self, path: Path, job_id: int) -> None:
        self._path = path
        self._job_id = job_id
        self.cores = _slurm_cores() or len(os.sched_getaffinity(0))
        self.first = self.read()

    def read(self) -> Used:
        """What the job used so far."""
        answer = control.ask(self._path, self._job_id)
        return Used(*(getattr(answer, name) for name in Used._fields))

    def watch(self) -> None:
        """The daemon does."""

    def close(self) -> None:
        """Nothing stays open."""


class FromMeters:
    """This machine's meters, and the process tree's part of them (or all, in machine mode)."""

    def __init__(self, config: Config, scope: Literal["process", "machine"], gpus: str | None) -> None:
        from hpccarbon.node.once import LocalMeters

        self.scope: Scope = scope
        here = len(os.sched_getaffinity(0))
        held = _slurm_cores()
        self.cores = (held or here) if scope == "process" else os.cpu_count() or 1
        enabled = tuple(name for name in config.meters.enabled if name in ("rapl", "nvml", "amd", "model"))
        config = msgspec.structs.replace(config, meters=msgspec.structs.replace(config.meters, enabled=enabled))
        chosen = gpus if gpus is not None else os.environ.get("CUDA_VISIBLE_DEVICES")
        names = None if chosen is None else [name.strip() for name in chosen.split(",") if name.strip()]
        self._meters = LocalMeters(config, ProcessTree().cpu_ns, cores=held, gpus=names)

    def read(self) -> Used:
        """What was used since this source was made."""
        self._meters.read()
        share = self._meters.share if self.scope == "process" else self._meters.machine
        names = Used._fields[1:]
        return Used(self._meters.at_ns, *(getattr(share, name) for name in names))

    def watch(self) -> None:
        """Read the counters alone."""
        self._meters.watch_wraps()

    def close(self) -> None:
        """Close the meters."""
        self._meters.close()


def find(settings: Settings) -> tuple[Source, str]:
    """The best source there is here, and a sentence for the log that says which and why.

    Raises: ConfigError for a configuration of the site that cannot be used.
    """
    why = "not in a Slurm job"
    job = os.environ.get("SLURM_JOB_ID", "")
    config = site_config()
    if job.isdigit():
        path = control.socket_path(config.run_dir(configuration.node_name()))
        try:
            source = FromDaemon(path, int(job))
        except control.Unavailable as err:
            why = str(err)
            if os.path.exists(path):  # noqa: PTH110 - Path.exists raises where a directory may not be entered
                log.warning("tracker: %s; this process's share from its own meters instead", why)
        else:
            return source, f"energy of job {job} on this node, from the daemon"
    scope: Literal["process", "machine"] = "process" if job.isdigit() else "machine"
    if settings.tracking_mode in ("process", "machine"):
        scope = "machine" if settings.tracking_mode == "machine" else "process"
    whose = "this process and its children" if scope == "process" else "the whole machine"
    return FromMeters(config, scope, settings.gpu_ids), f"energy of {whose}, from its own meters ({why})"


def site_config() -> Config:
    """The site's configuration as far as a user may read it."""
    try:
        return configuration.load()
    except ConfigError as err:
        if isinstance(err.__cause__, PermissionError):  # /etc/hpccarbon is the administrators' own on some sites
            return configuration.Config()
        raise


def _slurm_cores() -> int | None:
    """Cores that the job holds on this node: SLURM_CPUS_ON_NODE (sbatch(1), OUTPUT ENVIRONMENT VARIABLES)."""
    return slurm_number("SLURM_CPUS_ON_NODE")
