"""Finds shards, groups their rows and judges them: what cannot be trusted is named and left out, never summed."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from hpccarbon import schema
from hpccarbon.errors import ShardError
from hpccarbon.site.engine import connect, reason
from hpccarbon.units import HOUR_S

if TYPE_CHECKING:
    import duckdb

MAX_ROW_UJ = 10**16
"""Energy of a row above this is absurd: 10 GJ, a node that drew 115 kW for a day."""
MAX_SHARD_UJ = 10**17
"""Energy of a shard above this is absurd; below it, no sum of one hour's shards leaves 64 bits."""
MAX_PRESENT_MS = 86_400_000
MAX_SHARD_ROWS = 2_000_000
"""A node with 30,000 jobs in an hour; beyond it a small file would keep the engine busy for minutes."""
PATIENCE_S, PATIENCE_PER_SHARD_S = 3.0, 0.02
"""After this time it is asked whether one shard holds too many rows. 2,000 shards are grouped in half a second; a file
system that is slow is given a hundred times that, and then all the time that it needs."""
NO_FILE = -1
"""The size of a link, a pipe or a device in the place of a shard: opened, it could be any file, or never answer."""
MAX_TEXT = 4096
"""Bytes of a name in a shard: Slurm's are below 1 KiB."""
MEMORY = "2GiB"
"""What the shards of an hour may need in the engine, an hour of 10,000 nodes some 200 MB."""
ALONE = "512MiB"
"""What one shard may: a few kilobytes of Parquet can unpack to gigabytes."""

_NAME = re.compile(r"(?P<node>[A-Za-z0-9][A-Za-z0-9._-]*)\.(?P<boot>[A-Za-z0-9_-]+)\.parquet")
_MAGIC = b"PAR1"
_GAVE_UP = "damaged in a way that the engine does not survive"
_TOO_MANY_ROWS = f"absurd: more than {MAX_SHARD_ROWS} rows"
_UNFINISHED = "not a whole Parquet file: truncated, or copied while it was written"


class ShardFile(NamedTuple):
    """One shard as the directory lists it. Sorts by name."""

    name: str
    size: int
    mtime_ns: int
    path: str

    @property
    def node(self) -> str:
        """The node, by the file's name; the file's metadata must agree."""
        return self.name.rsplit(".", 2)[0]


def hour_dirs(
    shared: Path, cluster: str, since: datetime | None = None, until: datetime | None = None
) -> dict[datetime, str]:
    """The hours that have a directory of shards: UTC hour -> directory, in order of time. Reads two levels of names."""
    return hour_entries(str(shared / "shards" / cluster), "hour=", since, until)


def hour_entries(
    root: str, prefix: str, since: datetime | None = None, until: datetime | None = None, suffix: str = ""
) -> dict[datetime, str]:
    """UTC hour -> path of `date=YYYY-MM-DD/PREFIXhhSUFFIX` below `root`, for hours that touch [since, until)."""
    found: dict[datetime, str] = {}
    for day, folder in _days(root, since, until):
        for name in sorted(_names(folder)):
            number = name[len(prefix) : len(prefix) + 2]
            if name != f"{prefix}{number}{suffix}" or not (number.isdecimal() and int(number) < 24):
                continue
            hour = day + timedelta(hours=int(number))
            if (since and hour + timedelta(hours=1) <= since) or (until and hour >= until):
                continue
            found[hour] = f"{folder}/{name}"
    return found


def day_entries(
    root: str, name: str, since: datetime | None = None, until: datetime | None = None
) -> dict[datetime, str]:
    """Start of a UTC day -> path of `date=YYYY-MM-DD/NAME` below `root`, where there is one, within [since, until)."""
    paths = ((day, f"{folder}/{name}") for day, folder in _days(root, since, until))
    return {day: path for day, path in paths if os.path.exists(path)}  # noqa: PTH110 - a str all the way


