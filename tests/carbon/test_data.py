"""Every packaged datum says where it is from, of which year, on which basis and under which licence."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from hpccarbon.carbon import tables, zones
from hpccarbon.errors import CarbonError

ALL = sorted(tables.DATA.glob("*.csv"))
LICENCES = {"CC-BY-4.0", "ODbL-1.0", "Apache-2.0", "MIT", "US public domain", "cited figure"}
NOTICE = Path(__file__).resolve().parent.parent.parent / "NOTICE"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_every_datum_has_source_year_basis_and_licence(path: Path) -> None:
    assert rows(path), "an empty table"
    for number, row in enumerate(rows(path), start=2):
        where = f"{path.name}:{number}"
        if row["source"] == "none":  # a fuel without a cited figure carries none
            assert not row["direct_gco2e_per_kwh"] and not row["lifecycle_gco2e_per_kwh"], where
            continue
        assert row["source"].strip() and row["basis"].strip(), where
        assert 1990 <= int(row["year"]) <= 2026, where
        assert row["licence"] in LICENCES, where


@pytest.mark.parametrize("path", [tables.YEARLY, tables.YEARLY_ODBL], ids=lambda path: path.name)
def test_yearly_keys_are_unique_sorted_together_and_plausible(path: Path) -> None:
    table = rows(path)
    keys = [(row["zone"], row["year"], row["basis"], row["source"]) for row in table]
    assert len(keys) == len(set(keys))
    blocks = [zone for zone, before in zip(keys, [("",), *keys], strict=False) if zone[0] != before[0]]
    assert len(blocks) == len({key[0] for key in keys}), "a zone's rows do not stand together"
    for row in table:
        assert 0 <= float(row["intensity_gco2e_per_kwh"]) < 2000, row
        assert row["basis"] in ("lifecycle", "direct"), row


def test_the_odbl_table_is_apart_and_has_its_licence_beside_it() -> None:
    assert {row["licence"] for row in rows(tables.YEARLY_ODBL)} == {"ODbL-1.0"}
    assert [path.name for path in ALL for row in rows(path)[:1] if row["licence"] == "ODbL-1.0"] == [
        tables.YEARLY_ODBL.name
    ]
    for path in ALL:
        if path != tables.YEARLY_ODBL:
            assert "ODbL-1.0" not in {row["licence"] for row in rows(path)}
    text = (tables.DATA / "LICENSE.ODbL-1.0.txt").read_text(encoding="utf-8")
    assert "Open Database License (ODbL)" in text and len(text) > 20_000


def test_notice_names_every_source_that_asks_for_it() -> None:
    notice = " ".join(NOTICE.read_text(encoding="utf-8").split())
    for words in (
        "Ember",
        "Our World in Data",
        "eGRID2023",
        "Green Algorithms",
        "Contains information from Electricity Maps, made available under the Open Database License",
        "Ministry of Ecology and Environment of China",
        "Permission is hereby granted, free of charge",
    ):
        assert words in notice


def test_looking_one_zone_up_finds_the_same_rows_as_reading_everything() -> None:
    by_zone: dict[str, list[tables.YearRow]] = {}
    for row in tables.all_yearly():
        by_zone.setdefault(row.zone, []).append(row)
    assert {zone: list(tables.yearly(zone)) for zone in by_zone} == by_zone
    assert tables.yearly("D") == () and tables.yearly("") == () and tables.yearly("zone") == ()


def test_every_band_and_stand_in_is_there() -> None:
    assert {"zone_year", "year_distance", "country", "world", "measured", "estimated", "forecast"} <= set(
        tables.bands()
    )
    for rung in ("interpolated", "neighbour_days", "month_hour", "month", "year"):
        danish, lowly = tables.standin(rung, "DK-DK1"), tables.standin(rung, "ZZ")
        assert danish is not None and lowly is not None and danish.median > lowly.median > 0


def test_unknown_zones_are_answered_with_the_nearest() -> None:
    assert zones.nearest("DEE")[0] == "DE" and zones.nearest("Germny")[0] == "DE"
    assert zones.nearest("uk") == ["GB"] or zones.nearest("uk")[0] == "GB"
    assert zones.require("de") == "DE"
    with pytest.raises(CarbonError, match=r"unknown zone `DEE`; nearest: DE, .*intensity zones --search"):
        zones.require("DEE")
    for hostile in ("", "../etc", "x" * 300, "\x1b[31m"):
        with pytest.raises(CarbonError, match="unknown zone"):
            zones.require(hostile)


def test_search_ignores_case_and_accents_and_puts_keys_first() -> None:
    assert zones.search("tokyo")[0].key == "JP-TK"
    assert zones.search("dk")[0].key == "DK"
    assert zones.search("no such place") == []
