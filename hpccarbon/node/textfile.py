"""Writes what the node used as metrics for node_exporter's textfile collector: no port, no job id, a few series.

Counters begin at 0 with the daemon; Prometheus takes a restart for a reset. Never waits for the disk: the file is node-
local, small, and replaced by rename. Format: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from hpccarbon import __version__
from hpccarbon.node.sampler import SYSTEM, UNALLOCATED, Pending

_COMPONENTS = ("cpu", "dram", "gpu", "other")
_HOLDERS = ("job", SYSTEM, UNALLOCATED)
_Sample = tuple[Mapping[str, str], float]


class Textfile:
    """The node's metrics and the file they go to.

    Args:
        path: ends in `.prom`, or node_exporter does not read it; its directory must exist.
        cluster, node: labels of every series.
    """

    def __init__(self, path: Path, cluster: str, node: str) -> None:
        self.path = path
        self._labels = {"cluster": cluster, "node": node}
        self._energy_uj: dict[tuple[str, str], int] = {}
        self._meters_uj: dict[str, int] = {}
        self._modelled_uj = self._present_us = self._covered_us = 0
        self._cpu_ns = dict.fromkeys(_HOLDERS, 0)

    def add(self, pending: Pending) -> None:
        """Count what was divided since the last time: the sum over all jobs is one series."""
        for (_, holder), share in pending.shares.items():
            who = holder if isinstance(holder, str) else "job"
            for component in _COMPONENTS:
                energy_uj = getattr(share, f"{component}_uj")
                if energy_uj is not None:  # a component without a meter has no series, not one of zeros
                    key = (component, who)
                    self._energy_uj[key] = self._energy_uj.get(key, 0) + energy_uj
            self._modelled_uj += share.modelled_uj
            self._cpu_ns[who] += share.cpu_time_ns
            if who == SYSTEM:  # it is there whenever the node is
                self._present_us += share.present_us
                self._covered_us += share.covered_us
        for (_, meter), (energy_uj, _) in pending.meters.items():
            self._meters_uj[meter] = self._meters_uj.get(meter, 0) + energy_uj

    def write(self, wall_ns: int, jobs: int, meters: Iterable[str], gaps: Iterable[str]) -> None:
        """Replace the file.

        Args:
            jobs: how many run here. meters: the channels that are read. gaps: those that cannot be read now.

        Raises: OSError. The next write tries again.
        """
        text = "".join(self._lines(wall_ns, jobs, meters, frozenset(gaps)))
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        temporary.write_text(text, encoding="utf-8")
        temporary.chmod(0o644)
        temporary.replace(self.path)

    def _lines(self, wall_ns: int, jobs: int, meters: Iterable[str], gaps: frozenset[str]) -> Iterator[str]:
        energy = [({"component": part, "holder": who}, uj / 1e6) for (part, who), uj in sorted(self._energy_uj.items())]
        yield from self._metric(
            "node_energy_joules_total", "counter", "Energy of the node's components by who is charged.", energy
        )
        yield from self._metric(
            "node_meter_energy_joules_total",
            "counter",
            "Energy as the meters counted it.",
            [({"meter": meter}, uj / 1e6) for meter, uj in sorted(self._meters_uj.items())],
        )
        yield from self._metric(
            "node_modelled_energy_joules_total",
            "counter",
            "The part of the energy that a model estimated, not a sensor.",
            [({}, self._modelled_uj / 1e6)],
        )
        yield from self._metric(
            "node_cpu_seconds_total",
            "counter",
            "CPU time by who used it.",
            [({"holder": who}, used_ns / 1e9) for who, used_ns in self._cpu_ns.items() if who != UNALLOCATED],
        )
        yield from self._metric(
            "node_present_seconds_total", "counter", "Time that was divided.", [({}, self._present_us / 1e6)]
        )
        yield from self._metric(
            "node_covered_seconds_total",
            "counter",
            "The part of that time in which every meter could be read.",
            [({}, self._covered_us / 1e6)],
        )
        yield from self._metric("node_jobs", "gauge", "Jobs on the node.", [({}, jobs)])
        up = [({"meter": meter}, float(meter not in gaps)) for meter in sorted({*meters, *gaps})]
        yield from self._metric("node_meter_up", "gauge", "1 while the meter can be read.", up)
        yield from self._metric(
            "node_last_commit_timestamp_seconds", "gauge", "When the daemon last stored.", [({}, wall_ns / 1e9)]
        )
        yield from self._metric("node_build_info", "gauge", "The daemon's version.", [({"version": __version__}, 1)])

    def _metric(self, name: str, kind: str, help_: str, samples: Iterable[_Sample]) -> Iterator[str]:
        yield f"# HELP hpccarbon_{name} {help_}\n# TYPE hpccarbon_{name} {kind}\n"
        for labels, value in samples:
            told = ",".join(f'{key}="{_escaped(word)}"' for key, word in {**self._labels, **labels}.items())
            yield f"hpccarbon_{name}{{{told}}} {value:.17g}\n"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
