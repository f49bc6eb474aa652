"""Adds one selection up in several ways at the price of reading it twice, with grams: what a month's summary needs.

Only adds up, in the engine: a million jobs never become a million Python objects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from hpccarbon.site.ledger import EnergyRow, Ledger, Selection
from hpccarbon.units import HOUR_S, UJ_PER_KWH

if TYPE_CHECKING:
    import duckdb

_SCALE = 10**6
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_TIMELESS: Mapping[str, str] = {
    "cluster": "cluster",
    "holder": "holder",
    "job": "job_id",
    "user": '"user"',
    "account": "account",
    "partition": '"partition"',
    "node": "node",
    "place": "place",
}
_ENERGY = "coalesce(cpu_uj, 0) + coalesce(dram_uj, 0) + coalesce(gpu_uj, 0) + coalesce(other_uj, 0)"


class Factors(NamedTuple):
    """What turns energy into grams: a place for every node and partition, and g CO2e per metered kWh of its hours."""

    place_of: Callable[[str | None, str | None], str]
    g_per_kwh: Mapping[str, Mapping[datetime, float]]


class Grouping(NamedTuple):
    """One way to add up. `by` may name cluster, holder, job, user, account, partition, node, place and `hour`.

    `largest`: only so many groups, those with the most energy (0: all, in order of their keys).
    """

    by: tuple[str, ...]
    largest: int = 0


class Group(msgspec.Struct, frozen=True):
    """One group: its energy row; how many jobs are in it; the static energy of cores that jobs held and did not use.

    `idle_cores_uj` leaves out nodes on which the job used a GPU: their static energy is the GPUs' too.
    """

    energy: EnergyRow
    jobs: int
    idle_cores_uj: int


def groups(
    ledger: Ledger, selection: Selection, groupings: Sequence[Grouping], factors: Factors | None = None
) -> list[list[Group]]:
    """Each grouping's groups, in the order of `groupings`. Sums are exact integers, as `Ledger.energy` makes them.

    Raises: ValueError for a word that is not known; ShardError as `Ledger.energy`.
    """
    for grouping in groupings:
        if unknown := [word for word in grouping.by if word != "hour" and word not in _TIMELESS]:
            raise ValueError(f"cannot group by {', '.join(unknown)}; known: hour, {', '.join(_TIMELESS)}")

    def question(con: duckdb.DuckDBPyConnection, hours: list[datetime]) -> list[list[Group]]:
        _weigh(con, hours, factors)
        if any("hour" not in grouping.by for grouping in groupings):
            _reduce(con)
        return [_ask(con, grouping, factors is not None) for grouping in groupings]

    return ledger.ask(selection, question) or [[] for _ in groupings]


def _weigh(con: duckdb.DuckDBPyConnection, hours: list[datetime], factors: Factors | None) -> None:
    """The tables `standing` (node, partition -> place) and `weights` (hour, place -> g/kWh × scale)."""
    pairs = con.execute('SELECT DISTINCT node, "partition" FROM selected').fetchall()
    standing = [(node, partition, factors.place_of(node, partition) if factors else "") for node, partition in pairs]
    weights = [
        (int(hour.timestamp()) // HOUR_S, place, round(factor * _SCALE))
        for place, by_hour in (factors.g_per_kwh.items() if factors else ())
        for hour in hours
        if (factor := by_hour.get(hour)) is not None
    ]
    _table(con, "standing", {"node": "VARCHAR", '"partition"': "VARCHAR", "place": "VARCHAR"}, standing)
    _table(con, "weights", {"hour_n": "BIGINT", "place": "VARCHAR", "scaled": "BIGINT"}, weights)
    con.execute(f"""
        CREATE OR REPLACE TEMP VIEW weighed AS
        SELECT selected.*, place, scaled, ({_ENERGY}) AS energy_uj FROM selected
        JOIN standing ON selected.node = standing.node
            AND selected."partition" IS NOT DISTINCT FROM standing."partition"
        LEFT JOIN weights USING (hour_n, place)
    """)  # noqa: S608 - column names are our own


def _table(
    con: duckdb.DuckDBPyConnection, name: str, columns: Mapping[str, str], rows: Sequence[tuple[Any, ...]]
) -> None:
    values = {f"c{place}": [row[place] for row in rows] for place in range(len(columns))}
    selected = ", ".join(
        f"unnest($c{place}::{kind}[]) AS {column}" for place, (column, kind) in enumerate(columns.items())
    )
    con.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS SELECT {selected}", values)


_SUMS = ("cpu_uj", "dram_uj", "gpu_uj", "other_uj", "idle_uj", "modelled_uj", "cpu_time_us", "present_ms", "covered_ms")
_REDUCED = f"""
SELECT cluster, holder, job_id, "user", account, "partition", node, place,
    {", ".join(f"sum({name})::BIGINT AS {name}" for name in _SUMS)},
    max(alloc_cores) AS alloc_cores, max(alloc_gpus) AS alloc_gpus,
    (sum(alloc_cores::HUGEINT * present_ms) * 1000)::BIGINT AS core_us,
    min(first_us) AS first_us, max(last_us) AS last_us,
    sum(energy_uj::HUGEINT * scaled) AS weighted,
    count(*) FILTER (scaled IS NULL AND energy_uj > 0) AS lacking