def _days(root: str, since: datetime | None, until: datetime | None) -> Iterator[tuple[datetime, str]]:
    """The directories `date=YYYY-MM-DD` below `root`, in order."""
    first = since.astimezone(timezone.utc).date() if since else None
    last = until.astimezone(timezone.utc).date() if until else None
    for name in sorted(_names(root)):
        if len(name) != 15 or not name.startswith("date="):
            continue
        try:
            day = datetime.fromisoformat(name[5:]).replace(tzinfo=timezone.utc)  # a year's days: strptime takes 20 ms
        except ValueError:
            continue
        if (first is None or day.date() >= first) and (last is None or day.date() <= last):
            yield day, f"{root}/{name}"


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)  # noqa: PTH208 - names alone, a hundred thousand of them
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as err:
        raise ShardError(directory, f"{err.strerror} (is the shared directory mounted and readable?)") from err


def list_hour(directory: str) -> list[ShardFile]:
    """The shards of one hour, sorted by name. A file that vanishes meanwhile is not there; dot files are nobody's."""
    files: list[ShardFile] = []
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                name = entry.name
                if name.endswith(".parquet") and not name.startswith("."):
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    size = status.st_size if stat.S_ISREG(status.st_mode) else NO_FILE
                    files.append(ShardFile(name, size, status.st_mtime_ns, entry.path))
    except FileNotFoundError:
        return []
    except OSError as err:
        raise ShardError(directory, f"{err.strerror} (is the shared directory mounted and readable?)") from err
    files.sort()
    return files


def digest(files: Sequence[ShardFile]) -> str:
    """What tells one set of shards from another: a hash over name, size and modification time of each."""
    from hashlib import blake2b

    text = "\n".join([f"{name}\t{size}\t{mtime_ns}" for name, size, mtime_ns, _ in files])
    return blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


# One row per shard and holder: the columns of the ledger, and what the judge looks at. `file` numbers the shards.
_SUMS = ", ".join(f"sum({name}) AS {name}" for name in schema.SUM_COLUMNS)
_MAXIMA = ", ".join(f"max({name}) AS {name}" for name in schema.MAX_COLUMNS)
_KEYS = ", ".join(f'"{name}"' for name in schema.KEY_COLUMNS)
_COUNTED = (*schema.SUM_COLUMNS, *schema.MAX_COLUMNS)
_REQUIRED = [column.name for column in schema.SHARD if not column.nullable]
_GROUP = f"""
SELECT ($base + file_index)::BIGINT AS file, {_KEYS}, {_SUMS}, {_MAXIMA},
    epoch_us(min(bucket)) AS first_us, epoch_us(max(bucket)) AS last_us,
    min(least({", ".join(_COUNTED)})) AS lowest,
    max(greatest({", ".join(schema.ENERGY_COLUMNS)}, cpu_time_us)) AS highest,
    max(present_ms) AS longest, max(covered_ms - present_ms) AS overcovered,
    bool_or({" OR ".join(f"{name} IS NULL" for name in _REQUIRED)}) AS incomplete, count(*) AS rows
FROM read_parquet($files, hive_partitioning = false)
GROUP BY ALL
"""  # noqa: S608 - column names are our own
_TYPES = {
    **dict.fromkeys(("holder", "run", "meter", "user", "account", "partition"), "VARCHAR"),
    **dict.fromkeys(("file", "job_id", "uid", "first_us", "last_us"), "BIGINT"),
    **dict.fromkeys(schema.SUM_COLUMNS, "HUGEINT"),
    **dict.fromkeys(schema.MAX_COLUMNS, "INTEGER"),
    **dict.fromkeys(("lowest", "highest", "longest", "overcovered", "rows"), "BIGINT"),
    "incomplete": "BOOLEAN",
}
_CREATE = ", ".join(f'"{name}" {kind}' for name, kind in _TYPES.items())

