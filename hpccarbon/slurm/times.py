"""Reads times and lengths as people write them for Slurm (`--time`, `--begin`, `--deadline`). Asks no clock."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

_LIMIT = (
    (re.compile(r"(\d{1,6})"), (0, 0, 1, 0)),
    (re.compile(r"(\d{1,6}):(\d{1,6})"), (0, 0, 1, 2)),
    (re.compile(r"(\d{1,6}):(\d{1,6}):(\d{1,6})"), (0, 1, 2, 3)),
    (re.compile(r"(\d{1,6})-(\d{1,6})"), (1, 2, 0, 0)),
    (re.compile(r"(\d{1,6})-(\d{1,6}):(\d{1,6})"), (1, 2, 3, 0)),
    (re.compile(r"(\d{1,6})-(\d{1,6}):(\d{1,6}):(\d{1,6})"), (1, 2, 3, 4)),
)
"""Each form and which of its groups are days, hours, minutes and seconds (0: none)."""
_NOW = re.compile(r"now(?:\+(\d{1,6})\s*(second|minute|hour|day|week)?s?)?", re.IGNORECASE)
_DATE = re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2})(?:T(\d{1,2}):(\d{2})(?::(\d{2}))?)?")
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?")
_HOURS = {"midnight": 0, "noon": 12, "elevenses": 11, "fika": 15, "teatime": 16}
LONGEST = timedelta(days=365)
"""A limit above it is none for us."""


def limit(text: str) -> timedelta | None:
    """A time limit: `90`, `90:00`, `1:30:00`, `1-0`, `1-0:30`, `1-0:30:00`. None: none, or not to be read."""
    for form, groups in _LIMIT:
        if found := form.fullmatch(text.strip()):
            days, hours, minutes, seconds = (int(found[group]) if group else 0 for group in groups)
            return min(timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds), LONGEST)
    return None


def moment(text: str, now: datetime) -> datetime | None:
    """When `--begin` or `--deadline` means: `2026-03-01T14:30`, `16:00`, `now+2hours`, `tomorrow`, `teatime`, ...

    Args:
        now: aware; words and clock times are meant in its zone, as sbatch means them in the zone of the shell.

    Returns: aware; None where the form is not one of these.
    """
    word = text.strip()
    if found := _NOW.fullmatch(word):
        amount, unit = int(found[1] or 0), (found[2] or "second").lower()
        return now + min(timedelta(**{f"{unit}s": amount}), LONGEST)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    lowered = word.lower()
    if lowered in ("today", "tomorrow"):
        return midnight + timedelta(days=lowered == "tomorrow")
    try:
        if found := _DATE.fullmatch(word):
            year, month, day, hour, minute, second = (int(part or 0) for part in found.groups())
            return datetime(year, month, day, hour, minute, second, tzinfo=now.tzinfo)
        if lowered in _HOURS:
            at = midnight.replace(hour=_HOURS[lowered])
        elif found := _CLOCK.fullmatch(word):
            hour, minute, second = (int(part or 0) for part in found.groups())
            at = midnight.replace(hour=hour, minute=minute, second=second)
        else:
            return None
    except ValueError:
        return None
    # A time of day that is over is tomorrow's.
    return at if at > now else at + timedelta(days=1)
