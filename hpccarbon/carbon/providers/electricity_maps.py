"""Electricity Maps: average intensity of what a zone consumes, hourly, life cycle or direct. Needs a key.

Requests: /carbon-intensity/{history,past-range,forecast} of v3 (v4 answers the same fields: set base_url).
Terms: by contract; replies may not be passed on. The free plan has the last 24 hours of one zone.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

from hpccarbon.carbon.providers.base import Basis, Fetched, listed, mapped, moment, number, spans, within
from hpccarbon.carbon.providers.http import Malformed, Refused, client, need_key
from hpccarbon.carbon.series import Origin, Point
from hpccarbon.config import Provider
from hpccarbon.units import HOUR_S

NAME = "electricity_maps"
BASE_URL = "https://api.electricitymaps.com/v3"
SPAN = timedelta(days=10)
"""What past-range answers at once by the hour."""
STEPS = {"5_minutes": 300, "15_minutes": 900, "hourly": HOUR_S}


class ElectricityMaps:
    """See the module. `now` decides whether the free plan's history suffices."""

    name = NAME

    def __init__(
        self, given: Provider, basis: Basis, now: datetime, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._client = client(NAME, given, BASE_URL, sleep)
        self._headers = {"auth-token": need_key(NAME, given)}
        self._basis: Basis = basis
        last = self._client.base_url.rpartition("/")[2]
        self._version = last if re.fullmatch(r"v\d+", last) else ""
        self._given = given
        self._now = now

    def fetch(self, zone: str, since: datetime, until: datetime) -> Fetched:
        """See `base.Service`."""
        points: list[Point] = []
        if since >= self._now - timedelta(hours=24):
            points = self._ask("history", zone, "history", {})
        else:
            for begin, end in spans(since, until, SPAN):
                query = {"start": _iso(begin), "end": _iso(end), "temporalGranularity": "hourly"}
                try:
                    points += self._ask("past-range", zone, "data", query)
                except Refused as err:
                    if err.status in (401, 403):
                        hint = "the free plan has the last 24 hours only: --since 24h"
                        raise Refused(f"{err} ({hint})", err.status) from None
                    raise
        return Fetched(within(points, since, until), self._origin())

    def forecast(self, zone: str, now: datetime) -> Fetched:
        """See `base.Service`."""
        points = [point._replace(kind="forecast") for point in self._ask("forecast", zone, "forecast", {})]
        return Fetched(points, self._origin())

    def _origin(self) -> Origin:
        return Origin(NAME, "Electricity Maps, consumption mix", "contract", self._basis, edition=self._version)

    def _ask(self, what: str, zone: str, key: str, more: dict[str, str]) -> list[Point]:
        theirs = self._given.zones.get(zone, zone)
        query = {
            "zone": theirs,
            "emissionFactorType": self._basis,
            "disableEstimations": "false",
            # Without a zone it knows the service answers for the caller's own address.
            "disableCallerLookup": "true",
            **more,
        }
        path = f"/carbon-intensity/{what}"
        try:
            reply = mapped(self._client.get_json(path, query, self._headers, secret=True), NAME, "the reply")
        except Refused as err:
            if err.status == 404:  # "no-data": an answer
                return []
            raise
        self._same(reply, theirs)
        step = STEPS.get(str(reply.get("temporalGranularity", "hourly")))
        if step is None:
            raise Malformed(f"{NAME}: steps of {str(reply['temporalGranularity'])[:20]!r}, expected hourly or finer")
        points = []
        for row in listed(reply.get(key), NAME, key):
            item = mapped(row, NAME, f"{key}[]")
            self._same(item, theirs)
            value = number(item.get("carbonIntensity"), NAME, "carbonIntensity")
            start = moment(item.get("datetime"), NAME)
            if value is not None:
                kind = "estimated" if item.get("isEstimated") else "measured"
                points.append(Point(start, start + step, value, kind))  # type: ignore[arg-type]
        return points

    def _same(self, item: dict[str, Any], theirs: str) -> None:
        """The reply is of the zone and the basis that were asked for. Raises: Malformed."""
        if item.get("zone", theirs) != theirs:
            raise Malformed(f"{NAME}: asked for zone {theirs}, answered for {str(item['zone'])[:40]!r}")
        if item.get("emissionFactorType", self._basis) != self._basis:
            found = str(item["emissionFactorType"])[:20]
            raise Malformed(f"{NAME}: asked for {self._basis} factors, answered {found!r}")


def _iso(at: datetime) -> str:
    return at.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
