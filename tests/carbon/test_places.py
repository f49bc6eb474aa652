"""Parts of a cluster that stand elsewhere."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from hpccarbon import config
from hpccarbon.carbon.places import HERE, Places
from hpccarbon.errors import CarbonError, ConfigError

HOUR = datetime(2024, 5, 1, 3, tzinfo=timezone.utc)
KWH = 3_600_000_000_000
TOML = """
[carbon]
zone = "DE"
pue = 1.5
node_factor = 1.1
[carbon.places.north]
nodes = "n[01-03]"
partitions = ["far-*"]
zone = "SE"
pue = 1.05
[carbon.places.gpu]
partitions = ["gpu"]
node_factor = 1.02
"""


def places(text: str = TOML) -> Places:
    return Places(config.parse(text).carbon)


@pytest.mark.parametrize(
    ("node", "partition", "place"),
    [
        ("n02", "gpu", "north"),
        ("n04", "gpu", "gpu"),
        ("n04", "far-away", "north"),
        ("n04", "cpu", HERE),
        (None, None, HERE),
    ],
)
def test_the_node_goes_before_the_partition(node: str | None, partition: str | None, place: str) -> None:
    assert places().place_of(node, partition) == place


def test_a_place_says_only_what_differs() -> None:
    north, gpu = places().factors("north"), places().factors("gpu")
    assert north.zone == "SE" and north.grid_kwh({HOUR: KWH}) == pytest.approx(1.05 * 1.1)
    assert gpu.zone == "DE" and gpu.grid_kwh({HOUR: KWH}) == pytest.approx(1.5 * 1.02)


def test_grams_of_rows_are_those_of_their_places() -> None:
    here = places()
    rows = [(HOUR, "n01", "cpu", KWH), (HOUR, "x1", "gpu", 2 * KWH), (HOUR, "x1", "cpu", 3 * KWH)]
    factors = [here.of(node, partition).at(hour) for hour, node, partition, _ in rows]
    expected = sum(kwh * factor.factor for kwh, factor in zip((1, 2, 3), factors, strict=True) if factor)
    assert here.grams(rows) == pytest.approx(expected) and expected > 0
    assert Places(config.parse("").carbon).grams(rows) is None


def test_a_node_in_two_places_and_a_zone_that_is_none_are_named() -> None:
    twice = '[carbon.places.a]\nnodes = "n[1-3]"\n[carbon.places.b]\nnodes = "n3"\n'
    with pytest.raises(ConfigError, match="n3 stands in a and in b"):
        places(twice)
    with pytest.raises(ConfigError, match=r"carbon\.places\.a\.nodes"):
        places('[carbon.places.a]\nnodes = "n[1-"\n')
    with pytest.raises(CarbonError, match="unknown zone `XX9`"):
        places('[carbon.places.a]\nnodes = "n1"\nzone = "XX9"\n').factors("a")
