"""Hourly intensities of a zone as Parquet, every fetch kept as a revision. Decides nothing about missing hours.

    intensity/ZONE/average.lifecycle/2026-11/20261123T081502000000Z.energy_charts.parquet

One directory per month, one file per fetch with what was new or changed in it, never edited. Each row carries when it
was fetched, so many files are packed into one without losing a revision, and `as_of` shows what was known at a moment.
Marginal intensities lie apart (`marginal.direct`): what adds up totals never opens them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Literal, NamedTuple

from hpccarbon.carbon.zones import check_name
from hpccarbon.errors import CarbonError
from hpccarbon.schema import Column
from hpccarbon.units import HOUR_S

Kind = Literal["measured", "estimated", "forecast"]
KINDS: tuple[Kind, ...] = ("measured", "estimated", "forecast")
"""From the best to the last."""
Signal = Literal["average", "marginal"]
MIN_COVERED_S = HOUR_S // 2
"""Less than half of an hour is not the hour's mean."""
MAX_G_PER_KWH = 5_000.0
"""No grid emits more; a larger figure is in another unit."""
PACK_AT = 24
"""How many files a month may have before they are packed into one."""
VERSION = 1

INTENSITY: tuple[Column, ...] = (
    Column("hour", "hour", False, "UTC hour", "start of the hour"),
    Column("g_per_kwh", "float64", False, "g CO2e/kWh", "mean of the hour by time"),
    Column("covered_s", "int32", False, "s", "how much of the hour the source spoke of"),
    Column("kind", "word", False, "", "measured, estimated or forecast, as the source says"),
    Column("provider", "word", False, "", "which service or file"),
    Column("source", "word", False, "", "how a report names it"),
    Column("licence", "word", False, "", "under which terms"),
    Column("edition", "word", False, "", "the source's version of its data or model; empty where it has none"),
    Column("fetched_at", "microsecond", False, "UTC", "when this revision was fetched"),
)
"""A row of a series: one hour in one revision."""


class Point(NamedTuple):
    """An intensity over a time that the source chose: `start` and `end` in s since 1970, UTC."""

    start: int
    end: int
    g_per_kwh: float
    kind: Kind


class Origin(NamedTuple):
    """What all points of one fetch have in common."""

    provider: str
    source: str
    licence: str
    basis: Literal["lifecycle", "direct"]
    signal: Signal = "average"
    edition: str = ""


class Hour(NamedTuple):
    """One hour of a series as it is known: the mean over `covered_s` of it."""

    g_per_kwh: float
    covered_s: int
    kind: Kind
    provider: str
    source: str
    licence: str
    edition: str


class Appended(NamedTuple):
    """What a fetch brought: hours that were not known, hours that changed, hours that were known already."""

    new: int
    changed: int
    same: int


class Loaded(NamedTuple):
    """The hours of some months by s since 1970, and the files that could not be read."""

    hours: dict[int, Hour]
    faults: list[CarbonError]


def room(series_dir: Path, zone: str, basis: str, signal: Signal = "average") -> Path:
    """Where a zone's series of one basis lies. Raises: CarbonError, if the zone cannot name a directory."""
    return series_dir / check_name(zone) / f"{signal}.{basis}"


def to_hours(points: Iterable[Point]) -> dict[int, tuple[float, int, Kind]]:
    """Points of any length as hours: the mean by time, the seconds covered, the weakest kind among them.

    Two points of the same start are one: the later in the list (sources repeat an hour to correct it). What overlaps
    otherwise counts up to where the next point begins.

    Raises: CarbonError, if a value is not a number from 0 to 5000.
    """
    by_start = {point.start: point for point in points}
    ordered = [by_start[start] for start in sorted(by_start)]
    sums: dict[int, tuple[float, int, int]] = {}
    for index, point in enumerate(ordered):
        value = point.g_per_kwh
        if not 0 <= value <= MAX_G_PER_KWH:  # False for NaN too
            raise CarbonError(f"an intensity of {value} at {_iso(point.start)} is none; expected 0 to 5000 g CO2e/kWh")
        end = min(point.end, ordered[index + 1].start) if index + 1 < len(ordered) else point.end
        begin = point.start
        while begin < end:
            hour = begin - begin % HOUR_S
            stop = min(end, hour + HOUR_S)
            weight, covered, worst = sums.get(hour, (0.0, 0, 0))
            sums[hour] = (
                weight + value * (stop - begin),
                covered + stop - begin,
                max(worst, KINDS.index(point.kind)),
            )
            begin = stop
    return {hour: (weight / covered, covered, KINDS[worst]) for hour, (weight, covered, worst) in sums.items()}


