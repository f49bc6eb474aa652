"""How far a total of grams may be off, and which part of that no average removes. Adds errors; estimates none itself.

The bands are those of data/uncertainty.csv: measured disagreement between sources, because no source publishes a
standard error. What all jobs of a site share (level of the zone's intensity, PUE, meters) is kept apart from what is
one job's own (its hours): the first does not average out in the total of a year, the second does.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import hypot
from typing import Annotated

import msgspec

from hpccarbon.carbon import tables
from hpccarbon.carbon.footprint import Description

Means = msgspec.Meta


def energy_spread(parts_uj: Mapping[str, int | None], modelled_uj: int) -> float | None:
    """One sigma of an energy, relative, from the classes of its meters and the part that a model estimated.

    Args:
        parts_uj: energy by component (cpu, dram, gpu, other), None where there was no meter.

    Returns: None where nothing was metered. Errors of one class are common to all its meters and add up; the classes
        are different instruments, so that theirs combine in quadrature (docs/method.md, "How far a figure may be off").
    """
    known = {name: part for name, part in parts_uj.items() if part}
    whole = sum(known.values())
    if not whole:
        return None
    bands = tables.bands()
    measured = 1 - modelled_uj / whole  # what was modelled is not known by component: taken from each alike
    errors = [part * measured * bands[f"energy_{name}"].relative for name, part in known.items()]
    return hypot(modelled_uj * bands["energy_modelled"].relative, *errors) / whole


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """One-sigma relative errors in per cent, combined in quadrature."""

    intensity_percent: Annotated[float, Means(description="level of the zone's intensity: common to all jobs")]
    hours_percent: Annotated[float, Means(description="stand-ins for hours that are not known: this selection's own")]
    pue_percent: Annotated[float | None, Means(description="common to all jobs; null: the PUE is unknown, error too")]
    energy_percent: Annotated[float, Means(description="meters and models of energy: common to all jobs")]
    notes: list[str]

    @property
    def common_percent(self) -> float:
        """What all jobs share."""
        return hypot(self.intensity_percent, self.pue_percent or 0.0, self.energy_percent)

    @property
    def own_percent(self) -> float:
        """What is this selection's own."""
        return self.hours_percent

    @property
    def total_percent(self) -> float:
        """Both together."""
        return hypot(self.common_percent, self.own_percent)

    def range_g(self, grams: float) -> tuple[float, float]:
        """One sigma below and above, as factors: no negative grams."""
        factor = 1 + self.total_percent / 100
        return grams / factor, grams * factor


def budget(told: Description, energy: float | None = None) -> Budget | None:
    """The errors of the grams that `told` describes; None where there are no grams.

    Args:
        energy: `energy_spread` of the energy; None: all of it from counters of CPUs.
    """
    if told.common_percent is None or told.own_percent is None:
        return None
    bands = tables.bands()
    notes = [] if told.pue else ["the PUE is unknown: what it adds is in no figure, and its error in no range"]
    return Budget(
        intensity_percent=told.common_percent,
        hours_percent=told.own_percent,
        pue_percent=100 * bands["pue"].relative if told.pue else None,
        energy_percent=100 * (bands["energy_measured"].relative if energy is None else energy),
        notes=notes,
    )
