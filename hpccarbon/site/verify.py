"""Checks from the files alone that no energy was lost: holders against meters, ledger against shards. Mends nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from hpccarbon import schema
from hpccarbon.errors import ShardError
from hpccarbon.site import index, shards
from hpccarbon.site.engine import connect, reason

if TYPE_CHECKING:
    import duckdb

_PHYSICAL = {"int64": "INT64", "int32": "INT32", "word": "BYTE_ARRAY", "text": "BYTE_ARRAY", "minute": "INT64"}
_SUMS = ", ".join(f"coalesce(sum({name}), 0)::HUGEINT" for name in schema.SUM_COLUMNS)


class Balance(msgspec.Struct, frozen=True):
    """One component over everything that was checked: who was charged, and what the meters counted (µJ)."""

    component: str
    job_uj: int
    system_uj: int
    unallocated_uj: int
    meter_uj: int

    @property
    def difference_uj(self) -> int:
        """Charged minus counted: 0, or something is wrong."""
        return self.job_uj + self.system_uj + self.unallocated_uj - self.meter_uj


class Verdict(msgspec.Struct, frozen=True):
    """What was checked, and all that does not hold. `waiting` counts hours whose newest shards are not merged yet."""

    hours: int
    shards: int
    nodes: int
    waiting: int
    balances: tuple[Balance, ...]
    faults: tuple[tuple[str, str], ...]


Totals = dict[tuple[str, str], tuple[int, ...]]
"""(node, holder) -> the sums of `schema.SUM_COLUMNS`, null counted as 0."""


def verify(
    shared: Path,
    cluster: str,
    since: datetime | None = None,
    until: datetime | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Verdict:
    """Check every hour that touches [since, until), reading every row of every shard and ledger file.

    - Each shard is whole, says the truth about where it lies, and holds the columns of its schema version.
    - For each node, hour and component, jobs + system + unallocated = meters.
    - A ledger file that was made of the shards that lie there holds exactly their sums.

    Raises: ShardError, if the shared directory cannot be read.
    """
    directories = shards.hour_dirs(shared, cluster, since, until)
    with contextlib.closing(connect(1)) as con:
        ledgers, faults = index.known(lambda: con, shared, cluster, since, until)
    hours = sorted(directories.keys() | ledgers.keys())
    balances: dict[str, dict[str, int]] = {name: {} for name in schema.ENERGY_COLUMNS}
    nodes: set[str] = set()
    count = waiting = 0
    con = connect()
    try:
        for done, hour in enumerate(hours, 1):
            files = shards.list_hour(directories[hour]) if hour in directories else []
            count += len(files)
            totals: Totals = {}
            if files:
                totals = _from_shards(con, files, cluster, hour, faults)
            if hour in ledgers:
                path = index.path_of(shared, cluster, hour, ledgers[hour])
                stored = _from_ledger(con, hour, path, faults)
                if stored is not None:
                    if not files:
                        totals = stored
                        faults += _unbalanced(path, stored)
                    elif ledgers[hour].digest != shards.digest(files):
                        waiting += 1
                    else:
                        faults += _unlike(path, stored, totals)
            elif files:
                waiting += 1
            for (node, holder), sums in totals.items():
                nodes.add(node)
                for name, value in zip(schema.SUM_COLUMNS, sums, strict=True):
                    if name in balances:
                        balances[name][holder] = balances[name].get(holder, 0) + value
            progress(done, len(hours))
    finally:
        con.close()
    holders = ("job", "system", "unallocated", "meter")
    summary = tuple(
        Balance(name.removesuffix("_uj"), *(of.get(holder, 0) for holder in holders)) for name, of in balances.items()
    )
    return Verdict(
        len(hours), count, len(nodes), waiting, summary, tuple((fault.path, fault.reason) for fault in faults)
    )


def _from_shards(
    con: duckdb.DuckDBPyConnection,
    files: list[shards.ShardFile],
    cluster: str,
    hour: datetime,
    faults: list[ShardError],
) -> Totals:
    judged = shards.load(con, files, cluster, hour)
    faults += judged.faults
    faults += _wrong_columns(con, [file.path for file in judged.good])
    return _totals(con, "grouped")


def _from_ledger(con: duckdb.DuckDBPyConnection, hour: datetime, path: str, faults: list[ShardError]) -> Totals | None:
    from hpccarbon.duck import duckdb

    try:
        return _totals(con, index.source({hour: path}))
    except duckdb.Error as err:
        faults.append(ShardError(path, reason(err)))
    return None


def _totals(con: duckdb.DuckDBPyConnection, source: str) -> Totals:
    rows = con.execute(f"SELECT node, holder, {_SUMS} FROM {source} GROUP BY node, holder ORDER BY ALL").fetchall()  # noqa: S608
    return {(node, holder): tuple(sums) for node, holder, *sums in rows}


def _unbalanced(path: str, totals: Totals) -> list[ShardError]:
    """The nodes of a ledger file whose energy does not add up."""
    found = []
    for node in sorted({node for node, _ in totals}):
        for at, name in enumerate(schema.SUM_COLUMNS):
            if name in schema.ENERGY_COLUMNS:
                parts = {holder: sums[at] for (other, holder), sums in totals.items() if other == node}
                meters = parts.pop("meter", 0)
                if sum(parts.values()) != meters:
                    text = f"node {node}: {name} of all holders is {sum(parts.values())}, of the meters {meters}"
                    found.append(ShardError(path, text))
    return found


def _unlike(path: str, stored: Totals, made: Totals) -> list[ShardError]:
    """Where a ledger file differs from the shards it was made of."""
    nothing = (0,) * len(schema.SUM_COLUMNS)
    found = []
    for node, holder in sorted(stored.keys() | made.keys()):
        here, there = stored.get((node, holder), nothing), made.get((node, holder), nothing)
        for name, ledger_sum, shard_sum in zip(schema.SUM_COLUMNS, here, there, strict=True):
            if ledger_sum != shard_sum:
                text = f"node {node}, {holder}: {name} is {ledger_sum}, in the shards {shard_sum}"
                found.append(ShardError(path, f"{text} (remove it and run `hpccarbon aggregate`)"))
    return found


def _wrong_columns(con: duckdb.DuckDBPyConnection, paths: list[str]) -> list[ShardError]:
    """The shards whose columns are not those of the schema, by name and physical type.

    `shards.load` casts what can be cast; only here is every file's own schema compared.
    """
    if not paths:
        return []
    rows = con.execute(
        "SELECT file_name, list((name, type) ORDER BY name) FROM parquet_schema($files)"
        " WHERE type IS NOT NULL GROUP BY file_name",
        {"files": paths},
    ).fetchall()
    expected = sorted((column.name, _PHYSICAL[column.type]) for column in schema.SHARD)
    found = []
    for path, columns in sorted(rows):
        said = [tuple(column) for column in columns]
        if said != expected:
            odd = sorted({name for name, _ in set(said) ^ set(expected)})
            found.append(
                ShardError(path, f"columns differ from schema version {schema.SHARD_VERSION}: {', '.join(odd)}")
            )
    return found
