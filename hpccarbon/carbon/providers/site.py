"""The site's own intensities: a CSV or Parquet file, the same CSV over HTTP, or Prometheus. Nothing is guessed.

CSV: `start,zone,intensity_gco2e_per_kwh` and, if wanted, `basis`, `method` (average, marginal), `kind` (actual or
measured, estimated, forecast). `start` is the beginning of the interval with Z or an offset; it lasts until the next
row of the zone, an hour at most. An empty value is not known, never 0.
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

from hpccarbon.carbon.providers.base import Basis, Fetched, listed, mapped, moment, number, spans, within
from hpccarbon.carbon.providers.http import Malformed, Refused, client, key_of
from hpccarbon.carbon.series import Kind, Origin, Point
from hpccarbon.config import Provider
from hpccarbon.errors import CarbonError, ConfigError
from hpccarbon.units import HOUR_S

NAME = "site_http"
VALUE = "intensity_gco2e_per_kwh"
_KINDS: Mapping[str, Kind] = {
    "": "measured",
    "actual": "measured",
    "measured": "measured",
    "estimated": "estimated",
    "forecast": "forecast",
}
MAX_POINTS = 11_000
"""What Prometheus answers at most for one series."""


class SiteHttp:
    """`base_url` answers the CSV; or, where `query` is set, is Prometheus, and the query gives one series.

    `basis` and `kind` (average, marginal) are the site's own statement and have no default.
    """

    name = NAME

    def __init__(
        self, given: Provider, basis: Basis, now: datetime, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        if not given.base_url:
            raise ConfigError(f"carbon.providers.{NAME}.base_url: name the address of the CSV, or of Prometheus")
        if given.basis != basis:
            raise ConfigError(
                f"carbon.providers.{NAME}.basis: state lifecycle or direct; {basis} was asked for"
                f"{f', it says {given.basis}' if given.basis else ''}"
            )
        self._client = client(NAME, given, given.base_url, sleep)
        self._key = key_of(NAME, given)
        self._given = given
        self._basis: Basis = basis

    def fetch(self, zone: str, since: datetime, until: datetime) -> Fetched:
        """See `base.Service`."""
        theirs = self._given.zones.get(zone, zone)
        points = self._prometheus(theirs, since, until) if self._given.query else self._csv(theirs)
        return Fetched(within(points, since, until), self._origin())

    def forecast(self, zone: str, now: datetime) -> Fetched:
        """See `base.Service`: what the CSV calls a forecast."""
        points = [] if self._given.query else self._csv(self._given.zones.get(zone, zone))
        return Fetched(
            [point for point in points if point.kind == "forecast" and point.end > now.timestamp()], self._origin()
        )

    def _origin(self) -> Origin:
        return Origin(NAME, f"the site's own ({self._client.host})", "the site's own", self._basis, self._given.kind)

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._key}"} if self._key else {}

    def _csv(self, zone: str) -> list[Point]:
        body = self._client.get("", headers={"Accept": "text/csv", **self._headers()}, secret=bool(self._key))
        try:
            text = body.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise Malformed(f"{NAME}: {self._client.host} did not answer UTF-8 text") from None
        rows = parse_csv(text, f"{NAME} {self._client.host}")
        stated = {"basis": self._basis, "method": self._given.kind}
        return points_of(rows, zone, stated, f"{NAME} {self._client.host}")

    def _prometheus(self, zone: str, since: datetime, until: datetime) -> list[Point]:
        points: list[Point] = []
        first = since.astimezone(timezone.utc).replace(minute=0, second=0, microsecond=0)
        for begin, end in spans(first, until, timedelta(hours=MAX_POINTS - 1)):
            query = {
                "query": self._given.query,
                "start": begin.strftime("%Y-%m-%dT%H:%M:%SZ"),
                # Both ends are included: the next part begins with this one's end.
                "end": (end - timedelta(seconds=1)).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "step": str(HOUR_S),
            }
            try:
                reply = self._client.get_json("/api/v1/query_range", query, self._headers(), secret=bool(self._key))
            except Refused as err:
                raise Refused(f"{err} (check carbon.providers.{NAME}.query)", err.status) from None
            points += _matrix(reply, zone)
        return points


def _matrix(reply: Any, zone: str) -> list[Point]:
    body = mapped(reply, NAME, "the reply")
    if body.get("status") != "success":
        raise Malformed(f"{NAME}: Prometheus says {str(body.get('error', body.get('status')))[:200]!r}")
    data = mapped(body.get("data"), NAME, "data")
    if data.get("resultType") != "matrix":
        raise Malformed(f"{NAME}: a {str(data.get('resultType'))[:20]!r} instead of a matrix")
    result = listed(data.get("result"), NAME, "data.result")
    if len(result) > 1:
        raise Malformed(f"{NAME}: the query gives {len(result)} series; one is an intensity, several are not their sum")
    points = []
    for found in result:
        one = mapped(found, NAME, "data.result[]")
        label = mapped(one.get("metric", {}), NAME, "metric").get("zone", zone)
        if label != zone:
            raise Malformed(f"{NAME}: asked for zone {zone}, the series is of {str(label)[:40]!r}")
        for pair in listed(one.get("values"), NAME, "values"):
            if not isinstance(pair, list) or len(pair) != 2 or isinstance(pair[0], bool):
                raise Malformed(f"{NAME}: {str(pair)[:40]!r} is no pair of time and value")
            try:
                at, value = int(float(pair[0])), float(pair[1])
            except (TypeError, ValueError, OverflowError):
                raise Malformed(f"{NAME}: {str(pair)[:40]!r} is no pair of time and value") from None
            if math.isfinite(value):  # NaN and Inf are not known
                g_per_kwh = number(value, NAME, "a value")
                points += [] if g_per_kwh is None else [Point(at, at + HOUR_S, g_per_kwh, "measured")]
    return points


def parse_csv(text: str, where: str) -> list[dict[str, str]]:
    """The rows of the CSV. Raises: CarbonError naming `where` and what is missing."""
    reader = csv.DictReader(text.splitlines())
    try:
        missing = [name for name in ("start", VALUE) if name not in (reader.fieldnames or ())]
        if missing:
            raise CarbonError(f"{where}: no column {' and no column '.join(missing)} (expected start,zone,{VALUE})")
        return [{key: (value or "").strip() for key, value in row.items() if key} for row in reader]
    except csv.Error as err:
        raise CarbonError(f"{where}: is no CSV ({err})") from err


def read_file(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV or Parquet file (by its ending) as text. Raises: CarbonError naming the file and the reason."""
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            return _parquet(path)
        return parse_csv(path.read_text(encoding="utf-8-sig"), str(path))
    except OSError as err:
        raise CarbonError(f"cannot read {path}: {err.strerror or err}") from err
    except UnicodeDecodeError:
        raise CarbonError(f"cannot read {path}: it is neither CSV in UTF-8 nor named .parquet") from None


