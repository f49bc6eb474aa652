"""RTE eCO2mix through ODRE: direct emissions of French generation, real time and consolidated. No key.

Terms: Licence Ouverte 2.0. Imports are not counted. Rows of the future and every other quarter hour of the consolidated
set hold null: nulls are no values.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

from hpccarbon.carbon.providers.base import Basis, Fetched, listed, mapped, moment, number, spans, within
from hpccarbon.carbon.providers.http import Malformed, ProviderError, client, key_of
from hpccarbon.carbon.series import Kind, Origin, Point
from hpccarbon.config import Provider
from hpccarbon.errors import ConfigError

NAME = "rte_eco2mix"
BASE_URL = "https://odre.opendatasoft.com/api/explore/v2.1"
REAL_TIME = "eco2mix-national-tr"
CONSOLIDATED = "eco2mix-national-cons-def"
REAL_TIME_DAYS = 28
"""The real-time set holds about a month."""
PAGE = 100
MAX_OFFSET = 10_000
SPAN = timedelta(days=90)
LONGEST_S = 1800


class RteEco2mix:
    """See the module. What is older than four weeks comes from the consolidated set."""

    name = NAME

    def __init__(
        self, given: Provider, basis: Basis, now: datetime, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        if basis != "direct":
            raise ConfigError(f"{NAME} publishes direct emissions: set carbon.basis = direct, or use another provider")
        self._client = client(NAME, given, BASE_URL, sleep)
        self._key = key_of(NAME, given)
        self._given = given
        self._now = now

    def fetch(self, zone: str, since: datetime, until: datetime) -> Fetched:
        """See `base.Service`."""
        if (self._given.zones.get(zone, zone)) != "FR":
            raise ProviderError(f"{NAME}: has FR alone, not {zone}")
        border = self._now - timedelta(days=REAL_TIME_DAYS)
        points: list[Point] = []
        for begin, end in spans(since, min(until, max(border, since)), SPAN):
            points += _points(self._export(begin, end), "measured")
        for begin, end in spans(max(since, border), until, SPAN):
            # Real-time values are corrected later by the consolidated ones.
            points += _points(self._pages(begin, end), "estimated")
        origin = Origin(NAME, "RTE eCO2mix, generation in France", "Licence-Ouverte-2.0", "direct")
        return Fetched(within(points, since, until), origin)

    def forecast(self, zone: str, now: datetime) -> Fetched:
        """See `base.Service`: the data set has none."""
        return Fetched([], Origin(NAME, "RTE eCO2mix", "Licence-Ouverte-2.0", "direct"))

    def _query(self, begin: datetime, end: datetime) -> dict[str, str]:
        query = {
            "select": "date_heure,taux_co2",
            "where": f"date_heure >= '{_iso(begin)}' and date_heure < '{_iso(end)}'",
            "order_by": "date_heure",
            "timezone": "UTC",
        }
        return {**query, "apikey": self._key} if self._key else query

    def _export(self, begin: datetime, end: datetime) -> list[Any]:
        path = f"/catalog/datasets/{CONSOLIDATED}/exports/json"
        return listed(self._client.get_json(path, self._query(begin, end), secret=bool(self._key)), NAME, "the reply")

    def _pages(self, begin: datetime, end: datetime) -> list[Any]:
        path = f"/catalog/datasets/{REAL_TIME}/records"
        rows: list[Any] = []
        while len(rows) + PAGE <= MAX_OFFSET:
            query = {**self._query(begin, end), "limit": str(PAGE), "offset": str(len(rows))}
            reply = mapped(self._client.get_json(path, query, secret=bool(self._key)), NAME, "the reply")
            page = listed(reply.get("results"), NAME, "results")
            rows += page
            total = reply.get("total_count")
            if not page or not isinstance(total, int) or len(rows) >= total:
                break
        return rows


def _points(rows: list[Any], kind: Kind) -> list[Point]:
    """Rows with a value; each holds until the next one, half an hour at most."""
    found: dict[int, float] = {}
    for row in rows:
        item = mapped(row, NAME, "results[]")
        if "taux_co2" not in item:
            raise Malformed(f"{NAME}: a row without taux_co2")
        value = number(item["taux_co2"], NAME, "taux_co2")
        start = moment(item.get("date_heure"), NAME)
        if value is not None:
            found[start] = value
    starts = sorted(found)
    ends = [*starts[1:], (starts[-1] + LONGEST_S if len(starts) < 2 else 2 * starts[-1] - starts[-2])] if starts else []
    return [
        Point(start, min(end, start + LONGEST_S), found[start], kind) for start, end in zip(starts, ends, strict=True)
    ]


def _iso(at: datetime) -> str:
    return at.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
