"""Answers what was used by whom and when: the one place that reads ledger, young shards and job records together.

An hour is read from its ledger file where that was made of the very shards that lie there now, else from the shards
themselves: never from both. Computes energy and, if factors are given, grams; formats nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta, timezone, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec

from hpccarbon import schema
from hpccarbon.errors import ShardError
from hpccarbon.site import index, jobs, shards, steps
from hpccarbon.site.engine import OnDemand, arrow, connect, quoted, reason
from hpccarbon.site.weigh import GRAMS, Factors, grams, hour_at, moment_at, table, weigh
from hpccarbon.site.young import NAMES, NOTHING, Part, Young
from hpccarbon.slurm.record import JobRecord
from hpccarbon.units import HOUR_S

if TYPE_CHECKING:
    import duckdb
    import pandas as pd
    import pyarrow as pa

__all__ = ["EnergyRow", "JobRecord", "Key", "Ledger", "Selection"]

Answer = TypeVar("Answer")
Key = str | int | datetime | date | None
_HOUR_US = HOUR_S * 1_000_000
_HINT_MARGIN = timedelta(hours=1)


class Selection(msgspec.Struct, frozen=True):
    """Which rows count. None means all; what is given must all hold.

    `job_ids` are raw Slurm job ids and imply the holder `job`. `since` and `until` are aware and half-open.
    """

    job_ids: tuple[int, ...] | None = None
    users: tuple[str, ...] | None = None
    accounts: tuple[str, ...] | None = None
    partitions: tuple[str, ...] | None = None
    nodes: tuple[str, ...] | None = None
    holders: tuple[str, ...] = ("job", "system", "unallocated")
    since: datetime | None = None
    until: datetime | None = None


class EnergyRow(msgspec.Struct, frozen=True):
    """What one group of rows used.

    `key` holds the values of `by`, in order. A component is None where no sensor ever told it. `alloc_*` are the
    largest seen on one node; `core_us` is cores held × time, over all nodes. `nodes` counts distinct nodes. `first` and
    `last` are the first minute and the start of the last one, None where no minute is known. `grams` is None without
    factors, or where the factor of one of the hours is missing: an incomplete sum is not a sum.
    """

    key: tuple[Key, ...]
    cpu_uj: int | None
    dram_uj: int | None
    gpu_uj: int | None
    other_uj: int | None
    idle_uj: int
    modelled_uj: int
    cpu_time_us: int | None
    alloc_cores: int | None
    alloc_gpus: int | None
    core_us: int | None
    present_ms: int
    covered_ms: int
    nodes: int
    first: datetime | None
    last: datetime | None
    grams: float | None

    @property
    def energy_uj(self) -> int:
        """The sum of the known components."""
        return sum(part or 0 for part in (self.cpu_uj, self.dram_uj, self.gpu_uj, self.other_uj))


Window = tuple[datetime | None, datetime | None]
"""[since, until), None: without end on that side."""


class Plan(NamedTuple):
    """How the hours of one cluster are read: ledger files as they are, and hours whose shards are younger."""

    cluster: str
    ledger: dict[datetime, str]
    young: dict[datetime, list[shards.ShardFile]]


class _Seen(NamedTuple):
    """Records that were read: all of these jobs in these files, while the files are the same (`_stamps`), and perhaps
    others. A report asks several questions about the same jobs."""

    stamps: Mapping[str, int]
    job_ids: frozenset[int]
    records: list[JobRecord]


WORDS = {
    "cluster": "cluster",
    "node": "node",
    "holder": "holder",
    "job_id": "job_id",
    "run": "run",
    "meter": "meter",
    "uid": "uid",
    "user": '"user"',
    "account": "account",
    "partition": '"partition"',
    "hour": "hour_n",
    "day": "day_n",
    "month": "month_n",
    "bucket": "bucket_us",
}
"""What `by` may name, and the SQL behind it."""

_FROM_LEDGER = f"""
SELECT $cluster AS cluster, node, {", ".join(f'"{name}"' for name in schema.KEY_COLUMNS)},
    {", ".join((*schema.SUM_COLUMNS, *schema.MAX_COLUMNS))},
    epoch_us(first_bucket) AS first_us, epoch_us(last_bucket) AS last_us,
    epoch_us(hour) // {_HOUR_US} AS hour_n, NULL::BIGINT AS bucket_us
