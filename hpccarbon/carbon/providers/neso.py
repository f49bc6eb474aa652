"""NESO's Carbon Intensity API: Great Britain by the half hour, and its regions. Direct emissions, no key.

Nationally the past is an estimated actual and the future a forecast; a region has forecasts alone, for the past too,
and they stay labelled as such. Terms: CC BY 4.0.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

from hpccarbon.carbon.providers.base import Basis, Fetched, listed, mapped, moment, number, spans, within
from hpccarbon.carbon.providers.http import Malformed, ProviderError, client
from hpccarbon.carbon.series import Origin, Point
from hpccarbon.config import Provider
from hpccarbon.errors import ConfigError

NATIONAL = "neso_national"
REGIONAL = "neso_regional"
BASE_URL = "https://api.carbonintensity.org.uk"
SPAN = timedelta(days=13)
"""14 days at once; one less, because the first half hour may begin before what was asked for."""
_REGION = re.compile(r"GB-NESO-([1-9]|1[0-7])")
_POSTCODE = re.compile(r"[A-Z]{1,2}[0-9][A-Z0-9]?")


class NesoNational:
    """Great Britain without Northern Ireland."""

    name = NATIONAL

    def __init__(
        self, given: Provider, basis: Basis, now: datetime, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        _direct_only(NATIONAL, basis)
        self._client = client(NATIONAL, given, BASE_URL, sleep)
        self._given = given

    def fetch(self, zone: str, since: datetime, until: datetime) -> Fetched:
        """See `base.Service`."""
        if (self._given.zones.get(zone, zone)) != "GB":
            raise ProviderError(f"{NATIONAL}: has GB alone, not {zone} (regions: {REGIONAL})")
        points: list[Point] = []
        for begin, end in spans(since, until, SPAN):
            reply = mapped(self._client.get_json(f"/intensity/{_iso(begin)}/{_iso(end)}"), NATIONAL, "the reply")
            for row in listed(reply.get("data"), NATIONAL, "data"):
                points += _half_hour(row, NATIONAL)
        source = "NESO Carbon Intensity API, GB"
        return Fetched(within(points, since, until), Origin(NATIONAL, source, "CC-BY-4.0", "direct"))

    def forecast(self, zone: str, now: datetime) -> Fetched:
        """See `base.Service`: two days."""
        return self.fetch(zone, now, now + timedelta(hours=48))


class NesoRegional:
    """Regions 1 to 17: a zone named `GB-NESO-13`, or any that `zones` gives a number or a postcode."""

    name = REGIONAL

    def __init__(
        self, given: Provider, basis: Basis, now: datetime, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        _direct_only(REGIONAL, basis)
        self._client = client(REGIONAL, given, BASE_URL, sleep)
        self._given = given

    def fetch(self, zone: str, since: datetime, until: datetime) -> Fetched:
        """See `base.Service`. Every point is a forecast: the service publishes no actual for a region."""
        word, wanted = _place(self._given.zones.get(zone, zone))
        points: list[Point] = []
        region = ""
        for begin, end in spans(since, until, SPAN):
            path = f"/regional/intensity/{_iso(begin)}/{_iso(end)}/{word}/{wanted}"
            data = mapped(self._client.get_json(path), REGIONAL, "the reply").get("data")
            # An object for a range, a list around it for the current half hour.
            for found in data if isinstance(data, list) else [data]:
                place = mapped(found, REGIONAL, "data")
                answered = str(place.get("regionid" if word == "regionid" else "postcode", wanted))
                if answered != wanted:
                    raise Malformed(f"{REGIONAL}: asked for {word} {wanted}, answered for {answered[:20]!r}")
                region = str(place.get("shortname", ""))[:40]
                for row in listed(place.get("data"), REGIONAL, "data.data"):
                    points += _half_hour(row, REGIONAL)
        source = f"NESO Carbon Intensity API, {region or zone} (regional forecasts)"
        return Fetched(within(points, since, until), Origin(REGIONAL, source, "CC-BY-4.0", "direct"))

    def forecast(self, zone: str, now: datetime) -> Fetched:
        """See `base.Service`: two days."""
        return self.fetch(zone, now, now + timedelta(hours=48))


def _direct_only(name: str, basis: Basis) -> None:
    if basis != "direct":
        raise ConfigError(f"{name} publishes direct emissions: set carbon.basis = direct, or use another provider")


def _place(text: str) -> tuple[str, str]:
    """The part of the path that names a region: `regionid`, `13` or `postcode`, `OX11`."""
    found = _REGION.fullmatch(text)
    if found:
        return "regionid", found[1]
    if text.isdigit() and 1 <= int(text) <= 17:
        return "regionid", str(int(text))
    outward = text.strip().upper().partition(" ")[0]
    if _POSTCODE.fullmatch(outward) and outward != "GB":
        return "postcode", outward
    raise ConfigError(
        f"{REGIONAL}: {text!r} is no region: name the zone GB-NESO-1 to GB-NESO-17, or set "
        f"carbon.providers.{REGIONAL}.zones.{text} to a region's number or the first part of a postcode"
    )


def _half_hour(row: Any, service: str) -> list[Point]:
    """A row's point: the actual, else the forecast, labelled; none where both are null."""
    item = mapped(row, service, "data[]")
    intensity = mapped(item.get("intensity"), service, "intensity")
    start, end = moment(item.get("from"), service), moment(item.get("to"), service)
    if not 0 < end - start <= 3600:
        raise Malformed(f"{service}: a period from {item.get('from')!r} to {item.get('to')!r}, expected half an hour")
    actual = number(intensity.get("actual"), service, "intensity.actual")
    if actual is not None:
        return [Point(start, end, actual, "measured")]
    forecast = number(intensity.get("forecast"), service, "intensity.forecast")
    return [] if forecast is None else [Point(start, end, forecast, "forecast")]


def _iso(at: datetime) -> str:
    return at.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%MZ")
