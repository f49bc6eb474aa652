"""Tables of who used how much: energy by user, account, partition, job, day, month or node. Reads no file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from hpccarbon.carbon.advice import Advice
from hpccarbon.carbon.statement import Statement
from hpccarbon.errors import HpcCarbonError
from hpccarbon.report.figures import JSON_VERSION, CarbonOf, Figures, Means, SetAside, added, percent
from hpccarbon.report.job import job_name
from hpccarbon.site.unseen import NOTHING, Unseen

if TYPE_CHECKING:
    from hpccarbon.site.ledger import EnergyRow, JobRecord, Key

WORDS: Mapping[str, str] = {
    "user": "user",
    "account": "account",
    "partition": "partition",
    "job": "job_id",
    "node": "node",
    "hour": "hour",
    "day": "day",
    "month": "month",
    "holder": "holder",
}
"""What `--by` may name, and the ledger's word for it."""
TIMES = frozenset(("hour", "day", "month"))


class UsageRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line: what one user, account, node, ... used. `key` has one value per word of `by`."""

    key: Annotated[
        list[str | None], Means(description="values of `by`, in order; null: not known; empty for a holder's line")
    ]
    holder: Annotated[str, Means(description="job; system: busy, but no job; unallocated: idle and held by nobody")]
    jobs: Annotated[int, Means(description="how many jobs")]
    share_percent: Annotated[float | None, Means(description="of the total energy")]
    figures: Figures
    name: Annotated[str | None, Means(description="job name, where the line is a job; hostile until escaped")] = None
    user: Annotated[str | None, Means(description="the job's user, where the line is a job")] = None


class Filters(msgspec.Struct, frozen=True, kw_only=True):
    """What the table was narrowed to; null does not narrow."""

    users: list[str] | None = None
    accounts: list[str] | None = None
    partitions: list[str] | None = None
    nodes: list[str] | None = None

    @property
    def by_job(self) -> bool:
        """Whether only jobs can match: `system` and `unallocated` have no user, account or partition."""
        return any(names is not None for names in (self.users, self.accounts, self.partitions))


class UsageReport(msgspec.Struct, frozen=True, kw_only=True):
    """`hpccarbon report --by ... --format json`."""

    schema_version: int = JSON_VERSION
    kind: Literal["usage"] = "usage"
    cluster: str
    timezone: Annotated[str, Means(description="zone in which days and months begin; times are UTC")]
    by: list[str]
    since: datetime | None
    until: Annotated[datetime | None, Means(description="not included")]
    filters: Filters
    rows: Annotated[list[UsageRow], Means(description="most energy first; by time: in its order")]
    total: Annotated[UsageRow, Means(description="all rows together: what the meters counted, unless narrowed")]
    carbon: Annotated[list[CarbonOf], Means(description="one entry per place, most energy first")]
    statement: Annotated[Statement | None, Means(description="all carbon says of the total; null without a zone")] = (
        None
    )
    advice: Annotated[Advice | None, Means(description="other times and zones, where they were asked for")] = None
    set_aside: Annotated[list[SetAside], Means(description="files that could not be trusted and are in no figure")]


def parse_by(text: str) -> list[str]:
    """The words of `--by user,month`. Raises: HpcCarbonError for one that is not known."""
    words = list(dict.fromkeys(word.strip().lower() for word in text.split(",")))
    for word in words:
        if word not in WORDS:
            raise HpcCarbonError(f"cannot group by {word!r}; known: {', '.join(WORDS)}")
    return words


def usage_rows(
    by: Sequence[str],
    rows: Sequence[EnergyRow],
    jobs: Mapping[tuple[Key, ...], int],
    unseen: tuple[Mapping[tuple[Key, ...], Unseen], Unseen] = ({}, NOTHING),
) -> tuple[list[UsageRow], UsageRow]:
    """The table's lines and their total.

    Args:
        by: words of `WORDS`.
        rows: energy rows grouped by ("holder", *by without "holder"). Where `holder` is not among `by`, the lines of
            `system` and `unallocated` are not divided further: each is one line at the end.
        jobs: how many jobs are behind each key of `rows`, a job in every line it is in; under () in all of them.
        unseen: what accounting knows of them and no row says, by the same keys, and of all together.
    """
    split = by.index("holder") if "holder" in by else None
    groups: dict[tuple[str, tuple[Key, ...]], list[EnergyRow]] = {}
    for row in rows:
        holder = str(row.key[0])
        key = row.key[1:] if holder == "job" or split is not None else ()
        groups.setdefault((holder, key), []).append(row)
    lacks, lack = unseen
    for lacked in lacks:
        groups.setdefault((str(lacked[0]), lacked[1:] if lacked[0] == "job" or split is not None else ()), [])
    whole = added(rows, unseen_ms=lack.node_ms)
    lines = [
        UsageRow(
            key=_key(key, holder, split),
            holder=holder,
            jobs=jobs.get((holder, *key), 0) + (its := lacks.get((holder, *key), NOTHING)).jobs,
            share_percent=percent((figures := added(its_rows, unseen_ms=its.node_ms)).energy_uj, whole.energy_uj),
            figures=figures,
        )
        for (holder, key), its_rows in groups.items()
    ]
    _sort(by, lines, split)
    share = percent(whole.energy_uj, whole.energy_uj)
    total = UsageRow(key=[], holder="total", jobs=jobs.get((), 0) + lack.jobs, share_percent=share, figures=whole)
    return lines, total


def _sort(by: Sequence[str], lines: list[UsageRow], split: int | None) -> None:
    """Lines of one user, account, ... stay together, those with the most energy first; times in their order."""
    sums: dict[tuple[str | None, ...], int] = {}
    for line in lines:
        for end in range(1, len(line.key) + 1):
            prefix = tuple(line.key[:end])
            sums[prefix] = sums.get(prefix, 0) + (line.figures.energy_uj or 0)

    def place(line: UsageRow) -> list[tuple[int, str]]:
        texts = [text or "\U0010ffff" for text in line.key]
        levels = [
            (0 if word in TIMES else -sums[tuple(line.key[: level + 1])], texts[level])
            for level, word in enumerate(by[: len(texts)])
        ]
        order = {"system": 1, "unallocated": 2}.get(line.holder, 0)
        return levels if split is not None else [(order, ""), *levels]

    lines.sort(key=place)


def _key(values: Sequence[Key], holder: str, split: int | None) -> list[str | None]:
    """A line's key as texts, the holder at its place among them."""
    texts = [None if value is None else key_text(value) for value in values]
    return texts if split is None else [*texts[:split], holder, *texts[split:]]


def key_text(value: Key) -> str:
    """A key as text that sorts by time: `2026-03-01`, `2026-03-01T10:00:00Z`."""
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%SZ")
    return str(value)


def named(by: Sequence[str], rows: Sequence[UsageRow], records: Iterable[JobRecord]) -> list[UsageRow]:
    """The lines of jobs with what accounting calls them: `123_4` for 127, the name and the user."""
    known = {record.job_id: record for record in records}
    place = by.index("job")

    def line(row: UsageRow) -> UsageRow:
        text = row.key[place] if row.key else None
        record = known.get(int(text)) if text else None
        if record is None:
            return row
        key = [*row.key[:place], job_name(record.job_id, record), *row.key[place + 1 :]]
        return msgspec.structs.replace(row, key=key, name=record.name, user=record.user)

    return [line(row) for row in rows]