_METADATA = """
SELECT file_name FROM parquet_kv_metadata($files) WHERE key <> 'ARROW:schema' GROUP BY file_name
HAVING max(value) FILTER (key = 'hpccarbon.schema') = 'shard'::BLOB
   AND max(value) FILTER (key = 'hpccarbon.version') = $version::BLOB
   AND max(value) FILTER (key = 'hpccarbon.cluster') = $cluster::BLOB
   AND max(value) FILTER (key = 'hpccarbon.hour') IN ($hour::BLOB, $hour_z::BLOB)
   AND ends_with(file_name, '/' || decode(max(value) FILTER (key = 'hpccarbon.node'))
                 || '.' || decode(max(value) FILTER (key = 'hpccarbon.boot_id')) || '.parquet')
"""

_TEXTS = [column.name for column in schema.SHARD if column.type in ("word", "text")]
_JUDGE = f"""
SELECT file, bool_or(greatest({", ".join(f'strlen("{name}")' for name in _TEXTS)}) > {MAX_TEXT}),
    bool_or(incomplete), bool_or(holder NOT IN ('job', 'system', 'unallocated', 'meter')),
    bool_or(holder = 'job' AND (job_id IS NULL OR run IS NULL)),
    min(first_us) < $first_us OR max(last_us) >= $first_us + {HOUR_S * 1_000_000},
    min(lowest) < 0, max(highest) > {MAX_ROW_UJ} OR max(longest) > {MAX_PRESENT_MS}, max(overcovered) > 0,
    sum("rows") > {MAX_SHARD_ROWS},
    {", ".join(f"sum({name}) > {MAX_SHARD_UJ}" for name in schema.ENERGY_COLUMNS)},
    {
    ", ".join(
        f"coalesce(sum({name}) FILTER (holder <> 'meter'), 0)::HUGEINT,"
        f" coalesce(sum({name}) FILTER (holder = 'meter'), 0)::HUGEINT"
        for name in schema.ENERGY_COLUMNS
    )
}
FROM grouped GROUP BY file
"""  # noqa: S608 - column names are our own


class EngineGaveUp(ShardError):
    """The engine gave itself up over some shards: its connection is of no more use. `refused` is path -> reason."""

    def __init__(self, refused: Mapping[str, str]) -> None:
        path, why = next(iter(refused.items()))
        super().__init__(path, why)
        self.refused = dict(refused)


class Judged(NamedTuple):
    """The outcome of `load`: the shards whose rows lie in the table `grouped`, and those set aside."""

    good: list[ShardFile]
    faults: list[ShardError]


def load(
    con: duckdb.DuckDBPyConnection,
    files: Sequence[ShardFile],
    cluster: str,
    hour: datetime,
    refused: Mapping[str, str] = MappingProxyType({}),
) -> Judged:
    """Group the rows of one hour's shards into the temporary table `grouped`, one row per shard and holder.

    Columns of `grouped`: node, the keys, sums (HUGEINT) and maxima of `schema.LEDGER`, first_us and last_us (µs since
    the epoch). Only rows of shards that were judged good are in it.

    Args:
        files: the hour's shards, in any order.
        cluster, hour: what each shard must say of itself.
        refused: path -> reason: shards that are not even to be opened.

    Raises: EngineGaveUp, naming more shards to refuse: begin again with them and another connection.
    Method: all shards in one query, because that is what the engine is fast at; only where it fails are they halved
        until the one that fails stands alone.
    """
    from hpccarbon.duck import duckdb

    con.execute(f"CREATE OR REPLACE TEMP TABLE grouped ({_CREATE})")
    candidates: list[ShardFile] = []
    faults: list[ShardError] = []
    for file in sorted(files):
        if file.path in refused:
            faults.append(ShardError(file.path, refused[file.path]))
        elif file.size == NO_FILE:
            faults.append(ShardError(file.path, "it is no plain file"))
        elif _NAME.fullmatch(file.name):
            candidates.append(file)
        else:
            faults.append(ShardError(file.path, "its name is not NODE.BOOT.parquet"))
    try:
        absorbed = list(_absorb(con, candidates, 0, cluster, hour, faults))
        bad = _judge(con, hour)
    except duckdb.FatalException as err:
        found = {file.path: _GAVE_UP for file in candidates if _is_fatal(file.path)}
        if not found:
            raise
        raise EngineGaveUp(found) from err
    faults += [ShardError(absorbed[index].path, why) for index, why in sorted(bad.items())]
    if bad:
        con.execute("DELETE FROM grouped WHERE file IN (SELECT unnest($bad))", {"bad": sorted(bad)})
    con.execute("ALTER TABLE grouped ADD COLUMN node VARCHAR")
    con.execute("UPDATE grouped SET node = $nodes[file + 1]", {"nodes": [file.node for file in absorbed]})
    absorbed = [file for index, file in enumerate(absorbed) if index not in bad]
    faults.sort(key=lambda fault: fault.path)
    return Judged(absorbed, faults)


