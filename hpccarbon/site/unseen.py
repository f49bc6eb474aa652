"""Time on nodes that Slurm knows of and no daemon saw: what keeps the coverage of a total honest. Only adds up.

A job without a single row, and the nodes and hours that a job's rows lack, are in no meter and so in no sum: without
this a node whose daemon is dead would raise the coverage of its users. Asked for beside `groups` and `Ledger.energy`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from hpccarbon.site.engine import quoted
from hpccarbon.site.jobs import read
from hpccarbon.site.ledger import READERS, WORDS, EnergyRow, Key, Ledger, Selection, local_days, named, ran_within
from hpccarbon.units import HOUR_S

if TYPE_CHECKING:
    import duckdb

DUE = timedelta(hours=2)
"""How long after its end an hour may lack shards: the running hour is not sealed on all nodes, and a user's own extract
may be an hour old."""
TOLERANCE_MS = 1000
"""Slurm's stamps are whole seconds: the difference of two may be one too many."""
_HOUR_MS = HOUR_S * 1000
_TIMES = ("hour", "day", "month")
_FACTS = ("user", "account", "partition")
_COLUMNS: Mapping[str, str] = {
    **{word: WORDS[word] for word in ("cluster", "job_id", *_FACTS)},
    "job": WORDS["job_id"],
    "holder": "'job'",
}
_ROWS = "(SELECT * FROM everyones WHERE holder = 'job')"
"""Where what was seen of jobs is read from."""


class Unseen(NamedTuple):
    """What no daemon saw of one group: node-time, and how many jobs have no row at all."""

    node_ms: int
    jobs: int


NOTHING = Unseen(0, 0)


def nothing(key: tuple[Key, ...]) -> EnergyRow:
    """The row of a group of which no daemon saw anything: nothing is known, not even when."""
    return EnergyRow(
        key=key, cpu_uj=None, dram_uj=None, gpu_uj=None, other_uj=None, idle_uj=0, modelled_uj=0, cpu_time_us=None,
        alloc_cores=None, alloc_gpus=None, core_us=None, present_ms=0, covered_ms=0, nodes=0, first=None, last=None,
        grams=None,
    )  # fmt: skip


def unseen(
    ledger: Ledger, selection: Selection, groupings: Sequence[Sequence[str]], now: datetime | None = None
) -> list[dict[tuple[Key, ...], Unseen]]:
    """For each grouping, as its keys are given by `Ledger.energy`: what its jobs' rows lack of Slurm's node-time.

    Args:
        groupings: words holder, cluster, job or job_id, user, account, partition, hour, day, month. Of a grouping with
            any other word (a node's lack is not known by name) nothing is said.
        now: what ran in the last two hours before it may not have come in yet and is not missed; the clock's time.

    Returns: only groups that lack something. A job lacks Slurm's time on nodes (elapsed less a second, times nodes,
        within the selection's time) less the time its rows were present. Runs that have not ended lack nothing. Where
        nodes are selected, or no jobs, nothing is known. A job with rows stands where its rows say.

    Raises: ShardError as `Ledger.energy`.
    """

    def question(con: duckdb.DuckDBPyConnection, _: list[datetime]) -> list[dict[tuple[Key, ...], Unseen]]:
        return of_selected(con, ledger, selection, groupings, now)

    return ledger.ask(selection, question, even_empty=True) or [{} for _ in groupings]


def unseen_and_counts(
    ledger: Ledger, selection: Selection, by: Sequence[str], now: datetime | None = None
) -> tuple[dict[tuple[Key, ...], Unseen], Unseen, dict[tuple[Key, ...], int]]:
    """What no daemon saw of each group, and of all; and `Ledger.job_counts`: both by one look at each job."""

    def question(
        con: duckdb.DuckDBPyConnection, _: list[datetime]
    ) -> tuple[list[dict[tuple[Key, ...], Unseen]], dict[tuple[Key, ...], int] | None]:
        counts, rows = None, _ROWS
        if set(by) <= _COLUMNS.keys():  # a job is in one group, or nearly: with hours or nodes it is in many
            counts, rows = _counted(con, by, selection, _only(ledger)), "shown"
        return of_selected(con, ledger, selection, [by, ()], now, rows), counts

    (lacking, whole), counts = ledger.ask(selection, question, even_empty=True) or ([{}, {}], None)
    if counts is None:
        counts = ledger.job_counts(selection, by)
    return lacking, whole.get((), NOTHING), counts


