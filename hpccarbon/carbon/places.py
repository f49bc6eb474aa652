"""Where the parts of a cluster stand: which zone, PUE and node factor a node or a partition has. Computes no grams.

[carbon]                      # the cluster
zone = "DE"
pue = 1.25

[carbon.places.north]         # what differs, by nodes or by partitions; nodes go first
nodes = "n[001-064],gpu[1-8]"
partitions = ["far-*"]
zone = "SE-SE1"
pue = 1.06
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from hpccarbon.carbon.footprint import Factors, hour_of
from hpccarbon.config import Carbon
from hpccarbon.errors import ConfigError
from hpccarbon.units import UJ_PER_KWH

HERE = ""
"""The name of the place that `[carbon]` itself describes."""
Row = tuple[datetime, "str | None", "str | None", int]
"""(UTC hour, node, partition, metered energy in µJ), as the ledger has it."""
EnergyByPlace = dict[str, dict[datetime, int]]
"""Place -> UTC hour -> metered energy in µJ."""


class Places:
    """Every place of a cluster with its factors, made when they are asked for.

    Raises: ConfigError, if a hostlist is malformed or a node stands in two places.
    """

    def __init__(self, carbon: Carbon, series_dir: Path | None = None, as_of: datetime | None = None) -> None:
        self.carbon = carbon
        self._series_dir = series_dir
        self._as_of = as_of
        self._factors: dict[str, Factors] = {}
        self._nodes = _nodes(carbon)
        self._known: dict[tuple[str | None, str | None], str] = {}

    @property
    def several(self) -> bool:
        """Whether any part of the cluster differs from the rest: only then do node and partition matter."""
        return bool(self.carbon.places)

    def place_of(self, node: str | None = None, partition: str | None = None) -> str:
        """The place's name in the configuration: the node's, else the partition's, else `HERE`."""
        key = (node, partition)
        if key not in self._known:
            self._known[key] = self._nodes.get(node or "") or self._by_partition(partition) or HERE
        return self._known[key]

    def energy_of(self, rows: Iterable[Row]) -> EnergyByPlace:
        """The energy of rows of the ledger, by where they stand and by their hour."""
        found: EnergyByPlace = {}
        for hour, node, partition, energy_uj in rows:
            used = found.setdefault(self.place_of(node, partition), {})
            used[hour_of(hour)] = used.get(hour_of(hour), 0) + energy_uj
        return found

    def carbon_of(self, place: str) -> Carbon:
        """`[carbon]` as it is in this place."""
        if place == HERE:
            return self.carbon
        given = self.carbon.places[place]
        differs = {name: getattr(given, name) for name in ("zone", "pue", "node_factor") if getattr(given, name)}
        if given.pue:  # a building of its own
            differs |= {"pue_of_year": {}, "pue_file": ""}
        if given.embodied is not None:
            differs["embodied"] = given.embodied
        if "zone" in differs:
            # A plant of one's own feeds the place it stands in, not another zone.
            differs |= {"fixed_g_per_kwh": 0.0, "fixed_source": ""}
        return msgspec.structs.replace(self.carbon, **differs)

    def factors(self, place: str = HERE) -> Factors:
        """The factors of a place. Raises: CarbonError, if its zone is not known."""
        if place not in self._factors:
            self._factors[place] = Factors(self.carbon_of(place), self._series_dir, self._as_of)
        return self._factors[place]

    def of(self, node: str | None = None, partition: str | None = None) -> Factors:
        """The factors that count for a row of the ledger."""
        return self.factors(self.place_of(node, partition))

    def grams(self, rows: Iterable[Row]) -> float | None:
        """Grams of rows (UTC hour, node, partition, energy in µJ); None where a row with energy has no factor."""
        total = 0.0
        for hour, node, partition, energy_uj in rows:
            if energy_uj:
                factor = self.of(node, partition).at(hour)
                if factor is None:
                    return None
                total += energy_uj / UJ_PER_KWH * factor.factor
        return total

    def _by_partition(self, partition: str | None) -> str:
        if not partition:
            return HERE
        for name, place in self.carbon.places.items():
            if any(fnmatchcase(partition, pattern) for pattern in place.partitions):
                return name
        return HERE


def _nodes(carbon: Carbon) -> Mapping[str, str]:
    """Node -> place, of every place that names its nodes."""
    nodes: dict[str, str] = {}
    if not any(place.nodes for place in carbon.places.values()):
        return nodes
    from hpccarbon.hostlist import expand

    for name, place in carbon.places.items():
        try:
            its = expand(place.nodes)
        except ValueError as err:
            raise ConfigError(f"carbon.places.{name}.nodes: {err}") from err
        for node in its:
            if nodes.setdefault(node, name) != name:
                raise ConfigError(f"carbon.places: node {node} stands in {nodes[node]} and in {name}")
    return nodes
