"""docs/carbon.md says what the code does: its configuration can be read, its figures are those of the tables."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hpccarbon import config
from hpccarbon.carbon import providers, tables

TEXT = (Path(__file__).resolve().parent.parent.parent / "docs" / "carbon.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split("\n")[0])
def test_every_example_of_the_configuration_can_be_read(block: str) -> None:
    config.parse(block)


def test_every_band_that_is_told_is_the_tables() -> None:
    bands = {row["key"]: row["one_sigma_percent"] for row in tables.rows_of("uncertainty")}
    section = TEXT.partition("## Uncertainty")[2].partition("\n## ")[0]
    for key, words in {
        "zone_year": "country value {} %", "year_distance": "distance {} %", "measured": "measured hours {} %",
        "country": "for a part of it {} %", "world": "for a country {} %", "pue": "for an hour {} %",
        "energy_measured": "RAPL and NVML {} %", "energy_modelled": "modelled energy {} %",
    }.items():  # fmt: skip
        assert words.format(bands[key]) in " ".join(section.split()), key


def test_every_provider_is_in_the_table() -> None:
    for name in set(providers.SERVICES):
        assert f"`{name}`" in TEXT, name


def test_the_ladders_errors_are_the_tables() -> None:
    lines = [line for line in TEXT.splitlines() if line.startswith("|") and " / " in line]
    rungs = ("interpolated", "neighbour_days", "neighbour_day", "month_hour", "month", "year")
    assert len(lines) == len(rungs)
    p95_percent = {(row["rung"], row["zone"]): float(row["p95_percent"]) for row in tables.rows_of("standin_error")}
    for rung, line in zip(rungs, lines, strict=True):
        cells = [cell.strip() for cell in line.split("|")[2:-1]]
        for zone, cell in zip(("DE", "FR", "PL", "GB", "DK"), cells, strict=True):
            found = tables.standin(rung, zone)
            median, p95 = (float(part) for part in cell.split(" / "))
            assert abs(p95_percent[rung, zone] - p95) < 0.6, (rung, zone)
            assert found is not None and abs(100 * found.median - median) <= 0.51, (rung, zone)
