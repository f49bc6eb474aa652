"""What making the hardware emitted, given to who held it: kilograms / life × time × cores held. Loses nothing.

SCI (ISO/IEC 21031): M = TE × (time reserved / expected life) × (resources reserved / resources of the node). It accrues
by the calendar: hours and cores that nobody held are `unallocated`, so that all shares of a node add up to its own.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from fractions import Fraction
from typing import NamedTuple, TypeVar

from hpccarbon.carbon import tables
from hpccarbon.config import Embodied
from hpccarbon.errors import ConfigError
from hpccarbon.units import apportion

UG_PER_KG = 10**9
UG_PER_G = 10**6
HOURS_PER_YEAR = 8760
US_PER_YEAR = HOURS_PER_YEAR * 3600 * 10**6
NODE_SPREAD = 1.6
"""x/÷ this where a figure for a node has no range of its own: method and configuration of the makers' sheets differ."""
GPU_SPREAD = 2.5
"""The same for GPUs: makers and models differ by up to 3.5."""
UNALLOCATED = "unallocated"
Key = TypeVar("Key", bound=Hashable)


class Figure(NamedTuple):
    """Kilograms CO2e of one thing, the range they lie in, and who says so."""

    kg: float
    low_kg: float
    high_kg: float
    source: str

    @property
    def spread(self) -> float:
        """One sigma, relative: half of the range's logarithm, as the range is one of factors."""
        return math.log(self.high_kg / self.low_kg) / 2 if self.low_kg > 0 else 0.0


class Hardware(NamedTuple):
    """A node without its GPUs, one GPU, how many there are of what is divided, and their life."""

    node: Figure | None
    gpu: Figure | None
    cores: int
    gpus: int
    life_years: float

    @property
    def kg(self) -> float:
        """The whole node with its GPUs."""
        return (self.node.kg if self.node else 0.0) + (self.gpu.kg * self.gpus if self.gpu else 0.0)


class Held(NamedTuple):
    """What somebody held of a node: cores × µs and GPUs × µs."""

    core_us: int
    gpu_us: int = 0


def hardware(given: Embodied) -> Hardware | None:
    """The node as the configuration describes it; None where it gives no figure at all.

    Raises: ConfigError for an item that the packaged table has not, with the nearest one.
    """
    node = _figure("node", given.node_kg, given.node_low_kg, given.node_high_kg, given.node_item, given.source)
    gpu = _figure("gpu", given.gpu_kg, given.gpu_low_kg, given.gpu_high_kg, given.gpu_item, given.source)
    if node is None and gpu is None:
        return None
    return Hardware(node, gpu, given.node_cores, given.node_gpus, given.life_years)


def items() -> list[str]:
    """The rows of the packaged table that a node or a GPU may name."""
    return [row["item"] for row in tables.rows_of("embodied")]


def job_ug(held: Held, made: Hardware) -> int:
    """What one job's reservation carries, in µg CO2e: known without knowing anybody else's.

    Raises: ValueError, if the hardware has no cores to divide.
    """
    return _part_ug(made.node, held.core_us, made.cores, made) + _part_ug(made.gpu, held.gpu_us, 1, made)


def share(made: Hardware, span_us: int, held: Mapping[Key, Held]) -> dict[Key | str, int]:
    """A node's emissions over a time among who held it, and `unallocated`: adds up to the whole, exactly.

    Args:
        span_us: the time, the node's own: down time counts too.
        held: by holder. Where more was held than there is (a node that was oversubscribed), it is divided by what was
            held and nothing is unallocated.

    Returns: µg by holder, then `unallocated`.
    """
    node_total = _scaled(made.node, Fraction(span_us), made)
    gpu_total = _scaled(made.gpu, Fraction(span_us) * made.gpus, made)
    cores: dict[Key | str, int] = {key: part.core_us for key, part in held.items()}
    gpus: dict[Key | str, int] = {key: part.gpu_us for key, part in held.items()}
    cores[UNALLOCATED] = max(0, made.cores * span_us - sum(cores.values()))
    gpus[UNALLOCATED] = max(0, made.gpus * span_us - sum(gpus.values()))
    by_cores = apportion(node_total, cores) if any(cores.values()) else dict.fromkeys(cores, 0)
    by_gpus = apportion(gpu_total, gpus) if any(gpus.values()) else dict.fromkeys(gpus, 0)
    return {key: by_cores[key] + by_gpus[key] for key in cores}


class Sci(NamedTuple):
    """Software carbon intensity: (O + M) per functional unit. Location-based and average; no offset lowers it."""

    operational_g: float
    embodied_g: float
    units: float
    unit: str

    @property
    def value(self) -> float:
        """g CO2e per unit."""
        return (self.operational_g + self.embodied_g) / self.units


def sci(operational_g: float, embodied_ug: int, units: float = 1.0, unit: str = "job") -> Sci:
    """The SCI of a job, or of what it produced (`units` samples, simulated years, training runs).

    Args:
        operational_g: location-based grams of the energy reserved, PUE included; never market-based or marginal.
    Raises: ValueError, if there is nothing to divide by.
    """
    if not units > 0:
        raise ValueError(f"an SCI per {units} {unit} has no meaning: how many {unit} did it produce?")
    return Sci(operational_g, embodied_ug / UG_PER_G, units, unit)


def _figure(what: str, kg: float, low_kg: float, high_kg: float, item: str, source: str) -> Figure | None:
    factor = GPU_SPREAD if what == "gpu" else NODE_SPREAD
    if kg:
        return Figure(kg, low_kg or kg / factor, high_kg or kg * factor, source)
    if not item:
        return None
    row = next((row for row in tables.rows_of("embodied") if row["item"] == item), None)
    if row is None:
        import difflib

        near = difflib.get_close_matches(item, items(), n=3, cutoff=0.3)
        raise ConfigError(
            f"carbon.embodied.{what}_item: no `{item}` in the table; nearest: {', '.join(near) or 'none'}"
        )
    middle = float(row["kg_co2e"])
    return Figure(
        middle,
        float(row["low"]) if row["low"] else middle / factor,
        float(row["high"]) if row["high"] else middle * factor,
        f"{row['source']} ({row['year']})",
    )


def _part_ug(figure: Figure | None, held_us: int, of: int, made: Hardware) -> int:
    if figure is None or not held_us:
        return 0
    if of <= 0:
        raise ValueError("the hardware has no cores: set carbon.embodied.node_cores")
    return _scaled(figure, Fraction(held_us, of), made)


def _scaled(figure: Figure | None, time_us: Fraction, made: Hardware) -> int:
    """µg of a figure over a part of its life, in whole numbers: floats would lose µg in a sum of thousands of jobs."""
    if figure is None:
        return 0
    life_us = Fraction(str(made.life_years)) * US_PER_YEAR
    return round(Fraction(str(figure.kg)) * UG_PER_KG * time_us / life_us)
