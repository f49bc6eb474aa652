"""Compares the ledger with what Slurm's accounting says of the same jobs, and sorts the differences by cause.

Reads job records and ledger rows, judges neither side to be right, changes nothing. Each cause is explained in WHY.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, NamedTuple

import msgspec

from hpccarbon import hostlist
from hpccarbon.site.jobs import read_cursor
from hpccarbon.site.ledger import JobRecord, Ledger, Selection
from hpccarbon.site.weigh import ENERGY
from hpccarbon.units import HOUR_S, UJ_PER_J

if TYPE_CHECKING:
    import duckdb

AUDIT_VERSION = 1
CPU_TOLERANCE, CPU_SLACK_US = 0.02, 2_000_000
"""CPU times agree within 2 %, or 2 s per node: Slurm samples and rounds."""
ENERGY_TOLERANCE = 0.05
SHORT_S = 2
"""A job this short may live between two looks at a node without hooks."""

WHY: Mapping[str, str] = {
    "unseen": "Slurm ran them, no node has a row of them: no daemon there, its shards are not merged yet, or the job"
    " held its nodes without running a step. Their energy counts to others or to nobody.",
    "too_short": f"As above, but they ran for less than {SHORT_S} s: without the hooks such a job can come and go"
    " between two looks.",
    "some_nodes": "Nodes that Slurm gave the job have no row of it: its energy is too low by what these used.",
    "not_in_slurm": "Rows of jobs that accounting does not know: it was down, was purged, or the records of that time"
    " were never fetched (aggregate --since).",
    "cpu_more": "We counted more CPU time than Slurm: a cgroup counts every process, Slurm's TotalCPU leaves out"
    " children that nobody waited for and steps that were lost (see sacct's manual).",
    "cpu_less": "We counted less CPU time than Slurm: the daemon was away for a part of the job (see covered), or"
    " processes left the job's cgroup.",
    "cpu_zero": "Slurm says no CPU time at all: jobacct_gather is off, or a release that lost it (seen in 25.05).",
    "energy_shared": "Slurm bills each job the whole node; these shared nodes with others, between whom we divide.",
    "energy_more": "We counted more energy than Slurm on nodes that the job had to itself: our meters see what Slurm's"
    " plugin does not (GPUs, DRAM, the node's own), or it missed a part of the steps.",
    "energy_less": "We counted less energy than Slurm on nodes that the job had to itself: static energy of free cores"
    " is unallocated here; Slurm before 25.05 counted DRAM fourfold on some Intel servers.",
}
"""Cause -> what it means, in the order in which they are told."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One job whose two accounts differ. `ours` and `slurms` are nodes, seconds of CPU time or joules, by its cause."""

    job_id: int
    user: Annotated[str | None, msgspec.Meta(description="hostile until escaped")] = None
    ours: float | None = None
    slurms: float | None = None
    covered_percent: Annotated[float | None, msgspec.Meta(description="of the time its rows were there")] = None
    nodes: Annotated[list[str], msgspec.Meta(description="nodes of Slurm's list without a row of the job")] = []


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """All differences of one cause, the largest first; `why` explains them."""

    name: str
    unit: str
    why: str
    jobs: int
    ours: float
    slurms: float
    largest: list[Difference]


class SilentNode(msgspec.Struct, frozen=True, kw_only=True):
    """A node without a row in hours in which Slurm ran jobs on it."""

    node: str
    hours: int
    first: datetime
    last: datetime
    jobs: int


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """The comparison of one cluster and period. Counts are of jobs; `compared` ran wholly within and had ended."""

    version: int = AUDIT_VERSION
    cluster: str
    since: datetime
    until: datetime
    records_until: Annotated[datetime | None, msgspec.Meta(description="up to when accounting was read")]
    in_slurm: int
    in_ledger: int
    in_both: int
    compared: int
    cpu_compared: int
    cpu_agree: int
    energy_compared: int
    energy_agree: int
    unreadable: Annotated[int, msgspec.Meta(description="records whose node list cannot be read")]
    causes: list[Cause]
    silent: list[SilentNode]


class _Ours(NamedTuple):
    """What the ledger has of a job in the period."""

    cpu_time_us: int | None
    energy_uj: int
    nodes: frozenset[str]
    present_ms: int
    covered_ms: int
    user: str | None
    shared: bool


