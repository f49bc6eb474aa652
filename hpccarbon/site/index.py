"""Remembers which shards each ledger hour was made of, so that nobody opens a file to learn that nothing is new.

Only a cache beside the ledger (`ledger/CLUSTER/.index/YYYY-MM.json`): what is missing or does not match the ledger
file's size and time is read again from that file's own metadata.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from hpccarbon import schema
from hpccarbon.errors import ShardError
from hpccarbon.site.engine import connect, quoted, reason
from hpccarbon.site.shards import day_entries, hour_entries, metadata
from hpccarbon.units import HOUR_S

if TYPE_CHECKING:
    import duckdb

DAY_FILE = "day.parquet"
Said = TypeVar("Said")


class HourEntry(msgspec.Struct, frozen=True, array_like=True):
    """What is known of one ledger file without opening it.

    `digest` stands for the set of shards; `directory_ns` is the modification time of their directory if the set
    cannot have changed while that time stays (0: list it). `first_job` and `last_job` bound the job ids of the hour.
    `packed`: the hour lies in its day's file (site/days.py), whose size and time these are.
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
    packed: bool = False


class Written(msgspec.Struct, frozen=True):
    """What a ledger file says of an hour, under the key `hpccarbon.made_of`."""

    digest: str
    shards: int
    rows: int
    first_job: int | None
    last_job: int | None
    set_aside: tuple[tuple[str, str], ...]


def ledger_path(shared: Path, cluster: str, hour: datetime) -> Path:
    """Where an hour's own ledger file lies."""
    return shared / "ledger" / cluster / f"date={hour:%Y-%m-%d}" / f"hour={hour:%H}.parquet"


def day_path(shared: Path, cluster: str, hour: datetime) -> Path:
    """Where the packed ledger of an hour's day lies, if its day is packed. An hour's own file comes before it."""
    return ledger_path(shared, cluster, hour).with_name(DAY_FILE)


def path_of(shared: Path, cluster: str, hour: datetime, one: HourEntry) -> str:
    """The file that holds the hour's rows."""
    return str((day_path if one.packed else ledger_path)(shared, cluster, hour))