def _counted(
    con: duckdb.DuckDBPyConnection, by: Sequence[str], selection: Selection, cluster: str | None
) -> dict[tuple[Key, ...], int]:
    """Make the table `shown`, the jobs with rows: cluster, job_id, present_ms, and the facts needed; and count them."""
    narrowed = named(selection)
    wanted = [name for name in _FACTS if name in by or getattr(selection, f"{name}s") is not None]
    facts = "".join(f', "{name}"' for name in wanted)
    key = f"job_id{facts}{', cluster' if cluster is None else ''}"
    only = "" if cluster is None else f", {quoted(cluster)} AS cluster"
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE shown AS"  # noqa: S608 - column names are our own
        f" SELECT {key}{only}, sum(present_ms)::BIGINT AS present_ms FROM {_ROWS} GROUP BY {key}"
    )
    number = f"count(DISTINCT {'(cluster, job_id)' if cluster is None else 'job_id'})"
    source = f"FROM shown WHERE {' AND '.join(narrowed) or 'true'}"
    ((total,),) = con.execute(f"SELECT {number} {source}").fetchall()
    counts: dict[tuple[Key, ...], int] = {(): total}
    if by and total:
        # A row of `shown` is a job where nothing but what is grouped by tells its rows apart.
        number = "count(*)" if set(wanted) <= set(by) else number
        columns = ", ".join(_COLUMNS[word] for word in by)
        counts |= {
            tuple(values): count
            for *values, count in con.execute(f"SELECT {columns}, {number} {source} GROUP BY ALL").fetchall()
        }
    return counts


def of_selected(
    con: duckdb.DuckDBPyConnection,
    ledger: Ledger,
    selection: Selection,
    groupings: Sequence[Sequence[str]],
    now: datetime | None = None,
    rows: str = _ROWS,
) -> list[dict[tuple[Key, ...], Unseen]]:
    """`unseen`, where the views of `Ledger.ask` are there already."""
    told = [by if set(by) <= _COLUMNS.keys() | set(_TIMES) else None for by in groupings]
    if not any(by is not None for by in told) or not lacks(con, ledger, selection, now, rows):
        return [{} for _ in groupings]
    return [{} if by is None else _of(con, by, ledger.timezone, _only(ledger)) for by in told]


def lacks(
    con: duckdb.DuckDBPyConnection,
    ledger: Ledger,
    selection: Selection,
    now: datetime | None = None,
    rows: str = _ROWS,
) -> bool:
    """Make the tables `runs`, what ended by accounting, cut to the selection's time, and `lacks`: what rows lack of it.

    Columns of `lacks`: cluster, job_id, period (0), lack_ms, `whole` (whether the job has no row at all), and the facts
    of `_FACTS`. Returns: False, and no tables, where nothing can be known. Raises: ShardError naming a file of records.
    """
    from hpccarbon.duck import duckdb

    files = ledger.job_files_by_cluster()
    if selection.nodes is not None or "job" not in selection.holders or not files:
        return False
    due = (now or datetime.now(timezone.utc)) - DUE
    within = msgspec.structs.replace(selection, until=due if selection.until is None else min(selection.until, due))
    begin = "epoch_ms(start)" if within.since is None else f"greatest(epoch_ms(start), {_ms(within.since)})"
    ended = 'start IS NOT NULL AND "end" > start AND elapsed_s > 0 AND alloc_nodes > 0'
    where = " AND ".join([ended, *ran_within(within)])
    records = " UNION ALL ".join(
        f"SELECT *, {quoted(cluster)} AS cluster"  # noqa: S608
        f" FROM read_parquet([{', '.join(map(quoted, its))}], hive_partitioning = false) WHERE {where}"
        for cluster, its in files.items()
    )
    try:
        con.execute(f"CREATE OR REPLACE TEMP VIEW ended AS {records}")
        con.execute(f"""
            CREATE OR REPLACE TEMP TABLE runs AS
            SELECT cluster, job_id, {begin} AS begin_ms, least(epoch_ms("end"), {_ms(within.until)}) AS end_ms,
                elapsed_s * 1000.0 / (epoch_ms("end") - epoch_ms(start)) AS awake, alloc_nodes FROM ended
        """)  # noqa: S608
        _lacking(con, "lacks", _only(ledger), rows)
    except duckdb.Error:
        for its in files.values():
            read(con, its, where)  # names the file
        raise
    return True