def audit(ledger: Ledger, since: datetime, until: datetime, now: datetime, largest: int = 10) -> Audit:
    """Compare what ran in [since, until), as far as it can be known by `now`; times are aware.

    Args:
        ledger: of one cluster.
        largest: how many differences of each cause are listed.

    Raises: ShardError, if records or ledger cannot be read.
    """
    cluster = ledger.clusters()[0] if ledger.clusters() else ""
    read_until = read_cursor(ledger.shared, cluster)
    # The running hour is not sealed on all nodes, and accounting may not have been read up to now.
    until = min(moment for moment in (until, now - timedelta(hours=1), read_until) if moment is not None)
    until = max(since, until)
    records = [one for one in ledger.jobs(Selection(since=since, until=until)) if one.start and _ran_s(one, until) > 0]
    base = int(since.timestamp()) // HOUR_S
    found = ledger.ask(Selection(since=_whole(since), until=_whole(until)), lambda con, _: _ours(con, base))
    ours, there = found or ({}, {})
    slurms: dict[int, list[JobRecord]] = {}
    for record in records:
        slurms.setdefault(record.job_id, []).append(record)
    given, unreadable = _given(records)
    told = _Told()
    compared = 0
    for job_id, runs in sorted(slurms.items()):
        mine = ours.get(job_id)
        nodes = set().union(*(given.get(run.nodelist or "", ()) for run in runs))
        user = runs[-1].user
        ran_s = sum(_ran_s(run, until) for run in runs)
        if mine is None:
            told.add("too_short" if ran_s < SHORT_S else "unseen", job_id, user, 0, len(nodes), None, sorted(nodes))
            continue
        if missing := sorted(nodes - mine.nodes):
            told.add("some_nodes", job_id, user, len(nodes) - len(missing), len(nodes), mine, missing)
        if all(run.end is not None and since <= run.start <= run.end <= until for run in runs if run.start):
            compared += 1
            told.cpu(job_id, user, mine, runs, max(1, len(nodes)))
            told.energy(job_id, user, mine, runs)
    for job_id in sorted(ours.keys() - slurms.keys()):
        if read_until is not None:
            told.add("not_in_slurm", job_id, ours[job_id].user, len(ours[job_id].nodes), 0, ours[job_id])
    return Audit(
        cluster=cluster,
        since=since,
        until=until,
        records_until=read_until,
        in_slurm=len(slurms),
        in_ledger=len(ours),
        in_both=len(ours.keys() & slurms.keys()),
        compared=compared,
        cpu_compared=told.cpu_compared,
        cpu_agree=told.cpu_agree,
        energy_compared=told.energy_compared,
        energy_agree=told.energy_agree,
        unreadable=unreadable,
        causes=told.causes(largest),
        silent=_silent(records, given, there, since, until),
    )


class _Told:
    """Collects differences by cause."""

    def __init__(self) -> None:
        self._by_cause: dict[str, list[Difference]] = {}
        self.cpu_compared = self.cpu_agree = self.energy_compared = self.energy_agree = 0

    def add(
        self,
        cause: str,
        job_id: int,
        user: str | None,
        ours: float,
        slurms: float,
        mine: _Ours | None,
        nodes: Sequence[str] = (),
    ) -> None:
        covered = round(100 * mine.covered_ms / mine.present_ms, 1) if mine and mine.present_ms else None
        one = Difference(job_id=job_id, user=user, ours=ours, slurms=slurms, covered_percent=covered, nodes=list(nodes))
        self._by_cause.setdefault(cause, []).append(one)

    def cpu(self, job_id: int, user: str | None, mine: _Ours, runs: Sequence[JobRecord], nodes: int) -> None:
        """CPU time against TotalCPU, where both are known."""
        if mine.cpu_time_us is None or any(run.total_cpu_us is None for run in runs):
            return
        theirs = sum(run.total_cpu_us or 0 for run in runs)
        self.cpu_compared += 1
        apart = mine.cpu_time_us - theirs
        if abs(apart) <= max(CPU_SLACK_US * nodes, CPU_TOLERANCE * theirs):
            self.cpu_agree += 1
            return
        cause = "cpu_zero" if not theirs else "cpu_more" if apart > 0 else "cpu_less"
        self.add(cause, job_id, user, mine.cpu_time_us / 1e6, theirs / 1e6, mine)

    def energy(self, job_id: int, user: str | None, mine: _Ours, runs: Sequence[JobRecord]) -> None:
        """Energy against ConsumedEnergyRaw, where the site has it for all runs."""
        if any(run.consumed_energy_j is None for run in runs):
            return
        theirs = sum(run.consumed_energy_j or 0 for run in runs)
        joules = mine.energy_uj / UJ_PER_J
        self.energy_compared += 1
        if abs(joules - theirs) <= ENERGY_TOLERANCE * theirs:
            self.energy_agree += 1
            return
        cause = "energy_shared" if mine.shared else "energy_more" if joules > theirs else "energy_less"
        self.add(cause, job_id, user, joules, theirs, mine)

    def causes(self, largest: int) -> list[Cause]:
        """The causes that occurred, each with its largest differences."""
        units = {"cpu": "CPU seconds", "energy": "J"}
        return [
            Cause(
                name=name,
                unit=units.get(name.partition("_")[0], "nodes"),
                why=why,
                jobs=len(found),
                ours=sum(one.ours or 0 for one in found),
                slurms=sum(one.slurms or 0 for one in found),
                largest=sorted(found, key=lambda one: (-abs((one.ours or 0) - (one.slurms or 0)), one.job_id))[
                    :largest
                ],
            )
            for name, why in WHY.items()
            if (found := self._by_cause.get(name))
        ]