def _absorb(
    con: duckdb.DuckDBPyConnection,
    files: Sequence[ShardFile],
    base: int,
    cluster: str,
    hour: datetime,
    faults: list[ShardError],
) -> Iterator[ShardFile]:
    """Group what can be read, numbering shards from `base`; yields them in that order, the others go to `faults`."""
    from hpccarbon.duck import duckdb

    if not files:
        return
    paths = [file.path for file in files]
    try:
        strangers = _strangers(con, paths, cluster, hour)
        if not strangers:
            try:
                with _patience(con, len(files)):
                    _group(con, paths, base)
            except duckdb.InterruptException:
                # Who is to blame is asked only now: counting all rows beforehand is an eighth of an hour's time.
                strangers = _crowds(con, paths)
                if not strangers:
                    _group(con, paths, base)
        if not strangers:
            yield from files
            return
    except duckdb.FatalException:
        raise
    except duckdb.Error as err:
        if len(files) == 1:
            if isinstance(err, duckdb.OutOfMemoryException) and not _unpacks_too_far(paths[0]):
                raise
            faults.append(ShardError(paths[0], _damage(paths[0]) or reason(err)))
            return
        strangers = {path: damage for path in paths if (damage := _damage(path))} or _crowds(con, paths)
    if strangers:
        faults += [ShardError(path, why) for path, why in strangers.items()]
        yield from _absorb(con, [f for f in files if f.path not in strangers], base, cluster, hour, faults)
        return
    half = len(files) // 2
    taken = base
    for part in (files[:half], files[half:]):
        for file in _absorb(con, part, taken, cluster, hour, faults):
            taken += 1
            yield file


def _is_fatal(path: str) -> bool:
    """True, if the engine gives up over this shard alone."""
    from hpccarbon.duck import duckdb

    with contextlib.closing(connect(1)) as con:
        try:
            metadata(con, path)
            with _patience(con, 1):
                con.execute(f"CREATE TEMP TABLE part AS {_GROUP}", {"base": 0, "files": [path]})
        except duckdb.FatalException:
            return True
        except duckdb.Error:
            return False
    return False


def _unpacks_too_far(path: str) -> bool:
    """True, if this shard by itself needs more memory than a shard may: then it is to blame, not the machine."""
    from hpccarbon.duck import duckdb

    with contextlib.closing(connect(1)) as con:
        con.execute(f"SET memory_limit = '{ALONE}'")
        try:
            with _patience(con, 1):
                con.execute(f"CREATE TEMP TABLE part AS {_GROUP}", {"base": 0, "files": [path]})
        except duckdb.Error:
            return True
    return False