def source(files: Mapping[datetime, str]) -> str:
    """SQL for the ledger rows of these hours, each from the file that `path_of` names."""
    by_path: dict[str, list[datetime]] = {}
    for hour, path in files.items():
        by_path.setdefault(path, []).append(hour)
    whole = [path for path, hours in by_path.items() if len(hours) == 24 or not path.endswith(f"/{DAY_FILE}")]
    parts = [f"FROM read_parquet({_list(whole)}, hive_partitioning = false)"] if whole else []
    if some := sorted(by_path.keys() - set(whole)):
        hours = ", ".join(str(int(hour.timestamp()) // HOUR_S) for path in some for hour in by_path[path])
        wanted = f"epoch_us(hour) // {HOUR_S * 1_000_000} IN ({hours})"
        parts.append(f"FROM read_parquet({_list(some)}, hive_partitioning = false) WHERE {wanted}")
    return f"({' UNION ALL '.join(parts)})"


def _list(paths: Iterable[str]) -> str:
    return f"[{', '.join(map(quoted, paths))}]"


def entry(path: str, hour: datetime, written: Written, directory_ns: int = 0, *, packed: bool = False) -> HourEntry:
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
        packed,
    )


def known(
    connection: Callable[[], duckdb.DuckDBPyConnection],
    shared: Path,
    cluster: str,
    since: datetime | None = None,
    until: datetime | None = None,
) -> tuple[dict[datetime, HourEntry], list[ShardError]]:
    """The ledger hours that touch [since, until), and the ledger files that cannot be used.

    Args:
        connection: gives the engine, where an hour is not remembered and its file has to be asked.
    """
    root = str(shared / "ledger" / cluster)
    files = hour_entries(root, "hour=", since, until, ".parquet")
    days = day_entries(root, DAY_FILE, since, until)
    remembered = read(shared, cluster, {f"{moment:%Y-%m}" for moment in (*files, *days)})
    entries: dict[datetime, HourEntry] = {}
    faults: list[ShardError] = []
    for hour, path in files.items():
        try:
            status = os.stat(path)  # noqa: PTH116
            found = remembered.get(int(hour.timestamp()))
            if found is None or found.packed or (found.size, found.mtime_ns) != (status.st_size, status.st_mtime_ns):
                found = from_file(connection(), path, cluster, hour)
        except FileNotFoundError:
            continue
        except ShardError as fault:
            faults.append(fault)
            continue
        entries[hour] = found
    for day, path in days.items():
        try:
            held = _of_day(connection, path, cluster, day, remembered, files)
        except FileNotFoundError:
            continue
        except ShardError as fault:
            faults.append(fault)
            continue
        for hour, found in held.items():
            touched = (since is None or hour + timedelta(hours=1) > since) and (until is None or hour < until)
            if touched and hour not in files:
                entries[hour] = found
    return dict(sorted(entries.items())), faults


def _of_day(
    connection: Callable[[], duckdb.DuckDBPyConnection],
    path: str,
    cluster: str,
    day: datetime,
    remembered: Mapping[int, HourEntry],
    files: Mapping[datetime, str],
) -> dict[datetime, HourEntry]:
    """The hours of a packed day: as they are remembered, if that is all of them, else as the file says."""
    status = os.stat(path)  # noqa: PTH116
    found: dict[datetime, HourEntry] = {}
    for hour in (day + timedelta(hours=number) for number in range(24)):
        one = remembered.get(int(hour.timestamp()))
        if one is not None and one.packed and (one.size, one.mtime_ns) == (status.st_size, status.st_mtime_ns):
            found[hour] = one
        elif hour not in files:
            return from_day(connection(), path, cluster, day)
    return found


def from_day(con: duckdb.DuckDBPyConnection, path: str, cluster: str, day: datetime) -> dict[datetime, HourEntry]:
    """The entries that a packed day's own metadata gives. Raises: ShardError, if it is not what its place says."""
    held = _said(con, path, {"cluster": cluster, "day": f"{day:%Y-%m-%d}"}, dict[int, Written])
    return {hour_of(hour_s): entry(path, hour_of(hour_s), one, packed=True) for hour_s, one in held.items()}


def from_file(con: duckdb.DuckDBPyConnection, path: str, cluster: str, hour: datetime) -> HourEntry:
    """The entry that a ledger file's own metadata gives. Raises: ShardError, if the file is not what its place says."""
    return entry(path, hour, _said(con, path, {"cluster": cluster, "hour": hour.isoformat()}, Written))


def _said(con: duckdb.DuckDBPyConnection, path: str, place: Mapping[str, str], kind: type[Said]) -> Said:
    """What a ledger file was made of, by its metadata, which must name the place it lies in."""
    from hpccarbon.duck import duckdb

    try:
        try:
            said = metadata(con, path)
        except duckdb.FatalException:  # over this file, or over one before it: another connection tells
            with contextlib.closing(connect(1)) as other:
                said = metadata(other, path)
    except duckdb.Error as err:
        raise ShardError(path, f"{reason(err)} (run `hpccarbon aggregate`: it makes the hour again)") from err
    if (said.get("schema"), said.get("version")) != ("ledger", str(schema.LEDGER_VERSION)):
        raise ShardError(
            path,
            f"ledger version {said.get('version')}, this release reads {schema.LEDGER_VERSION}"
            " (upgrade hpccarbon here: docs/install.md, Upgrade)",
        )
    if any(said.get(key) != value for key, value in place.items()):
        raise ShardError(path, "written for " + ", ".join(f"{key} {said.get(key)!r}" for key in place))
    try:
        return msgspec.json.decode(said.get("made_of", ""), type=kind)
    except (msgspec.ValidationError, msgspec.DecodeError) as err:
        raise ShardError(path, f"its metadata does not say what it was made of: {err}") from err


def _index_path(shared: Path, cluster: str, month: str) -> Path:
    return shared / "ledger" / cluster / ".index" / f"{month}.json"


def read(shared: Path, cluster: str, months: Iterable[str]) -> dict[int, HourEntry]:
    """The entries of these months (YYYY-MM) by hour_s; a missing or damaged index file has none."""
    entries: dict[int, HourEntry] = {}
    for month in sorted(months):
        try:
            text = _index_path(shared, cluster, month).read_bytes()
            found = msgspec.json.decode(text, type=list[HourEntry])
        except (OSError, msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError):
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