def _ran_s(record: JobRecord, until: datetime) -> float:
    """How long a run lasted, or has lasted."""
    return ((record.end or until) - record.start).total_seconds() if record.start else 0.0


def _whole(moment: datetime) -> datetime:
    """The beginning of its UTC hour: the ledger is asked by hours, never by minutes of shards."""
    return moment - timedelta(seconds=moment.timestamp() % HOUR_S)


def _ours(con: duckdb.DuckDBPyConnection, base: int) -> tuple[dict[int, _Ours], dict[str, int]]:
    """What the selected rows say of each job; and for each node the hours from `base` on with rows, as bits."""
    shared = (
        "SELECT DISTINCT job_id FROM selected SEMI JOIN (SELECT node, hour_n FROM selected GROUP BY ALL"
        " HAVING count(DISTINCT job_id) > 1) USING (node, hour_n)"
    )
    rows = con.execute(
        f"SELECT job_id, sum(cpu_time_us), sum({ENERGY}), list(DISTINCT node), sum(present_ms), sum(covered_ms),"  # noqa: S608
        f' max("user"), bool_or(job_id IN ({shared})) FROM selected'
        " WHERE holder = 'job' GROUP BY job_id"
    ).fetchall()
    ours = {row[0]: _Ours(row[1], row[2], frozenset(row[3]), *row[4:]) for row in rows}
    there: dict[str, int] = {}
    for node, hour_n in con.execute("SELECT DISTINCT node, hour_n FROM selected").fetchall():
        there[node] = there.get(node, 0) | 1 << max(0, hour_n - base)
    return ours, there


def _given(records: Iterable[JobRecord]) -> tuple[dict[str, frozenset[str]], int]:
    """Slurm's node lists, each expanded once; and how many records have one that cannot be read."""
    given: dict[str, frozenset[str]] = {}
    unreadable = 0
    for record in records:
        text = record.nodelist or ""
        if text not in given:
            try:
                given[text] = frozenset(hostlist.expand(text))
            except ValueError:
                given[text] = frozenset()
        unreadable += not given[text]
    return given, unreadable


def _silent(
    records: Sequence[JobRecord],
    given: Mapping[str, frozenset[str]],
    there: Mapping[str, int],
    since: datetime,
    until: datetime,
) -> list[SilentNode]:
    """Nodes and hours in which Slurm ran jobs and no row of theirs exists, most hours first."""
    asked: dict[str, int] = {}
    spans = [(given.get(record.nodelist or "", frozenset()), _hours(record, since, until)) for record in records]
    for nodes, hours in spans:
        for node in nodes:
            asked[node] = asked.get(node, 0) | hours
    silent = {node: lacking for node, hours in asked.items() if (lacking := hours & ~there.get(node, 0))}
    touched = dict.fromkeys(silent, 0)
    for nodes, hours in spans:
        for node in nodes & silent.keys():
            touched[node] += bool(hours & silent[node])
    found = [
        SilentNode(
            node=node,
            hours=lacking.bit_count(),
            first=_hour((lacking & -lacking).bit_length() - 1, since),
            last=_hour(lacking.bit_length() - 1, since),
            jobs=touched[node],
        )
        for node, lacking in silent.items()
    ]
    return sorted(found, key=lambda one: (-one.hours, one.node))


def _hours(record: JobRecord, since: datetime, until: datetime) -> int:
    """The hours of the period, counted from its first, in which a run was there for half a minute, as bits."""
    if record.start is None:
        return 0
    begin = max(record.start, since).timestamp() + 30
    end = min(record.end or until, until).timestamp() - 30
    base = int(since.timestamp()) // HOUR_S
    first, last = int(begin) // HOUR_S - base, int(end) // HOUR_S - base
    return ((1 << (last - first + 1)) - 1) << first if end >= begin else 0


def _hour(number: int, since: datetime) -> datetime:
    return datetime.fromtimestamp((int(since.timestamp()) // HOUR_S + number) * HOUR_S, since.tzinfo)
