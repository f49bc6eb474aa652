"""Remembers which shards each ledger hour was made of, so that nobody opens a file to learn that nothing is new.

Only a cache beside the ledger (`ledger/CLUSTER/.index/YYYY-MM.json`): what is missing or does not match the ledger
file's size and time is read again from that file's own metadata.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from hpccarbon import schema
from hpccarbon.errors import ShardError
from hpccarbon.site.engine import reason
from hpccarbon.site.shards import hour_entries, metadata

if TYPE_CHECKING:
    import duckdb


class HourEntry(msgspec.Struct, frozen=True, array_like=True):
    """What is known of one ledger file without opening it.

    `digest` stands for the set of shards; `directory_ns` is the modification time of their directory if the set
    cannot have changed while that time stays (0: list it). `first_job` and `last_job` bound the job ids in the file.
    """

    hour_s: int
    size: int
    mtime_ns: int
    digest: str
    shards: int
    directory_ns: int
    rows: int
    first_job: int | None
    last_job: int | None
    set_aside: tuple[tuple[str, str], ...]


class Written(msgspec.Struct, frozen=True):
    """What a ledger file says of itself, under the key `hpccarbon.made_of`."""

    digest: str
    shards: int
    rows: int
    first_job: int | None
    last_job: int | None
    set_aside: tuple[tuple[str, str], ...]


def ledger_path(shared: Path, cluster: str, hour: datetime) -> Path:
    """Where an hour's ledger file lies."""
    return shared / "ledger" / cluster / f"date={hour:%Y-%m-%d}" / f"hour={hour:%H}.parquet"


def entry(path: str, hour: datetime, written: Written, directory_ns: int = 0) -> HourEntry:
    """The entry of a ledger file that is in place."""
    status = os.stat(path)  # noqa: PTH116 - a str all the way
    return HourEntry(
        int(hour.timestamp()),
        status.st_size,
        status.st_mtime_ns,
        written.digest,
        written.shards,
        directory_ns,
        written.rows,
        written.first_job,
        written.last_job,
        written.set_aside,
    )


def known(
    con: duckdb.DuckDBPyConnection,
    shared: Path,
    cluster: str,
    since: datetime | None = None,
    until: datetime | None = None,
) -> tuple[dict[datetime, HourEntry], list[ShardError]]:
    """The ledger hours that touch [since, until), and the ledger files that cannot be used."""
    files = hour_entries(str(shared / "ledger" / cluster), "hour=", since, until, ".parquet")
    remembered = read(shared, cluster, {f"{hour:%Y-%m}" for hour in files})
    entries: dict[datetime, HourEntry] = {}
    faults: list[ShardError] = []
    for hour, path in files.items():
        try:
            status = os.stat(path)  # noqa: PTH116
            found = remembered.get(int(hour.timestamp()))
            if found is None or (found.size, found.mtime_ns) != (status.st_size, status.st_mtime_ns):
                found = from_file(con, path, cluster, hour)
        except FileNotFoundError:
            continue
        except ShardError as fault:
            faults.append(fault)
            continue
        entries[hour] = found
    return entries, faults


def from_file(con: duckdb.DuckDBPyConnection, path: str, cluster: str, hour: datetime) -> HourEntry:
    """The entry that a ledger file's own metadata gives. Raises: ShardError, if the file is not what its place says."""
    import duckdb

    try:
        said = metadata(con, path)
    except duckdb.Error as err:
        raise ShardError(path, f"{reason(err)} (run `hpccarbon aggregate`: it makes the hour again)") from err
    if (said.get("schema"), said.get("version")) != ("ledger", str(schema.LEDGER_VERSION)):
        raise ShardError(path, f"ledger version {said.get('version')}, this release reads {schema.LEDGER_VERSION}")
    if (said.get("cluster"), said.get("hour")) != (cluster, hour.isoformat()):
        raise ShardError(path, f"written for cluster {said.get('cluster')!r}, hour {said.get('hour')!r}")
    try:
        written = msgspec.json.decode(said.get("made_of", ""), type=Written)
    except (msgspec.ValidationError, msgspec.DecodeError) as err:
        raise ShardError(path, f"its metadata does not say what it was made of: {err}") from err
    return entry(path, hour, written)


def _index_path(shared: Path, cluster: str, month: str) -> Path:
    return shared / "ledger" / cluster / ".index" / f"{month}.json"


def read(shared: Path, cluster: str, months: Iterable[str]) -> dict[int, HourEntry]:
    """The entries of these months (YYYY-MM) by hour_s; a missing or damaged index file has none."""
    entries: dict[int, HourEntry] = {}
    for month in sorted(months):
        try:
            text = _index_path(shared, cluster, month).read_bytes()
            found = msgspec.json.decode(text, type=list[HourEntry])
        except (OSError, msgspec.ValidationError, msgspec.DecodeError):
            continue
        entries.update((one.hour_s, one) for one in found)
    return entries


def write(shared: Path, cluster: str, entries: Mapping[datetime, HourEntry]) -> None:
    """Replace these hours' entries, keeping the others of their months. The caller holds the aggregator's lock."""
    months: dict[str, dict[int, HourEntry]] = {}
    for hour, one in entries.items():
        months.setdefault(f"{hour:%Y-%m}", {})[one.hour_s] = one
    for month, changed in months.items():
        merged = read(shared, cluster, [month]) | changed
        path = _index_path(shared, cluster, month)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.new")
        temporary.write_bytes(msgspec.json.encode([merged[hour_s] for hour_s in sorted(merged)]))
        temporary.replace(path)


def hour_of(hour_s: int) -> datetime:
    """The UTC hour behind an entry's `hour_s`."""
    return datetime.fromtimestamp(hour_s, timezone.utc)
