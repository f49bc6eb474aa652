"""Measures one command without Slurm: the meters at both ends, the command's own CPU time. Writes nothing."""

from __future__ import annotations

import resource
import signal
import subprocess
import time
from collections.abc import Sequence

import msgspec

from hpccarbon.config import Config
from hpccarbon.errors import HpcCarbonError
from hpccarbon.node import meters as meter_table
from hpccarbon.node.attribution import Division, Holding, Node, Share
from hpccarbon.node.sampler import difference
from hpccarbon.node.sysroot import SysRoot, online_cpus
from hpccarbon.node.usage.cgroup import NodeTime
from hpccarbon.records import Gap
from hpccarbon.units import NS_PER_S


class Outcome(msgspec.Struct, frozen=True):
    """What one command used, and what the whole machine used meanwhile.

    `share` is the command's part: static energy by the cores it kept busy, dynamic energy by its CPU time. `gaps` are
    sensors that exist and could not be read.
    """

    argv: tuple[str, ...]
    exit_code: int
    started_wall_ns: int
    elapsed_ns: int
    share: Share
    machine: Share
    meters: tuple[str, ...]
    gaps: tuple[str, ...]
    modelled: bool


def measure(argv: Sequence[str], config: Config) -> Outcome:
    """Run a command to its end and divide the machine's energy between it and the rest.

    CPU time is that of the command and every descendant it waited for (getrusage(2), RUSAGE_CHILDREN).
    Raises: HpcCarbonError when the command cannot be started.
    """
    root = SysRoot(config.root_dir(""))
    meters = meter_table.discover(root, config)
    channels = [channel for meter in meters for channel in meter.channels]
    idle_uw = [channel.idle_uw for channel in channels]
    first = _read(meters)
    last = list(first)
    energy: list[int | None] = [0 if reading is not None else None for reading in first]
    node_time = NodeTime(root)
    busy_before, cpu_before = node_time.read_ns(), _children_ns()
    started_wall_ns, begin_ns = time.time_ns(), time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    try:
        process = subprocess.Popen(list(argv))
    except OSError as err:
        raise HpcCarbonError(f"cannot run {argv[0]}: {err.strerror}") from err
    code: int | None = None
    while code is None:
        try:
            code = process.wait(timeout=config.daemon.interval_s)
        except subprocess.TimeoutExpired:
            code = None
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            continue
        for index, now in enumerate(_read(meters)):
            before = last[index]
            if now is None or before is None:
                continue
            delta = difference(channels[index], before[1], now[1], now[0] - before[0])
            gone = delta is None or energy[index] is None
            energy[index] = None if gone else (energy[index] or 0) + (delta or 0)
            last[index] = now
    elapsed_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - begin_ns
    cpu_ns = _children_ns() - cpu_before
    busy_after = node_time.read_ns()
    known = busy_before is not None and busy_after is not None
    other_ns = max(0, (busy_after or 0) - (busy_before or 0) - cpu_ns) if known else 0
    division = Division(Node(online_cpus(root)), channels, idle_uw, [Holding(None)])
    division.add(elapsed_ns, energy, [cpu_ns, other_ns])
    (share,), system, unallocated = division.close()
    machine = Share()
    for part in (share, system, unallocated):
        machine.add(part)
    machine.present_us, machine.covered_us = share.present_us, share.covered_us
    denied = tuple(
        f"{finding.zone}: {finding.detail}"
        for meter in meters
        for finding in meter.findings
        if finding.state == "denied"
    )
    for meter in meters:
        meter.close()
    return Outcome(
        argv=tuple(argv),
        exit_code=code if code >= 0 else 128 - code,
        started_wall_ns=started_wall_ns,
        elapsed_ns=elapsed_ns,
        share=share,
        machine=machine,
        meters=tuple(channel.key for channel in channels),
        gaps=denied,
        modelled=any(channel.modelled for channel in channels),
    )


def _read(meters: Sequence[meter_table.Meter]) -> list[tuple[int, int] | None]:
    at_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    readings = [reading for meter in meters for reading in meter.read(at_ns)]
    return [None if isinstance(reading, Gap) else (reading.at_ns, reading.energy_uj) for reading in readings]


def _children_ns() -> int:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return round((used.ru_utime + used.ru_stime) * NS_PER_S)
