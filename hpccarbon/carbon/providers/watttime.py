"""WattTime v3: marginal intensity (co2_moer) of grid regions by five minutes. Needs an account; never in a total.

The average signal (co2_aoer), where it is sold, is asked for with `query = "co2_aoer"`. Values are lb CO2 per MWh.
Terms: by contract. The model's date is the data's edition: a new model rewrites the past.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

from hpccarbon.carbon.providers.base import Basis, Fetched, listed, mapped, moment, spans, within
from hpccarbon.carbon.providers.http import Malformed, Refused, client, need_key
from hpccarbon.carbon.series import MAX_G_PER_KWH, Kind, Origin, Point, Signal
from hpccarbon.config import Provider
from hpccarbon.errors import ConfigError

NAME = "watttime"
BASE_URL = "https://api.watttime.org"
SPAN = timedelta(days=30)
G_PER_KWH = 0.45359237
"""g/kWh of one lb/MWh (the pound is defined as 0.45359237 kg)."""
UNITS = "lbs_co2_per_mwh"
LONGEST_S = 3600


class WattTime:
    """See the module. The zone is a WattTime region (`CAISO_NORTH`), or one that `zones` of its section gives."""

    name = NAME

    def __init__(
        self, given: Provider, basis: Basis, now: datetime, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        if not given.user:
            raise ConfigError(f"{NAME}: set carbon.providers.{NAME}.user, and its password in key_file")
        self._client = client(NAME, given, BASE_URL, sleep)
        self._login = base64.b64encode(f"{given.user}:{need_key(NAME, given)}".encode()).decode()
        self._signal = given.query or "co2_moer"
        if self._signal not in ("co2_moer", "co2_aoer"):
            raise ConfigError(f"carbon.providers.{NAME}.query: co2_moer (marginal) or co2_aoer (average)")
        self._given = given
        self._token = ""

    def fetch(self, zone: str, since: datetime, until: datetime) -> Fetched:
        """See `base.Service`."""
        points: list[Point] = []
        editions: dict[str, None] = {}
        notes: dict[str, None] = {}
        for begin, end in spans(since, until, SPAN):
            found, edition, warned = self._ask("/v3/historical", zone, "measured", start=_iso(begin), end=_iso(end))
            points += found
            editions[edition] = None
            notes.update(dict.fromkeys(warned))
        return Fetched(within(points, since, until), self._origin(", ".join(filter(None, editions))), tuple(notes))

    def forecast(self, zone: str, now: datetime) -> Fetched:
        """See `base.Service`: a day."""
        points, edition, notes = self._ask("/v3/forecast", zone, "forecast", horizon_hours="24")
        return Fetched(points, self._origin(edition), tuple(notes))

    def _origin(self, edition: str) -> Origin:
        signal: Signal = "marginal" if self._signal == "co2_moer" else "average"
        return Origin(NAME, f"WattTime, {signal}", "contract", "direct", signal, edition)

    def _ask(self, path: str, zone: str, kind: Kind, **more: str) -> tuple[list[Point], str, list[str]]:
        region = self._given.zones.get(zone, zone)
        query = {"region": region, "signal_type": self._signal, **more}
        reply = mapped(self._authorized(path, query), NAME, "the reply")
        meta = mapped(reply.get("meta"), NAME, "meta")
        for name, asked in (("region", region), ("signal_type", self._signal), ("units", UNITS)):
            if meta.get(name, asked) != asked:
                raise Malformed(f"{NAME}: asked for {name} {asked}, answered {str(meta[name])[:40]!r}")
        if meta.get("units") is None:
            raise Malformed(f"{NAME}: the reply does not say in which unit its values are")
        step = meta.get("data_point_period_seconds", 300)
        if isinstance(step, bool) or not isinstance(step, int) or not 0 < step <= LONGEST_S:
            raise Malformed(f"{NAME}: steps of {str(step)[:20]!r} s")
        points = []
        for row in listed(reply.get("data"), NAME, "data"):
            item = mapped(row, NAME, "data[]")
            start = moment(item.get("point_time"), NAME)
            value = _grams(item.get("value"))
            if value is not None:
                points.append(Point(start, start + step, value, kind))
        model = meta.get("model")
        warnings = meta.get("warnings")
        told = [
            str(one.get("message", ""))[:200]
            for one in (warnings if isinstance(warnings, list) else [])
            if isinstance(one, dict)
        ]
        edition = str(model.get("date", ""))[:40] if isinstance(model, dict) else ""
        return points, edition, [f"{NAME} warns: {text}" for text in told if text]

    def _authorized(self, path: str, query: dict[str, str]) -> Any:
        """The reply; the token lives for half an hour, so a refusal is answered with one more login."""
        if self._token:
            try:
                return self._with_token(path, query)
            except Refused as err:
                if err.status != 401:
                    raise
        reply = self._client.get_json("/login", headers={"Authorization": f"Basic {self._login}"}, secret=True)
        token = mapped(reply, NAME, "the reply to the login").get("token")
        if not isinstance(token, str) or not token or not token.isascii() or not token.isprintable():
            raise Malformed(f"{NAME}: the login brought no token")
        self._token = token
        return self._with_token(path, query)

    def _with_token(self, path: str, query: dict[str, str]) -> Any:
        return self._client.get_json(path, query, {"Authorization": f"Bearer {self._token}"}, secret=True)


def _grams(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value * G_PER_KWH <= MAX_G_PER_KWH:
        raise Malformed(f"{NAME}: a value of {str(value)[:40]!r} lb/MWh")
    return value * G_PER_KWH


def _iso(at: datetime) -> str:
    return at.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%MZ")
