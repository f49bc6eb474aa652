"""All that carbon has to say of some energy, in one value: grams, range, hardware, SCI, scope 2, water, comparison.

What is not known is null and named in `notes`; nothing is assumed in silence. Formats nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import fsum
from typing import Annotated

import msgspec

from hpccarbon.carbon import equivalents
from hpccarbon.carbon.embodied import UG_PER_G, Held, hardware, job_ug, sci
from hpccarbon.carbon.places import EnergyByPlace, Places
from hpccarbon.carbon.scope2 import scope2, water_l
from hpccarbon.carbon.uncertainty import budget
from hpccarbon.units import kwh

Means = msgspec.Meta


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """Of one job, or of any selection. `low` and `high` are one sigma, as factors."""

    co2e_g: Annotated[float | None, Means(description="electricity, location-based; null where an hour has no value")]
    low_g: float | None
    high_g: float | None
    common_percent: Annotated[
        float | None, Means(description="one sigma that all jobs of the site share: it does not average out")
    ]
    own_percent: Annotated[float | None, Means(description="one sigma that is this selection's alone")]
    embodied_g: Annotated[float | None, Means(description="share of manufacturing; null where it is not configured")]
    embodied_low_g: float | None
    embodied_high_g: float | None
    embodied_unused_g: Annotated[
        float | None,
        Means(
            description="of the whole cluster in a time: manufacturing of what no job held, of its nodes;"
            " with embodied_g their share of the time. Null of jobs and selections"
        ),
    ] = None
    sci_g: Annotated[float | None, Means(description="ISO/IEC 21031: (electricity + manufacturing) per unit")]
    sci_unit: str
    sci_units: Annotated[float, Means(description="how many of them the energy was for")]
    market_g: Annotated[float | None, Means(description="electricity, market-based; null where no contract is known")]
    water_l: Annotated[float | None, Means(description="site water; null where the site gives no WUE")]
    comparison: equivalents.Equivalent | None
    notes: list[str]


def held_of(places: Places, rows: Iterable[tuple[str | None, str | None, int, int]]) -> dict[str, Held]:
    """What was held in each place.

    Args:
        rows: (node, partition, cores × µs, GPUs × µs).
    """
    held: dict[str, Held] = {}
    for node, partition, core_us, gpu_us in rows:
        place = places.place_of(node, partition)
        so_far = held.get(place, Held(0, 0))
        held[place] = Held(so_far.core_us + core_us, so_far.gpu_us + gpu_us)
    return held


def statement(
    places: Places,
    energy: EnergyByPlace,
    held: Mapping[str, Held] | None = None,
    *,
    energy_spread: float | None = None,
    units: float = 1.0,
    unit: str = "job",
) -> Statement:
    """All of it for some energy and what was held meanwhile.

    Args:
        energy: `Places.energy_of`.
        held: place -> cores and GPUs × time (`held_of`); None: the hardware is left out.
        energy_spread: one sigma of the energy itself, relative (`uncertainty.energy_spread`).
        units, unit: what the SCI is per: 1 job, 40 simulated years, ...

    Raises: CarbonError for a zone that is not known. ValueError for `units` <= 0.
    """
    notes: dict[str, None] = {}
    grams, market, water = _Sum(), _Sum(), _Sum()
    common_g = own_g = 0.0
    for place, used in energy.items():
        factors, carbon = places.factors(place), places.carbon_of(place)
        its_g, its_kwh = factors.grams(used), kwh(sum(used.values()))
        grams.add(its_g)
        both = scope2(carbon, factors.grid_kwh(used), its_g)
        market.add(both.market_g)
        water.add(water_l(carbon, its_kwh))
        told = factors.describe(used)
        notes.update(dict.fromkeys(told.notes))
        if carbon.market.source:
            notes.update(dict.fromkeys(both.notes))
        errors = budget(told, energy_spread)
        if errors is not None and its_g is not None:
            common_g += its_g * errors.common_percent / 100
            own_g = (own_g**2 + (its_g * errors.own_percent / 100) ** 2) ** 0.5
    total = grams.value
    made = _made(places, held or {})
    spread = 1 + (common_g**2 + own_g**2) ** 0.5 / total if total else None
    embodied_g = made[0] / UG_PER_G if made else None
    return Statement(
        co2e_g=total,
        low_g=total / spread if total is not None and spread else None,
        high_g=total * spread if total is not None and spread else None,
        common_percent=100 * common_g / total if total else None,
        own_percent=100 * own_g / total if total else None,
        embodied_g=embodied_g,
        embodied_low_g=made[1] / UG_PER_G if made else None,
        embodied_high_g=made[2] / UG_PER_G if made else None,
        sci_g=None if total is None or made is None else sci(total, made[0], units, unit).value,
        sci_unit=unit,
        sci_units=units,
        market_g=market.value,
        water_l=water.value,
        comparison=equivalents.car(None if total is None else total + (embodied_g or 0.0), places.carbon),
        notes=list(notes),
    )


class _Sum:
    """A sum that is not known once one part is not."""

    def __init__(self) -> None:
        self._parts: list[float | None] = []

    def add(self, part: float | None) -> None:
        self._parts.append(part)

    @property
    def value(self) -> float | None:
        known = [part for part in self._parts if part is not None]
        return fsum(known) if known and len(known) == len(self._parts) else None


def _made(places: Places, held: Mapping[str, Held]) -> tuple[int, int, int] | None:
    """µg of manufacturing: middle, low, high; None where a place that was used has no figure."""
    middle = low = high = 0
    for place, part in held.items():
        made = hardware(places.carbon_of(place).embodied)
        if made is None:
            return None
        middle += job_ug(part, made)
        for_low, for_high = (
            made._replace(
                node=made.node._replace(kg=getattr(made.node, end)) if made.node else None,
                gpu=made.gpu._replace(kg=getattr(made.gpu, end)) if made.gpu else None,
            )
            for end in ("low_kg", "high_kg")
        )
        low += job_ug(part, for_low)
        high += job_ug(part, for_high)
    return (middle, low, high) if held else None
