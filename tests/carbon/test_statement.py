"""One job's whole statement: each figure is the one its own module gives, and what is missing is named."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from hpccarbon import config
from hpccarbon.carbon.embodied import UG_PER_G, hardware, job_ug
from hpccarbon.carbon.explain import explain
from hpccarbon.carbon.footprint import NO_PUE
from hpccarbon.carbon.places import Places, Row
from hpccarbon.carbon.statement import held_of, statement
from hpccarbon.config import Carbon

T0 = datetime(2024, 6, 1, tzinfo=timezone.utc)
KWH = 3_600_000_000_000
HOUR_US = 3600 * 10**6
TOML = """
[carbon]
zone = "DE"
pue = 1.4
wue_l_per_kwh = 0.5
[carbon.market]
contract_share = 1.0
contract_g_per_kwh = 20
source = "PPA"
[carbon.embodied]
node_kg = 1000
node_cores = 64
source = "maker's sheet"
[carbon.places.gpu]
nodes = "g1"
pue = 1.1
[carbon.places.gpu.embodied]
node_item = "server_2_socket_rack"
gpu_item = "gpu_nvidia_h100_sxm"
node_cores = 96
node_gpus = 8
"""


def test_every_figure_of_two_places() -> None:
    places = Places(config.parse(TOML).carbon)
    rows: list[Row] = [(T0 + timedelta(hours=at), node, "p", KWH) for at in range(3) for node in ("n1", "g1")]
    held = held_of(
        places, [("n1", "p", 64 * HOUR_US, 0), ("n1", "p", 64 * HOUR_US, 0), ("g1", "p", 9 * HOUR_US, 3 * HOUR_US)]
    )
    told = statement(places, places.energy_of(rows), held, energy_spread=0.15, units=2, unit="samples")
    assert told.co2e_g == pytest.approx(places.grams(rows))
    assert told.market_g == pytest.approx(3 * (1.4 + 1.1) * 20) and told.water_l == pytest.approx(3)
    here, there = (hardware(places.carbon_of(place).embodied) for place in ("", "gpu"))
    assert here is not None and there is not None and told.embodied_g is not None
    assert told.embodied_g == pytest.approx((job_ug(held[""], here) + job_ug(held["gpu"], there)) / UG_PER_G)
    assert told.embodied_low_g is not None and told.embodied_high_g is not None
    assert told.embodied_low_g < told.embodied_g < told.embodied_high_g
    assert told.co2e_g is not None
    assert told.sci_g == pytest.approx((told.co2e_g + told.embodied_g) / 2) and told.sci_unit == "samples"
    assert told.low_g is not None and told.high_g is not None and told.low_g < told.co2e_g < told.high_g
    assert told.comparison is not None and "car" in told.comparison.text
    lines = explain(places, places.energy_of(rows), held.items())
    assert float(lines.co2e_g or 0) == pytest.approx(told.co2e_g, abs=0.001)
    assert float(lines.embodied_g or 0) == pytest.approx(told.embodied_g, abs=0.001)


def test_what_is_not_configured_is_null_and_named() -> None:
    told = statement(Places(Carbon()), {"": {T0: KWH}}, {})
    assert (told.co2e_g, told.embodied_g, told.sci_g, told.market_g, told.water_l, told.comparison) == (None,) * 6
    assert "[carbon]" in told.notes[0]
    known = statement(Places(Carbon(zone="DE")), {"": {T0: KWH}})
    assert known.co2e_g is not None and known.sci_g is None and NO_PUE in known.notes


def test_a_place_without_an_intensity_takes_the_sum_away() -> None:
    text = '[carbon]\nzone = "US-CA"\nbasis = "direct"\n[carbon.places.far]\nnodes = "f1"\nzone = "SE"\n'
    places = Places(config.parse(text).carbon)
    told = statement(places, {"": {T0: KWH}, "far": {T0: KWH}})
    assert told.co2e_g is None and any("SE" in note for note in told.notes)
    assert statement(places, {"": {T0: KWH}}).co2e_g is not None
