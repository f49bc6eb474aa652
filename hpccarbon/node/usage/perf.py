"""Counts hardware events of a cgroup: cycles, instructions, last-level cache misses. Knows no job and no energy.

The kernel counts them per cgroup and CPU: as many descriptors as CPUs that are looked at, and 0.7 µs a reading for each
(measured: AMD EPYC virtual machine, Linux 6.18).

Source: perf_event_open(2), PERF_FLAG_PID_CGROUP; cgroup v2 needs no controller for it.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from typing import NamedTuple

from hpccarbon.errors import HpcCarbonError

_SYSCALL = {"x86_64": 298, "aarch64": 241, "ppc64le": 319}
_ATTR = struct.Struct("=IIQQQQQ")
_ATTR_SIZE = 128
_FORMAT = 1 | 2
"""PERF_FORMAT_TOTAL_TIME_ENABLED | PERF_FORMAT_TOTAL_TIME_RUNNING"""
_COUNT = struct.Struct("=QQQ")
_OF_CGROUP, _CLOEXEC = 4, 8


class Event(NamedTuple):
    """perf's type and number of an event (include/uapi/linux/perf_event.h)."""

    kind: int
    number: int


EVENTS = {
    "cycles": Event(0, 0),
    "instructions": Event(0, 1),
    "llc_misses": Event(0, 3),
    "cpu_clock": Event(1, 0),
}
"""`daemon.weights` -> event. `cpu_clock` is the kernel's own and says what CPU time says: to try it without a PMU."""


class PerfError(HpcCarbonError):
    """The kernel does not count this event here."""


class Counter:
    """One event on these CPUs, in one cgroup: a descriptor of its directory (None: whoever runs there).

    Raises: PerfError.
    """

    def __init__(self, event: Event, group: int | None, cpus: Iterable[int]) -> None:
        self._fds: list[int] = []
        try:
            for cpu in cpus:
                self._fds.append(_open(event, group, cpu))
        except PerfError:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._fds)

    def count(self) -> int:
        """How often it happened so far; where the PMU is shared, scaled up to the time it was not counting.

        Goes on after the cgroup is removed, so there is a last reading. Raises: PerfError.
        """
        total = 0
        for fd in self._fds:
            try:
                value, enabled, running = _COUNT.unpack(os.read(fd, _COUNT.size))
            except (OSError, struct.error) as err:
                raise PerfError(f"a perf counter cannot be read: {err}") from err
            total += value if running in (enabled, 0) else value * enabled // running
        return total

    def close(self) -> None:
        """Give all descriptors back; harmless twice."""
        while self._fds:
            os.close(self._fds.pop())


def refusal(name: str) -> str:
    """Why the kernel does not count this event on this machine; empty where it does."""
    try:
        Counter(EVENTS[name], None, (0,)).close()
    except PerfError as err:
        return str(err)
    return ""


def _open(event: Event, group: int | None, cpu: int) -> int:
    attributes = _ATTR.pack(event.kind, _ATTR_SIZE, event.number, 0, 0, _FORMAT, 0).ljust(_ATTR_SIZE, b"\0")
    number = _SYSCALL.get(os.uname().machine)
    if number is None:
        raise PerfError(f"perf events are not known on {os.uname().machine}")
    libc = ctypes.CDLL(None, use_errno=True)
    flags = _CLOEXEC | (0 if group is None else _OF_CGROUP)
    pid = -1 if group is None else group
    fd = libc.syscall(number, attributes, pid, cpu, -1, ctypes.c_ulong(flags))
    if fd < 0:
        code = ctypes.get_errno()
        raise PerfError(f"perf_event_open on CPU {cpu}: {os.strerror(code)}")
    return int(fd)