def _group(con: duckdb.DuckDBPyConnection, paths: list[str], base: int) -> None:
    """Append the groups of these shards to `grouped`. Raises duckdb.Error, and then nothing was appended."""
    from hpccarbon.duck import duckdb

    con.execute(f"CREATE OR REPLACE TEMP TABLE part AS {_GROUP}", {"base": base, "files": paths})
    types = {row[0]: str(row[1]) for row in con.execute("DESCRIBE part").fetchall()}
    for name, wanted in _TYPES.items():
        if types[name] != wanted:
            raise duckdb.InvalidInputException(f"column {name} does not have the type that schema version 1 gives it")
    if base == 0:  # nothing is in it yet: no row needs to be copied
        con.execute("DROP TABLE grouped")
        con.execute("ALTER TABLE part RENAME TO grouped")
        return
    con.execute("INSERT INTO grouped BY NAME FROM part")
    con.execute("DROP TABLE part")


def _damage(path: str) -> str:
    """Why a file is no whole Parquet file by its first and last bytes; empty where they are as they should be."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < 12:
                return _UNFINISHED
            head = file.read(4)
            file.seek(-4, os.SEEK_END)
            return "" if head == file.read(4) == _MAGIC else _UNFINISHED
    except OSError as err:
        return err.strerror or str(err)


def _strangers(con: duckdb.DuckDBPyConnection, paths: list[str], cluster: str, hour: datetime) -> dict[str, str]:
    """The shards whose metadata contradicts the place they lie in, with the reason."""
    said_hours = {"hour": hour.isoformat(), "hour_z": hour.isoformat().replace("+00:00", "Z")}
    expected = {"version": str(schema.SHARD_VERSION), "cluster": cluster, **said_hours}
    known = {row[0] for row in con.execute(_METADATA, {"files": paths, **expected}).fetchall()}
    suspects = [path for path in paths if path not in known]
    reasons = ((path, _contradiction(con, path, cluster, hour)) for path in suspects)
    return {path: why for path, why in reasons if why}


def _crowds(con: duckdb.DuckDBPyConnection, paths: list[str]) -> dict[str, str]:
    """The shards that say that they hold more rows than a shard may; none, where one of them cannot even be asked."""
    from hpccarbon.duck import duckdb

    counted = "SELECT file_name FROM parquet_file_metadata($files) WHERE num_rows > $most OR num_rows < 0"
    try:
        found = con.execute(counted, {"files": paths, "most": MAX_SHARD_ROWS}).fetchall()
    except duckdb.FatalException:
        raise
    except duckdb.Error:
        return {}
    return {row[0]: _TOO_MANY_ROWS for row in found}


@contextlib.contextmanager
def _patience(con: duckdb.DuckDBPyConnection, files: int) -> Iterator[None]:
    """Interrupt what the engine does in this block, if it takes longer than so many shards ever should."""
    timer = threading.Timer(PATIENCE_S + files * PATIENCE_PER_SHARD_S, con.interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def metadata(con: duckdb.DuckDBPyConnection, path: str) -> dict[str, str]:
    """The file's own metadata, keys without the prefix. Raises duckdb.Error."""
    prefix = f"{schema.PRODUCED_BY}."
    rows = con.execute("SELECT key, value FROM parquet_kv_metadata($files)", {"files": [path]}).fetchall()
    pairs = {bytes(key).decode("utf-8", "replace"): bytes(value).decode("utf-8", "replace") for key, value in rows}
    return {key.removeprefix(prefix): value for key, value in pairs.items() if key.startswith(prefix)}


def _contradiction(con: duckdb.DuckDBPyConnection, path: str, cluster: str, hour: datetime) -> str:
    said = metadata(con, path)
    try:
        said_hour = datetime.fromisoformat(said.get("hour", "").replace("Z", "+00:00"))
    except ValueError:
        said_hour = None
    name = f"{said.get('node')}.{said.get('boot_id')}.parquet"
    checks = (
        (said.get("schema") == "shard", "no shard of hpccarbon (its metadata has no hpccarbon.schema = shard)"),
        (
            said.get("version") == str(schema.SHARD_VERSION),
            f"schema version {said.get('version')}, this release reads {schema.SHARD_VERSION}"
            " (upgrade hpccarbon here: docs/install.md, Upgrade)",
        ),
        (said.get("cluster") == cluster, f"written for cluster {said.get('cluster')!r}, lies under {cluster!r}"),
        (said_hour == hour, f"written for hour {said.get('hour')!r}, lies under {hour.isoformat()}"),
        (name == os.path.basename(path), f"it calls itself {name!r}"),  # noqa: PTH119 - a str all the way
    )
    return next((message for holds, message in checks if not holds), "")