def _parquet(path: Path) -> list[dict[str, str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as file:
            rows = pq.read_table(file).to_pylist()
    except pa.ArrowException as err:
        raise CarbonError(f"cannot read {path}: {str(err).splitlines()[0][:200]}") from err
    if rows and not {"start", VALUE} <= rows[0].keys():
        raise CarbonError(f"{path}: expected columns start and {VALUE}")
    return [{key: _cell(value) for key, value in row.items()} for row in rows]


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return value.isoformat() if isinstance(value, datetime) else str(value)


def zones_of(rows: Iterable[Mapping[str, str]]) -> list[str]:
    """The zones that the rows name, in their order."""
    return list(dict.fromkeys(row["zone"] for row in rows if row.get("zone")))


def points_of(rows: Iterable[Mapping[str, str]], zone: str, stated: Mapping[str, str], where: str) -> list[Point]:
    """The points of one zone: each row until the next, an hour at most.

    Args:
        rows: as `parse_csv` gives them; a row without a zone is meant for `zone`.
        stated: basis and method that the rows must not contradict.

    Raises: CarbonError naming the row (the header is row 1) and what is wrong with it.
    """
    found: dict[int, tuple[float | None, Kind]] = {}
    for line, row in enumerate(rows, start=2):
        if row.get("zone", zone) not in ("", zone):
            continue
        try:
            start = moment(row["start"], "")
        except CarbonError:
            raise CarbonError(
                f"{where}, row {line}: start {row['start'][:40]!r} is no time with Z or an offset "
                "(write 2026-11-20T12:00:00Z)"
            ) from None
        for name, expected in stated.items():
            if row.get(name, expected) not in ("", expected):
                raise CarbonError(f"{where}, row {line}: {name} is {row[name][:20]!r}, but {expected!r} is being read")
        kind = _KINDS.get(row.get("kind", ""))
        if kind is None:
            raise CarbonError(
                f"{where}, row {line}: kind {row['kind'][:20]!r} is none of {', '.join(filter(None, _KINDS))}"
            )
        text = row[VALUE]
        try:
            value = number(float(text), where, VALUE) if text else None
        except (ValueError, CarbonError):
            raise CarbonError(f"{where}, row {line}: {VALUE} is {text[:40]!r}, expected 0 to 5000 or nothing") from None
        if start in found and found[start] != (value, kind):
            raise CarbonError(f"{where}, row {line}: a second value for {row['start'][:40]}")
        found[start] = (value, kind)
    starts = sorted(found)
    ends = [min(after, start + HOUR_S) for start, after in pairwise(starts)]
    if starts:
        ends.append(starts[-1] + min(HOUR_S, min((b - a for a, b in pairwise(starts)), default=HOUR_S)))
    return [
        Point(start, end, value, kind)
        for start, end in zip(starts, ends, strict=True)
        for value, kind in [found[start]]
        if value is not None
    ]
