"""GHG Protocol scope 2 and site water: the two totals an inventory asks for. Estimates neither a contract nor a mix."""

from __future__ import annotations

from typing import Annotated

import msgspec

from hpccarbon.config import Carbon

Means = msgspec.Meta


class Scope2(msgspec.Struct, frozen=True, kw_only=True):
    """Both totals of the same energy, always side by side. null: not known, with the reason in `notes`."""

    location_g: Annotated[float | None, Means(description="grid average of the place and time")]
    market_g: Annotated[float | None, Means(description="contracts, and the residual mix for the rest")]
    basis: Annotated[str, Means(description="scope 2 asks for direct factors; life cycle is more than scope 2")]
    notes: list[str]


def scope2(carbon: Carbon, grid_kwh: float, location_g: float | None) -> Scope2:
    """Location- and market-based grams of energy from the grid.

    Args:
        grid_kwh: metered energy × node factor × PUE of its hours (`Factors.grid_kwh`).
        location_g: what `Factors.grams` says of it.

    Method: docs/carbon.md, "Scope 2". Embodied emissions are scope 3, category 2, in the year of purchase: a job's
        amortised share is a management figure and no line of an inventory.
    """
    notes = []
    if carbon.basis != "direct":
        notes.append(
            "the factors are life cycle: scope 2 asks for direct ones (carbon.basis = direct); the rest is scope 3"
        )
    market = carbon.market
    if not market.source:
        notes.append("no market-based total: no contract is configured (carbon.market)")
        return Scope2(location_g=location_g, market_g=None, basis=carbon.basis, notes=notes)
    if market.contract_share < 1 and not market.residual_g_per_kwh:
        left = 100 * (1 - market.contract_share)
        notes.append(
            f"no market-based total: {left:.3g} % of the energy is under no contract and needs the residual mix "
            "(carbon.market.residual_g_per_kwh), which is not the grid mix"
        )
        return Scope2(location_g=location_g, market_g=None, basis=carbon.basis, notes=notes)
    per_kwh = (
        market.contract_share * market.contract_g_per_kwh + (1 - market.contract_share) * market.residual_g_per_kwh
    )
    notes.append(f"market-based by {market.source}")
    return Scope2(location_g=location_g, market_g=grid_kwh * per_kwh, basis=carbon.basis, notes=notes)


def water_l(carbon: Carbon, metered_kwh: float) -> float | None:
    """Litres of site water (WUE, ISO/IEC 30134-9: per kWh of IT energy); None where the site gives no WUE.

    Water that power plants evaporate is another figure and not in it.
    """
    if not carbon.wue_l_per_kwh:
        return None
    return metered_kwh * carbon.node_factor * carbon.wue_l_per_kwh