def _judge(con: duckdb.DuckDBPyConnection, hour: datetime) -> dict[int, str]:
    """The shards whose rows cannot be trusted: number -> reason."""
    first_us = int(hour.timestamp()) * 1_000_000
    components = len(schema.ENERGY_COLUMNS)
    bad: dict[int, str] = {}
    for file, *verdict in con.execute(_JUDGE, {"first_us": first_us}).fetchall():
        flags, absurd_sums, sums = verdict[:9], verdict[9 : 9 + components], verdict[9 + components :]
        reasons = (
            f"a name of more than {MAX_TEXT} bytes",
            "a column that must not be null holds nulls",
            "a holder that is neither job, system, unallocated nor meter",
            "a job row without job id or run",
            "rows outside of its hour",
            "negative values",
            "absurd values (a row above 10 GJ or longer than a day)",
            "a row covered for longer than it was present",
            _TOO_MANY_ROWS,
        )
        why = next((text for flag, text in zip(flags, reasons, strict=True) if flag), "")
        if not why and any(absurd_sums):
            why = "absurd values (more than 100 GJ in one hour)"
        if not why:
            why = _loss(sums)
        if why:
            bad[file] = why
    return bad


def _loss(sums: Sequence[Any]) -> str:
    """Where shares and meters differ: the first component whose energy does not add up."""
    for name, shares, meters in zip(schema.ENERGY_COLUMNS, sums[::2], sums[1::2], strict=True):
        if shares != meters:
            return f"energy does not add up: {name} of all holders is {shares}, of the meters {meters}"
    return ""


def holding(con: duckdb.DuckDBPyConnection, files: Sequence[ShardFile], condition: str) -> list[ShardFile]:
    """The shards with rows for which the SQL condition holds; all of them, where one cannot even be asked."""
    from hpccarbon.duck import duckdb

    sql = f"SELECT DISTINCT filename FROM read_parquet($files, hive_partitioning = false) WHERE {condition}"  # noqa: S608
    plain = [file.path for file in files if file.size != NO_FILE]
    if not plain:
        return list(files)
    try:
        found = {row[0] for row in con.execute(sql, {"files": plain}).fetchall()}
    except duckdb.Error:
        return list(files)
    return [file for file in files if file.path in found or file.size == NO_FILE]


def load_minutes(
    con: duckdb.DuckDBPyConnection,
    files: Sequence[ShardFile],
    since: datetime | None,
    until: datetime | None,
    *,
    by_bucket: bool,
) -> None:
    """Replace `grouped` by the rows of these good shards within [since, until), with a column bucket_us if asked."""
    con.execute("ALTER TABLE grouped ADD COLUMN bucket_us BIGINT")
    con.execute("DELETE FROM grouped")
    if not files:
        return
    conditions = [
        f"bucket {sign} to_timestamp({moment.timestamp()!r})"
        for sign, moment in ((">=", since), ("<", until))
        if moment is not None
    ]
    bucket = "epoch_us(bucket)" if by_bucket else "NULL::BIGINT"
    con.execute(
        f"INSERT INTO grouped BY NAME SELECT $nodes[file_index::BIGINT + 1] AS node, {_KEYS}, {_SUMS}, {_MAXIMA},"  # noqa: S608
        f" epoch_us(min(bucket)) AS first_us, epoch_us(max(bucket)) AS last_us, {bucket} AS bucket_us"
        f" FROM read_parquet($files, hive_partitioning = false)"
        f" WHERE {' AND '.join(conditions) or 'true'} GROUP BY ALL",
        {"nodes": [file.node for file in files], "files": [file.path for file in files]},
    )
