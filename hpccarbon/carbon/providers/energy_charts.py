"""Energy-Charts (Fraunhofer ISE): what a European country's generation emitted, by the quarter hour. No key.

The service limits strictly and without publishing how: two seconds between requests, half a minute after a 429.
Terms: CC BY 4.0.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from hpccarbon.carbon.providers.base import Basis, Fetched, listed, mapped, number, spans, within
from hpccarbon.carbon.providers.http import Malformed, Refused, client
from hpccarbon.carbon.series import Origin, Point
from hpccarbon.config import Provider
from hpccarbon.errors import ConfigError
from hpccarbon.units import HOUR_S

NAME = "energy_charts"
BASE_URL = "https://api.energy-charts.info"
SPAN = timedelta(days=90)
DISTANCE_S = 2.0
FIRST_WAIT_S = 30.0


class EnergyCharts:
    """See the module."""

    name = NAME

    def __init__(
        self, given: Provider, basis: Basis, now: datetime, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        if basis != "lifecycle":
            raise ConfigError(f"{NAME} publishes life-cycle emissions: set carbon.basis = lifecycle, or use another")
        self._client = client(NAME, given, BASE_URL, sleep, distance_s=DISTANCE_S, first_wait_s=FIRST_WAIT_S)
        self._given = given

    def fetch(self, zone: str, since: datetime, until: datetime) -> Fetched:
        """See `base.Service`."""
        points: list[Point] = []
        notes: dict[str, None] = {}
        for begin, end in spans(since, until, SPAN):
            # Days are local to the country: ask for one more on each side and cut.
            query = {
                "start": (begin - timedelta(days=1)).strftime("%Y-%m-%d"),
                "end": (end + timedelta(days=1)).strftime("%Y-%m-%d"),
            }
            reply = self._ask("/co2eq", zone, query)
            if reply is None:
                continue
            if reply.get("deprecated") is True:
                notes["energy_charts says that this interface is being retired"] = None
            points += within(_points(reply, ("co2eq", "co2eq_forecast")), begin, end)
        return Fetched(within(points, since, until), self._origin(), tuple(notes))

    def forecast(self, zone: str, now: datetime) -> Fetched:
        """See `base.Service`."""
        reply = self._ask("/co2eq_forecast", zone, {})
        points = _points(reply, ("co2eq_forecast",)) if reply is not None else []
        return Fetched([point for point in points if point.end > now.timestamp()], self._origin())

    def _origin(self) -> Origin:
        return Origin(NAME, "Energy-Charts (Fraunhofer ISE), generation", "CC-BY-4.0", "lifecycle")

    def _ask(self, path: str, zone: str, query: dict[str, str]) -> dict[str, Any] | None:
        country = (self._given.zones.get(zone, zone)).lower()
        try:
            return mapped(self._client.get_json(path, {"country": country, **query}), NAME, "the reply")
        except Refused as err:
            if err.status == 404:  # "no content available": an answer
                return None
            raise


def _points(reply: dict[str, Any], names: tuple[str, ...]) -> list[Point]:
    """The parallel arrays as points; where both arrays have a value the actual stands. Raises: Malformed."""
    stamps = listed(reply.get("unix_seconds"), NAME, "unix_seconds")
    columns = {name: listed(reply.get(name), NAME, name) for name in names}
    for name, values in columns.items():
        if len(values) != len(stamps):
            raise Malformed(f"{NAME}: {len(values)} values of {name} for {len(stamps)} times")
    for stamp in stamps:
        if isinstance(stamp, bool) or not isinstance(stamp, (int, float)) or not 0 < stamp < 1e11:
            raise Malformed(f"{NAME}: {str(stamp)[:40]!r} is no time in seconds")
    times = sorted({int(stamp) for stamp in stamps})
    step = min((after - before for before, after in pairwise(times)), default=HOUR_S)
    points = []
    for index, stamp in enumerate(stamps):
        for name in names:
            value = number(columns[name][index], NAME, name)
            if value is not None:
                kind = "forecast" if name.endswith("forecast") else "measured"
                start = int(stamp)
                points.append(Point(start, start + min(step, HOUR_S), value, kind))  # type: ignore[arg-type]
                break
    return points
