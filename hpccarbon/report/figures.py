"""The figures every report shows of something that used energy, with what is known about them. Only adds up.

These structs are the JSON that reports print (docs/report_json.md is made from them): within a schema version no field
is renamed, and each name ends in its unit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from math import fsum
from typing import TYPE_CHECKING, Annotated

import msgspec

from hpccarbon.carbon.footprint import Description
from hpccarbon.carbon.uncertainty import energy_spread
from hpccarbon.units import BUCKET_S

if TYPE_CHECKING:
    from hpccarbon.errors import ShardError
    from hpccarbon.site.groups import Group
    from hpccarbon.site.ledger import EnergyRow

JSON_VERSION = 1
"""Version of the JSON documents; it goes up when a field changes its name or meaning, not when one is added."""

Means = msgspec.Meta


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Energy of a job, a node, a user, ... and what is known about it. null is "not known", never zero."""

    energy_uj: Annotated[int | None, Means(description="energy in microjoules: the sum of the metered components")]
    low_uj: Annotated[int | None, Means(description="the energy less one sigma, as a factor: from the meters' classes")]
    high_uj: Annotated[int | None, Means(description="the energy and one sigma more")]
    cpu_uj: Annotated[int | None, Means(description="energy of the CPU packages; null where there was no meter")]
    dram_uj: Annotated[int | None, Means(description="energy of the memory")]
    gpu_uj: Annotated[int | None, Means(description="energy of the GPUs")]
    other_uj: Annotated[int | None, Means(description="what a whole-node meter saw beyond the components")]
    static_uj: Annotated[int, Means(description="the part of the energy that hardware draws however busy it is")]
    modelled_uj: Annotated[int, Means(description="the part of the energy that a model estimated, not a sensor")]
    covered_percent: Annotated[
        float | None, Means(description="how much of the time on nodes every meter could be read")
    ]
    measured_percent: Annotated[float | None, Means(description="how much of the energy came from sensors")]
    node_hours: Annotated[float, Means(description="time on nodes, all nodes together")]
    unseen_node_hours: Annotated[
        float,
        Means(description="time on nodes that Slurm knows of and no daemon saw: not in node_hours, nor in energy"),
    ]
    core_hours: Annotated[float | None, Means(description="cores held × time; null where not known")]
    cpu_hours: Annotated[float | None, Means(description="CPU time that was used")]
    cpu_used_percent: Annotated[float | None, Means(description="cpu_hours as a part of core_hours")]
    nodes: Annotated[int, Means(description="how many nodes; of lines added up, those of the line with most")]
    first: Annotated[datetime | None, Means(description="start of the first minute with a row")]
    last: Annotated[datetime | None, Means(description="end of the last minute with a row")]
    co2e_g: Annotated[float | None, Means(description="grams CO2e; null where an intensity is not known")]

    @property
    def energy_spread(self) -> float | None:
        """One sigma of the energy, relative."""
        parts = {"cpu": self.cpu_uj, "dram": self.dram_uj, "gpu": self.gpu_uj, "other": self.other_uj}
        return energy_spread(parts, self.modelled_uj)

    @property
    def active_uj(self) -> int | None:
        """The energy beyond the static part."""
        return None if self.energy_uj is None else self.energy_uj - self.static_uj


class CarbonOf(msgspec.Struct, frozen=True, kw_only=True):
    """What turned the energy of one place into grams. Most clusters have one place; the others say so in [carbon]."""

    place: Annotated[str, Means(description="name under carbon.places; empty: [carbon] itself")]
    energy_uj: Annotated[int, Means(description="energy that was used there")]
    method: Description


class SetAside(msgspec.Struct, frozen=True):
    """A file that could not be trusted and is in no figure."""

    path: str
    reason: str


def set_aside(faults: Iterable[ShardError]) -> list[SetAside]:
    """The ledger's faults as the report names them."""
    return [SetAside(fault.path, fault.reason) for fault in faults]


def plus(values: Iterable[int | None]) -> int | None:
    """The sum of what is known; None if nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def percent(part: float | None, whole: float | None) -> float | None:
    """`part` in per cent of `whole`; None where one is not known or the whole is nothing."""
    return None if part is None or not whole else 100 * part / whole


def added(rows: Sequence[EnergyRow], *, nodes: int | None = None, expected_ms: int = 0, unseen_ms: int = 0) -> Figures:
    """The figures of rows that share nothing, together.

    Args:
        rows: any number of energy rows, none of them part of another.
        nodes: how many nodes they are of, where the caller knows; else the largest number one row has.
        expected_ms: the node-time that Slurm says was used. Where it exceeds what the daemons saw, coverage is of it.
        unseen_ms: node-time that Slurm knows of and no row says (site/unseen.py): coverage is of it, too.
    """
    cpu_uj, dram_uj = plus(row.cpu_uj for row in rows), plus(row.dram_uj for row in rows)
    gpu_uj, other_uj = plus(row.gpu_uj for row in rows), plus(row.other_uj for row in rows)
    energy_uj = plus((cpu_uj, dram_uj, gpu_uj, other_uj))
    modelled_uj = sum(row.modelled_uj for row in rows)
    present_ms = sum(row.present_ms for row in rows)
    core_us, cpu_time_us = plus(row.core_us for row in rows), plus(row.cpu_time_us for row in rows)
    whole_ms = max(present_ms, expected_ms) + unseen_ms
    spread = energy_spread({"cpu": cpu_uj, "dram": dram_uj, "gpu": gpu_uj, "other": other_uj}, modelled_uj)
    grams = [row.grams for row in rows if row.energy_uj]
    known = [gram for gram in grams if gram is not None]
    # Here and wherever fractions are added up: fsum, because sum's last digit is another from Python 3.12 on.
    return Figures(
        energy_uj=energy_uj,
        low_uj=None if energy_uj is None else round(energy_uj / (1 + (spread or 0.0))),
        high_uj=None if energy_uj is None else round(energy_uj * (1 + (spread or 0.0))),
        cpu_uj=cpu_uj,
        dram_uj=dram_uj,
        gpu_uj=gpu_uj,
        other_uj=other_uj,
        static_uj=sum(row.idle_uj for row in rows),
        modelled_uj=modelled_uj,
        covered_percent=percent(sum(row.covered_ms for row in rows), whole_ms),
        measured_percent=None if energy_uj is None else percent(energy_uj - modelled_uj, energy_uj),
        node_hours=present_ms / 3_600_000,
        unseen_node_hours=(whole_ms - present_ms) / 3_600_000,
        core_hours=None if core_us is None else core_us / 3_600_000_000,
        cpu_hours=None if cpu_time_us is None else cpu_time_us / 3_600_000_000,
        cpu_used_percent=percent(cpu_time_us, core_us),
        nodes=max((row.nodes for row in rows), default=0) if nodes is None else nodes,
        first=min((row.first for row in rows if row.first is not None), default=None),
        last=max((row.last + timedelta(seconds=BUCKET_S) for row in rows if row.last is not None), default=None),
        co2e_g=fsum(known) if grams and len(known) == len(grams) else None,
    )


def added_groups(groups: Sequence[Group], *, nodes: int | None = None) -> Figures:
    """The figures of groups that share nothing, together, with what accounting knows and no daemon saw of them."""
    return added([one.energy for one in groups], nodes=nodes, unseen_ms=sum(one.unseen.node_ms for one in groups))