def _lacking(
    con: duckdb.DuckDBPyConnection, into: str, cluster: str | None, rows: str = _ROWS, *, periods: bool = False
) -> None:
    """Make the table `into`, as `lacks`, from the tables `runs` and `spans` and the views of `Ledger.ask` and `ended`.

    Args:
        cluster: the only one; None if there are several.
        rows: what was seen of jobs, whose sums are those of `_ROWS`.
        periods: by the periods of `spans`, not all of the time as one.

    Method: job by job what was told less what was seen, in one pass; who they are is looked up for those that lack.
    """
    begin, end = "greatest(begin_ms, span_begin_ms)", "least(end_ms, span_end_ms)"
    length = f"({end} - {begin})" if periods else "(end_ms - begin_ms)"
    with_runs = "JOIN spans ON begin_ms < span_end_ms AND end_ms > span_begin_ms" if periods else ""
    with_rows = "JOIN hours_of USING (hour_n)" if periods else ""
    # A key that is the same for all costs a third more on a month's million jobs.
    keys = ", ".join(["job_id", *(["cluster"] if cluster is None else []), *(["period"] if periods else [])])
    constants = ("" if cluster is None else f", {quoted(cluster)} AS cluster") + ("" if periods else ", 0 AS period")
    facts = ", ".join(f'max("{name}") AS "{name}"' for name in _FACTS)
    either = ", ".join(
        f'CASE WHEN whole OR seen.job_id IS NULL THEN told."{name}" ELSE seen."{name}" END AS "{name}"'
        for name in _FACTS
    )
    con.execute(f"""
    CREATE OR REPLACE TEMP TABLE lacking AS
    SELECT {keys}{constants}, sum(node_ms)::BIGINT AS lack_ms, bool_and(by_slurm) AS whole FROM (
        SELECT {keys}, true AS by_slurm,
            (greatest(0, {length} * awake - {TOLERANCE_MS}) * alloc_nodes)::BIGINT AS node_ms FROM runs {with_runs}
        UNION ALL
        SELECT {keys}, false, -present_ms FROM {rows} {with_rows}
    ) GROUP BY {keys} HAVING lack_ms > 0
    """)  # noqa: S608 - column names are our own
    # A query of its own: that mostly nobody lacks anything, the engine knows of a table and not of a subquery.
    con.execute(f"""
    CREATE OR REPLACE TEMP TABLE {into} AS
    WITH told AS (
        SELECT cluster, job_id, {facts} FROM ended SEMI JOIN lacking USING (cluster, job_id) GROUP BY ALL
    ), seen AS (
        SELECT cluster, job_id, {facts} FROM selected SEMI JOIN lacking USING (cluster, job_id)
        WHERE holder = 'job' GROUP BY ALL
    )
    SELECT cluster, job_id, period, lack_ms, whole, {either}
    FROM lacking LEFT JOIN told USING (cluster, job_id) LEFT JOIN seen USING (cluster, job_id)
    """)  # noqa: S608 - column names are our own


def _of(
    con: duckdb.DuckDBPyConnection, by: Sequence[str], zone: str, cluster: str | None
) -> dict[tuple[Key, ...], Unseen]:
    times = [word for word in by if word in _TIMES]
    keys_of = _spans(con, times, zone) if times else {0: {}}
    columns = ", ".join(["period", *(_COLUMNS[word] for word in by if word in _COLUMNS)])
    if times:
        _lacking(con, "lacks_then", cluster, periods=True)
    source = "lacks_then" if times else "lacks"
    sql = f"SELECT {columns}, sum(lack_ms)::BIGINT, count(*) FILTER (whole) FROM {source} GROUP BY ALL"  # noqa: S608
    found: dict[tuple[Key, ...], Unseen] = {}
    for period, *values, node_ms, jobs in con.execute(sql).fetchall():
        rest = iter(values)
        found[tuple(keys_of[period][word] if word in _TIMES else next(rest) for word in by)] = Unseen(node_ms, jobs)
    return found


def _spans(con: duckdb.DuckDBPyConnection, times: Sequence[str], zone: str) -> dict[int, dict[str, Key]]:
    """Make the tables `spans` (period, its begin and end) and `hours_of` (hour, its period); period -> word -> key.

    A period is a run of whole UTC hours with the same keys, as the ledger's rows are grouped.
    """
    ((first_ms, last_ms),) = con.execute("SELECT min(begin_ms), max(end_ms) FROM runs").fetchall()
    hours = [] if first_ms is None else list(range(first_ms // _HOUR_MS, -(-last_ms // _HOUR_MS)))
    days, months = local_days(hours, zone)
    keys_of: dict[tuple[int, ...], int] = {}
    period_of = []
    for values in zip(hours, days, months, strict=True):
        key = tuple(values[_TIMES.index(word)] for word in times)
        period_of.append(keys_of.setdefault(key, len(keys_of)))
    con.execute(
        "CREATE OR REPLACE TEMP TABLE hours_of AS"
        " SELECT unnest($hours::BIGINT[]) AS hour_n, unnest($periods::BIGINT[]) AS period",
        {"hours": hours, "periods": period_of},
    )
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE spans AS SELECT period, min(hour_n) * {_HOUR_MS} AS span_begin_ms,"  # noqa: S608
        f" (max(hour_n) + 1) * {_HOUR_MS} AS span_end_ms FROM hours_of GROUP BY period"
    )
    return {
        period: {word: READERS[word](value) for word, value in zip(times, key, strict=True)}
        for key, period in keys_of.items()
    }


def _only(ledger: Ledger) -> str | None:
    clusters = ledger.clusters()
    return clusters[0] if len(clusters) == 1 else None


def _ms(moment: datetime | None) -> int:
    assert moment is not None
    return round(moment.timestamp() * 1000)
