"""Hardware: kilograms over a life, given to who held it, and nothing lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpccarbon.carbon.embodied import (
    UG_PER_G,
    UNALLOCATED,
    US_PER_YEAR,
    Figure,
    Hardware,
    Held,
    hardware,
    items,
    job_ug,
    sci,
    share,
)
from hpccarbon.config import Embodied, parse
from hpccarbon.errors import ConfigError

HOUR_US = 3600 * 10**6
kilograms = st.floats(0.1, 20_000, allow_nan=False).map(lambda kg: Figure(round(kg, 3), kg / 2, kg * 2, "s"))
machines = st.builds(
    Hardware,
    st.none() | kilograms,
    st.none() | kilograms,
    st.integers(1, 512),
    st.integers(0, 16),
    st.sampled_from([3, 4.5, 5, 7]),
)


@given(
    made=machines,
    span_us=st.integers(1, 40 * 24 * HOUR_US),
    held=st.dictionaries(st.integers(1, 50), st.tuples(st.integers(0, 10**17), st.integers(0, 10**14)), max_size=20),
)
def test_jobs_and_unallocated_are_the_nodes_share(
    made: Hardware, span_us: int, held: dict[int, tuple[int, int]]
) -> None:
    shares = share(made, span_us, {f"job {key}": Held(*parts) for key, parts in held.items()})
    assert sum(shares.values()) == share(made, span_us, {})[UNALLOCATED]
    assert all(value >= 0 for value in shares.values()) and UNALLOCATED in shares


@given(made=machines, span_us=st.integers(HOUR_US, 1000 * HOUR_US), parts=st.lists(st.integers(1, 100), max_size=12))
def test_a_job_alone_knows_what_it_carries_among_others(made: Hardware, span_us: int, parts: list[int]) -> None:
    """Where nobody holds more than there is, a job's figure does not depend on who else was there."""
    whole = max(sum(parts), 1)
    held = {number: Held(made.cores * span_us * part // whole // 2) for number, part in enumerate(parts)}
    shares = share(made, span_us, held)
    for number, part in held.items():
        assert abs(shares[number] - job_ug(part, made)) <= len(held) + 2


def test_the_order_of_magnitude_of_the_literature() -> None:
    """3,800 kg over 5 years of 8,760 h are 87 g an hour."""
    made = Hardware(Figure(3800, 3171, 4982, "boaviztapi"), None, 128, 0, 5)
    hour_ug = share(made, HOUR_US, {})[UNALLOCATED]
    assert hour_ug / UG_PER_G == pytest.approx(87, abs=0.3)
    assert share(made, 5 * US_PER_YEAR, {}) == {UNALLOCATED: 3800 * 10**9}
    assert job_ug(Held(64 * HOUR_US), made) == pytest.approx(hour_ug / 2, abs=1)


def test_idle_hours_are_unallocated() -> None:
    made = Hardware(Figure(1000, 500, 2000, "s"), Figure(150, 60, 575, "s"), 64, 4, 5)
    shares = share(made, 2 * HOUR_US, {"a": Held(64 * HOUR_US, 4 * HOUR_US)})
    assert shares["a"] == shares[UNALLOCATED] and sum(shares.values()) == share(made, 2 * HOUR_US, {})[UNALLOCATED]


def test_figures_come_from_the_site_or_from_the_table_with_their_range() -> None:
    assert hardware(Embodied()) is None
    table = hardware(
        Embodied(node_item="server_2_socket_rack", gpu_item="gpu_nvidia_h100_sxm", node_cores=64, node_gpus=4)
    )
    assert table is not None and table.node is not None and table.gpu is not None
    assert table.node[:3] == (1215, 1146, 1367) and "(2023)" in table.node.source
    assert (table.gpu.kg, table.gpu.high_kg) == (164, 575) and table.gpu.low_kg == pytest.approx(164 / 2.5)
    assert table.kg == 1215 + 4 * 164 and table.gpu.spread > table.node.spread > 0
    site = hardware(Embodied(node_kg=900, node_cores=64, source="our own study"))
    assert site is not None and site.node is not None and site.node.source == "our own study"
    assert site.node.high_kg == pytest.approx(900 * 1.6)
    with pytest.raises(ConfigError, match="nearest: gpu_nvidia_h100_sxm"):
        hardware(Embodied(gpu_item="gpu_nvidia_h100", node_cores=1))
    for item in items():
        assert hardware(Embodied(node_item=item, node_cores=1)) is not None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("node_kg = 1000", "source"),
        ('node_kg = 1000\nsource = "x"', "node_cores"),
        (
            'node_kg = 1000\nnode_low_kg = 2000\nnode_high_kg = 3000\nnode_cores = 4\nsource = "x"',
            "node_low_kg <= node_kg",
        ),
        ("life_years = 0", "life_years"),
        ("node_kg = -1", "negative"),
    ],
)
def test_a_configuration_that_cannot_be_right_is_named(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse(f"[carbon.embodied]\n{text}\n")


def test_sci_is_operational_and_embodied_per_unit() -> None:
    one = sci(1000.0, 500 * UG_PER_G, 3.0, "simulated years")
    assert one.value == 500 and (one.operational_g, one.embodied_g, one.unit) == (1000, 500, "simulated years")
    with pytest.raises(ValueError, match="simulated years"):
        sci(1.0, 1, 0, "simulated years")
