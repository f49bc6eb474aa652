"""What the hooks left about jobs: one small file at a job's start, one at its end. Never runs a Slurm command."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import msgspec

from hpccarbon.hostlist import cpus_on_node
from hpccarbon.records import Run

_FILE = re.compile(r"(?P<job>\d{1,18})\.(?P<restart>\d{1,9})(?:\.(?P<again>\d{1,9}))?\.(?P<kind>prolog|epilog)")
_LINE = re.compile(r"(SLURM[A-Z_]*)=(.*)")
_SIZE_LIMIT = 65536
_TEXT_LIMIT = 256
_MOST_CORES = 1 << 20
_MOST_GPUS = 1024


class JobFile(msgspec.Struct, frozen=True):
    """One hook's file: which job and run, start or end, when (wall clock ns: the file's mtime), and its variables."""

    name: str
    job_id: int
    restart: int
    kind: str
    at_wall_ns: int
    values: dict[str, str]


def parse_variables(text: str) -> dict[str, str] | None:
    """The variables of a job file, or None while it is not complete (no END line yet)."""
    lines = text.split("\n")
    if "END" not in lines[-2:]:
        return None
    return {match[1]: match[2] for line in lines if (match := _LINE.fullmatch(line))}


class JobFiles:
    """The directory the hooks write to, read without trust: only plain files of root or of this process's user."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._seen: set[str] = set()

    def new(self) -> list[JobFile]:
        """Files that were not returned before, oldest first. An incomplete one is looked at again next time."""
        try:
            names = os.listdir(self.directory)  # noqa: PTH208 (names are all that is wanted, at every change)
        except OSError:
            return []
        self._seen.intersection_update(names)
        found = [file for name in names if name not in self._seen and (file := self._read(name)) is not None]
        self._seen.update(file.name for file in found)
        return sorted(found, key=lambda file: (file.at_wall_ns, file.name))

    def _read(self, name: str) -> JobFile | None:
        match = _FILE.fullmatch(name)
        if match is None:
            return None
        try:
            fd = os.open(self.directory / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_uid not in (0, os.geteuid()):
                return None
            values = parse_variables(os.read(fd, _SIZE_LIMIT).decode("utf-8", "replace"))
        except OSError:
            return None
        finally:
            os.close(fd)
        if values is None:
            return None
        return JobFile(name, int(match["job"]), int(match["restart"]), match["kind"], status.st_mtime_ns, values)

    def remove(self, job_id: int, restart: int) -> None:
        """Forget a run that ended and is safely in the store."""
        prefix = f"{job_id}.{restart}."
        for name in [name for name in self._seen if name.startswith(prefix)]:
            try:
                (self.directory / name).unlink(missing_ok=True)
            except OSError:
                continue
            self._seen.discard(name)


def facts(file: JobFile, node: str) -> Run:
    """What a prolog or epilog knows of a run on this node; anything malformed is None, never a guess.

    `run` is left empty: the sampler names it.
    """
    values = file.values
    nodelist = values.get("SLURM_JOB_NODELIST") or values.get("SLURM_NODELIST") or node
    return Run(
        run="",
        job_id=file.job_id,
        uid=_integer(values.get("SLURM_JOB_UID")),
        user=_text(values.get("SLURM_JOB_USER")),
        account=_text(values.get("SLURM_JOB_ACCOUNT")),
        partition=_text(values.get("SLURM_JOB_PARTITION")),
        alloc_cores=_cores(values.get("SLURM_JOB_CPUS_PER_NODE"), nodelist, values.get("SLURMD_NODENAME") or node),
        alloc_gpus=_gpus(values.get("SLURM_JOB_GPUS", "")),
        restart=file.restart,
        sluid=_text(values.get("SLURM_JOB_SLUID")),
    )


def _cores(text: str | None, nodelist: str, node: str) -> int | None:
    """The job's CPUs on this node from SLURM_JOB_CPUS_PER_NODE, e.g. `8(x2),4` in the order of the node list."""
    if not text:
        return None
    try:
        cores = cpus_on_node(text, nodelist, node)
    except ValueError:
        return None
    return cores if 0 < cores <= _MOST_CORES else None


def _gpus(text: str) -> tuple[str, ...]:
    names = tuple(name for name in text.split(",") if name)
    return names if len(names) <= _MOST_GPUS else ()


def _integer(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 19 else None


def _text(value: str | None) -> str | None:
    return value[:_TEXT_LIMIT] if value else None
