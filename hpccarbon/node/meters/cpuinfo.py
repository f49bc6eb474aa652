"""Which CPU this is, by /proc/cpuinfo, and the power it cannot exceed for long. Reads no file by itself."""

from __future__ import annotations

from typing import NamedTuple


class Cpu(NamedTuple):
    """What /proc/cpuinfo says: identification, sockets and threads seen, and whether a hypervisor is below."""

    vendor: str
    family: int
    model: int
    stepping: int
    name: str
    sockets: int
    threads: int
    virtual: bool


def parse_cpuinfo(text: str) -> Cpu:
    """Identify the CPU from the text of /proc/cpuinfo; unknown fields are 0 or empty."""
    first: dict[str, str] = {}
    sockets: set[str] = set()
    threads = 0
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        key, value = key.strip(), value.strip()
        if not colon:
            continue
        first.setdefault(key, value)
        threads += key == "processor"
        if key == "physical id":
            sockets.add(value)

    def number(key: str) -> int:
        digits = first.get(key, "")
        return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 10 else 0

    return Cpu(
        vendor=first.get("vendor_id", ""),
        family=number("cpu family"),
        model=number("model"),
        stepping=number("stepping"),
        name=first.get("model name", "unknown CPU"),
        sockets=len(sockets) or 1,
        threads=threads or 1,
        virtual="hypervisor" in first.get("flags", "").split(),
    )


class _Rated(NamedTuple):
    """The highest power that any part of a generation may be configured to hold (cTDP maximum), in W."""

    vendor: str
    family: int
    models: range
    most_w: int


_AMD = "AuthenticAMD"
_GENERATIONS: tuple[_Rated, ...] = (
    _Rated(_AMD, 23, range(1, 2), 200),  # EPYC 7001, Threadripper 1000
    _Rated(_AMD, 23, range(8, 9), 250),  # Threadripper 2000
    _Rated(_AMD, 23, range(49, 50), 280),  # EPYC 7002, Threadripper 3000
    _Rated(_AMD, 25, range(2), 280),  # EPYC 7003
    _Rated(_AMD, 25, range(8, 9), 280),  # Threadripper 5000
    _Rated(_AMD, 25, range(16, 32), 400),  # EPYC 9004, Threadripper 7000
    _Rated(_AMD, 25, range(144, 160), 760),  # Instinct MI300A: GPU and memory are in the package
    _Rated(_AMD, 25, range(160, 176), 400),  # EPYC 9704, 8004
    _Rated(_AMD, 26, range(32), 400),  # EPYC 9005, but for those below
)
"""Product pages of the vendor; model numbers: Linux arch/x86/kernel/cpu/amd.c. No part is rated above its row."""
_ABOVE_THEIR_ROW = {"9755": 500, "9965": 500}
UNKNOWN_PACKAGE_W = 500
"""The highest rated server CPUs (EPYC 9965, Xeon 6980P)."""
_CONTROL_PERCENT = 108
"""Power control holds the rated power within some percent; a mean above this over seconds was not drawn."""


def package_bound_w(cpu: Cpu) -> int:
    """A mean power that one package of this CPU cannot exceed over seconds, where the kernel states no limit.

    It is kept tight, for it decides how late a tick may come before a wrap can no longer be told from two: AMD's
    counters hold 65.5 kJ, which at 400 W is 164 s.
    """
    rated = next(
        (row.most_w for row in _GENERATIONS if (cpu.vendor, cpu.family) == row[:2] and cpu.model in row.models),
        UNKNOWN_PACKAGE_W,
    )
    if cpu.family == 26:
        rated = next((watts for name, watts in _ABOVE_THEIR_ROW.items() if name in cpu.name), rated)
    return rated * _CONTROL_PERCENT // 100