def append(series_dir: Path, zone: str, points: Iterable[Point], origin: Origin, fetched_at: datetime) -> Appended:
    """Keep what a fetch brought as a revision; hours it says the same of as this provider's last word are left out.

    Args:
        fetched_at: aware; the moment `as_of` compares with.

    Returns: how many hours were new, changed, the same.
    Raises: CarbonError, if a value is impossible or the directory cannot be written.
    """
    if fetched_at.tzinfo is None:
        raise ValueError("fetched_at is naive")
    hours = {hour: value for hour, value in to_hours(points).items() if value[1] >= MIN_COVERED_S}
    where = room(series_dir, zone, origin.basis, origin.signal)
    by_month: dict[str, list[int]] = {}
    for hour in sorted(hours):
        by_month.setdefault(month_of(hour), []).append(hour)
    new = changed = 0
    for month, its_hours in by_month.items():
        # A forecast does not stand behind the measured value that it was followed by: each kind has its last word.
        last = _last_words(where / month, origin.provider)
        fresh = [hour for hour in its_hours if last.get((hour, hours[hour][2])) != _comparable(hours[hour])]
        known = {hour for hour, _ in last}
        new += sum(hour not in known for hour in fresh)
        changed += sum(hour in known for hour in fresh)
        if fresh:
            _write(where / month, [(hour, *hours[hour]) for hour in fresh], origin, fetched_at)
            _pack(where / month)
    return Appended(new, changed, len(hours) - new - changed)


def load(where: Path, months: Iterable[str], as_of: datetime | None = None, provider: str = "") -> Loaded:
    """The hours of these months as they were known at `as_of` (None: now).

    Of several words on an hour the best stands: anything before a forecast, then the preferred provider, then
    measured before estimated, a whole hour before a part of one, the newest fetch. It depends on the hour alone, so
    every report of an hour uses the same value.

    Args:
        where: `room(...)`.
        months: `2026-11`, ...
        provider: whose word goes first.
    """
    for _ in range(3):  # a file that was packed since it was listed is found in the pack
        files = [path for month in sorted(set(months)) for path in _files(where / month)]
        if not files:
            return Loaded({}, [])
        try:
            return Loaded(_query(files, as_of, provider), [])
        except CarbonError:
            continue
    good, faults = _judged(files)
    return Loaded(_query(good, as_of, provider) if good else {}, faults)


def months_of(where: Path) -> list[str]:
    """The months that a series has, in order."""
    try:
        with os.scandir(where) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as err:
        raise CarbonError(f"cannot list {where}: {err.strerror or err}") from err


def month_of(hour: int) -> str:
    """The directory of an hour (s since 1970): its UTC month, `2026-11`."""
    return datetime.fromtimestamp(hour, timezone.utc).strftime("%Y-%m")


def _comparable(value: tuple[float, int, Kind]) -> tuple[float, int]:
    return round(value[0], 6), value[1]


def _files(month: Path) -> list[Path]:
    try:
        return sorted(path for path in month.iterdir() if path.suffix == ".parquet" and path.name[0] != ".")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as err:
        raise CarbonError(f"cannot list {month}: {err.strerror}") from err


def _write(month: Path, rows: Sequence[tuple[Any, ...]], origin: Origin, fetched_at: datetime) -> None:
    import pyarrow as pa

    stamp = pa.scalar(fetched_at, pa.timestamp("us", tz="UTC"))
    count = len(rows)
    words = {name: pa.array([getattr(origin, name)] * count) for name in ("provider", "source", "licence", "edition")}
    table = pa.table(
        {
            "hour": pa.array([row[0] for row in rows], pa.timestamp("s", tz="UTC")),
            "g_per_kwh": pa.array([row[1] for row in rows], pa.float64()),
            "covered_s": pa.array([row[2] for row in rows], pa.int32()),
            "kind": pa.array([row[3] for row in rows]),
            **words,
            "fetched_at": pa.array([stamp] * count),
        }
    )
    _store(month, f"{fetched_at.astimezone(timezone.utc):%Y%m%dT%H%M%S%fZ}.{check_name(origin.provider)}", table)


