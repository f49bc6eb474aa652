"""Grams as something that people know, with its range and source. One per report, and one key switches it off."""

from __future__ import annotations

import msgspec

from hpccarbon.carbon import tables
from hpccarbon.config import Carbon

_SMALL_G = 1.0
"""Below this a comparison says more than the figure does."""


class Equivalent(msgspec.Struct, frozen=True, kw_only=True):
    """`low` to `high` `unit` of something."""

    label: str
    low: float
    high: float
    unit: str
    source: str
    note: str

    @property
    def text(self) -> str:
        """`5.6 to 7.8 km by car`."""
        low, high = _two(self.low), _two(self.high)
        amount = low if low == high else f"{low} to {high}"
        return f"{amount} {self.unit} {self.label}"


def car(grams: float | None, carbon: Carbon) -> Equivalent | None:
    """The distance of an average car, from European to US cars; None without grams, or with `comparisons = false`.

    A car is known everywhere and burns the same everywhere. A phone's charge is itself electricity of some grid, and a
    tree binds carbon and undoes nothing: they are in the table and in no report.
    """
    if grams is None or grams < _SMALL_G or not carbon.comparisons:
        return None
    rows = {row["key"]: row for row in tables.rows_of("equivalents")}
    us, europe = rows["car_us"], rows["car_eu"]
    per_km = sorted(float(row["g_co2e_per_unit"]) for row in (us, europe))
    far = grams >= 1000 * per_km[0] / 1000
    return Equivalent(
        label="by an average car",
        low=grams / per_km[1] * (1 if far else 1000),
        high=grams / per_km[0] * (1 if far else 1000),
        unit="km" if far else "m",
        source=f"{europe['source']} ({europe['g_co2e_per_unit']} g/km); {us['source']} ({us['g_co2e_per_unit']} g/km)",
        note="from European to US cars",
    )


def _two(value: float) -> str:
    """Two significant digits, without an exponent."""
    return f"{float(f'{value:.2g}'):,.10g}"
