"""The lines of `explain` computed again, from what is printed, by arithmetic that knows nothing of ours."""

from __future__ import annotations

import random
import re
from datetime import datetime, timedelta, timezone
from fractions import Fraction
from pathlib import Path

import pytest

from hpccarbon import config
from hpccarbon.carbon import series
from hpccarbon.carbon.embodied import Held
from hpccarbon.carbon.explain import Explanation, explain
from hpccarbon.carbon.places import Places
from hpccarbon.config import Carbon

T0 = datetime(2026, 3, 1, tzinfo=timezone.utc)
TOML = """
[carbon]
zone = "DE"
pue = 1.27
node_factor = 1.083
[carbon.embodied]
node_item = "server_2_socket_rack"
gpu_item = "gpu_nvidia_h100_sxm"
node_cores = 128
node_gpus = 8
[carbon.places.north]
nodes = "n[01-20]"
zone = "SE-SE1"
pue = 1.06
[carbon.places.old]
partitions = ["old"]
zone = "US-CA"
node_factor = 1.3
"""


def calculator(expression: str) -> Fraction:
    """Twenty lines that know only numbers, ×, ÷ and +: what a reader does with the printed line."""
    total = Fraction(0)
    for term in expression.split(" + "):
        value, sign = Fraction(1), "×"
        for token in re.findall(r"[×÷]|\d+(?:\.\d+)?", re.sub(r"[A-Za-z]\S*", "", term)):
            if token in "×÷":
                sign = token
            elif sign == "×":
                value *= Fraction(token)
            else:
                value /= Fraction(token)
        total += value
    return total


def four_digits(value: Fraction) -> str:
    """Rounded half to even at the fourth decimal, written out."""
    scaled = round(value * 10_000)
    return f"{scaled // 10_000}.{scaled % 10_000:04d}"


def again(told: Explanation) -> None:
    """Every line's result, and both totals, from the printed expressions alone."""
    part = Fraction(0)
    for line in told.lines:
        if line.expression:
            assert four_digits(calculator(line.expression)) == line.result, line
        if line.label.startswith("total"):
            assert Fraction(line.result) == part, line
            part = Fraction(0)
        elif line.unit == "g CO2e":
            part += Fraction(line.result)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A month of German quarter hours with holes."""
    path = tmp_path_factory.mktemp("intensity")
    dice, base = random.Random(7), int(T0.timestamp())
    points = [
        series.Point(base + 900 * at, base + 900 * (at + 1), dice.uniform(120, 600), "measured")
        for at in range(4 * 24 * 31)
        if dice.random() < 0.8 and not 500 < at < 900 and not 1500 < at < 1550
    ]
    origin = series.Origin("energy_charts", "Energy-Charts (Fraunhofer ISE)", "CC-BY-4.0", "lifecycle")
    series.append(path, "DE", points, origin, T0 + timedelta(days=40))
    return path


def test_a_thousand_random_jobs_come_out_to_the_last_printed_digit(room: Path) -> None:
    places = Places(config.parse(TOML).carbon, room)
    dice = random.Random(42)
    rungs: set[str] = set()
    for _ in range(1000):
        start = T0 + timedelta(hours=dice.randrange(24 * 45))
        nodes = dice.sample(["n01", "n20", "c1", "c2"], dice.randint(1, 3))
        partition = dice.choice(["cpu", "old"])
        rows = [
            (start + timedelta(hours=hour), node, partition, dice.randrange(10 ** dice.randint(1, 13)))
            for hour in range(dice.randint(1, 12))
            for node in nodes
        ]
        held = [("", Held(dice.randrange(10**13), dice.randrange(2) * dice.randrange(10**11)))]
        told = explain(places, places.energy_of(rows), held)
        again(told)
        grams = places.grams(rows)
        assert grams is not None and told.co2e_g is not None
        assert float(told.co2e_g) == pytest.approx(grams, abs=0.00006 * len(told.lines))
        rungs |= {line.label for line in told.lines}
    # The thousand jobs stood on every rung there is, not on the yearly mean alone.
    for words in ("measured", "interpolated", "days before and after", "day before or after", "year", "country"):
        assert any(words in label for label in rungs), words


def test_an_unknown_pue_is_a_line_and_an_unknown_intensity_is_not_known() -> None:
    told = explain(Places(Carbon(zone="DE", basis="direct")), {"": {T0: 10**12}})
    assert told.co2e_g is None and told.lines[-1].result == "not known"
    assert any("unknown (carbon.pue is not set): taken as 1.0" in line.source for line in told.lines)
    assert any("direct" in line.source for line in told.lines)


def test_hours_of_one_factor_are_one_line_with_their_time() -> None:
    used = {T0 + timedelta(hours=hour): 3_600_000_000_000 for hour in range(48)}
    told = explain(Places(Carbon(zone="DE", pue=1.5)), {"": used})
    steps = [line for line in told.lines if "×" in line.expression]
    assert len(steps) == 1 and steps[0].time == "2026-03-01T00:00Z/2026-03-03T00:00Z"
    assert steps[0].expression == "172800000 J ÷ 3600000 J/kWh × 1 × 1.5 × 329.65 g/kWh"
    assert told.co2e_g == "23734.8000" and told.embodied_g is None


def test_nothing_is_nothing() -> None:
    told = explain(Places(Carbon(zone="DE")), {})
    assert told.co2e_g is None and told.lines[0].result == "0"
