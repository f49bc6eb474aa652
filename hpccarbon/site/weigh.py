"""Gives the selected rows their place, their energy and the factor of their hour, so that the engine adds up grams.

What `Ledger.energy`, `groups` and `job_table` share. Works in the connection that `Ledger.ask` hands out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, NamedTuple

from hpccarbon import schema
from hpccarbon.site.engine import quoted
from hpccarbon.units import HOUR_S, UJ_PER_KWH

if TYPE_CHECKING:
    import duckdb

SCALE = 10**12
"""Factors are integers in the engine, so that sums do not depend on the order of rows; at 10**6 the ninth digit was
wrong."""
ENERGY = " + ".join(f"coalesce({name}, 0)" for name in schema.ENERGY_COLUMNS)
"""A row's energy in SQL: the sum of the components that are known."""
GRAMS = "sum(energy_uj::HUGEINT * scaled), count(*) FILTER (scaled IS NULL AND energy_uj > 0)"
"""Two measures over the view `weighed`, for `grams`."""
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class Factors(NamedTuple):
    """What turns energy into grams: g CO2e per metered kWh of its hours, and a place for every node and partition.

    `g_per_kwh` is asked once for each place, with the hours that hold data; an hour it leaves out has no grams.
    Without `place_of` everything stands in one place, whose name is empty.
    """

    g_per_kwh: Callable[[str, Sequence[datetime]], Mapping[datetime, float]]
    place_of: Callable[[str | None, str | None], str] | None = None


def hour_at(hour_n: int) -> datetime:
    """The UTC hour of a number, counted from 1970."""
    return _EPOCH + timedelta(hours=hour_n)


def moment_at(epoch_us: int) -> datetime:
    """The time of a number of microseconds, counted from 1970."""
    return _EPOCH + timedelta(microseconds=epoch_us)


def grams(weighted: int | None, lacking: int) -> float | None:
    """What the two measures of `GRAMS` say; None where a row with energy has no factor: an incomplete sum is none."""
    return None if lacking else (weighted or 0) / (SCALE * UJ_PER_KWH)


def weigh(con: duckdb.DuckDBPyConnection, hours: Sequence[datetime], factors: Factors | None) -> None:
    """Make the view `weighed`: the view `selected` and `place`, `energy_uj`, `scaled` (the factor × SCALE, or NULL)."""
    source, places = _standing(con, factors.place_of if factors else None)
    weights = []
    if factors is not None:
        for place in places:
            by_hour = factors.g_per_kwh(place, hours)
            weights += [
                (int(hour.timestamp()) // HOUR_S, place, round(factor * SCALE)) for hour, factor in by_hour.items()
            ]
    table(con, "weights", {"hour_n": "BIGINT", "place": "VARCHAR", "scaled": "BIGINT"}, weights)
    con.execute(f"""
        CREATE OR REPLACE TEMP VIEW weighed AS
        SELECT *, ({ENERGY}) AS energy_uj FROM {source} LEFT JOIN weights USING (hour_n, place)
    """)  # noqa: S608 - column names are our own


def energy_by_place(
    con: duckdb.DuckDBPyConnection, place_of: Callable[[str | None, str | None], str] | None
) -> dict[str, dict[datetime, int]]:
    """Place -> UTC hour -> energy in µJ, of the selected rows: what must be known before factors are asked for."""
    source, _ = _standing(con, place_of)
    sql = f"SELECT place, hour_n, sum({ENERGY})::BIGINT FROM {source} GROUP BY ALL ORDER BY ALL"  # noqa: S608
    found: dict[str, dict[datetime, int]] = {}
    for place, hour_n, energy_uj in con.execute(sql).fetchall():
        found.setdefault(place, {})[hour_at(hour_n)] = energy_uj
    return found


def _standing(
    con: duckdb.DuckDBPyConnection, place_of: Callable[[str | None, str | None], str] | None
) -> tuple[str, list[str]]:
    """`selected` with a column `place`, as a subquery, and the names of the places."""
    standing: list[tuple[str, str | None, str]] = []
    if place_of is not None:
        pairs = con.execute('SELECT DISTINCT node, "partition" FROM selected').fetchall()
        standing = [(node, partition, place_of(node, partition)) for node, partition in pairs]
    places = sorted({place for *_, place in standing}) or [""]
    if len(places) == 1:  # most clusters stand in one place, and a join by names costs as much as the adding up
        return f"(SELECT *, {quoted(places[0])} AS place FROM selected)", places  # noqa: S608
    table(con, "standing", {"node": "VARCHAR", '"partition"': "VARCHAR", "place": "VARCHAR"}, standing)
    joined = """(SELECT selected.*, place FROM selected JOIN standing ON selected.node = standing.node
        AND selected."partition" IS NOT DISTINCT FROM standing."partition")"""
    return joined, places


def table(
    con: duckdb.DuckDBPyConnection, name: str, columns: Mapping[str, str], rows: Sequence[tuple[Any, ...]]
) -> None:
    """Make a temporary table (column -> SQL type) of Python's values."""
    values = {f"c{place}": [row[place] for row in rows] for place in range(len(columns))}
    selected = ", ".join(
        f"unnest($c{place}::{kind}[]) AS {column}" for place, (column, kind) in enumerate(columns.items())
    )
    con.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS SELECT {selected}", values)
