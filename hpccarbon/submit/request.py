"""What a job asks for, out of the options that sbatch was given. Submits nothing and judges nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import PurePath

import msgspec

from hpccarbon.slurm import times
from hpccarbon.slurm.options import CommandLine, Head, Options, merged

_COUNT = re.compile(r"(\d{1,9})([kKmM]?)(?:-.*)?")
_GPUS = re.compile(r"(?:^|,)(?:gres/)?gpu(?::[^:,()]+)??(?:[:=](\d{1,9}))?(?=[,(]|$)")
_TASKS = re.compile(r"(\d{1,9})(?:-(\d{1,9})(?::(\d{1,9}))?)?")
_MOST_TASKS = 4_000_000


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One job, as asked for. `cores` and `gpus` on all its nodes and components, of one task of an array.

    `begin`, `deadline` and `dependency` are what the user wrote, "" where nothing was. `only_asks` is --test-only,
    --help, --usage or --version: no job comes of it.
    """

    name: str
    account: str
    partition: str
    limit: timedelta | None
    cores: int
    gpus: int
    tasks: int
    whole_nodes: bool
    begin: str
    deadline: str
    dependency: str
    held: bool
    quiet: bool
    only_asks: bool


def request(line: CommandLine, head: Head, environment: Mapping[str, str]) -> Request:
    """The request behind a command line and its script; of a heterogeneous job the components together."""
    parts = merged(line, head, environment)
    first = parts[0]

    def anywhere(*names: str) -> bool:
        return any(name in part for part in parts for name in names)

    limits = [found for part in parts if (found := times.limit(part.get("time", ""))) is not None]
    return Request(
        name=first.get("job-name") or _default_name(line, first),
        account=first.get("account", ""),
        partition=first.get("partition", ""),
        limit=max(limits, default=None),
        cores=sum(map(_cores, parts)),
        gpus=sum(map(_gpus, parts)),
        tasks=_array(first.get("array", "")),
        whole_nodes=anywhere("exclusive"),
        begin=_given(parts, "begin"),
        deadline=_given(parts, "deadline"),
        dependency=_given(parts, "dependency"),
        held=anywhere("hold"),
        quiet=anywhere("quiet"),
        only_asks=anywhere("test-only", "help", "usage", "version"),
    )


def _given(parts: Sequence[Options], name: str) -> str:
    return next((part[name] for part in parts if part.get(name)), "")


def _default_name(line: CommandLine, first: Options) -> str:
    """As sbatch names a job that has no name."""
    if "wrap" in first:
        return "wrap"
    return PurePath(line.script).name if line.script else "sbatch"


def _number(text: str, default: int) -> int:
    """`4`, `2-8` (the fewer), `1k`."""
    found = _COUNT.fullmatch(text.strip())
    if not found:
        return default
    return int(found[1]) * {"": 1, "k": 1024, "m": 1024 * 1024}[found[2].lower()]


def _tasks(part: Options) -> int:
    nodes = _number(part.get("nodes", ""), 1)
    if "ntasks" in part:
        return _number(part["ntasks"], 1)
    return nodes * _number(part.get("ntasks-per-node", ""), 1)


def _cores(part: Options) -> int:
    if "cpus-per-gpu" in part and "cpus-per-task" not in part:
        return max(1, _gpus(part) * _number(part["cpus-per-gpu"], 1))
    return max(1, _tasks(part) * _number(part.get("cpus-per-task", ""), 1))


def _gpus(part: Options) -> int:
    nodes = _number(part.get("nodes", ""), 1)
    if "gpus" in part:
        return _typed(part["gpus"])
    if "gpus-per-node" in part:
        return nodes * _typed(part["gpus-per-node"])
    if "gpus-per-task" in part:
        return _tasks(part) * _typed(part["gpus-per-task"])
    return nodes * sum(int(found[1] or 1) for found in _GPUS.finditer(part.get("gres", "")))


def _typed(text: str) -> int:
    """`2`, `a100:2`, `a100:2,h100:1`."""
    return sum(_number(one.rpartition(":")[2], 1) for one in text.split(",") if one)


def _array(text: str) -> int:
    """How many tasks `0-15`, `1,3,5-9:2%4` are; 1 without an array."""
    count = 0
    for one in text.partition("%")[0].split(","):
        if found := _TASKS.fullmatch(one.strip()):
            first, last, step = int(found[1]), int(found[2] or found[1]), int(found[3] or 1)
            count += max(0, (last - first) // max(1, step) + 1)
    return min(max(count, 1), _MOST_TASKS)
