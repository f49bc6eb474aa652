"""Services that know hourly intensities, one file each behind one protocol (`base.Service`). Loads none until asked."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from hpccarbon.config import Carbon, Provider
from hpccarbon.errors import ConfigError

if TYPE_CHECKING:
    from hpccarbon.carbon.providers.base import Basis, Service


class Entry(NamedTuple):
    """A service: where its class stands, and what one should know before choosing it."""

    module: str
    type_name: str
    bases: tuple[str, ...]
    signal: str
    needs_key: bool
    where: str
    terms: str


SERVICES: dict[str, Entry] = {
    "electricity_maps": Entry(
        "electricity_maps", "ElectricityMaps", ("lifecycle", "direct"), "average", True, "world", "contract"
    ),
    "energy_charts": Entry(
        "energy_charts", "EnergyCharts", ("lifecycle",), "average", False, "countries of Europe", "CC BY 4.0"
    ),
    "entsoe": Entry(
        "entsoe", "Entsoe", ("lifecycle", "direct"), "average", True, "areas of Europe", "CC BY 4.0 (most items)"
    ),
    "neso_national": Entry("neso", "NesoNational", ("direct",), "average", False, "GB", "CC BY 4.0"),
    "neso_regional": Entry("neso", "NesoRegional", ("direct",), "average", False, "regions of GB", "CC BY 4.0"),
    "rte_eco2mix": Entry("rte_eco2mix", "RteEco2mix", ("direct",), "average", False, "FR", "Licence Ouverte 2.0"),
    "watttime": Entry("watttime", "WattTime", ("direct",), "marginal", True, "regions of the world", "contract"),
    "site_http": Entry(
        "site", "SiteHttp", ("lifecycle", "direct"), "average", False, "the site's own", "the site's own"
    ),
}
"""Every service by the name it has in the configuration."""


def make(
    name: str, carbon: Carbon, basis: Basis, now: datetime, sleep: Callable[[float], None] = time.sleep
) -> Service:
    """A service as the configuration describes it.

    Args:
        now: aware; what "the last 24 hours" and "the last month" of a service count from.

    Raises: ConfigError, if there is no such service, it lacks a key, or it has not the basis.
    """
    import difflib

    entry = SERVICES.get(name)
    if entry is None:
        near = difflib.get_close_matches(name, SERVICES, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"there are: {', '.join(SERVICES)}"
        raise ConfigError(f"no provider `{name}`; {hint}")
    module = import_module(f"{__name__}.{entry.module}")
    service: Service = getattr(module, entry.type_name)(carbon.providers.get(name, Provider()), basis, now, sleep)
    return service