FROM weighed GROUP BY ALL
"""  # noqa: S608
_IDLE_CORES = """
CASE WHEN holder = 'job' AND core_us > cpu_time_us AND coalesce(gpu_uj, 0) = 0
    THEN round(idle_uj * (1 - cpu_time_us / core_us))::BIGINT ELSE 0 END
"""


def _reduce(con: duckdb.DuckDBPyConnection) -> None:
    """The table `reduced`: one row per job (or other holder) and node, all its hours and runs together."""
    con.execute(f"CREATE OR REPLACE TEMP TABLE reduced AS SELECT *, {_IDLE_CORES} AS idle_cores_uj FROM ({_REDUCED})")  # noqa: S608


_MEASURES = f"""
{", ".join(f"sum({name})" for name in _SUMS[:7])}, max(alloc_cores), max(alloc_gpus), sum(core_us),
sum(present_ms), sum(covered_ms), count(DISTINCT node), min(first_us), max(last_us), sum(weighted), sum(lacking),
count(DISTINCT job_id), sum(idle_cores_uj), sum({_ENERGY}) AS energy
"""
_FROM_HOURS = """
(SELECT *, alloc_cores::HUGEINT * present_ms * 1000 AS core_us, energy_uj::HUGEINT * scaled AS weighted,
    (scaled IS NULL AND energy_uj > 0)::INTEGER AS lacking, 0 AS idle_cores_uj FROM weighed)
"""


def _ask(con: duckdb.DuckDBPyConnection, grouping: Grouping, with_grams: bool) -> list[Group]:
    timed = "hour" in grouping.by
    keys = ["hour_n" if word == "hour" else _TIMELESS[word] for word in grouping.by]
    named = ", ".join(f"{key} AS k{place}" for place, key in enumerate(keys))
    places = ", ".join(f"k{place}" for place in range(len(keys)))
    sql = f"SELECT {named}{', ' if keys else ''}{_MEASURES} FROM {_FROM_HOURS if timed else 'reduced'}"  # noqa: S608
    if keys:
        order = ", ".join(f"k{place} NULLS LAST" for place in range(len(keys)))
        sql += f" GROUP BY {places} ORDER BY {'energy DESC, ' if grouping.largest else ''}{order}"
        sql += f" LIMIT {grouping.largest}" if grouping.largest else ""
    else:
        sql += " HAVING count(*) > 0"
    return [_group(grouping.by, row, with_grams) for row in con.execute(sql).fetchall()]


def _group(by: Sequence[str], row: Sequence[Any], with_grams: bool) -> Group:
    key, values = row[: len(by)], row[len(by) :]
    *measures, first_us, last_us, weighted, lacking, jobs, idle_cores_uj, _ = values
    # `lacking` counts rows with energy and no factor: an incomplete sum is not a sum.
    grams = (weighted or 0) / (_SCALE * UJ_PER_KWH) if with_grams and not lacking else None
    read = tuple(
        _EPOCH + timedelta(hours=value) if word == "hour" else value for word, value in zip(by, key, strict=True)
    )
    first, last = (_EPOCH + timedelta(microseconds=moment) for moment in (first_us, last_us))
    fields: list[Any] = [read, *measures, first, last, grams]
    return Group(EnergyRow(*fields), jobs, idle_cores_uj or 0)
