"""CPU time of this process and everything it started, ended children included. Reads /proc; changes nothing."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from hpccarbon.units import NS_PER_S

_TICK_NS = NS_PER_S // os.sysconf("SC_CLK_TCK")


class ProcessTree:
    """Cumulative CPU time of a process tree, from the process that asks downwards.

    A child that ended and was waited for is in its parent's sums (getrusage(2)), to the microsecond; a living one is
    read from /proc with 10 ms resolution. What this cannot see: descendants that detached themselves (double fork) and
    children whose parent ignores SIGCHLD.
    """

    def __init__(self) -> None:
        self._most_ns = 0

    def cpu_ns(self) -> int:
        """CPU time so far; never goes down."""
        # Parents before children: a child that is reaped meanwhile is missed once, and counted by the next reading.
        used_ns = sum(map(_rusage_ns, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
        waiting = _children(os.getpid())
        while waiting:
            pid = waiting.pop()
            used_ns += _all_ns(pid)
            waiting += _children(pid)
        self._most_ns = max(self._most_ns, used_ns)
        return self._most_ns


def _rusage_ns(who: int) -> int:
    used = resource.getrusage(who)
    return round((used.ru_utime + used.ru_stime) * NS_PER_S)


def _children(pid: int) -> list[int]:
    children: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 - pathlib takes four times as long, every second
        for thread in threads:
            children += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_bytes().split())
    except OSError:  # gone meanwhile
        pass
    return children


def _all_ns(pid: int) -> int:
    """utime, stime, cutime, cstime of /proc/PID/stat (proc(5)); 0 for one that has gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return sum(map(int, fields[11:15])) * _TICK_NS
    except (OSError, ValueError):
        return 0
