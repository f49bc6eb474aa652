"""Rows of hours that no ledger file holds yet, made from their shards once for all questions of a report.

A report asks its ledger half a dozen questions about the same hours; an hour of 2,000 nodes takes seconds to make.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from hpccarbon import schema
from hpccarbon.site import shards
from hpccarbon.units import HOUR_S

if TYPE_CHECKING:
    import duckdb

    from hpccarbon.errors import ShardError

COLUMNS = (
    "cluster",
    "node",
    *schema.KEY_COLUMNS,
    *schema.SUM_COLUMNS,
    *schema.MAX_COLUMNS,
    "first_us",
    "last_us",
    "hour_n",
    "bucket_us",
)
"""What a question sees of a row, whether from the ledger or from a shard."""
_TYPES = {
    **dict.fromkeys(("cluster", "node", "holder", "run", "meter", "user", "account", "partition"), "VARCHAR"),
    **dict.fromkeys(schema.MAX_COLUMNS, "INTEGER"),
}
"""SQL's types of the columns that are no BIGINT."""
NAMES = ", ".join(f'"{name}"' for name in COLUMNS)
NOTHING = f"""SELECT {", ".join(f'NULL::{_TYPES.get(name, "BIGINT")} AS "{name}"' for name in COLUMNS)} WHERE false"""
"""A query with the columns and without a row."""
KEPT = 64
"""Parts that are kept though the last question did not need them."""


class Part(NamedTuple):
    """One hour, as one question needs it: from which shards, and what of them.

    `digest` names the set of shards (`shards.digest`). `nodes` and `condition` (SQL) leave out whole shards. `since`
    and `until` cut the hour. `by_bucket`: a row for every minute.
    """

    cluster: str
    hour: datetime
    digest: str
    nodes: tuple[str, ...] | None
    condition: str
    since: datetime | None
    until: datetime | None
    by_bucket: bool


class _Made(NamedTuple):
    """What became of a part: its number in the table, its rows, and the shards that were left out."""

    number: int
    rows: int
    faults: list[ShardError]


class Young:
    """The table `young` of one connection. It goes with its connection."""

    def __init__(self, con: duckdb.DuckDBPyConnection) -> None:
        self._con = con
        self._made: dict[Part, _Made] = {}
        self._last = 0
        declared = ", ".join(f'"{name}" {_TYPES.get(name, "BIGINT")}' for name in COLUMNS)
        con.execute(f"CREATE OR REPLACE TEMP TABLE young (part BIGINT, {declared})")

    def make(self, part: Part, files: Sequence[shards.ShardFile], refused: Mapping[str, str]) -> Sequence[ShardError]:
        """See that the part's rows are there; returns the shards that were left out.

        Args:
            files: the hour's shards, of all nodes.
            refused: as for `shards.load`, which says what is raised.
        """
        made = self._made.pop(part, None) or self._load(part, files, refused)
        self._made[part] = made  # at the end: what was needed last is forgotten last
        return made.faults

    def source(self, parts: Sequence[Part]) -> str:
        """The query that gives the rows of these parts; empty, where they have none. Forgets what is long unused, and
        parts of which these are newer."""
        wanted, newer = set(parts), {part._replace(digest="") for part in parts}
        unused = [part for part in self._made if part not in wanted]
        outdated = {part for part in unused if part._replace(digest="") in newer}
        forgotten = [*outdated, *[part for part in unused if part not in outdated][:-KEPT]]
        if gone := [self._made.pop(part).number for part in forgotten]:
            # Not DELETE: in memory the engine never takes back the room of deleted rows, and exporters ask for weeks.
            kept = f"FROM young WHERE part NOT IN ({_numbers(gone)})"
            self._con.execute(f"CREATE OR REPLACE TEMP TABLE young AS {kept}")
        numbers = [self._made[part].number for part in parts if self._made[part].rows]
        return f"SELECT {NAMES} FROM young WHERE part IN ({_numbers(numbers)})" if numbers else ""  # noqa: S608

    def _load(self, part: Part, files: Sequence[shards.ShardFile], refused: Mapping[str, str]) -> _Made:
        con = self._con
        chosen = [file for file in files if part.nodes is None or file.node in part.nodes]
        if part.condition:
            chosen = shards.holding(con, chosen, part.condition)
        judged = shards.load(con, chosen, part.cluster, part.hour, refused)
        if part.by_bucket or part.since is not None or part.until is not None:
            shards.load_minutes(con, judged.good, part.since, part.until, by_bucket=part.by_bucket)
        bucket = "bucket_us" if part.by_bucket else "NULL"
        names = ", ".join(f'"{name}"' for name in COLUMNS if name not in ("cluster", "hour_n", "bucket_us"))
        self._last += 1
        ((rows,),) = con.execute(
            f"INSERT INTO young (part, cluster, hour_n, bucket_us, {names})"  # noqa: S608
            f" SELECT $part, $cluster, $hour, {bucket}, {names} FROM grouped",
            {"part": self._last, "cluster": part.cluster, "hour": int(part.hour.timestamp()) // HOUR_S},
        ).fetchall()
        return _Made(self._last, rows, judged.faults)


def _numbers(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