def _store(month: Path, name: str, table: Any) -> None:
    """A Parquet file that appears whole or not at all, beside one of the same name if there is one."""
    import pyarrow.parquet as pq

    table = table.replace_schema_metadata({"hpccarbon.schema": "intensity", "hpccarbon.version": str(VERSION)})
    try:
        month.mkdir(parents=True, exist_ok=True)
        path, again = month / f"{name}.parquet", 1
        while path.exists():
            path, again = month / f"{name}.{again}.parquet", again + 1
        temporary = month / f".{path.name}.{os.getpid()}.tmp"
        try:
            pq.write_table(table, temporary, compression="zstd")
            descriptor = os.open(temporary, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as err:
        raise CarbonError(
            f"cannot write below {month}: {err.strerror or err} (run it as the user that owns the directory)"
        ) from err


def _pack(month: Path) -> None:
    """Many files into one with every revision.

    Two that pack at once leave duplicates, which mean nothing, and never a hole: a pack has a name of its own, and only
    what went into it is removed.
    """
    files = _files(month)
    if len(files) < PACK_AT:
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pa.concat_tables([pq.ParquetFile(path).read() for path in files])
    except (OSError, pa.ArrowException):
        return  # a file that cannot be read is named by who reads it; nothing is removed
    keys = [(name, "ascending") for name in ("hour", "provider", "kind", "fetched_at")]
    _store(month, f"packed.{datetime.now(timezone.utc):%Y%m%dT%H%M%S%fZ}", table.sort_by(keys))
    for path in files:
        path.unlink(missing_ok=True)


_COLUMNS = "g_per_kwh, covered_s, kind, provider, source, licence, edition"
_BEST = f"""
SELECT epoch("hour")::BIGINT, {_COLUMNS}
FROM read_parquet($files, union_by_name := true)
WHERE fetched_at <= $as_of
QUALIFY row_number() OVER (PARTITION BY "hour" ORDER BY
    kind = 'forecast', provider <> $provider, kind <> 'measured', covered_s < 3600, fetched_at DESC, provider,
    g_per_kwh) = 1
"""  # noqa: S608 - the columns are ours
_LAST = """
SELECT epoch("hour")::BIGINT, kind, g_per_kwh, covered_s
FROM read_parquet($files, union_by_name := true)
WHERE provider = $provider
QUALIFY row_number() OVER (PARTITION BY "hour", kind ORDER BY fetched_at DESC, g_per_kwh) = 1
"""
_PROBE = """
SELECT sum(g_per_kwh), sum(covered_s), count(kind), count(provider), count(source), count(licence), count(edition),
    max(epoch("hour")), max(epoch(fetched_at))
FROM read_parquet($files)
"""
_END_OF_TIME = datetime(9999, 1, 1, tzinfo=timezone.utc)


def _query(files: Sequence[Path], as_of: datetime | None, provider: str) -> dict[int, Hour]:
    rows = _ask(_BEST, files, {"as_of": as_of or _END_OF_TIME, "provider": provider})
    return {row[0]: Hour(*row[1:]) for row in rows}


def _last_words(month: Path, provider: str) -> dict[tuple[int, str], tuple[float, int]]:
    for _ in range(3):
        files = _files(month)
        if not files:
            return {}
        try:
            rows = _ask(_LAST, files, {"provider": provider})
        except CarbonError:
            files, _faults = _judged(files)
            rows = _ask(_LAST, files, {"provider": provider}) if files else []
        return {(hour, kind): (round(g_per_kwh, 6), covered) for hour, kind, g_per_kwh, covered in rows}
    return {}


def _ask(sql: str, files: Sequence[Path], parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
    from hpccarbon.duck import SETTINGS, duckdb

    with duckdb.connect(":memory:", config={**SETTINGS, "threads": 1}) as connection:
        try:
            connection.execute("SET TimeZone = 'UTC'")
            return connection.execute(sql, {"files": [str(path) for path in files], **parameters}).fetchall()
        except duckdb.Error as err:
            raise CarbonError(f"cannot read the intensities: {str(err).splitlines()[0][:300]}") from err


def _judged(files: Sequence[Path]) -> tuple[list[Path], list[CarbonError]]:
    """The files that can be read, and why the others cannot."""
    good, faults = [], []
    for path in files:
        try:
            _ask(_PROBE, [path], {})
            good.append(path)
        except CarbonError as err:
            if path.exists():
                faults.append(CarbonError(f"cannot use {path}: {err} (remove it and fetch its month again)"))
    return good, faults


def _iso(at_s: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=at_s)).strftime("%Y-%m-%dT%H:%MZ")
