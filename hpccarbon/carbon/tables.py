"""The packaged tables, read a zone at a time: yearly intensities and the bands around them. Never the network.

Looking one zone up scans the file's bytes for its lines and parses those alone (under a millisecond); a table is
parsed whole only to list zones. The ODbL table is a database of its own: its rows are never written anywhere else.
"""

from __future__ import annotations

import csv
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from hpccarbon.errors import CarbonError

DATA = Path(__file__).resolve().parent / "data"
YEARLY = DATA / "intensity_yearly.csv"
"""Countries (production-based, life cycle), US states, Chinese and Canadian provinces, Australian states (direct)."""
YEARLY_ODBL = DATA / "intensity_yearly_odbl.csv"
"""Electricity Maps zones (consumption-based, life cycle), under the ODbL (LICENSE.ODbL-1.0.txt beside it)."""


class YearRow(NamedTuple):
    """One datum: what a kWh of a zone's electricity emitted in a year, g CO2e."""

    zone: str
    name: str
    year: int
    g_per_kwh: float
    basis: str
    source: str
    licence: str

    @property
    def edition(self) -> str:
        """What tells this datum from the same source's later correction of it."""
        return "Ember 2026" if self.source.startswith("Ember") else self.source.partition(",")[0]


@lru_cache(maxsize=256)
def yearly(zone: str) -> tuple[YearRow, ...]:
    """Every row of a zone, first those of the freely licensed table; () if there is none."""
    wanted = f"{zone},".encode()
    rows: list[YearRow] = []
    for path in (YEARLY, YEARLY_ODBL):
        text = _bytes(path)
        begin = text.find(b"\n" + wanted)
        lines = []
        # A zone's rows stand together (tests/carbon/test_data.py keeps it so): stop at the first that is another's.
        while begin >= 0 and text.startswith(wanted, begin + 1):
            end = text.find(b"\n", begin + 1)
            lines.append(text[begin + 1 : end].decode())
            begin = end
        rows += map(_row, csv.reader(lines))
    return tuple(rows)


@lru_cache(maxsize=1)
def all_yearly() -> tuple[YearRow, ...]:
    """Every row of both tables."""
    rows: list[YearRow] = []
    for path in (YEARLY, YEARLY_ODBL):
        rows += map(_row, list(csv.reader(_bytes(path).decode().splitlines()))[1:])
    return tuple(rows)


def rows_of(name: str) -> list[dict[str, str]]:
    """A small table (`fuel_factors`, `embodied`, `equivalents`, ...) as dictionaries of its columns."""
    return list(csv.DictReader(_bytes(DATA / f"{name}.csv").decode().splitlines()))


class Band(NamedTuple):
    """How far a figure may be off: one sigma, relative, and the grams it is never better than."""

    relative: float
    floor_g: float = 0.0


@lru_cache(maxsize=1)
def bands() -> dict[str, Band]:
    """The one-sigma bands of uncertainty.csv by key."""
    return {
        row["key"]: Band(float(row["one_sigma_percent"]) / 100, float(row["floor_g"])) for row in rows_of("uncertainty")
    }


MEDIAN_TO_SIGMA = 1.4826
"""One sigma of a normal error / its median absolute value."""


class StandIn(NamedTuple):
    """How wrong a stand-in for a missing hour was, in a measured year: its median, relative."""

    median: float

    @property
    def sigma(self) -> float:
        """One sigma, from the median: the tails of this error are heavier than a normal one's."""
        return self.median * MEDIAN_TO_SIGMA


@lru_cache(maxsize=64)
def standin(rung: str, zone: str) -> StandIn | None:
    """The measured error of a rung in a zone (or its country), else in the median zone; None where a rung has none."""
    found = {row["zone"]: row for row in rows_of("standin_error") if row["rung"] == rung}
    row = found.get(zone) or found.get(zone.partition("-")[0]) or found.get("*")
    return StandIn(float(row["median_percent"]) / 100) if row else None


def _row(fields: list[str]) -> YearRow:
    zone, name, year, value, basis, source, licence = fields
    return YearRow(zone, name, int(year), float(value), basis, source, licence)


def _bytes(path: Path) -> bytes:
    try:
        content: bytes = globals()["__loader__"].get_data(str(path))  # the single-file build has no files
    except OSError as err:
        raise CarbonError(
            f"cannot read the packaged table {path}: {err.strerror} (the installation is incomplete: install again)"
        ) from err
    return content