FROM $source
"""  # noqa: S608 - column names are our own
_MEASURES = f"""
{", ".join(f"sum({name})" for name in schema.ENERGY_COLUMNS)}, sum(idle_uj), sum(modelled_uj), sum(cpu_time_us),
max(alloc_cores), max(alloc_gpus), sum(alloc_cores::HUGEINT * present_ms) * 1000, sum(present_ms), sum(covered_ms),
count(DISTINCT node), min(first_us), max(last_us)
"""


class Ledger:
    """The energy of a site, by whatever it is asked for. Nothing is opened before the first question.

    Args:
        shared: the shared directory, with `ledger/`, `shards/` and `jobs/` below it.
        cluster: one cluster's name; None for all that have a directory.
        timezone: where days and months begin (IANA name). They are cut at UTC hours: in a zone that is half an
            hour off, the hour in which a day begins counts to the day before.
    """

    faults: list[ShardError]
    """What the last questions had to leave out: shards and ledger files that cannot be trusted, each once."""

    def __init__(self, shared: Path, cluster: str | None = None, timezone: str = "UTC") -> None:
        self.shared = Path(shared)
        self.cluster = cluster
        self.timezone = timezone
        self.faults = []
        self._broken: set[str] = set()
        self._refused: dict[str, str] = {}
        self._gathered: list[str] = []
        self._planned: set[int] = set()
        self._seen: _Seen | None = None
        self._selected = self._everyones = ""
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._young: Young | None = None

    def clusters(self) -> list[str]:
        """The clusters that have shards, a ledger or job records here, or the one that was asked for."""
        if self.cluster is not None:
            return [self.cluster]
        found: set[str] = set()
        for room in ("shards", "ledger", "jobs"):
            folder = self.shared / room
            if folder.is_dir():
                found |= {path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")}
        return sorted(found)

    def energy(
        self, selection: Selection, by: Sequence[str] = (), factors: Mapping[datetime, float] | Factors | None = None
    ) -> list[EnergyRow]:
        """What the selection used, one row per group, sorted by key (None last).

        Args:
            selection: which rows count. Where `since` or `until` is no whole hour, the minutes are taken from the
                hour's shards; where these are gone, an hour counts if its start lies within.
            by: any of cluster, node, holder, job_id, run, meter (holders must be ("meter",)), uid, user, account,
                partition, hour, day, month, bucket. `hour` and `bucket` become aware datetimes (UTC), `day` a date,
                `month` a text YYYY-MM. `bucket` reads shards: hours whose shards are gone have no rows.
            factors: UTC hour -> gCO2e per kWh of metered energy, whatever it already contains; or, where parts of the
                cluster stand in different places, `site.weigh.Factors`.

        Returns: no row at all where nothing was metered; sums are exact integers.

        Raises:
            ValueError: for an unknown word in `by`.
            ShardError: if the shared directory cannot be read. What can be left out is left out and named in `faults`.
        """
        if unknown := [word for word in by if word not in WORDS]:
            raise ValueError(f"cannot group by {', '.join(unknown)}; known: {', '.join(WORDS)}")
        if "meter" in by and selection.holders != ("meter",):
            raise ValueError('grouping by meter needs holders == ("meter",)')
        if factors is not None and not isinstance(factors, Factors):
            by_hour = factors
            factors = Factors(lambda _place, _hours: by_hour)
        return self._answer(selection, lambda: self._rows(by, factors), by_bucket="bucket" in by) or []

    def job_counts(self, selection: Selection, by: Sequence[str] = ()) -> dict[tuple[Key, ...], int]:
        """How many different jobs are in each group of `energy` with the same `by`; under () in all of them together.

        Counted by the engine: a month's million jobs are one number for each user, never a million rows.
        """
        if "job" not in selection.holders:
            return {(): 0}
        counted = self._answer(msgspec.structs.replace(selection, holders=("job",)), lambda: self._count_jobs(by))
        return counted or {(): 0}

    def ask(
        self,
        selection: Selection,
        question: Callable[[duckdb.DuckDBPyConnection, list[datetime]], Answer],
        *,
        even_empty: bool = False,
    ) -> Answer | None:
        """Put a question of one's own to the selected rows (site/groups.py); None where there are none.

        Args:
            question: gets a connection with the view `selected` (columns as in a ledger file, times as integers), the
                view `everyones` (the same, whatever users, accounts and partitions were selected) and the UTC hours
                that were gathered. Asked again, if a ledger file turns out to be damaged.
            even_empty: ask where there are no rows, too: accounting may know what no daemon saw.
        """

        def asked() -> Answer:
            self._con.execute(self._everyones)
            return question(self._con, self._planned_hours())

        return self._answer(selection, asked, even_empty=even_empty)

    def hours(self, selection: Selection) -> list[datetime]:
        """The UTC hours that hold rows of the selection, in order."""
        return self._answer(selection, lambda: [hour_at(hour_n) for hour_n in self._hours()]) or []

    def jobs(
        self,
        selection: Selection | None = None,
        *,
        job_ids: Iterable[int] | None = None,
        array_ids: Iterable[int] | None = None,
        array_tasks: Sequence[tuple[int, int]] = (),
    ) -> list[JobRecord]:
        """Job records, by job id and run. Ids of the three kinds are alternatives; the selection narrows them.

        Args:
            selection: job_ids, users, accounts and partitions as for energy; since and until keep jobs that ran at
                any time within (a job that has not ended still runs). Its nodes and holders do not matter here.
            job_ids: raw job ids. array_ids: all tasks of these arrays. array_tasks: (array, index) pairs.

        Raises: ShardError naming a file of records that cannot be read.
        """
        chosen = selection or Selection()
        job_ids, array_ids = (None if ids is None else tuple(ids) for ids in (job_ids, array_ids))
        either: list[str] = []
        if job_ids is not None:
            either.append(_among("job_id", job_ids))
        if array_ids is not None:
            either.append(_among("array_job_id", array_ids))
        if array_tasks:
            pairs = " OR ".join(
                f"(array_job_id = {int(one)} AND array_task_id = {int(task)})" for one, task in array_tasks
            )
            either.append(f"{_among('array_job_id', {one for one, _ in array_tasks})} AND ({pairs})")
        narrowed = ran_within(chosen)
        files = self.job_files()
        if either or chosen.job_ids is not None:
            ids = {*(job_ids or ()), *(array_ids or ()), *(array for array, _ in array_tasks)}
            files = jobs.holding(files, ids if either else chosen.job_ids or ())
        stamps = _stamps(files)  # before they are read: one that is replaced meanwhile is read again
        records = jobs.read(self._con, files, *(" AND ".join([one, *narrowed]) for one in either or ["true"]))
        if job_ids is not None and not narrowed:
            self._seen = _Seen(stamps, frozenset(job_ids), records)
        return records

    def steps(self, job_ids: Iterable[int]) -> list[steps.StepRow]:
        """What the steps of these jobs used, by node and hour, as far as `daemon.steps` was on and the raw shards
        still lie there. Raises: ShardError; what cannot be trusted is left out and named in `faults`."""
        found: list[steps.StepRow] = []
        selection = Selection(job_ids=tuple(job_ids), holders=("job",))
        spent: dict[str, dict[steps.Place, dict[tuple[int, str], int]]] = {}
        for row in self.energy(selection, ("cluster", "hour", "node", "job_id", "run")):
            cluster, hour, node, job_id, run = row.key
            if isinstance(hour, datetime) and isinstance(job_id, int):
                of_node = spent.setdefault(str(cluster), {}).setdefault((hour, str(node)), {})
                of_node[job_id, str(run)] = row.energy_uj
        for name, places in spent.items():
            rows, faults = steps.read(self._con, self.shared, name, places)
            found += rows
            for fault in faults:
                self._note(fault)
        return found

    def table(self, selection: Selection | None = None) -> pa.Table:
        """The selected ledger rows as an Arrow table: `cluster`, then the columns of `schema.LEDGER`, in order of
        (hour, cluster, holder, job_id, run, node). Rows of young hours are made from their shards. Needs pyarrow."""
        import pyarrow as pa

        wanted = schema.arrow_schema(schema.LEDGER)
        wanted = wanted.insert(0, pa.field("cluster", schema.arrow_type("word"), nullable=False))
        stamps = {"hour": f"hour_n * {_HOUR_US}", "first_bucket": "first_us", "last_bucket": "last_us"}
        columns = ", ".join(
            f'make_timestamptz(({stamps[name]})::BIGINT) AS "{name}"' if name in stamps else f'"{name}"'
            for name in wanted.names
        )
        order = "hour_n, cluster, holder, job_id NULLS LAST, run NULLS LAST, node, meter NULLS LAST, uid NULLS LAST"
        sql = f"SELECT {columns} FROM selected ORDER BY {order}"  # noqa: S608
        table: pa.Table | None = self._answer(selection or Selection(), lambda: arrow(self._con, sql).cast(wanted))
        return wanted.empty_table() if table is None else table

    def frame(self, selection: Selection | None = None) -> pd.DataFrame:
        """`table` as a pandas DataFrame: nullable integers (a missing reading is <NA>, never 0 or NaN), words as
        categories, times in UTC. Needs pandas and pyarrow."""
        import pandas as pd
        import pyarrow as pa

        nullable = {pa.int64(): pd.Int64Dtype(), pa.int32(): pd.Int32Dtype()}
        frame: pd.DataFrame = self.table(selection).to_pandas(types_mapper=nullable.get)
        return frame

    def close(self) -> None:
        """Let go of the engine; the next question starts it again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = self._young = None

    @property
    def _con(self) -> duckdb.DuckDBPyConnection:
        if self._connection is None:
            self._connection = connect()
        return self._connection

    # -- which hours, and where each is read from --

    def job_files(self) -> list[str]:
        """The files of job records, in order of time; those that this user may read."""
        return [file for files in self.job_files_by_cluster().values() for file in files]

    def job_files_by_cluster(self) -> dict[str, list[str]]:
        """The same, by cluster; without those that have none."""
        return {cluster: its for cluster in self.clusters() if (its := jobs.job_files(self.shared, cluster))}

    def _gather(self, selection: Selection, *, by_bucket: bool = False) -> bool:
        """Find the sources of the selected rows and the view `selected` over them; False where that is empty."""
        for moment in (selection.since, selection.until):
            if moment is not None and moment.tzinfo is None:
                raise ValueError("since and until need a time zone")
        self._gathered = []
        self._planned = set()
        sources = self._sources(selection, by_bucket=by_bucket)
        # A job that no hook told has rows without a user: who asks what no daemon saw must find them all the same.
        everyones = msgspec.structs.replace(selection, users=None, accounts=None, partitions=None)
        self._selected, self._everyones = (
            f"CREATE OR REPLACE TEMP VIEW {name} AS {_union(sources or [NOTHING], chosen)}"
            for name, chosen in (("selected", selection), ("everyones", everyones))
        )
        return bool(sources)

    def _sources(self, selection: Selection, *, by_bucket: bool) -> list[str]:
        """Queries that give the rows of the selected hours; fills `_gathered` (files) and `_planned` (hours)."""
        if self._young is None:
            self._young = Young(self._con)
        sources: list[str] = []
        parts: list[Part] = []
        for cluster in self.clusters():
            plan = self._plan(cluster, selection, by_bucket=by_bucket)
            self._planned |= {int(hour.timestamp()) // HOUR_S for hour in (*plan.ledger, *plan.young)}
            for hour, files in plan.young.items():
                part = _part(cluster, hour, files, selection, by_bucket=by_bucket)
                for fault in self._young.make(part, files, self._refused):
                    self._note(fault)
                parts.append(part)
            if plan.ledger:
                self._gathered += plan.ledger.values()
                sources.append(_from_ledger(plan.ledger, cluster))
        if young := self._young.source(parts):
            sources.append(young)
        return sources

    def _plan(self, cluster: str, selection: Selection, *, by_bucket: bool) -> Plan:
        """For every hour of the selection: its ledger file if that is up to date, else its shards; with `by_bucket` its
        shards alone."""
        entries: dict[datetime, index.HourEntry] = {}
        directories: dict[datetime, str] = {}
        faults: list[ShardError] = []
        windows = self._windows(cluster, selection)
        for since, until in windows:
            directories |= shards.hour_dirs(self.shared, cluster, since, until)
        if by_bucket and not directories:
            return Plan(cluster, {}, {})
        with OnDemand(1) as connection:
            for since, until in windows:
                known, broken = index.known(connection, self.shared, cluster, since, until)
                entries |= known
                faults += broken
        entries = {
            hour: one
            for hour, one in entries.items()
            if not self._broken or index.path_of(self.shared, cluster, hour, one) not in self._broken
        }
        plan = Plan(cluster, {}, {})
        for hour in sorted(entries.keys() | directories.keys()):
            one, directory = entries.get(hour), directories.get(hour)
            partial = _partial(hour, selection)
            files: list[shards.ShardFile] | None = None
            if directory is not None and (one is None or partial or not _unchanged(one, directory)):
                files = shards.list_hour(directory)
            current = one is not None and (not files or one.digest == shards.digest(files))
            if not current and one is not None and directory is not None and _settled(directory):
                files, current = None, True  # what lies there came late: the ledger has the rest of the hour
            if files and (partial or not current):
                plan.young[hour] = files
            elif one is not None and (not partial or selection.since is None or hour >= selection.since):
                for name, why in one.set_aside:
                    self._note(ShardError(f"{self.shared}/shards/{cluster}/{hour:date=%Y-%m-%d/hour=%H}/{name}", why))
                if not _without(one, selection):
                    plan.ledger[hour] = index.path_of(self.shared, cluster, hour, one)
        for fault in faults:
            self._note(fault)
        return self._all_young(plan, selection) if by_bucket else plan

    def _windows(self, cluster: str, selection: Selection) -> list[Window]:
        """The spans of time in which rows of the selection can lie, apart from each other.

        For jobs these are the time in which they ran by their records, and what came since accounting was read; where a
        job has no record, or may have run since, it is all of the selection's time.
        """
        whole = (selection.since, selection.until)
        read_until = jobs.read_cursor(self.shared, cluster)
        if selection.job_ids is None or read_until is None:
            return [whole]
        try:
            files = jobs.holding(jobs.job_files(self.shared, cluster), selection.job_ids)
            span = self._span(files, selection.job_ids, read_until)
        except ShardError as fault:
            self._note(fault)
            return [whole]
        if span is None:
            return [whole]
        first, last = span[0] - _HINT_MARGIN, span[1] + _HINT_MARGIN
        since_read = read_until - 2 * _HINT_MARGIN
        windows = [(first, None)] if last >= since_read else [(first, last), (since_read, None)]
        return [window for one in windows if (window := _common(one, whole)) is not None]

    def _span(
        self, files: Sequence[str], job_ids: tuple[int, ...], read_until: datetime
    ) -> tuple[datetime, datetime] | None:
        """The time in which all of these jobs ran by their records; None, where one has none or never began.

        Raises: ShardError naming a file that cannot be read.
        """
        wanted, stamps = frozenset(job_ids), _stamps(files)
        if self._seen is None or self._seen.stamps != stamps or not wanted <= self._seen.job_ids:
            self._seen = _Seen(stamps, wanted, jobs.read(self._con, files, _among("job_id", job_ids)))
        records = [one for one in self._seen.records if one.job_id in wanted]
        starts = [one.start for one in records if one.start is not None]
        if {one.job_id for one in records} != wanted or len(starts) < len(records):
            return None
        return min(starts), max(one.end or read_until for one in records)

    def _all_young(self, plan: Plan, selection: Selection) -> Plan:
        """The same plan with every hour read from its shards, where they still lie."""
        young = dict(plan.young)
        lying = {
            hour: files
            for hour in plan.ledger
            if (files := shards.list_hour(f"{self.shared}/shards/{plan.cluster}/{hour:date=%Y-%m-%d/hour=%H}"))
        }
        holders = self._holders(plan, selection) if lying else set()
        for hour, files in lying.items():
            its = [file for file in files if (hour, file.node) in holders]
            if its:
                young[hour] = its
        return Plan(plan.cluster, {}, dict(sorted(young.items())))

    def _holders(self, plan: Plan, selection: Selection) -> set[tuple[datetime, str]]:
        """The (hour, node) pairs with rows of the selection, by the ledger: other shards need not be opened."""
        where = " AND ".join(_conditions(selection)) or "true"
        sql = f"SELECT DISTINCT hour_n, node FROM ({_from_ledger(plan.ledger, plan.cluster)}) WHERE {where}"  # noqa: S608
        rows = self._con.execute(sql).fetchall()
        return {(hour_at(hour_n), node) for hour_n, node in rows}

    def _note(self, fault: ShardError) -> None:
        if all((known.path, known.reason) != (fault.path, fault.reason) for known in self.faults):
            self.faults.append(fault)

    # -- adding up --

    def _answer(
        self, selection: Selection, ask: Callable[[], Answer], *, by_bucket: bool = False, even_empty: bool = False
    ) -> Answer | None:
        """Gather and ask; where a ledger file turns out to be damaged, set it aside and do both again."""
        from hpccarbon.duck import duckdb

        while True:
            try:
                if not self._gather(selection, by_bucket=by_bucket) and not even_empty:
                    return None
                self._con.execute(self._selected)
                return ask()
            except shards.EngineGaveUp as err:
                self.close()
                self._refused |= err.refused
            except (duckdb.Error, UnicodeDecodeError) as err:
                self.close()  # it may have given itself up
                if not self._damaged():
                    raise ShardError(self.shared / "ledger", reason(err)) from err

    def _damaged(self) -> bool:
        """Find the gathered ledger files that cannot be read to their end; False if all can be.

        A file that is gone is not damaged: its day was packed meanwhile, and the next look finds the pack.
        """
        from hpccarbon.duck import duckdb

        whole = ", ".join(f'max(hash("{column.name}"))' for column in schema.LEDGER)
        before = len(self._broken)
        for path in self._gathered:
            if not Path(path).exists():
                return True
            try:
                with contextlib.closing(connect(1)) as con:
                    con.execute(
                        f"SELECT {whole} FROM read_parquet({quoted(path)}, hive_partitioning = false)"  # noqa: S608
                    ).fetchall()
            except (duckdb.Error, UnicodeDecodeError) as err:
                self._broken.add(path)
                self._note(ShardError(path, f"{reason(err)} (remove it and run `hpccarbon aggregate`)"))
        return len(self._broken) > before

    def _planned_hours(self) -> list[datetime]:
        return [hour_at(hour_n) for hour_n in sorted(self._planned)]

    def _hours(self) -> list[int]:
        return [row[0] for row in self._con.execute("SELECT DISTINCT hour_n FROM selected ORDER BY 1").fetchall()]

    def _rows(self, by: Sequence[str], factors: Factors | None) -> list[EnergyRow]:
        keys = [f"{WORDS[word]} AS k{place}" for place, word in enumerate(by)]
        source, weighted = "selected", "NULL, 0"
        if factors is not None:
            weigh(self._con, self._planned_hours(), factors)
            source, weighted = "weighed", GRAMS
        source += self._with_calendar(by)
        order = ", ".join(f"k{place} NULLS LAST" for place in range(len(by)))
        # Pairs cost the engine half as much again as names, and one cluster is the common case.
        measures = _MEASURES if len(self.clusters()) == 1 else _MEASURES.replace("node", "(cluster, node)")
        sql = f"SELECT {', '.join([*keys, measures, weighted])} FROM {source}"  # noqa: S608
        if by:
            sql += f" GROUP BY {', '.join(f'k{place}' for place in range(len(by)))} ORDER BY {order}"
        else:
            sql += " HAVING count(*) > 0"
        rows = self._con.execute(sql).fetchall()
        count = len(by)
        readers = [READERS.get(word) for word in by]
        return [_energy_row(row[:count], row[count:], readers, factors is not None) for row in rows]

    def _count_jobs(self, by: Sequence[str]) -> dict[tuple[Key, ...], int]:
        """Job ids are counted with their cluster's name: each cluster begins at 1."""
        source = f"selected{self._with_calendar(by)}"
        keys = ", ".join(WORDS[word] for word in by)
        job = "job_id" if len(self.clusters()) == 1 else "(cluster, job_id)"
        number = f"count(DISTINCT {job})"
        ((total,),) = self._con.execute(f"SELECT {number} FROM selected").fetchall()  # noqa: S608
        counts: dict[tuple[Key, ...], int] = {(): total}
        if by:
            readers = [READERS.get(word) for word in by]
            for *key, count in self._con.execute(f"SELECT {keys}, {number} FROM {source} GROUP BY {keys}").fetchall():  # noqa: S608
                counts[_key(key, readers)] = count
        return counts

    def _with_calendar(self, by: Sequence[str]) -> str:
        """What joins a row with its day and its month, where `by` needs them; the table is made by the way."""
        if "day" not in by and "month" not in by:
            return ""
        hours = sorted(self._planned)
        columns = {"hour_n": "BIGINT", "day_n": "BIGINT", "month_n": "BIGINT"}
        table(self._con, "calendar", columns, list(zip(hours, *local_days(hours, self.timezone), strict=True)))
        return " JOIN calendar USING (hour_n)"


def from_files(files: Iterable[str], cluster: str) -> str:
    """The query that reads whole ledger files, columns as in the view `selected`."""
    source = f"read_parquet([{', '.join(map(quoted, files))}], hive_partitioning = false)"
    return _FROM_LEDGER.replace("$source", source).replace("$cluster", quoted(cluster))


def _union(sources: Iterable[str], selection: Selection) -> str:
    where = " AND ".join(_conditions(selection)) or "true"
    return " UNION ALL ".join(f"SELECT {NAMES} FROM ({source}) WHERE {where}" for source in sources)  # noqa: S608


def _from_ledger(files: Mapping[datetime, str], cluster: str) -> str:
    return _FROM_LEDGER.replace("$source", index.source(files)).replace("$cluster", quoted(cluster))


def _energy_row(
    key: Sequence[Any], values: Sequence[Any], readers: Sequence[Callable[[Any], Key] | None], with_grams: bool
) -> EnergyRow:
    *measures, first_us, last_us, weighted, lacking = values
    its_grams = grams(weighted, lacking) if with_grams else None
    fields: list[Any] = [_key(key, readers), *measures, moment_at(first_us), moment_at(last_us), its_grams]
    return EnergyRow(*fields)


def _key(values: Sequence[Any], readers: Sequence[Callable[[Any], Key] | None]) -> tuple[Key, ...]:
    """A group's key as it is handed out: hours, days and months as such."""
    return tuple(
        reader(value) if reader and value is not None else value for reader, value in zip(readers, values, strict=True)
    )


READERS: dict[str, Callable[[Any], Key]] = {
    "hour": hour_at,
    "bucket": moment_at,
    "day": date.fromordinal,
    "month": lambda month_n: f"{month_n // 12:04d}-{month_n % 12 + 1:02d}",
}
"""How hours, days and months, numbers in the engine, are handed out."""


def local_days(hours: Iterable[int], zone: str) -> tuple[list[int], list[int]]:
    """The days and months in which UTC hours, counted from 1970, begin in a zone, as numbers (`READERS` read them)."""
    local = [hour_at(hour_n).astimezone(_zone(zone)) for hour_n in hours]
    return [moment.toordinal() for moment in local], [moment.year * 12 + moment.month - 1 for moment in local]


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return timezone.utc
    from zoneinfo import ZoneInfo

    return ZoneInfo(name)


def _conditions(selection: Selection) -> list[str]:
    """The selection as SQL conditions on rows; time is cut by hours and minutes elsewhere."""
    conditions = []
    if selection.job_ids is not None:
        conditions += ["holder = 'job'", _among("job_id", selection.job_ids)]
    conditions.append(_among("holder", selection.holders))
    if selection.nodes is not None:
        conditions.append(_among("node", selection.nodes))
    return conditions + named(selection)


def ran_within(selection: Selection) -> list[str]:
    """The selection as SQL conditions on job records; holders and nodes are not among them."""
    conditions = [] if selection.job_ids is None else [_among("job_id", selection.job_ids)]
    conditions += named(selection)
    if selection.until is not None:
        conditions.append(f"start < {_sql_time(selection.until)}")
    if selection.since is not None:
        conditions.append(f'start IS NOT NULL AND ("end" IS NULL OR "end" > {_sql_time(selection.since)})')
    return conditions


def named(selection: Selection) -> list[str]:
    """Users, accounts and partitions as SQL conditions."""
    pairs = (("user", selection.users), ("account", selection.accounts), ("partition", selection.partitions))
    return [_among(f'"{name}"', values) for name, values in pairs if values is not None]


def _among(column: str, values: Iterable[int] | Iterable[str]) -> str:
    """A condition the engine can hold against row-group statistics; no values at all match nothing."""
    literals = [quoted(value) if isinstance(value, str) else str(int(value)) for value in values]
    if not literals:
        return "false"
    return f"{column} = {literals[0]}" if len(literals) == 1 else f"{column} IN ({', '.join(literals)})"


def _sql_time(moment: datetime) -> str:
    return f"to_timestamp({moment.timestamp()!r})"


def _stamps(files: Sequence[str]) -> dict[str, int]:
    """When each file was changed last. Raises: ShardError naming one that is gone or may not be seen."""
    try:
        return {file: os.stat(file).st_mtime_ns for file in files}  # noqa: PTH116 - a str all the way
    except OSError as err:
        raise ShardError(err.filename, f"{err.strerror} (may this user read job records?)") from err


def _unchanged(one: index.HourEntry, directory: str) -> bool:
    """True, if the hour's directory still bears the time it had when its shards were merged: then none was replaced."""
    try:
        return bool(one.directory_ns) and Path(directory).stat().st_mtime_ns == one.directory_ns
    except FileNotFoundError:
        return False


def _settled(directory: str) -> bool:
    """`packs.settled`: the hours of this day in the ledger know more than what lies there."""
    from hpccarbon.site import packs  # few reports need it, and with it tarfile and OpenSSL

    return packs.settled(directory)


def _without(one: index.HourEntry, selection: Selection) -> bool:
    """True, if the ledger file cannot hold any of the selected jobs."""
    if selection.job_ids is None:
        return False
    if one.first_job is None or one.last_job is None:
        return True
    return not any(one.first_job <= job_id <= one.last_job for job_id in selection.job_ids)


def _common(one: Window, other: Window) -> Window | None:
    """The time that lies in both; None if that is none."""
    since = max((moment for moment in (one[0], other[0]) if moment is not None), default=None)
    until = min((moment for moment in (one[1], other[1]) if moment is not None), default=None)
    return None if since is not None and until is not None and since >= until else (since, until)


def _part(
    cluster: str, hour: datetime, files: Sequence[shards.ShardFile], selection: Selection, *, by_bucket: bool
) -> Part:
    """What a question needs of a young hour."""
    cut = _partial(hour, selection)
    return Part(
        cluster=cluster,
        hour=hour,
        digest=shards.digest(files),
        nodes=selection.nodes,
        condition="" if selection.job_ids is None else _among("job_id", selection.job_ids),
        since=selection.since if cut else None,
        until=selection.until if cut else None,
        by_bucket=by_bucket,
    )


def _partial(hour: datetime, selection: Selection) -> bool:
    """True, if the selection begins or ends within this hour."""
    end = hour + timedelta(hours=1)
    return any(moment is not None and hour < moment < end for moment in (selection.since, selection.until))
