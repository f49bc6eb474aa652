"""What every service's module gives and may rely on: the protocol, spans of time, and checks of what was answered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, Literal, NamedTuple, Protocol

from hpccarbon.carbon.providers.http import Malformed
from hpccarbon.carbon.series import MAX_G_PER_KWH, Origin, Point


class Fetched(NamedTuple):
    """What a service knows of a zone: points within the span asked for, where from, and what to tell the operator."""

    points: list[Point]
    origin: Origin
    notes: tuple[str, ...] = ()


class Service(Protocol):
    """One service. `needs_key` and `about` are for `hpccarbon intensity providers`."""

    name: str

    def fetch(self, zone: str, since: datetime, until: datetime) -> Fetched:
        """What is known from `since` to `until` (aware, `until` not included).

        An empty list is "the service has nothing": never a zero. A span may hold forecasts; each point says so.

        Raises: ProviderError, ConfigError.
        """

    def forecast(self, zone: str, now: datetime) -> Fetched:
        """What is forecast from `now` (aware) on; no points where the service has no forecast."""


Basis = Literal["lifecycle", "direct"]


def spans(since: datetime, until: datetime, length: timedelta) -> Iterator[tuple[datetime, datetime]]:
    """The time from `since` to `until` in parts that a service answers at once, in UTC."""
    begin, end = since.astimezone(timezone.utc), until.astimezone(timezone.utc)
    while begin < end:
        stop = min(begin + length, end)
        yield begin, stop
        begin = stop


def within(points: Sequence[Point], since: datetime, until: datetime) -> list[Point]:
    """The points that begin in the span: services round its ends outward."""
    first, last = since.timestamp(), until.timestamp()
    return [point for point in points if first <= point.start < last]


def number(value: Any, service: str, what: str) -> float | None:
    """An intensity as the service wrote it; None for null. Raises: Malformed for anything else, or out of any range."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= MAX_G_PER_KWH:
        raise Malformed(f"{service}: {what} is {str(value)[:40]!r}, expected a number from 0 to {MAX_G_PER_KWH:.0f}")
    return float(value)


def moment(text: Any, service: str) -> int:
    """Seconds since 1970 of an ISO 8601 time with Z or an offset. Raises: Malformed, if it has neither."""
    if isinstance(text, str):
        try:
            # Python 3.10 reads neither Z nor fractions of other than 3 or 6 digits.
            parsed = datetime.fromisoformat(_plain_iso(text))
        except ValueError:
            parsed = None
        if parsed is not None and parsed.tzinfo is not None:
            return round(parsed.timestamp())
    raise Malformed(f"{service}: {str(text)[:40]!r} is no time with an offset")


def listed(value: Any, service: str, what: str) -> list[Any]:
    """A JSON list. Raises: Malformed."""
    if not isinstance(value, list):
        raise Malformed(f"{service}: {what} is {type(value).__name__}, expected a list")
    return value


def mapped(value: Any, service: str, what: str) -> dict[str, Any]:
    """A JSON object. Raises: Malformed."""
    if not isinstance(value, dict):
        raise Malformed(f"{service}: {what} is {type(value).__name__}, expected an object")
    return value


def _plain_iso(text: str) -> str:
    text = text.strip()
    if text[-1:] in ("Z", "z"):
        text = f"{text[:-1]}+00:00"
    whole, dot, rest = text.partition(".")
    if dot:
        digits = len(rest) - len(rest.lstrip("0123456789"))
        text = whole + rest[digits:]
    return text
