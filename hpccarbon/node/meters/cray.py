"""Energy of a Cray node and its parts from /sys/cray/pm_counters. Takes no value that the blade has stopped renewing.

The blade controller writes the files about ten times a second: `N J T us`, with T its own time. `freshness` counts the
rounds; `startup` changes when the controller begins anew and its counters with it; `generation` changes with the power
cap, which bends no counter.
Source: HPE "User Access to Compute Node Power Data" (Cray EX), Cray S-0043 (XC).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from hpccarbon.config import Config
from hpccarbon.errors import MeterDenied, MeterError
from hpccarbon.node.meters import Finding, State
from hpccarbon.node.sysroot import SysFile, SysRoot
from hpccarbon.records import Channel, Component, Gap, Reading
from hpccarbon.units import NS_PER_S, UJ_PER_J

DIRECTORY = "sys/cray/pm_counters"
_STARTUP = f"{DIRECTORY}/startup"
STALE_NS = 5 * NS_PER_S
"""Counters that were not renewed for 50 rounds are old: what they say now is not what was used until now."""
_ACCELERATOR = re.compile(r"accel(\d+)_energy")
_SOCKET = re.compile(r"cpu\d+_energy")
_BOUNDS_W: dict[Component, int] = {"node": 10_000, "cpu": 4_000, "dram": 1_000, "gpu": 2_000}


def parse_energy(text: bytes) -> int:
    """µJ of a file `N J [T us]`. Raises: ValueError, for a power file too."""
    words = text.split()
    if len(words) < 2 or words[1] != b"J":
        raise ValueError("expected 'N J T us'")
    joules = int(words[0])
    if joules < 0:
        raise ValueError(f"expected a counter, got {joules}")
    return joules * UJ_PER_J


class _Counter(NamedTuple):
    channel: Channel
    file: SysFile


class CrayMeter:
    """Cumulative energy of the node, its CPUs, its memory and its accelerators.

    Reads: sys/cray/pm_counters/{energy,cpu_energy,memory_energy,accelN_energy,freshness,startup}
    Units: whole joules become int microjoules here; they do not wrap, and begin at 0 with the blade controller
    Needs: nothing, the files are everyone's
    """

    name = "cray"

    def __init__(self, root: SysRoot) -> None:
        self._root = root
        self._counters: list[_Counter] = []
        self._findings: tuple[Finding, ...] = ()
        self._freshness: SysFile | None = None
        self._startup = ""
        self._round = b""
        self._renewed_ns: int | None = None
        self.refresh()

    @property
    def channels(self) -> Sequence[Channel]:
        """The counters that are read."""
        return [counter.channel for counter in self._counters]

    @property
    def findings(self) -> Sequence[Finding]:
        """Every energy file, or that there are none."""
        return self._findings

    def read(self, at_ns: int) -> list[Reading | Gap]:
        """One reading or gap per counter; gaps while the blade controller has stopped writing.

        None at all when it has begun anew: its counters are other ones then, and `channels` says so.
        """
        if not self._counters:
            return []
        if self._root.word(_STARTUP, self._startup) != self._startup:
            self.refresh()
            return []
        stale = self._stale(at_ns)
        if stale:
            return [Gap("cray", counter.channel.zone, at_ns, stale) for counter in self._counters]
        return [_read(counter, at_ns) for counter in self._counters]

    def _stale(self, at_ns: int) -> str:
        if self._freshness is None:
            return ""
        try:
            current = self._freshness.read(64)
        except MeterError as err:
            return f"freshness: {err.reason}"
        if current != self._round or self._renewed_ns is None or at_ns < self._renewed_ns:
            self._round, self._renewed_ns = current, at_ns
            return ""
        silent_ns = at_ns - self._renewed_ns
        return f"freshness stands still for {silent_ns // NS_PER_S} s" if silent_ns > STALE_NS else ""

    def refresh(self) -> bool:
        """Look at the directory again."""
        before = self.channels
        self.close()
        names = self._root.names(DIRECTORY)
        self._startup = self._root.word(_STARTUP)
        parts = any(_ACCELERATOR.fullmatch(name) for name in names)
        findings: list[Finding] = []
        for name in names:
            component = _component(name, parts)
            if component is None:
                if _SOCKET.fullmatch(name):
                    findings.append(Finding("cray", name, "nested", "part of cpu_energy"))
                elif name == "accel_energy":
                    findings.append(Finding("cray", name, "nested", "the sum of the accelerators"))
                continue
            match = _ACCELERATOR.fullmatch(name)
            channel = Channel(
                "cray",
                name,
                component,
                max_power_w=_BOUNDS_W[component],
                device=f"accel{match[1]}" if match else None,
                note="blade controller, 10 Hz, whole joules",
                epoch=self._startup,
            )
            try:
                file = self._root.open(f"{DIRECTORY}/{name}")
                counter = _Counter(channel, file)
                parse_energy(file.read(64))
            except (MeterError, ValueError) as err:
                state: State = "denied" if isinstance(err, MeterDenied) else "failing"
                findings.append(Finding("cray", name, state, _why(err), "see the blade controller's log", component))
                continue
            self._counters.append(counter)
            findings.append(Finding("cray", name, "ok", f"{name} -> {component}", component=component))
        if not names:
            findings.append(Finding("cray", DIRECTORY, "missing", "not a Cray node"))
        try:
            self._freshness = self._root.open(f"{DIRECTORY}/freshness") if self._counters else None
        except MeterError:
            self._freshness = None
        self._findings = tuple(findings)
        return self.channels != before

    def close(self) -> None:
        """Close the files."""
        for counter in self._counters:
            counter.file.close()
        self._counters = []
        if self._freshness is not None:
            self._freshness.close()
            self._freshness = None


def discover(root: SysRoot, config: Config) -> CrayMeter:
    """The pm_counters below a root; a meter without channels on other machines."""
    return CrayMeter(root)


def _component(name: str, parts: bool) -> Component | None:
    known: dict[str, Component] = {"energy": "node", "cpu_energy": "cpu", "memory_energy": "dram"}
    if _ACCELERATOR.fullmatch(name) or (name == "accel_energy" and not parts):
        return "gpu"
    return known.get(name)


def _read(counter: _Counter, at_ns: int) -> Reading | Gap:
    try:
        return Reading("cray", counter.channel.zone, at_ns, parse_energy(counter.file.read(64)))
    except (MeterError, ValueError) as err:
        return Gap("cray", counter.channel.zone, at_ns, _why(err))


def _why(err: MeterError | ValueError) -> str:
    return err.reason if isinstance(err, MeterError) else str(err)
